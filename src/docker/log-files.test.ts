/**
 * Log files that are written, rotated and compressed as moby does while they are sent.
 */
import assert from "node:assert/strict";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { buffer } from "node:stream/consumers";
import { Readable } from "node:stream";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { containerId } from "../core/ids.ts";
import { decodeOutput } from "./log-entries.ts";
import { LogHistory, applyLogFiles, logPlace, type LogPlace } from "./log-files.ts";

const SOURCE_ID = containerId("a".repeat(64));
const TARGET_ID = containerId("b".repeat(64));

/** Writes and rotates a log as moby's LogFile does; compresses when told, which there happens some time after the rotation. */
class EngineLog {
  readonly path: string;
  readonly #filesMax: number;
  readonly #compresses: boolean;
  #count = 0;

  constructor({ path: logPath }: LogPlace, filesMax: number, compresses: boolean) {
    this.path = logPath;
    this.#filesMax = filesMax;
    this.#compresses = compresses;
  }

  print(): string {
    const line = `line ${++this.#count}\n`;
    appendFileSync(this.path, `${JSON.stringify({ log: line, stream: "stdout", time: new Date(this.#count).toISOString() })}\n`);
    return line;
  }

  rotate(): void {
    const extension = this.#compresses ? ".gz" : "";
    const slot = (number: number): string => `${this.path}.${number}${extension}`;
    this.compress();
    rmSync(slot(this.#filesMax - 1), { force: true });
    for (let number = this.#filesMax - 1; number > 1; number--)
      if (existsSync(slot(number - 1))) renameSync(slot(number - 1), slot(number));
    if (this.#filesMax < 2) rmSync(this.path);
    else renameSync(this.path, `${this.path}.1`);
    writeFileSync(this.path, "");
  }

  compress(): void {
    const rotated = `${this.path}.1`;
    if (!this.#compresses || !existsSync(rotated)) return;
    writeFileSync(`${rotated}.gz`, gzipSync(readFileSync(rotated)));
    rmSync(rotated);
  }
}

interface Places {
  readonly source: LogPlace;
  readonly target: LogPlace;
}

/** The places of one log on two hosts; the target's folder does not exist yet. */
function makePlaces(driver: string): Places & Disposable {
  const root = mkdtempSync(path.join(tmpdir(), "dmigrate-logs-"));
  const [source, target] = [SOURCE_ID, TARGET_ID].map((id) => logPlace(root, id, driver));
  assert(source && target);
  mkdirSync(path.dirname(source.path), { recursive: true });
  return { source, target, [Symbol.dispose]: () => rmSync(root, { recursive: true }) };
}

/** A log's files by what comes after the name of the current one. */
function filesOf({ path: current }: LogPlace): Record<string, string> {
  const names = readdirSync(path.dirname(current)).toSorted();
  return Object.fromEntries(
    names.map((name) => [name.replace(path.basename(current), ""), readFileSync(path.join(path.dirname(current), name), "base64")]),
  );
}

async function printed(stream: AsyncIterable<Uint8Array>): Promise<string> {
  let text = "";
  for await (const { bytes } of decodeOutput(stream)) text += Buffer.from(bytes).toString();
  return text;
}

type Step = { readonly print: number } | "rotate" | "compress" | "sync";
const happening = fc.oneof(
  { weight: 3, arbitrary: fc.record({ print: fc.integer({ min: 1, max: 5 }) }) },
  { weight: 1, arbitrary: fc.constantFrom("rotate" as const, "compress" as const) },
);
const step: fc.Arbitrary<Step> = fc.oneof({ weight: 3, arbitrary: happening }, { weight: 1, arbitrary: fc.constant("sync" as const) });

/** Does what a step says; returns what was printed. */
function act(log: EngineLog, what: Exclude<Step, "sync">): string[] {
  if (what === "rotate") log.rotate();
  else if (what === "compress") log.compress();
  else return Array.from({ length: what.print }, () => log.print());
  return [];
}

test("a log that is written, rotated and compressed arrives as it is, and what is printed after that as output", async () => {
  const logs = fc.record({ filesMax: fc.integer({ min: 1, max: 4 }), compresses: fc.boolean() });
  await fc.assert(
    fc.asyncProperty(logs, fc.array(step, { maxLength: 20 }), fc.array(happening, { maxLength: 4 }), async (kind, steps, after) => {
      using places = makePlaces("json-file");
      const log = new EngineLog(places.source, kind.filesMax, kind.compresses);
      log.print();
      await using history = new LogHistory(places.source);
      for (const what of [...steps, "sync" as const]) {
        if (what !== "sync") act(log, what);
        else {
          await applyLogFiles(places.target, history.files());
          assert.deepEqual(filesOf(places.target), filesOf(places.source));
        }
      }
      // With one file a rotation throws away what it held; more rotations than files throw away too.
      const rotations = after.filter((what) => what === "rotate").length;
      fc.pre(rotations < Math.max(kind.filesMax, 2));
      const lines = after.flatMap((what) => act(log, what));
      assert.equal(await printed(history.output()), lines.join(""));
    }),
    { numRuns: 100, examples: [[{ filesMax: 2, compresses: true }, ["rotate", "compress", "sync", "rotate"], []]] },
  );
});

test("only what is new crosses, also when the file it continues was renamed", async () => {
  using places = makePlaces("json-file");
  const log = new EngineLog(places.source, 3, false);
  for (let lines = 0; lines < 1000; lines++) log.print();
  await using history = new LogHistory(places.source);
  const first = await buffer(history.files());
  await applyLogFiles(places.target, Readable.from([first]));
  log.print();
  log.rotate();
  log.print();
  const second = await buffer(history.files());
  assert(first.length > 50_000 && second.length < 300, `${first.length} bytes, then ${second.length}`);
  await applyLogFiles(places.target, Readable.from([second]));
  assert.deepEqual(filesOf(places.target), filesOf(places.source));
});

test("a stream that was not read to its end is sent again", async () => {
  using places = makePlaces("json-file");
  new EngineLog(places.source, 1, false).print();
  await using history = new LogHistory(places.source);
  for await (const _ of history.files()) break;
  await applyLogFiles(places.target, history.files());
  assert.deepEqual(filesOf(places.target), filesOf(places.source));
});

test("a file that was cut short is sent anew", async () => {
  using places = makePlaces("json-file");
  const log = new EngineLog(places.source, 1, false);
  log.print();
  await using history = new LogHistory(places.source);
  await applyLogFiles(places.target, history.files());
  truncateSync(log.path);
  await applyLogFiles(places.target, history.files());
  assert.deepEqual(filesOf(places.target), filesOf(places.source));
});

test("a container that never printed has no log, and the target gets none", async () => {
  using places = makePlaces("local");
  await using history = new LogHistory(places.source);
  await applyLogFiles(places.target, history.files());
  assert.deepEqual(filesOf(places.target), {});
  assert.equal(await printed(history.output()), "");
});

test("a log that is kept elsewhere is not printed again", async () => {
  using places = makePlaces("syslog");
  assert.equal(path.basename(places.source.path), "container-cached.log");
  await using history = new LogHistory(places.source);
  writeFileSync(places.source.path, "");
  appendFileSync(places.source.path, "entry");
  assert.equal(await printed(history.output()), "");
  assert.equal(logPlace("/var/lib/docker", SOURCE_ID, "journald"), undefined);
});

const head = (fields: { number: number; compressed?: number; before?: number; offset?: number; length?: number }): Buffer => {
  const bytes = Buffer.alloc(21);
  bytes.writeUInt32BE(fields.number, 0);
  bytes.writeUInt8(fields.compressed ?? 0, 4);
  bytes.writeUInt32BE(fields.before ?? 0xff_ff_ff_ff, 5);
  bytes.writeUIntBE(fields.offset ?? 0, 9, 6);
  bytes.writeUIntBE(fields.length ?? 0, 15, 6);
  return bytes;
};

const impossible: [string, Buffer[], string][] = [
  ["continues a file at another offset", [head({ number: 0, before: 0, offset: 3 })], "PROTOCOL"],
  ["continues a file that is not there", [head({ number: 2, before: 1, offset: 3 })], "PROTOCOL"],
  ["continues a new file", [head({ number: 0, offset: 3 })], "PROTOCOL"],
  ["makes a file younger", [head({ number: 0, before: 1 })], "PROTOCOL"],
  ["compresses the current file", [head({ number: 0, compressed: 1 })], "PROTOCOL"],
  ["numbers a file beyond any", [head({ number: 0xff_ff_ff_00 })], "PROTOCOL"],
  ["ends before its bytes", [head({ number: 0, length: 9 }), Buffer.from("1234")], "TRANSFER_FAILED"],
  ["goes on after its end", [Buffer.alloc(22, 0xff)], "PROTOCOL"],
  ["ends before its end", [head({ number: 0 })], "TRANSFER_FAILED"],
];
for (const [what, stream, code] of impossible) {
  test(`a stream that ${what} is refused`, async () => {
    using places = makePlaces("json-file");
    new EngineLog(places.source, 1, false).print();
    await using history = new LogHistory(places.source);
    await applyLogFiles(places.target, history.files());
    await assert.rejects(applyLogFiles(places.target, Readable.from(stream)), { code });
  });
}
