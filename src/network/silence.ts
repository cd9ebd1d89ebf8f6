/**
 * The target's network before the handover: addresses that the source still owns are set up here, and must not show.
 */
import { readable } from "../kernel/libc.ts";
import { NETLINK, NetlinkSocket } from "../kernel/netlink.ts";
import type { NetworkNamespace } from "../kernel/netns.ts";
import { Quarantine } from "./quarantine.ts";

const RTMGRP_LINK = 1; // <linux/rtnetlink.h>

/**
 * Keeps a namespace silent from construction on, and each interface from the moment it comes in. Disposing of this leaves the namespace
 * silent, or as `lift` left it. Meanwhile it holds a thread of libuv's pool (see `readable`).
 */
export class SilentNetwork implements AsyncDisposable {
  readonly #quarantine: Quarantine;
  readonly #links: NetlinkSocket;
  readonly #ended = new AbortController();
  readonly #watch: Promise<void>;

  /** Throws NETWORK if the namespace is the agent's own, KERNEL if it can't be silenced. */
  constructor(namespace: NetworkNamespace) {
    this.#quarantine = new Quarantine(namespace);
    this.#links = namespace.run(() => new NetlinkSocket(NETLINK.ROUTE, RTMGRP_LINK));
    this.#quarantine.impose();
    this.#watch = this.#watchLinks();
    this.#watch.catch(() => {}); // told when this is disposed of
  }

  /** Ends the silence. What was held for the namespace can be injected and its addresses announced. Throws KERNEL. */
  lift(): void {
    this.#ended.abort();
    this.#quarantine.lift();
  }

  /** Throws KERNEL if interfaces that came in could not be silenced. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort();
    try {
      await this.#watch;
    } finally {
      this.#links[Symbol.dispose]();
      this.#quarantine[Symbol.dispose]();
    }
  }

  async #watchLinks(): Promise<void> {
    while (await readable(this.#links.fd, this.#ended.signal)) {
      this.#links.receive();
      this.#quarantine.impose();
    }
  }
}
