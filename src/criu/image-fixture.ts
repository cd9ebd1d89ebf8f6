/**
 * Writes images as CRIU does, for tests.
 */

import { varint } from "./image-entries.ts";

/** An image of these messages. */
export function imageOf(magic: number, messages: readonly (readonly number[])[]): Buffer {
  return Buffer.concat([u32(0x54564319), u32(magic), ...messages.flatMap((message) => [u32(message.length), Buffer.from(message)])]);
}

export function bytesField(number: number, content: readonly number[]): number[] {
  return [...varint(BigInt((number << 3) | 2)), ...varint(BigInt(content.length)), ...content];
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
