/** `npm run check` fails on what it is there to catch: each step is shown a breach of its own rules. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { suite, test } from "node:test";

const CHECKOUT = path.resolve(import.meta.dirname, "..");
const CONFIGURATION = [".oxfmtrc.json", ".oxlintrc.json", ".dependency-cruiser.json", "knip.json", "tsconfig.json", "package.json"];

/** Checks a project that has our configuration and these files; returns what was printed and each step's verdict. */
function check(files: Readonly<Record<string, string>>): { code: number | null; output: string; verdicts: Record<string, string> } {
  const project = mkdtempSync(path.join(tmpdir(), "dmigrate-check-"));
  try {
    for (const file of CONFIGURATION) cpSync(path.join(CHECKOUT, file), path.join(project, file));
    symlinkSync(path.join(CHECKOUT, "node_modules"), path.join(project, "node_modules"));
    writeFileSync(path.join(project, ".gitignore"), "node_modules\n"); // without a slash: here it is a link
    for (const [file, text] of Object.entries(files)) {
      mkdirSync(path.dirname(path.join(project, file)), { recursive: true });
      writeFileSync(path.join(project, file), text);
    }
    const { status, stdout } = spawnSync(process.execPath, [path.join(CHECKOUT, "tools/check.ts")], { cwd: project, encoding: "utf8" });
    const lines = stdout.matchAll(/^(ok|FAILED) +(.+?) +[\d.]+ s$/gm);
    return { code: status, output: stdout, verdicts: Object.fromEntries([...lines].map(([, verdict, step]) => [step, verdict])) };
  } finally {
    rmSync(project, { recursive: true });
  }
}

const GOOD = `/** A value and its reader. */\nexport const ANSWER = 42;\n`;

const UPWARDS = `/** An import hidden in a using. */
export async function upwards(): Promise<string> {
  using opened = (await import("../cli/opener.ts")).opener();
  return opened.name;
}
`;
const OPENER = `/** Something to dispose of. */
export function opener(): Disposable & { readonly name: string } {
  return { name: "x", [Symbol.dispose]: () => {} };
}
`;

suite("npm run check", () => {
  test("each step passes what keeps the rules", () => {
    const { verdicts } = check({
      "src/core/good.ts": GOOD,
      "src/cli/main.ts": `/** Passes it on. */\nexport { ANSWER } from "../core/good.ts";\n`,
    });
    // Dead code is left out: the dependencies of our package.json are not used by so small a project.
    const { "dead code": _, ...rest } = verdicts;
    assert.deepEqual(rest, { format: "ok", lint: "ok", types: "ok", layers: "ok", tidy: "ok" });
  });

  test("each step fails on a breach, names it, and so does the whole", () => {
    const { code, output, verdicts } = check({
      "src/core/format.ts": `/** Two spaces too many. */\nexport const   TWO = 2;\n`,
      "src/core/lint.ts": `/** A promise nobody waits for. */\nexport function begin(work: () => Promise<void>): void {\n  work();\n}\n`,
      "src/core/types.ts": `/** A number that is a string. */\nexport const THREE: number = "3";\n`,
      "src/core/dead.ts": `/** Nobody imports this. */\nexport const UNUSED = 1;\n`,
      "src/core/impure.ts": `/** Input and output in the core. */\nexport { readFileSync } from "node:fs";\n`,
      "src/memory/sideways.ts": `/** One adapter in another. */\nexport { open } from "../rootfs/open.ts";\n`,
      "src/rootfs/open.ts": `/** The core is fine. */\nexport { TWO as open } from "../core/format.ts";\n`,
      "src/agent/upwards.ts": UPWARDS,
      "src/cli/opener.ts": OPENER,
      "src/core/untidy.ts": `export const LATER = 1; // TODO\n`,
    });
    assert.equal(code, 1);
    assert.deepEqual(new Set(Object.values(verdicts)), new Set(["FAILED"]), output);
    assert.equal(Object.keys(verdicts).length, 6);
    assert.match(output, /^src\/core\/format\.ts/m);
    assert.match(output, /no-floating-promises/);
    assert.match(output, /src\/core\/types\.ts.*TS2322/);
    assert.match(output, /^src\/core\/dead\.ts/m);
    assert.match(output, /^src\/core\/impure\.ts -> fs: core-is-pure$/m);
    assert.match(output, /^src\/memory\/sideways\.ts -> src\/rootfs\/open\.ts: adapters-stand-alone$/m);
    assert.match(output, /^src\/agent\/upwards\.ts -> src\/cli\/opener\.ts: agent-knows-no-cli$/m);
    assert.match(output, /^src\/core\/untidy\.ts:1: a file opens with/m);
    assert.match(output, /^src\/core\/untidy\.ts:1: "TODO"/m);
  });
});
