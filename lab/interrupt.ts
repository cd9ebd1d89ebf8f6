/**
 * Ctrl-C while a lab is built, or used by the demo: nothing of it stays.
 */
import { spawnSync } from "node:child_process";
import path from "node:path";
import { CHECKOUT } from "./paths.ts";

/** What a shell is told by a program that Ctrl-C ended: 128 and the signal's number. */
const INTERRUPTED = 130;

/**
 * Until disposed of, Ctrl-C takes the lab down, says so, and ends this process, which is at work on the lab and must not go on meanwhile.
 */
export function removedOnInterrupt(lab: string): Disposable {
  const interrupt = (): void => {
    process.stderr.write(`\nInterrupted: taking lab ${lab} down\n`);
    spawnSync(path.join(CHECKOUT, "bin/dmigrate"), ["lab", "down", "--name", lab], { stdio: ["ignore", "inherit", "inherit"] });
    process.exit(INTERRUPTED);
  };
  process.once("SIGINT", interrupt);
  return { [Symbol.dispose]: () => void process.off("SIGINT", interrupt) };
}
