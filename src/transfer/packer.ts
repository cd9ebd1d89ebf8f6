/**
 * Packs what a trunk sends where that is worth it (src/core/packing.ts), and unpacks what it receives: zstd at its quickest useful level.
 */
import { performance } from "node:perf_hooks";
import { constants, crc32, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { Packing } from "../core/packing.ts";
import type { TransferClass } from "../core/schedule.ts";
import type { PackingKind } from "../wire/hello.ts";
import { packable, repackFrame, type Checksum, type Unpack } from "../wire/trunk-frames.ts";

const LEVEL = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };
/** Less is not worth the call. */
const BYTES_MIN = 1024;
/** How long the rate and the load are measured before they count. */
const WINDOW_MS = 100;
/** A link for which a connection waited so much of the time is full. */
const BUSY_SHARE = 0.8;

/** What this program can pack; Node has had zstd only since 22.15. */
export const PACKING: PackingKind = typeof zstdCompressSync === "function" ? "zstd" : "none";

/** How frames are checked and unpacked. */
export const FRAME_CODEC: { readonly checksum: Checksum; readonly unpack: Unpack } = {
  checksum: crc32,
  unpack: (bytes, byteCountMax) => zstdDecompressSync(bytes, { maxOutputLength: byteCountMax }),
};

export class Packer {
  readonly #packing = new Packing();
  readonly #hasTime: () => boolean;
  #load = performance.eventLoopUtilization();
  #window = { sinceMs: performance.now(), byteCount: 0, busyMs: 0 };

  constructor(hasTime: () => boolean) {
    this.#hasTime = hasTime;
  }

  /**
   * Packs a frame of data or pages in its place, if that is worth it.
   * @param frame what is written
   * @returns how long it is then
   */
  pack(of: TransferClass, frame: Uint8Array): number {
    const plain = packable(frame);
    if (plain.length < BYTES_MIN || !this.#hasTime() || !this.#packing.isWorth(of)) return frame.length;
    const beganAtMs = performance.now();
    const packed = zstdCompressSync(plain, LEVEL);
    this.#packing.packed(of, plain.length, packed.length, performance.now() - beganAtMs);
    return packed.length < plain.length ? repackFrame(frame, packed, crc32) : frame.length;
  }

  /** The kernel has taken so many bytes, for which a connection waited so long. */
  sent(byteCount: number, busyMs: number): void {
    this.#window.byteCount += byteCount;
    this.#window.busyMs += busyMs;
    const elapsedMs = performance.now() - this.#window.sinceMs;
    if (elapsedMs < WINDOW_MS) return;
    const load = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(load, this.#load);
    // Otherwise there was not enough to send to see what the link carries.
    if (this.#window.busyMs > elapsedMs * BUSY_SHARE) this.#packing.measured(this.#window.byteCount / elapsedMs, 1 - utilization);
    this.#load = load;
    this.#window = { sinceMs: performance.now(), byteCount: 0, busyMs: 0 };
  }
}
