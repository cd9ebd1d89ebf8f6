/**
 * Everything a container was created with is in force on the target: as its engine shows it, as its processes find it, and in what the
 * engine does for it from then on.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { busyboxImage } from "../../lab/images/catalogue.ts";
import { until, type Host } from "../../lab/host.ts";
import { CLIENT, type Lab } from "../../lab/lab.ts";
import { differences } from "../../src/docker/create.ts";
import { assertClean, labOfTwo, migrate, provideImage } from "../support/lab.ts";

let lab: Lab;
let a: Host;
let b: Host;

const STOP_CODE = 7;
const PORT = 8080;
/** Answers at port 80 with what lies in a tmpfs, prints a number now and then, and ends in its own way when asked to. */
const PROGRAM = [
  `trap 'exit ${STOP_CODE}' USR1`,
  "umask 027",
  "echo content > /scratch/index.html",
  "httpd -p 80 -h /scratch",
  'number=0; while :; do echo "$number"; number=$((number+1)); sleep 0.05; done',
].join("\n");

const OPTIONS = [
  ...["--network", "name=front,ip=10.50.0.9,alias=www", "--network", "name=wide,mac-address=02:42:0a:4d:00:d2"],
  ...["--publish", `${PORT}:80`, "--hostname", "box"],
  ...["--env", "A=b", "--env", "SPACED=a b", "--env", "EMPTY=", "--label", "purpose=test", "--group-add", "2000", "--workdir", "/var/tmp"],
  ...[
    "--memory",
    "200m",
    "--memory-reservation",
    "100m",
    "--cpus",
    "1.5",
    "--cpu-shares",
    "512",
    "--cpuset-cpus",
    "0",
    "--pids-limit",
    "100",
  ],
  ...[
    "--ulimit",
    "nofile=1234:2345",
    "--ulimit",
    "fsize=9007199254740993",
    "--ulimit",
    "core=0",
    "--cap-drop",
    "ALL",
    "--cap-add",
    "NET_BIND_SERVICE",
    "--cap-add",
    "KILL",
  ],
  ...["--security-opt", "no-new-privileges", "--oom-score-adj", "300", "--shm-size", "32m", "--tmpfs", "/scratch:size=16m,mode=1770"],
  ...["--sysctl", "net.ipv4.ip_unprivileged_port_start=70", "--sysctl", "net.core.somaxconn=200", "--sysctl", "kernel.msgmax=9999"],
  ...["--add-host", "some:192.0.2.4", "--dns", "192.0.2.53", "--init", "--read-only", "--volume", "/etc/hostname:/given:ro"],
  ...["--restart", "on-failure:5", "--stop-signal", "USR1", "--stop-timeout", "20", "--log-driver", "local", "--log-opt", "max-size=1m"],
  ...["--health-cmd", "test -e /scratch/index.html", "--health-interval", "1s", "--health-retries", "3"],
];

before(async () => {
  lab = await labOfTwo("tctx");
  [a, b] = [lab.host("a"), lab.host("b")];
  await a.run("docker", "network", "create", "--subnet", "10.50.0.0/24", "front");
  await a.run("docker", "network", "create", "--ipv6", "--subnet", "fd50::/64", "--label", "purpose=test", "wide");
  const image = await provideImage(a, busyboxImage);
  await a.run("docker", "run", "--detach", "--name", "full", ...OPTIONS, image, "sh", "-c", PROGRAM);
  await until("the container to be healthy", async () => (await health(a)).Status === "healthy");
  await a.run("docker", "exec", "full", "sh", "-c", "while ip -6 address | grep -q tentative; do sleep 0.1; done");
});
after(() => lab.down());

/** What differs from one host to another though it is the same container. */
const OF_THE_HOST: readonly RegExp[] = [
  /^(Id|Created|(ResolvConf|Hostname|Hosts|Log)Path|GraphDriver\.\S+|HostConfig\.Runtime) became/,
  /^State\.(Pid|StartedAt|Health\.Log) became/,
  /^ExecIDs became/, // a check of its health under way
  /^Config\.MacAddress became/, // a copy, for old clients, of what the endpoint has
  /^NetworkSettings\.(Sandbox(ID|Key)|Networks\.\w+\.(NetworkID|EndpointID|DNSNames)) became/,
  /^NetworkSettings\.Networks\.\w+\.IPAMConfig became/, // an address that the engine chose is one that was asked for now
];

async function inspect(host: Host): Promise<unknown> {
  return (JSON.parse(await host.run("docker", "inspect", "full")) as unknown[])[0];
}

