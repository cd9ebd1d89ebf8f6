/**
 * Whether something other than its own tasks may write into the memory of a process that stands still: the kernel does so for asynchronous
 * I/O that is under way (io_submit(2), io_uring(7)), past the page tables. What tasks do themselves, direct I/O too, is over by then.
 */
import { readdirSync, readlinkSync } from "node:fs";
import { mappingsOf } from "./maps.ts";

/** What /proc/PID/maps calls the ring of a context for asynchronous I/O (fs/aio.c). */
const AIO_RING = "/[aio]";
const IO_URING = "anon_inode:[io_uring]";

/** True if it has the means for asynchronous I/O, in any of its threads. Throws ENOENT or ESRCH if it has ended. */
export function hasUnseenWriters(pid: number): boolean {
  const paths = mappingsOf(pid).map(({ path }) => path);
  if (paths.some((path) => path.startsWith(AIO_RING) || path.startsWith(IO_URING))) return true;
  return readdirSync(`/proc/${pid}/task`).some((tid) => hasIoUring(`/proc/${pid}/task/${tid}/fd`));
}

function hasIoUring(folder: string): boolean {
  return readdirSync(folder).some((fd) => readlinkSync(`${folder}/${fd}`).startsWith(IO_URING));
}
