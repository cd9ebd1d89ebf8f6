/**
 * Kernel parameters of a network namespace (sysctl(8), below /proc/sys/net).
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { DmigrateError, messageOf } from "../core/errors.ts";
import type { NetworkNamespace } from "../kernel/netns.ts";

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

/**
 * Lets IPv6 addresses be used as soon as they come into the namespace, until disposed of: for those that have been somebody's all along.
 * Looking for duplicates would take a second, and find their own announcement where a switch sends it back (RFC 4862 5.4).
 */
export function trustNewAddresses(namespace: NetworkNamespace): Disposable {
  return namespace.run(() => {
    if (!existsSync(IPV6)) return { [Symbol.dispose]: () => {} };
    const before = readFileSync(path.join(IPV6, "default/accept_dad"), "utf8");
    setDuplicateDetection(["default"], "0");
    const restore = (): void => setDuplicateDetection(readdirSync(IPV6).filter(isSingle), before);
    return { [Symbol.dispose]: () => namespace.run(restore) };
  });
}

function setDuplicateDetection(interfaceNames: readonly string[], value: string): void {
  for (const name of interfaceNames) writeFileSync(path.join(IPV6, name, "accept_dad"), value);
}

/** Whether it is a single interface's name, or `default`. */
function isSingle(name: string): boolean {
  return name !== "all";
}
