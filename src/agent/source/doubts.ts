/**
 * Doubt: the target was asked to take a container over, and its answer was lost. Until its word is known nobody runs the container here:
 * it stays frozen with all its memory, however long that takes, unless somebody who knows that the target is lost takes it back.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError, messageOf } from "../../core/errors.ts";
import type { HostName, MigrationId } from "../../core/ids.ts";
import type { JournalState } from "../../core/migration.ts";

const ASK_INTERVAL_MS = 500;

/** What is in doubt, and how to get out of it. */
export interface Doubt {
  readonly id: MigrationId;
  /** The container's name. */
  readonly container: string;
  readonly target: HostName;
  /** Why it is in doubt. If the target said so itself, and has not written down that it took over, it refused. */
  readonly reason: unknown;
  /** Has the target decide. It may fail. */
  readonly urge: () => Promise<unknown>;
  /** The target's written word. */
  readonly state: () => Promise<JournalState | undefined>;
  /** Called once, with what a user should know, if the target does not answer at once. */
  readonly tell: (text: string) => void;
}

/**
 * Whose the container is: the target's, which as an `owner` may still lack memory and as `failed` does so for good; or, `rolled-back`, the
 * source's, for the target has written down that it never will run it, or somebody answers for that.
 */
export type Verdict = Extract<JournalState, "owner" | "completed" | "failed" | "rolled-back">;

/** All doubts of this host. */
export class Doubts {
  readonly #open = new Map<MigrationId, { readonly text: string; readonly takenBack: AbortController }>();

  /** Asks until the verdict is known. Nobody runs the container here meanwhile, nor when this returns. */
  async settle({ id, container, target, reason, urge, state, tell }: Doubt): Promise<Verdict> {
    const written = (): Promise<Written> => state().catch(() => "unreachable");
    const ask = async (): Promise<Verdict | undefined> => verdictOf(await written());
    const first = await written();
    if (first === "prepared" && DmigrateError.from(reason).code !== "PEER_UNREACHABLE") return "rolled-back";
    const known = verdictOf(first);
    if (known !== undefined) return known;
    const takenBack = new AbortController();
    const text = inDoubt(id, container, target, messageOf(reason));
    this.#open.set(id, { text, takenBack });
    tell(text);
    try {
      for (;;) {
        await sleep(ASK_INTERVAL_MS, undefined, { signal: takenBack.signal }).catch(() => {});
        const isTakenBack = takenBack.signal.aborted;
        if (!isTakenBack) await urge().catch(() => {}); // what became of it is asked next
        const verdict = await ask();
        if (verdict !== undefined) return verdict;
        if (isTakenBack) return "rolled-back";
      }
    } finally {
      this.#open.delete(id);
    }
  }

  /** What a user should know if it is in doubt who runs the container of that migration. */
  about(id: MigrationId): string | undefined {
    return this.#open.get(id)?.text;
  }

  /** Somebody answers for it that the target does not run the container and never will. */
  takeBack(id: MigrationId): void {
    this.#open.get(id)?.takenBack.abort();
  }
}

/** What a target says that it has written down. */
type Written = JournalState | "unreachable" | undefined;

function verdictOf(state: Written): Verdict | undefined {
  switch (state) {
    case "owner":
    case "completed":
    case "failed":
      return state;
    case "rolled-back":
    case undefined: // it cleaned up before it wrote anything down
      return "rolled-back";
    case "running":
    case "prepared":
    case "committed":
    case "unreachable":
      return undefined;
  }
}

function inDoubt(id: MigrationId, container: string, target: HostName, answer: string): string {
  return (
    `${target} does not say whether it took ${container} over (${answer}): it stays frozen here, with all its memory, until ${target} ` +
    `answers; if ${target} is lost for good and runs nothing, \`dmigrate cancel ${id} --take-back\` lets it run on here`
  );
}
