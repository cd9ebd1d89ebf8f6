/** What a press of the tab key offers: commands, options, and what there is on this host now. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { suite, test, type TestContext } from "node:test";
import type { ControlClient } from "../agent/client.ts";
import { newMigrationId } from "../core/ids.ts";
import { MODES } from "../core/migration.ts";
import { agentThat, BEGAN, stage } from "./example.fixture.ts";
import { runCli } from "./program.ts";

const REDIS = { container: "redis", source: BEGAN.source, target: BEGAN.target, role: "source", beganAtMs: 0 } as const;
const ENDED = newMigrationId(1n);
const AGENT = agentThat({
  hosts: async () => [
    { name: BEGAN.source, address: "10.0.0.1:7461", self: true },
    { name: BEGAN.target, address: "10.0.0.2:7461", self: false },
  ],
  list: async () => [
    { ...REDIS, id: BEGAN.id, state: "running" },
    { ...REDIS, id: ENDED, state: "completed" },
  ],
});

/** Words offered after those typed. */
async function offered(t: TestContext, typed: string[], client: ControlClient = AGENT): Promise<string[]> {
  const lines: string[] = [];
  const log = t.mock.method(console, "log", (line: string) => lines.push(line));
  await runCli(["complete", "--", ...typed], stage(client));
  log.mock.restore();
  return lines.filter((line) => !line.startsWith(":")).map((line) => line.split("\t")[0] ?? "");
}

suite("completion", () => {
  test("commands, and those beneath them", async (t) => {
    assert.deepEqual(await offered(t, ["mi"]), ["migrate"]);
    assert.deepEqual(await offered(t, ["hosts", ""]), ["list", "add", "remove"]);
    assert.ok(!(await offered(t, ["c"])).includes("complete"), "it is for scripts");
  });

  test("options and their choices", async (t) => {
    assert.deepEqual(await offered(t, ["migrate", "--ke"]), ["--keep-source"]);
    assert.deepEqual(await offered(t, ["migrate", "--mode", ""]), ["auto", ...MODES]);
    assert.deepEqual(await offered(t, ["agent", "--log-level", "e"]), ["error"]);
    assert.deepEqual(await offered(t, ["completion", ""]), ["bash", "zsh", "fish"]);
  });

  test("other hosts and migrations, as the agent knows them", async (t) => {
    assert.deepEqual(await offered(t, ["migrate", "redis", ""]), ["b"]);
    assert.deepEqual(await offered(t, ["hosts", "remove", ""]), ["b"]);
    assert.deepEqual(await offered(t, ["watch", ""]), [BEGAN.id, ENDED]);
    assert.deepEqual(await offered(t, ["cancel", ""]), [BEGAN.id], "what has ended can't be cancelled");
  });

  test("without an agent, or one that does not answer, nothing is offered and nothing breaks", async (t) => {
    assert.deepEqual(await offered(t, ["migrate", "redis", ""], agentThat({})), []);
    const silent = agentThat({ hosts: () => new Promise(() => {}) });
    assert.deepEqual(await offered(t, ["migrate", "redis", ""], silent), []);
  });

  test("the agent is the one that was named", async (t) => {
    const asked: (string | undefined)[] = [];
    for (const typed of [
      ["migrate", "redis", ""],
      ["migrate", "--socket", "/x/y", "redis", ""],
      ["migrate", "--socket=/z", "redis", ""],
    ]) {
      const surroundings = { ...stage(AGENT), connect: (socket: string | undefined) => (asked.push(socket), stage(AGENT).connect(socket)) };
      t.mock.method(console, "log", () => {});
      await runCli(["complete", "--", ...typed], surroundings);
      t.mock.restoreAll();
    }
    assert.deepEqual(asked, [undefined, "/x/y", "/z"]);
  });

  test("bash does not evaluate what has been typed", async () => {
    const shell = stage(AGENT);
    await runCli(["completion", "bash"], shell);
    const typed = ["migrate", "$(echo evaluated)", "a b", ""];
    const around = `
      dmigrate() { printf '<%s>' "$@" >&2; echo :4; }
      compopt() { :; }
      _get_comp_words_by_ref() { words=(dmigrate ${typed.map((word) => `'${word}'`).join(" ")}); cword=4; cur=; prev='a b'; }
      __dmigrate_complete 2>&3`;
    const script = shell.out.text.replace("2>/dev/null)", ")");
    const { stderr } = spawnSync("bash", ["-c", `exec 3>&2; ${script}\n${around}`], { encoding: "utf8" });
    assert.equal(stderr, `<complete><-->${typed.map((word) => `<${word}>`).join("")}`);
  });

  test("the script for bash is one that bash accepts, also twice", async () => {
    const [plain, asJson] = [stage(AGENT), stage(AGENT)];
    assert.deepEqual([await runCli(["completion", "bash"], plain), await runCli(["completion", "bash", "--json"], asJson)], [0, 0]);
    const script = plain.out.text;
    assert.match(script, /dmigrate complete --/);
    const told = JSON.parse(asJson.out.text) as { shell: string; script: string }; // compared below
    assert.deepEqual(told, { shell: "bash", script: script.trimEnd() });
    const { status, stderr } = spawnSync("bash", ["-e"], { input: `${script}\n${script}\ncomplete -p dmigrate`, encoding: "utf8" });
    assert.deepEqual([status, stderr], [0, ""]);
  });
});
