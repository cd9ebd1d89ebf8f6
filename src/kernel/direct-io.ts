/**
 * Whether a process reads or writes files past the page cache, with O_DIRECT of open(2): a device then writes into its memory by itself,
 * which shows in no page table.
 */
import { readdirSync, readFileSync } from "node:fs";

/** In octal, as proc_pid_fdinfo(5) has it; of x86-64, as most architectures. */
const O_DIRECT = 0o40000;

/** True if a descriptor of the process is for direct I/O. Throws ENOENT or ESRCH if it has ended. */
export function usesDirectIo(pid: number): boolean {
  const folder = `/proc/${pid}/fdinfo`;
  return readdirSync(folder).some((fd) => {
    try {
      const flags = /^flags:\s+(\d+)$/m.exec(readFileSync(`${folder}/${fd}`, "utf8"))?.[1] ?? "0";
      return (Number.parseInt(flags, 8) & O_DIRECT) !== 0;
    } catch {
      return false; // it was closed meanwhile
    }
  });
}
