/**
 * A neighbour that wants a processor for itself: it works without end, a unit at a time, and tells how many units it did when. It is driven
 * like a client; its units are its replies.
 */
import { setImmediate as turn } from "node:timers/promises";
import { controlFromInput, type Control } from "./client-control.ts";
import { FaultList, measure, type ClientResult } from "./client-result.ts";
import { ReplyLog } from "./reply-log.ts";

/** Some tenths of a millisecond of work. */
const UNIT_STEPS = 200_000;

async function work(control: Control): Promise<ClientResult> {
  const log = new ReplyLog();
  const startMs = performance.now();
  control.ready();
  while (!control.stop.aborted) {
    let sum = 0;
    for (let step = 0; step < UNIT_STEPS; step += 1) sum = (sum + step) | 0;
    log.add(performance.now(), 1);
    await turn(sum); // which lets orders in
  }
  return measure(log, startMs, performance.now(), control, 0, new FaultList());
}

process.stdout.write(`${JSON.stringify(await work(controlFromInput()))}\n`);
