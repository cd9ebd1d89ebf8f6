/**
 * The headers of IP packets (RFC 791, RFC 8200). Pure; packets come from strangers, and a malformed one is none, not an error.
 */

/** Protocol numbers (IANA). */
export const PROTOCOL = { TCP: 6, UDP: 17, ICMPV6: 58 } as const;

/** What the header of a packet says. */
export interface IpHeader {
  readonly version: 4 | 6;
  readonly headerBytes: number;
  /** Size of the whole packet. */
  readonly totalBytes: number;
  /** What follows the header: one of `PROTOCOL`, or another. */
  readonly protocol: number;
  /** Source and destination, one behind the other; a view. */
  readonly addresses: Uint8Array;
}

/** Reads the header of a packet; undefined if `bytes` does not begin with a packet, and a whole one. */
export function ipHeaderOf(bytes: Uint8Array): IpHeader | undefined {
  const header = headerAt(bytes);
  if (header === undefined || header.totalBytes < header.headerBytes || header.totalBytes > bytes.length) return undefined;
  return header;
}

function headerAt(bytes: Uint8Array): IpHeader | undefined {
  const view = viewOf(bytes);
  const [version, wordCount] = [(bytes[0] ?? 0) >> 4, (bytes[0] ?? 0) & 15];
  if (version === 4 && wordCount >= 5 && bytes.length >= 20) {
    const [totalBytes, protocol, addresses] = [view.getUint16(2), view.getUint8(9), bytes.subarray(12, 20)];
    return { version, headerBytes: wordCount * 4, totalBytes, protocol, addresses };
  }
  if (version === 6 && bytes.length >= 40) {
    const [totalBytes, protocol, addresses] = [40 + view.getUint16(4), view.getUint8(6), bytes.subarray(8, 40)];
    return { version, headerBytes: 40, totalBytes, protocol, addresses };
  }
  return undefined;
}

/** The source address out of a header; a view. */
export function sourceOf(header: IpHeader): Uint8Array {
  return header.addresses.subarray(0, header.addresses.length / 2);
}

/** The destination address out of a header; a view. */
export function destinationOf(header: IpHeader): Uint8Array {
  return header.addresses.subarray(header.addresses.length / 2);
}

/** A view for reading and writing numbers in `bytes`. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
