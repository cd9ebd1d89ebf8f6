/**
 * A file of our own among CRIU's images: which shared memory is empty in them, and where a task has it mapped. Its content has been sent
 * apart, and belongs there before the tasks run.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import * as z from "zod";
import { DmigrateError } from "../core/errors.ts";

const NAME = "shared-memory.json";

const number = z.int().nonnegative();
const emptied = z.object({
  /** Its number in the rounds of shared memory. */
  object: number.min(1),
  /** In bytes. */
  size: number,
  /** The process id inside the container of one that has it mapped, from `start` up to the one before `end`. */
  process: number.min(1),
  start: number,
  end: number,
});

/** Shared memory that lacks its content. */
export type EmptiedMemory = Readonly<z.infer<typeof emptied>>;

/** Writes it into a folder of images. */
export function writeEmptied(images: string, objects: readonly EmptiedMemory[]): void {
  writeFileSync(`${images}/${NAME}`, JSON.stringify(objects), { mode: 0o600 });
}

/** Reads it; a source that has hidden none has not written it. Throws PROTOCOL if it is not as it should be. */
export function readEmptied(images: string): readonly EmptiedMemory[] {
  const file = `${images}/${NAME}`;
  if (!existsSync(file)) return [];
  try {
    return z.array(emptied).parse(JSON.parse(readFileSync(file, "utf8")));
  } catch (error) {
    const text = "The source's list of shared memory can't be read; update both agents to the same release";
    throw new DmigrateError("PROTOCOL", text, error);
  }
}
