/**
 * Checks of the two hosts: whether both have what a migration needs, and whether they are enough alike.
 */
import { blocker, nameOf, type Check, type Subject } from "./preflight-check.ts";
import type { CriuFeature, HostFacts, IdMap } from "./preflight-facts.ts";

/**
 * CRIU reads the page pipes of a lazy dump through one pipe of this size, and fails where it may not be made
 * (criu/include/page-pipe.h, PIPE_MAX_SIZE, rounded up by the kernel to a power of two).
 */
export const CRIU_PIPE_BYTES: number = 4 * 1024 * 1024;

const OVERLAY_DRIVERS = new Set(["overlay2", "overlayfs"]);

/** The runtime that holds a container until its images are there. */
export const RUNTIME = "dmigrate";

export const hostChecks = {
  criu: {
    passed: (s) => `CRIU works on ${s.source.host} and ${s.target.host}`,
    *find(s) {
      for (const { host, kernel, criu } of [s.source, s.target]) {
        if (criu.works) continue;
        yield blocker(
          `CRIU does not work on ${host} (kernel ${kernel}): ${criu.reason}`,
          `install a CRIU that works with this kernel on ${host}, then try \`criu check\` there`,
          host,
        );
      }
    },
  },
  "criu-dump": {
    passed: ({ source: { host, criu } }) => (criu.works ? `CRIU on ${host} dumped a process with a socket` : undefined),
    *find({ source: { host, kernel, criu, criuDump } }) {
      if (!criu.works || criuDump.works) return;
      yield blocker(
        `CRIU ${criu.version} on ${host} can't dump a process with a socket under kernel ${kernel}: ${criuDump.reason}`,
        `install a newer CRIU on ${host}; those before 4.2 can't do it under Linux 6.16 or later`,
        host,
      );
    },
  },
  "lazy-pages": {
    passed: ({ target: { host, criu } }) => (criu.works ? `CRIU on ${host} restores memory on demand` : undefined),
    *find({ target }) {
      if (!target.criu.works) return;
      const missing = missingFeatures(target, ["uffd", "uffd-noncoop"]);
      if (missing.length === 0) return;
      yield blocker(
        `CRIU on ${target.host} can't restore memory on demand: \`criu check --feature\` denies ${missing.join(" and ")}`,
        `run a kernel with CONFIG_USERFAULTFD and a CRIU built with it on ${target.host}`,
        target.host,
      );
    },
  },
  "page-handler": {
    passed: ({ target: { host }, mode }) => `The agent of ${host} has memory come as mode ${mode} wants it`,
    *find({ target: { host, pageHandler }, mode }) {
      if (pageHandler === "own" || mode !== "pre-copy") return;
      yield blocker(
        `Mode pre-copy keeps memory on ${host} that is copied ahead, but the agent of ${host} leaves restored memory to ` +
          "`criu lazy-pages` (--page-handler criu), which has no use for that: all of it would cross again in the downtime",
        `start the agent of ${host} without --page-handler criu, or use another mode`,
        host,
      );
    },
  },
  runc: {
    passed: (s) => `runc on ${s.source.host} and ${s.target.host} knows lazy pages`,
    *find(s) {
      for (const { host, runc } of [s.source, s.target]) {
        if (!runc.works) yield blocker(`runc can't be used on ${host}: ${runc.reason}`, `install runc on ${host}`, host);
      }
    },
  },
  "return-path": {
    passed: (s) => `The agent of ${s.target.host} reaches the one of ${s.source.host}`,
    *find({ source, target: { host, returnPath } }) {
      if (returnPath?.works !== false) return;
      yield blocker(
        `The agent of ${host} does not reach the one of ${source.host}: ${returnPath.reason}`,
        `if ${source.host} has another address by now, \`dmigrate hosts remove ${source.host}\`, then add it with that (the host of ` +
          "`dmigrate init` goes last, and begins anew with it)",
        host,
      );
    },
  },
  docker: {
    passed: (s) => `Docker Engine answers on ${s.source.host} and ${s.target.host}`,
    *find(s) {
      for (const { host, docker } of [s.source, s.target]) {
        if (docker.reachable) continue;
        yield blocker(
          `Docker Engine on ${host} does not answer: ${docker.reason}`,
          `start it (\`systemctl start docker\`), or tell the agent on ${host} where its socket is`,
          host,
        );
      }
    },
  },
  storage: {
    passed: (s) => (bothAnswer(s) ? `Containers lie on overlayfs on ${s.source.host} and ${s.target.host}` : undefined),
    *find(s) {
      for (const { host, docker } of [s.source, s.target]) {
        if (!docker.reachable || OVERLAY_DRIVERS.has(docker.storageDriver)) continue;
        yield blocker(
          `Docker Engine on ${host} stores containers with ${docker.storageDriver}, whose writable layer can't be moved`,
          `set "storage-driver": "overlay2" in /etc/docker/daemon.json on ${host} and restart Docker`,
          host,
        );
      }
    },
  },
  runtime: {
    passed: (s) => (bothAnswer(s) ? `Docker Engine on ${s.target.host} knows the runtime ${RUNTIME}` : undefined),
    *find({ target: { host, docker, runtimePath } }) {
      if (!docker.reachable || docker.runtime?.works === true) return;
      const path = `"runtimes": {"${RUNTIME}": {"path": "${runtimePath}"}}`;
      const [problem, put] =
        docker.runtime === undefined
          ? [`does not know the runtime ${RUNTIME}`, `add ${path} to`]
          : [
              `has another program as its runtime ${RUNTIME}, which would start the container anew: ${docker.runtime.reason}`,
              `have ${path} in`,
            ];
      yield blocker(
        `Docker Engine on ${host} ${problem}`,
        `${put} /etc/docker/daemon.json on ${host}, then \`systemctl reload docker\``,
        host,
      );
    },
  },
  quarantine: {
    passed: (s) => `The kernels of ${s.source.host} and ${s.target.host} can silence a network`,
    *find(s) {
      for (const { host, quarantine } of [s.source, s.target]) {
        if (quarantine.works) continue;
        yield blocker(
          `The kernel of ${host} can't silence a container's network: ${quarantine.reason}`,
          `load nf_tables with the families inet, arp and netdev on ${host}`,
          host,
        );
      }
    },
  },
  "pipe-size": {
    passed: (s) => `CRIU may make the pipes it needs on ${s.source.host}`,
    *find({ source: { host, hasSysResource, pipeMaxBytes } }) {
      if (hasSysResource || pipeMaxBytes >= CRIU_PIPE_BYTES) return;
      yield blocker(
        `CRIU on ${host} needs pipes of ${CRIU_PIPE_BYTES} bytes; fs.pipe-max-size allows ${pipeMaxBytes}, ` +
          "and the agent lacks CAP_SYS_RESOURCE to exceed it",
        `run \`sysctl -w fs.pipe-max-size=${CRIU_PIPE_BYTES}\` on ${host}`,
        host,
      );
    },
  },
  "user-ids": {
    passed: (s) => `The agent on ${s.source.host} may dump processes of every user and group in the container`,
    *find({ source: { host, hasSysResource }, container }) {
      if (hasSysResource) return;
      const other = container.processes.find(({ foreignId }) => foreignId !== "");
      if (other === undefined) return;
      yield blocker(
        `${nameOf(other)} runs as ${other.foreignId}, which CRIU can't dump without CAP_SYS_RESOURCE; the agent on ${host} lacks it`,
        "give the agent CAP_SYS_RESOURCE",
        host,
      );
    },
  },
  architecture: {
    passed: (s) => `Both hosts are ${s.target.architecture}`,
    *find({ source, target }) {
      if (source.architecture === target.architecture) return;
      yield blocker(
        `${target.host} is ${target.architecture}, but ${source.host} is ${source.architecture}: running programs can't change it`,
        `choose a target that is ${source.architecture}`,
        target.host,
      );
    },
  },
  "cpu-features": {
    passed: (s) => `The CPU of ${s.target.host} has every instruction that the one of ${s.source.host} has`,
    *find({ source, target }) {
      if (source.architecture !== target.architecture) return;
      const has = new Set(target.cpuFlags);
      const missing = source.cpuFlags.filter((flag) => isInstructionSet(flag, source.architecture) && !has.has(flag));
      if (missing.length === 0) return;
      yield blocker(
        `The CPU of ${target.host} lacks ${missing.join(", ")}, which running programs may have found on ${source.host} and rely on`,
        "choose a target with the same CPU or a newer one; give virtual machines the same CPU model",
        target.host,
      );
    },
  },
  cgroups: {
    passed: (s) => (bothAnswer(s) ? "Both hosts keep containers in cgroups of the same version" : undefined),
    *find({ source, target }) {
      if (!source.docker.reachable || !target.docker.reachable) return;
      const [here, there] = [source.docker.cgroupVersion, target.docker.cgroupVersion];
      if (here === there) return;
      yield blocker(
        `${target.host} uses cgroup v${there} and ${source.host} cgroup v${here}: the container's cgroup mounts can't be restored`,
        `boot both hosts with the same cgroup version (kernel parameter systemd.unified_cgroup_hierarchy)`,
        target.host,
      );
    },
  },
  "security-modules": {
    passed: (s) => (bothAnswer(s) ? "Both hosts confine containers with the same security modules" : undefined),
    *find({ source, target }) {
      if (!source.docker.reachable || !target.docker.reachable) return;
      const [here, there] = [source.docker.securityModules, target.docker.securityModules];
      if (here.toSorted().join() === there.toSorted().join()) return;
      yield blocker(
        `${source.host} confines containers with ${here.join(" and ") || "no security module"}, ` +
          `${target.host} with ${there.join(" and ") || "none"}: labels of running processes can't be restored`,
        "enable the same security modules on both hosts",
        target.host,
      );
    },
  },
  "id-map": {
    passed: (s) => (bothAnswer(s) ? `The container's user ids are the host's, here and on ${s.target.host}` : undefined),
    *find({ source, target, container: { needs } }) {
      if (needs.idMap !== undefined) {
        yield blocker(
          `The container's root is ${describeIdMap(needs.idMap)} on ${source.host}: the kernel lets nobody but the host's own root have ` +
            "pages that follow a running process (fs/userfaultfd.c)",
          "run it with --userns=host",
          source.host,
        );
      } else if (!needs.hasHostIds && target.docker.reachable && target.docker.idMap !== undefined) {
        yield blocker(
          `The container's root is ${describeIdMap(needs.idMap)} on ${source.host}, ` +
            `but would be ${describeIdMap(target.docker.idMap)} on ${target.host}`,
          `run it with --userns=host, or take "userns-remap" out of /etc/docker/daemon.json on ${target.host}`,
          target.host,
        );
      }
    },
  },
} as const satisfies Record<string, Check>;

