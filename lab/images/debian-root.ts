/**
 * Takes programs out of an unpacked Debian root file system together with everything they need to run: the folders and
 * symbolic links on the way to them, their loader and their shared libraries.
 */
import { globSync, lstatSync, readFileSync, readlinkSync, type Stats } from "node:fs";
import path from "node:path";
import { DmigrateError } from "../../src/core/errors.ts";
import { readElf, type Architecture } from "./elf.ts";
import type { Entries } from "./entries.ts";

const TRIPLETS: Readonly<Record<Architecture, string>> = { amd64: "x86_64-linux-gnu", arm64: "aarch64-linux-gnu" };
/** As the kernel's limit on symbolic links in one path, path_resolution(7). */
const LINKS_MAX = 40;

/** Files of one Debian root, taken one after the other into `entries`. */
export class DebianRoot {
  readonly entries: Entries = new Map();
  private readonly rootDir: string;

  constructor(rootDir: string) {
    this.rootDir = rootDir;
  }

  /**
   * Takes what `pattern` matches, with all it needs.
   * @param pattern a path or glob relative to the root: `usr/bin/redis-server`
   * @throws LAB if nothing matches, or a library is missing
   */
  take(pattern: string): void {
    const matches = globSync(pattern, { cwd: this.rootDir });
    if (matches.length === 0) {
      throw new DmigrateError("LAB", `Found no ${pattern} in ${this.rootDir}; install the Debian package that contains it there`);
    }
    for (const match of matches) this.takePath(match, 0);
  }

  /** The root's processor architecture: that of its shell. */
  get architecture(): Architecture {
    const elf = readElf(readFileSync(path.join(this.rootDir, "usr/bin/dash")));
    if (elf === undefined) throw new DmigrateError("LAB", `${this.rootDir} holds no Debian root file system; build it again`);
    return elf.architecture;
  }

  /** Takes one path; a symbolic link is taken and followed inside the root, never out of it. */
  private takePath(file: string, linkCount: number): void {
    if (linkCount > LINKS_MAX)
      throw new DmigrateError("LAB", `Too many symbolic links at ${file} in ${this.rootDir}; build the root file system again`);
    const parts = path
      .normalize(file)
      .split("/")
      .filter((part) => part !== "" && part !== ".");
    for (const [index] of parts.entries()) {
      const here = parts.slice(0, index + 1).join("/");
      const stats = lstatSync(path.join(this.rootDir, here));
      if (stats.isSymbolicLink()) {
        const target = readlinkSync(path.join(this.rootDir, here));
        this.entries.set(here, { kind: "link", target });
        const rest = parts.slice(index + 1).join("/");
        this.takePath(path.join(path.resolve("/", path.dirname(here), target), rest), linkCount + 1);
        return;
      }
      this.takeOne(here, stats);
    }
  }

  private takeOne(file: string, stats: Stats): void {
    if (this.entries.has(file)) return;
    const mode = stats.mode & 0o7777;
    if (stats.isDirectory()) {
      this.entries.set(file, { kind: "folder", mode });
      return;
    }
    const content = readFileSync(path.join(this.rootDir, file));
    this.entries.set(file, { kind: "file", mode, content });
    this.takeNeeds(file, content);
  }

  private takeNeeds(file: string, content: Uint8Array): void {
    const elf = readElf(content);
    if (elf === undefined) return;
    if (elf.interpreter !== undefined) this.takePath(elf.interpreter, 0);
    const origin = `/${path.dirname(file)}`;
    const ownFolders = elf.searchPath.map((folder) => folder.replace(/\$ORIGIN|\$\{ORIGIN\}/g, origin));
    const folders = [...ownFolders, `/usr/lib/${TRIPLETS[elf.architecture]}`, "/usr/lib"];
    for (const library of elf.needed) this.takePath(this.findLibrary(library, folders, file), 0);
  }

  private findLibrary(library: string, folders: readonly string[], user: string): string {
    const found = folders.map((folder) => path.join(folder, library)).find((file) => this.exists(file));
    if (found === undefined)
      throw new DmigrateError("LAB", `${user} needs ${library}, which ${this.rootDir} lacks; build the root file system again`);
    return found;
  }

  private exists(file: string): boolean {
    return lstatSync(path.join(this.rootDir, file), { throwIfNoEntry: false }) !== undefined;
  }
}
