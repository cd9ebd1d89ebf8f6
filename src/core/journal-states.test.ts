/** Every history that the table of journal states allows. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { DmigrateError } from "./errors.ts";
import { assertMayFollow, FIRST_STATE, hasEnded, mayFollow, type Role } from "./journal-states.ts";
import type { JournalState } from "./migration.ts";

const STATES: readonly JournalState[] = ["running", "committed", "prepared", "owner", "completed", "rolled-back", "failed"];
const ROLES: readonly Role[] = ["source", "target"];

/** Every sequence of states that a journal could hold, from the first state on. */
function histories(role: Role, past: readonly JournalState[] = [FIRST_STATE]): (readonly JournalState[])[] {
  const next = STATES.filter((to) => mayFollow(role, past.at(-1)!, to));
  return next.length === 0 ? [past] : next.flatMap((to) => histories(role, [...past, to]));
}

test("every history ends, and only in an outcome", () => {
  for (const role of ROLES) {
    for (const history of histories(role)) assert.ok(hasEnded(history.at(-1)!), history.join(" -> "));
  }
});

test("an outcome is final", () => {
  for (const role of ROLES) {
    for (const from of STATES.filter(hasEnded)) {
      for (const to of STATES) assert.equal(mayFollow(role, from, to), false, `${from} -> ${to}`);
    }
  }
});

test("a source completes only if it committed", () => {
  for (const history of histories("source")) {
    assert.equal(history.includes("completed") && !history.includes("committed"), false, history.join(" -> "));
  }
});

test("a target owns only what it prepared, and never rolls back what it owns", () => {
  for (const history of histories("target")) {
    if (history.includes("owner")) assert.deepEqual(history.slice(0, 3), ["running", "prepared", "owner"]);
    assert.ok(!(history.includes("owner") && history.includes("rolled-back")), history.join(" -> "));
  }
});

test("each side has only its own states", () => {
  assert.ok(histories("source").every((history) => !history.includes("prepared") && !history.includes("owner")));
  assert.ok(histories("target").every((history) => !history.includes("committed")));
});

test("an illegal transition throws and names both states", () => {
  assert.throws(
    () => assertMayFollow("target", "owner", "rolled-back"),
    (error) => error instanceof DmigrateError && error.code === "INTERNAL" && /from owner to rolled-back/.test(error.message),
  );
});
