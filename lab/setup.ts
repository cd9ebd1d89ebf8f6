/**
 * Builds the root file system that every lab host overlays: Debian 13 with Docker, runc and a CRIU that works on
 * today's kernels; and, when it is asked for, one that only images are made of. Built once for a list of packages, about a minute, and
 * cached outside the checkout.
 *
 * Run by `bin/setup lab`, which brings the programs that build them.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { appendFile, mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import path from "node:path";
import { DmigrateError } from "../src/core/errors.ts";
import { CACHE_DIR, CHECKOUT } from "./paths.ts";
import { run } from "./run.ts";

/** What a root file system is made of. */
interface Recipe {
  /** What it is, for whoever waits for it. */
  readonly name: string;
  readonly packages: readonly string[];
  readonly packagesFromSid: readonly string[];
  /** Lines of shell, with the root file system as `$1`. */
  readonly hooks: readonly string[];
  readonly megabytes: number;
}

const RELEASE = "trixie";
/** Where the PostgreSQL image has its database cluster. */
export const POSTGRES_CLUSTER = "/var/lib/postgresql/cluster";
const PACKAGES = [
  "docker.io",
  "docker-cli",
  "containerd",
  "runc",
  "tini",
  "mount",
  "iproute2",
  "iptables",
  "nftables",
  "procps",
  "kmod",
  "tcpdump",
  "ca-certificates",
  "busybox-static",
  "redis-server",
  "redis-tools",
  "python3-minimal",
  "libpython3-stdlib",
];
/** Debian 13's own CRIU 4.1.1 can't dump inet sockets on kernels from 6.16 on; 4.2.1 can. */
const HOSTS: Recipe = { name: "the lab's hosts", packages: PACKAGES, packagesFromSid: ["criu"], hooks: [], megabytes: 450 };
/** With the wrapper that lets PostgreSQL run as root, and a cluster whose superuser everybody is, which it does not make then. */
const POSTGRES: Recipe = {
  name: "the PostgreSQL image",
  packages: ["postgresql-17", "libuid-wrapper", "busybox-static"],
  packagesFromSid: [],
  hooks: [
    `chroot "$1" mkdir --mode 700 ${POSTGRES_CLUSTER} && chroot "$1" chown postgres ${POSTGRES_CLUSTER}`,
    `chroot "$1" setpriv --reuid postgres --clear-groups /usr/lib/postgresql/17/bin/initdb -D ${POSTGRES_CLUSTER} -A trust --no-locale`,
    `echo "host all all all trust" >> "$1${POSTGRES_CLUSTER}/pg_hba.conf"`,
  ],
  megabytes: 600,
};

/** Where a root file system is cached, whether it exists already or not. */
function folderOf({ packages, packagesFromSid, hooks }: Recipe): string {
  const recipe = createHash("sha256").update(JSON.stringify([RELEASE, packages, packagesFromSid, 1, ...hooks]));
  return path.join(CACHE_DIR, `root-${recipe.digest("hex").slice(0, 12)}`);
}

/** That of the hosts. */
export const ROOT_DIR: string = folderOf(HOSTS);

/** Makes sure that the root file system exists; returns its path. What `bin/setup lab` has to install for it is told on standard error. */
export async function ensureRoot(): Promise<string> {
  if (existsSync(ROOT_DIR)) return ROOT_DIR;
  const setup = spawn(path.join(CHECKOUT, "bin/setup"), ["lab"], { stdio: ["ignore", process.stderr, process.stderr] });
  const [code] = (await once(setup, "close")) as [number | null]; // as child_process documents
  if (code !== 0) throw new DmigrateError("LAB", `\`bin/setup lab\` ended with ${code}; what it printed says why`);
  return ROOT_DIR;
}

/** Makes sure that the root file system exists that the PostgreSQL image is made of; returns its path. */
export async function ensurePostgresRoot(): Promise<string> {
  await ensureRoot(); // and with it the programs that build one
  return await buildRoot(POSTGRES);
}

