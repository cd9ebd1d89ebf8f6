/**
 * Brings an image into a lab host's Docker Engine.
 */
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";
import { DmigrateError } from "../../src/core/errors.ts";
import type { Host } from "../host.ts";
import type { Image } from "./image.ts";

/** Loads an image into a host's engine, unless it has it already. Throws LAB with the engine's complaint. */
export async function loadImage(host: Host, image: Image): Promise<void> {
  const present = await host.exec("docker", "image", "inspect", "--format", "{{.Id}}", image.name);
  if (present.stdout.trim() !== image.id) await load(host, image);
}

async function load(host: Host, image: Image): Promise<void> {
  const child = host.spawn(["docker", "load", "--quiet"], { stdio: ["pipe", "ignore", "pipe"] });
  const { stdin, stderr } = child;
  if (stdin === null || stderr === null) throw new DmigrateError("INTERNAL", "`docker load` was started without pipes; report this");
  const exited = once(child, "exit");
  const complaint = text(stderr);
  const sent = pipeline(image.archive(), stdin).then(
    () => undefined,
    (error: unknown) => error,
  );
  const [code] = await exited;
  if (code !== 0) throw new DmigrateError("LAB", `Host ${host.name} did not load ${image.name}: ${(await complaint).trim()}`, await sent);
}
