/**
 * Writing dirty pages of files to the disk (sync_file_range(2), syncfs(2)).
 */
import koffi from "koffi";
import { DmigrateError } from "../core/errors.ts";
import { declare, kernelError, must } from "./libc.ts";

const SYNC_FILE_RANGE_WAIT_BEFORE = 1;
const SYNC_FILE_RANGE_WRITE = 2;

const syncFileRange = declare<(fd: number, offset: number, bytes: number, flags: number) => number>(
  "int sync_file_range(int fd, long offset, long nbytes, unsigned int flags)",
);
const syncfs = declare<(fd: number) => number>("int syncfs(int fd)");

/**
 * Begins to write a range of a file's dirty pages out. What counts here is a side effect: the pages become read-only in every process
 * that maps them, so that the next store into such a mapping moves the file's times. Without it a store into a page that is dirty
 * already leaves no trace (mm/page-writeback.c, folio_clear_dirty_for_io; mm/memory.c, do_page_mkwrite). Has no effect on tmpfs.
 *
 * Pages under writeback at this moment are waited for, as they may have been written to since. Throws KERNEL.
 */
export function beginWriteback(fd: number, offset: number, length: number): void {
  must("sync_file_range", syncFileRange(fd, offset, length, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE));
}

/** Writes everything of the file system that `fd` lies on to the disk and resolves when it is there. Rejects with KERNEL. */
export function syncFileSystem(fd: number): Promise<void> {
  return new Promise((resolve, reject) => {
    syncfs.async(fd, (error: unknown, result: number) => {
      const errno = result === -1 ? koffi.errno() : 0;
      if (error !== null) reject(DmigrateError.from(error));
      else if (errno !== 0) reject(kernelError("syncfs", errno));
      else resolve();
    });
  });
}
