/**
 * An engine that can't be reached may be about to be back: it is restarted, or updated.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError } from "../core/errors.ts";
import { refusalOf } from "./transport.ts";

const LIMIT_MS = 30_000;
const RETRY_MS = 500;

/** Whether an engine has not answered at all. */
export function isUnreachable(error: unknown): boolean {
  return DmigrateError.from(error).code === "DOCKER" && refusalOf(error) === undefined;
}

/** Asks an engine again for as long as a restart may take. What it refuses is thrown at once. */
export async function despiteRestart<T>(ask: () => Promise<T>): Promise<T> {
  const deadline = performance.now() + LIMIT_MS;
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!isUnreachable(error) || performance.now() > deadline) throw error;
      await sleep(RETRY_MS);
    }
  }
}
