/**
 * Calls to another host that are worth more than one try.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError } from "../../core/errors.ts";

const REACH_RETRY_MS = 1000;

/** Asks the target again after the link was lost, until that is hopeless. Tells of it once. */
export async function persist<T>(
  call: () => Promise<T>,
  isHopeless: (error: unknown) => boolean,
  tellLost: (error: unknown) => void = () => {},
): Promise<T> {
  let isTold = false;
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (isHopeless(error) || DmigrateError.from(error).code !== "PEER_UNREACHABLE") throw error;
      if (!isTold) tellLost(error);
      isTold = true;
      await sleep(REACH_RETRY_MS);
    }
  }
}
