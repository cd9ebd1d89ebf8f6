/**
 * Keeps CRIU on the target from making the source host's other cgroups there.
 *
 * CRIU dumps the tree of cgroups below the one that its tasks are in, for each controller (criu/cgroup.c, collect_cgroups), and a restore
 * makes those that are missing. Where a host has a hierarchy that its engine does not use, tasks are in the root of it, and the tree is
 * the whole host's, with other containers.
 *
 * Pure. A controller without a tree is one whose cgroups are all there, into whose root the tasks can go.
 */
import { entriesOf, fieldsOf } from "./image-entries.ts";

/** images/cgroup.proto: cgroup_entry, cg_controller_entry, cgroup_dir_entry. */
const CONTROLLER = 2;
const DIRECTORY = 2;
const DIRECTORY_NAME = 1;
/** The tag of a field that no release of CRIU knows, which it skips, in place of a directory's: nothing in the image moves. */
const UNKNOWN_TAG = (15 << 3) | 2;

/** Mends a `cgroup.img` in place; returns how many trees of a whole hierarchy it took away. Throws PROTOCOL if it is no such image. */
export function mendRootCgroups(cgroupImage: Uint8Array): number {
  let mendedCount = 0;
  for (const { start, end } of entriesOf(cgroupImage)) {
    for (const controller of fieldsOf(cgroupImage, start, end)) {
      if (controller.number !== CONTROLLER) continue;
      for (const directory of fieldsOf(cgroupImage, controller.start, controller.end)) {
        if (directory.number !== DIRECTORY) continue;
        const name = [...fieldsOf(cgroupImage, directory.start, directory.end)].find(({ number }) => number === DIRECTORY_NAME);
        if (name === undefined || name.end > name.start) continue;
        cgroupImage[directory.tagEnd - 1] = UNKNOWN_TAG;
        mendedCount += 1;
      }
    }
  }
  return mendedCount;
}
