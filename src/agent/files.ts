/**
 * The agent's own files and folders: those that must be whole and on disk, whatever happens, and where they lie.
 */
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { DmigrateError, messageOf } from "../core/errors.ts";

/** Replaces a file at once, readable by its owner alone: afterwards, even after a power failure, it is the old one or the new one. */
export function writeDurably(path: string, content: string): void {
  const temporary = `${path}.new`;
  writeFileSync(temporary, content, { mode: 0o600, flush: true });
  renameSync(temporary, path);
  const dir = openSync(dirname(path), "r");
  try {
    fsyncSync(dir);
  } finally {
    closeSync(dir);
  }
}

/**
 * Makes a folder, and those above it, unless they are there. (Node's own way goes on for ever where a kernel answers ENOENT, as in /proc.)
 * Throws AGENT.
 */
export function makeFolder(folder: string, mode: number): void {
  try {
    if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() === true) return;
    makeFolder(dirname(folder), mode);
    mkdirSync(folder, { mode });
  } catch (error) {
    if (error instanceof DmigrateError) throw error;
    const text = `Cannot make the folder ${folder} (${messageOf(error)}); choose another with --state-dir or --run-dir`;
    throw new DmigrateError("AGENT", text, error);
  }
}
