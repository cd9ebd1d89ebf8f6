/**
 * What the Docker Engine answers, as far as it is read here. Objects are loose: what is not named stays in them, so that nothing is lost
 * between an inspection and a create request (Docker Engine API 1.44, `definitions` of its swagger.yaml).
 */
import * as z from "zod";

/** Go encodes an empty slice or map that was never made as null. */
const strings = z.array(z.string()).nullish();
const stringMap = z.record(z.string(), z.string()).nullish();

/** `sha256:` and 64 hexadecimal digits: an image's id, a layer's diff id or chain id. */
export const digest = z.string().regex(/^sha256:[0-9a-f]{64}$/);

export const restartPolicy = z.object({ Name: z.string(), MaximumRetryCount: z.int() });
/** When the engine starts a container again by itself. */
export type RestartPolicy = z.infer<typeof restartPolicy>;

export const containerConfig = z.looseObject({
  Image: z.string(),
  Hostname: z.string(),
  Entrypoint: strings,
  Labels: stringMap,
  Tty: z.boolean(),
  /** The one that was asked for on the network of its mode; none that the engine chose. */
  MacAddress: z.string().optional(),
});
/** What a container runs: `Config` of an inspection. */
export type ContainerConfig = z.infer<typeof containerConfig>;

const mountRequest = z.looseObject({ Type: z.string(), Source: z.string().optional(), Target: z.string() });

export const hostConfig = z.looseObject({
  Binds: strings,
  Mounts: z.array(mountRequest).nullish(),
  Links: strings,
  VolumesFrom: strings,
  NetworkMode: z.string(),
  IpcMode: z.string(),
  PidMode: z.string(),
  UTSMode: z.string(),
  Cgroup: z.string(),
  AutoRemove: z.boolean(),
  RestartPolicy: restartPolicy,
  LogConfig: z.looseObject({ Type: z.string(), Config: stringMap }),
});
/** What a container gets of its host: `HostConfig` of an inspection. */
export type HostConfig = z.infer<typeof hostConfig>;

const ipamConfig = z.looseObject({ IPv4Address: z.string().optional(), IPv6Address: z.string().optional() }).nullish();

export const endpoint = z.looseObject({ IPAMConfig: ipamConfig, Aliases: strings, MacAddress: z.string().optional() });
/** A container's place on a network as it is asked for. */
export type Endpoint = z.infer<typeof endpoint>;

export const inspectedEndpoint = endpoint.extend({
  NetworkID: z.string(),
  IPAddress: z.string(),
  GlobalIPv6Address: z.string(),
});
/** The same with what the engine chose for it. */
export type InspectedEndpoint = z.infer<typeof inspectedEndpoint>;

const mountPoint = z.looseObject({
  Type: z.string(),
  /** Of a volume. */
  Name: z.string().optional(),
  /** Path on the host. */
  Source: z.string().optional(),
  Destination: z.string(),
  RW: z.boolean(),
});

export const inspectedContainer = z.looseObject({
  Id: z.string(),
  /** With a slash before it. */
  Name: z.string(),
  /** Id of the image. */
  Image: digest,
  /** What is its /etc/hosts. */
  HostsPath: z.string(),
  State: z.looseObject({
    /** `created` if it never was seen running. */
    Status: z.string(),
    Running: z.boolean(),
    Paused: z.boolean(),
    Restarting: z.boolean(),
    Pid: z.int(),
    ExitCode: z.int(),
  }),
  ExecIDs: strings,
  Config: containerConfig,
  HostConfig: hostConfig,
  /** By destination: the engine shows them in another order each time. */
  Mounts: z.array(mountPoint).transform((mounts) => mounts.toSorted((one, other) => (one.Destination < other.Destination ? -1 : 1))),
  NetworkSettings: z.looseObject({
    Networks: z.record(z.string(), inspectedEndpoint),
    /** Where the ports of the container are published, in force only while it runs. */
    Ports: z.record(z.string(), z.array(z.looseObject({ HostIp: z.string(), HostPort: z.string() })).nullable()).nullish(),
  }),
});
export type InspectedContainer = z.infer<typeof inspectedContainer>;

