/** A limit is kept over any while, but for a burst; rates are read as tc(8) has them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { parseRate, RateLimit } from "./rate-limit.ts";

test("over any while no more is sent than the limit allows, a burst and one frame, and a sender that always has something uses it", () => {
  const frames = fc.array(fc.record({ byteCount: fc.integer({ min: 1, max: 65_536 }), idleMs: fc.constantFrom(0, 0, 0, 1, 50) }), {
    minLength: 20,
    maxLength: 200,
  });
  fc.assert(
    fc.property(frames, fc.integer({ min: 100_000, max: 1_000_000_000 }), (all, bytesPerSecond) => {
      const limit = new RateLimit(bytesPerSecond);
      let [nowMs, sent, idle] = [1000, 0, 0];
      for (const { byteCount, idleMs } of all) {
        nowMs += idleMs;
        idle += idleMs;
        nowMs += limit.waitMs(nowMs);
        const allowed = (bytesPerSecond * (nowMs - 1000 + 10)) / 1000 + 65_536;
        sent += byteCount;
        assert.ok(sent <= allowed + 1, `${sent} instead of ${allowed}`);
        limit.sent(byteCount, nowMs);
      }
      const last = all.at(-1)?.byteCount ?? 0;
      const neededMs = ((sent - last) / bytesPerSecond) * 1000;
      assert.ok(nowMs - 1000 <= neededMs + idle + 0.001, "it waited for nothing");
    }),
  );
});

test("what is urgent is not held back, and paid for by the rest", () => {
  const limit = new RateLimit(1_000_000);
  limit.sent(100_000, 1000);
  limit.sent(100_000, 1000);
  assert.equal(limit.waitMs(1000), 190);
  assert.equal(limit.waitMs(1190), 0);
});

test("rates are read as tc has them; anything else is none", () => {
  assert.deepEqual(
    ["1gbit", "200mbit", "1.5mbit", "100kbit"].map((text) => parseRate(text)),
    [125_000_000, 25_000_000, 187_500, 12_500],
  );
  for (const wrong of ["", "1", "1g", "-1mbit", "1 mbit", "99kbit", "0mbit", "1MBIT", "1e3mbit", "mbit", "constructor"])
    assert.equal(parseRate(wrong), undefined, wrong);
});
