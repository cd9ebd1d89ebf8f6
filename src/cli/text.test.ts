/** Numbers, tables and bars read as people write them, and never overrun the terminal. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { bars, bytes, coloured, colourless, count, duration, fit, plural, table, widthOf } from "./text.ts";

test("durations change their unit before they become unreadable", () => {
  const written = [0, 0.04, 2.43, 9.96, 112.4, 999.4, 999.6, 3420, 59_994, 59_996, 125_000, 3_720_000].map(duration);
  const expected = "0 ms|0 ms|2.4 ms|10 ms|112 ms|999 ms|1.00 s|3.42 s|59.99 s|1 min 0 s|2 min 5 s|1 h 2 min";
  assert.deepEqual(written, expected.split("|"));
});

test("bytes and counts", () => {
  const written = [0, 812, 999.96, 1_310_000, 607_300_000, 4e9, 5e12].map(bytes);
  assert.deepEqual(written, ["0 B", "812 B", "1.0 kB", "1.3 MB", "607.3 MB", "4.0 GB", "5.0 TB"]);
  assert.deepEqual([count(148_249), plural(1, "page"), plural(2, "page")], ["148,249", "1 page", "2 pages"]);
});

test("columns are aligned by what is seen, not by colour codes", () => {
  const rows = [
    ["a", coloured("good", "ok")],
    ["web-3", "no"],
  ];
  const lines = table(["NAME", "STATE"], rows, colourless);
  assert.deepEqual(lines.map(widthOf), [12, 9, 9]);
  assert.equal(lines[2], "web-3  no");
});

test("no line is wider than the terminal", () => {
  fc.assert(
    fc.property(fc.string(), fc.integer({ min: 1, max: 80 }), (text, columns) => {
      assert.ok(widthOf(fit(coloured("bad", text), columns)) <= columns);
    }),
  );
  assert.equal(fit("1234", 4), "1234");
  assert.equal(fit("12345", 4), "123…");
});

test("a bar lies on its line and is never invisible", () => {
  const span = fc.tuple(fc.nat(10_000), fc.nat(10_000), fc.nat(10_000)).map(([fromMs, gapMs, tookMs]) => ({
    startMs: fromMs + gapMs,
    endMs: fromMs + gapMs + tookMs,
    fromMs,
  }));
  fc.assert(
    fc.property(span, fc.nat(10_000), fc.integer({ min: 1, max: 120 }), ({ startMs, endMs, fromMs }, afterMs, columns) => {
      const drawn = bars([{ startMs, endMs }], { fromMs, toMs: endMs + afterMs }, columns);
      assert.match(drawn, /^ *█+$/);
      assert.ok(drawn.length <= columns);
    }),
  );
  assert.equal(bars([{ startMs: 250, endMs: 750 }], { fromMs: 0, toMs: 1000 }, 8), "  ████");
});
