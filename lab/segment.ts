/**
 * The Ethernet segment of a lab: a bridge in a network namespace of its own, one port per host, each direction's rate
 * limited where asked for.
 */
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

  /** Gives the host whose init is `initPid` an `eth0` on the segment. `rate` as in tc(8), like `1gbit`; undefined is unlimited. */
  async connect(host: string, initPid: number, address: string, rate: string | undefined): Promise<void> {
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

/** A token bucket of 10 ms at the given rate, with a queue that holds up to 50 ms. */
function shape(device: string, rate: string): string[] {
  return ["qdisc", "replace", "dev", device, "root", "tbf", "rate", rate, "burst", "1280kb", "latency", "50ms"];
}

async function runIn(prefix: readonly string[], ...argv: readonly string[]): Promise<void> {
  const [program = "", ...args] = [...prefix, ...argv];
  await run(program, ...args);
}
