/**
 * The mappings of a process, as /proc/PID/maps tells them (proc_pid_maps(5)).
 */
import { readFileSync } from "node:fs";
import { unescapeOctal } from "./mountinfo.ts";

/** A mapping: bytes `start` up to the one before `end`. */
export interface MapsEntry {
  readonly start: number;
  readonly end: number;
  readonly readable: boolean;
  readonly writable: boolean;
  /** What is written there is seen by others who map it. */
  readonly shared: boolean;
  readonly offset: number;
  /** Of the file that is mapped, `major:minor`. */
  readonly device: string;
  /** 0n: no file, but anonymous memory. */
  readonly inode: bigint;
  /** Of a file, maybe with " (deleted)" behind it; or a name of the kernel's like `[heap]`; or "". */
  readonly path: string;
}

const LINE = /^([0-9a-f]+)-([0-9a-f]+) (.)(.).(.) ([0-9a-f]+) (\S+) (\d+) *(.*)$/;

/** proc_pid_smaps(5), VmFlags. */
const LOCKED = /^VmFlags:.* (lo|ht)\b/m;

/** The mappings of a process as they are now, in ascending order. Throws ENOENT or ESRCH if it has ended. */
export function mappingsOf(pid: number): MapsEntry[] {
  return parseMaps(readFileSync(`/proc/${pid}/maps`, "utf8"));
}

/** How the mappings of a process are read. */
export type ReadMappings = (pid: number) => readonly MapsEntry[];

/** Reads those of processes that stand still, of each once. */
export function standingMappings(): ReadMappings {
  const known = new Map<number, readonly MapsEntry[]>();
  return (pid) => {
    const mappings = known.get(pid) ?? mappingsOf(pid);
    known.set(pid, mappings);
    return mappings;
  };
}

/**
 * The mappings of a process that are locked (mlock(2)) or of huge pages, in ascending order. Takes the kernel some time. Throws ENOENT or
 * ESRCH if it has ended.
 */
export function lockedMappingsOf(pid: number): MapsEntry[] {
  const mappings = readFileSync(`/proc/${pid}/smaps`, "utf8").split(/^(?=[0-9a-f]+-)/m);
  return parseMaps(mappings.filter((text) => LOCKED.test(text)).join(""));
}

/** Parses the text of such a file, in ascending order of addresses. Addresses of the kernel's half, like `[vsyscall]`, are left out. */
export function parseMaps(text: string): MapsEntry[] {
  const mappings: MapsEntry[] = [];
  for (const line of text.split("\n")) {
    const [, start = "", end = "", r, w, s, offset = "", device = "", inode = "0", path = ""] = LINE.exec(line) ?? [];
    if (start === "" || start.length === 16) continue;
    mappings.push({
      start: Number.parseInt(start, 16),
      end: Number.parseInt(end, 16),
      readable: r === "r",
      writable: w === "w",
      shared: s === "s",
      offset: Number.parseInt(offset, 16),
      device,
      inode: BigInt(inode),
      path: unescapeOctal(path),
    });
  }
  return mappings;
}
