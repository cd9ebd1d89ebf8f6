/** A thread that was stopped in a call makes it again, and no other. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Registers, type RegisterName } from "./ptrace.ts";
import { callAgain } from "./interrupted-calls.ts";

const EINTR = -4n;
const [CLOCK_NANOSLEEP, POLL, READ] = [230n, 7n, 0n];
const IN_64_BITS = { cs: 0x33n, ip: 0x4ae3f7n } as const;

function after(values: Partial<Record<RegisterName, bigint>>): Partial<Record<RegisterName, bigint>> | undefined {
  const registers = new Registers();
  for (const [name, value] of Object.entries({ ...IN_64_BITS, ...values })) registers.set(name as RegisterName, value); // keys of the above
  if (!callAgain(registers)) return undefined;
  const names = ["ax", "orig_ax", "ip", "dx", "r10"] as const;
  return Object.fromEntries(names.map((name) => [name, BigInt.asIntN(64, registers.get(name))]));
}

test("a sleep goes on for what is left of it, a wait begins anew", () => {
  const again = { ip: 0x4ae3f5n, orig_ax: -1n };
  const sleep = { orig_ax: CLOCK_NANOSLEEP, ax: EINTR, dx: 0x1000n };
  assert.deepEqual(after({ ...sleep, r10: 0x2000n }), { ...again, ax: CLOCK_NANOSLEEP, dx: 0x2000n, r10: 0x2000n });
  assert.deepEqual(after(sleep), { ...again, ax: CLOCK_NANOSLEEP, dx: 0x1000n, r10: 0n });
  assert.deepEqual(after({ orig_ax: POLL, ax: EINTR }), { ...again, ax: POLL, dx: 0n, r10: 0n });
});

test("what is not in such a call stays as it is", () => {
  assert.equal(after({ orig_ax: POLL, ax: 1n }), undefined, "it returned");
  assert.equal(after({ orig_ax: READ, ax: EINTR }), undefined);
  assert.equal(after({ orig_ax: -1n, ax: EINTR }), undefined, "a handler ran");
  assert.equal(after({ orig_ax: POLL, ax: EINTR, cs: 0x23n }), undefined, "of 32 bits");
});
