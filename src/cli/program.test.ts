/** The command line: what is typed reaches the agent, what the agent says reaches the user, and each error its exit code. */
import assert from "node:assert/strict";
import path from "node:path";
import { snapshot, suite, test } from "node:test";
import type { ControlClient, StreamedEvent } from "../agent/client.ts";
import { DmigrateError } from "../core/errors.ts";
import { agentThat, BEGAN, CANCELLED, eventsOf, REPORT, stage, type Stage } from "./example.fixture.ts";
import { runCli } from "./program.ts";

snapshot.setResolveSnapshotPath(() => path.join(import.meta.dirname, "help.snapshot"));
snapshot.setDefaultSnapshotSerializers([String]);

/** An agent that has something to say to every command, and keeps what it was asked. */
function willing(): { asked: unknown[][]; client: ControlClient } {
  const asked: unknown[][] = [];
  const answering =
    <T>(name: string, value: T) =>
    async (...args: unknown[]): Promise<T> => {
      asked.push([name, ...args]);
      return value;
    };
  const client = agentThat({
    status: answering("status", { version: "0.1.0", pid: 7, listen: "*:7461" }),
    check: answering("check", { container: "redis", source: BEGAN.source, target: BEGAN.target, findings: [], passed: [] }),
    cancel: answering("cancel", undefined),
    list: answering("list", []),
    report: answering("report", REPORT),
    init: answering("init", { name: BEGAN.source, address: "10.0.0.1:7461", self: true }),
    addHost: answering("addHost", { warnings: [] }),
    removeHost: answering("removeHost", { warnings: ["b did not answer"] }),
    hosts: answering("hosts", []),
    migrate: (request) => {
      asked.push(["migrate", request]);
      return streamOf(eventsOf(REPORT));
    },
    watch: (id) => {
      asked.push(["watch", id]);
      return streamOf(eventsOf(REPORT));
    },
  });
  return { asked, client };
}

async function* streamOf(events: readonly StreamedEvent[]): AsyncGenerator<StreamedEvent> {
  yield* events;
}

async function run(command: string, client: ControlClient, shape: Parameters<typeof stage>[1] = {}): Promise<Stage & { exitCode: number }> {
  const surroundings = stage(client, shape);
  const exitCode = await runCli(command.split(" ").slice(1), surroundings);
  return Object.assign(surroundings, { exitCode });
}

const REQUEST = { container: "redis", target: "b", mode: "auto", keepSource: false, verify: false };
const COMMANDS: Readonly<Record<string, unknown[]>> = {
  "dmigrate migrate redis b": ["migrate", REQUEST],
  "dmigrate migrate --keep-source --mode warm redis b": ["migrate", { ...REQUEST, mode: "warm", keepSource: true }],
  "dmigrate migrate redis b --verify": ["migrate", { ...REQUEST, verify: true }],
  "dmigrate migrate redis b --detach": ["migrate", REQUEST],
  "dmigrate migrate redis b --bandwidth 200mbit": ["migrate", { ...REQUEST, bytesPerSecond: 25_000_000 }],
  "dmigrate migrate redis b --mode pre-copy --max-downtime 500": ["migrate", { ...REQUEST, mode: "pre-copy", maxDowntimeMs: 500 }],
  "dmigrate check redis b": ["check", "redis", "b", "auto"],
  "dmigrate check redis b --mode stop-and-copy": ["check", "redis", "b", "stop-and-copy"],
  "dmigrate cancel m0k3v9x2q7ab1": ["cancel", "m0k3v9x2q7ab1", { takeBack: false }],
  "dmigrate cancel m0k3v9x2q7ab1 --take-back": ["cancel", "m0k3v9x2q7ab1", { takeBack: true }],
  "dmigrate watch m0k3v9x2q7ab1": ["watch", "m0k3v9x2q7ab1"],
  "dmigrate list": ["list"],
  "dmigrate report m0k3v9x2q7ab1": ["report", "m0k3v9x2q7ab1"],
  "dmigrate status": ["status"],
  "dmigrate init a --address 10.0.0.1": ["init", "a", "10.0.0.1"],
  "dmigrate hosts": ["hosts"],
  "dmigrate hosts list": ["hosts"],
  "dmigrate hosts add b 10.0.0.2 --token T": ["addHost", "b", "10.0.0.2", "T"],
  "dmigrate hosts remove b": ["removeHost", "b"],
};

suite("every command", () => {
  for (const [command, question] of Object.entries(COMMANDS)) {
    test(command, async () => {
      const { asked, client } = willing();
      const text = await run(command, client);
      assert.deepEqual([asked, text.exitCode, text.err.text], [[question], 0, ""]);
      assert.notEqual(text.out.text, "");

      const json = await run(`${command} --json`, client);
      assert.equal(json.exitCode, 0);
      const documents = command.includes("watch") ? json.out.text.trimEnd().split("\n") : [json.out.text];
      for (const document of documents) assert.equal(typeof JSON.parse(document), "object");
    });
  }
});

