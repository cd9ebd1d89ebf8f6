/** Which of the signals for what is left on the source the container on the target gets. */
import assert from "node:assert/strict";
import { constants } from "node:os";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { hostName, newMigrationId } from "../../core/ids.ts";
import type { HandedOver } from "./handed-over.ts";
import { passSignalsOn } from "./signals.ts";

const { SIGHUP, SIGKILL, SIGTERM, SIGUSR1 } = constants.signals;

/** What was passed on of signals that were sent to a container with that stop signal, and how many warnings there were. */
async function passed(signals: readonly number[], stopSignal?: string): Promise<{ got: number[]; warnings: string[] }> {
  const [got, warnings]: [number[], string[]] = [[], []];
  const handed = {
    id: newMigrationId(1n),
    container: "redis",
    target: hostName("b"),
    context: { self: () => hostName("a"), log: { warn: (why: object) => assert.fail(JSON.stringify(why)) } },
    calls: { signal: async (_id: unknown, signal: number) => void got.push(signal) },
    warn: (text: string) => void warnings.push(text),
  } as unknown as HandedOver; // what the function looks at
  async function* all(): AsyncGenerator<number, void> {
    yield* signals;
  }
  passSignalsOn(handed, stopSignal, all(), () => true);
  for (let turns = 0; turns < 10; turns++) await turn();
  return { got, warnings };
}

test("signals are passed on, but a kill only if the signal that stops the container came before", async () => {
  assert.deepEqual((await passed([SIGHUP, SIGKILL])).got, [SIGHUP]);
  assert.deepEqual((await passed([SIGTERM, SIGKILL])).got, [SIGTERM, SIGKILL]);
  assert.deepEqual((await passed([SIGTERM, SIGKILL], "SIGUSR1")).got, [SIGTERM]);
  for (const stopSignal of ["SIGUSR1", "USR1", String(SIGUSR1)])
    assert.deepEqual((await passed([SIGUSR1, SIGKILL], stopSignal)).got, [SIGUSR1, SIGKILL], stopSignal);
  const { warnings } = await passed([SIGKILL]);
  assert.deepEqual(warnings, ["redis was sent SIGKILL on a after the handover: the one on b was not"]);
});
