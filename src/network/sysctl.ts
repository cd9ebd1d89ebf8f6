/**
 * Kernel parameters of a network namespace (sysctl(8), below /proc/sys/net).
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { DmigrateError, messageOf } from "../core/errors.ts";
import type { NetworkNamespace } from "../kernel/netns.ts";
import { interfacesOf, type Interface } from "./interfaces.ts";

const ROOT = "/proc/sys";

/**
 * Sets parameters of a network namespace.
 * @param parameters values by name: with dots like `net.core.somaxconn`, or with slashes where a part of it has dots
 * Throws NETWORK if there is no such parameter, or it can't have that value.
 */
export function setSysctls(namespace: NetworkNamespace, parameters: Readonly<Record<string, string>>): void {
  namespace.run(() => {
    for (const [name, value] of Object.entries(parameters)) {
      const file = path.join(ROOT, name.includes("/") ? name : name.replaceAll(".", "/"));
      if (!file.startsWith(`${ROOT}/net/`))
        throw new DmigrateError("NETWORK", `${name} is no parameter of a network; report this as a bug`);
      try {
        writeFileSync(file, value);
      } catch (error) {
        throw new DmigrateError(
          "NETWORK",
          `Kernel parameter ${name} of the container's network can't be ${JSON.stringify(value)} on this host (${messageOf(error)}); ` +
            "choose another target, or create the container without it",
          error,
        );
      }
    }
  });
}

const IPV6 = `${ROOT}/net/ipv6/conf`;

/** How long the kernel may take to give an interface its address, once something is at the other end. */
const LINK_LOCAL_LIMIT_MS = 2000;
const LINK_LOCAL_POLL_MS = 5;
/** Value of addr_gen_mode: the kernel gives no address by itself (`IN6_ADDR_GEN_MODE_NONE`, <linux/if_link.h>). */
const GIVES_NONE = "1";

/**
 * Lets IPv6 addresses be used as soon as they come into the namespace, until disposed of: for those that have been somebody's all along.
 * Looking for duplicates would take a second, and find their own announcement where a switch sends it back (RFC 4862 5.4), or whoever
 * still has them. Disposing of it waits for those that the kernel gives interfaces a while after they are up (`addrconf_dev_config`).
 */
export function trustNewAddresses(namespace: NetworkNamespace): AsyncDisposable {
  return namespace.run(() => {
    if (!existsSync(IPV6)) return { [Symbol.asyncDispose]: () => Promise.resolve() };
    const before = readFileSync(path.join(IPV6, "default/accept_dad"), "utf8");
    setDuplicateDetection(["default"], "0");
    const restore = (): void => setDuplicateDetection(readdirSync(IPV6).filter(isSingle), before);
    return {
      async [Symbol.asyncDispose]() {
        const deadline = performance.now() + LINK_LOCAL_LIMIT_MS;
        while (namespace.run(() => interfacesOf(namespace).some(lacksLinkLocal)) && performance.now() < deadline)
          await sleep(LINK_LOCAL_POLL_MS);
        namespace.run(restore);
      },
    };
  });
}

/** Whether the kernel has yet to give it an address. To be asked in its namespace. */
function lacksLinkLocal({ name, hasCarrier, mac, addresses }: Interface): boolean {
  if (!hasCarrier || mac === undefined || addresses.some(isLinkLocal)) return false;
  const parameter = (what: string): string => readFileSync(path.join(IPV6, name, what), "utf8").trim();
  return parameter("disable_ipv6") === "0" && parameter("addr_gen_mode") !== GIVES_NONE;
}

/** fe80::/10 */
function isLinkLocal(address: Uint8Array): boolean {
  return address.length === 16 && address[0] === 0xfe && ((address[1] ?? 0) & 0xc0) === 0x80;
}

function setDuplicateDetection(interfaceNames: readonly string[], value: string): void {
  for (const name of interfaceNames) writeFileSync(path.join(IPV6, name, "accept_dad"), value);
}

/** Whether it is a single interface's name, or `default`. */
function isSingle(name: string): boolean {
  return name !== "all";
}
