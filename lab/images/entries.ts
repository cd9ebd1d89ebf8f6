/**
 * The files of an image layer by path, and their deterministic tar: sorted, owned by root, one fixed time.
 */
import { buffer } from "node:stream/consumers";
import tar from "tar-stream";

/** A file, folder or symbolic link of an image. */
export type Entry =
  | { readonly kind: "folder"; readonly mode: number }
  | { readonly kind: "link"; readonly target: string }
  | { readonly kind: "file"; readonly mode: number; readonly content: Uint8Array };

/** Entries by their path, which starts at the image's root without a slash: `usr/bin/redis-server`. */
export type Entries = Map<string, Entry>;

/** The time of every file and image: what is built twice must be equal. */
export const BUILT_AT: Date = new Date("2026-01-01T00:00:00Z");

/** Packs entries into a tar, byte for byte the same for the same entries. */
export async function packTar(entries: ReadonlyMap<string, Entry>): Promise<Buffer> {
  const pack = tar.pack();
  for (const [name, entry] of [...entries].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    const common = { name, mtime: BUILT_AT, uid: 0, gid: 0 };
    switch (entry.kind) {
      case "folder":
        pack.entry({ ...common, type: "directory", mode: entry.mode });
        break;
      case "link":
        pack.entry({ ...common, type: "symlink", mode: 0o777, linkname: entry.target });
        break;
      case "file":
        pack.entry({ ...common, type: "file", mode: entry.mode }, Buffer.from(entry.content));
        break;
    }
  }
  pack.finalize();
  return await buffer(pack);
}
