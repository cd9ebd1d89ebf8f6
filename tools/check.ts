/**
 * `npm run check`: everything that can be judged without running the program, all at once, with one summary.
 *
 * Checks the checkout in the working directory. Exit code 0 only if every step passed; what a failed step said is
 * printed in full, what a passed one said is not.
 */
import { spawn } from "node:child_process";
import path from "node:path";
import { checkLayers } from "./layers.ts";
import { checkTidy } from "./tidy.ts";

interface Verdict {
  readonly passed: boolean;
  readonly output: string;
}

const STEPS: Readonly<Record<string, () => Promise<Verdict>>> = {
  format: () => tool("oxfmt", "--check"),
  lint: () => tool("oxlint"),
  types: () => tool("tsc", "-p", "."),
  "dead code": () => tool("knip", "--no-progress"),
  layers: () => complaints(checkLayers()),
  tidy: () => complaints(checkTidy()),
};

/** Runs a program of node_modules/.bin under this very Node. */
function tool(name: string, ...args: string[]): Promise<Verdict> {
  const searchPath = [path.resolve("node_modules/.bin"), path.dirname(process.execPath), process.env["PATH"]].join(path.delimiter);
  const child = spawn(name, args, { env: { ...process.env, PATH: searchPath }, stdio: ["ignore", "pipe", "pipe"] });
  return new Promise((resolve, reject) => {
    let output = "";
    const collect = (chunk: Buffer): void => void (output += chunk.toString());
    child.stdout.on("data", collect);
    child.stderr.on("data", collect);
    child.once("error", reject);
    child.once("close", (code) => resolve({ passed: code === 0, output }));
  });
}

async function complaints(lines: Promise<readonly string[]>): Promise<Verdict> {
  const found = await lines;
  return { passed: found.length === 0, output: found.join("\n") };
}

async function runStep(name: string, step: () => Promise<Verdict>): Promise<boolean> {
  const beganMs = performance.now();
  const { passed, output } = await step();
  const seconds = ((performance.now() - beganMs) / 1000).toFixed(1);
  if (!passed) console.log(`\n${output.trim()}\n`);
  console.log(`${passed ? "ok    " : "FAILED"} ${name.padEnd(9)} ${seconds.padStart(5)} s`);
  return passed;
}

const verdicts = await Promise.all(Object.entries(STEPS).map(([name, step]) => runStep(name, step)));
if (verdicts.includes(false)) process.exitCode = 1;