suite("help", () => {
  const names = ["", "migrate", "check", "cancel", "list", "watch", "report", "status", "init"];
  names.push("hosts", "hosts list", "hosts add", "hosts remove", "agent", "completion");
  for (const name of names) {
    test(`dmigrate ${name}`, async (t) => {
      const { out, exitCode } = await run(`dmigrate ${name} --help`.replace("  ", " "), agentThat({}));
      assert.equal(exitCode, 0);
      t.assert.snapshot(out.text);
    });
  }

  test("`help COMMAND` shows the same", async () => {
    const [help, option] = await Promise.all([run("dmigrate help migrate", agentThat({})), run("dmigrate migrate --help", agentThat({}))]);
    assert.deepEqual([help.out.text, help.exitCode], [option.out.text, 0]);
  });

  test("without a command it is shown too, but that is an error", async () => {
    const { err, exitCode } = await run("dmigrate", agentThat({}));
    assert.match(err.text, /^Usage: dmigrate/);
    assert.equal(exitCode, 2);
  });
});

suite("errors", () => {
  const agent = agentThat({
    check: async () => ({
      container: "redis",
      source: BEGAN.source,
      target: BEGAN.target,
      findings: [{ severity: "blocker", check: "disk", message: "No room", remedy: "make room" }],
      passed: [],
    }),
    cancel: () => Promise.reject(new DmigrateError("CANCEL_TOO_LATE", "redis belongs to b already; watch it to its end")),
    list: () => Promise.reject(new TypeError("x is not a function")),
  });

  const WRONG: Readonly<Record<string, readonly [exitCode: number, code: string, message: RegExp]>> = {
    "dmigrate fly redis b": [2, "USAGE", /^Unknown command 'fly'; see `dmigrate --help`$/],
    "dmigrate migrat redis b": [2, "USAGE", /Did you mean migrate\?/],
    "dmigrate migrate redis": [2, "USAGE", /^Missing required argument 'host'; see `dmigrate migrate --help`$/],
    "dmigrate hosts lsit": [2, "USAGE", /^Unknown command 'lsit'; see `dmigrate hosts --help`$/],
    "dmigrate migrate redis b c": [2, "USAGE", /^Too many arguments/],
    "dmigrate migrate redis b --mode hot": [2, "USAGE", /Allowed choices are auto, warm, post-copy, pre-copy, stop-and-copy/],
    "dmigrate migrate redis b --max-downtime 0": [2, "USAGE", /"0" is no number of milliseconds/],
    "dmigrate migrate redis b --bandwidth 10": [2, "USAGE", /"10" is no rate of at least 100kbit/],
    "dmigrate migrate redis b --max-downtime 1s": [2, "USAGE", /"1s" is no number of milliseconds/],
    "dmigrate migrate redis B!": [2, "USAGE", /"B!" is no host name/],
    "dmigrate hosts add b 10.0.0.2": [2, "USAGE", /--token <token>.*; see `dmigrate hosts add --help`$/],
    "dmigrate report redis": [3, "MIGRATION_NOT_FOUND", /"redis" is no migration id/],
    "dmigrate cancel m0k3v9x2q7ab1": [5, "CANCEL_TOO_LATE", /belongs to b already/],
    "dmigrate agent": [6, "AGENT", /Another agent runs/],
    "dmigrate status": [6, "AGENT_UNREACHABLE", /start it with `dmigrate agent`$/],
    "dmigrate list": [70, "INTERNAL", /x is not a function/],
  };
  for (const [command, [exitCode, code, message]] of Object.entries(WRONG)) {
    test(`${command}: ${code}`, async () => {
      const text = await run(command, agent);
      assert.deepEqual([text.exitCode, text.out.text], [exitCode, ""]);
      assert.match(text.err.text, new RegExp(String.raw`^error: .*\[${code}\]\n`, "s"));

      if (code === "AGENT") return; // a daemon, which has no answer to give
      const json = await run(`${command} --json`, agent);
      assert.deepEqual([json.exitCode, json.err.text], [exitCode, ""]);
      const { error } = JSON.parse(json.out.text) as { error: { code: string; message: string; fault: string } }; // asserted below
      assert.equal(error.code, code);
      assert.match(error.message, message);
      assert.match(error.fault, /^(user|host|bug)$/);
    });
  }

  test("the agent gets its options as they were typed", async () => {
    const surroundings = stage(agent);
    const flags: unknown[] = [];
    const serve = async (given: unknown): Promise<void> => void flags.push(given);
    assert.equal(await runCli(["agent", "--listen", ":0", "--state-dir", "/x"], { ...surroundings, serve }), 0);
    assert.deepEqual(flags, [{ listen: ":0", stateDir: "/x" }]);
  });

  test("cause, remedy and code have a line each", async () => {
    const { err } = await run("dmigrate cancel m0k3v9x2q7ab1", agent);
    assert.equal(err.text, "error: redis belongs to b already\n       watch it to its end\n       [CANCEL_TOO_LATE]\n");
  });

  test("a check that finds a blocker", async () => {
    const { out, exitCode } = await run("dmigrate check redis b", agent);
    assert.equal(exitCode, 4);
    assert.match(out.text, /✗ No room/);
  });

  test("a check that takes long says at a terminal what it does", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    for (const isTerminal of [true, false]) {
      const [asked, answered] = [Promise.withResolvers<void>(), Promise.withResolvers<never>()];
      const check: ControlClient["check"] = () => {
        asked.resolve();
        return answered.promise;
      };
      const surroundings = stage(agentThat({ check }), { isTerminal });
      const exit = runCli(["check", "redis", "b"], surroundings);
      await asked.promise;
      await new Promise(setImmediate);
      t.mock.timers.tick(1000);
      assert.equal(surroundings.err.text, isTerminal ? "Examining redis and both hosts ...\n" : "");
      answered.reject(new DmigrateError("CANCELLED", "Enough; look again"));
      await exit;
    }
  });

  test("a --json of a program that a command would run is not ours", async () => {
    const { out, err } = await run("dmigrate status -- --json", agentThat({}));
    assert.equal(out.text, "");
    assert.match(err.text, /^error:/);
  });
});

