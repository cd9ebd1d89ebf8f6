/**
 * The restart policy of a container that runs on here after its migration was undone: it lacked it for the time of the freeze.
 */
import { messageOf } from "../../core/errors.ts";
import type { RestartPolicy } from "../../docker/inspect.ts";
import { giveBackPolicy, policyText, type LackedPolicy } from "../../docker/lifecycle.ts";
import { isUnreachable } from "../../docker/restart.ts";
import { isNotFound, refusalOf } from "../../docker/transport.ts";
import type { SourceScope } from "./scope.ts";

/** How long an engine may be away after which a container still gets it back. */
const LIMIT_MS = 3_600_000;

/** Gives it back, and warns of what became of the container, or that its engine is away: then it gets it once that is there. */
export async function restoreRestartPolicy(scope: SourceScope, policy: RestartPolicy, lacked: () => LackedPolicy): Promise<void> {
  const { id, name } = scope.subject.description;
  try {
    const end = await giveBackPolicy(scope.engine, id, policy, lacked);
    if (end !== undefined) scope.warn(`${name} ${end}`);
  } catch (error) {
    if (isNotFound(error) || isBeingRemoved(error)) return;
    const remedies = `\`docker update --restart ${policyText(policy)} ${name}\` sets it, \`docker start ${name}\` starts what has ended`;
    scope.warn(
      `${name} lacks its restart policy, and may have ended (${messageOf(error)}); once Docker is back it gets it, or ${remedies}`,
    );
    void restorePolicyLater(scope, policy, lacked);
  }
}

/** As moby says it of a container that `docker rm --force` is about to remove (daemon/container, `errRemovalContainer`). */
function isBeingRemoved(error: unknown): boolean {
  return /marked for removal|is dead/i.test(refusalOf(error)?.message ?? "");
}

/** For an engine that stays away longer than anybody waits for a report. */
async function restorePolicyLater(scope: SourceScope, policy: RestartPolicy, lacked: () => LackedPolicy): Promise<void> {
  const deadline = performance.now() + LIMIT_MS;
  for (;;) {
    try {
      await giveBackPolicy(scope.engine, scope.subject.description.id, policy, lacked);
      return;
    } catch (error) {
      if (!isUnreachable(error) || performance.now() > deadline)
        return scope.logWarning(error, "a container lacks its restart policy, which could not be given back");
    }
  }
}
