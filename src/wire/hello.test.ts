/** Hellos, byte by byte. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { DmigrateError } from "../core/errors.ts";
import { newMigrationId } from "../core/ids.ts";
import { decodeHelloNames, decodeHelloPrefix, encodeHello, HELLO_PREFIX_BYTES, type Hello } from "./hello.ts";

const hellos: fc.Arbitrary<Hello> = fc.record(
  {
    migration: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(newMigrationId),
    channel: fc.stringMatching(/^[a-z0-9][a-z0-9./-]{0,63}$/),
  },
  { noNullPrototype: true },
);

/** Reads as a server does: the prefix, then as many bytes as it announces. */
function decode(bytes: Uint8Array): Hello {
  const prefix = decodeHelloPrefix(bytes.subarray(0, HELLO_PREFIX_BYTES));
  const end = HELLO_PREFIX_BYTES + prefix.idBytes + prefix.channelBytes;
  if (end > bytes.length) throw new DmigrateError("PROTOCOL", "cut");
  return decodeHelloNames(prefix, bytes.subarray(HELLO_PREFIX_BYTES, end));
}

const protocolError = (error: unknown): boolean => error instanceof DmigrateError && error.code === "PROTOCOL";

test("a hello is read as it was written, wherever it lies in memory", () => {
  fc.assert(
    fc.property(hellos, fc.nat(16), (hello, shift) => {
      const bytes = encodeHello(hello);
      const elsewhere = new Uint8Array(shift + bytes.length);
      elsewhere.set(bytes, shift);
      assert.deepEqual(decode(elsewhere.subarray(shift)), hello);
    }),
  );
});

test("the prefix tells exactly how many bytes follow", () => {
  fc.assert(
    fc.property(hellos, (hello) => {
      const bytes = encodeHello(hello);
      const { idBytes, channelBytes } = decodeHelloPrefix(bytes.subarray(0, HELLO_PREFIX_BYTES));
      assert.equal(HELLO_PREFIX_BYTES + idBytes + channelBytes, bytes.length);
    }),
  );
});

test("with any one byte changed it is another hello or refused, never anything else", () => {
  fc.assert(
    fc.property(hellos, fc.nat(), fc.integer({ min: 1, max: 255 }), (hello, position, change) => {
      const bytes = encodeHello(hello);
      bytes[position % bytes.length]! ^= change;
      try {
        assert.notDeepEqual(decode(bytes), hello);
      } catch (error) {
        assert.ok(protocolError(error), String(error));
      }
    }),
  );
});

test("bytes are laid out as documented", () => {
  const bytes = encodeHello({ migration: newMigrationId(1n), channel: "files" });
  assert.equal(Buffer.from(bytes).toString("latin1"), "DMIG\0\u0001\u000d\u0005m000000000001files");
});

test("another version is refused by its number", () => {
  const bytes = encodeHello({ migration: newMigrationId(1n), channel: "files" });
  bytes[5] = 9;
  assert.throws(() => decode(bytes), { code: "PROTOCOL", message: /Channel protocol 9 was offered, protocol 1 is spoken/ });
});

test("what is no hello is refused", () => {
  assert.throws(() => decode(Buffer.from("GET / HTTP/1.1\r\n\r\n")), { code: "PROTOCOL", message: /only agents may use this port/ });
});

test("a channel is named like a channel", () => {
  for (const channel of ["", "UPPER", "a b", "../x", "a".repeat(65), "ä"]) {
    assert.throws(() => encodeHello({ migration: newMigrationId(1n), channel }), { code: "INTERNAL" }, channel);
  }
});
