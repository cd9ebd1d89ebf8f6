/**
 * What a session has made on the target, as its journal knows it: the one list by which a session that is aborted, and one that
 * an agent before this one left, are undone.
 */
import * as z from "zod";
import { RUNTIME } from "../../core/preflight-hosts.ts";
import { tryAll } from "../../core/errors.ts";
import { containerId, type ContainerId, type MigrationId } from "../../core/ids.ts";
import type { Engine } from "../../docker/engine.ts";
import { discardImage, type ImportedImage } from "../../docker/images.ts";
import { restartPolicy, type RestartPolicy } from "../../docker/inspect.ts";
import { discardContainer } from "../../docker/lifecycle.ts";
import { unless } from "../../docker/transport.ts";
import { clearTree } from "../../rootfs/remove.ts";
import type { Journal } from "../journal.ts";
import { discardStaged } from "./staged-folder.ts";

const made = z.object({
  networks: z.array(z.string()).default([]),
  /** Every volume that is to be written, and whether it was created for that: one that was not had nothing that anybody needs. */
  volumes: z.array(z.object({ name: z.string(), created: z.boolean() })).default([]),
  image: z.object({ id: z.string(), added: z.boolean(), tags: z.array(z.string()) }).optional(),
  /** Name of the container that was to be created next: it may be there without our knowing its id. */
  expected: z.string().optional(),
  container: z.string().transform(containerId).optional(),
  /** What the container is to have once it belongs to this host. */
  restartPolicy: restartPolicy.optional(),
  /** Whether its tasks run with all of their memory. */
  isWhole: z.boolean().default(false),
});
type Things = z.infer<typeof made>;

/** The things of one session; each is journalled before it is made. */
export class Made {
  readonly #journal: Journal;
  readonly #id: MigrationId;
  #things: Things;

  /** Reads what the journal knows of the session. */
  constructor(journal: Journal, id: MigrationId) {
    this.#journal = journal;
    this.#id = id;
    this.#things = made.parse(journal.get(id).detail);
  }

  get container(): ContainerId | undefined {
    return this.#things.container;
  }

  get restartPolicy(): RestartPolicy | undefined {
    return this.#things.restartPolicy;
  }

  get isWhole(): boolean {
    return this.#things.isWhole;
  }

  get hasAddedImage(): boolean {
    return this.#things.image?.added === true;
  }

  addNetwork(name: string): void {
    this.#note({ networks: [...this.#things.networks, name] });
  }

  addVolume(name: string, created: boolean): void {
    this.#note({ volumes: [...this.#things.volumes, { name, created }] });
  }

  addImage(image: ImportedImage): void {
    this.#note({ image: { ...image, tags: [...image.tags] } });
  }

  expectContainer(name: string): void {
    this.#note({ expected: name });
  }

  addContainer(container: ContainerId, policy: RestartPolicy): void {
    this.#note({ container, restartPolicy: policy });
  }

  runsWhole(): void {
    this.#note({ isWhole: true });
  }

  /**
   * Removes all of it, the newest kind first; what is gone already counts as removed. The container must not run here. One thing that
   * can't be removed does not keep the others: throws when all were tried, and what is left stays in the journal.
   */
  async undo(engine: Engine): Promise<void> {
    const { expected, image, volumes, networks } = this.#things;
    const container = this.container ?? (expected === undefined ? undefined : await findNeverStarted(engine, expected));
    await tryAll([
      ...(container === undefined ? [] : [() => discardHeld(engine, container)]),
      // An anonymous volume, for one, goes with its container.
      ...volumes.map((volume) => () => discardVolume(engine, volume).catch(unless(404))),
      ...networks.map((network) => () => engine.removeNetwork(network).catch(unless(403, 404))), // 403: others use it
      ...(image === undefined ? [] : [() => discardImage(engine, image)]),
    ]);
  }

  #note(change: Partial<Things>): void {
    this.#things = { ...this.#things, ...change };
    this.#journal.note(this.#id, this.#things);
  }
}

/** A container of that name that was created to be restored into, and never started. */
async function findNeverStarted(engine: Engine, name: string): Promise<ContainerId | undefined> {
  for (const { Id } of await engine.listContainers({ all: true, filters: { name: [`^/${name}$`], status: ["created"] } })) {
    const found = await engine.inspectContainer(Id).catch(unless(404));
    if (found?.HostConfig["Runtime"] === RUNTIME) return containerId(Id);
  }
  return undefined;
}

async function discardHeld(engine: Engine, container: ContainerId): Promise<void> {
  await discardStaged(container, () => discardContainer(engine, container, { volumes: true }));
}

async function discardVolume(engine: Engine, { name, created }: Things["volumes"][number]): Promise<void> {
  if (created) await engine.removeVolume(name);
  else clearTree((await engine.inspectVolume(name)).Mountpoint);
}
