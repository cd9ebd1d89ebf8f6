/** The Internet checksum: an example and its algebra. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { checksumFor, onesSum, pseudoHeaderSum } from "./checksum.ts";

void describe("the Internet checksum", () => {
  void it("is that of the example in RFC 1071", () => {
    assert.equal(onesSum(Uint8Array.of(0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7)), 0xddf2);
  });

  void it("makes everything sum up to all ones", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 2000 }), (bytes) => {
        const checksum = checksumFor(onesSum(bytes));
        assert.equal(onesSum(bytes, checksum), 0xffff);
      }),
    );
  });

  void it("can be made piece by piece, at even offsets", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(100), (bytes, half) => {
        assert.equal(onesSum(bytes.subarray(2 * half), onesSum(bytes.subarray(0, 2 * half))), onesSum(bytes));
      }),
    );
  });

  void it("does not overflow with the largest packets", () => {
    assert.equal(onesSum(new Uint8Array(128 * 1024).fill(0xff)), 0xffff);
  });

  void it("covers the pseudo header, laid out as RFC 9293 says", () => {
    const laidOut = Uint8Array.of(10, 0, 0, 1, 10, 0, 0, 2, 0, 6, 0x12, 0x34);
    assert.equal(pseudoHeaderSum(laidOut.subarray(0, 8), 6, 0x1234), onesSum(laidOut));
  });
});
