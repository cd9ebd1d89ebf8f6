/**
 * Containers of one engine made again on another one.
 */
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import fc from "fast-check";
import { until } from "../../lab/host.ts";
import { Journal } from "../../src/agent/journal.ts";
import { Made } from "../../src/agent/target/made.ts";
import { containerId, hostName, newMigrationId } from "../../src/core/ids.ts";
import { createContainer, type MadeContainer } from "../../src/docker/create.ts";
import { describe } from "../../src/docker/describe.ts";
import { readDescription, writeDescription } from "../../src/docker/description.ts";
import type { InspectedContainer } from "../../src/docker/inspect.ts";
import { NEVER_RESTART, discardContainer, restartIfEnded, setRestartPolicy } from "../../src/docker/lifecycle.ts";
import { ensureNetwork } from "../../src/docker/networks.ts";
import { isNotFound, refusalOf } from "../../src/docker/transport.ts";
import { ensureVolume } from "../../src/docker/volumes.ts";
import { temporaryDirectory } from "../support/hosts.ts";
import { BASE, loadImage, twoHosts, type EngineHost } from "./docker-fixtures.ts";
import { createRequests } from "./docker-requests.ts";

const RUNS = 40;

/** An image that sets everything an image can set, so that what a user set and what the image sets may be mistaken for each other. */
const FULL = {
  ...BASE,
  name: "full:1",
  config: {
    Env: ["PATH=/usr/bin", "IMAGE=default"],
    Entrypoint: ["env"],
    Cmd: ["sleep", "1"],
    User: "65534",
    WorkingDir: "/usr",
    Labels: { "from-image": "yes" },
    Volumes: { "/image-volume": {} },
    ExposedPorts: { "443/tcp": {} },
    Healthcheck: { Test: ["CMD", "true"], Interval: 3_000_000_000, Retries: 2 },
    StopSignal: "SIGQUIT",
  },
};

const hosts = twoHosts("h1", async ({ a, b }) => {
  for (const { engine } of [a, b]) await loadImage(engine, FULL);
  const subnets = [{ Subnet: "10.91.0.0/24" }, { Subnet: "fd91::/64", Gateway: "fd91::1" }];
  const options = { "com.docker.network.driver.mtu": "1400" };
  await a.engine.createNetwork({ Name: "fixed", EnableIPv6: true, IPAM: { Config: subnets }, Options: options });
  await a.engine.createNetwork({ Name: "dynamic", Labels: { a: "b" } });
});

/** Makes a container of one host on another one, as a migration does. */
async function carry(source: EngineHost, target: EngineHost, name: string): Promise<MadeContainer> {
  const description = readDescription(writeDescription(await describe(source.engine, name)));
  for (const network of description.networks) await ensureNetwork(target.engine, network);
  for (const volume of description.volumes) await ensureVolume(target.engine, volume);
  const made = await createContainer(target.engine, description, "runc");
  await setRestartPolicy(target.engine, made.id, description.hostConfig.RestartPolicy);
  return made;
}

const RANDOM_NAME = /^[0-9a-f]{64}$/;

/**
 * An inspection without what two hosts can't have in common: ids, times, paths of the storage. A volume that had no name in the request
 * has one on the target, so that it can be the same volume; neither shows here.
 */
function comparable(container: InspectedContainer): object {
  const { Binds, Mounts: requested, ...limits } = container.HostConfig;
  const { Hostname, ...config } = without(container.Config, "MacAddress"); // a copy, for old clients, of what the endpoint shows
  const named = (requested ?? []).filter(({ Type, Source }) => Type !== "volume" || !RANDOM_NAME.test(Source ?? "0".repeat(64)));
  const mounts = container.Mounts.map((mount) => (RANDOM_NAME.test(mount.Name ?? "") ? without(mount, "Mode") : mount));
  return {
    ...without(container, "Id", "Created", "GraphDriver", "State"),
    // With the host's UTS namespace it is a name that nothing has.
    Config: limits.UTSMode === "host" ? config : { ...config, Hostname },
    HostConfig: limits,
    Binds: (Binds ?? []).map((bind) => bind.replace(/^[0-9a-f]{64}:/, "")),
    named,
    Mounts: mounts.toSorted((one, other) => (one.Destination < other.Destination ? -1 : 1)),
  };
}

