/**
 * What CRIU and runc can do on this host, found by trying: versions promise too much, and so does `criu check`.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { messageOf } from "../core/errors.ts";
import { CRIU_FEATURES, type CriuFeature, type Feature } from "../core/preflight-facts.ts";
import { AF, RawSocket } from "../kernel/socket.ts";
import { feature, run } from "./program.ts";
import { runOnce, tryOnce } from "./trials.ts";

const IPPROTO_ICMP = 1;

/** `criu check`, by something that says it is CRIU. */
export async function tryCriu(): Promise<Feature> {
  const [check, { said }] = await Promise.all([runOnce("criu", ["check"]), runOnce("criu", ["--version"])]);
  const version = /Version: (\S+)/.exec(said)?.[1];
  if (check.succeeded && version === undefined) return { works: false, reason: "`criu --version` tells no version" };
  return feature(check, version ?? "");
}

/** The features that `criu check --feature` confirms. */
export async function criuFeatures(): Promise<CriuFeature[]> {
  const checks = await Promise.all(CRIU_FEATURES.map((name) => runOnce("criu", ["check", "--feature", name])));
  return CRIU_FEATURES.filter((_, index) => checks[index]?.succeeded === true);
}

/**
 * Dumps a process of our own that holds a socket of the Internet family: under Linux 6.16 and later a CRIU that asks it for an option of
 * other families can't, though `criu check` is content.
 */
export function tryDump(): Promise<Feature> {
  return tryOnce({ program: "criu", name: "a dump of ours", attempt: dumpOfOurs, hasWorked: ({ works }) => works });
}

async function dumpOfOurs(): Promise<Feature> {
  const folder = await mkdtemp(path.join(tmpdir(), "dmigrate-preflight-"));
  try {
    using socket = new RawSocket(AF.INET, IPPROTO_ICMP);
    const subject = spawn("sleep", ["60"], { cwd: "/", detached: true, stdio: ["ignore", "ignore", "ignore", socket.fd] });
    await once(subject, "spawn");
    const ended = once(subject, "exit");
    const args = ["dump", "--tree", String(subject.pid), "--images-dir", folder, "--leave-running", "--manage-cgroups=ignore"];
    const dump = await run("criu", args);
    subject.kill("SIGKILL");
    await ended;
    return feature(dump, "");
  } catch (error) {
    return { works: false, reason: messageOf(error) };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** An OCI runtime whose checkpoint and restore know lazy pages. */
export async function tryRunc(): Promise<Feature> {
  const [version, ...helps] = await Promise.all([
    runOnce("runc", ["--version"]),
    runOnce("runc", ["checkpoint", "--help"]),
    runOnce("runc", ["restore", "--help"]),
  ]);
  if (!version.succeeded) return feature(version, "");
  if (!helps.every(({ said }) => said.includes("--lazy-pages"))) return { works: false, reason: "it does not know --lazy-pages" };
  return { works: true, version: /runc version (\S+)/.exec(version.said)?.[1] ?? "" };
}
