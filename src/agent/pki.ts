/**
 * Whom a host trusts: keys and certificates in its state directory, and tokens by which a host joins a cluster.
 */
import { createHash, createPrivateKey, randomBytes, timingSafeEqual, X509Certificate } from "node:crypto";
import { chmodSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { DmigrateError } from "../core/errors.ts";
import type { HostName } from "../core/ids.ts";
import { writeDurably } from "./files.ts";

/** A certificate and its private key, both PEM. */
export interface Credentials {
  readonly certificate: string;
  readonly key: string;
}

/** What a member of a cluster holds. */
export interface MemberKeys {
  readonly host: Credentials;
  /** The authority's certificate, PEM: what every peer's certificate must be signed by. */
  readonly authority: string;
  /** Only on the host that ran `dmigrate init`. */
  readonly authorityKey?: string;
}

/** SHA-256 of a certificate, as 64 lower-case hexadecimal digits. */
export function fingerprint(certificate: X509Certificate | Uint8Array | string): string {
  const { raw } = certificate instanceof X509Certificate ? certificate : new X509Certificate(certificate);
  return createHash("sha256").update(raw).digest("hex");
}

/** The public key (SPKI, DER) of a certificate. */
export function publicKeyOf(certificate: string): Uint8Array {
  return new X509Certificate(certificate).publicKey.export({ type: "spki", format: "der" });
}

/** Throws PEER_REFUSED unless `keys` are a certificate for `host` with our own key, signed by the authority. */
export function checkMemberKeys({ host: { certificate, key }, authority }: MemberKeys, host: HostName): void {
  const leaf = new X509Certificate(certificate);
  const ca = new X509Certificate(authority);
  const fits =
    ca.ca &&
    leaf.checkIssued(ca) &&
    leaf.verify(ca.publicKey) &&
    leaf.checkPrivateKey(createPrivateKey(key)) &&
    leaf.checkHost(host) === host;
  if (!fits)
    throw new DmigrateError("PEER_REFUSED", `The certificate offered for host ${host} is not one this host can use; add the host again`);
}

const FINGERPRINT_BYTES = 32;
const SECRET_BYTES = 16;

/** What a join token consists of: which certificate the joining host shows, and what proves to it that the token is known. */
export interface JoinToken {
  readonly fingerprint: string;
  readonly secret: Uint8Array;
}

/** A token with a fresh secret. */
export function newJoinToken(certificate: string): JoinToken {
  return { fingerprint: fingerprint(certificate), secret: randomBytes(SECRET_BYTES) };
}

export function encodeToken(token: JoinToken): string {
  return Buffer.concat([Buffer.from(token.fingerprint, "hex"), token.secret]).toString("base64url");
}

/** Throws USAGE if `text` is no token. */
export function decodeToken(text: string): JoinToken {
  const bytes = Buffer.from(text, "base64url");
  if (bytes.length !== FINGERPRINT_BYTES + SECRET_BYTES || bytes.toString("base64url") !== text) {
    throw new DmigrateError("USAGE", "That is no join token; copy the whole one that `dmigrate status` shows on the joining host");
  }
  return { fingerprint: bytes.toString("hex", 0, FINGERPRINT_BYTES), secret: bytes.subarray(FINGERPRINT_BYTES) };
}

/** Compares in a time that does not tell how much of `given` is right. */
export function isSecret(secret: Uint8Array, given: Uint8Array): boolean {
  return given.length === secret.length && timingSafeEqual(secret, given);
}

const NAMES = { certificate: "host.pem", key: "host-key.pem", authority: "ca.pem", authorityKey: "ca-key.pem" } as const;

/** Reads a member's keys from `<stateDir>/pki`. */
export function readMemberKeys(stateDir: string, holdsAuthority: boolean): MemberKeys {
  const read = (name: string): string => readFileSync(join(stateDir, "pki", name), "utf8");
  return {
    host: { certificate: read(NAMES.certificate), key: read(NAMES.key) },
    authority: read(NAMES.authority),
    ...(holdsAuthority ? { authorityKey: read(NAMES.authorityKey) } : {}),
  };
}

/** Writes a member's keys to `<stateDir>/pki`, in place of any others. */
export function writeMemberKeys(stateDir: string, { host, authority, authorityKey }: MemberKeys): void {
  removeKeys(stateDir);
  const dir = join(stateDir, "pki");
  mkdirSync(dir, { mode: 0o700 });
  chmodSync(dir, 0o700);
  writeDurably(join(dir, NAMES.certificate), host.certificate);
  writeDurably(join(dir, NAMES.key), host.key);
  writeDurably(join(dir, NAMES.authority), authority);
  if (authorityKey !== undefined) writeDurably(join(dir, NAMES.authorityKey), authorityKey);
}

export function removeKeys(stateDir: string): void {
  rmSync(join(stateDir, "pki"), { recursive: true, force: true });
}
