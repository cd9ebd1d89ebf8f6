/**
 * Keeps the engine from starting a container by itself, and gets rid of one that the engine may be getting rid of, too.
 */
import type { Engine } from "./engine.ts";
import type { RestartPolicy } from "./inspect.ts";
import { isNotFound, refusalOf } from "./transport.ts";

/** The policy under which a container that has ended stays ended. */
export const NEVER_RESTART: RestartPolicy = { Name: "no", MaximumRetryCount: 0 };

/**
 * Gives a container a restart policy; that of its description, or `NEVER_RESTART` before its tasks are taken away. The engine also has
 * runc set the cgroup's limits anew, so not while the cgroup is frozen.
 */
export async function setRestartPolicy(engine: Engine, id: string, policy: RestartPolicy): Promise<void> {
  const { HostConfig } = await engine.inspectContainer(id);
  // A container with `--rm` takes no policy at all, not even the one it has.
  if (sameName(HostConfig.RestartPolicy) === sameName(policy) && HostConfig.RestartPolicy.MaximumRetryCount === policy.MaximumRetryCount)
    return;
  await engine.updateContainer(id, { RestartPolicy: policy });
}

function sameName({ Name }: RestartPolicy): string {
  return Name === "" ? "no" : Name;
}

/**
 * Removes a container, running or not. It counts as removed if it is gone already: one with `--rm` goes by itself when its tasks end, and
 * takes its anonymous volumes with it.
 * @param options `volumes` removes its anonymous volumes too
 */
export async function discardContainer(engine: Engine, id: string, options: { readonly volumes: boolean }): Promise<void> {
  try {
    await engine.removeContainer(id, { force: true, volumes: options.volumes });
  } catch (error) {
    if (isNotFound(error)) return;
    if (refusalOf(error)?.status !== 409) throw error;
    await awaitRemoval(engine, id);
  }
}

/** 409 says that the engine is removing it already. */
async function awaitRemoval(engine: Engine, id: string): Promise<void> {
  try {
    await engine.awaitContainer(id, "removed");
  } catch (error) {
    if (!isNotFound(error)) throw error;
  }
}
