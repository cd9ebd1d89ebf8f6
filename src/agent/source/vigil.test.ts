/** A target that is watched while a container stands still. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { DmigrateError } from "../../core/errors.ts";
import { hostName, newMigrationId } from "../../core/ids.ts";
import type { PeerCalls } from "../migrations.ts";
import { Vigil } from "./vigil.ts";

const about = { id: newMigrationId(1n), container: "web", host: hostName("b") };

/** A target of which only its state is asked; each answer is told. */
function target(answer: PeerCalls["state"]) {
  const asked = Promise.withResolvers<void>();
  let count = 0;
  const state: PeerCalls["state"] = (id, options) => {
    if (++count === 3) asked.resolve();
    return answer(id, options);
  };
  return { calls: { state }, askedThrice: asked.promise };
}

test("a target that answers is not lost, and is asked again", async () => {
  const { calls, askedThrice } = target(() => Promise.resolve("running"));
  using vigil = new Vigil({ ...about, calls });
  vigil.begin();
  await askedThrice;
  assert.equal(vigil.signal.aborted, false);
});

test("one that stays silent is", async () => {
  const silent: PeerCalls["state"] = (_id, options) =>
    new Promise((_resolve, reject) => options?.signal?.addEventListener("abort", () => reject(new Error("given up"))));
  using vigil = new Vigil({ ...about, calls: target(silent).calls });
  vigil.begin();
  await once(vigil.signal, "abort");
  const { code, message } = vigil.signal.reason as DmigrateError;
  assert.equal(code, "PEER_UNREACHABLE");
  assert.match(message, /^Host b did not answer for .* while web stood still/);
});

test("one that answers with an error is lost with that", async () => {
  const error = new DmigrateError("PEER_REFUSED", "It is not a member; add it");
  using vigil = new Vigil({ ...about, calls: target(() => Promise.reject(error)).calls });
  vigil.begin();
  await once(vigil.signal, "abort");
  assert.equal(vigil.signal.reason, error);
});
