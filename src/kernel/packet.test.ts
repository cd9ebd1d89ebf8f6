/** Frames taken from and given to virtual interfaces. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { describe, it } from "node:test";
import { readable } from "./libc.ts";
import { NetworkNamespace } from "./netns.ts";
import { type Frame, PacketSender, PacketTap } from "./packet.ts";

const MAC = Buffer.from("020000007301", "hex");
const BROADCAST = Buffer.alloc(6, 0xff);
const EXPERIMENTAL = Buffer.from("88b5", "hex"); // IEEE 802 protocol number for experiments

void describe("a packet tap", { timeout: 60_000 }, () => {
  void it("takes what arrives at any Ethernet interface, one that comes later too, once it is open", async () => {
    using namespace = NetworkNamespace.create();
    await using tap = new PacketTap(namespace);
    await using sender = new PacketSender(namespace);
    const early = addPair(namespace, "early");
    sender.send(early, frame(BROADCAST, "before"));
    tap.open();
    const late = addPair(namespace, "late");
    sender.send(early, frame(MAC, "one"));
    sender.send(late, frame(BROADCAST, "two"));

    const frames = await receive(tap, 2);
    assert.deepEqual(frames, [
      { bytes: Uint8Array.from(frame(MAC, "one")), toThisHost: true, offload: {} },
      { bytes: Uint8Array.from(frame(BROADCAST, "two")), toThisHost: false, offload: {} },
    ]);
    assert.equal(tap.lostCount(), 0);
  });

  void it("counts what it had no room for", async () => {
    using namespace = NetworkNamespace.create();
    await using tap = new PacketTap(namespace);
    await using sender = new PacketSender(namespace);
    const index = addPair(namespace, "near", "65535");
    tap.open();
    const frameCount = 3000;
    for (let i = 0; i < frameCount; i++) sender.send(index, frame(MAC, "x".repeat(60_000)));
    const received = tap.receive().length;
    assert.ok(received < frameCount);
    assert.equal(received + tap.lostCount(), frameCount);
    assert.equal(received + tap.lostCount(), frameCount); // counting does not forget
  });
});

/** Two interfaces joined by a cable, the far one with `MAC`; returns the index of the near one. */
function addPair(namespace: NetworkNamespace, name: string, mtu = "1500"): number {
  const ip = (...args: readonly string[]): string => namespace.run(() => execFileSync("ip", args, { encoding: "utf8" }));
  ip("link", "add", name, "mtu", mtu, "type", "veth", "peer", "name", `${name}-far`, "mtu", mtu, "address", "02:00:00:00:73:01");
  for (const end of [name, `${name}-far`]) {
    namespace.run(() => writeFileSync(`/proc/sys/net/ipv6/conf/${end}/disable_ipv6`, "1")); // it would talk by itself
    ip("link", "set", end, "up");
  }
  return Number(ip("-oneline", "link", "show", name).split(":")[0]);
}

function frame(destination: Uint8Array, payload: string): Buffer {
  return Buffer.concat([destination, MAC, EXPERIMENTAL, Buffer.from(payload)]);
}

async function receive(tap: PacketTap, count: number): Promise<Frame[]> {
  const frames: Frame[] = [];
  while (frames.length < count) {
    await readable(tap.fd, new AbortController().signal);
    frames.push(...tap.receive());
  }
  return frames;
}