/** Those of `features` that the host's CRIU does not have. */
export function missingFeatures(host: HostFacts, features: readonly CriuFeature[]): CriuFeature[] {
  return features.filter((feature) => !host.criuFeatures.includes(feature));
}

/**
 * Whether a flag of /proc/cpuinfo is something that programs can use, rather than what only kernels see. On x86 the two are
 * mixed (arch/x86/include/asm/cpufeatures.h); elsewhere the line holds what the kernel tells programs (elf_hwcaps).
 */
function isInstructionSet(flag: string, architecture: string): boolean {
  return architecture !== "x86_64" || X86_INSTRUCTION_SETS.test(flag);
}

const X86_INSTRUCTION_SETS = new RegExp(
  `^(${[
    "fpu|cx8|cx16|cmov|mmx|mmxext|fxsr|fxsr_opt|clflush|clflushopt|clwb|clzero|cldemote|lm|la57|lahf_lm",
    "sse.*|ssse3|pni|misalignsse|3dnow.*|avx.*|amx.*|fma|fma4|f16c|xop|tbm|lwp|bmi1|bmi2|abm|adx|popcnt|movbe",
    "aes|vaes|pclmulqdq|vpclmulqdq|gfni|sha.*|sm3|sm4|crc32.*|rdtscp|rdrand|rdseed|rdpid|rdpru|fsgsbase|erms|fsrm|fsrs|fzrm|fsrc",
    "rtm|hle|mpx|pku|ospke|user_shstk|xsave.*|xgetbv1|serialize|tsxldtrk|waitpkg|monitorx|mwaitx|movdiri|movdir64b|enqcmd",
    "cmpccxadd|raoint|apx",
  ].join("|")})$`,
);

function describeIdMap(map: IdMap | undefined): string {
  return map === undefined ? "user 0, group 0" : `user ${map.firstUid}, group ${map.firstGid}`;
}

function bothAnswer({ source, target }: Subject): boolean {
  return source.docker.reachable && target.docker.reachable;
}
