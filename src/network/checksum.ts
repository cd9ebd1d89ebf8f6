/**
 * The Internet checksum (RFC 1071) and the pseudo header that transport protocols add to it (RFC 9293 3.1, RFC 8200 8.1). Pure.
 */

/** The ones' complement sum of bytes taken as big-endian words of 16 bits, an odd last byte padded with zero; `initial` is added. */
export function onesSum(bytes: Uint8Array, initial = 0): number {
  const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const evenBytes = bytes.length & ~1;
  let sum = initial;
  for (let at = 0; at < evenBytes; at += 2) sum += words.getUint16(at);
  if (evenBytes < bytes.length) sum += words.getUint8(evenBytes) << 8;
  while (sum > 0xffff) sum = Math.floor(sum / 0x10000) + (sum % 0x10000);
  return sum;
}

/** What a checksum field must hold so that everything sums up to all ones, `sum` being the sum without it. */
export function checksumFor(sum: number): number {
  return ~sum & 0xffff;
}

/** The sum of a pseudo header. `addresses`: source and destination; `bytes`: size of transport header and payload. */
export function pseudoHeaderSum(addresses: Uint8Array, protocol: number, bytes: number): number {
  return onesSum(addresses, protocol + bytes);
}
