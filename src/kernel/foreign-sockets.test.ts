/**
 * What the kernel tells of sockets that other processes hold.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { DmigrateError } from "../core/errors.ts";
import { socketProtocol, unixPeers } from "./foreign-sockets.ts";
import { NetworkNamespace } from "./netns.ts";

/** Own descriptors that are sockets, with their inodes. */
function ownSockets(): { file: string; inode: number }[] {
  return readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1];
      return inode === undefined ? [] : [{ file: `/proc/self/fd/${fd}`, inode: Number(inode) }];
    } catch {
      return []; // the descriptor that read the directory
    }
  });
}

test("unix sockets know their peers, however many there are", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "dmigrate-sockets-"));
  const before = new Set(ownSockets().map(({ inode }) => inode));
  const server = createServer().listen(path.join(folder, "s"));
  await once(server, "listening");
  const count = 800; // more than one datagram of the kernel's holds
  const clients: Socket[] = [];
  for (let made = 0; made < count; made++) {
    const client = connect(path.join(folder, "s"));
    clients.push(client);
    await Promise.all([once(client, "connect"), once(server, "connection")]);
  }
  try {
    const mine = new Set(
      ownSockets()
        .map(({ inode }) => inode)
        .filter((inode) => !before.has(inode)),
    );
    using namespace = NetworkNamespace.open("/proc/self/ns/net");
    const peers = new Map(unixPeers(namespace).map(({ inode, peerInode }) => [inode, peerInode]));
    const connected = [...mine].filter((inode) => peers.get(inode) !== 0);
    assert.equal(connected.length, 2 * count);
    for (const inode of connected) assert.equal(peers.get(peers.get(inode) ?? 0), inode);
    assert.equal([...mine].filter((inode) => peers.get(inode) === 0).length, 1, "the listener has no peer");
  } finally {
    for (const client of clients) client.destroy();
    server.close();
    rmSync(folder, { recursive: true });
  }
});

test("a network namespace lists its own unix sockets alone", () => {
  using namespace = NetworkNamespace.create();
  assert.deepEqual(unixPeers(namespace), []);
});

test("a socket tells its protocol, and what is no socket tells none", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  try {
    assert.ok(ownSockets().some(({ file }) => socketProtocol(file) === "TCP"));
    assert.throws(() => socketProtocol("/proc/self/exe"), DmigrateError);
  } finally {
    server.close();
  }
});
