/**
 * What may have become of bytes when their sender does not keep to the protocol.
 */
import * as fc from "fast-check";

/** Changes a few places of some bytes: others, fewer, more, or the same once more. */
export const harms: fc.Arbitrary<(bytes: Buffer) => Buffer> = fc
  .array(
    fc.record({
      kind: fc.constantFrom("change", "remove", "insert", "repeat", "cut"),
      at: fc.nat(),
      length: fc.integer({ min: 1, max: 40 }),
      other: fc.uint8Array({ minLength: 1, maxLength: 12 }),
    }),
    { minLength: 1, maxLength: 4 },
  )
  .map((all) => (bytes) => all.reduce(harmed, bytes));

function harmed(
  bytes: Buffer,
  { kind, at, length, other }: { readonly kind: string; readonly at: number; readonly length: number; readonly other: Uint8Array },
): Buffer {
  const from = at % (bytes.length + 1);
  const [before, behind] = [bytes.subarray(0, from), bytes.subarray(from)];
  switch (kind) {
    case "change":
      return Buffer.concat([before, other.subarray(0, behind.length), behind.subarray(other.length)]);
    case "remove":
      return Buffer.concat([before, behind.subarray(length)]);
    case "insert":
      return Buffer.concat([before, other, behind]);
    case "repeat":
      return Buffer.concat([before, behind.subarray(0, length), behind]);
    default:
      return before;
  }
}