suite("following a migration", () => {
  test("--json prints the report alone", async () => {
    const { out, err } = await run("dmigrate migrate redis b --json", willing().client);
    assert.deepEqual(JSON.parse(out.text), REPORT);
    assert.equal(err.text, "");
  });

  test("a log has lines, a terminal a block that is gone at the end", async () => {
    const log = await run("dmigrate migrate redis b", willing().client);
    assert.match(log.out.text, /copy took 1\.76 s\n[^]*\n✓ redis moved to b\./);
    const terminal = await run("dmigrate migrate redis b", willing().client, { isTerminal: true });
    assert.ok(terminal.out.text.includes("\u001B[J✓ redis moved to b."));
    assert.doesNotMatch(terminal.out.text, /copy took/);
  });

  test("one that was undone ends with the exit code of its error", async () => {
    const { out, exitCode } = await run("dmigrate migrate redis b", agentThat({ migrate: () => streamOf(eventsOf(CANCELLED)) }));
    assert.match(out.text, /redis stays on a/);
    assert.equal(exitCode, 5);
  });

  test("--detach returns once it has begun", async () => {
    const { out } = await run("dmigrate migrate redis b --detach --json", willing().client);
    assert.deepEqual(JSON.parse(out.text), { id: BEGAN.id, container: "redis", source: "a", target: "b" });
  });

  for (const [phase, whose] of [
    ["freeze", /redis keeps running on a unless it was handed over just now/],
    ["post-copy", /redis belongs to b, where /],
  ] as const) {
    for (const command of ["migrate redis b", "watch m0k3v9x2q7ab1"]) {
      test(`an agent that dies in the ${phase} leaves word of whose the container is: ${command}`, async () => {
        async function* dying(): AsyncGenerator<StreamedEvent> {
          yield* [BEGAN, { kind: "phase-began", atMs: 1, phase }];
          throw new DmigrateError("AGENT_UNREACHABLE", "No agent answers; start it");
        }
        const { err, exitCode } = await run(`dmigrate ${command}`, agentThat({ watch: dying, migrate: dying }));
        assert.match(
          err.text,
          /^error: The agent ended during migration m0k3v9x2q7ab1: [^]*`dmigrate report m0k3v9x2q7ab1` says who runs redis/,
        );
        assert.match(err.text, whose);
        assert.match(err.text, /AGENT_UNREACHABLE/);
        assert.equal(exitCode, 6);
      });
    }
  }

  test("a stream that ends too early is an error", async () => {
    const { err, exitCode } = await run("dmigrate watch m0k3v9x2q7ab1", agentThat({ watch: () => streamOf([BEGAN]) }));
    assert.match(err.text, /AGENT_UNREACHABLE/);
    assert.equal(exitCode, 6);
  });
});

