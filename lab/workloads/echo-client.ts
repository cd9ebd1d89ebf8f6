/**
 * A client of any echo server of lines: over one connection or several it sends the numbers from 0 on, each after the one before has
 * come back, and tells how long the server was silent and whether every number came back once.
 */
import { once } from "node:events";
import net from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import * as z from "zod";
import { controlFromInput, type Control } from "./client-control.ts";
import { FaultList, measure, type ClientResult } from "./client-result.ts";
import { ReplyLog } from "./reply-log.ts";

/** How long the answer that is under way at the stop may take. */
const PATIENCE_MS = 15_000;

/** Whom the client talks to, over how many connections, and how long each rests after an answer. */
export interface EchoClientOptions {
  readonly host: string;
  readonly port: number;
  readonly connections?: number;
  readonly pauseMs?: number;
}

/**
 * Runs the client until it is told to stop. A connection that breaks, or on which an answer is wrong, ends before: that is part of the
 * result.
 * @throws the system's error if nobody listens at first
 */
export async function runEchoClient(options: EchoClientOptions, control: Control): Promise<ClientResult> {
  const { host, port, connections = 1, pauseMs = 0 } = options;
  const sockets: net.Socket[] = [];
  for (let at = 0; at < connections; at++) {
    const socket = net.connect({ host, port, noDelay: true });
    await once(socket, "connect");
    sockets.push(socket);
  }
  const log = new ReplyLog();
  const faults = new FaultList();
  const startMs = performance.now();
  const onStop = (): void => {
    for (const socket of sockets)
      socket.setTimeout(PATIENCE_MS, () => socket.destroy(new Error("The last number did not come back in time")));
  };
  control.stop.addEventListener("abort", onStop);
  const play = async (socket: net.Socket): Promise<ReplyLog> => {
    const lane = new ReplyLog();
    const answered = (): void => {
      const atMs = performance.now();
      lane.add(atMs, 1);
      log.add(atMs, 1);
      if (log.replyCount === 1) control.ready();
    };
    try {
      await playPingPong(socket, control.stop, answered, pauseMs);
    } catch (error) {
      faults.add(String(error));
    }
    socket.destroy();
    return lane;
  };
  const lanes = await Promise.all(sockets.map(play));
  return measure(log, startMs, performance.now(), control, connections, faults, lanes);
}

async function playPingPong(socket: net.Socket, stop: AbortSignal, answered: () => void, pauseMs: number): Promise<void> {
  let number = 0;
  let rest = "";
  socket.write("0\n");
  for await (const piece of socket as AsyncIterable<Buffer>) {
    rest += piece.toString("latin1");
    if (!rest.endsWith("\n")) continue;
    if (rest !== `${number}\n`) throw new Error(`Got ${JSON.stringify(rest)} back for ${number}`);
    answered();
    if (stop.aborted) return;
    if (pauseMs > 0) await sleep(pauseMs);
    rest = "";
    number += 1;
    socket.write(`${number}\n`);
  }
  throw new Error(`The connection broke after ${number} numbers`);
}

if (import.meta.main) await main();

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      host: { type: "string" },
      port: { type: "string", default: "7000" },
      connections: { type: "string", default: "1" },
      "pause-ms": { type: "string", default: "0" },
    },
  });
  const count = z.coerce.number().int();
  const options = z
    .object({ host: z.string(), port: count.positive(), connections: count.positive(), pauseMs: count.nonnegative() })
    .parse({ ...values, pauseMs: values["pause-ms"] });
  process.stdout.write(`${JSON.stringify(await runEchoClient(options, controlFromInput()))}\n`);
}
