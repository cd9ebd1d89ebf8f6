/**
 * `npm run bench [-- NAME [--only PART,...] [--json]]`: measures, and prints each number with its goal; without a name it says what there
 * is. Exit code 0 also if a goal is missed: what is printed says so.
 */
import { parseArgs } from "node:util";
import { listOf, measureParts, type Benchmark, type Part } from "./benchmark.ts";
import { ideas } from "./ideas.ts";
import { pagePlane } from "./page-plane/page-plane.ts";
import { processes } from "./processes.ts";
import { jsonOf, renderRows, type Row } from "./rows.ts";
import { tracking } from "./tracking.ts";

const BENCHMARKS: readonly Benchmark[] = [pagePlane, ideas, processes, tracking];
const USAGE = "npm run bench -- NAME [--only PART,...] [--json]";

const { positionals, values } = parseArgs({ allowPositionals: true, options: { json: { type: "boolean" }, only: { type: "string" } } });
const [name, ...others] = positionals;
if (name === undefined) {
  process.stdout.write(`${[USAGE, "", ...listOf(BENCHMARKS)].join("\n")}\n`);
} else {
  const parts = partsOf(name, values.only?.split(","));
  const rows: Row[] = [];
  for await (const some of measureParts(parts, (line) => process.stderr.write(`${line}\n`))) {
    rows.push(...some);
    if (values.json !== true) for (const line of renderRows(some)) process.stdout.write(`${line}\n`);
  }
  if (values.json === true) process.stdout.write(jsonOf(rows));
}

/** Those of a benchmark that are wanted; ends this program if there are none of that name. */
function partsOf(benchmark: string, only: readonly string[] | undefined): readonly Part[] {
  const all = BENCHMARKS.find((each) => each.name === benchmark)?.parts ?? [];
  const unknown = only?.find((wanted) => all.every((part) => part.name !== wanted));
  if (all.length > 0 && unknown === undefined && others.length === 0)
    return only === undefined ? all : all.filter((part) => only.includes(part.name));
  process.stderr.write(`There is no ${[...positionals, unknown ?? []].flat().join(" ")} to measure. ${USAGE}\n`);
  process.exit(2);
}
