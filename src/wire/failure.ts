/**
 * An error as it crosses from one process to another: its code and its message. Pure.
 */
import { DmigrateError, isErrorCode } from "../core/errors.ts";

/** The remedy for everything that two agents of one release could not have said to each other. */
export const SAME_RELEASE = "update both to the same release";

/** Makes the error again that another process sent. A code that only a newer release knows becomes PROTOCOL; the message stays. */
export function errorFromWire(code: string, message: string): DmigrateError {
  return isErrorCode(code) ? new DmigrateError(code, message) : new DmigrateError("PROTOCOL", `${message} (${code})`);
}
