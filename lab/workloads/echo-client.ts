/**
 * A client of any echo server of lines: over one connection it sends the numbers from 0 on, each after the one before has
 * come back, and tells how long the server was silent and whether every number came back once.
 */
import { once } from "node:events";
import net from "node:net";
import { parseArgs } from "node:util";
import * as z from "zod";
import { controlFromInput, type Control } from "./client-control.ts";
import { FaultList, measure, type ClientResult } from "./client-result.ts";
import { ReplyLog } from "./reply-log.ts";

/** How long the answer that is under way at the stop may take. */
const PATIENCE_MS = 15_000;

/**
 * Runs the client until it is told to stop, the connection breaks, or an answer is wrong: the latter two are part of the result.
 * @throws the system's error if nobody listens at first
 */
export async function runEchoClient(endpoint: { readonly host: string; readonly port: number }, control: Control): Promise<ClientResult> {
  const socket = net.connect({ ...endpoint, noDelay: true });
  await once(socket, "connect");
  const log = new ReplyLog();
  const faults = new FaultList();
  const startMs = performance.now();
  const onStop = (): void =>
    void socket.setTimeout(PATIENCE_MS, () => socket.destroy(new Error("The last number did not come back in time")));
  control.stop.addEventListener("abort", onStop);
  try {
    await playPingPong(socket, control, log);
  } catch (error) {
    faults.add(String(error));
  }
  socket.destroy();
  return measure(log, startMs, performance.now(), control.marks, 1, faults);
}

async function playPingPong(socket: net.Socket, control: Control, log: ReplyLog): Promise<void> {
  let number = 0;
  let rest = "";
  socket.write("0\n");
  for await (const piece of socket as AsyncIterable<Buffer>) {
    rest += piece.toString("latin1");
    if (!rest.endsWith("\n")) continue;
    if (rest !== `${number}\n`) throw new Error(`Got ${JSON.stringify(rest)} back for ${number}`);
    log.add(performance.now(), 1);
    if (number === 0) control.ready();
    if (control.stop.aborted) return;
    rest = "";
    number += 1;
    socket.write(`${number}\n`);
  }
  throw new Error(`The connection broke after ${number} numbers`);
}

if (import.meta.main) await main();

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { host: { type: "string" }, port: { type: "string", default: "7000" } } });
  const endpoint = z.object({ host: z.string(), port: z.coerce.number().int().positive() }).parse(values);
  process.stdout.write(`${JSON.stringify(await runEchoClient(endpoint, controlFromInput()))}\n`);
}
