/** A puppet has the memory that it was told to have, and nothing else. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { parseMaps } from "./maps.ts";
import { Pagemap } from "./pagemap.ts";
import { Puppet } from "./puppet.ts";

const FREE = 0x10000;
const EVERYWHERE = { start: 0, end: 0x7fff_ffff_f000 };

void describe("a puppet", { skip: process.arch !== "x64", timeout: 60_000 }, () => {
  void it("has pages exactly where it was told to, wherever that is", async () => {
    using puppet = await Puppet.begin(FREE);
    using pagemap = new Pagemap(puppet.pid);
    const ranges = [
      { start: 0x40_0000, end: 0x40_3000 },
      { start: 0x5555_5555_4000, end: 0x5555_5555_5000 },
      { start: 0x7fff_ffff_0000, end: 0x7fff_ffff_e000 },
    ];
    for (const range of ranges) await puppet.populate(range);
    assert.deepEqual(pagemap.present(EVERYWHERE), [{ start: FREE, end: FREE + 4096 }, ...ranges]);
    await puppet.clear();
    assert.deepEqual(pagemap.present(EVERYWHERE), [{ start: FREE, end: FREE + 4096 }]);
    assert.equal(parseMaps(readFileSync(`/proc/${puppet.pid}/maps`, "utf8")).length, 1);
  });

  void it("ends when it is not needed any more", async () => {
    const puppet = await Puppet.begin(FREE);
    puppet[Symbol.dispose]();
    while (existsSync(`/proc/${puppet.pid}`)) await sleep(1);
  });
});
