/**
 * What outlives the agent of a source, seen from the agent: a process that makes the calls which must not be left half done, and that lets
 * the container run on if the agent is killed before the handover (src/agent/guard-process.ts, docs/decisions/0016-guard.md).
 */
import { spawn, type ChildProcessByStdio } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import * as z from "zod";
import { DmigrateError } from "../../core/errors.ts";
import type { MigrationId } from "../../core/ids.ts";
import { duplicateFrom } from "../../kernel/pidfd.ts";
import type { AgentConfig } from "../config.ts";

const answer = z.union([z.object({ fd: z.int() }), z.object({ error: z.string() })]);

export class Guard implements AsyncDisposable {
  readonly #process: ChildProcessByStdio<Writable, Readable, null>;
  readonly #ended: Promise<unknown>;
  readonly #answers: AsyncIterator<string>;
  /** One question at a time. */
  #turn: Promise<unknown> = Promise.resolve();

  /** Whatever the agent does from now on, even if it is killed at once, a container that it freezes will not stay so. */
  constructor({ stateDir, runDir, dockerSocket }: AgentConfig, migration: MigrationId) {
    const program = [...process.execArgv, process.argv[1] ?? ""]; // the command `dmigrate`, as which an agent runs
    const folders = ["--state-dir", stateDir, "--run-dir", runDir, "--docker-socket", dockerSocket];
    const argv = [...program, "guard", migration, ...folders];
    this.#process = spawn(process.execPath, argv, { stdio: ["pipe", "pipe", "inherit"], detached: true });
    this.#process.stdin.on("error", () => {}); // somebody killed it
    this.#process.unref();
    this.#ended = once(this.#process, "close");
    this.#ended.catch(() => {}); // it could not be started: whoever asks it something hears of that
    this.#answers = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
  }

  /**
   * Makes a userfaultfd of a running process; the caller closes it. The process stands still for some hundred microseconds, and goes on
   * whatever becomes of this agent. Throws KERNEL if it has ended, is traced, or the kernel can't do this.
   */
  openUserfaultfd(pid: number): Promise<number> {
    const opened = this.#turn.then(() => this.#open(pid));
    this.#turn = opened.catch(() => {});
    return opened;
  }

  async #open(pid: number): Promise<number> {
    this.#say({ track: pid });
    const { done, value } = await this.#answers.next();
    if (done === true) throw new DmigrateError("KERNEL", "The process that outlives the agent was ended; migrate again");
    const told = answer.parse(JSON.parse(value));
    if ("error" in told) throw new DmigrateError("KERNEL", told.error);
    try {
      return duplicateFrom(this.#process.pid ?? 0, told.fd);
    } finally {
      this.#say({ drop: told.fd });
    }
  }

  #say(question: object): void {
    this.#process.stdin.write(`${JSON.stringify(question)}\n`);
  }

  /** The migration has ended: nothing of it stands still that may run. Returns when the guard is gone. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.ref();
    this.#say({ ended: true });
    this.#process.stdin.end();
    await this.#ended.catch(() => {});
  }
}
