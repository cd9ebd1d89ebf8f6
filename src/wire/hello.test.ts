/** Hellos and their answers, byte by byte. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { DmigrateError } from "../core/errors.ts";
import { newMigrationId } from "../core/ids.ts";
import {
  ANSWER_PREFIX_BYTES,
  CONNECTIONS_MAX,
  decodeAnswerPrefix,
  decodeHelloPrefix,
  decodeOffer,
  encodeAcceptance,
  encodeHello,
  encodeRefusal,
  HELLO_PREFIX_BYTES,
  type Acceptance,
  type Offer,
} from "./hello.ts";

const migration = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(newMigrationId);
const offers: fc.Arbitrary<Offer> = fc.integer({ min: 1, max: CONNECTIONS_MAX }).chain((connections) =>
  fc.record(
    {
      migration,
      trunk: fc.stringMatching(/^[0-9a-f]{32}$/),
      connection: fc.nat(connections - 1),
      connections: fc.constant(connections),
      packing: fc.constantFrom("zstd", "none"),
    },
    { noNullPrototype: true },
  ),
);
const anOffer: Offer = { migration: newMigrationId(1n), trunk: "0".repeat(32), connection: 0, connections: 3, packing: "zstd" };

/** Reads as a server does: the prefix, then as many bytes as it announces. */
function decode(bytes: Uint8Array): Offer {
  const end = HELLO_PREFIX_BYTES + decodeHelloPrefix(bytes.subarray(0, HELLO_PREFIX_BYTES));
  if (end > bytes.length) throw new DmigrateError("PROTOCOL", "cut");
  return decodeOffer(bytes.subarray(HELLO_PREFIX_BYTES, end));
}

function decodeAnswer(bytes: Uint8Array): Acceptance {
  const { byteCount, read } = decodeAnswerPrefix(bytes.subarray(0, ANSWER_PREFIX_BYTES));
  assert.equal(bytes.length, ANSWER_PREFIX_BYTES + byteCount);
  return read(bytes.subarray(ANSWER_PREFIX_BYTES));
}

const protocolError = (error: unknown): boolean => error instanceof DmigrateError && error.code === "PROTOCOL";

test("a hello is read as it was written, wherever it lies in memory", () => {
  fc.assert(
    fc.property(offers, fc.nat(16), (offer, shift) => {
      const bytes = encodeHello(offer);
      const elsewhere = new Uint8Array(shift + bytes.length);
      elsewhere.set(bytes, shift);
      assert.deepEqual(decode(elsewhere.subarray(shift)), offer);
    }),
  );
});

test("with any one byte changed it is another hello or refused, never anything else", () => {
  fc.assert(
    fc.property(offers, fc.nat(), fc.integer({ min: 1, max: 255 }), (offer, position, change) => {
      const bytes = encodeHello(offer);
      bytes[position % bytes.length]! ^= change;
      try {
        assert.notDeepEqual(decode(bytes), offer);
      } catch (error) {
        assert.ok(protocolError(error), String(error));
      }
    }),
  );
});

test("bytes are laid out as documented", () => {
  const json = `{"migration":"m000000000001","trunk":"${"0".repeat(32)}","connection":0,"connections":3,"packing":"zstd"}`;
  assert.equal(Buffer.from(encodeHello(anOffer)).toString("latin1"), `DMIG\0\u0006\0${String.fromCharCode(json.length)}${json}`);
  assert.equal(
    Buffer.from(encodeAcceptance({ connections: 2, packing: "none" })).toString("latin1"),
    '\u0002\0\0\u0022{"connections":2,"packing":"none"}',
  );
});

test("another version is refused by its number", () => {
  const bytes = encodeHello(anOffer);
  bytes[5] = 9;
  assert.throws(() => decode(bytes), { code: "PROTOCOL", message: /Channel protocol 9 was offered, protocol 6 is spoken/ });
});

test("what is no hello is refused", () => {
  assert.throws(() => decode(Buffer.from("GET / HTTP/1.1\r\n\r\n")), { code: "PROTOCOL", message: /only agents may use this port/ });
  const long = encodeHello(anOffer);
  long[6] = 255;
  assert.throws(() => decode(long), { code: "PROTOCOL", message: /^An offer of 65\d{3} bytes is none/ });
});

test("an offer that can't be is refused", () => {
  const wrong: readonly Record<string, unknown>[] = [
    { migration: "../x" },
    { trunk: "short" },
    { connection: 3 },
    { connection: -1 },
    { connection: 0.5 },
    { connections: CONNECTIONS_MAX + 1 },
    { connections: "3" },
    { more: 1 },
    { channel: "files" },
  ];
  for (const change of wrong) {
    const json = new TextEncoder().encode(JSON.stringify({ ...anOffer, ...change }));
    assert.throws(() => decodeOffer(json), protocolError, JSON.stringify(change));
  }
  assert.throws(() => decodeOffer(new TextEncoder().encode("{")), protocolError);
});

test("an answer says what the opener gets, or why it is refused", () => {
  assert.deepEqual(decodeAnswer(encodeAcceptance({ connections: 2, packing: "zstd" })), { connections: 2, packing: "zstd" });
  const reason = new DmigrateError("PEER_REFUSED", "No; migrate again");
  assert.throws(() => decodeAnswer(encodeRefusal(reason)), { code: "PEER_REFUSED", message: reason.message });
  assert.throws(() => decodeAnswerPrefix(Buffer.from("HTTP")), protocolError);
});