/** A migration that has begun and goes on until it is cancelled, left or, by the test, ended. */
function endless(
  cancel: ControlClient["cancel"],
  events: readonly StreamedEvent[] = [],
): { client: ControlClient; begun: Promise<void>; end: () => void } {
  const begun = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<void>();
  async function* play(signal: AbortSignal | undefined): AsyncGenerator<StreamedEvent> {
    yield BEGAN;
    yield* events;
    begun.resolve();
    const left = Promise.withResolvers<never>();
    signal?.addEventListener("abort", () => left.reject(new DmigrateError("CANCELLED", "The call was ended")));
    await Promise.race([ended.promise, left.promise]);
    yield { kind: "ended", atMs: 1, report: CANCELLED };
  }
  const client = agentThat({
    migrate: (_request, options) => play(options?.signal),
    watch: (_id, options) => play(options?.signal),
    cancel: async (...asked) => {
      await cancel(...asked);
      ended.resolve();
    },
    report: () => Promise.reject(new DmigrateError("MIGRATION_IN_PROGRESS", "It has not ended; wait")),
  });
  return { client, begun: begun.promise, end: ended.resolve };
}

suite("Ctrl-C", () => {
  test("cancels a migration", async () => {
    const { client, begun } = endless(async () => {});
    const keyboard = stage(client);
    const exit = runCli(["migrate", "redis", "b"], keyboard);
    await begun;
    keyboard.pressCtrlC();
    assert.equal(await exit, 5);
    assert.match(keyboard.out.text, /Cancelling\.[^]*redis stays on a/);
  });

  const MIGRATION = { id: BEGAN.id, container: "redis", source: "a", target: "b" };
  const tooLate: ControlClient["cancel"] = () => Promise.reject(new DmigrateError("CANCEL_TOO_LATE", "redis belongs to b already"));

  for (const isTerminal of [false, true]) {
    const place = isTerminal ? "on a terminal" : "elsewhere";

    test(`after the handover it leaves, explaining that the container belongs to the target: ${place}`, async () => {
      const { client, begun } = endless(tooLate);
      const keyboard = stage(client, { isTerminal });
      const exit = runCli(["migrate", "redis", "b"], keyboard);
      await begun;
      keyboard.pressCtrlC();
      assert.equal(await exit, 130);
      assert.match(keyboard.out.text, /Left, and the migration goes on: redis belongs to b already\./);
      assert.equal(keyboard.err.text, "");
    });

    test(`with --json it explains so on standard error, and prints what --detach would: ${place}`, async () => {
      const { client, begun } = endless(tooLate);
      const keyboard = stage(client, { isTerminal });
      const exit = runCli(["migrate", "redis", "b", "--json"], keyboard);
      await begun;
      keyboard.pressCtrlC();
      assert.equal(await exit, 130);
      assert.deepEqual(JSON.parse(keyboard.out.text), MIGRATION);
      assert.match(keyboard.err.text, /redis belongs to b already/);
    });
  }

  test("in the post-copy it does not even ask", async () => {
    const { client, begun } = endless(() => assert.fail("asked"), [{ kind: "phase-began", atMs: 1, phase: "post-copy" }]);
    const keyboard = stage(client);
    const exit = runCli(["migrate", "redis", "b"], keyboard);
    await begun;
    keyboard.pressCtrlC();
    assert.equal(await exit, 130);
    assert.match(keyboard.out.text, /redis belongs to b already/);
  });

  test("a migration that ended meanwhile is told of as ever", async () => {
    const { client, begun, end } = endless(tooLate);
    const keyboard = stage({
      ...client,
      async report() {
        setImmediate(end);
        return CANCELLED;
      },
    });
    const exit = runCli(["migrate", "redis", "b"], keyboard);
    await begun;
    keyboard.pressCtrlC();
    assert.equal(await exit, 5);
    assert.doesNotMatch(keyboard.out.text, /Left/);
  });

  test("a second one leaves without waiting, and nothing is said afterwards", async () => {
    const asked = Promise.withResolvers<never>();
    const { client, begun } = endless(() => asked.promise);
    const keyboard = stage(client, { isTerminal: true });
    const exit = runCli(["migrate", "redis", "b"], keyboard);
    await begun;
    keyboard.pressCtrlC();
    keyboard.pressCtrlC();
    assert.equal(await exit, 130);
    assert.match(keyboard.out.text, /Left: the agent goes on alone\. `dmigrate watch m0k3v9x2q7ab1`/);
    const { text } = keyboard.out;
    asked.reject(new DmigrateError("AGENT_UNREACHABLE", "The client is closed; start it"));
    await new Promise(setImmediate);
    assert.equal(keyboard.out.text, text);
  });

  test("leaves a migration that is only watched", async () => {
    const { client, begun } = endless(() => assert.fail("cancelled"));
    const keyboard = stage(client);
    const exit = runCli(["watch", BEGAN.id], keyboard);
    await begun;
    keyboard.pressCtrlC();
    assert.equal(await exit, 130);
  });
});
