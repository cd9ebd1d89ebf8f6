/** A container's state comes through whole, but for the place of CRIU's configuration. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { withConfiguration } from "./runc-state.ts";

test("the place of CRIU's configuration is the new one alone; all else stays, to the last digit", () => {
  const state = (labels: string): string => `{"id":"4f","config":{"labels":${labels},"rlimits":[{"hard":18446744073709551615}]}}`;
  const expected = state('["bundle=/b","org.criu.config=/new"]');
  for (const labels of ['["bundle=/b"]', '["org.criu.config=/old","bundle=/b"]'])
    assert.equal(withConfiguration(state(labels), "/new"), expected);
  assert.equal(withConfiguration(state("null"), "/new"), state('["org.criu.config=/new"]'));
});
