/** The plan of the dump: what may never happen, whatever was measured, and what each measurement decides. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import * as fc from "fast-check";
import { firstPlan, grantedCores, longest, planDump, type Measurements } from "./dump-plan.ts";
import { loadBetween, type HostLoad } from "./host-load.ts";

/** A host of sixteen processors with nothing to do, and a link faster than anything. */
const IDLE: HostLoad = { cores: 16, idleCores: 16, ownCores: 0, cpuPressure: 0, memoryPressure: 0, availableBytes: 64e9 };
const QUIET: Measurements = {
  host: IDLE,
  container: { swappedBytes: 0 },
  sentRate: 0,
  sendingShare: 0,
  budget: 0.1,
};
const FIRST = firstPlan(16, 0.1);

const share = fc.double({ min: 0, max: 1, noNaN: true });
const rate = fc.double({ min: 1e5, max: 1e11, noNaN: true });
const bytes = fc.double({ min: 0, max: 1e12, noNaN: true });
const host: fc.Arbitrary<HostLoad> = fc.integer({ min: 1, max: 256 }).chain((cores) =>
  fc
    .record({ idle: share, own: share, cpuPressure: share, memoryPressure: share, availableBytes: bytes })
    .map(({ idle, own, cpuPressure, memoryPressure, availableBytes }) => {
      const [idleCores, ownCores] = [idle * cores, own * (1 - idle) * cores];
      return { cores, idleCores, ownCores, cpuPressure, memoryPressure, availableBytes };
    }),
);
const maybe = <T>(some: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(some, { nil: undefined });
const measurements: fc.Arbitrary<Measurements> = fc.record({
  host,
  container: fc.record({
    quotaCores: maybe(fc.double({ min: 0.01, max: 64, noNaN: true })),
    memoryLeftBytes: maybe(bytes),
    swappedBytes: bytes,
  }),
  spaceBytes: maybe(fc.array(bytes)),
  nicRate: maybe(rate),
  sentRate: rate,
  sendingShare: share,
  readerRate: maybe(rate),
  budget: fc.double({ min: 0.01, max: 1, noNaN: true }),
});

/** Asserts of any two sets of measurements of which the second differs by `change`. */
function always(
  change: (measured: Measurements, by: number) => Measurements,
  holds: (before: Measurements, after: Measurements) => void,
): void {
  fc.assert(
    fc.property(measurements, share, (before, by) => holds(before, change(before, by))),
    { numRuns: 500 },
  );
}

const withHost = (measured: Measurements, some: Partial<HostLoad>): Measurements => ({ ...measured, host: { ...measured.host, ...some } });
const workersOf = (measured: Measurements): number => planDump(measured, FIRST).workers;

void describe("the plan", () => {
  void test("whatever was measured, each of its numbers is one that can be followed", () => {
    fc.assert(
      fc.property(measurements, measurements, (before, measured) => {
        const { cores } = measured.host;
        const plan = planDump(measured, planDump(before, FIRST));
        assert.ok([1, 2, 3, 4].includes(plan.workers), `${plan.workers} workers`);
        assert.ok([16, 32, 64, 128, 256].includes(plan.chunkPages), `${plan.chunkPages} pages`);
        assert.ok([2, 3].includes(plan.connections));
        assert.ok(plan.cpuCores > 0 && plan.cpuCores <= cores);
        assert.ok(plan.workers <= Math.max(1, plan.cpuCores), "more readers than processors");
        assert.match(plan.why, /^[a-z].*[a-z]$/);
        assert.doesNotMatch(plan.why, /NaN|undefined|Infinity/);
      }),
      { numRuns: 1000 },
    );
  });

  void test("less idle time never gives more processors, nor more readers", () => {
    const lessIdle = (measured: Measurements, by: number): Measurements => withHost(measured, { idleCores: measured.host.idleCores * by });
    always(lessIdle, (before, after) => {
      assert.ok(planDump(after, FIRST).cpuCores <= planDump(before, FIRST).cpuCores + 1e-9);
      assert.ok(workersOf(after) <= workersOf(before));
    });
  });

  void test("more that waits for a processor never gives more", () => {
    const morePressure = (measured: Measurements, by: number): Measurements =>
      withHost(measured, { cpuPressure: measured.host.cpuPressure + (1 - measured.host.cpuPressure) * by });
    always(morePressure, (before, after) => {
      assert.ok(planDump(after, FIRST).cpuCores <= planDump(before, FIRST).cpuCores + 1e-9);
      assert.ok(workersOf(after) <= workersOf(before));
    });
  });

  void test("where nothing is idle it ends at the budget, and is never below", () => {
    fc.assert(
      fc.property(host, fc.double({ min: 0.01, max: 1, noNaN: true }), (some, budget) => {
        const busy = { ...some, idleCores: 0 };
        let granted = some.cores;
        for (let look = 0; look < 12; look++) granted = grantedCores({ ...busy, ownCores: granted }, budget); // it uses all that it may
        assert.ok(Math.abs(granted - some.cores * budget) < 1e-9, `${granted} of ${some.cores}`);
        assert.ok(grantedCores(some, budget) >= some.cores * budget - 1e-9);
      }),
    );
  });

  void test("beside neighbours that take what they need it settles on the rest, less the headroom", () => {
    const neighbours = 5.5;
    let own = 1.6;
    for (let look = 0; look < 100; look++) {
      own = grantedCores({ ...IDLE, ownCores: own, idleCores: Math.max(0, 16 - neighbours - own) }, 0.1);
      assert.ok(own <= 16 - neighbours, "more than there is");
    }
    assert.ok(Math.abs(own - (16 - neighbours - 0.8)) < 0.01, `${own}`);
  });

  void test("a smaller budget never gives more", () => {
    always(
      (measured, by) => ({ ...measured, budget: measured.budget * Math.max(by, 0.01) }),
      (before, after) => assert.ok(planDump(after, FIRST).cpuCores <= planDump(before, FIRST).cpuCores + 1e-9),
    );
  });

  void test("a slower link never gives more readers, larger chunks or more connections", () => {
    const slower = (measured: Measurements, by: number): Measurements => ({ ...measured, nicRate: (measured.nicRate ?? 1e12) * by });
    always(slower, (before, after) => {
      const [fast, slow] = [planDump({ ...before, sendingShare: 0 }, FIRST), planDump({ ...after, sendingShare: 0 }, FIRST)];
      assert.ok(slow.chunkPages <= fast.chunkPages && slow.connections <= fast.connections);
      assert.ok(slow.workers <= fast.workers || slow.chunkPages < fast.chunkPages, "smaller chunks are more of them");
    });
  });

  void test("a link slower than one reader gives one reader; a reader slower than the link more", () => {
    fc.assert(
      fc.property(measurements, rate, (measured, readerRate) => {
        const plan = planDump({ ...measured, readerRate, nicRate: readerRate * 0.99 }, FIRST);
        assert.equal(plan.workers, 1);
      }),
    );
    assert.equal(planDump({ ...QUIET, readerRate: 1e9, nicRate: 3e9 }, FIRST).workers, 3);
  });

  void test("each thing that is short holds the readers down, and is named", () => {
    const cases: [Measurements, number, string][] = [
      [QUIET, 4, "readers"],
      [withHost(QUIET, { idleCores: 3, cores: 16 }), 2, "processors"],
      [withHost(QUIET, { idleCores: 0, ownCores: 0 }), 1, "budget"],
      [{ ...QUIET, container: { swappedBytes: 0, quotaCores: 1.5 } }, 2, "quota"],
      [{ ...QUIET, container: { swappedBytes: 2e9, memoryLeftBytes: 1e9 } }, 1, "swap"],
      [{ ...QUIET, container: { swappedBytes: 1e9, memoryLeftBytes: 2e9 } }, 4, "readers"],
      [withHost(QUIET, { memoryPressure: 0.2 }), 1, "memory"],
      [withHost(QUIET, { availableBytes: 1e6 }), 1, "memory"],
      [{ ...QUIET, nicRate: 125e6 }, 1, "link"],
      [{ ...QUIET, spaceBytes: [1e6, 1e6] }, 2, "work"],
      [{ ...QUIET, spaceBytes: [600e6] }, 4, "readers"],
      [{ ...QUIET, spaceBytes: Array.from({ length: 20 }, () => 25e6) }, 4, "readers"],
    ];
    for (const [measured, workers, limit] of cases) {
      const plan = planDump(measured, FIRST);
      assert.deepEqual([plan.workers, plan.limit], [workers, limit], JSON.stringify(measured));
    }
  });

  void test("chunks fit the link, the memory and a container that swaps", () => {
    const chunks = (measured: Measurements): number => planDump(measured, FIRST).chunkPages;
    assert.equal(chunks(QUIET), 256);
    assert.equal(chunks({ ...QUIET, nicRate: 12.5e6 }), 16);
    assert.equal(chunks({ ...QUIET, nicRate: 60e6 }), 128);
    assert.equal(chunks(withHost(QUIET, { availableBytes: 64e6 })), 64);
    assert.equal(chunks({ ...QUIET, container: { swappedBytes: 2, memoryLeftBytes: 1 } }), 16);
  });

  void test("the link is what was sent at most while nothing else held the copy up", () => {
    const waits = { ...QUIET, sentRate: 100e6, sendingShare: 0.9, host: { ...IDLE, ownCores: 0.2 } };
    const first = planDump(waits, { ...FIRST, cpuCores: 16 });
    assert.equal(first.linkRate, 100e6);
    assert.equal(planDump({ ...waits, sentRate: 30e6 }, first).linkRate, 100e6, "a pause is no slower link");
    assert.equal(planDump({ ...waits, sentRate: 300e6 }, first).linkRate, 300e6);
    const busy = withHost(waits, { ownCores: 1 });
    assert.equal(planDump(busy, { ...FIRST, cpuCores: 16 }).linkRate, undefined, "the processor was what it waited for");
    assert.equal(planDump({ ...busy, sentRate: 300e6 }, first).linkRate, 300e6, "what has crossed can cross");
    assert.equal(planDump(waits, { ...FIRST, cpuCores: 0.2 }).linkRate, undefined, "its budget was");
    assert.equal(planDump({ ...waits, sendingShare: 0.1 }, { ...FIRST, cpuCores: 16 }).linkRate, undefined, "what gives it was");
  });

  void test("there is time to compress only where processors are idle", () => {
    assert.equal(planDump(QUIET, FIRST).compression, "zstd");
    assert.equal(planDump(withHost(QUIET, { idleCores: 0, ownCores: 1 }), FIRST).compression, "none");
    assert.equal(planDump(withHost(QUIET, { cpuPressure: 1 }), FIRST).compression, "none");
    assert.equal(FIRST.compression, "none");
  });

  void test("the longest is next, and what is empty never", () => {
    assert.deepEqual(longest([{ byteCount: 1 }, { byteCount: 3 }, { byteCount: 2 }]), { byteCount: 3 });
    assert.equal(longest([{ byteCount: 0 }]), undefined);
    assert.equal(longest([]), undefined);
  });
});

void test("what was counted becomes what it was in between", () => {
  const before = { atMs: 1000, cores: 4, idleMs: 5000, ownMs: 100, cpuWaitMs: 30, memoryWaitMs: 0, availableBytes: 1 };
  const after = { atMs: 1200, cores: 4, idleMs: 5400, ownMs: 300, cpuWaitMs: 80, memoryWaitMs: 400, availableBytes: 2 };
  assert.deepEqual(loadBetween(before, after), {
    cores: 4,
    idleCores: 2,
    ownCores: 1,
    cpuPressure: 0.25,
    memoryPressure: 1,
    availableBytes: 2,
  });
});
