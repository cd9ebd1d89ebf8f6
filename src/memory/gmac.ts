/**
 * Names for content, under a key that is made for one migration alone. For content that does not know the key, two pieces of up to 256 KiB
 * have the same name with a probability of 2^-114 at most (McGrew, Viega, "The Security and Performance of the Galois/Counter Mode", 2004).
 */
import { createCipheriv, randomBytes } from "node:crypto";

export const GMAC_BYTES = 16;

export class Gmac {
  readonly #key = randomBytes(16);
  readonly #nonce = Buffer.alloc(12);

  of(bytes: Uint8Array): Buffer {
    const cipher = createCipheriv("aes-128-gcm", this.#key, this.#nonce).setAAD(bytes);
    cipher.final();
    return cipher.getAuthTag();
  }
}