function without<T extends object>(value: T, ...keys: readonly string[]): T {
  // What is left out is nothing that a type here speaks of.
  return Object.fromEntries(Object.entries(value).filter(([key]) => !keys.includes(key))) as T;
}

/** Networks of a source go by name on the target. */
function byName(container: InspectedContainer, id: string): InspectedContainer {
  const { HostConfig, NetworkSettings } = container;
  const name = (key: string): string => (id.startsWith(key) ? "fixed" : key);
  const endpoints = Object.entries(NetworkSettings.Networks).map(([key, endpoint]) => [name(key), endpoint]);
  return {
    ...container,
    HostConfig: { ...HostConfig, NetworkMode: name(HostConfig.NetworkMode) },
    NetworkSettings: { ...NetworkSettings, Networks: Object.fromEntries(endpoints) },
  };
}

/** Removes containers when a test is over, with their anonymous volumes. */
function removedAfter(t: TestContext, name: string): void {
  const { a, b } = hosts();
  t.after(async () => {
    for (const { engine } of [a, b]) await discardContainer(engine, name, { volumes: true });
  });
}

async function runOn({ engine }: EngineHost, name: string, request: object): Promise<void> {
  await engine.createContainer(name, { Image: FULL.name, Cmd: ["sleep", "1000"], ...request });
  await engine.startContainer(name);
}

test("whatever the engine takes, another engine shows the same of it", async () => {
  const { a, b } = hosts();
  const fixedId = (await a.engine.inspectNetwork("fixed")).Id;
  const makes = async (request: object): Promise<boolean> => {
    try {
      await a.engine.createContainer("it", { ...request, Image: FULL.name });
      return true;
    } catch (error) {
      if (refusalOf(error)?.status === 400) return false;
      throw error;
    }
  };
  let made = 0;
  await fc.assert(
    fc.asyncProperty(createRequests({ fixed: "fixed", fixedId, dynamic: "dynamic" }), async (request) => {
      if (!(await makes(request))) return;
      made++;
      try {
        const { warnings } = await carry(a, b, "it");
        assert.deepEqual(
          warnings.filter((warning) => warning.includes("became")),
          [],
        );
        const [there, here] = await Promise.all([a, b].map(({ engine }) => engine.inspectContainer("it")));
        assert.deepEqual(comparable(here as InspectedContainer), comparable(byName(there as InspectedContainer, fixedId)));
      } finally {
        for (const { engine } of [a, b]) await discardContainer(engine, "it", { volumes: true });
      }
    }),
    { numRuns: RUNS },
  );
  assert(made > RUNS / 2, `the engine took ${made} of ${RUNS} requests`);
});

test("a running container keeps the addresses that its engine chose for it", async (t) => {
  const { a, b } = hosts();
  removedAfter(t, "web");
  const endpoints = { dynamic: { Aliases: ["www"] }, fixed: {} };
  await runOn(a, "web", { HostConfig: { NetworkMode: "dynamic" }, NetworkingConfig: { EndpointsConfig: endpoints } });
  await carry(a, b, "web");
  await b.engine.startContainer("web");
  const [there, here] = await Promise.all([a, b].map(({ engine }) => engine.inspectContainer("web")));
  for (const network of ["dynamic", "fixed"]) {
    const [before, after] = [there, here].map((container) => container?.NetworkSettings.Networks[network]);
    assert.match(before?.IPAddress ?? "", /^\d+\./);
    for (const key of ["IPAddress", "IPPrefixLen", "GlobalIPv6Address", "MacAddress", "Gateway", "Aliases"])
      assert.deepEqual(after?.[key], before?.[key], key);
  }
  assert.match(here?.NetworkSettings.Networks["fixed"]?.GlobalIPv6Address ?? "", /^fd91::/);
  const name = there?.Id.slice(0, 12);
  assert.equal((await b.host.run("docker", "exec", "web", "hostname")).trim(), name);
  assert.equal(
    (await b.host.run("docker", "run", "--rm", "--network", "dynamic", FULL.name, "nslookup", `${name}`)).includes(
      here?.NetworkSettings.Networks["dynamic"]?.IPAddress ?? "none",
    ),
    true,
  );
});

