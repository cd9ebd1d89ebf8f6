/** A copy of a process's memory that is made while it runs, as a migration makes it, by a tracker that is tested. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Pagemap } from "../../kernel/pagemap.ts";
import { readAllMemory, readMemory } from "../../kernel/process-memory.ts";
import { stateOf } from "../../kernel/tasks.ts";
import { PAGE_BYTES } from "../page-protocol.ts";
import { trackedMappings, type DirtyTracker } from "./tracker.ts";

export class Copy implements Disposable {
  readonly pid: number;
  readonly #tracker: DirtyTracker;
  /** By address; undefined for one that was told and could not be read. */
  readonly #pages = new Map<number, Buffer | undefined>();

  constructor(pid: number, tracker: DirtyTracker) {
    this.pid = pid;
    this.#tracker = tracker;
  }

  /** Copies what was written since the last time; returns how many pages were told. */
  async round(): Promise<number> {
    await this.#tracker.follow();
    const told = await standing(this.pid, () => this.#tracker.written());
    let pageCount = 0;
    const bytes = Buffer.alloc(PAGE_BYTES);
    for (const { start, end } of told) {
      for (let at = start; at < end; at += PAGE_BYTES) {
        const isRead = readMemory(this.pid, at, bytes) === PAGE_BYTES;
        this.#pages.set(at, isRead ? Buffer.from(bytes) : undefined);
        if (isRead) this.#tracker.copied(at, bytes);
        pageCount += 1;
      }
    }
    return pageCount;
  }

  /**
   * Asserts that every page of the process was copied as it is, or could not be, or is told to have been written since.
   * @returns how many pages were right
   */
  assertComplete(): Promise<number> {
    return standing(this.pid, () => {
      const told = new Set<number>();
      for (const { start, end } of this.#tracker.writtenByNow()) for (let at = start; at < end; at += PAGE_BYTES) told.add(at);
      using pagemap = new Pagemap(this.pid);
      const { scans } = pagemap;
      const bytes = Buffer.alloc(PAGE_BYTES);
      let rightCount = 0;
      for (const mapping of trackedMappings(this.pid)) {
        for (const { start, end } of scans ? pagemap.present(mapping) : pagemap.presentByReading(mapping)) {
          for (let at = start; at < end; at += PAGE_BYTES) {
            if (told.has(at)) continue;
            readAllMemory(this.pid, at, bytes);
            if (!scans && bytes.every((byte) => byte === 0)) continue; // perhaps nobody wrote there
            const copy = this.#pages.get(at);
            const where = `page ${at.toString(16)} of ${mapping.start.toString(16)}-${mapping.end.toString(16)} ${mapping.path}`;
            assert.ok(this.#pages.has(at), `${where} was never told`);
            if (copy === undefined) continue;
            assert.ok(copy.equals(bytes), `${where} was written, and not told`);
            rightCount += 1;
          }
        }
      }
      return rightCount;
    });
  }

  [Symbol.dispose](): void {
    this.#tracker[Symbol.dispose]();
  }
}

/** Has a process stand still, each thread with no system call under way, as a frozen one does. */
async function standing<T>(pid: number, work: () => T): Promise<T> {
  process.kill(pid, "SIGSTOP");
  try {
    while (readdirSync(`/proc/${pid}/task`).some((tid) => stateOf(Number(tid)) !== "T")) await sleep(1);
    return work();
  } finally {
    process.kill(pid, "SIGCONT");
  }
}
