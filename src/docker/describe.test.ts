/**
 * What a description makes of an inspection, of engines and settings that the lab does not have.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { cleanPath, describeInspection, type Inspection } from "./describe.ts";
import type { InspectedContainer, InspectedEndpoint, InspectedNetwork } from "./inspect.ts";

const ID = "0123456789ab".padEnd(64, "c");
const IMAGE = `sha256:${"1".repeat(64)}`;

const network = (changes: Partial<InspectedNetwork>): InspectedNetwork => ({
  Id: "feed".padEnd(64, "0"),
  Name: "net",
  Driver: "bridge",
  Scope: "local",
  EnableIPv6: false,
  Internal: false,
  Attachable: false,
  IPAM: { Driver: "default", Options: null, Config: [{ Subnet: "10.0.0.0/8", Gateway: "10.0.0.1" }] },
  Options: null,
  Labels: null,
  ...changes,
});

const endpoint = (changes: Partial<InspectedEndpoint>): InspectedEndpoint => ({
  IPAMConfig: null,
  Aliases: null,
  MacAddress: "",
  NetworkID: "",
  IPAddress: "",
  GlobalIPv6Address: "",
  ...changes,
});

interface Changes {
  readonly container?: Partial<InspectedContainer>;
  readonly hostConfig?: Partial<InspectedContainer["HostConfig"]>;
  readonly endpoints?: Readonly<Record<string, InspectedEndpoint>>;
  readonly networks?: Readonly<Record<string, InspectedNetwork>>;
}

function inspection({ container, hostConfig, endpoints = {}, networks = {} }: Changes): Inspection {
  return {
    container: {
      Id: ID,
      Name: "/web",
      Image: IMAGE,
      HostsPath: "",
      State: { Status: "running", Running: true, Paused: false, Restarting: false, Pid: 7, ExitCode: 0 },
      ExecIDs: null,
      Config: { Image: "web:1", Hostname: ID.slice(0, 12), Entrypoint: null, Labels: {}, Tty: false },
      HostConfig: {
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
        ...hostConfig,
      },
      Mounts: [],
      NetworkSettings: { Networks: { ...endpoints } },
      ...container,
    },
    image: { Id: IMAGE, RepoTags: null, RepoDigests: null, Size: 1, RootFS: { Layers: [IMAGE] } },
    networks: new Map(Object.entries(networks)),
    volumes: new Map(),
  };
}

test("the names that API 1.44 adds to the aliases are not asked for", () => {
  for (const [shown, asked] of [
    [["www", ID.slice(0, 12), "my-host"], ["www"]],
    [["my-host", ID.slice(0, 12)], ["my-host"]],
    [["www"], ["www"]],
    [null, null],
  ] as const) {
    const endpoints = { net: endpoint({ Aliases: shown?.slice() ?? null }) };
    const { endpoints: described } = describeInspection(inspection({ endpoints, networks: { net: network({}) } }));
    assert.deepEqual(described["net"]?.Aliases, asked);
  }
});

test("addresses that the engine chose are asked for on networks that give them, and only said elsewhere", () => {
  const given = { IPAddress: "10.1.2.3", GlobalIPv6Address: "fd00::3", MacAddress: "02:42:0a:01:02:03", NetworkID: "feed" };
  const { endpoints, floatingAddresses } = describeInspection(
    inspection({
      endpoints: {
        net: endpoint({ ...given, Gateway: "10.0.0.1", IPAMConfig: { LinkLocalIPs: ["169.254.1.1"] } }),
        bridge: endpoint({ ...given, IPAddress: "172.17.0.2", GlobalIPv6Address: "" }),
      },
      networks: { net: network({}), bridge: network({ Name: "bridge" }) },
    }),
  );
  assert.deepEqual(endpoints["net"], {
    Aliases: null,
    MacAddress: given.MacAddress,
    IPAMConfig: { IPv4Address: "10.1.2.3", IPv6Address: "fd00::3", LinkLocalIPs: ["169.254.1.1"] },
  });
  assert.deepEqual(endpoints["bridge"], { Aliases: null, MacAddress: undefined, IPAMConfig: null });
  assert.deepEqual(floatingAddresses, ["172.17.0.2"]);
});

test("on the default bridge a MAC address is asked for if it was before", () => {
  const [asked, chosen] = ["02:42:ac:11:00:77", "02:42:ac:11:00:02"];
  for (const [configured, IPAddress, shown, expected] of [
    [asked, "172.17.0.2", asked, asked],
    [undefined, "172.17.0.2", chosen, undefined],
    [undefined, "", asked, asked], // created with it, never started
  ] as const) {
    const bridged = inspection({
      endpoints: { bridge: endpoint({ IPAddress, MacAddress: shown }) },
      networks: { bridge: network({ Name: "bridge" }) },
    });
    if (configured !== undefined) bridged.container.Config.MacAddress = configured;
    assert.equal(describeInspection(bridged).endpoints["bridge"]?.MacAddress, expected);
  }
});

test("networks go by name, and those of every engine are none to make", () => {
  const { Id } = network({});
  const byId = describeInspection(
    inspection({ hostConfig: { NetworkMode: Id.slice(0, 12) }, endpoints: { [Id]: endpoint({}) }, networks: { [Id]: network({}) } }),
  );
  assert.equal(byId.hostConfig.NetworkMode, "net");
  assert.deepEqual(Object.keys(byId.endpoints), ["net"]);
  const host = describeInspection(
    inspection({ hostConfig: { NetworkMode: "host" }, endpoints: { host: endpoint({}) }, networks: { host: network({ Name: "host" }) } }),
  );
  assert.deepEqual([host.hostConfig.NetworkMode, host.networks], ["host", []]);
});

test("a gateway that the engine shows with its prefix length is asked for without", () => {
  const IPAM = {
    Driver: "default",
    Options: null,
    Config: [{ Subnet: "fd00::/64", Gateway: "fd00::1/64", AuxiliaryAddresses: { a: "fd00::2" } }],
  };
  const { networks } = describeInspection(inspection({ endpoints: { net: endpoint({}) }, networks: { net: network({ IPAM }) } }));
  assert.deepEqual(networks[0]?.ipam.subnets, [{ Subnet: "fd00::/64", Gateway: "fd00::1", AuxiliaryAddresses: { a: "fd00::2" } }]);
});

function tied(changes: Changes): readonly string[] {
  return describeInspection(inspection(changes)).unmovable;
}

test("what ties a container to its host is named with its remedy", () => {
  const mode = `container:${ID}`;
  assert.deepEqual(tied({}), []);
  assert.deepEqual(tied({ hostConfig: { IpcMode: mode } }), [
    "It shares the IPC namespace of container 0123456789ab, which stays; give it its own",
  ]);
  assert.match(tied({ hostConfig: { Cgroup: mode } }).join("\n"), /^It shares the cgroup of container 0123456789ab/);
  assert.match(tied({ hostConfig: { Links: ["/db:/web/database"] } }).join("\n"), /^It is linked to container db, /);
  assert.match(tied({ hostConfig: { VolumesFrom: ["db:ro"] } }).join("\n"), /volumes of container db, /);
  assert.match(tied({ networks: { net: network({ Scope: "swarm" }) } }).join("\n"), /network net belong to the Swarm/);
  const Mounts = ["bind", "volume", "tmpfs", "image"].map((Type) => ({ Type, Destination: `/${Type}`, RW: true }));
  assert.match(tied({ container: { Mounts } }).join("\n"), /^It has a mount of type image at \/image/);
});

test("a path is cleaned as Go cleans it", () => {
  for (const [path, clean] of [
    ["/a/", "/a"],
    ["/a//b/./c/..", "/a/b"],
    ["/", "/"],
    ["/..", "/"],
  ] as const)
    assert.equal(cleanPath(path), clean);
});