test("on the default bridge no container on the target gets the MAC address that one brought, unless that was asked for", async (t) => {
  const { a, b } = hosts();
  for (const name of ["first", "second", "asked", "later"]) removedAfter(t, name);
  const MacAddress = "02:42:ac:11:00:77";
  for (const name of ["first", "second"]) await runOn(a, name, {});
  await runOn(a, "asked", { NetworkingConfig: { EndpointsConfig: { bridge: { MacAddress } } } });
  // The second has the second address on the one host, the first on the other one: there the second is a later one's.
  await carry(a, b, "second");
  await b.engine.startContainer("second");
  await runOn(b, "later", {});
  await carry(a, b, "asked");
  await b.engine.startContainer("asked");
  const macOf = async (name: string): Promise<unknown> =>
    (await b.engine.inspectContainer(name)).NetworkSettings.Networks["bridge"]?.MacAddress;
  assert.notEqual(await macOf("later"), await macOf("second"));
  assert.equal(await macOf("asked"), MacAddress);
});

test("a container goes back to a network that chose its subnet itself, unless another container is on that", async (t) => {
  const { a, b } = hosts();
  for (const name of ["traveller", "neighbour"]) removedAfter(t, name);
  await a.engine.createNetwork({ Name: "home" });
  t.after(() => a.engine.removeNetwork("home"));
  await runOn(a, "traveller", { HostConfig: { NetworkMode: "home" } });
  await carry(a, b, "traveller");
  await b.engine.startContainer("traveller");
  await discardContainer(a.engine, "traveller", { volumes: true });

  await a.engine.createContainer("neighbour", { Image: FULL.name, Cmd: ["true"], HostConfig: { NetworkMode: "home" } });
  await assert.rejects(carry(b, a, "traveller"), { code: "NETWORK", message: /neighbour uses it/ });
  await a.engine.removeContainer("neighbour", { volumes: true });
  await carry(b, a, "traveller");
  const [there, here] = await Promise.all([b, a].map(({ engine }) => engine.inspectContainer("traveller")));
  assert.equal(here?.NetworkSettings.Networks["home"]?.IPAMConfig?.IPv4Address, there?.NetworkSettings.Networks["home"]?.IPAddress);
});

test("what can't be kept is said", async (t) => {
  const { a } = hosts();
  for (const name of ["friend", "linked", "sharing"]) removedAfter(t, name);
  await runOn(a, "friend", {});
  await runOn(a, "linked", { HostConfig: { Links: ["friend:f"], VolumesFrom: ["friend"] } });
  await runOn(a, "sharing", { HostConfig: { NetworkMode: "container:friend", PidMode: "container:friend" } });
  const linked = await describe(a.engine, "linked");
  assert.equal(linked.floatingAddresses.length, 1);
  assert.deepEqual(
    linked.unmovable.map((why) => /container (\w+)/.exec(why)?.[1]),
    ["friend", "friend"],
  );
  const friend = (await a.engine.inspectContainer("friend")).Id.slice(0, 12);
  const sharing = await describe(a.engine, "sharing");
  assert.deepEqual(
    sharing.unmovable.map((why) => /the (.*) of container (\w+)/.exec(why)?.slice(1)),
    [
      ["network namespace", friend],
      ["PID namespace", friend],
    ],
  );
  await assert.rejects(describe(a.engine, "nobody"), { code: "CONTAINER_NOT_FOUND" });
});

test("a container whose image's name means another one on the target is made of the same image, and that is said", async (t) => {
  const { a, b } = hosts();
  removedAfter(t, "old");
  await a.engine.tagImage((await a.engine.inspectImage(FULL.name)).Id, "moved:1");
  const other = await loadImage(b.engine, { ...BASE, name: "moved:1" });
  await a.engine.createContainer("old", { Image: "moved:1" });
  const { id, warnings } = await carry(a, b, "old");
  assert.match(warnings.join("\n"), /^moved:1 is another image on the target: docker ps shows this one by its id[^\n]*$/);
  const made = await b.engine.inspectContainer(id);
  assert.notEqual(made.Image, other.id);
  assert.equal(made.Image, (await a.engine.inspectContainer("old")).Image);
});

