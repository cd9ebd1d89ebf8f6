/**
 * Builds the root file system that every lab host overlays: Debian 13 with Docker, runc and a CRIU that works on
 * today's kernels. Built once for a list of packages, about a minute, and cached outside the checkout.
 *
 * Run by `bin/setup lab`, which brings the programs that build it.
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

const RELEASE = "trixie";
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
const PACKAGES_FROM_SID = ["criu"];

const RECIPE = createHash("sha256")
  .update(JSON.stringify([RELEASE, PACKAGES, PACKAGES_FROM_SID, 1]))
  .digest("hex")
  .slice(0, 12);

/** The cached root file system, whether it exists already or not. */
export const ROOT_DIR: string = path.join(CACHE_DIR, `root-${RECIPE}`);

/** Makes sure that the root file system exists; returns its path. What `bin/setup lab` has to install for it is told on standard error. */
export async function ensureRoot(): Promise<string> {
  if (existsSync(ROOT_DIR)) return ROOT_DIR;
  const setup = spawn(path.join(CHECKOUT, "bin/setup"), ["lab"], { stdio: ["ignore", process.stderr, process.stderr] });
  const [code] = (await once(setup, "close")) as [number | null]; // as child_process documents
  if (code !== 0) throw new DmigrateError("LAB", `\`bin/setup lab\` ended with ${code}; what it printed says why`);
  return ROOT_DIR;
}

/** Builds it unless it exists. */
async function buildRoot(): Promise<void> {
  if (existsSync(ROOT_DIR)) return;
  await mkdir(CACHE_DIR, { recursive: true, mode: 0o755 });
  await removeAbandoned();
  const building = `${ROOT_DIR}.${process.pid}`;
  const log = `${ROOT_DIR}.log`;
  say(`Building the lab's Debian ${RELEASE} root file system in ${ROOT_DIR} (once, about a minute, 450 MB):`);
  say(`  ${[...PACKAGES, ...PACKAGES_FROM_SID].join(" ")}`);
  await writeFile(log, "");
  try {
    await bootstrap(building, log);
    await rename(building, ROOT_DIR);
  } catch (error) {
    await rm(building, { recursive: true, force: true });
    if (existsSync(ROOT_DIR)) return; // another process was quicker
    throw error;
  }
  say("  done");
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

async function bootstrap(target: string, log: string): Promise<void> {
  const mirror = await debianMirror();
  // A mirror may lag behind: its signature counts, not its date.
  const sid = `deb [check-valid-until=no] ${mirror} sid main`;
  const hooks = [
    `printf 'Package: *\\nPin: release a=unstable\\nPin-Priority: 50\\n' > "$1/etc/apt/preferences.d/sid"`,
    `echo '${sid}' > "$1/etc/apt/sources.list.d/sid.list"`,
    `chroot "$1" apt-get update`,
    `chroot "$1" apt-get install -y -t sid --no-install-recommends ${PACKAGES_FROM_SID.join(" ")}`,
    `rm -rf "$1/var/lib/apt/lists" && mkdir -p "$1/var/lib/apt/lists/partial"`,
  ];
  const args = ["--variant=apt", `--include=${PACKAGES.join(",")}`, '--aptopt=Apt::Install-Recommends "false"'];
  args.push(...hooks.map((hook) => `--customize-hook=${hook}`), RELEASE, target, mirror);
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

if (import.meta.main) await buildRoot();
