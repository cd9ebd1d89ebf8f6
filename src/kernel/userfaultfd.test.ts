/** A userfaultfd of this very process: what can be put where, and why not. Events are shown by src/agent/target/pages.test.ts. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { declare, failedWith, must } from "./libc.ts";
import { Userfaultfd } from "./userfaultfd.ts";

const PAGE = 4096;
const USERFAULTFD = process.arch === "x64" ? 323 : 282;
const O_CLOEXEC_NONBLOCK = 0o2004000;
const UFFDIO_API = 0xc018aa3f;
const UFFDIO_REGISTER = 0xc020aa00;

const libc = {
  syscall: declare<(number: number, flags: number) => number>("long syscall(long number, long flags)"),
  ioctl: declare<(fd: number, request: number, argument: BigUint64Array) => number>("int ioctl(int fd, unsigned long request, void *arg)"),
  mmap: declare<(at: number, bytes: number, prot: number, flags: number, fd: number, offset: number) => number>(
    "intptr_t mmap(uintptr_t addr, size_t length, int prot, int flags, int fd, long offset)",
  ),
  munmap: declare<(at: number, bytes: number) => number>("int munmap(uintptr_t addr, size_t length)"),
  peek: declare<(into: Uint8Array, from: bigint, bytes: number) => number>("intptr_t memcpy(void *dst, void *src, size_t n)"),
};

/** So many pages of this process that are missing until somebody puts them there. */
class Missing implements Disposable {
  readonly userfaultfd = new Userfaultfd(must("userfaultfd", libc.syscall(USERFAULTFD, O_CLOEXEC_NONBLOCK)));
  readonly start: number;
  readonly #bytes: number;

  constructor(pageCount: number) {
    this.#bytes = pageCount * PAGE;
    this.start = must("mmap", libc.mmap(0, this.#bytes, 3, 0x22, -1, 0)); // PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
    must("ioctl", libc.ioctl(this.userfaultfd.fd, UFFDIO_API, BigUint64Array.of(0xaan, 0n, 0n)));
    const range = [BigInt(this.start), BigInt(this.#bytes)] as const;
    must("ioctl", libc.ioctl(this.userfaultfd.fd, UFFDIO_REGISTER, BigUint64Array.of(...range, 1n, 0n)));
  }

  /** Of pages that are there. */
  peek(page: number): Buffer {
    const bytes = Buffer.alloc(PAGE);
    libc.peek(bytes, BigInt(this.start + page * PAGE), PAGE);
    return bytes;
  }

  [Symbol.dispose](): void {
    this.userfaultfd[Symbol.dispose]();
    must("munmap", libc.munmap(this.start, this.#bytes));
  }
}

void describe("a userfaultfd", { timeout: 60_000 }, () => {
  void it("takes pages from anywhere in a buffer, and zeros", () => {
    using missing = new Missing(3);
    const bytes = Buffer.alloc(2 * PAGE + 100, "ab");
    assert.deepEqual(missing.userfaultfd.copy(missing.start, bytes.subarray(100)), { byteCount: 2 * PAGE });
    assert.deepEqual(missing.userfaultfd.zero(missing.start + 2 * PAGE, PAGE), { byteCount: PAGE });
    assert.deepEqual(Buffer.concat([missing.peek(0), missing.peek(1)]), bytes.subarray(100));
    assert.deepEqual(missing.peek(2), Buffer.alloc(PAGE));
    missing.userfaultfd.wake(missing.start, missing.start + PAGE);
    assert.deepEqual(missing.userfaultfd.read(), []);
  });

  void it("never replaces a page, and puts what lies before it", () => {
    using missing = new Missing(3);
    const { userfaultfd, start } = missing;
    assert.deepEqual(userfaultfd.copy(start + PAGE, Buffer.alloc(PAGE, "old")), { byteCount: PAGE });
    assert.deepEqual(userfaultfd.copy(start, Buffer.alloc(3 * PAGE, "new")), { byteCount: PAGE });
    assert.deepEqual(userfaultfd.copy(start + PAGE, Buffer.alloc(2 * PAGE, "new")), { byteCount: 0, obstacle: "present" });
    assert.deepEqual(userfaultfd.zero(start + PAGE, PAGE), { byteCount: 0, obstacle: "present" });
    assert.deepEqual(missing.peek(1), Buffer.alloc(PAGE, "old"));
  });

  void it("puts nothing where nothing is registered", () => {
    using missing = new Missing(1);
    const { userfaultfd, start } = missing;
    assert.deepEqual(userfaultfd.copy(start, Buffer.alloc(2 * PAGE)), { byteCount: 0, obstacle: "unmapped" });
    assert.deepEqual(userfaultfd.copy(PAGE, Buffer.alloc(PAGE)), { byteCount: 0, obstacle: "unmapped" });
    assert.throws(
      () => userfaultfd.copy(start + 1, Buffer.alloc(PAGE)),
      (error) => failedWith("EINVAL", error),
    );
  });
});
