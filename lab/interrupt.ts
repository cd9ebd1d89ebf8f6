/**
 * Ctrl-C while a lab is built, or used by the demo, and other ends: nothing of it stays.
 */
import { spawnSync } from "node:child_process";
import { constants } from "node:os";
import path from "node:path";
import { CHECKOUT } from "./paths.ts";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
/** To this a shell adds the number of the signal that ended a program. */
const SIGNALLED = 128;

/**
 * Until disposed of, these take the lab down, say so, and end this process, which is at work on the lab and must not go on meanwhile.
 */
export function removedOnInterrupt(lab: string): Disposable {
  const interrupt = (signal: NodeJS.Signals): void => {
    const hasTerminal = signal !== "SIGHUP";
    if (hasTerminal) process.stderr.write(`\nInterrupted: taking lab ${lab} down\n`);
    const output = hasTerminal ? "inherit" : "ignore";
    spawnSync(path.join(CHECKOUT, "bin/dmigrate"), ["lab", "down", "--name", lab], { stdio: ["ignore", output, output] });
    process.exit(SIGNALLED + constants.signals[signal]);
  };
  for (const signal of SIGNALS) process.once(signal, interrupt);
  return {
    [Symbol.dispose]: () => {
      for (const signal of SIGNALS) process.off(signal, interrupt);
    },
  };
}
