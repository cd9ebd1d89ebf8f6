/**
 * The source's side of the container's files: all of them while it runs, again what changed, and the last difference in the freeze.
 */
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError } from "../../core/errors.ts";
import type { ContainerDescription } from "../../docker/description.ts";
import type { Engine } from "../../docker/engine.ts";
import { outputPipes } from "../../docker/log-entries.ts";
import { LogHistory, logPlace } from "../../docker/log-files.ts";
import { unreadBytes } from "../../kernel/pipes.ts";
import { parseMountinfo } from "../../kernel/mountinfo.ts";
import { TreeSource } from "../../rootfs/tree-source.ts";
import { CHANNELS, treeChannel, type ChannelKind } from "../channels.ts";
import { idMapOfProcess } from "../id-maps.ts";
import { sendAll, type Channel } from "../link.ts";
import { treeSubjects, type TreeSubject } from "../trees.ts";
import { paced, type Pace } from "./pace.ts";

/** Rounds go on while they send more than this: what the last running round sends is about what the freeze will. */
const SETTLED_BYTES = 1024 * 1024;
const RUNNING_ROUNDS_MAX = 4;
/** The dump takes about as long. A pipe that is not the engine's, but one to another frozen process, is not read at all. */
const READ_LIMIT_MS = 150;

/** Opens a channel for one stream, its bytes counted as files. */
type OpenChannel = (kind: ChannelKind) => Promise<Channel>;

/** The files of one container on its way. */
export class SourceFiles implements AsyncDisposable {
  readonly #trees: readonly TreeSource[];
  readonly #log: LogHistory | undefined;
  /** Through these what the container prints reaches the log. */
  readonly #pipes: readonly string[];
  readonly #open: OpenChannel;

  private constructor(trees: readonly TreeSource[], log: LogHistory | undefined, pipes: readonly string[], open: OpenChannel) {
    this.#trees = trees;
    this.#log = log;
    this.#pipes = pipes;
    this.#open = open;
  }

  /** Finds the container's trees and its log. Nothing is read yet. */
  static async of(engine: Engine, description: ContainerDescription, initPid: number, open: OpenChannel): Promise<SourceFiles> {
    const ids = await idMapOfProcess(initPid);
    const roots = await Promise.all(treeSubjects(description).map((subject) => rootOf(engine, subject, initPid)));
    const { DockerRootDir } = await engine.info();
    const place = logPlace(DockerRootDir, description.id, description.hostConfig.LogConfig.Type);
    const trees = roots.map((root, index) => new TreeSource({ kind: index === 0 ? "upper" : "plain", root }, ids));
    const pipes = [`/proc/${initPid}/fd/1`, `/proc/${initPid}/fd/2`, ...Object.values(outputPipes(description.id))];
    return new SourceFiles(trees, place === undefined ? undefined : new LogHistory(place), pipes, open);
  }

  /** Copies everything while the container runs, until little changes from one round to the next. */
  async copy(pace: Pace): Promise<void> {
    for (const index of this.#trees.keys()) {
      for (let round = 0; round < RUNNING_ROUNDS_MAX; round++) {
        const channel = await this.#open(treeChannel(index, false));
        await this.#round(channel, index, pace);
        if (channel.counts.sent <= SETTLED_BYTES) break;
      }
    }
    if (this.#log === undefined) return;
    const channel = await this.#open(CHANNELS.logFiles);
    await sendAll(channel, paced(pace, this.#log.files()));
    await channel.close();
  }

  /** Copies what has changed since, just before the freeze, whose work it would be else. */
  async catchUp(pace: Pace): Promise<void> {
    for (const index of this.#trees.keys()) await this.#round(await this.#open(treeChannel(index, false)), index, pace);
  }

  /** Opens what the freeze will need, so that no connection is made in the downtime. */
  async prepareLast(): Promise<LastRound> {
    const channels = await Promise.all([...this.#trees.keys()].map((index) => this.#open(treeChannel(index, true))));
    const logChannel = this.#log === undefined ? undefined : await this.#open(CHANNELS.logOutput);
    return {
      send: async () => {
        await Promise.all([untilRead(this.#pipes), ...channels.map((channel, index) => this.#round(channel, index))]);
        if (this.#log === undefined || logChannel === undefined) return;
        await sendAll(logChannel, this.#log.output());
        await logChannel.close();
      },
    };
  }

  /** @param pace of a container that runs; the round of one that is frozen has none */
  async #round(channel: Channel, index: number, pace?: Pace): Promise<void> {
    const tree = this.#trees[index];
    if (tree === undefined) throw new DmigrateError("INTERNAL", `There is no tree ${index}; report this as a bug`);
    const bytes = pace === undefined ? tree.round({ frozen: true }) : paced(pace, tree.round({ frozen: false, turn: () => pace.turn() }));
    await sendAll(channel, bytes);
    await channel.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#log?.[Symbol.asyncDispose]();
  }
}

/** What a container printed last is still on its way to the engine when it is frozen: waits until that has all of it. */
async function untilRead(pipes: readonly string[]): Promise<void> {
  const deadline = performance.now() + READ_LIMIT_MS;
  while (pipes.some((pipe) => unreadBytes(pipe) > 0) && performance.now() < deadline) await sleep(1);
}

/** The last difference, to be sent while the container is frozen. Throws VERIFY_FAILED if the target's files then differ. */
export interface LastRound {
  readonly send: () => Promise<void>;
}

async function rootOf(engine: Engine, subject: TreeSubject, initPid: number): Promise<string> {
  switch (subject.kind) {
    case "rootfs":
      return await upperDirectory(initPid);
    case "volume":
      return (await engine.inspectVolume(subject.volume.name)).Mountpoint;
  }
}

/** The upper directory of the container's root, from its own mount table: so it does not matter how the engine stores images. */
async function upperDirectory(initPid: number): Promise<string> {
  const mounts = parseMountinfo(await readFile(`/proc/${initPid}/mountinfo`, "utf8"));
  const root = mounts.findLast((mount) => mount.path === "/");
  const upper = root?.options.split(",").find((option) => option.startsWith("upperdir="));
  if (upper === undefined) {
    throw new DmigrateError("ROOTFS", "The container's root is no overlay; only engines that store images on overlayfs are supported");
  }
  return upper.slice("upperdir=".length);
}