/** What the container's own processes find. */
const FACTS = String.raw`
  cd /proc/1
  grep -E '^(Cap|Seccomp|NoNewPrivs|Uid|Gid|Groups)' status; cat limits oom_score_adj environ cmdline; readlink cwd; hostname
  for each in $(pidof httpd); do cat /proc/$each/oom_score_adj; grep Umask /proc/$each/status; done
  sort /etc/hosts; cat /etc/resolv.conf /given; ls -i /dev/null /proc/keys | cut -d/ -f1 | sort -u | wc -l
  cut -d' ' -f4- mountinfo | sed -E 's|[0-9a-f]{64}|ID|g; s|^/\S*/containers/ID/||; s/,?(lower|upper|work)dir=[^ ,]+//g' |
    sed -E 's/(master|shared):[0-9]+/\1/' | sort -k2
  ip -o address | cut -d' ' -f2- | sort; ip route; ip -o link show eth1 | grep -o 'link/.*'
  cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax; ls -lan /scratch
  cd /sys/fs/cgroup
  for each in memory.max memory.low cpu.max cpu.weight cpuset.cpus pids.max \
    memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes cpu/cpu.shares cpu/cpu.cfs_quota_us cpuset/cpuset.cpus pids/pids.max
  do if [ -e $each ]; then echo $each $(cat $each); fi; done
`;

async function facts(host: Host): Promise<string[]> {
  return (await host.run("docker", "exec", "full", "sh", "-c", FACTS)).replaceAll("\0", "\n").split("\n");
}

async function health(host: Host): Promise<{ Status: string; Log: { Start: string }[] }> {
  return JSON.parse(await host.run("docker", "inspect", "--format", "{{json .State.Health}}", "full"));
}

test("what it was created with is in force on the target, and nothing else", async () => {
  const [shown, found] = [await inspect(a), await facts(a)];
  const { code, outcome, message } = await migrate(a, "full", "b");
  assert.deepEqual([code, outcome], [0, "completed"], message);
  await assertClean(a, "full");
  assert.deepEqual(await facts(b), found);
  await until("the container to be healthy", async () => (await health(b)).Status === "healthy");
  assert.deepEqual(
    differences(shown, await inspect(b)).filter((line) => !OF_THE_HOST.some((pattern) => pattern.test(line))),
    [],
  );
});

test("the target's engine names it, publishes its port and looks after its health", async () => {
  const fetched = "import urllib.request; print(urllib.request.urlopen('http://%s/', timeout=5).read().decode())";
  assert.equal((await lab.host(CLIENT).run("python3", "-c", fetched.replace("%s", `${b.address}:${PORT}`))).trim(), "content");
  const image = await provideImage(b, busyboxImage);
  assert.match(await b.run("docker", "run", "--rm", "--network", "front", image, "nslookup", "www"), /Address: 10\.50\.0\.9/);
  const latest = async (): Promise<string | undefined> => (await health(b)).Log.at(-1)?.Start; // the engine keeps five
  const seen = await latest();
  await until("its health to be examined again", async () => (await latest()) !== seen);
});

test("every line that it printed is in its log, once", async () => {
  const lines = (await b.run("docker", "logs", "full")).trim().split("\n");
  assert.deepEqual(lines, [...lines.keys()].map(String));
});

test("its restart policy holds, and it ends as it was told to", async () => {
  await b.run("sh", "-c", `kill -KILL $(docker inspect --format '{{.State.Pid}}' full)`);
  const restarts = async (): Promise<string> =>
    (await b.run("docker", "inspect", "--format", "{{.RestartCount}} {{.State.Status}}", "full")).trim();
  await until("the engine to start it again", async () => (await restarts()) === "1 running");
  await b.run("docker", "exec", "full", "sh", "-c", "until [ -e /scratch/index.html ]; do sleep 0.1; done");
  await b.run("docker", "stop", "full");
  assert.equal((await b.run("docker", "inspect", "--format", "{{.State.ExitCode}}", "full")).trim(), String(STOP_CODE));
});

test("a read-only root without /tmp is the same on the target", async () => {
  const image = await provideImage(a, busyboxImage);
  await a.run("sh", "-c", `docker export $(docker create ${image}) | tar --delete tmp | docker import - bare:1`);
  await a.run("docker", "run", "--detach", "--name", "bare", "--network", "none", "--read-only", "bare:1", "sleep", "1000");
  const { outcome, message } = await migrate(a, "bare", "b");
  assert.equal(outcome, "completed", message);
  assert.doesNotMatch(await b.run("docker", "exec", "bare", "ls", "/"), /tmp/);
  assert.equal(await b.run("docker", "diff", "bare"), "");
});

/** Ends as soon as it runs somewhere else: it knows by a file that lies on the source alone. */
const IMPATIENT = "while [ -e /source/here ]; do :; done; exit 3";

test("a container that ends as soon as it runs on the target is started there again, if that is its policy", async () => {
  await a.run("sh", "-c", "mkdir /source && touch /source/here");
  await b.run("mkdir", "/source");
  const image = await provideImage(a, busyboxImage);
  const options = ["--restart", "always", "--network", "front", "--volume", "/source:/source"];
  await a.run("docker", "run", "--detach", "--name", "impatient", ...options, image, "sh", "-c", IMPATIENT);
  const { outcome } = await migrate(a, "impatient", "b");
  assert.equal(outcome, "completed");
  await b.run("touch", "/source/here");
  const running = async (): Promise<string> => (await b.run("docker", "inspect", "--format", "{{.State.Running}}", "impatient")).trim();
  await until("it to run", async () => (await running()) === "true");
  await assertClean(a, "impatient");
});
