/**
 * Addresses as people write them: `host:port`, `[v6]:port`, or a host alone.
 */
import { isIPv6 } from "node:net";
import { DmigrateError } from "../core/errors.ts";

/** The port agents listen on unless told otherwise. */
export const DEFAULT_PORT = 7461;

/** A place to connect to, or to listen at. */
export interface Address {
  /** Host name or IP address, without brackets; absent: every address of this host. */
  readonly host?: string;
  readonly port: number;
}

const ADDRESS = /^(?:\[(?<v6>[^\]]+)\]|(?<host>[^\s:[\]/@]*))(?::(?<port>\d{1,5}))?$/;

/** Reads an address; `:port` means every address of this host. Throws USAGE. */
export function parseAddress(text: string, defaultPort: number = DEFAULT_PORT): Address {
  const { v6, host, port = String(defaultPort) } = ADDRESS.exec(text)?.groups ?? {};
  const name = v6 ?? host;
  if (text === "" || name === undefined || (v6 !== undefined && !isIPv6(v6)) || Number(port) > 65_535) {
    throw new DmigrateError("USAGE", `${JSON.stringify(text)} is no address; write HOST or HOST:PORT, an IPv6 address in brackets`);
  }
  return name === "" ? { port: Number(port) } : { host: name, port: Number(port) };
}

/** Reads the address at which others reach a host. Throws USAGE, also if it names no host. */
export function parsePeerAddress(text: string, defaultPort: number = DEFAULT_PORT): Required<Address> {
  const { host, port } = parseAddress(text, defaultPort);
  if (host === undefined || port === 0)
    throw new DmigrateError("USAGE", `${JSON.stringify(text)} names no host and port to connect to; write HOST or HOST:PORT`);
  return { host, port };
}

/** The written form, with its port. */
export function formatAddress({ host = "*", port }: Address): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
