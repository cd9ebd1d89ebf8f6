/**
 * Writes images as CRIU does, for tests.
 */

/** An image of these messages. */
export function imageOf(magic: number, messages: readonly (readonly number[])[]): Buffer {
  return Buffer.concat([u32(0x54564319), u32(magic), ...messages.flatMap((message) => [u32(message.length), Buffer.from(message)])]);
}

export function numberField(number: number, value: number | bigint): number[] {
  return [...varint(BigInt(number << 3)), ...varint(BigInt(value))];
}

export function bytesField(number: number, content: readonly number[]): number[] {
  return [...varint(BigInt((number << 3) | 2)), ...varint(BigInt(content.length)), ...content];
}

function varint(value: bigint): number[] {
  return value < 0x80n ? [Number(value)] : [Number(value & 0x7fn) | 0x80, ...varint(value >> 7n)];
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
