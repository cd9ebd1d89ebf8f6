/** Configuration and addresses as people write them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { formatAddress, parseAddress, parsePeerAddress } from "./address.ts";
import { parseConfig, rawConfig } from "./config.ts";

test("nothing given: the paths of a package", () => {
  assert.deepEqual(parseConfig(rawConfig({}, {})), {
    stateDir: "/var/lib/dmigrate",
    runDir: "/run/dmigrate",
    listen: { port: 7461 },
    dockerSocket: "/var/run/docker.sock",
    pageHandler: "own",
    order: "priority",
    dumpPlan: "measured",
    cpuBudget: 20,
    logLevel: "info",
  });
});

test("flags win over the environment, the environment over defaults", () => {
  const env = { DMIGRATE_STATE_DIR: "/env/state", DMIGRATE_RUN_DIR: "/env/run" };
  const config = parseConfig(rawConfig({ stateDir: "/flag/state", listen: "10.0.0.1:99" }, env));
  assert.equal(config.stateDir, "/flag/state");
  assert.equal(config.runDir, "/env/run");
  assert.deepEqual(config.listen, { host: "10.0.0.1", port: 99 });
});

test("what is wrong is named", () => {
  assert.throws(() => parseConfig({ stateDir: "relative", logLevel: "loud" }), {
    code: "USAGE",
    message: /stateDir: must be an absolute path, logLevel: /,
  });
  for (const cpuBudget of ["", "0", "101", "all", "-1"])
    assert.throws(() => parseConfig({ cpuBudget }), { code: "USAGE", message: /cpuBudget: / }, cpuBudget);
  assert.throws(() => parseConfig({ listen: "a b" }), { code: "USAGE", message: /"a b" is no address/ });
});

test("addresses are read as people write them", () => {
  const cases: [string, ReturnType<typeof parseAddress>, string][] = [
    ["web-1", { host: "web-1", port: 7461 }, "web-1:7461"],
    ["10.0.0.1:80", { host: "10.0.0.1", port: 80 }, "10.0.0.1:80"],
    ["[fd00::1]:80", { host: "fd00::1", port: 80 }, "[fd00::1]:80"],
    ["[::1]", { host: "::1", port: 7461 }, "[::1]:7461"],
    [":0", { port: 0 }, "*:0"],
  ];
  for (const [text, address, written] of cases) {
    assert.deepEqual(parseAddress(text), address, text);
    assert.equal(formatAddress(address), written);
  }
  for (const text of ["", "fd00::1", "a:65536", "a:b", "a/b", "user@a", "a:1:2", "[a]:1"])
    assert.throws(() => parseAddress(text), { code: "USAGE" }, text);
});

test("another host's address names a host and a port", () => {
  assert.deepEqual(parsePeerAddress("b"), { host: "b", port: 7461 });
  for (const text of [":7461", "b:0"]) assert.throws(() => parsePeerAddress(text), { code: "USAGE" }, text);
});
