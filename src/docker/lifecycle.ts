/**
 * Keeps the engine from starting a container by itself, makes up for it afterwards, and gets rid of one that the engine may be getting
 * rid of, too.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Engine } from "./engine.ts";
import type { RestartPolicy } from "./inspect.ts";
import { despiteRestart } from "./restart.ts";
import { isNotFound, refusalOf, unless } from "./transport.ts";

/** The policy under which a container that has ended stays ended. */
export const NEVER_RESTART: RestartPolicy = { Name: "no", MaximumRetryCount: 0 };

/** How long an engine may take to learn of the end of a container's tasks. */
const END_LIMIT_MS = 10_000;
const END_POLL_MS = 50;
/** How long an engine may take to clean up after the one before it. */
const CLEANING_LIMIT_MS = 90_000;
const CLEANING_POLL_MS = 1_000;

/**
 * Gives a container a restart policy; that of its description, or `NEVER_RESTART` before its tasks are taken away. The engine also has
 * runc set the cgroup's limits anew, so not while the cgroup is frozen.
 */
export async function setRestartPolicy(engine: Engine, id: string, policy: RestartPolicy): Promise<void> {
  const { HostConfig } = await engine.inspectContainer(id);
  // A container with `--rm` takes no policy at all, not even the one it has.
  if (sameName(HostConfig.RestartPolicy) === sameName(policy) && HostConfig.RestartPolicy.MaximumRetryCount === policy.MaximumRetryCount)
    return;
  const deadline = performance.now() + END_LIMIT_MS;
  for (;;) {
    try {
      return await engine.updateContainer(id, { RestartPolicy: policy });
    } catch (error) {
      // Its tasks have ended: the engine refuses until it knows of that, or has started it again.
      const isEnding = /cannot update a stopped container|container not running/.test(refusalOf(error)?.message ?? "");
      if (!isEnding || performance.now() > deadline) throw error;
      await sleep(END_POLL_MS);
    }
  }
}

/** When a container lacked its restart policy. */
export interface LackedPolicy {
  /** From when on, Unix time. */
  readonly sinceMs: number;
  /** Whether the engine has ended since: then the next one ended the container, or the old one did, whatever its policy. */
  readonly hasEngineEnded: boolean;
}

/**
 * Starts a container that ended before it had its restart policy, if that policy would have started it: not if somebody stopped it.
 * @returns what became of a container that does not run; undefined if it does
 */
export async function restartIfEnded(engine: Engine, id: string, policy: RestartPolicy, lacked: LackedPolicy): Promise<string | undefined> {
  const { State } = await engine.inspectContainer(id);
  if (State.Running || State.Restarting) return undefined;
  if (lacked.hasEngineEnded) {
    if (!["always", "unless-stopped"].includes(policy.Name)) return "ended with its Docker Engine";
    await startAfterCrash(engine, id);
    return "ended with its Docker Engine, and was started again as its restart policy says";
  }
  if ((await engine.requestsSince(id, lacked.sinceMs)).some(({ kind }) => kind === "signal")) return "was stopped meanwhile";
  // Of one that never was seen running nobody knows how it ended.
  const [wasSeen, how] = State.Status === "created" ? [false, "nobody knows how"] : [true, `with exit code ${State.ExitCode}`];
  const restarts = policy.Name === "on-failure" ? wasSeen && State.ExitCode !== 0 : sameName(policy) !== "no";
  if (restarts) await engine.startContainer(id);
  return `ended by itself meanwhile, ${how}${restarts ? ", and was started again as its restart policy says" : ""}`;
}

/** Starts a container whose network an engine that was killed has left to its successor: until that is gone its MAC address is taken. */
async function startAfterCrash(engine: Engine, id: string): Promise<void> {
  const deadline = performance.now() + CLEANING_LIMIT_MS;
  for (;;) {
    try {
      return await engine.startContainer(id);
    } catch (error) {
      const isTaken = /address already in use/.test(refusalOf(error)?.message ?? "");
      if (!isTaken || performance.now() > deadline) throw error;
      await sleep(CLEANING_POLL_MS);
    }
  }
}

/** As the command line takes it, like `on-failure:3`. */
export function policyText(policy: RestartPolicy): string {
  return `${sameName(policy)}${policy.MaximumRetryCount > 0 ? `:${policy.MaximumRetryCount}` : ""}`;
}

/**
 * Ends the time in which a container had to stay ended: gives it its policy, and starts it if it ended meanwhile and that policy would have
 * started it. An engine that is being restarted is waited for.
 * @param lacked tells when it lacked it, as known once it has it again
 * @returns what became of a container that does not run, or did not; undefined if it ran on
 */
export async function giveBackPolicy(
  engine: Engine,
  id: string,
  policy: RestartPolicy,
  lacked: () => LackedPolicy,
): Promise<string | undefined> {
  await despiteRestart(() => endNeverRestart(engine, id, policy));
  return await despiteRestart(() => restartIfEnded(engine, id, policy, lacked()));
}

/** Unless somebody has given it another one meanwhile. */
export async function endNeverRestart(engine: Engine, id: string, policy: RestartPolicy): Promise<void> {
  const { HostConfig } = await engine.inspectContainer(id);
  if (sameName(HostConfig.RestartPolicy) === sameName(NEVER_RESTART)) await setRestartPolicy(engine, id, policy);
}

function sameName({ Name }: RestartPolicy): string {
  return Name === "" ? "no" : Name;
}

/** What the engine marks volumes with that were made for one container alone (moby's volume/service, `AnonymousLabel`). */
const ANONYMOUS_LABEL = "com.docker.volume.anonymous";

/**
 * Removes a container, running or not. It counts as removed if it is gone already: one with `--rm` goes by itself when its tasks end.
 * @param options `volumes` removes its anonymous volumes too, also those that a migration had to ask for by their name
 */
export async function discardContainer(engine: Engine, id: string, options: { readonly volumes: boolean }): Promise<void> {
  const anonymous = options.volumes ? await anonymousVolumes(engine, id) : [];
  await removeContainer(engine, id, options);
  for (const volume of anonymous) {
    // Gone with the container, or another one's by now.
    await engine.removeVolume(volume).catch(unless(404, 409));
  }
}

async function anonymousVolumes(engine: Engine, id: string): Promise<string[]> {
  const container = await engine.inspectContainer(id).catch(unless(404));
  const names = container?.Mounts.flatMap(({ Type, Name }) => (Type === "volume" && Name !== undefined ? [Name] : [])) ?? [];
  const volumes = await Promise.all(names.map((name) => engine.inspectVolume(name).catch(unless(404))));
  return volumes.flatMap((volume) => (volume?.Labels?.[ANONYMOUS_LABEL] === undefined ? [] : [volume.Name]));
}

async function removeContainer(engine: Engine, id: string, { volumes }: { readonly volumes: boolean }): Promise<void> {
  try {
    await engine.removeContainer(id, { force: true, volumes });
  } catch (error) {
    if (isNotFound(error)) return;
    if (refusalOf(error)?.status !== 409) throw error;
    // The engine is removing it already.
    await engine.awaitContainer(id, "removed").catch(unless(404));
  }
}
