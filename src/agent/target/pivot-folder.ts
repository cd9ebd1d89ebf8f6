/**
 * The folder by way of which CRIU changes the root of restored tasks: `/tmp`, or, if there is none, one that it makes and removes. It can't
 * where the root is read-only (criu/mount.c, `cr_pivot_root`).
 */
import { closeSync, openSync } from "node:fs";
import { makeDirectoryAt, removeDirectoryAt, setTimesAt, statAt } from "../../kernel/files.ts";

const NAME = "tmp";

/** Makes it where it lacks. Disposing of what it returns leaves the root as it was. Throws KERNEL. */
export function pivotFolder(rootfs: string): Disposable {
  using cleanup = new DisposableStack();
  const root = cleanup.adopt(openSync(rootfs, "r"), closeSync);
  const mtimeNs = statAt(root, ".")?.mtimeNs;
  if (makeDirectoryAt(root, NAME, 0o700)) {
    cleanup.defer(() => {
      removeDirectoryAt(root, NAME);
      if (mtimeNs !== undefined) setTimesAt(root, ".", { mtimeNs });
    });
  }
  return cleanup.move();
}
