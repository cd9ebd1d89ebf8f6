/**
 * Network namespaces: work done inside one, from a process that lives in another (setns(2), network_namespaces(7)).
 */
import { closeSync, fstatSync, openSync, statSync } from "node:fs";
import { DmigrateError, messageOf } from "../core/errors.ts";
import { declare, must } from "./libc.ts";

const CLONE_NEWNET = 0x40000000;
const OWN = "/proc/thread-self/ns/net";
const setns = declare<(fd: number, type: number) => number>("int setns(int fd, int nstype)");
const unshare = declare<(flags: number) => number>("int unshare(int flags)");

/** A network namespace, kept alive until disposed of. */
export class NetworkNamespace implements Disposable {
  readonly #fd: number;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** Opens the namespace at `path`, like /proc/PID/ns/net or /run/netns/NAME. Throws KERNEL if there is none. */
  static open(path: string): NetworkNamespace {
    try {
      return new NetworkNamespace(openSync(path, "r"));
    } catch (error) {
      throw new DmigrateError("KERNEL", `Cannot open network namespace ${path}: ${messageOf(error)}; check that its container runs`, error);
    }
  }

  /** Makes an empty namespace, which vanishes with its last user. */
  static create(): NetworkNamespace {
    using own = NetworkNamespace.open(OWN);
    must("unshare", unshare(CLONE_NEWNET));
    return own.#afterwards(() => NetworkNamespace.open(OWN));
  }

  /**
   * Runs `body` inside the namespace and returns its result. What `body` opens or spawns stays in the namespace; what it
   * merely schedules does not, so it must be synchronous to its end.
   */
  run<T>(body: () => T): T {
    using own = NetworkNamespace.open(OWN);
    must("setns", setns(this.#fd, CLONE_NEWNET));
    return own.#afterwards(body);
  }

  /** Whether this process itself lives in the namespace. */
  isOwn(): boolean {
    return this.isAt(OWN);
  }

  /** Whether `path` leads to the same namespace. */
  isAt(path: string): boolean {
    const [a, b] = [fstatSync(this.#fd), statSync(path)];
    return a.dev === b.dev && a.ino === b.ino;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }

  /** Runs `body` and enters this namespace whatever comes of it. */
  #afterwards<T>(body: () => T): T {
    try {
      return body();
    } finally {
      if (setns(this.#fd, CLONE_NEWNET) === -1) process.abort(); // an agent lost in a container's network must not go on
    }
  }
}
