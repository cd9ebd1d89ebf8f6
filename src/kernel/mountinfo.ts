/**
 * The mounts that a process sees: /proc/PID/mountinfo, read into values. Pure.
 */

/** A line of /proc/PID/mountinfo (proc_pid_mountinfo(5)). */
export interface Mount {
  readonly id: number;
  /** `MAJOR:MINOR`. */
  readonly device: string;
  /** The directory of the file system that is mounted. */
  readonly root: string;
  readonly path: string;
  readonly type: string;
  /** Of the file system, like `lowerdir=...,upperdir=...`. */
  readonly options: string;
}

export function parseMountinfo(text: string): Mount[] {
  return text.split("\n").flatMap((line) => {
    const [front = "", back = ""] = line.split(" - ");
    const [id, , device, root, path] = front.split(" ");
    const [type, , options] = back.split(" ");
    if (device === undefined || root === undefined || path === undefined || type === undefined || options === undefined) return [];
    return [{ id: Number(id), device, root: unescapeOctal(root), path: unescapeOctal(path), type, options: unescapeOctal(options) }];
  });
}

/** The kernel writes blanks and the like in paths as \040 (seq_path). */
export function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
