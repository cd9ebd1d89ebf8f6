/**
 * The redis client's ledger notices lost, wrong and double answers.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { Ledger, type Fault } from "./ledger.ts";
import { RespError, type Command, type Reply } from "./resp.ts";

const KEY_COUNT = 4;

/** As much of redis as the ledger needs. */
class Server {
  readonly data = new Map<string, string>();

  execute(commands: readonly Command[]): Reply[] {
    return commands.map(([name, key, value]) => {
      if (name === "GET") return this.get(String(key));
      if (name === "INCR") return this.increment(String(key));
      this.data.set(String(key), String(value));
      return Buffer.from("OK");
    });
  }

  increment(key: string): number {
    const next = Number(this.data.get(key) ?? 0) + 1;
    this.data.set(key, String(next));
    return next;
  }

  get(key: string): Reply {
    const value = this.data.get(key);
    return value === undefined ? null : Buffer.from(value);
  }
}

function newLedger(): Ledger {
  return new Ledger({ prefix: "p", keyCount: KEY_COUNT, valueBytes: 8 });
}

function work(ledger: Ledger, server: Server, stepCount: number): Fault[] {
  return Array.from({ length: stepCount }).flatMap(() => {
    const step = ledger.begin();
    return ledger.judge(step, server.execute(ledger.commands(step)));
  });
}

function readBack(ledger: Ledger, server: Server): Fault[] {
  return [
    ...ledger.acknowledgedKeys().flatMap((index) => ledger.judgeReadBack(index, server.get(ledger.key(index)))),
    ...ledger.judgeFinalCounter(server.get(ledger.counterKey)),
  ];
}

const kinds = (faults: readonly Fault[]): string[] => faults.map(({ kind, count }) => `${kind} ${count}`);

test("a server that does what it is told has no fault, wherever the connection breaks and whatever was executed by then", () => {
  const action = fc.oneof(
    fc.record({ kind: fc.constant("work" as const), steps: fc.integer({ min: 1, max: 6 }) }),
    // Some steps are under way when the connection breaks; the server executes a beginning of them.
    fc.record({ kind: fc.constant("break" as const), underWay: fc.integer({ min: 0, max: 4 }), executed: fc.nat(4) }),
  );
  fc.assert(
    fc.property(fc.array(action), (actions) => {
      const [ledger, server] = [newLedger(), new Server()];
      for (const each of actions) {
        if (each.kind === "work") {
          assert.deepEqual(work(ledger, server, each.steps), []);
        } else {
          const steps = Array.from({ length: each.underWay }, () => ledger.begin());
          for (const step of steps.slice(0, each.executed)) server.execute(ledger.commands(step));
          ledger.interrupt();
        }
      }
      assert.deepEqual(readBack(ledger, server), []);
    }),
  );
});

test("a write that vanishes, and one that goes back to what it was, is lost", () => {
  const [ledger, server] = [newLedger(), new Server()];
  work(ledger, server, 10);
  server.data.delete("p:1");
  server.data.set("p:2", "00000006");
  assert.deepEqual(kinds(readBack(ledger, server)), ["lost-write 1", "lost-write 1"]);
});

test("a value that nobody wrote is no write of ours", () => {
  for (const value of ["", "11", "00000011", "0000010x", "00000014", "9e"]) {
    const [ledger, server] = [newLedger(), new Server()];
    work(ledger, server, 10);
    server.data.set("p:2", value);
    assert.deepEqual(kinds(readBack(ledger, server)), ["lost-write 1"], value);
  }
});

test("a server that starts again from an earlier state has lost increments, which are counted once", () => {
  const [ledger, server] = [newLedger(), new Server()];
  work(ledger, server, 10);
  ledger.interrupt();
  server.data.set(ledger.counterKey, "3");
  assert.deepEqual(kinds(work(ledger, server, 2)), ["lost-write 7"]);
  assert.deepEqual(kinds(readBack(ledger, server)), []);
});

test("increments that are executed twice are noticed at once", () => {
  const [ledger, server] = [newLedger(), new Server()];
  work(ledger, server, 3);
  server.execute([["INCR", ledger.counterKey]]);
  assert.deepEqual(kinds(work(ledger, server, 2)), ["double-increment 1"]);
});

test("more increments than were under way when the connection broke are double ones", () => {
  const [ledger, server] = [newLedger(), new Server()];
  work(ledger, server, 3);
  const step = ledger.begin();
  ledger.interrupt();
  server.execute(ledger.commands(step));
  server.execute(ledger.commands(step));
  assert.deepEqual(kinds(readBack(ledger, server)), ["double-increment 1"]);
});

test("errors and wrong answers are faults, and a refused write need not be there", () => {
  const ledger = newLedger();
  const refused = new RespError("OOM");
  assert.deepEqual(kinds(ledger.judge(ledger.begin(), [refused, null, refused])), ["error-reply 1", "wrong-read 1", "error-reply 1"]);
  assert.deepEqual(readBack(ledger, new Server()), []);
});
