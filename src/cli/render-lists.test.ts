/** Findings, migrations and hosts as tables and lists. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { BEGAN } from "./example.fixture.ts";
import { renderCheck, renderHosts, renderMigrations, renderStatus, type CheckResult } from "./render-lists.ts";
import { colourless } from "./text.ts";

const { id, container, source, target } = BEGAN;

const BLOCKED: CheckResult = {
  container,
  source,
  target,
  findings: [
    { severity: "warning", check: "stopped", message: "A task is stopped", remedy: "nothing" },
    {
      severity: "blocker",
      check: "runtime",
      host: target,
      message: "Docker knows no runtime dmigrate",
      remedy: "run `dmigrate agent` there",
    },
  ],
  passed: ["redis is free as a name on b"],
};

test("a check tells blockers first, each with its host and remedy, and ends with the verdict", () => {
  assert.equal(
    renderCheck(BLOCKED, colourless).join("\n"),
    `Blockers
  ✗ b: Docker knows no runtime dmigrate [runtime]
    → run \`dmigrate agent\` there

Warnings
  ! A task is stopped [stopped]
    → nothing

Passed
  ✓ redis is free as a name on b

✗ redis cannot migrate from a to b: 1 blocker.`,
  );
  const free = { ...BLOCKED, findings: [], passed: [] };
  assert.deepEqual(renderCheck(free, colourless), ["✓ redis can migrate from a to b."]);
});

test("migrations, with how long ago they began", () => {
  const nowMs = Date.UTC(2026, 0, 10);
  const summary = { id, container, source, target, role: "source" } as const;
  const lines = renderMigrations(
    [
      { ...summary, state: "running", phase: "copy", beganAtMs: nowMs - 3200 },
      { ...summary, state: "rolled-back", beganAtMs: nowMs - 3_720_000 },
      { ...summary, state: "completed", beganAtMs: nowMs - 4 * 24 * 3_600_000 },
    ],
    nowMs,
    colourless,
  );
  assert.equal(
    lines.join("\n"),
    `ID             CONTAINER  FROM  TO  STATE        PHASE  BEGAN
m0k3v9x2q7ab1  redis      a     b   running      copy   3 s ago
m0k3v9x2q7ab1  redis      a     b   rolled-back         1 h 2 min ago
m0k3v9x2q7ab1  redis      a     b   completed           4 days ago`,
  );
  const waiting = { ...summary, role: "target", state: "owner", beganAtMs: nowMs, notice: "redis waits for a" } as const;
  assert.equal(renderMigrations([waiting], nowMs, colourless).at(-1), `! ${id}: redis waits for a`);
  assert.deepEqual(renderMigrations([], nowMs, colourless), ["No migration has touched this host yet."]);
});

test("hosts, with whether they answer", () => {
  const hosts = [
    { name: source, address: "10.0.0.1:7461", self: true },
    { name: target, address: "10.0.0.2:7461", self: false, reachable: false },
  ];
  assert.equal(
    renderHosts(hosts, colourless).join("\n"),
    `NAME  ADDRESS        STATE
a     10.0.0.1:7461  this host
b     10.0.0.2:7461  not reachable`,
  );
});

test("a host in no cluster shows its token, a member does not", () => {
  const agent = { version: "0.1.0", pid: 7, listen: "*:7461" };
  const outsider = renderStatus({ ...agent, joinToken: "one-time" }, colourless);
  assert.equal(outsider.at(-1), "one-time");
  assert.deepEqual(renderStatus({ ...agent, host: source }, colourless), [
    "agent       0.1.0, process 7",
    "listens at  *:7461",
    "host        a",
  ]);
});

test("either host tells in the same words how a migration stands, and which phase only while it goes on", () => {
  const summary = { id, container, source, target, phase: "post-copy", beganAtMs: 0 } as const;
  const line = (state: "running" | "prepared" | "committed" | "owner" | "completed"): string =>
    renderMigrations([{ ...summary, role: "source", state }], 0, colourless)[1] ?? "";
  assert.equal(line("prepared"), line("running"));
  assert.match(line("running"), / b +running +post-copy +now$/);
  assert.equal(line("owner"), line("committed"));
  assert.match(line("committed"), / b +handed over +post-copy +now$/);
  assert.match(line("completed"), / b +completed +now$/);
});
