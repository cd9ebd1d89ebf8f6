/**
 * Which version of the calls (proto/) somebody speaks: told with each call. An agent refuses another one by its number, before one of the
 * two passes over what it does not know and the other relies on it.
 */
import type { Interceptor } from "@connectrpc/connect";
import { DmigrateError } from "../../core/errors.ts";
import { SAME_RELEASE } from "../../wire/failure.ts";

/** One more with each change of proto/ that is in a release. */
const CALLS_VERSION = "1";
const HEADER = "dmigrate-calls";

/** For who calls. */
export const tellVersion: Interceptor = (next) => async (request) => {
  request.header.set(HEADER, CALLS_VERSION);
  return await next(request);
};

/** For who is called. Throws PROTOCOL for another version. */
export const refuseOtherVersions: Interceptor = (next) => async (request) => {
  const [told = "none"] = /^\d{1,9}$/.exec(request.header.get(HEADER) ?? "") ?? [];
  if (told === CALLS_VERSION) return await next(request);
  throw new DmigrateError("PROTOCOL", `Version ${told} of the calls was used, this agent speaks version ${CALLS_VERSION}; ${SAME_RELEASE}`);
};
