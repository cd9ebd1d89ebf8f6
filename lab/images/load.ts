/**
 * Puts images where containers can be made of them.
 */
import { once } from "node:events";
import { DmigrateError } from "../../src/core/errors.ts";
import type { Host } from "../host.ts";
import type { Image } from "./image.ts";

/** Loads an image into a host's Docker Engine. */
export async function loadImage(host: Host, image: Image): Promise<void> {
  const child = host.spawn(["docker", "load", "--quiet"], { stdio: ["pipe", "ignore", "inherit"] });
  const closed = once(child, "close");
  for await (const chunk of image.archive()) if (child.stdin?.write(chunk) === false) await once(child.stdin, "drain");
  child.stdin?.end();
  const [code] = (await closed) as [number | null]; // as child_process documents
  if (code !== 0) throw new DmigrateError("LAB", `docker load of ${image.name} on host ${host.name} ended with ${code}`);
}
