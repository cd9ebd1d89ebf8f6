/** A report tells first who runs the container, then where the time went. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CANCELLED, PREDICTION, REPORT } from "./example.fixture.ts";
import { renderReport } from "./render-report.ts";
import { colourless, widthOf } from "./text.ts";

test("a completed migration", () => {
  assert.equal(
    renderReport(REPORT, 72, colourless).join("\n"),
    `✓ redis moved to b. It stood still for 187 ms.
  Migration m0k3v9x2q7ab1 from a took 4.23 s.

  preflight     96 ms  █
  reserve       35 ms   █
  copy         1.76 s   ████████████████████
  stage        425 ms                       █████
  freeze       172 ms                            ██
  handover      18 ms                              █
  post-copy    1.65 s                              ███████████████████
  finish        69 ms                                                 █

  Inside the downtime of 187 ms
  freeze tasks           2.4 ms  █
  last file changes       12 ms  ███
  dump                    83 ms  █████████████████
    mappings              30 ms   ████    ██
    pages                 20 ms       ████
    network namespace     20 ms               ████
  restore                 87 ms                   ██████████████████
  commit                  15 ms                                     ███
    engine takes over     14 ms                                     ███

  sent   653.5 MB, 154.5 MB/s: memory 607.3 MB, files 1.2 MB, layers 43.7 MB, metadata 1.3 MB
  pages  148,249 pages: 0 copied ahead, 3,121 demanded, 144,907 pushed, 221 zero
         tasks waited 2,988 times for one: 1.1 ms in the middle, 4.2 ms at 99 %`,
  );
});

test("memory that was copied ahead is counted, and what was written since", () => {
  const round = { startMs: 200, endMs: 1500, pageCount: 148_000, writtenCount: 900 };
  const rounds = [round, { startMs: 2000, endMs: 2100, pageCount: 900, writtenCount: 12 }];
  const lines = renderReport({ ...REPORT, rounds }, 80, colourless);
  assert.ok(lines.includes("         2 rounds copied 148,900; 12 were written since the last began"), lines.join("\n"));
});

test("what was predicted of each mode stands beside what the one that was taken became", () => {
  const lines = renderReport({ ...REPORT, mode: "post-copy", prediction: PREDICTION }, 80, colourless);
  const from = lines.findIndex((line) => line.startsWith("  Predicted"));
  assert.equal(
    lines.slice(from, from + 7).join("\n"),
    `  Predicted        downtime  total   sent      after the handover
    warm           201 ms    4.62 s  851.6 MB  9.0 MB
  → post-copy      201 ms    3.72 s  652.1 MB  607.0 MB
    pre-copy       637 ms    4.62 s  850.6 MB  0 B
    stop-and-copy  1.72 s    3.72 s  652.1 MB  0 B
    it took        187 ms    4.23 s  653.5 MB  606.3 MB
  Measured: 607.0 MB of memory, 80.0 MB/s written, 400.0 MB/s to the target`,
  );
});

test("a migration that was undone says that the source runs, and why", () => {
  const [verdict, reason, extent] = renderReport(CANCELLED, 80, colourless);
  assert.equal(verdict, "✗ redis stays on a. Its move to b was undone.");
  assert.equal(reason, "  CANCELLED  The migration was cancelled; start it again when it suits");
  assert.equal(extent, "  Migration m0k3v9x2q7ab1; the container never stood still.");
});

test("one that the preflight refused did not begin, and every reason has a line", () => {
  const message = "redis can't move to b:\n- redis is paused; run `docker unpause redis`\n- CRIU does not work on b; install it";
  const refused = { ...CANCELLED, error: { code: "PREFLIGHT_BLOCKED", message } };
  assert.deepEqual(renderReport(refused, 80, colourless).slice(0, 4), [
    "✗ The move of redis from a to b did not begin.",
    "  PREFLIGHT_BLOCKED  redis can't move to b:",
    "  - redis is paused; run `docker unpause redis`",
    "  - CRIU does not work on b; install it",
  ]);
});

test("a failed one claims nothing about who runs the container", () => {
  const failed = {
    ...REPORT,
    outcome: "failed",
    error: { code: "MEMORY_LOST", message: "redis belongs to b now; restart it" },
  } as const;
  const text = renderReport(failed, 80, colourless).join("\n");
  assert.match(text, /^✗ The migration of redis from a to b failed\.\n {2}MEMORY_LOST {2}redis belongs to b now/);
  assert.doesNotMatch(text, /runs on/);
});

test("a long duration stands apart from its phase and its bar", () => {
  const phases = [
    { name: "copy", startMs: 0, endMs: 1760 },
    { name: "post-copy", startMs: 1760, endMs: 1760 + 83_000 },
    { name: "finish", startMs: 84_760, endMs: 84_760 + 754_000 },
  ] as const;
  const lines = renderReport({ ...REPORT, phases }, 60, colourless);
  assert.deepEqual(
    lines.slice(3, 6).map((line) => line.slice(0, 26)),
    ["  copy            1.76 s  ", "  post-copy   1 min 23 s  ", "  finish     12 min 34 s  "],
  );
  for (const line of lines.filter((each) => each.includes("█"))) assert.ok(widthOf(line) <= 60, line);
});

test("warnings are told, and pictures fit the terminal", () => {
  const lines = renderReport({ ...REPORT, warnings: ["A volume was skipped"] }, 60, colourless);
  assert.equal(lines.at(-1), "  warning  A volume was skipped");
  for (const line of lines.filter((each) => each.includes("█"))) assert.ok(widthOf(line) <= 60, line);
});
