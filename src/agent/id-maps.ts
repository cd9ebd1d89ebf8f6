/**
 * How a container's user and group ids lie on this host's disk: on the source read from its processes, on the target, where there are none
 * yet, from the engine.
 */
import { readFile } from "node:fs/promises";
import type { ContainerDescription } from "../docker/description.ts";
import type { Engine } from "../docker/engine.ts";
import type { IdMap, IdRange } from "../rootfs/id-map.ts";

/** Ids in a remapped container's range (dockerd's `userns-remap` maps as many as /etc/subuid grants, 65536 unless changed). */
const ID_COUNT = 65_536;

/** The map of a running container; undefined if its ids are the host's. */
export async function idMapOfProcess(pid: number): Promise<IdMap | undefined> {
  const [uids, gids] = await Promise.all(
    ["uid_map", "gid_map"].map(async (file) => rangesOf(await readFile(`/proc/${pid}/${file}`, "utf8"))),
  );
  if (uids === undefined || gids === undefined || (isIdentity(uids) && isIdentity(gids))) return undefined;
  return { uids, gids };
}

/** The map that this engine gives the container; undefined if its ids are the host's. */
export async function idMapOfEngine(engine: Engine, { hostConfig }: ContainerDescription): Promise<IdMap | undefined> {
  const { DockerRootDir } = await engine.info();
  // With userns-remap the engine keeps everything below a folder named after the first ids (dockerd(8)).
  const [, uid, gid] = /\/(\d+)\.(\d+)$/.exec(DockerRootDir) ?? [];
  if (uid === undefined || gid === undefined || hostConfig["UsernsMode"] === "host") return undefined;
  return { uids: [rangeFrom(uid)], gids: [rangeFrom(gid)] };
}

function rangeFrom(first: string): IdRange {
  return { container: 0, host: Number(first), count: ID_COUNT };
}

/** Who the container's root is on this host. */
export async function rootOfEngine(
  engine: Engine,
  description: ContainerDescription,
): Promise<{ readonly uid: number; readonly gid: number }> {
  const ids = await idMapOfEngine(engine, description);
  return { uid: ids?.uids[0]?.host ?? 0, gid: ids?.gids[0]?.host ?? 0 };
}

/** Lines of /proc/PID/uid_map (user_namespaces(7)). */
function rangesOf(text: string): IdRange[] {
  return text
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => {
      const [container = 0, host = 0, count = 0] = line.trim().split(/\s+/).map(Number);
      return { container, host, count };
    });
}

function isIdentity(ranges: readonly IdRange[]): boolean {
  return ranges.every(({ container, host }) => container === host);
}
