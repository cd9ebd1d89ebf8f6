/**
 * What lies at a path of this host, how much, and where something lies.
 */
import { execFile } from "node:child_process";
import { stat } from "node:fs/promises";
import { DmigrateError } from "../core/errors.ts";
import type { PathKind } from "../core/preflight-facts.ts";

/** Follows symbolic links, as a bind mount does. */
export async function pathKind(path: string): Promise<PathKind> {
  try {
    const found = await stat(path);
    if (found.isDirectory()) return "directory";
    if (found.isSocket()) return "socket";
    return found.isFile() ? "file" : "device";
  } catch {
    return "missing";
  }
}

/** Disk space that a tree takes, without what is mounted in it. What vanishes meanwhile is not counted. Throws ROOTFS. */
export async function treeBytes(folder: string): Promise<number> {
  const { stdout, stderr } = await outputOf("du", ["--summarize", "--one-file-system", "--block-size=1", "--", folder]);
  const bytes = Number.parseInt(stdout, 10);
  if (Number.isNaN(bytes)) throw new DmigrateError("ROOTFS", `Could not measure ${folder}: ${stderr.trim()}; check that it is there`);
  return bytes;
}

/** What can stand in a line of CRIU's configuration without meaning anything else there. */
const PLAIN = /^[^\s"'#\\\p{Cc}]+$/u;

/** An inode number and where it lies. */
export type InodePath = readonly [inode: number, path: string];

/** Those paths that can stand in CRIU's configuration: the container chooses its names. */
export function plainPaths(paths: readonly InodePath[]): Map<number, string> {
  return new Map(paths.filter(([, path]) => PLAIN.test(path)));
}

/**
 * Where the files with these inode numbers lie below `root`, without what is mounted in it: paths from `root`, which is a container's.
 * A file without a path is missing; one with several is there several times.
 */
export async function pathsOf(root: string, inodes: readonly number[]): Promise<InodePath[]> {
  if (inodes.length === 0) return [];
  const wanted = [...new Set(inodes)].flatMap((inode) => ["-o", "-inum", String(inode)]).slice(1);
  const { stdout } = await outputOf("find", [`${root}/`, "-xdev", "(", ...wanted, ")", "-printf", "%i /%P\\0"]);
  const found = stdout.split("\0").map((line) => /^(\d+) (.+)$/s.exec(line));
  return found.flatMap((line) => (line === null ? [] : [[Number(line[1]), line[2] ?? ""] as const]));
}

/** What a program says even if it fails: files come and go while it looks at them. */
function outputOf(program: string, args: readonly string[]): Promise<{ stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(program, args, { cwd: "/" }, (error, stdout, stderr) => resolve({ stdout, stderr: stderr || (error?.message ?? "") }));
  });
}
