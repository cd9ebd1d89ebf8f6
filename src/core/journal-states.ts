/**
 * Which state of a migration may follow which in a host's journal; see `JournalState`.
 */
import { DmigrateError } from "./errors.ts";
import type { JournalState, Outcome } from "./migration.ts";

/** Which side of a migration a host is. */
export type Role = "source" | "target";

/** Every migration enters a journal as `running`: nothing is committed, and whatever is interrupted is undone. */
export const FIRST_STATE: JournalState = "running";

/**
 * The source commits from `running`: after that the container ends on the target, or fails there; only if the target has written down
 * that it rolled back, and so never will run it, may the source do so too. The target must hold a restored container (`prepared`)
 * before it may own it, and does not give it back.
 */
const FOLLOWERS: Record<Role, Partial<Record<JournalState, readonly JournalState[]>>> = {
  source: {
    running: ["committed", "rolled-back", "failed"],
    committed: ["completed", "rolled-back", "failed"],
  },
  target: {
    running: ["prepared", "rolled-back", "failed"],
    prepared: ["owner", "rolled-back", "failed"],
    owner: ["completed", "failed"],
  },
};

/** True if `to` may follow `from` on that side. */
export function mayFollow(role: Role, from: JournalState, to: JournalState): boolean {
  return FOLLOWERS[role][from]?.includes(to) ?? false;
}

/** Throws INTERNAL unless `to` may follow `from`: writing it down would lose who owns the container. */
export function assertMayFollow(role: Role, from: JournalState, to: JournalState): void {
  if (mayFollow(role, from, to)) return;
  throw new DmigrateError("INTERNAL", `A migration's ${role} cannot go from ${from} to ${to}; please report this as a bug`);
}

/** True if a migration in this state has ended. */
export function hasEnded(state: JournalState): state is Outcome {
  return state === "completed" || state === "rolled-back" || state === "failed";
}
