/**
 * A process that does nothing but have memory where it is told to: it was stopped, gave up all that it had, and makes system calls for us
 * alone. When this is disposed of, or this process dies, it ends: it has no program to run. On x86-64.
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import type { AddressRange } from "./pagemap.ts";
import { killProcess } from "./pidfd.ts";
import { writeMemory } from "./process-memory.ts";
import { StoppedThread, SYSCALL } from "./remote-call.ts";

const CALL = { close: 3, mmap: 9, munmap: 11, pidfdOpen: 434, pidfdGetfd: 438 } as const;
const PAGE_BYTES = 4096;
/** How long its program may take to start, on a host that is busy. */
const START_LIMIT_MS = 5_000;
const PROTECTION = { NONE: 0, READ_WRITE: 3, READ_EXECUTE: 5 } as const;
/** MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED; the same and MAP_POPULATE; MAP_PRIVATE | MAP_FIXED. */
const [FIXED, POPULATED, FIXED_FILE] = [0x32, 0x8032, 0x12];
/** Every address of a program is below, with four levels of page tables; above are those that a program must ask for. */
const ADDRESSES_END = 0x7fff_ffff_f000;

/** Whether this is a processor whose calls this knows. */
export function canPuppet(): boolean {
  return process.arch === "x64";
}

export class Puppet implements Disposable {
  readonly pid: number;
  readonly #thread: StoppedThread;
  /** Of its one page that is left: there lies the instruction that makes system calls. */
  readonly #instruction: number;

  private constructor(pid: number, thread: StoppedThread, instruction: number) {
    this.pid = pid;
    this.#thread = thread;
    this.#instruction = instruction;
  }

  /**
   * Makes one.
   * @param free a page that will not be asked for
   */
  static async begin(free: number): Promise<Puppet> {
    // Not a child of this process: libuv would take notice of its stops. Without rseq(2), which wants memory of it as long as it runs.
    const env = { ...process.env, GLIBC_TUNABLES: "glibc.pthread.rseq=0" };
    const { stdout } = await promisify(execFile)("sh", ["-c", "sleep infinity <&- >&- 2>&- & echo $!"], { env });
    const pid = Number(stdout);
    try {
      using held = new DisposableStack();
      const thread = held.use(await StoppedThread.of(pid, START_LIMIT_MS));
      await thread.call("mmap", CALL.mmap, [free, PAGE_BYTES, PROTECTION.READ_EXECUTE, FIXED, -1, 0]);
      writeMemory(pid, free, SYSCALL);
      const puppet = new Puppet(pid, thread, free);
      await puppet.clear();
      held.move();
      return puppet;
    } catch (error) {
      killProcess(pid);
      throw error;
    }
  }

  /** Gives all its memory up. Throws KERNEL if it has been killed. */
  async clear(): Promise<void> {
    await this.unmap({ start: 0, end: this.#instruction });
    await this.unmap({ start: this.#instruction + PAGE_BYTES, end: ADDRESSES_END });
  }

  /** Has memory there, every page of it. Throws KERNEL. */
  async populate({ start, end }: AddressRange): Promise<void> {
    await this.call("mmap", CALL.mmap, [start, end - start, PROTECTION.READ_WRITE, POPULATED, -1, 0]);
  }

  /**
   * Has a file there from `offset` on, in place of what was there, and no page of it. Throws KERNEL.
   * @param fd a descriptor of this process, each a new one: the kernel would join mappings of the same
   */
  async map({ start, end }: AddressRange, fd: number, offset: number): Promise<void> {
    const self = await this.call("pidfd_open", CALL.pidfdOpen, [process.pid, 0]);
    const file = await this.call("pidfd_getfd", CALL.pidfdGetfd, [self, fd, 0]);
    await this.call("mmap", CALL.mmap, [start, end - start, PROTECTION.NONE, FIXED_FILE, file, offset]);
    for (const each of [file, self]) await this.call("close", CALL.close, [each]);
  }

  /** Has nothing there. Throws KERNEL. */
  async unmap({ start, end }: AddressRange): Promise<void> {
    await this.call("munmap", CALL.munmap, [start, end - start]);
  }

  /** Makes a system call; returns its result or throws KERNEL. */
  call(name: string, number: number, args: readonly (number | bigint)[]): Promise<bigint> {
    return this.#thread.call(name, number, args, BigInt(this.#instruction));
  }

  [Symbol.dispose](): void {
    this.#thread[Symbol.dispose](); // first: else its end would be told to us, and nobody take notice of it
    killProcess(this.pid);
  }
}
