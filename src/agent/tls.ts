/**
 * How agents speak TLS: the newest version alone, and of its ciphers first the one with the shortest key, which is 128 bits and costs the
 * least processor time for each page of memory.
 */
import type { SecureContextOptions } from "node:tls";

export const TLS = {
  minVersion: "TLSv1.3",
  ciphers: "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256",
} as const satisfies SecureContextOptions;
