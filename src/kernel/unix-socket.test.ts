/** Descriptors that are handed over a unix socket. */
import assert from "node:assert/strict";
import { closeSync, existsSync, fstatSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { connect } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, it } from "node:test";
import { failedWith } from "./libc.ts";
import { acceptFrom, listenAt, receive, sendDescriptor, socketPair } from "./unix-socket.ts";

void describe("a unix socket", { timeout: 60_000 }, () => {
  void it("hands a descriptor over, between the bytes before and behind it", () => {
    const [a, b] = socketPair();
    const file = openSync("/dev/null", "r");
    writeSync(a, "before");
    sendDescriptor(a, file);
    writeSync(a, "behind");
    const into = Buffer.alloc(100);
    const bytes = [];
    let fd: number | undefined;
    for (let received = receive(b, into); received !== undefined; received = receive(b, into)) {
      bytes.push(into.toString("utf8", 0, received.byteCount));
      fd ??= received.fd;
    }
    assert.equal(bytes.join(""), "before\0behind");
    assert.ok(fd !== undefined);
    assert.equal(fstatSync(fd).rdev, fstatSync(file).rdev);
    for (const each of [a, file, fd]) closeSync(each);
    assert.deepEqual(receive(b, into), { byteCount: 0, fd: undefined });
    closeSync(b);
  });

  void it("listens at a path that is longer than an address, and replaces what an earlier one left there", async () => {
    const folder = mkdtempSync(path.join(tmpdir(), `dmigrate-${"x".repeat(120)}-`));
    closeSync(listenAt(path.join(folder, "socket")));
    assert.ok(existsSync(path.join(folder, "socket")));
    const listener = listenAt(path.join(folder, "socket"));
    assert.equal(acceptFrom(listener), undefined);
    const short = openSync(folder, "r");
    const client = connect(`/proc/self/fd/${short}/socket`);
    await once(client, "connect");
    const connection = acceptFrom(listener);
    assert.ok(connection !== undefined);
    assert.equal(receive(connection, Buffer.alloc(1)), undefined);
    client.destroy();
    for (const fd of [connection, listener, short]) closeSync(fd);
    rmSync(folder, { recursive: true });
    assert.throws(
      () => receive(listener, Buffer.alloc(1)),
      (error) => failedWith("EBADF", error),
    );
  });
});