/** Builds one unless it exists; returns its path. */
async function buildRoot(recipe: Recipe): Promise<string> {
  const { name, packages, packagesFromSid, megabytes } = recipe;
  const folder = folderOf(recipe);
  if (existsSync(folder)) return folder;
  await mkdir(CACHE_DIR, { recursive: true, mode: 0o755 });
  await removeAbandoned();
  const building = `${folder}.${process.pid}`;
  const log = `${folder}.log`;
  say(`Building the Debian ${RELEASE} root file system of ${name} in ${folder} (once, about a minute, ${megabytes} MB):`);
  say(`  ${[...packages, ...packagesFromSid].join(" ")}`);
  await writeFile(log, "");
  try {
    await bootstrap(recipe, building, log);
    await rename(building, folder);
  } catch (error) {
    await rm(building, { recursive: true, force: true });
    if (existsSync(folder)) return folder; // another process was quicker
    throw error;
  }
  say("  done");
  return folder;
}

function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** What was being built by a process that is no more. */
async function removeAbandoned(): Promise<void> {
  for (const entry of await readdir(CACHE_DIR)) {
    const builder = /^root-[0-9a-f]{12}\.(\d+)$/.exec(entry)?.[1];
    if (builder !== undefined && !existsSync(`/proc/${builder}`)) await rm(path.join(CACHE_DIR, entry), { recursive: true, force: true });
  }
}

async function bootstrap({ packages, packagesFromSid, hooks }: Recipe, target: string, log: string): Promise<void> {
  const mirror = await debianMirror();
  // A mirror may lag behind: its signature counts, not its date.
  const sid = `deb [check-valid-until=no] ${mirror} sid main`;
  const fromSid = [
    `printf 'Package: *\\nPin: release a=unstable\\nPin-Priority: 50\\n' > "$1/etc/apt/preferences.d/sid"`,
    `echo '${sid}' > "$1/etc/apt/sources.list.d/sid.list"`,
    `chroot "$1" apt-get update`,
    `chroot "$1" apt-get install -y -t sid --no-install-recommends ${packagesFromSid.join(" ")}`,
  ];
  const tidy = `rm -rf "$1/var/lib/apt/lists" && mkdir -p "$1/var/lib/apt/lists/partial"`;
  const args = ["--variant=apt", `--include=${packages.join(",")}`, '--aptopt=Apt::Install-Recommends "false"'];
  args.push(
    ...[...(packagesFromSid.length > 0 ? fromSid : []), ...hooks, tidy].map((hook) => `--customize-hook=${hook}`),
    RELEASE,
    target,
    mirror,
  );
  await runLogged("mmdebstrap", args, log);
}

/** The mirror this machine's own apt uses. */
async function debianMirror(): Promise<string> {
  const lines = await run("apt-get", "indextargets", "--format", "$(SITE) $(LABEL)", "Created-By: Packages");
  const site = lines.split("\n").find((line) => line.endsWith(" Debian"));
  if (site === undefined) {
    throw new DmigrateError(
      "LAB",
      "Found no Debian mirror in apt's sources; the lab needs a Debian 12 or 13 machine whose `apt-get update` has run",
    );
  }
  return site.slice(0, site.indexOf(" "));
}

/** Runs a long program: everything it prints goes to the log, the beginning of each step to the user. */
async function runLogged(program: string, args: readonly string[], log: string): Promise<void> {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
  const failed = new Promise<never>((_, reject) => child.once("error", reject));
  const exited = new Promise<number | null>((resolve) => child.once("close", resolve));
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on("line", (line) => {
      void appendFile(log, `${line}\n`);
      const step = /^I: (.*)\.\.\.$/.exec(line)?.[1];
      if (step !== undefined) say(`  ${step}`);
    });
  }
  const code = await Promise.race([exited, failed]);
  if (code !== 0) throw new DmigrateError("LAB", `${program} failed with exit code ${code}; ${log} tells why`);
}

if (import.meta.main) await buildRoot(HOSTS);
