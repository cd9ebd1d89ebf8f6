/**
 * What a migration that something breaks is tried on: a redis with a volume and one client that notices everything, on two hosts, and what
 * must hold once the migration was undone.
 */
import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { until, type Host } from "../../lab/host.ts";
import type { Lab } from "../../lab/lab.ts";
import type { ClientProcess } from "../../lab/workloads/client-control.ts";
import type { RedisClientResult } from "../../lab/workloads/client-result.ts";
import type { MigrationId } from "../../src/core/ids.ts";
import { hasEnded } from "../../src/core/journal-states.ts";
import {
  assertClean,
  assertNothingOfRunc,
  assertRuns,
  assertRunsOn,
  assertUnnoticed,
  labOfTwo,
  migrate,
  newestMigration,
  watchedRedis,
  whileRestoring,
  type Acts,
  type MigrateResult,
} from "./lab.ts";

/** What its volume holds. */
export const VOLUME_MEGABYTES = 16;

/** Where its redis answers: each ordeal has a segment of its own. */
export const ADDRESS = "10.77.0.201";

export class Ordeal {
  readonly lab: Lab;
  readonly a: Host;
  readonly b: Host;
  readonly initPid: string;
  readonly #client: ClientProcess<RedisClientResult>;

  private constructor(lab: Lab, initPid: string, client: ClientProcess<RedisClientResult>) {
    this.lab = lab;
    [this.a, this.b] = [lab.host("a"), lab.host("b")];
    this.initPid = initPid;
    this.#client = client;
  }

  /** The redis runs on `a`, under a restart policy, and `b` has never heard of it. */
  static async begin(name: string): Promise<Ordeal> {
    const lab = await labOfTwo(name);
    const a = lab.host("a");
    const { initPid, client } = await watchedRedis(lab, a, ADDRESS, "--volume", "data:/data");
    await a.run("docker", "exec", "redis", "dd", "if=/dev/urandom", "of=/data/blob", "bs=1M", `count=${VOLUME_MEGABYTES}`);
    return new Ordeal(lab, initPid, client);
  }

  /** Migrates, and has something happen while the target's restore is held up. */
  whileRestoring(fault: (id: MigrationId) => Promise<unknown>, before?: Acts): Promise<MigrateResult> {
    return whileRestoring(this.a, this.b, fault, undefined, before);
  }

  /** Waits for what the other side finds out by itself. */
  async cleaned(host: Host): Promise<void> {
    await until(`host ${host.name} to clean up`, async () => {
      const containers = await host.run("docker", "ps", "--all", "--quiet");
      return containers === "" && hasEnded((await newestMigration(host)).state);
    });
  }

  /** The source runs the container it ran before, under its own restart policy; nothing of the attempt is left anywhere. */
  async assertUndone(): Promise<void> {
    await assertRunsOn(this.a, this.initPid);
    await assertClean(this.b, "redis");
    for (const host of [this.a, this.b]) await assertNothingOfRunc(host);
    assert.equal(await this.b.run("docker", "image", "ls", "--quiet"), "");
    assert.equal(await this.b.run("docker", "volume", "ls", "--quiet"), "");
    assert.deepEqual(await readdir(`${this.a.root}/run/dmigrate/migrations`).catch(() => []), []);
    assert.equal(await this.a.run("find", "/var/lib/docker/containers", "-name", "*.handed-over"), ""); // nor is it kept from being started
  }

  /** After all that it migrates, and its client never noticed more than pauses. */
  async assertMigrates(): Promise<void> {
    const result = await migrate(this.a, "redis", "b");
    assert.equal(result.outcome, "completed", result.message);
    await assertRuns(this.b, "redis");
    await assertClean(this.a, "redis");
    await assertUnnoticed(this.#client);
  }
}
