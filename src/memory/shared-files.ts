/**
 * The store's own files as the memory that restored tasks share: what was copied ahead is mapped by them, and not copied once more.
 */
import { fstatSync, statSync, type Stats } from "node:fs";
import { DmigrateError } from "../core/errors.ts";
import { mappedFile } from "../kernel/shared-objects.ts";
import { PAGE_BYTES } from "./page-protocol.ts";
import type { PageStore } from "./page-store.ts";

/** Memory that was copied ahead, and where one of the tasks has it mapped. */
export interface SharedFile {
  /** By which the store has its content. */
  readonly object: number;
  /** In bytes. */
  readonly size: number;
  /** A process id inside the container. */
  readonly process: number;
  readonly start: number;
  readonly end: number;
}

/** The descriptor of its file, to be mapped; what is still to come may come into it. Throws KERNEL. */
export function sharedFile(store: PageStore, { object, size }: SharedFile): number {
  return store.fileOf(object, size / PAGE_BYTES);
}

/**
 * All content has come, and the tasks are restored; none runs yet. Throws RESTORE_FAILED if one does not have the file that it was to have,
 * KERNEL.
 * @param tasks process ids on this host by those inside the container
 */
export function assertMapped(store: PageStore, files: readonly SharedFile[], tasks: ReadonlyMap<number, number>): void {
  for (const file of files) {
    const { ino, dev, size } = fstatSync(sharedFile(store, file));
    const mapped = mappedBy(tasks.get(file.process), file);
    if (mapped?.ino !== ino || mapped.dev !== dev || size !== file.size)
      throw new DmigrateError(
        "RESTORE_FAILED",
        `CRIU did not map the shared memory of process ${file.process} that it was given; please report this as a bug`,
      );
  }
}

/** undefined if there is no such mapping. */
function mappedBy(pid: number | undefined, range: { readonly start: number; readonly end: number }): Stats | undefined {
  return pid === undefined ? undefined : statSync(mappedFile(pid, range), { throwIfNoEntry: false });
}
