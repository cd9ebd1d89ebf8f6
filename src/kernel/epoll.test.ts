/** Waiting for many descriptors at once. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { closeSync, readdirSync, readSync, writeSync } from "node:fs";
import { once } from "node:events";
import { describe, it } from "node:test";
import { setImmediate as immediate } from "node:timers/promises";
import { InputWatch } from "./epoll.ts";
import { socketPair } from "./unix-socket.ts";

void describe("a watch", { timeout: 60_000 }, () => {
  void it("tells of each descriptor as long as it can be read, and of none that was taken away", async () => {
    using watch = new InputWatch();
    const [a, b] = [socketPair(), socketPair()];
    const heard = new EventTarget();
    const seen: string[] = [];
    for (const [name, [end]] of Object.entries({ a, b })) {
      watch.add(end, () => {
        readSync(end, Buffer.alloc(1));
        seen.push(name);
        heard.dispatchEvent(new Event("heard"));
      });
    }
    for (const [end, text] of [
      [a[1], "x"],
      [b[1], "x"],
      [a[1], "xx"],
    ] as const) {
      const next = once(heard, "heard");
      writeSync(end, text);
      await next;
    }
    while (seen.length < 4) await once(heard, "heard");
    assert.deepEqual(seen, ["a", "b", "a", "a"]);
    watch.delete(a[0]);
    writeSync(a[1], "x");
    const next = once(heard, "heard");
    writeSync(b[1], "x");
    await next;
    assert.equal(seen.at(-1), "b");
    for (const fd of [b[0]]) watch.delete(fd);
    for (const fd of [...a, ...b]) closeSync(fd);
  });

  void it("leaves no descriptor behind", async () => {
    const before = readdirSync("/proc/self/fd").length;
    new InputWatch()[Symbol.dispose]();
    while (readdirSync("/proc/self/fd").length > before) await immediate();
  });

  void it("does not keep a process from ending that has not disposed of it", async () => {
    const url = JSON.stringify(import.meta.resolve("./epoll.ts"));
    const script = `const { InputWatch } = await import(${url}); globalThis.watch = new InputWatch(); setImmediate(() => process.exit(7));`;
    const child = spawn(process.execPath, ["--input-type=module", "--eval", script], { stdio: ["ignore", "inherit", "inherit"] });
    const [code] = (await once(child, "exit")) as [number | null];
    assert.equal(code, 7);
  });
});
