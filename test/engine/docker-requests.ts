/**
 * Random create requests: what people ask a Docker Engine for, in combinations that it takes.
 */
import fc from "fast-check";

/** A network the requests refer to. */
export interface RequestNetworks {
  /** With subnets of its own: 10.91.0.0/24 and fd91::/64. */
  readonly fixed: string;
  /** The same network's id. */
  readonly fixedId: string;
  /** With a subnet that the engine chose. */
  readonly dynamic: string;
}

const MIB = 1024 * 1024;
const maybe = <T>(weight: number, arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.oneof({ weight: 10 - weight, arbitrary: fc.constant(undefined) }, { weight, arbitrary });
const optional = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => maybe(4, arbitrary);
const rarely = <T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => maybe(1, arbitrary);
const some = <T>(...values: readonly T[]): fc.Arbitrary<T[]> => fc.subarray([...values], { minLength: 1 });
const word = fc.stringMatching(/^[a-z][a-z0-9]{0,7}$/);
const text = fc.string({ unit: "grapheme", maxLength: 12 }).map((value) => value.replaceAll("\0", ""));
const labels = fc.dictionary(word, text, { maxKeys: 3 });
/** 64-bit integers beyond what a double holds included. */
const limit = fc.constantFrom<number | object>(0, 1024, 65_536, JSON.rawJSON("9223372036854775807"), JSON.rawJSON("1152921504606846977"));
const nanoseconds = fc.integer({ min: 1, max: 100 }).map((seconds) => seconds * 1e9 + 1);

const health = fc.oneof(
  fc.constant({ Test: ["NONE"] }),
  fc.record(
    {
      Test: fc.constantFrom([], ["CMD", "true"], ["CMD-SHELL", "test -e /"]),
      Interval: nanoseconds,
      Timeout: nanoseconds,
      StartPeriod: nanoseconds,
      StartInterval: nanoseconds,
      Retries: fc.integer({ min: 0, max: 9 }),
    },
    { requiredKeys: [] },
  ),
);

const config = fc.record({
  Hostname: optional(fc.stringMatching(/^[a-z][a-z0-9-]{0,10}[a-z]$/)),
  Domainname: rarely(word),
  User: optional(fc.constantFrom("", "0", "1000:1000", "nobody")),
  AttachStdout: fc.boolean(),
  Tty: fc.boolean(),
  OpenStdin: fc.boolean(),
  StdinOnce: fc.boolean(),
  ExposedPorts: optional(fc.constantFrom({ "80/tcp": {} }, { "53/udp": {}, "8080/tcp": {} })),
  Env: optional(
    fc.array(
      fc.oneof(
        fc.tuple(word, text).map(([key, value]) => `${key}=${value}`),
        fc.constantFrom("IMAGE", "IMAGE=changed"),
      ),
    ),
  ),
  Cmd: fc.constantFrom(["sleep", "1000"], ["sleep", "infinity"]),
  Entrypoint: fc.constantFrom<string[] | null | undefined>(undefined, null, [], [""], ["nice"], ["nice", "-n", "5"]),
  Healthcheck: optional(health),
  Volumes: optional(fc.constantFrom({ "/anonymous": {} }, { "/anonymous/": {}, "/other": {} })),
  WorkingDir: optional(fc.constantFrom("/", "/tmp", "/new/folder")),
  Labels: optional(labels),
  StopSignal: optional(fc.constantFrom("SIGINT", "9", "RTMIN+3")),
  StopTimeout: optional(fc.integer({ min: 0, max: 60 })),
});

const resources = fc.record({
  Memory: optional(fc.constantFrom(64 * MIB, 512 * MIB)),
  MemoryReservation: optional(fc.constantFrom(32 * MIB)),
  MemorySwappiness: rarely(fc.constantFrom(0, 60)),
  CpuShares: optional(fc.integer({ min: 2, max: 4096 })),
  NanoCpus: optional(fc.integer({ min: 10_000_000, max: 2_000_000_000 })),
  CpusetCpus: rarely(fc.constantFrom("0", "0-1")),
  PidsLimit: optional(fc.constantFrom(-1, 0, 100)),
  OomKillDisable: rarely(fc.boolean()),
  OomScoreAdj: optional(fc.integer({ min: 0, max: 1000 })),
  BlkioWeight: rarely(fc.integer({ min: 10, max: 1000 })),
  BlkioDeviceReadBps: rarely(fc.constant([{ Path: "/dev/null", Rate: 1024 * MIB }])),
  CgroupParent: rarely(fc.constant("/somewhere")),
  Ulimits: optional(
    fc.tuple(some("nofile", "core", "memlock"), limit).map(([names, value]) => names.map((Name) => ({ Name, Soft: value, Hard: value }))),
  ),
});

const security = fc.record({
  Privileged: rarely(fc.boolean()),
  CapAdd: optional(some("NET_ADMIN", "SYS_PTRACE")),
  CapDrop: optional(some("MKNOD", "CAP_CHOWN", "ALL")),
  SecurityOpt: optional(some("no-new-privileges", "seccomp=unconfined", "apparmor=unconfined", "label=disable")),
  ReadonlyRootfs: fc.boolean(),
  GroupAdd: optional(some("1", "audio")),
  MaskedPaths: rarely(fc.constantFrom([], ["/proc/keys"])),
  ReadonlyPaths: rarely(fc.constantFrom([], ["/proc/bus"])),
  Sysctls: optional(fc.constantFrom({ "net.core.somaxconn": "1024" }, { "kernel.msgmax": "8192" })),
  Devices: rarely(fc.constant([{ PathOnHost: "/dev/null", PathInContainer: "/dev/nothing", CgroupPermissions: "rwm" }])),
  DeviceCgroupRules: rarely(fc.constant(["c 1:3 mr"])),
  DeviceRequests: rarely(fc.constant([{ Driver: "nvidia", Count: -1, DeviceIDs: null, Capabilities: [["gpu"]], Options: { a: "b" } }])),
  PidMode: rarely(fc.constant("host")),
  IpcMode: rarely(fc.constantFrom("none", "private", "shareable", "host")),
  CgroupnsMode: rarely(fc.constantFrom("host", "private")),
  UTSMode: rarely(fc.constant("host")),
  Init: rarely(fc.boolean()),
});

const storage = fc.record({
  Binds: optional(some("/tmp:/host", "/usr:/host/usr:ro", "named:/named", "other-named:/named2:nocopy", "/nameless")),
  Mounts: optional(
    some<object>(
      { Type: "bind", Source: "/usr", Target: "/mounted/usr", ReadOnly: true, BindOptions: { Propagation: "rslave", NonRecursive: true } },
      { Type: "volume", Source: "labelled", Target: "/labelled", VolumeOptions: { Labels: { a: "b" }, DriverConfig: { Name: "local" } } },
      {
        Type: "volume",
        Source: "tmpfs-volume",
        Target: "/tv",
        VolumeOptions: { DriverConfig: { Options: { type: "tmpfs", device: "tmpfs", o: "size=1m" } } },
      },
      { Type: "volume", Target: "/no-name/" },
      { Type: "tmpfs", Target: "/mounted/tmpfs", TmpfsOptions: { SizeBytes: MIB, Mode: 0o1777 } },
    ),
  ),
  Tmpfs: optional(fc.constantFrom({ "/run": "" }, { "/run": "size=64k,mode=700" })),
  ShmSize: optional(fc.constantFrom(MIB, 128 * MIB)),
});

const service = fc.record({
  RestartPolicy: optional(
    fc.constantFrom(
      { Name: "" },
      { Name: "no" },
      { Name: "always" },
      { Name: "unless-stopped" },
      { Name: "on-failure", MaximumRetryCount: 3 },
    ),
  ),
  AutoRemove: rarely(fc.boolean()),
  LogConfig: optional(
    fc.constantFrom(
      { Type: "json-file", Config: { "max-size": "10k", "max-file": "3", tag: "{{.Name}}" } },
      { Type: "local", Config: { compress: "false" } },
      { Type: "none" },
      { Type: "syslog", Config: { "syslog-address": "udp://127.0.0.1:514" } },
    ),
  ),
  PortBindings: optional(
    fc.constantFrom({ "80/tcp": [{ HostIp: "127.0.0.1", HostPort: "8080" }, { HostPort: "" }] }, { "53/udp": [{ HostPort: "5000-5010" }] }),
  ),
  PublishAllPorts: fc.boolean(),
  Dns: optional(fc.constant(["192.0.2.1"])),
  DnsOptions: optional(fc.constant(["ndots:2"])),
  DnsSearch: optional(fc.constant(["example.org"])),
  ExtraHosts: optional(fc.constant(["peer:192.0.2.2", "gate:host-gateway"])),
  Annotations: optional(fc.dictionary(word, text, { minKeys: 1, maxKeys: 2 })),
  ConsoleSize: rarely(fc.constant([25, 80])),
});

const mac = fc.integer({ min: 0, max: 255 }).map((byte) => `02:42:0a:00:00:${byte.toString(16).padStart(2, "0")}`);
const endpoint = fc.record({ MacAddress: optional(mac), DriverOpts: rarely(fc.constant({ "com.example": "x" })) });
const aliases = { Aliases: optional(fc.array(word, { minLength: 1, maxLength: 3 })), Links: rarely(fc.constant(["peer:alias"])) };
const fixedEndpoint = fc
  .record({
    ...aliases,
    IPAMConfig: fc.record({
      IPv4Address: optional(fc.integer({ min: 2, max: 250 }).map((byte) => `10.91.0.${byte}`)),
      IPv6Address: optional(fc.constantFrom("fd91::10", "fd91::11")),
      LinkLocalIPs: rarely(fc.constant(["169.254.7.7"])),
    }),
  })
  .chain((settings) => endpoint.map((rest) => ({ ...settings, ...rest })));
const dynamicEndpoint = fc.record(aliases).chain((settings) => endpoint.map((rest) => ({ ...settings, ...rest })));

/** A network mode and the endpoints that go with it. */
function networking({ fixed, fixedId, dynamic }: RequestNetworks): fc.Arbitrary<{ mode: string | undefined; endpoints: object }> {
  return fc.oneof(
    fc.constantFrom(undefined, "default", "bridge", "host", "none").map((mode) => ({ mode, endpoints: {} })),
    endpoint.map((settings) => ({ mode: "bridge", endpoints: { bridge: settings } })),
    fixedEndpoint.map((settings) => ({ mode: fixed, endpoints: { [fixed]: settings } })),
    fixedEndpoint.map((settings) => ({ mode: fixedId, endpoints: { [fixedId]: settings } })),
    fixedEndpoint.map((settings) => ({ mode: fixedId.slice(0, 12), endpoints: { [fixed]: settings } })),
    dynamicEndpoint.map((settings) => ({ mode: dynamic, endpoints: { [dynamic]: settings } })),
    fc.tuple(fixedEndpoint, dynamicEndpoint, endpoint).map(([one, two, three]) => ({
      mode: fixed,
      endpoints: { [fixed]: one, [dynamic]: two, bridge: three },
    })),
  );
}

/** Bodies of `POST /containers/create`, without their image. Not every combination is one that the engine takes. */
export function createRequests(networks: RequestNetworks): fc.Arbitrary<object> {
  return fc
    .tuple(config, resources, security, storage, service, networking(networks))
    .map(([own, limits, confinement, mounts, rest, { mode, endpoints }]) =>
      Object.assign(own, {
        HostConfig: Object.assign(limits, confinement, mounts, rest, mode === undefined ? {} : { NetworkMode: mode }),
        NetworkingConfig: { EndpointsConfig: endpoints },
      }),
    );
}
