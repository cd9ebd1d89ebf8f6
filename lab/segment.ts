/**
 * The Ethernet segment of a lab: a bridge in a network namespace of its own, one port per host, each direction's rate
 * limited where asked for.
 */
import { DmigrateError } from "../src/core/errors.ts";
import { parseRate as parseBytes } from "../src/core/rate-limit.ts";
import { run } from "./run.ts";

/** The bridge every host of a lab hangs on. */
export class Segment {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }

  /** Makes the bridge; it forwards at once and floods what it does not know. */
  async create(): Promise<void> {
    await run("ip", "netns", "add", this.name);
    await run("ip", "-n", this.name, "link", "add", "lan", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0");
    await run("ip", "-n", this.name, "link", "set", "lan", "up");
  }

  /** Gives the host whose init is `initPid` an `eth0` on the segment, of `rate` bits a second each way; undefined is unlimited. */
  async connect(host: string, initPid: number, address: string, rate: number | undefined): Promise<void> {
    const port = this.portOf(host);
    await run("ip", "-n", this.name, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", String(initPid));
    await run("ip", "-n", this.name, "link", "set", port, "master", "lan", "up");
    const inHost = ["nsenter", "--target", String(initPid), "--net"];
    await runIn(inHost, "ip", "address", "add", address, "dev", "eth0");
    await runIn(inHost, "ip", "link", "set", "eth0", "up");
    if (rate === undefined) return;
    await runIn(inHost, "tc", ...shape("eth0", rate));
    await run("tc", "-n", this.name, ...shape(port, rate));
  }

  /** Cuts a host's wire, or mends it. */
  async setLink(host: string, state: "up" | "down"): Promise<void> {
    await run("ip", "-n", this.name, "link", "set", this.portOf(host), state);
  }

  /** Removes the bridge and with it every port. */
  async remove(): Promise<void> {
    await run("ip", "netns", "delete", this.name);
  }

  private portOf(host: string): string {
    return `p-${host}`;
  }
}

/** Bits a second of a rate as tc(8) writes it, like `100mbit`. Throws USAGE. */
export function parseRate(text: string): number {
  const bytesPerSecond = parseBytes(text);
  if (bytesPerSecond !== undefined) return bytesPerSecond * 8;
  throw new DmigrateError("USAGE", `${JSON.stringify(text)} is no rate; write it like 100mbit or 1gbit`);
}

/** No bucket is so small that frames would have to wait for a turn of the kernel's clock each. */
const BURST_MIN_BYTES = 32 * 1024;

/** A token bucket of 10 ms at the given rate, with a queue that holds up to 50 ms. */
function shape(device: string, rate: number): string[] {
  const burst = Math.max(BURST_MIN_BYTES, Math.ceil(rate / 8 / 100));
  return ["qdisc", "replace", "dev", device, "root", "tbf", "rate", `${rate}bit`, "burst", String(burst), "latency", "50ms"];
}

async function runIn(prefix: readonly string[], ...argv: readonly string[]): Promise<void> {
  const [program = "", ...args] = [...prefix, ...argv];
  await run(program, ...args);
}
