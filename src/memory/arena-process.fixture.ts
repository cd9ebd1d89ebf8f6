/**
 * A process of tests that does to its memory what it is told, and its forked children.
 */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createInterface, type Interface } from "node:readline";
import type { Duplex } from "node:stream";
import { fileURLToPath } from "node:url";
import { killProcess } from "../kernel/pidfd.ts";

const FIXTURE = fileURLToPath(new URL("arena-process.fixture.pl", import.meta.url));
/** It and so many children less one. */
export const SLOTS = 3;

/** A process and, at the other slots, its forked children. */
export class ArenaProcess implements AsyncDisposable {
  /** Its parent: of a child of this process that is traced, libuv would learn that it stops. */
  readonly #shell: ChildProcess;
  pid = 0;
  readonly arenaPages: number;
  readonly #lines: AsyncIterator<string>[];
  readonly #readers: Interface[];
  /** Where the arena begins. */
  arenaPage = 0;

  /**
   * @param usedPages pages that can be used from the first one on; the rest of the arena is not accessible
   * @param lazy where to send the userfaultfd of a process whose pages are lazy, and the process id to tell
   * @param isShared whether its children share the memory
   */
  constructor(arenaPages: number, usedPages: number, lazy?: { readonly file: string; readonly process: number }, isShared = false) {
    this.arenaPages = arenaPages;
    const argv = [FIXTURE, arenaPages, usedPages, ...(lazy === undefined ? [] : [lazy.file, lazy.process])].map(String);
    const pipes = Array.from({ length: SLOTS }, () => "pipe" as const);
    this.#shell = spawn("sh", ["-c", 'perl "$0" "$@" & wait', ...argv], {
      stdio: ["ignore", "inherit", "inherit", ...pipes],
      env: { ...process.env, ...(isShared ? { ARENA_IS_SHARED: "1" } : {}) },
    });
    this.#readers = pipes.map((_, slot) => createInterface({ input: this.#stream(slot) }));
    this.#lines = this.#readers.map((reader) => reader[Symbol.asyncIterator]());
  }

  async started(): Promise<void> {
    [this.arenaPage = 0, this.pid = 0] = (await this.answer(0)).split(" ").map(Number);
  }

  /** Has the process at the first slot begin anew, as another program. */
  async execute(): Promise<void> {
    this.#stream(0).write("exec\n");
    await this.started();
  }

  async sendUserfaultfd(): Promise<void> {
    this.#stream(0).write("go\n");
    await this.answer(0);
  }

  /** Gives a command of the fixture and returns its answer. */
  async tell(slot: number, command: string, ...numbers: readonly number[]): Promise<string> {
    this.#stream(slot).write(`${[command, ...numbers].join(" ")}\n`);
    return await this.answer(slot);
  }

  async read(slot: number, page: number, pageCount: number): Promise<number[]> {
    const answer = await this.tell(slot, "read", page, pageCount);
    return answer === "" ? [] : answer.split(" ").map(Number);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#shell.exitCode === null) {
      if (this.pid > 0) killProcess(this.pid);
      else this.#shell.kill("SIGKILL");
      await once(this.#shell, "exit");
    }
    for (let slot = 0; slot < SLOTS; slot++) this.#stream(slot).destroy(); // a forked child ends with its input
    for (const reader of this.#readers) reader.close();
  }

  #stream(slot: number): Duplex {
    return this.#shell.stdio[3 + slot] as Duplex; // a "pipe" of spawn is a socket
  }

  /** What the process at a slot says next. */
  async answer(slot: number): Promise<string> {
    const line = await this.#lines[slot]?.next();
    assert.ok(line?.done === false, "the process ended");
    return line.value;
  }
}
