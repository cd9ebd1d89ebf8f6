/**
 * The stock `criu lazy-pages` on the target: serves the page faults of the restored tasks with the pages of a page server.
 */
import { spawn } from "node:child_process";
import { closeSync, existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { Socket } from "node:net";
import path from "node:path";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError } from "../core/errors.ts";
import { socketPair } from "../kernel/unix-socket.ts";
import { lastErrors } from "./log.ts";

const SOCKET_LIMIT_MS = 5_000;

/** The daemon of one restore. */
export interface LazyPages {
  /** The connection it takes for its page server: a socket it is born with, so nobody else on this host can be its client. */
  readonly pageServer: Duplex;
  /** Fulfilled when every page has arrived; TRANSFER_FAILED if the daemon ends before. */
  readonly finished: Promise<void>;
  /** Ends the daemon. Only before the tasks run: afterwards they would hang at the next page they touch. */
  kill(): void;
}

/**
 * Starts the daemon; returns when a restore may connect to it. `work` must be the restore's work folder: CRIU looks there
 * for lazy-pages.socket (criu/uffd.c).
 */
export async function startLazyPages(images: string, work: string): Promise<LazyPages> {
  const log = path.join(work, "lazy-pages.log");
  const argv = ["lazy-pages", "--page-server", "--ps-socket", "3", "-v1", "-D", images, "-W", work, "-o", log];
  const [theirs, ours] = socketPair();
  // It gets both ends: so it never finds its page server gone, whatever becomes of this process. It would end then, and with its
  // userfaultfd gone the kernel would give the tasks empty pages for those that are missing.
  const child = spawn("criu", argv, { stdio: ["ignore", "ignore", "ignore", theirs, ours], detached: true });
  closeSync(theirs);
  const pageServer = new Socket({ fd: ours });
  let over = false;
  const finished = new Promise<void>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => {
      over = true;
      if (code === 0) return resolve();
      void failure(log, code).then(reject);
    });
  });
  finished.catch(() => {}); // told to whoever waits for it
  const deadline = performance.now() + SOCKET_LIMIT_MS;
  while (!existsSync(path.join(work, "lazy-pages.socket"))) {
    if (over)
      throw new DmigrateError(
        "RESTORE_FAILED",
        "CRIU's daemon for lazy pages does not start on the target; see that `criu check` succeeds there",
      );
    if (performance.now() > deadline) {
      child.kill("SIGKILL");
      throw new DmigrateError("RESTORE_FAILED", `criu lazy-pages did not open its socket within ${SOCKET_LIMIT_MS / 1000} s; see ${log}`);
    }
    await sleep(1);
  }
  return { pageServer, finished, kill: () => child.kill("SIGKILL") };
}

async function failure(log: string, code: number | null): Promise<DmigrateError> {
  const text = await readFile(log, "utf8").catch(() => "");
  return new DmigrateError("TRANSFER_FAILED", `criu lazy-pages failed: ${lastErrors(text) || `exit code ${code}`}; see ${log}`);
}
