/** What this machine's kernel counts. */
import assert from "node:assert/strict";
import { networkInterfaces } from "node:os";
import { test } from "node:test";
import { loadBetween } from "../core/host-load.ts";
import { interfaceRate, interfaceTo, readLoad } from "./load.ts";

const USED_MS = 200;
/** The kernel counts idle time in ticks, for each processor. */
const TICK_MS = 10;

test("what this process uses is counted as its own, and no processor is idle and used at a time", () => {
  const before = readLoad();
  const began = process.cpuUsage();
  for (let used = began; used.user + used.system < USED_MS * 1000; used = process.cpuUsage(began));
  const after = readLoad();
  assert.ok(after.ownMs - before.ownMs >= USED_MS);
  const { cores, idleCores, ownCores, cpuPressure, memoryPressure, availableBytes } = loadBetween(before, after);
  assert.ok(cores >= 1 && ownCores <= cores);
  assert.ok(idleCores + ownCores <= cores + (2 * TICK_MS * cores) / (after.atMs - before.atMs), `${idleCores} idle, ${ownCores} used`);
  assert.ok(cpuPressure >= 0 && cpuPressure <= 1 && memoryPressure >= 0 && memoryPressure <= 1);
  assert.ok(availableBytes > 1 << 20);
});

test("the way to this host is its loopback interface, which has no rate", async () => {
  assert.equal(await interfaceTo("127.0.0.1"), "lo");
  assert.equal(interfaceRate("lo"), undefined);
  assert.equal(interfaceRate("none-such"), undefined);
  for (const name of Object.keys(networkInterfaces())) assert.ok((interfaceRate(name) ?? 1) > 0, name);
});
