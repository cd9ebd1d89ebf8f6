/**
 * An error as it crosses from one process to another: its code and its message. Pure.
 */
import { z } from "zod";
import { DmigrateError, isErrorCode } from "../core/errors.ts";

/** The remedy for everything that two agents of one release could not have said to each other. */
export const SAME_RELEASE = "update both to the same release";

/** Makes the error again that another process sent. A code that only a newer release knows becomes PROTOCOL; the message stays. */
export function errorFromWire(code: string, message: string): DmigrateError {
  return isErrorCode(code) ? new DmigrateError(code, message) : new DmigrateError("PROTOCOL", `${message} (${code})`);
}

/** The bytes of an error, a JSON object { code, message }; a message too long for them is cut. */
export function encodeFailure({ code, message }: DmigrateError, bytesMax: number): Uint8Array {
  // A UTF-16 unit takes at most six bytes in JSON ("\u0000"); 64 are enough for the rest of the object.
  const short = message.slice(0, Math.floor((bytesMax - 64) / 6));
  return new TextEncoder().encode(JSON.stringify({ code, message: short }));
}

const Failure = z.object({ code: z.string(), message: z.string() });

/** Throws PROTOCOL if the bytes are no error's. */
export function decodeFailure(bytes: Uint8Array): DmigrateError {
  try {
    const { code, message } = Failure.parse(JSON.parse(new TextDecoder().decode(bytes)));
    return errorFromWire(code, message);
  } catch (error) {
    throw new DmigrateError("PROTOCOL", `An agent sent a malformed failure; ${SAME_RELEASE}`, error);
  }
}