test("a name that is taken is refused and nothing is left", async (t) => {
  const { a, b } = hosts();
  removedAfter(t, "twice");
  for (const { engine } of [a, b]) await engine.createContainer("twice", { Image: FULL.name });
  const before = (await b.engine.listContainers({ all: true })).length;
  await assert.rejects(carry(a, b, "twice"), (error) => refusalOf(error)?.status === 409 && /already in use/.test(String(error)));
  assert.equal((await b.engine.listContainers({ all: true })).length, before);
});

test("what the target's engine can't do is a warning", async (t) => {
  const { a, b } = hosts();
  removedAfter(t, "warned");
  await a.engine.createContainer("warned", { Image: FULL.name });
  const description = await describe(a.engine, "warned");
  const { warnings } = await createContainer(
    b.engine,
    { ...description, hostConfig: { ...description.hostConfig, FromTheFuture: 7 } },
    "runc",
  );
  assert.deepEqual(warnings, ["HostConfig.FromTheFuture became null instead of 7"]);
});

test("without a restart policy a container that ends stays ended, with it again it starts again", async (t) => {
  const { a } = hosts();
  removedAfter(t, "eager");
  await runOn(a, "eager", { HostConfig: { RestartPolicy: { Name: "on-failure", MaximumRetryCount: 7 } } });
  const { hostConfig } = await describe(a.engine, "eager");
  // As CRIU ends it: the engine does not know of it beforehand.
  const end = async (): Promise<void> => {
    const { State } = await a.engine.inspectContainer("eager");
    await a.host.run("kill", "-KILL", String(State.Pid));
  };
  await setRestartPolicy(a.engine, "eager", NEVER_RESTART);
  await end();
  await a.engine.awaitContainer("eager", "not-running");
  assert.partialDeepStrictEqual(await a.engine.inspectContainer("eager"), {
    State: { Running: false, Restarting: false },
    RestartCount: 0,
  });
  await a.engine.startContainer("eager");
  await setRestartPolicy(a.engine, "eager", hostConfig.RestartPolicy);
  await end();
  await until("the container to start again", async () => (await a.engine.inspectContainer("eager"))["RestartCount"] === 1);
  assert.deepEqual((await a.engine.inspectContainer("eager")).HostConfig.RestartPolicy, { Name: "on-failure", MaximumRetryCount: 7 });
});

test("a container that ended before it had its restart policy is started if that policy would have done it", async (t) => {
  const { a } = hosts();
  removedAfter(t, "ended");
  const lacked = { sinceMs: Date.now(), hasEngineEnded: false };
  const isStarted = async (policy: string): Promise<boolean> => {
    const end = await restartIfEnded(a.engine, "ended", { Name: policy, MaximumRetryCount: 0 }, lacked);
    assert.match(end ?? "", /^ended by itself meanwhile, with exit code \d/);
    return end?.includes("started again") ?? false;
  };
  await runOn(a, "ended", { Entrypoint: ["sh", "-c", "exit 0"], Cmd: [] });
  await a.engine.awaitContainer("ended", "not-running");
  assert.deepEqual([await isStarted("no"), await isStarted("on-failure")], [false, false]);
  await a.engine.removeContainer("ended", { force: true });
  await runOn(a, "ended", { Entrypoint: ["sh", "-c", "[ -e /tmp/came ] || { touch /tmp/came; exit 3; }; sleep 1000"], Cmd: [] });
  await a.engine.awaitContainer("ended", "not-running");
  assert.equal(await isStarted("on-failure"), true);
  const always = { Name: "always", MaximumRetryCount: 0 };
  assert.equal(await restartIfEnded(a.engine, "ended", always, lacked), undefined, "it runs");
  await a.host.run("docker", "kill", "ended");
  await a.engine.awaitContainer("ended", "not-running");
  assert.equal(await restartIfEnded(a.engine, "ended", always, lacked), "was stopped meanwhile");
  const end = await restartIfEnded(a.engine, "ended", always, { ...lacked, hasEngineEnded: true });
  assert.equal(end, "ended with its Docker Engine, and was started again as its restart policy says");
});

