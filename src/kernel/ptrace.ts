/**
 * Threads of other processes, stopped for a moment, and their registers (ptrace(2)). On x86-64. Only the thread that seized one may do the
 * rest, so all of this is synchronous.
 */
import { declare, mustUnless } from "./libc.ts";

/** <sys/ptrace.h>, <sys/wait.h>. */
const PTRACE = {
  SINGLESTEP: 9,
  GETREGS: 12,
  SETREGS: 13,
  DETACH: 17,
  SEIZE: 0x4206,
  INTERRUPT: 0x4207,
  GETSIGMASK: 0x420a,
  SETSIGMASK: 0x420b,
} as const;
/** Seccomp filters do not look at what a thread does while it is traced (needs CAP_SYS_ADMIN). */
const SUSPEND_SECCOMP = 1 << 21;
const WAIT = { NOHANG: 1, ALL: 0x4000_0000 } as const;
const EPERM = 1;
const ESRCH = 3;
/** <sys/user.h>, struct user_regs_struct: 8 bytes each, in this order. */
const REGISTERS = [
  "r15",
  "r14",
  "r13",
  "r12",
  "bp",
  "bx",
  "r11",
  "r10",
  "r9",
  "r8",
  "ax",
  "cx",
  "dx",
  "si",
  "di",
  "orig_ax",
  "ip",
  "cs",
] as const;
const REGISTERS_BYTES = 27 * 8;
const SIGNAL_MASK_BYTES = 8;

const ptrace = declare<(request: number, tid: number, address: number, data: Buffer | null) => number>(
  "long ptrace(int request, int pid, uintptr_t addr, void *data)",
);
const ptraceOptions = declare<(request: number, tid: number, address: number, options: number) => number>(
  "long ptrace(int request, int pid, uintptr_t addr, uintptr_t data)",
);
const waitpid = declare<(tid: number, status: Buffer, options: number) => number>("int waitpid(int pid, void *status, int options)");

/** A register by the kernel's name for it. */
export type RegisterName = (typeof REGISTERS)[number];

/** The registers of a thread, as they were when they were read. */
export class Registers {
  readonly bytes: Buffer = Buffer.alloc(REGISTERS_BYTES);

  /** The same, to be changed on its own. */
  copy(): Registers {
    const registers = new Registers();
    this.bytes.copy(registers.bytes);
    return registers;
  }

  get(name: RegisterName): bigint {
    return this.bytes.readBigUInt64LE(8 * REGISTERS.indexOf(name));
  }

  set(name: RegisterName, value: bigint): void {
    this.bytes.writeBigUInt64LE(BigInt.asUintN(64, value), 8 * REGISTERS.indexOf(name));
  }
}

/** A seized thread. Disposing of it, or the end of this process, lets it go on. */
export class Tracee implements Disposable {
  readonly tid: number;
  #hasStopped = false;
  readonly #status = Buffer.alloc(4);

  private constructor(tid: number) {
    this.tid = tid;
  }

  /**
   * Seizes a thread and asks it to stop; undefined if it has ended, or somebody else traces it. Throws KERNEL.
   * @param options `suspendsSeccomp`: while it is seized, its seccomp filters do not look at what it does
   */
  static seize(tid: number, { suspendsSeccomp = false }: { readonly suspendsSeccomp?: boolean } = {}): Tracee | undefined {
    const options = suspendsSeccomp ? SUSPEND_SECCOMP : 0;
    if (mustUnless("ptrace", ptraceOptions(PTRACE.SEIZE, tid, 0, options), ESRCH, EPERM) === undefined) return undefined;
    const tracee = new Tracee(tid);
    mustUnless("ptrace", ptrace(PTRACE.INTERRUPT, tid, 0, null), ESRCH);
    return tracee;
  }

  /** Whether it has stopped; from then on it stays so. Of a child of this process libuv may learn it instead. */
  get hasStopped(): boolean {
    this.#hasStopped ||= waitpid(this.tid, this.#status, WAIT.NOHANG | WAIT.ALL) === this.tid;
    return this.#hasStopped;
  }

  /** The number of the signal that has stopped it; what asked it to stop shows as SIGTRAP. */
  get stopSignal(): number {
    return this.#status.readUInt8(1);
  }

  /** Of a stopped one; undefined if it has ended. Throws KERNEL. */
  registers(): Registers | undefined {
    const registers = new Registers();
    const result = mustUnless("ptrace", ptrace(PTRACE.GETREGS, this.tid, 0, registers.bytes), ESRCH);
    return result === undefined ? undefined : registers;
  }

  /** Of a stopped one; nothing if it has ended. Throws KERNEL. */
  setRegisters(registers: Registers): void {
    mustUnless("ptrace", ptrace(PTRACE.SETREGS, this.tid, 0, registers.bytes), ESRCH);
  }

  /** The signals that a stopped one blocks; undefined if it has ended. Throws KERNEL. */
  signalMask(): bigint | undefined {
    const mask = Buffer.alloc(SIGNAL_MASK_BYTES);
    const result = mustUnless("ptrace", ptrace(PTRACE.GETSIGMASK, this.tid, SIGNAL_MASK_BYTES, mask), ESRCH);
    return result === undefined ? undefined : mask.readBigUInt64LE();
  }

  /** Has a stopped one block these signals; nothing if it has ended. Throws KERNEL. */
  setSignalMask(signals: bigint): void {
    const mask = Buffer.alloc(SIGNAL_MASK_BYTES);
    mask.writeBigUInt64LE(signals);
    mustUnless("ptrace", ptrace(PTRACE.SETSIGMASK, this.tid, SIGNAL_MASK_BYTES, mask), ESRCH);
  }

  /** Lets a stopped one run one instruction, after which it stops again; nothing if it has ended. Throws KERNEL. */
  step(): void {
    this.#hasStopped = false;
    mustUnless("ptrace", ptrace(PTRACE.SINGLESTEP, this.tid, 0, null), ESRCH);
  }

  [Symbol.dispose](): void {
    // One that has ended stays a zombie, and its parent without news, until its tracer has taken notice.
    if (ptrace(PTRACE.DETACH, this.tid, 0, null) === -1) waitpid(this.tid, Buffer.alloc(4), WAIT.NOHANG | WAIT.ALL);
  }
}
