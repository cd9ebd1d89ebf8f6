/** Work inside a network namespace stays inside, and the process comes back. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readlinkSync } from "node:fs";
import { describe, it } from "node:test";
import { NetworkNamespace } from "./netns.ts";

const current = (): string => readlinkSync("/proc/thread-self/ns/net");

void describe("a network namespace", () => {
  void it("is where work given to it is done, and nothing else", () => {
    using namespace = NetworkNamespace.create();
    const own = current();
    const inside = namespace.run(current);
    assert.notEqual(inside, own);
    assert.equal(namespace.run(() => execFileSync("readlink", ["/proc/self/ns/net"], { encoding: "utf8" })).trim(), inside);
    assert.equal(current(), own);
  });

  void it("is left again when the work throws", () => {
    using namespace = NetworkNamespace.create();
    const own = current();
    assert.throws(
      () =>
        namespace.run(() => {
          throw new Error("thrown inside");
        }),
      /thrown inside/,
    );
    assert.equal(current(), own);
  });

  void it("can be entered from within another", () => {
    using outer = NetworkNamespace.create();
    using inner = NetworkNamespace.create();
    const [before, within, after] = outer.run(() => [current(), inner.run(current), current()]);
    assert.equal(before, after);
    assert.notEqual(within, before);
  });

  void it("knows whether this process lives in it", () => {
    using own = NetworkNamespace.open("/proc/self/ns/net");
    using other = NetworkNamespace.create();
    assert.ok(own.isOwn());
    assert.ok(!other.isOwn());
    assert.ok(other.run(() => other.isOwn() && !own.isOwn()));
  });

  void it("must be one", () => {
    assert.throws(() => NetworkNamespace.open("/run/netns/h3-none"), { code: "KERNEL" });
    using other = NetworkNamespace.open("/proc/self/ns/mnt");
    assert.throws(() => other.run(current), { code: "KERNEL", message: /setns failed: EINVAL/ });
  });
});