export const listedContainer = z.looseObject({
  Id: z.string(),
  Names: z.array(z.string()),
  Image: z.string(),
  State: z.string(),
  HostConfig: z.looseObject({ NetworkMode: z.string().optional() }),
  Ports: z.array(z.looseObject({ IP: z.string().optional(), PrivatePort: z.int(), PublicPort: z.int().optional(), Type: z.string() })),
  NetworkSettings: z.looseObject({ Networks: z.record(z.string(), inspectedEndpoint) }),
  Mounts: z.array(z.looseObject({ Type: z.string(), Name: z.string().optional() })),
});
export type ListedContainer = z.infer<typeof listedContainer>;

export const engineEvent = z.looseObject({
  Type: z.string(),
  Action: z.string(),
  Actor: z.looseObject({ ID: z.string(), Attributes: z.record(z.string(), z.string()).nullish() }),
});

export const createdContainer = z.looseObject({ Id: z.string(), Warnings: strings });
export type CreatedContainer = z.infer<typeof createdContainer>;

export const inspectedExec = z.looseObject({
  ID: z.string(),
  Running: z.boolean(),
  /** On the host; 0 before it started. */
  Pid: z.int(),
  ProcessConfig: z.looseObject({ entrypoint: z.string(), arguments: strings }),
});
export type InspectedExec = z.infer<typeof inspectedExec>;

const subnet = z.looseObject({ Subnet: z.string().optional(), IPRange: z.string().optional(), Gateway: z.string().optional() });

export const inspectedNetwork = z.looseObject({
  Id: z.string(),
  Name: z.string(),
  /** When it was made, RFC 3339. */
  Created: z.string().optional(),
  Driver: z.string(),
  /** `local`, `global` or `swarm`. */
  Scope: z.string(),
  EnableIPv4: z.boolean().optional(),
  EnableIPv6: z.boolean(),
  Internal: z.boolean(),
  Attachable: z.boolean(),
  IPAM: z.looseObject({ Driver: z.string(), Options: stringMap, Config: z.array(subnet).nullish() }),
  Options: stringMap,
  Labels: stringMap,
});
export type InspectedNetwork = z.infer<typeof inspectedNetwork>;

export const inspectedVolume = z.looseObject({
  Name: z.string(),
  Driver: z.string(),
  /** Path on the host. */
  Mountpoint: z.string(),
  Labels: stringMap,
  Options: stringMap,
});
export type InspectedVolume = z.infer<typeof inspectedVolume>;

export const inspectedImage = z.looseObject({
  Id: digest,
  RepoTags: strings,
  RepoDigests: strings,
  Size: z.int(),
  RootFS: z.looseObject({ Layers: z.array(digest).nullish() }),
});
export type InspectedImage = z.infer<typeof inspectedImage>;

export const listedImage = z.looseObject({ Id: digest, RepoTags: strings });
export type ListedImage = z.infer<typeof listedImage>;

export const engineVersion = z.looseObject({ Version: z.string(), ApiVersion: z.string(), MinAPIVersion: z.string() });

export const engineInfo = z.looseObject({
  ServerVersion: z.string(),
  /** Storage driver, with details as pairs of key and value. */
  Driver: z.string(),
  DriverStatus: z.array(z.tuple([z.string(), z.string()])).nullish(),
  /** Where the engine keeps everything; with userns-remap the folder of the remapped user. */
  DockerRootDir: z.string(),
  CgroupVersion: z.string().optional(),
  Runtimes: z.record(z.string(), z.looseObject({ path: z.string().optional() })),
  DefaultRuntime: z.string(),
  Plugins: z.looseObject({ Volume: strings, Network: strings, Log: strings }),
  SecurityOptions: strings,
});
export type EngineInfo = z.infer<typeof engineInfo>;
