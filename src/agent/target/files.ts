/**
 * The target's side of the container's files: rounds are written through a mounted overlay, never into the layer itself; before the
 * container is started through a mount of our own, afterwards through the engine's.
 */
import { execFile } from "node:child_process";
import { mkdir, readFile, rm } from "node:fs/promises";
import { promisify } from "node:util";
import path from "node:path";
import * as z from "zod";
import { DmigrateError, messageOf } from "../../core/errors.ts";
import type { ContainerId } from "../../core/ids.ts";
import type { ContainerDescription } from "../../docker/description.ts";
import type { Engine } from "../../docker/engine.ts";
import { outputPipes, replayOutput } from "../../docker/log-entries.ts";
import { applyLogFiles, logPlace } from "../../docker/log-files.ts";
import { clearTree } from "../../rootfs/remove.ts";
import type { Tree } from "../../rootfs/scan.ts";
import { TreeTarget } from "../../rootfs/tree-target.ts";
import { idMapOfEngine } from "../id-maps.ts";
import { treeSubjects } from "../trees.ts";

const graphDriver = z.looseObject({ GraphDriver: z.looseObject({ Data: z.looseObject({ UpperDir: z.string() }) }) });

interface TargetTree {
  readonly target: TreeTarget;
  /** Where it is written to at the moment. */
  mountedAt: string;
}

/** The files of one container that has been created and does not run. What it mounts goes with the migration's folder. */
export class TargetFiles {
  readonly #description: ContainerDescription;
  readonly #container: ContainerId;
  readonly #dockerRoot: string;
  readonly #trees: readonly TargetTree[];
  /** Our own mount of the writable layer. */
  #ownMount: OwnMount | undefined;

  private constructor(
    description: ContainerDescription,
    container: ContainerId,
    dockerRoot: string,
    trees: readonly TargetTree[],
    ownMount: OwnMount,
  ) {
    this.#description = description;
    this.#container = container;
    this.#dockerRoot = dockerRoot;
    this.#trees = trees;
    this.#ownMount = ownMount;
  }

  /**
   * Makes the container's trees ready to be written; volumes become empty, for they will be what the source's are.
   * @param folder a folder of this migration
   */
  static async open(engine: Engine, description: ContainerDescription, container: ContainerId, folder: string): Promise<TargetFiles> {
    const { DockerRootDir } = await engine.info();
    const ids = await idMapOfEngine(engine, description);
    const { GraphDriver } = graphDriver.parse(await engine.inspectContainer(container));
    const ownMount = await mountOverlay(GraphDriver.Data.UpperDir, path.join(folder, "rootfs"));
    const trees: TargetTree[] = [];
    for (const subject of treeSubjects(description)) {
      const tree: Tree =
        subject.kind === "rootfs"
          ? { kind: "upper", root: GraphDriver.Data.UpperDir }
          : { kind: "plain", root: (await engine.inspectVolume(subject.volume.name)).Mountpoint };
      if (tree.kind === "plain") clearTree(tree.root);
      trees.push({ target: new TreeTarget(tree, ids), mountedAt: tree.kind === "upper" ? ownMount.path : tree.root });
    }
    return new TargetFiles(description, container, DockerRootDir, trees, ownMount);
  }

  /** How many trees there are; each has a channel. */
  get treeCount(): number {
    return this.#trees.length;
  }

  /** Applies a round to a tree. */
  async apply(index: number, stream: AsyncIterable<Uint8Array>): Promise<void> {
    const tree = this.#trees[index];
    if (tree === undefined)
      throw new DmigrateError(
        "PROTOCOL",
        `The source sent a tree ${index} that the container does not have; update both agents to the same release`,
      );
    await tree.target.apply(stream, tree.mountedAt);
  }

  /** Takes the log history. The engine must not have opened the log yet. */
  async applyLogFiles(stream: AsyncIterable<Uint8Array>): Promise<void> {
    const place = logPlace(this.#dockerRoot, this.#container, this.#description.hostConfig.LogConfig.Type);
    if (place !== undefined) await applyLogFiles(place, stream);
  }

  /** Takes what was printed since, while the container is held. What it returns is to be disposed of when the container has started. */
  replayOutput(stream: AsyncIterable<Uint8Array>): Promise<Disposable> {
    return replayOutput(outputPipes(this.#container), stream);
  }

  /** Gives the writable layer to the engine, which is about to mount it. */
  async release(): Promise<void> {
    if (this.#ownMount === undefined) return;
    const { path: mountPoint, workDir } = this.#ownMount;
    await promisify(execFile)("umount", [mountPoint]);
    await rm(mountPoint, { recursive: true });
    await rm(workDir, { recursive: true });
    this.#ownMount = undefined;
  }

  /** Goes on through the engine's mount of the writable layer. */
  continueAt(rootfs: string): void {
    const [tree] = this.#trees;
    if (tree !== undefined) tree.mountedAt = rootfs;
  }
}

interface OwnMount {
  readonly path: string;
  readonly workDir: string;
}

/**
 * Mounts a container's layers as the engine does: by short relative names, since the list may not exceed a page (moby's overlay2). With a
 * work directory of its own, next to the engine's: whoever tries to start the container has the engine mount them too, and a mount empties
 * its work directory (overlayfs, `ovl_workdir_create`).
 */
async function mountOverlay(upper: string, at: string): Promise<OwnMount> {
  const layer = path.dirname(upper);
  const store = path.dirname(layer);
  const workDir = path.join(layer, "dmigrate");
  for (const folder of [at, workDir]) await mkdir(folder, { recursive: true, mode: 0o700 });
  const lower = (await readFile(path.join(layer, "lower"), "utf8")).trim();
  const options = `lowerdir=${lower},upperdir=${upper},workdir=${workDir},index=off,redirect_dir=off,metacopy=off`;
  try {
    await promisify(execFile)("mount", ["-t", "overlay", "overlay", "-o", options, at], { cwd: store });
    return { path: at, workDir };
  } catch (error) {
    throw new DmigrateError(
      "ROOTFS",
      `Could not mount the new container's layers at ${at}: ${messageOf(error)}; is overlayfs available`,
      error,
    );
  }
}
