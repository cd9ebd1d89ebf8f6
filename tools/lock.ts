/**
 * Completes package-lock.json with the optional packages of other platforms; to be run after `npm install`.
 *
 * A registry mirror that does not carry them makes `npm install` leave them out, and npm 11's `npm ci` then refuses the
 * lock file. An entry with version, os and cpu is all it asks for: such a package is never fetched on this platform.
 */
import { readFileSync, writeFileSync } from "node:fs";

interface Entry {
  readonly version?: string;
  readonly dev?: boolean;
  readonly optional?: boolean;
  readonly os?: readonly string[];
  readonly cpu?: readonly string[];
  readonly libc?: readonly string[];
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}
type Entries = Readonly<Record<string, Entry>>;

const OS = /android|darwin|freebsd|openbsd|openharmony|win32|linux/;
const CPU = /arm64|arm|aarch64|ia32|ppc64|riscv64|s390x|x64/;

/** The entries that `packages` of a lock file lacks, made from the packages' names, which tell their platform. */
export function missingEntries(packages: Entries): Entries {
  const present = new Set(Object.keys(packages).map((place) => place.slice(place.lastIndexOf("node_modules/") + "node_modules/".length)));
  const missing: Record<string, Entry> = {};
  for (const { dev, optionalDependencies = {} } of Object.values(packages)) {
    for (const [name, version] of Object.entries(optionalDependencies)) {
      if (!present.has(name)) missing[`node_modules/${name}`] = { version, ...(dev && { dev }), optional: true, ...platformOf(name) };
    }
  }
  return missing;
}

function platformOf(name: string): Entry {
  const os = OS.exec(name)?.[0];
  const cpu = CPU.exec(name)?.[0];
  if (os === undefined || cpu === undefined) throw new Error(`${name} does not tell its platform; install it where its registry has it`);
  const libc = /musl|gnu/.exec(name)?.[0] === "musl" ? "musl" : "glibc";
  return { os: [os], cpu: [cpu], ...(os === "linux" && { libc: [libc] }) };
}

if (import.meta.main) {
  const lock = JSON.parse(readFileSync("package-lock.json", "utf8")) as { packages: Entries }; // npm wrote it
  const entries = Object.entries({ ...lock.packages, ...missingEntries(lock.packages) });
  lock.packages = Object.fromEntries(entries.toSorted(([a], [b]) => a.localeCompare(b, "en")));
  writeFileSync("package-lock.json", `${JSON.stringify(lock, null, 2)}\n`);
}
