/**
 * The page plane: how fast memory crosses, how long a task waits for a page, and what of that a client sees.
 */
import type { Phase } from "../../src/core/migration.ts";
import type { TransferOrder } from "../../src/core/schedule.ts";
import { PAGE_BYTES } from "../../src/memory/page-protocol.ts";
import type { Benchmark } from "../benchmark.ts";
import { againPercent, demo, latePercent, percentIn, phaseMs, type Move } from "../demo.ts";
import { atLeast, atMost, medianOf, quantile, type Row } from "../rows.ts";
import { Plane } from "./plane.ts";

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

/** As many moves as a median takes. */
const MOVES = 10;
const FEW_MOVES = 6;

export const pagePlane: Benchmark = {
  name: "page-plane",
  about: "how fast memory crosses, how long a task waits for a page, and what of that a client sees",
  parts: [
    {
      name: "loopback",
      about: `half a gigabyte over the loopback interface, ${RUNS} times in the clear and in TLS`,
      minutes: 1,
      measure: async () => [
        atLeast("page plane on loopback, in the clear", quantile(await repeated(() => gigabytesPerSecond("clear"))), "GB/s", 2),
        atLeast("page plane on loopback, in TLS", quantile(await repeated(() => gigabytesPerSecond("tls"))), "GB/s", 1),
      ],
    },
    {
      name: "faults",
      about: `${FAULTS} faults on pages that are there already`,
      minutes: 0.1,
      measure: async () => [atMost("local fault, p50", quantile(await localFaultsUs()), "us", 150)],
    },
    {
      name: "demanded",
      about: "pages that a task demands while all others fill a link of 1 Gbit/s, by priority and in turn",
      minutes: 0.5,
      measure: async () => [
        atMost("a demanded page behind a full link of 1 Gbit/s, p99", quantile(await demandedMs("priority"), 0.99), "ms", 3),
        atLeast("the same with the priorities off", quantile(await demandedMs("fifo"), 0.99), "ms", 3 * MANY_TIMES),
      ],
    },
    {
      name: "demo",
      about: `the demo's redis, ${MOVES} times: downtime, throughput, and what crossed more than once`,
      minutes: 4,
      measure: async () => demoRows(await demo({ moves: MOVES, mode: "warm" })),
    },
    {
      name: "post-copy",
      about: `the same, ${FEW_MOVES} times with all of its memory missing at the handover`,
      minutes: 2,
      measure: async () => [
        atLeast(
          "throughput in post-copy, all memory missing, of undisturbed",
          medianOf(await demo({ moves: FEW_MOVES, mode: "post-copy" }), (move) => percentIn("post-copy", move.repliesPerSecond)),
          "%",
          70,
        ),
      ],
    },
    {
      name: "growth",
      about: `a redis of ${SMALL_MEGABYTES} MB and one of ${LARGE_MEGABYTES}, ${FEW_MOVES} times each`,
      minutes: 6,
      measure: async () => {
        const large = downtimeOf(await demo({ moves: FEW_MOVES, megabytes: LARGE_MEGABYTES }));
        const small = downtimeOf(await demo({ moves: FEW_MOVES, megabytes: SMALL_MEGABYTES }));
        const name = `growth of the downtime from ${SMALL_MEGABYTES} MB to ${LARGE_MEGABYTES}`;
        return [atMost(name, (large - small) / (LARGE_MEGABYTES - SMALL_MEGABYTES), "ms/MB", 0.12)];
      },
    },
    {
      name: "link",
      about: "the demo's redis over a link of 1 Gbit/s, all memory after the handover",
      minutes: 1,
      measure: async () => [
        atLeast(
          "memory on a link of 1 Gbit/s",
          medianOf(await demo({ moves: 1, rate: "1gbit", mode: "post-copy" }), linkShareOf) * 100,
          "%",
          90,
        ),
      ],
    },
  ],
};

/** Of warm moves. Undisturbed is what the client did in the two seconds before each. */
export function demoRows(moves: readonly Move[]): Row[] {
  const throughput = (phase: Phase): number => medianOf(moves, (move) => percentIn(phase, move.repliesPerSecond));
  return [
    atMost("downtime of the demo's redis, as its client sees it", downtimeOf(moves), "ms", 200),
    atLeast("throughput while copying, of undisturbed", throughput("copy"), "%", 90),
    atLeast("throughput in post-copy, of undisturbed", throughput("post-copy"), "%", 70),
    // What the tracker told before each further round, and in the freeze.
    atMost("pages that crossed again, of the working set (written while memory was copied)", medianOf(moves, againPercent), "%", 100),
    atMost("bytes after the handover, of the pages written since the last round", medianOf(moves, latePercent), "%", 105),
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

function downtimeOf(moves: readonly Move[]): number {
  return medianOf(moves, ({ clientDowntimeMs }) => clientDowntimeMs);
}

/** How much of the link memory had as it crossed after the handover. */
function linkShareOf(move: Move): number {
  return move.bytes.memory / LINK_BYTES_PER_SECOND / (phaseMs(move, "post-copy") / 1000);
}
