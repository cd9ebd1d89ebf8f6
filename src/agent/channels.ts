/**
 * The channels of a migration: their names, the same on both sides, and how urgent they are. Each carries one stream; a later round is a
 * channel of its own.
 */
import type { TransferClass } from "../core/schedule.ts";

/** A channel that its source opens. */
export interface ChannelKind {
  /** Names it within its migration. */
  readonly name: string;
  readonly transferClass: TransferClass;
}

export const CHANNELS = {
  /** An archive of the image layers that the target lacks. */
  layers: { name: "layers", transferClass: "layers" },
  /** What the container printed so far, as files. */
  logFiles: { name: "log/files", transferClass: "files" },
  /** What it printed since, as output. */
  logOutput: { name: "log/output", transferClass: "handover" },
  /** CRIU's images, each as it is closed. */
  images: { name: "images", transferClass: "handover" },
  /** A round of memory that is copied ahead: pages, then what of it could not be read. */
  memory: { name: "memory", transferClass: "memory" },
  /** Pages that mean nothing, to see how fast they cross. */
  probe: { name: "probe", transferClass: "memory" },
  /** A round of shared memory: pages. */
  sharedMemory: { name: "memory/shared", transferClass: "memory" },
  /** A round of content that CRIU's images will have: pages, by the numbers that the images refer to. */
  content: { name: "memory/content", transferClass: "memory" },
  /** The last round of shared memory, which the handover waits for. */
  lastSharedMemory: { name: "memory/shared/last", transferClass: "handover" },
} as const satisfies Record<string, ChannelKind>;

/** Raw ones, for pages. */
export const PAGE_CHANNELS = {
  /** Requests for pages that a task waits for, and the pages. */
  demanded: { name: "pages/demanded", transferClass: "demanded" },
  /** Requests for pages ahead of that, and the pages. */
  ahead: { name: "pages/ahead", transferClass: "near" },
  /** CRIU's page protocol, for a target that has the stock daemon serve its tasks. */
  criu: { name: "pages/criu", transferClass: "demanded" },
} as const satisfies Record<string, ChannelKind>;

/** A round of the tree at this place in `treeSubjects`; the last one is what the freeze waits for. */
export function treeChannel(index: number, isLast: boolean): ChannelKind {
  return { name: `tree/${index}`, transferClass: isLast ? "handover" : "files" };
}
