/**
 * The one error class of Dmigrate and its closed set of codes.
 *
 * Every failure that a user can meet is a `DmigrateError`: its code says what kind it is, its message names the cause
 * and the remedy, `fault` says who has to act, and `cause` keeps what lay beneath. docs/errors.md lists the same codes;
 * a test compares the two.
 */

import type { HostName } from "./ids.ts";

/** Who has to act: the person at the keyboard, a host's administrator, the other host, or the authors of Dmigrate. */
export type Fault = "user" | "host" | "peer" | "bug";

interface CodeFacts {
  readonly fault: Fault;
  /** Exit code of the command line when a command ends with this error. */
  readonly exitCode: number;
}

/** Every code with who must act and the exit code it leads to. */
export const ERROR_CODES = {
  USAGE: { fault: "user", exitCode: 2 },
  CONTAINER_NOT_FOUND: { fault: "user", exitCode: 3 },
  CONTAINER_CHANGED: { fault: "user", exitCode: 3 },
  CONTAINER_NOT_RUNNING: { fault: "user", exitCode: 3 },
  HOST_UNKNOWN: { fault: "user", exitCode: 3 },
  HOST_IS_SOURCE: { fault: "user", exitCode: 3 },
  MIGRATION_NOT_FOUND: { fault: "user", exitCode: 3 },
  MIGRATION_IN_PROGRESS: { fault: "user", exitCode: 3 },
  PREFLIGHT_BLOCKED: { fault: "user", exitCode: 4 },
  DOWNTIME_TOO_LONG: { fault: "user", exitCode: 4 },
  NOT_CONVERGING: { fault: "user", exitCode: 4 },
  CANCELLED: { fault: "user", exitCode: 5 },
  CANCEL_TOO_LATE: { fault: "user", exitCode: 5 },
  AGENT: { fault: "host", exitCode: 6 },
  AGENT_UNREACHABLE: { fault: "host", exitCode: 6 },
  NOT_INITIALISED: { fault: "user", exitCode: 6 },
  PEER_UNREACHABLE: { fault: "peer", exitCode: 6 },
  PEER_REFUSED: { fault: "peer", exitCode: 6 },
  PROTOCOL: { fault: "peer", exitCode: 6 },
  DOCKER: { fault: "host", exitCode: 7 },
  DUMP_FAILED: { fault: "host", exitCode: 7 },
  RESTORE_FAILED: { fault: "peer", exitCode: 7 },
  TRANSFER_FAILED: { fault: "peer", exitCode: 7 },
  ROOTFS: { fault: "host", exitCode: 7 },
  NO_SPACE: { fault: "host", exitCode: 7 },
  VERIFY_FAILED: { fault: "bug", exitCode: 7 },
  NETWORK: { fault: "host", exitCode: 7 },
  KERNEL: { fault: "host", exitCode: 7 },
  TIMEOUT: { fault: "peer", exitCode: 7 },
  MEMORY_ALTERED: { fault: "bug", exitCode: 8 },
  MEMORY_LOST: { fault: "peer", exitCode: 8 },
  LAB: { fault: "host", exitCode: 9 },
  INTERNAL: { fault: "bug", exitCode: 70 },
} as const satisfies Record<string, CodeFacts>;

/** A code out of `ERROR_CODES`. */
export type ErrorCode = keyof typeof ERROR_CODES;

/** True if `text` is one of the codes: for reading a code that came from another process. */
export function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(ERROR_CODES, text);
}

/** An error a user can act on. `message` has the form "cause; remedy", without a final period. */
export class DmigrateError extends Error {
  override readonly name = "DmigrateError";
  readonly code: ErrorCode;

  /**
   * @param code what kind of failure
   * @param message the action that failed and why, then what to do about it
   * @param cause what lay beneath, if anything
   */
  constructor(code: ErrorCode, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
  }

  /** Who has to act. */
  get fault(): Fault {
    return ERROR_CODES[this.code].fault;
  }

  /** The command line's exit code for this error. */
  get exitCode(): number {
    return ERROR_CODES[this.code].exitCode;
  }

  /** Turns whatever was thrown into a `DmigrateError`; one that already is stays itself, and a full disk is NO_SPACE. */
  static from(thrown: unknown, code: ErrorCode = "INTERNAL"): DmigrateError {
    if (thrown instanceof DmigrateError) return thrown;
    if (thrown instanceof SuppressedError) return DmigrateError.from(thrown.suppressed, code); // what failed, not the cleaning up after it
    if (thrown instanceof Error && "code" in thrown && thrown.code === "ENOSPC")
      return new DmigrateError("NO_SPACE", `A file system is full (${thrown.message}); \`df\` shows which, free some space there`, thrown);
    return new DmigrateError(code, messageOf(thrown), thrown);
  }
}

/** An error as another host tells it: what somebody has to mend there names that host. */
export function toldBy(host: HostName, error: DmigrateError): DmigrateError {
  return ["host", "bug"].includes(error.fault) ? new DmigrateError(error.code, `On ${host}: ${error.message}`, error) : error;
}

/**
 * Does all of these one after the other, whichever of them fail: for cleaning up. Throws when all were tried: the one failure, or an error
 * with the code of the first and the words of all.
 */
export async function tryAll(works: Iterable<() => Promise<unknown>>): Promise<void> {
  const failures: unknown[] = [];
  for (const work of works) {
    try {
      await work();
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length === 1) throw failures[0];
  if (failures.length === 0) return;
  const message = [...new Set(failures.map(messageOf))].join("; also: ");
  throw new DmigrateError(DmigrateError.from(failures[0]).code, message, new AggregateError(failures, message));
}

/** The text of whatever was thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