test("a container that removes itself may be discarded at any moment", async () => {
  const { a } = hosts();
  await runOn(a, "fleeting", { HostConfig: { AutoRemove: true } });
  await setRestartPolicy(a.engine, "fleeting", NEVER_RESTART);
  await setRestartPolicy(a.engine, "fleeting", (await describe(a.engine, "fleeting")).hostConfig.RestartPolicy);
  await a.host.run("docker", "kill", "fleeting");
  await Promise.all(Array.from({ length: 4 }, () => discardContainer(a.engine, "fleeting", { volumes: true })));
  await assert.rejects(describe(a.engine, "fleeting"), { code: "CONTAINER_NOT_FOUND" });
});

test("a volume that was made for one container alone is the same volume on the target, and goes with the container", async () => {
  const { a, b } = hosts();
  await a.engine.createContainer("alone", { Image: FULL.name, HostConfig: { Binds: ["kept:/kept"] } });
  const { volumes } = await describe(a.engine, "alone");
  assert.deepEqual(Object.fromEntries(volumes.map(({ destination, anonymous }) => [destination, anonymous])), {
    "/image-volume": true,
    "/kept": false,
  });
  await carry(a, b, "alone");
  const here = await describe(b.engine, "alone");
  assert.deepEqual(here.volumes.map(({ name }) => name).toSorted(), volumes.map(({ name }) => name).toSorted());
  for (const { engine } of [a, b]) {
    await discardContainer(engine, "alone", { volumes: true });
    for (const { name, destination } of volumes) {
      if (destination === "/kept") await engine.removeVolume(name);
      else await assert.rejects(engine.inspectVolume(name), isNotFound);
    }
  }
});

test("a network or volume that is another one in spite of its name is refused with the difference and the remedy", async (t) => {
  const { a, b } = hosts();
  removedAfter(t, "different");
  await b.engine.createNetwork({ Name: "net", Internal: true, IPAM: { Config: [{ Subnet: "10.92.0.0/24", Gateway: "10.92.0.9" }] } });
  await a.engine.createNetwork({ Name: "net", IPAM: { Config: [{ Subnet: "10.93.0.0/24" }] } });
  t.after(() => Promise.all([a, b].map(({ engine }) => engine.removeNetwork("net"))));
  await b.engine.createVolume({ Name: "vol", DriverOpts: { type: "tmpfs", device: "tmpfs" } });
  t.after(() => Promise.all([a, b].map(({ engine }) => engine.removeVolume("vol"))));
  await a.engine.createContainer("different", { Image: FULL.name, HostConfig: { NetworkMode: "net", Binds: ["vol:/vol"] } });
  const { networks, volumes } = await describe(a.engine, "different");
  for (const network of networks) {
    await assert.rejects(ensureNetwork(b.engine, network), {
      code: "NETWORK",
      message:
        /internal is true instead of false, subnets is 10\.92\.0\.0\/24 instead of 10\.93\.0\.0\/24; remove it \(`docker network rm net`\)/,
    });
  }
  for (const volume of volumes.filter(({ anonymous }) => !anonymous)) {
    await assert.rejects(ensureVolume(b.engine, volume), {
      code: "ROOTFS",
      message: /option type is tmpfs instead of not set.*`docker volume rm vol`/,
    });
  }
});

test("a container that was asked for when its agent ended is found by name, unless it was started or has another runtime", async (t) => {
  const { b } = hosts();
  const journal = Journal.open(temporaryDirectory(t));
  t.after(() => journal[Symbol.dispose]());
  const id = newMigrationId(1n);
  journal.begin({ id, role: "target", container: "asked", containerId: containerId("c".repeat(64)), peer: hostName("a"), detail: {} });
  const undo = async (): Promise<boolean> => {
    const made = new Made(journal, id);
    made.expectContainer("asked");
    await made.undo(b.engine);
    return (await b.engine.listContainers({ all: true })).every(({ Names }) => !Names.includes("/asked"));
  };
  assert.equal(await undo(), true);
  for (const [Runtime, isStarted, isRemoved] of [
    ["dmigrate", false, true],
    ["runc", false, false],
    ["dmigrate", true, false],
  ] as const) {
    const { Id } = await b.engine.createContainer("asked", { Image: FULL.name, HostConfig: { Runtime } });
    if (isStarted) await b.engine.startContainer(Id);
    assert.equal(await undo(), isRemoved, `${Runtime}, started: ${isStarted}`);
    if (!isRemoved) await b.engine.removeContainer(Id, { force: true, volumes: true });
  }
});
