/**
 * Gives restored tasks, of which none runs yet, the content of the memory that they share.
 */
import { closeSync, fstatSync, openSync } from "node:fs";
import { DmigrateError } from "../core/errors.ts";
import { mappedFile } from "../kernel/shared-objects.ts";
import { dataExtents } from "../kernel/sparse.ts";
import { PAGE_BYTES } from "./page-protocol.ts";
import type { PageStore } from "./page-store.ts";

/** Memory that was restored empty, and where one of the tasks has it mapped. */
export interface EmptyMemory {
  /** By which the store has its content. */
  readonly object: number;
  /** In bytes. */
  readonly size: number;
  /** A process id inside the container. */
  readonly process: number;
  readonly start: number;
  readonly end: number;
}

/**
 * Moves it from the store to where it belongs. Throws RESTORE_FAILED if that is not what CRIU was to restore, KERNEL.
 * @param tasks process ids on this host by those inside the container
 */
export async function fillShared(store: PageStore, objects: readonly EmptyMemory[], tasks: ReadonlyMap<number, number>): Promise<void> {
  for (const { object, size, process, start, end } of objects) {
    const file = openMapped(tasks.get(process), { start, end });
    try {
      if (file === undefined || fstatSync(file).size !== size || dataExtents(file, size).next().done !== true)
        throw new DmigrateError(
          "RESTORE_FAILED",
          `CRIU did not restore the shared memory of process ${process} empty; please report this as a bug`,
        );
      await store.moveTo(object, file, size / PAGE_BYTES);
    } finally {
      if (file !== undefined) closeSync(file);
    }
  }
}

/** undefined if there is no such mapping. */
function openMapped(pid: number | undefined, range: { readonly start: number; readonly end: number }): number | undefined {
  if (pid === undefined) return undefined;
  try {
    return openSync(mappedFile(pid, range), "r+");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}
