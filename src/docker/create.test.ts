/**
 * The create request, its comparison with what came of it, and the description on the wire.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { createRequest, differences } from "./create.ts";
import { readDescription, writeDescription, type ContainerDescription } from "./description.ts";
import { containerId } from "../core/ids.ts";

const volume = (name: string, destination: string, anonymous: boolean): ContainerDescription["volumes"][number] => ({
  name,
  destination,
  anonymous,
  driver: "local",
  options: {},
  labels: {},
});

const DESCRIPTION: ContainerDescription = {
  id: containerId("a".repeat(64)),
  name: "web",
  image: { id: `sha256:${"1".repeat(64)}`, reference: "web:1", tags: ["web:1"], layers: [] },
  config: {
    Image: "web:1",
    Hostname: "aaaaaaaaaaaa",
    Entrypoint: ["serve"],
    Labels: {},
    Tty: false,
    MacAddress: "02:42:00:00:00:01",
    Cmd: null,
  },
  hostConfig: {
    Binds: null,
    Mounts: undefined,
    Links: null,
    VolumesFrom: null,
    NetworkMode: "net",
    IpcMode: "private",
    PidMode: "",
    UTSMode: "",
    Cgroup: "",
    AutoRemove: false,
    RestartPolicy: { Name: "always", MaximumRetryCount: 0 },
    LogConfig: { Type: "json-file", Config: {} },
    Runtime: "runc",
    Memory: 7,
  },
  endpoints: { net: { IPAMConfig: null, Aliases: ["www"], MacAddress: "02:42:00:00:00:01" } },
  floatingAddresses: [],
  networks: [],
  volumes: [],
  unmovable: [],
};

const request = (changes: Partial<ContainerDescription> = {}): ReturnType<typeof createRequest> =>
  createRequest({ ...DESCRIPTION, ...changes }, { runtime: "dmigrate", image: "web:1" });

test("all settings are asked for, but neither a start nobody asks for nor the old runtime", () => {
  const { HostConfig, NetworkingConfig, ...config } = request();
  assert.deepEqual(config, { Image: "web:1", Hostname: "aaaaaaaaaaaa", Entrypoint: ["serve"], Labels: {}, Tty: false, Cmd: null });
  assert.deepEqual(NetworkingConfig.EndpointsConfig, DESCRIPTION.endpoints);
  assert.partialDeepStrictEqual(HostConfig, { Runtime: "dmigrate", RestartPolicy: { Name: "no" }, Memory: 7, NetworkMode: "net" });
});

test("no entry point is asked for as none, for otherwise the image's would come", () => {
  for (const [shown, asked] of [
    [null, [""]],
    [[], []],
    [["a"], ["a"]],
  ] as const) {
    assert.deepEqual(request({ config: { ...DESCRIPTION.config, Entrypoint: shown?.slice() ?? null } }).Entrypoint, asked);
  }
});

test("with the host's UTS namespace no host name is asked for", () => {
  assert.equal("Hostname" in request({ hostConfig: { ...DESCRIPTION.hostConfig, UTSMode: "host" } }), false);
});

test("every volume is asked for by its name, wherever it was asked for without", () => {
  const { HostConfig } = request({
    hostConfig: {
      ...DESCRIPTION.hostConfig,
      Binds: ["named:/named:ro", "/bound/", "/srv:/host"],
      Mounts: [
        { Type: "volume", Target: "/mounted/", VolumeOptions: { NoCopy: true } },
        { Type: "volume", Source: "own", Target: "/own" },
        { Type: "tmpfs", Target: "/tmp" },
      ],
    },
    volumes: [
      volume("named", "/named", false),
      volume("one", "/bound", true),
      volume("two", "/mounted", true),
      volume("own", "/own", false),
      volume("three", "/image", true),
    ],
  });
  assert.deepEqual(HostConfig.Binds, ["named:/named:ro", "one:/bound/", "/srv:/host"]);
  assert.deepEqual(HostConfig.Mounts, [
    { Type: "volume", Source: "two", Target: "/mounted/", VolumeOptions: { NoCopy: true } },
    { Type: "volume", Source: "own", Target: "/own" },
    { Type: "tmpfs", Target: "/tmp" },
    { Type: "volume", Source: "three", Target: "/image" },
  ]);
});

test("a difference is named by its path; nothing is nothing in whatever form", () => {
  assert.deepEqual(differences({ a: { b: [1], c: null, d: "", e: {} } }, { a: { b: [1], c: false, d: [], f: 0 } }), []);
  assert.deepEqual(differences({ a: { b: [1, 2] }, c: 3 }, { a: { b: [2, 1] } }), [
    "a.b became [2,1] instead of [1,2]",
    "c became null instead of 3",
  ]);
  const [big, bigger] = ["9223372036854775806", "9223372036854775807"].map((text) => JSON.rawJSON(text));
  assert.deepEqual(differences({ big }, { big }), []);
  assert.equal(differences({ big }, { big: bigger }).length, 1);
});

test("a description crosses unchanged; what is none is refused", () => {
  const big = {
    ...DESCRIPTION,
    hostConfig: { ...DESCRIPTION.hostConfig, Ulimits: [{ Name: "core", Hard: JSON.rawJSON("9223372036854775807") }] },
  };
  const text = writeDescription(big);
  assert.match(text, /"Hard":9223372036854775807/);
  assert.equal(writeDescription(readDescription(text)), text);
  const tags = ["web:1", "registry.example:5000/team/web:v1.2-x", "[::1]:5000/web:1"];
  const image = { ...DESCRIPTION.image, reference: `web@sha256:${"2".repeat(64)}`, tags };
  assert.deepEqual(readDescription(writeDescription({ ...DESCRIPTION, image })).image, image);
  const refused = (change: object): void => {
    assert.throws(() => readDescription(JSON.stringify({ ...DESCRIPTION, ...change })), { code: "PROTOCOL" }, JSON.stringify(change));
  };
  refused({ name: "../web" });
  refused({ id: "short" });
  refused({ volumes: [{ ...volume("../../etc", "/x", false) }] });
  refused({ image: { ...DESCRIPTION.image, layers: ["sha256:../../x"] } });
  refused({ image: { ...DESCRIPTION.image, reference: "../containers/x" } });
  refused({ image: { ...DESCRIPTION.image, tags: ["web"] } });
  refused({ endpoints: { "..": {} } });
  refused({ hostConfig: undefined });
  assert.throws(() => readDescription("{"), { code: "PROTOCOL" });
});
