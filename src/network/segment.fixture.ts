/**
 * Hosts on one Ethernet segment, for the tests of this folder: network namespaces on a bridge, which is a namespace too.
 */
import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { NetworkNamespace } from "../kernel/netns.ts";

/** A namespace with a name, removed with all its interfaces when disposed of. */
export class Host implements Disposable {
  readonly name: string;
  readonly namespace: NetworkNamespace;

  constructor(role: string) {
    this.name = `h3-${process.pid}-${role}`;
    ip("netns", "add", this.name);
    this.namespace = NetworkNamespace.open(`/run/netns/${this.name}`);
    this.ip("link", "set", "lo", "up");
  }

  /** Runs ip(8) in the namespace. */
  ip(...args: readonly string[]): string {
    return ip("-n", this.name, ...args);
  }

  /** Runs a program in the namespace. */
  spawn(command: string, ...args: readonly string[]): ChildProcessWithoutNullStreams {
    return this.namespace.run(() => spawn(command, args));
  }

  /** Reads a file of /proc/net, or sets one of /proc/sys/net, as the namespace has it. */
  proc(path: string): string {
    return this.namespace.run(() => readFileSync(`/proc/thread-self/net/${path}`, "utf8"));
  }

  [Symbol.dispose](): void {
    this.namespace[Symbol.dispose]();
    ip("netns", "del", this.name);
  }
}

/** Runs ip(8) and returns what it prints. */
export function ip(...args: readonly string[]): string {
  return execFileSync("ip", args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

/** Waits until `condition` holds; the test's own timeout ends the wait. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await delay(2);
}
