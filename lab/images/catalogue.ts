/**
 * The lab's images. All share a base of busybox and the C library.
 */
import { execFileSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { POSTGRES_CLUSTER } from "../setup.ts";
import type { Entry } from "./entries.ts";
import type { ImageSpec, LayerSpec } from "./image.ts";

const PATH = "PATH=/usr/local/bin:/usr/bin";

const folder = (mode = 0o755): Entry => ({ kind: "folder", mode });
const link = (target: string): Entry => ({ kind: "link", target });
const text = (content: string, mode = 0o644): Entry => ({ kind: "file", mode, content: Buffer.from(content) });

/** A shell and the usual commands; runs a shell. */
export function busyboxImage(rootDir: string): ImageSpec {
  return {
    name: "dmigrate/busybox:latest",
    layers: [baseLayer(rootDir)],
    config: { Env: [PATH], Cmd: ["sh"] },
  };
}

/**
 * Redis without persistence: all its data lies in memory. It listens on every address, allows DEBUG (whose DIGEST shows
 * that nothing changed), and takes further options of redis-server as its command.
 */
export function redisImage(rootDir: string): ImageSpec {
  const config = ["bind * -::*", "protected-mode no", 'save ""', "appendonly no", "enable-debug-command yes", "dir /data"];
  return {
    name: "dmigrate/redis:latest",
    layers: [
      baseLayer(rootDir),
      { comment: "redis", fromRoot: ["usr/bin/redis-server", "usr/bin/redis-cli"] },
      {
        comment: "redis' configuration",
        entries: { "etc/redis": folder(), "etc/redis/redis.conf": text(config.join("\n").concat("\n")), data: folder(0o777) },
      },
    ],
    config: {
      Env: [PATH],
      Entrypoint: ["redis-server", "/etc/redis/redis.conf"],
      WorkingDir: "/data",
      ExposedPorts: { "6379/tcp": {} },
    },
  };
}

/**
 * The workloads that check themselves (lab/workloads/self-checking): the command names one, followed by its arguments;
 * `check`, run in the container, tells whether all is well.
 */
export function workloadsImage(rootDir: string): ImageSpec {
  return {
    name: "dmigrate/workloads:latest",
    layers: [baseLayer(rootDir), PYTHON, workloadsLayer()],
    config: {
      Env: [PATH, "PYTHONDONTWRITEBYTECODE=1"],
      Entrypoint: ["run"],
      Cmd: ["memory"],
      WorkingDir: "/data",
      // Python as process 1 ignores SIGTERM, and there is nothing to tidy up.
      StopSignal: "SIGKILL",
    },
  };
}

/** As which user and group PostgreSQL believes to run. */
const POSTGRES_ID = 999;

/**
 * PostgreSQL, of a root file system of its own (`ensurePostgresRoot`), with its data on a disk of the container; takes further options of
 * postgres as its command. Everybody on the network is its superuser `postgres`.
 *
 * It refuses to run as root, and CRIU can dump tasks of other users only with CAP_SYS_RESOURCE, which a lab may lack: so it runs as root,
 * and a wrapper of the C library's calls tells it otherwise.
 */
export function postgresImage(rootDir: string): ImageSpec {
  const ids = ["RUID", "EUID", "SUID", "RGID", "EGID", "SGID"].map((id) => `UID_WRAPPER_INITIAL_${id}=${POSTGRES_ID}`);
  const start = [
    "#!/bin/sh",
    "set -eu",
    `chown ${POSTGRES_ID} "$PGDATA"`,
    `export LD_PRELOAD=libuid_wrapper.so UID_WRAPPER=1 ${ids.join(" ")}`,
    `export UID_WRAPPER_INITIAL_GROUPS=${POSTGRES_ID} UID_WRAPPER_INITIAL_GROUPS_COUNT=1`,
    'exec postgres -c "listen_addresses=*" "$@"',
  ];
  return {
    name: "dmigrate/postgres:latest",
    layers: [
      baseLayer(rootDir),
      {
        comment: "postgresql",
        fromRoot: [
          "usr/lib/postgresql/17/bin/postgres",
          "usr/lib/postgresql/17/lib/{dict_snowball,pg_prewarm,plpgsql}.so",
          "usr/share/postgresql/17/**",
          "usr/share/zoneinfo/**",
          "usr/lib/*/libuid_wrapper.so",
        ],
        entries: {
          "usr/local/bin/start": text(start.join("\n").concat("\n"), 0o755),
          "var/run": link("/run"),
          "run/postgresql": folder(0o777),
        },
      },
      { comment: "a database cluster", fromRoot: [`${POSTGRES_CLUSTER.slice(1)}/**`] },
    ],
    config: {
      Env: [`${PATH}:/usr/lib/postgresql/17/bin`, `PGDATA=${POSTGRES_CLUSTER}`],
      Entrypoint: ["start"],
      ExposedPorts: { "5432/tcp": {} },
      StopSignal: "SIGINT",
    },
  };
}

/** Python with what its package python3-minimal holds, and ctypes, mmap and sqlite3, which libpython3-stdlib adds. */
const PYTHON: LayerSpec = {
  comment: "python",
  fromRoot: [
    "usr/bin/python3",
    "usr/lib/python3.*/*.py",
    "usr/lib/python3.*/{collections,ctypes,encodings,importlib,json,re,sqlite3}/**/*.py",
    "usr/lib/python3.*/lib-dynload/{mmap,_ctypes,_sqlite3}.*.so",
  ],
};

/** All of them, by the name that follows `dmigrate/`. */
export const IMAGES = { busybox: busyboxImage, postgres: postgresImage, redis: redisImage, workloads: workloadsImage } as const;

const WORKLOADS_DIR = fileURLToPath(new URL("../workloads/self-checking/", import.meta.url));
/** Parts of the workloads' folder that are no workloads. */
const HELPERS: readonly string[] = ["health.py", "check.py"];

/** Names of all workloads that check themselves. */
export function workloadNames(): string[] {
  const programs = readdirSync(WORKLOADS_DIR).filter((file) => file.endsWith(".py") && !HELPERS.includes(file));
  return programs.map((file) => path.basename(file, ".py")).toSorted();
}

function workloadsLayer(): LayerSpec {
  const files = [...HELPERS, ...workloadNames().map((name) => `${name}.py`)];
  const program = (file: string): Entry => text(readFileSync(path.join(WORKLOADS_DIR, file), "utf8"), 0o755);
  const run = text(
    '#!/bin/sh\n# Runs the workload that the first argument names.\nname=$1\nshift\nexec python3 "/opt/workloads/$name.py" "$@"\n',
    0o755,
  );
  return {
    comment: "workloads that check themselves",
    entries: {
      "opt/workloads": folder(),
      ...Object.fromEntries(files.map((file) => [`opt/workloads/${file}`, program(file)])),
      "usr/local/bin/run": run,
      "usr/local/bin/check": link("/opt/workloads/check.py"),
      data: folder(0o777),
    },
  };
}

function baseLayer(rootDir: string): LayerSpec {
  const busybox = path.join(rootDir, "usr/bin/busybox");
  const applets = execFileSync(busybox, ["--list"], { encoding: "utf8" }).trim().split("\n");
  return {
    comment: "busybox and the C library",
    fromRoot: ["bin", "sbin", "lib", "usr/bin/busybox", "usr/bin/dash"],
    entries: {
      ...Object.fromEntries(applets.filter((name) => name !== "busybox").map((name) => [`usr/bin/${name}`, link("busybox")])),
      etc: folder(),
      "etc/passwd": text("root:x:0:0:root:/root:/bin/sh\nredis:x:999:999:redis:/data:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"),
      "etc/group": text("root:x:0:\nredis:x:999:\nnogroup:x:65534:\n"),
      opt: folder(),
      root: folder(0o700),
      run: folder(),
      tmp: folder(0o1777),
      "usr/local": folder(),
      "usr/local/bin": folder(),
      var: folder(),
      "var/tmp": folder(0o1777),
    },
  };
}
