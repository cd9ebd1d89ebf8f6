/**
 * The channels of a migration: their names, the same on both sides. Each carries one stream; a later round is a channel of its own.
 */

export const CHANNELS = {
  /** An archive of the image layers that the target lacks. */
  layers: "layers",
  /** What the container printed so far, as files. */
  logFiles: "log/files",
  /** What it printed since, as output. */
  logOutput: "log/output",
  /** CRIU's images, each as it is closed. */
  images: "images",
  /** A round of memory that is copied ahead, in the messages of CRIU's page protocol. */
  memory: "memory",
  /** Raw: CRIU's page protocol. */
  pages: "pages",
} as const;

/** A round of the tree at this place in `treeSubjects`. */
export function treeChannel(index: number): string {
  return `tree/${index}`;
}
