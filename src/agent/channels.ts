/**
 * The channels of a migration: their names, the same on both sides.
 */

export const CHANNELS = {
  /** An archive of the image layers that the target lacks. */
  layers: "layers",
  /** Rounds of the container's files: writable layer, volumes, log history. */
  files: "files",
  /** CRIU's images, each as it is closed. */
  images: "images",
  /** Raw: CRIU's page protocol. */
  pages: "pages",
} as const;
