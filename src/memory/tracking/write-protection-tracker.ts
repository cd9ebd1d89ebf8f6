/**
 * Tracks by asynchronous write protection (src/kernel/write-protection.ts): costs the process one page fault in the kernel for each page
 * that it writes between two calls, and each call about 5 microseconds a mapping and 10 ns a page that is there.
 *
 * A mapping that is not protected yet, because it is new, was moved, or came with another program, is told as a whole.
 */
import { readFileSync } from "node:fs";
import { DmigrateError } from "../../core/errors.ts";
import { Pagemap, type AddressRange } from "../../kernel/pagemap.ts";
import { WriteProtection, type OpenUserfaultfd } from "../../kernel/write-protection.ts";
import { trackedMappings, type DirtyTracker } from "./tracker.ts";

/** Of the fields behind the name, the first of which is the state. */
const [START_CODE, START_STACK] = [24, 26];

export class WriteProtectionTracker implements DirtyTracker {
  readonly #pid: number;
  readonly #openUserfaultfd: OpenUserfaultfd | undefined;
  #protection: WriteProtection;
  #program: string;

  private constructor(pid: number, program: string, protection: WriteProtection, open: OpenUserfaultfd | undefined) {
    this.#pid = pid;
    this.#program = program;
    this.#protection = protection;
    this.#openUserfaultfd = open;
  }

  /** Stops the process for some hundred microseconds. Throws KERNEL if it has ended, is traced, or the kernel can't do this. */
  static async begin(pid: number, open?: OpenUserfaultfd): Promise<WriteProtectionTracker> {
    const program = programOf(pid); // first: if it runs another one meanwhile, `follow` sees that
    return new WriteProtectionTracker(pid, program, await WriteProtection.begin(pid, open), open);
  }

  async follow(): Promise<void> {
    if (programOf(this.#pid) !== this.#program) await this.#renew();
  }

  written(): AddressRange[] {
    using pagemap = new Pagemap(this.#pid);
    const found: AddressRange[] = [];
    for (const mapping of trackedMappings(this.#pid)) {
      const written = pagemap.written(mapping);
      if (written !== undefined) {
        found.push(...written);
        continue;
      }
      this.#protection.add(mapping); // what can't be is told each time
      pagemap.written(mapping); // protects; what it tells may be less than all
      found.push(...pagemap.present(mapping));
    }
    return found;
  }

  writtenByNow(): AddressRange[] {
    using pagemap = new Pagemap(this.#pid);
    return trackedMappings(this.#pid).flatMap((mapping) => pagemap.writtenByNow(mapping) ?? pagemap.present(mapping));
  }

  copied(): void {
    // The kernel notes what is written, whatever was read.
  }

  /** The process runs another program, whose memory knows nothing of the old descriptor. */
  async #renew(): Promise<void> {
    try {
      const renewed = await WriteProtectionTracker.begin(this.#pid, this.#openUserfaultfd);
      this.#protection[Symbol.dispose]();
      this.#protection = renewed.#protection;
      this.#program = renewed.#program;
    } catch (error) {
      if (DmigrateError.from(error).code !== "KERNEL") throw error; // traced, or it does not stop just now: perhaps the next time
    }
  }

  [Symbol.dispose](): void {
    this.#protection[Symbol.dispose]();
  }
}

/** Where the program and its stack begin (proc_pid_stat(5)): exec(2) moves both, unless the kernel does not randomise. */
function programOf(pid: number): string {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    return text
      .slice(text.lastIndexOf(")"))
      .split(" ")
      .slice(START_CODE, START_STACK + 1)
      .join(" ");
  } catch {
    return ""; // it has ended
  }
}
