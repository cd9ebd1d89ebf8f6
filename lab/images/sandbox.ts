/**
 * Runs the programs of an image without an engine: unpacked into a folder, in namespaces of their own. For tests.
 */
import { execFile, spawn, type ChildProcess, type SpawnOptions } from "node:child_process";
import { createWriteStream, readFileSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { once } from "node:events";
import { tmpdir } from "node:os";
import path from "node:path";
import { text } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";
import * as z from "zod";
import type { Image } from "./image.ts";

/** Holds the sandbox's programs and those that make it. */
const PATH = "/usr/local/bin:/usr/bin:/usr/sbin";

const execFileAsync = promisify(execFile);

const manifest = z.tuple([z.object({ Config: z.string(), RepoTags: z.array(z.string()), Layers: z.array(z.string()) })]);

/** An unpacked image. Disposing it ends its programs and removes it. */
export class Sandbox implements AsyncDisposable {
  /** Folder that holds the image's root. */
  readonly root: string;
  private readonly folder: string;
  private readonly programs = new Set<ChildProcess>();

  private constructor(folder: string) {
    this.folder = folder;
    this.root = path.join(folder, "root");
  }

  /** Unpacks an image into a temporary folder. */
  static async unpack(image: Image): Promise<Sandbox> {
    const sandbox = new Sandbox(await mkdtemp(path.join(tmpdir(), "dmigrate-image-")));
    await sandbox.extract(image);
    return sandbox;
  }

  private async extract(image: Image): Promise<void> {
    const archive = path.join(this.folder, "image.tar");
    await pipeline(image.archive(), createWriteStream(archive));
    await execFileAsync("tar", ["-xf", archive, "-C", this.folder]);
    await mkdir(this.root);
    const [{ Layers: layers }] = manifest.parse(JSON.parse(await readFile(path.join(this.folder, "manifest.json"), "utf8")));
    for (const layer of layers) await execFileAsync("tar", ["-xf", path.join(this.folder, layer), "-C", this.root]);
    for (const mountPoint of ["proc", "dev/shm"]) await mkdir(path.join(this.root, mountPoint), { recursive: true });
  }

  /**
   * Starts a program as process 1 of its own process namespace.
   * @param network whether it has a network of its own, without any interface, or uses this machine's
   */
  spawn(argv: readonly string[], network: "own" | "shared" = "own", options: SpawnOptions = {}): ChildProcess {
    const namespaces = ["--mount", "--pid", "--ipc", ...(network === "own" ? ["--net"] : [])];
    const args = [...namespaces, "--fork", "--kill-child", "--mount-proc", "--root", this.root, "--", ...argv];
    const child = spawn("setpriv", ["--pdeathsig", "KILL", "unshare", ...args], { stdio: "inherit", env: { PATH }, ...options });
    this.programs.add(child);
    child.once("exit", () => this.programs.delete(child));
    return child;
  }

  /** Runs a program to its end on the files of the sandbox; returns its output and exit code. */
  async run(...argv: readonly string[]): Promise<{ code: number; stdout: string }> {
    const child = spawn("chroot", [this.root, ...argv], { stdio: ["ignore", "pipe", "inherit"], env: { PATH } });
    const exited = once(child, "exit");
    const stdout = await text(child.stdout);
    const [code] = await exited;
    return { code: typeof code === "number" ? code : 255, stdout };
  }

  /** Kills a program with all its children; resolves once none of them is left. */
  async end(child: ChildProcess): Promise<void> {
    if (!this.programs.has(child)) return;
    const exited = once(child, "exit");
    // The end of a process namespace's first process is waited for by unshare, and is that of all the others.
    const [init = child.pid] = processesUnder(child);
    if (init !== undefined) process.kill(init, "SIGKILL");
    await exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.programs].map((child) => this.end(child)));
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** Ids of the children of a process, as this machine counts. */
export function processesUnder({ pid }: { readonly pid?: number | undefined }): number[] {
  if (pid === undefined) return [];
  return readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number);
}
