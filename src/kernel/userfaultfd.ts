/**
 * Page faults of other processes, served from here: userfaultfd in missing mode with its events (userfaultfd(2), ioctl_userfaultfd(2),
 * the kernel's Documentation/admin-guide/mm/userfaultfd.rst).
 *
 * Addresses and sizes are in bytes and multiples of the page size. While a process changes its mappings it waits until the event of
 * that has been read, and nothing can be put into it; so whoever reads all events first never puts a page where it does not belong.
 */
import { closeSync } from "node:fs";
import { addressOf, declare, kernelError, must, orErrno } from "./libc.ts";

const UFFDIO_WAKE = 0x8010aa02;
const UFFDIO_COPY = 0xc028aa03;
const UFFDIO_ZEROPAGE = 0xc020aa04;

const EVENT = { FAULT: 0x12, FORK: 0x13, REMAP: 0x14, REMOVE: 0x15, UNMAP: 0x16 } as const;
const MESSAGE_BYTES = 32; // struct uffd_msg: u8 event; at 8 up to three u64 of arguments
const MESSAGES_MAX = 64;

const [ENOENT, EAGAIN, ENOMEM, EEXIST, ENOSPC, ESRCH] = [2, 11, 12, 17, 28, 3];

const ioctl = declare<(fd: number, request: number, argument: BigUint64Array) => number>(
  "int ioctl(int fd, unsigned long request, void *argument)",
);
const read = declare<(fd: number, into: Uint8Array, bytes: number) => number>("long read(int fd, void *buf, size_t count)");

/** What happened to the memory of a process. It waits until the event was read; after a fault, until there is a page. */
export type UserfaultEvent =
  | { readonly kind: "fault"; readonly address: number }
  /** The child lacks the pages that its parent lacks now; the descriptor for it is the reader's. */
  | { readonly kind: "fork"; readonly child: Userfaultfd }
  | { readonly kind: "remap"; readonly from: number; readonly to: number; readonly byteCount: number }
  /** Unmapped, or emptied by madvise(2): what comes there next begins with zeros. */
  | { readonly kind: "removed"; readonly start: number; readonly end: number };

/**
 * Why not everything was put into a process. `present`: it has the page. `changing`: it is changing its mappings; there are events to
 * be read, or it has not gone on since they were. `unmapped`: not all of it lies in one registered mapping. `ended`: the process has.
 * `no-memory`: neither has the kernel, or the process's cgroup.
 */
export type Obstacle = "present" | "changing" | "unmapped" | "ended" | "no-memory";

/** What was put into a process: so many bytes from the beginning, and why not more. */
export interface Filled {
  readonly byteCount: number;
  readonly obstacle?: Obstacle;
}

const OBSTACLES: ReadonlyMap<number, Obstacle> = new Map([
  [EEXIST, "present"],
  [EAGAIN, "changing"],
  [ENOENT, "unmapped"],
  [ESRCH, "ended"],
  [ENOSPC, "ended"],
  [ENOMEM, "no-memory"],
]);

const messages = Buffer.alloc(MESSAGE_BYTES * MESSAGES_MAX);
const argument = new BigUint64Array(5);
const results = new BigInt64Array(argument.buffer);

/** One process's faults. When the last descriptor of it is closed, the kernel gives zero pages for all that are missing. */
export class Userfaultfd implements Disposable {
  /** Not blocking; to be waited for with `InputWatch`. */
  readonly fd: number;

  /** Takes over a descriptor on which UFFDIO_API was done. */
  constructor(fd: number) {
    this.fd = fd;
  }

  /** The events that are there, in order. Throws KERNEL. */
  read(): UserfaultEvent[] {
    const size = orErrno(read(this.fd, messages, messages.length));
    if (size === -EAGAIN) return [];
    if (size < 0) throw kernelError("read", -size);
    return Array.from({ length: size / MESSAGE_BYTES }, (_, at) => decode(messages.subarray(at * MESSAGE_BYTES)));
  }

  /** Puts bytes where there are no pages, and wakes who waits there. Throws KERNEL. */
  copy(address: number, bytes: Uint8Array): Filled {
    argument[0] = BigInt(address);
    argument[1] = addressOf(bytes);
    argument[2] = BigInt(bytes.length);
    argument[3] = 0n;
    argument[4] = 0n;
    return filled(orErrno(ioctl(this.fd, UFFDIO_COPY, argument)), 4, bytes.length);
  }

  /** Puts zeros where there are no pages, and wakes who waits there. Throws KERNEL. */
  zero(address: number, byteCount: number): Filled {
    argument[0] = BigInt(address);
    argument[1] = BigInt(byteCount);
    argument[2] = 0n;
    argument[3] = 0n;
    return filled(orErrno(ioctl(this.fd, UFFDIO_ZEROPAGE, argument)), 3, byteCount);
  }

  /** Lets who waits in the range try again. Throws KERNEL. */
  wake(start: number, end: number): void {
    argument[0] = BigInt(start);
    argument[1] = BigInt(end - start);
    must("ioctl", ioctl(this.fd, UFFDIO_WAKE, argument));
  }

  /** The other descriptors of the same process stay. */
  [Symbol.dispose](): void {
    closeSync(this.fd);
  }
}

/** @param resultAt where in the argument the kernel says how many bytes it filled; if none, it leaves it or puts the negative errno */
function filled(result: number, resultAt: number, byteCount: number): Filled {
  if (result === 0) return { byteCount };
  const done = Number(results[resultAt]);
  if (done > 0) return { byteCount: done };
  const obstacle = OBSTACLES.get(-result);
  if (obstacle === undefined) throw kernelError("ioctl", -result);
  return { byteCount: 0, obstacle };
}

function decode(message: Buffer): UserfaultEvent {
  const argumentAt = (at: number): number => Number(message.readBigUInt64LE(8 + 8 * at));
  const event = message.readUInt8(0);
  switch (event) {
    case EVENT.FAULT:
      return { kind: "fault", address: argumentAt(1) };
    case EVENT.FORK:
      return { kind: "fork", child: new Userfaultfd(message.readUInt32LE(8)) };
    case EVENT.REMAP:
      return { kind: "remap", from: argumentAt(0), to: argumentAt(1), byteCount: argumentAt(2) };
    case EVENT.REMOVE:
    case EVENT.UNMAP:
      return { kind: "removed", start: argumentAt(0), end: argumentAt(1) };
    default:
      throw kernelError(`userfaultfd event ${event}`, 22);
  }
}
