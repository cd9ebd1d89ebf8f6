/**
 * An Ethernet segment with hosts on it, for the tests of this folder: network namespaces, one of them with a bridge that is the switch.
 */
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { NetworkNamespace } from "../kernel/netns.ts";
import { type Frame, PacketTap } from "../kernel/packet.ts";

/** A namespace known to ip(8), removed with its interfaces when disposed of. */
export class Host implements Disposable {
  readonly name: string;
  readonly namespace: NetworkNamespace;

  constructor(role: string) {
    this.name = `h3-${process.pid}-${role}`;
    ip("netns", "add", this.name);
    this.namespace = NetworkNamespace.open(`/run/netns/${this.name}`);
    this.ip("link", "set", "lo", "up");
  }

  /** Runs ip(8) in the namespace and returns what it prints. */
  ip(...args: readonly string[]): string {
    return ip("-n", this.name, ...args);
  }

  /** Runs many commands of ip(8). */
  ipBatch(lines: readonly string[]): void {
    execFileSync("ip", ["-n", this.name, "-batch", "-"], { input: lines.join("\n") });
  }

  /** The index of eth0. */
  eth0(): number {
    return Number(this.ip("-oneline", "link", "show", "eth0").split(":")[0]);
  }

  /** Sets a parameter under /proc/sys/net. */
  sysctl(name: string, value: number): void {
    this.namespace.run(() => {
      writeFileSync(`/proc/sys/net/${name}`, String(value));
    });
  }

  /** A counter of the namespace's own TCP/IP, like ("snmp", "Tcp", "RetransSegs"). */
  counter(file: "snmp" | "netstat", group: string, name: string): number {
    const lines = this.#proc(file).filter((line) => line.startsWith(`${group}:`));
    const [names = [], values = []] = lines.map((line) => line.split(" "));
    return Number(values[names.indexOf(name)]);
  }

  /** How many bytes its TCP connections have written that are not acknowledged. */
  unacknowledgedBytes(): number {
    const rows = [...this.#proc("tcp"), ...this.#proc("tcp6")].map((line) => line.trim().split(/\s+/));
    const queues = rows.filter(([, , , state]) => state === "01").map(([, , , , queue = ""]) => Number.parseInt(queue, 16)); // established
    return queues.reduce((sum, bytes) => sum + bytes, 0);
  }

  /** A tap that is open. */
  tap(): PacketTap {
    const tap = new PacketTap(this.namespace);
    tap.open();
    return tap;
  }

  [Symbol.dispose](): void {
    this.namespace[Symbol.dispose]();
    ip("netns", "del", this.name);
  }

  #proc(file: string): string[] {
    return this.namespace.run(() => readFileSync(`/proc/thread-self/net/${file}`, "utf8")).split("\n");
  }
}

/** What an interface is: one end of a cable whose other end is in the switch, or one of several on a host that has such a cable. */
export type InterfaceKind = "veth" | "macvlan";

/** A switch and the hosts that were plugged in. */
export class Segment implements Disposable {
  readonly switch = new Host("switch");
  readonly #hosts = new DisposableStack();

  constructor() {
    this.#hosts.use(this.switch);
    this.switch.ip("link", "add", "br0", "type", "bridge");
    this.switch.sysctl("ipv6/conf/br0/disable_ipv6", 1);
    this.switch.ip("link", "set", "br0", "up");
  }

  /** A host without any interface. */
  host(role: string): Host {
    return this.#hosts.use(new Host(role));
  }

  /** Gives a host eth0, down and without IP addresses, behind `port` of the switch; its Ethernet address ends with `number`. */
  plugIn(host: Host, port: string, number: number, kind: InterfaceKind = "veth"): void {
    if (kind === "veth") {
      const end = ["peer", "name", "eth0", "address", macOf(number), "netns", host.name];
      this.switch.ip("link", "add", port, "type", "veth", ...end);
      this.switch.sysctl(`ipv6/conf/${port}/disable_ipv6`, 1);
      this.switch.ip("link", "set", port, "master", "br0", "up");
    } else {
      const parent = this.host(`${port}-parent`);
      this.plugIn(parent, port, number + 50);
      parent.ip("link", "set", "eth0", "up");
      parent.ip("link", "add", "link", "eth0", "name", "mv0", "address", macOf(number), "type", "macvlan", "mode", "bridge");
      parent.ip("link", "set", "mv0", "netns", host.name, "name", "eth0");
    }
  }

  /** A host with eth0 up, and the addresses 10.73.0.NUMBER and fd73::NUMBER. */
  hostWithAddress(role: string, number: number, kind: InterfaceKind = "veth"): Host {
    const host = this.host(role);
    this.plugIn(host, role, number, kind);
    host.ip("link", "set", "eth0", "up");
    host.ip("address", "add", `${ipv4Of(number)}/24`, "dev", "eth0");
    host.ip("address", "add", `${ipv6Of(number)}/64`, "dev", "eth0", "nodad");
    return host;
  }

  [Symbol.dispose](): void {
    this.#hosts.dispose();
  }
}

export function ipv4Of(number: number): string {
  return `10.73.0.${number}`;
}

export function ipv6Of(number: number): string {
  return `fd73::${number}`;
}

export function macOf(number: number): string {
  return `02:00:00:00:73:${String(number).padStart(2, "0")}`;
}

/** Bytes from hexadecimal text, in which colons and spaces may stand. */
export function bytesOf(hexadecimal: string): Buffer {
  return Buffer.from(hexadecimal.replaceAll(/[: ]/g, ""), "hex");
}

/** Whether a frame comes from the host whose Ethernet address ends with `number`. */
export function isFrom(number: number): (frame: Frame) => boolean {
  const mac = bytesOf(macOf(number));
  return ({ bytes }) => mac.equals(bytes.subarray(6, 12));
}

/** Waits until `condition` holds; the test's own time limit ends the wait. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await delay(2);
}

function ip(...args: readonly string[]): string {
  return execFileSync("ip", args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}
