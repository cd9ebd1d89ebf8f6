/**
 * `npm test [-- PATTERN...]`: every test of the project, the fast ones first, with one summary at the end.
 *
 * A pattern is a part of a file's path; with several, a file that contains any of them runs. Exit code 0 only if tests
 * ran and none failed.
 */
import { globSync } from "node:fs";
import path from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { run } from "node:test";
import { spec, type TestEvent } from "node:test/reporters";

/** What a group's tests need decides how many of its files run at once, and after how long a file is given up. */
const GROUPS = [
  { files: "{src,lab,tools,bench}/**/*.test.ts", concurrency: 3, timeoutMinutes: 10 },
  { files: "test/{engine,lab}/*.test.ts", concurrency: 3, timeoutMinutes: 30 },
] as const;
/** Files that take long, most of it waiting for limits and for TCP: they begin first, so that the others fill the time. */
const PATIENT = /(handed-over|workloads|meddling|doubt|cut-link|faults|self-checking|agent)\.test\.ts$/;

/** A line of node's own summary: what was counted, and how many or how many milliseconds. */
const COUNT = /^(tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) ([\d.]+)$/;

const CHECKOUT = path.resolve(import.meta.dirname, "..");
const patterns = process.argv.slice(2);

/** The events of one group after the other; their summaries become one, at the end. */
async function* inTurn(): AsyncGenerator<TestEvent, void> {
  const totals = new Map<string, number>();
  let summary: TestEvent | undefined; // at it the reporter repeats the failures
  for (const { concurrency, timeoutMinutes, ...group } of GROUPS) {
    const chosen = globSync(group.files, { cwd: CHECKOUT })
      .filter((file) => patterns.length === 0 || patterns.some((part) => file.includes(part)))
      .toSorted();
    if (chosen.length === 0) continue;
    const files = [...chosen.filter((file) => PATIENT.test(file)), ...chosen.filter((file) => !PATIENT.test(file))];
    const events = run({ files, cwd: CHECKOUT, concurrency, timeout: timeoutMinutes * 60_000 });
    for await (const event of events as AsyncIterable<TestEvent>) {
      const [, name, count] = (event.type === "test:diagnostic" && event.data.nesting === 0 && COUNT.exec(event.data.message)) || [];
      if (event.type === "test:summary") summary = event;
      else if (name === undefined) yield event;
      else totals.set(name, (totals.get(name) ?? 0) + Number(count));
    }
  }
  if (summary !== undefined) yield summary;
  for (const [name, total] of totals) yield { type: "test:diagnostic", data: { nesting: 0, message: `${name} ${total}`, level: "info" } };

  const ran = (totals.get("pass") ?? 0) + (totals.get("fail") ?? 0);
  if (ran === 0) console.error(`No test ran: no file matches ${patterns.join(" ") || "the groups of test/run.ts"}`);
  const failed = (totals.get("fail") ?? 0) + (totals.get("cancelled") ?? 0);
  process.exitCode = ran > 0 && failed === 0 ? 0 : 1;
}

process.exitCode = 1; // until the summary says otherwise
await pipeline(Readable.from(inTurn()).compose(new spec()), process.stdout, { end: false });
