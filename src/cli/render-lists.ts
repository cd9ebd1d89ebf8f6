/** What the agent knows, as tables and lists: findings of a check, migrations, hosts, its own state. */
import type { AgentStatus, ClusterHost, ControlClient, MigrationSummary } from "../agent/client.ts";
import { duration, plural, table, type Paint, type Tone } from "./text.ts";

/** What a preflight found out. */
export type CheckResult = Awaited<ReturnType<ControlClient["check"]>>;
type Finding = CheckResult["findings"][number];

export function blockersOf({ findings }: CheckResult): readonly Finding[] {
  return findings.filter(({ severity }) => severity === "blocker");
}

export function renderCheck(result: CheckResult, paint: Paint): string[] {
  const { container, source, target, findings, passed } = result;
  const blockers = blockersOf(result);
  const warnings = findings.filter(({ severity }) => severity === "warning");
  const verdict = (can: string): string => paint("strong", `${container} ${can} migrate from ${source} to ${target}`);
  return [
    ...group("Blockers", "✗", "bad", blockers, paint),
    ...group("Warnings", "!", "warning", warnings, paint),
    ...(passed.length > 0 ? [paint("strong", "Passed"), ...passed.map((line) => `  ${paint("good", "✓")} ${line}`), ""] : []),
    blockers.length > 0
      ? `${paint("bad", "✗")} ${verdict("cannot")}: ${plural(blockers.length, "blocker")}.`
      : `${paint("good", "✓")} ${verdict("can")}.`,
  ];
}

function group(title: string, mark: string, tone: Tone, findings: readonly Finding[], paint: Paint): string[] {
  if (findings.length === 0) return [];
  const lines = findings.flatMap(({ host, message, remedy, check }) => [
    `  ${paint(tone, mark)} ${host === undefined ? "" : `${host}: `}${message} ${paint("quiet", `[${check}]`)}`,
    ...(remedy === "" ? [] : [`    ${paint("quiet", "→")} ${remedy}`]),
  ]);
  return [paint("strong", title), ...lines, ""];
}

/** How a state is told: on either host in the same words. */
const STATES: Readonly<Record<MigrationSummary["state"], { readonly text: string; readonly tone: Tone }>> = {
  running: { text: "running", tone: "busy" },
  prepared: { text: "running", tone: "busy" },
  committed: { text: "handed over", tone: "busy" },
  owner: { text: "handed over", tone: "busy" },
  completed: { text: "completed", tone: "good" },
  "rolled-back": { text: "rolled-back", tone: "warning" },
  failed: { text: "failed", tone: "bad" },
};

export function renderMigrations(migrations: readonly MigrationSummary[], nowMs: number, paint: Paint): string[] {
  if (migrations.length === 0) return ["No migration has touched this host yet."];
  const rows = migrations.map(({ id, container, source, target, state, phase, beganAtMs }) => [
    id,
    container,
    source,
    target,
    paint(STATES[state].tone, STATES[state].text),
    STATES[state].tone === "busy" ? (phase ?? "") : "",
    ago(nowMs - beganAtMs),
  ]);
  const notices = migrations.flatMap(({ id, notice }) => (notice === undefined ? [] : [`${paint("warning", "!")} ${id}: ${notice}`]));
  return [...table(["ID", "CONTAINER", "FROM", "TO", "STATE", "PHASE", "BEGAN"], rows, paint), ...notices];
}

const DAY_MS = 24 * 3600 * 1000;

function ago(milliseconds: number): string {
  if (milliseconds >= 2 * DAY_MS) return `${Math.floor(milliseconds / DAY_MS)} days ago`;
  return milliseconds < 1000 ? "now" : `${duration(milliseconds).replace(/\.\d+ s$/, " s")} ago`;
}

export function renderHosts(hosts: readonly ClusterHost[], paint: Paint): string[] {
  const rows = hosts.map(({ name, address, self, reachable }) => [name, address, self ? "this host" : reachability(reachable, paint)]);
  return table(["NAME", "ADDRESS", "STATE"], rows, paint);
}

function reachability(reachable: boolean | undefined, paint: Paint): string {
  if (reachable === undefined) return "";
  return reachable ? paint("good", "reachable") : paint("bad", "not reachable");
}

export function renderStatus({ version, host, pid, listen, joinToken }: AgentStatus, paint: Paint): string[] {
  const facts: readonly (readonly [name: string, value: string])[] = [
    ["agent", `${version}, process ${pid}`],
    ["listens at", listen],
    ["host", host ?? paint("warning", "in no cluster yet")],
  ];
  const lines = facts.map(([name, value]) => `${paint("quiet", name.padEnd(12))}${value}`);
  if (joinToken === undefined) return lines;
  return [
    ...lines,
    "",
    "Begin a cluster with it:             dmigrate init NAME --address ADDRESS",
    "or, on the first host of a cluster:  dmigrate hosts add NAME ADDRESS --token TOKEN",
    "",
    "Its one-time token:",
    joinToken,
  ];
}
