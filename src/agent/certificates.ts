/**
 * Makes keys and certificates: the cluster's authority, hosts' certificates signed by it, and the temporary one of a host that
 * belongs to no cluster. ECDSA on P-256. Loaded only by who makes some, for the library takes 20 MB.
 */
import "reflect-metadata"; // needed by the library below, before it
import { webcrypto, X509Certificate } from "node:crypto";
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509CertificateGenerator,
} from "@peculiar/x509";
import type { HostName } from "../core/ids.ts";
import type { Credentials } from "./pki.ts";

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const DAY_MS = 86_400_000;
/** A certificate is trusted for as long as its host is a member, so it need not end before the cluster does. */
const VALID_DAYS = 3650;

/** A new certificate authority, named after the host that holds its key. */
export async function newAuthority(host: HostName): Promise<Credentials> {
  const keys = await newKeys();
  const certificate = await X509CertificateGenerator.createSelfSigned({
    ...validity(),
    name: `CN=dmigrate authority on ${host}`,
    keys,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificate: certificate.toString("pem"), key: await privateKeyPem(keys) };
}

/** A new key with a certificate that it signed itself: for a host that belongs to no cluster, known by its fingerprint alone. */
export async function newSelfSigned(): Promise<Credentials> {
  const keys = await newKeys();
  const certificate = await X509CertificateGenerator.createSelfSigned({
    ...validity(),
    name: "CN=dmigrate",
    keys,
    signingAlgorithm: ALGORITHM,
  });
  return { certificate: certificate.toString("pem"), key: await privateKeyPem(keys) };
}

/** Signs a certificate for `host` and its public key (SPKI, DER). Returns it as PEM. */
export async function issueCertificate(authority: Credentials, host: HostName, publicKey: Uint8Array): Promise<string> {
  const signingKey = await webcrypto.subtle.importKey("pkcs8", PemConverter.decodeFirst(authority.key), ALGORITHM, false, ["sign"]);
  const hostKey = await webcrypto.subtle.importKey("spki", Uint8Array.from(publicKey), ALGORITHM, true, ["verify"]);
  const authorityKey = new X509Certificate(authority.certificate).publicKey.export({ type: "spki", format: "der" });
  const certificate = await X509CertificateGenerator.create({
    ...validity(),
    subject: `CN=${host}`,
    issuer: new X509Certificate(authority.certificate).subject,
    publicKey: hostKey,
    signingKey,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth]),
      new SubjectAlternativeNameExtension([
        { type: "dns", value: host },
        { type: "url", value: `dmigrate://host/${host}` },
      ]),
      await AuthorityKeyIdentifierExtension.create(Uint8Array.from(authorityKey)),
    ],
  });
  return certificate.toString("pem");
}

async function newKeys(): Promise<webcrypto.CryptoKeyPair> {
  return await webcrypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
}

async function privateKeyPem({ privateKey }: webcrypto.CryptoKeyPair): Promise<string> {
  return PemConverter.encode(await webcrypto.subtle.exportKey("pkcs8", privateKey), "PRIVATE KEY");
}

/** From yesterday, for a peer whose clock is behind. */
function validity(): { notBefore: Date; notAfter: Date } {
  const now = Date.now();
  return { notBefore: new Date(now - DAY_MS), notAfter: new Date(now + VALID_DAYS * DAY_MS) };
}
