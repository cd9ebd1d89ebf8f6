/**
 * `npm run bench -- NAME [--json]`: measures, and prints each number with its goal. Exit code 0 also if a goal is missed: what is printed
 * says so.
 */
import { parseArgs } from "node:util";
import { processes } from "./processes.ts";
import { pagePlane } from "./page-plane/page-plane.ts";
import { renderRows, type Row } from "./rows.ts";
import { tracking } from "./tracking.ts";

/** @param say is told what is being measured */
type Benchmark = (say: (line: string) => void) => Promise<Row[]>;

const BENCHMARKS: Readonly<Record<string, Benchmark>> = { "page-plane": pagePlane, processes, tracking };

const { positionals, values } = parseArgs({ allowPositionals: true, options: { json: { type: "boolean", default: false } } });
const [name = "", ...others] = positionals;
const benchmark = BENCHMARKS[name];
if (benchmark === undefined || others.length > 0) {
  process.stderr.write(`Usage: npm run bench -- NAME [--json], with one of: ${Object.keys(BENCHMARKS).join(", ")}\n`);
  process.exit(2);
}
const rows = await benchmark((line) => process.stderr.write(`${line}\n`));
process.stdout.write(values.json ? `${JSON.stringify({ rows }, null, 2)}\n` : `${renderRows(rows).join("\n")}\n`);
