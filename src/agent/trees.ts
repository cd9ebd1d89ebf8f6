/**
 * The trees of files that a container brings along, in an order that both sides derive from its description alone.
 */
import type { ContainerDescription, VolumeDescription } from "../docker/description.ts";
import { liesOnHost } from "../docker/volumes.ts";

/** The container's writable layer, or one of its volumes. */
export type TreeSubject = { readonly kind: "rootfs" } | { readonly kind: "volume"; readonly volume: VolumeDescription };

/**
 * The writable layer first, then every volume whose files lie in its own folder. The others have them where both hosts find them, or the
 * preflight has told.
 */
export function treeSubjects(description: ContainerDescription): TreeSubject[] {
  return [{ kind: "rootfs" }, ...description.volumes.filter(liesOnHost).map((volume) => ({ kind: "volume", volume }) as const)];
}
