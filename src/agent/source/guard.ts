/**
 * What outlives the agent of a source while a container may stand still: if that agent is killed before the handover, this lets the
 * container run on (src/shim/dmigrate-guard, `releaseOrphan`).
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { MigrationId } from "../../core/ids.ts";
import type { AgentConfig } from "../config.ts";

const GUARD_SCRIPT = fileURLToPath(new URL("../../shim/dmigrate-guard", import.meta.url));

export class Guard implements AsyncDisposable {
  readonly #child: ChildProcess;

  /** Whatever the agent does from now on, even if it is killed at once, a container that it freezes will not stay so. */
  constructor({ stateDir, runDir, dockerSocket }: AgentConfig, migration: MigrationId) {
    const program = [process.execPath, ...process.execArgv, process.argv[1] ?? ""]; // the command `dmigrate`, as which an agent runs
    const folders = ["--state-dir", stateDir, "--run-dir", runDir, "--docker-socket", dockerSocket];
    const argv = [...program, "release", migration, ...folders];
    this.#child = spawn(GUARD_SCRIPT, argv, { stdio: ["pipe", "ignore", "inherit"], detached: true });
    this.#child.stdin?.on("error", () => {}); // somebody killed it
    this.#child.unref();
  }

  /** The migration has ended: nothing of it stands still that may run. Returns when the guard is gone. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.ref();
    const ended = once(this.#child, "exit");
    this.#child.stdin?.end("ended\n");
    await ended;
  }
}
