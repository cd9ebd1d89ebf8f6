/**
 * The tables of sockets of a network namespace.
 */
import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { BlockList, connect, createServer, type AddressInfo } from "node:net";
import { describe, test } from "node:test";
import fc from "fast-check";
import { boundPorts, canonicalAddress, parseAddress, socketHolder, SocketTables } from "./sockets.ts";

/** As the kernel prints an address: its 32-bit words in host order. */
function printed(bytes: Uint8Array): string {
  const words = Buffer.from(bytes);
  return `${words.swap32().toString("hex").toUpperCase()}:1F90`;
}

describe("addresses", () => {
  test("of IPv4 come out as they went in", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 4, maxLength: 4 }), (bytes) => {
        assert.equal(parseAddress(printed(bytes)), bytes.join("."));
      }),
    );
  });

  test("of IPv6 come out as the same address", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (bytes) => {
        const list = new BlockList();
        list.addAddress(parseAddress(printed(bytes)), "ipv6");
        assert.ok(
          list.check(
            Buffer.from(bytes)
              .toString("hex")
              .replace(/.{4}(?!$)/g, "$&:"),
            "ipv6",
          ),
        );
      }),
    );
  });

  test("of IPv6 are written as short as they can be", () => {
    assert.equal(parseAddress("B80D0120000000000000000001000000:1F90"), "2001:db8::1");
    assert.equal(canonicalAddress("2001:0DB8:0:0::1"), "2001:db8::1");
    assert.equal(parseAddress(`${"0".repeat(32)}:1F90`), "::");
  });

  test("of IPv4 inside IPv6 are those of IPv4", () => {
    assert.equal(parseAddress("0000000000000000FFFF00000100007F:1F90"), "127.0.0.1");
  });
});

test("the sockets of this namespace are in its table", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  const udp = createSocket("udp4").bind(0, "127.0.0.1");
  await Promise.all([once(server, "listening"), once(udp, "listening")]);
  const { port } = server.address() as AddressInfo; // a TCP server has no other
  const client = connect(port, "127.0.0.1");
  const [[accepted]] = await Promise.all([once(server, "connection"), once(client, "connect")]);
  try {
    const sockets = [...new SocketTables().of("/proc/self").values()];
    assert.ok(sockets.some((socket) => socket.type === "tcp" && socket.state === "established" && socket.remote === "127.0.0.1"));
    assert.ok(sockets.some((socket) => socket.type === "tcp" && socket.state === "listen" && socket.local === "127.0.0.1"));
    assert.ok(sockets.some((socket) => socket.type === "udp" && socket.local === "127.0.0.1"));
    const ports = boundPorts("/proc/self/net");
    const listening = ports.find(({ port: { hostPort, protocol } }) => hostPort === port && protocol === "tcp");
    assert.equal(listening?.port.hostAddress, "127.0.0.1");
    assert.match(socketHolder(listening.inode) ?? "", new RegExp(`^process \\S+ \\(${process.pid}\\)$`));
    const isBound = (wanted: number | undefined, protocol: string): boolean =>
      ports.some((bound) => bound.port.hostPort === wanted && bound.port.protocol === protocol);
    assert.ok(isBound(udp.address().port, "udp"));
    assert.ok(!isBound(client.localPort, "tcp"), "a client listens at no port");
  } finally {
    for (const socket of [client, accepted]) socket.destroy();
    server.close();
    udp.close();
  }
});
