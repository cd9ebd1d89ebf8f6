/**
 * Containers of many processes, moved: how long their clients waited, and what of that each process costs.
 */
import { agentOf, startCluster } from "../lab/cluster.ts";
import type { Host } from "../lab/host.ts";
import { Lab } from "../lab/lab.ts";
import type { ClientProcess } from "../lab/workloads/client-control.ts";
import type { ClientResult } from "../lab/workloads/client-result.ts";
import { startPostgres, startPreforking, type ManyProcesses } from "../lab/workloads/many-processes.ts";
import { hostName } from "../src/core/ids.ts";
import type { Report, Step } from "../src/core/migration.ts";
import type { Benchmark } from "./benchmark.ts";
import { atMost, quantile, type Row } from "./rows.ts";

const MOVES = 6;
const PAUSE_MS = 10;
/** With those that every PostgreSQL has. */
const POSTGRES_TASKS = 26;

/** What is moved. */
interface Subject extends ManyProcesses {
  /** So many processes it has. */
  readonly tasks: number;
  readonly start: (lab: Lab, host: Host, subject: ManyProcesses) => Promise<ClientProcess<ClientResult>>;
  /** What its clients wait for at most. */
  readonly goalMs: number;
}

const SUBJECTS: readonly Subject[] = [
  {
    name: "postgres",
    address: "10.77.0.210",
    connections: 20,
    pauseMs: PAUSE_MS,
    tasks: POSTGRES_TASKS,
    start: startPostgres,
    goalMs: 600,
  },
  { name: "preforking", address: "10.77.0.211", connections: 32, pauseMs: PAUSE_MS, tasks: 32, start: startPreforking, goalMs: 400 },
];

export const processes: Benchmark = {
  name: "processes",
  about: "containers of many processes: how long their clients wait, and what of that each process costs",
  parts: SUBJECTS.map((subject) => ({
    name: subject.name,
    about: `${subject.tasks} processes, ${subject.connections} connections, moved ${MOVES} times`,
    minutes: 1,
    measure: () => measured(subject),
  })),
};

async function measured(subject: Subject): Promise<Row[]> {
  await using lab = await Lab.up({ name: "bench", hosts: ["a", "b"] }, undefined, startCluster);
  const { name, tasks, goalMs } = subject;
  const client = await subject.start(lab, lab.host("a"), subject);
  const reports: Report[] = [];
  for (let move = 0; move < MOVES; move++) {
    client.mark(String(move));
    reports.push(await migrated(lab, name, move % 2 === 0 ? ["a", "b"] : ["b", "a"]));
  }
  const { errors, faults, spans } = await client.stop();
  if (errors > 0) throw new Error(`The clients of ${name} noticed more than pauses: ${faults.join("; ")}`);
  const each = (step: string): number => quantile(reports.map(({ steps }) => lengthOf(steps, step))) / tasks;
  return [
    atMost(`${name}: downtime, as its clients see it`, quantile(spans.map(({ downtimeMs }) => downtimeMs)), "ms", goalMs),
    atMost(`${name}: the agent's look at the frozen tasks, each`, each("look at tasks"), "ms", 2),
    atMost(`${name}: CRIU's dump, each task`, each("dump"), "ms", 6),
    atMost(`${name}: CRIU's restore, each task`, each("restore"), "ms", 6),
  ];
}

async function migrated(lab: Lab, container: string, [source, target]: readonly [string, string]): Promise<Report> {
  using agent = agentOf(lab.host(source));
  const request = { container, target: hostName(target), mode: "post-copy", keepSource: false, verify: false } as const;
  for await (const event of agent.migrate(request)) {
    if (event.kind !== "ended") continue;
    if (event.report.outcome !== "completed") throw new Error(`${container} did not move: ${event.report.error?.message}`);
    return event.report;
  }
  throw new Error(`The move of ${container} has no end`);
}

/** How long the pieces of a step took. */
function lengthOf(steps: readonly Step[], name: string): number {
  return steps.filter((step) => step.name === name).reduce((sum, { startMs, endMs }) => sum + endMs - startMs, 0);
}
