/** A running migration as a terminal and as a log show it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { eventsOf, PREDICTION, REPORT } from "./example.fixture.ts";
import { advance, logLine, NOTHING_YET, renderProgress, type Progress } from "./render-progress.ts";
import { colourless } from "./text.ts";

const EVENTS = eventsOf(REPORT);
const until = (ms: number): Progress => EVENTS.filter(({ atMs }) => atMs <= ms).reduce(advance, NOTHING_YET);

test("before the agent has answered nothing is claimed", () => {
  const [heading, , ...rest] = renderProgress(NOTHING_YET, 0, colourless);
  assert.equal(heading, "Asking the agent");
  assert.doesNotMatch(rest.join("\n"), /✓/);
});

test("phases that ended have a time, the one that runs has a clock and an estimate, the others a name", () => {
  const block = renderProgress(until(631), 700, colourless).join("\n");
  assert.equal(
    block,
    `Migrating redis from a to b   m0k3v9x2q7ab1

  ✓ preflight      96 ms
  ✓ reserve        35 ms
  ⠧ copy          569 ms   about 2 s left
    stage
    freeze
    handover
    post-copy
    finish

  sent  memory 90.6 MB  files 185.0 kB  layers 6.5 MB  metadata 195.4 kB  ·  154.5 MB/s`,
  );
});

test("an estimate belongs to its phase", () => {
  assert.match(renderProgress(until(1800), 1800, colourless).join("\n"), /copy.*less than 1 s left/);
  assert.doesNotMatch(renderProgress(until(1900), 1900, colourless).join("\n"), /left/);
});

test("warnings stay in sight", () => {
  const warned = advance(until(700), { kind: "warning", atMs: 701, message: "A health check is running" });
  assert.equal(renderProgress(warned, 702, colourless).at(-1), "  ! A health check is running");
});

test("the mode that was chosen stays in sight, with what is predicted of it", () => {
  const event = { kind: "predicted", atMs: 1500, prediction: PREDICTION } as const;
  const chosen = "mode warm (auto), predicted to stand still for 201 ms and to take 4.62 s in all";
  assert.equal(logLine(NOTHING_YET, event, 0), `   1.500 s  ${chosen}`);
  assert.equal(
    renderProgress(advance(until(1500), event), 1501, colourless)
      .at(-1)
      ?.replace(/ +/g, " "),
    ` ${chosen}`,
  );
});

test("a log has a line for each begin and end, and now and then one of bytes", () => {
  const lines: string[] = [];
  let progress = NOTHING_YET;
  let lastLineMs = 0;
  for (const event of EVENTS) {
    const line = logLine(progress, event, lastLineMs);
    if (line !== undefined) {
      lines.push(line);
      lastLineMs = event.atMs;
    }
    progress = advance(progress, event);
  }
  assert.equal(lines[0], "   0.000 s  migrating redis from a to b: m0k3v9x2q7ab1");
  assert.ok(lines.includes("   1.892 s  copy took 1.76 s"));
  assert.equal(lines.length, 1 + 2 * REPORT.phases.length);

  const progressEvent = { kind: "progress", phase: "copy", atMs: 2500, bytes: REPORT.bytes, rate: 2e6, remainingMs: 61_000 } as const;
  assert.equal(
    logLine(progress, progressEvent, 0),
    "   2.500 s  copy: sent memory 607.3 MB, files 1.2 MB, layers 43.7 MB, metadata 1.3 MB; 2.0 MB/s, about 1 min 1 s left",
  );
  assert.equal(logLine(progress, progressEvent, 1000), undefined);
});
