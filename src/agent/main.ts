/**
 * `dmigrate agent`: runs an agent with its log on standard error until SIGTERM or SIGINT.
 */
import { flushCompileCache } from "node:module";
import { pino } from "pino";
import { DmigrateError } from "../core/errors.ts";
import { runAgent } from "./agent.ts";
import { parseConfig, rawConfig, type RawConfig } from "./config.ts";
import type { StartSessions } from "./context.ts";

/** Throws USAGE for a bad configuration, AGENT if another agent uses its directories or port, or if this is not root. */
export async function serveUntilSignal(flags: RawConfig, startSessions: StartSessions): Promise<void> {
  const config = parseConfig(rawConfig(flags, process.env));
  if (process.geteuid?.() !== 0) throw new DmigrateError("AGENT", "The agent needs root; run `sudo dmigrate agent`");
  const log = pino({ level: config.logLevel, base: null }, pino.destination({ fd: 2, sync: true }));
  const signal = Promise.withResolvers<NodeJS.Signals>();
  process.once("SIGTERM", signal.resolve);
  process.once("SIGINT", signal.resolve);
  process.once("uncaughtException", (error) => {
    log.fatal({ err: error }, "ended by a bug; the next agent goes on with what this one left");
    process.kill(process.pid, "SIGKILL"); // an ordinary end would wait for threads that wait in the kernel
  });
  const agent = await runAgent(config, startSessions, log);
  flushCompileCache(); // it may be killed, and its successor has to start quickly
  log.info({ socket: agent.socketPath, listen: agent.listen, signal: await signal.promise }, "ending");
  try {
    await agent[Symbol.asyncDispose]();
  } catch (error) {
    log.error({ err: error }, "could not end in order; the next agent goes on with what this one left");
  }
  process.exit(); // what it leaves to the next agent would go on here as well
}
