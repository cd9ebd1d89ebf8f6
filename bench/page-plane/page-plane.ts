/**
 * The page plane: how fast memory crosses, how long a task waits for a page, and what of that a client sees.
 */
import type { TransferOrder } from "../../src/core/schedule.ts";
import { PAGE_BYTES } from "../../src/memory/page-protocol.ts";
import { atLeast, atMost, quantile, type Row } from "../rows.ts";
import { Plane } from "./plane.ts";
import { demo, type DemoResult } from "./redis.ts";

/** So many pages cross the loopback interface: half a gigabyte. */
const PAGE_COUNT = 131_072;
const RUNS = 5;
const FAULTS = 2_000;
/** So many pages are demanded, that far from each other, as the others cross: from the end of the memory down to the middle at most. */
const DEMANDED = 300;
const DEMANDED_STRIDE = 211;
/** What the priorities are worth at least. */
const MANY_TIMES = 4;
const SMALL_MEGABYTES = 64;
const LARGE_MEGABYTES = 4096;
/** What a link of 1 Gbit/s carries. */
const LINK_BYTES_PER_SECOND = 125_000_000;

/** @param say is told what is being measured */
export async function pagePlane(say: (line: string) => void): Promise<Row[]> {
  say(`${RUNS} times half a gigabyte over the loopback interface, in the clear and in TLS`);
  const clear = await repeated(() => gigabytesPerSecond("clear"));
  const tls = await repeated(() => gigabytesPerSecond("tls"));
  say(`${FAULTS} faults on pages that are there already`);
  const faults = await localFaultsUs();
  say("Pages that a task demands while all others cross a link of 1 Gbit/s, with the priorities and without");
  const demanded = await demandedMs("priority");
  const unordered = await demandedMs("fifo");
  say("The demo's redis, ten times");
  const downtimeMs = downtimeOf(await demo({ moves: 10 }));
  say(`A redis of ${SMALL_MEGABYTES} MB and one of ${LARGE_MEGABYTES}, six times each`);
  const [small, large] = [await demo({ moves: 6, megabytes: SMALL_MEGABYTES }), await demo({ moves: 6, megabytes: LARGE_MEGABYTES })];
  const growth = (downtimeOf(large) - downtimeOf(small)) / (LARGE_MEGABYTES - SMALL_MEGABYTES);
  say("The demo's redis over a link of 1 Gbit/s");
  const linkShare = linkShareOf(await demo({ moves: 1, rate: "1gbit", mode: "post-copy" }));
  return [
    atMost("downtime of the demo's redis, as its client sees it", downtimeMs, "ms", 200),
    atMost(`growth of the downtime from ${SMALL_MEGABYTES} MB to ${LARGE_MEGABYTES}`, growth, "ms/MB", 0.12),
    atLeast("page plane on loopback, in the clear", quantile(clear), "GB/s", 2),
    atLeast("page plane on loopback, in TLS", quantile(tls), "GB/s", 1),
    atLeast("memory on a link of 1 Gbit/s", linkShare * 100, "%", 90),
    atMost("local fault, p50", quantile(faults), "us", 150),
    atMost("a demanded page behind a full link of 1 Gbit/s, p99", quantile(demanded, 0.99), "ms", 3),
    atLeast("the same with the priorities off", quantile(unordered, 0.99), "ms", 3 * MANY_TIMES),
  ];
}

/** How long a task waits for pages that are far from each other, while all of its memory crosses a link that this fills. */
async function demandedMs(order: TransferOrder): Promise<number[]> {
  await using plane = await Plane.open("tls", PAGE_COUNT, { order, rate: LINK_BYTES_PER_SECOND * 8 });
  plane.fetchAhead();
  const waits = await plane.touch(PAGE_COUNT - 1, DEMANDED, -DEMANDED_STRIDE); // the others come in ascending order
  return waits.map((us) => us / 1000);
}

async function repeated(measure: () => Promise<number>): Promise<number[]> {
  const values: number[] = [];
  for (let run = 0; run < RUNS; run++) values.push(await measure());
  return values;
}

async function gigabytesPerSecond(kind: "clear" | "tls"): Promise<number> {
  await using plane = await Plane.open(kind, PAGE_COUNT);
  const beganAt = performance.now();
  await plane.fetchAll();
  const seconds = (performance.now() - beganAt) / 1000;
  await plane.assertRight();
  return (PAGE_COUNT * PAGE_BYTES) / 1e9 / seconds;
}

/** How long a task waits for each of some pages that were copied ahead. */
async function localFaultsUs(): Promise<number[]> {
  await using plane = await Plane.open("clear", FAULTS, { isCopiedAhead: true });
  return await plane.touch(0, FAULTS, 1);
}

function downtimeOf({ moves }: DemoResult): number {
  return quantile(moves.map(({ clientDowntimeMs }) => clientDowntimeMs));
}

/** How much of the link memory had as it crossed after the handover. */
function linkShareOf({ bytes, phases }: DemoResult): number {
  const postCopy = phases.find(({ name }) => name === "post-copy");
  if (postCopy === undefined) throw new RangeError("no memory crossed after the handover");
  return bytes.memory / LINK_BYTES_PER_SECOND / ((postCopy.endMs - postCopy.startMs) / 1000);
}
