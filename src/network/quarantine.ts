/**
 * The quarantine of a network namespace: packet filters that keep it from hearing and from saying anything.
 *
 * Two layers, because neither suffices. Filters of the families inet and arp stand before any interface exists and hold back
 * whatever the kernel's own protocols send and receive: IP, ARP, neighbour discovery, multicast reports. Packet sockets bypass
 * them (dockerd announces addresses through one while it sets an interface up), so filters of the family netdev stop at each
 * interface what comes by any way; those need the interface to be there.
 *
 * One thing passes: what CRIU sends to a socket that it restores, like the FIN of a connection that the peer has closed. It carries
 * CRIU's mark and never leaves the namespace.
 *
 * All consists of chains whose policy is to drop, set up and taken down in one nf_tables transaction of well under a millisecond, sent by
 * netlink. It outlives this process: what happens to the namespace must not depend on an agent's life.
 */
import { readFileSync } from "node:fs";
import { DmigrateError } from "../core/errors.ts";
import { attribute, NETLINK, NetlinkSocket, request } from "../kernel/netlink.ts";
import type { NetworkNamespace } from "../kernel/netns.ts";

const TABLE = "dmigrate";
const PRIORITY = -500; // before everything else, connection tracking too

/** <linux/netfilter.h>, <linux/netfilter_arp.h>: families and the numbers of their hooks. */
const INET = { family: 1, in: 0, out: 3 } as const; // prerouting, output
const ARP = { family: 3, in: 0, out: 1 } as const;
const NETDEV = { family: 5, in: 0, out: 1 } as const; // ingress, egress
const FAMILIES = [INET, ARP, NETDEV];
type Family = (typeof FAMILIES)[number];

/** <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>. */
const NFNL_SUBSYS_NFTABLES = 10;
const NFNL_MSG_BATCH_BEGIN = 16;
const NFNL_MSG_BATCH_END = 17;
const NFT_MSG_NEWTABLE = (NFNL_SUBSYS_NFTABLES << 8) | 0;
const NFT_MSG_DELTABLE = (NFNL_SUBSYS_NFTABLES << 8) | 2;
const NFT_MSG_NEWCHAIN = (NFNL_SUBSYS_NFTABLES << 8) | 3;
const NLM_F_CREATE = 0x400;
const NFT_MSG_NEWRULE = (NFNL_SUBSYS_NFTABLES << 8) | 6;
const NLM_F_APPEND = 0x800;
const NFTA_TABLE_NAME = 1;
const NFTA_CHAIN = { TABLE: 1, NAME: 3, HOOK: 4, POLICY: 5, TYPE: 7 } as const;
const NFTA_HOOK = { NUMBER: 1, PRIORITY: 2, DEVICE: 3 } as const;
const NFTA_RULE = { TABLE: 1, CHAIN: 2, EXPRESSIONS: 4 } as const;
const NFTA_LIST_ELEM = 1;
const NFTA_EXPR = { NAME: 1, DATA: 2 } as const;
const NFTA_META = { DREG: 1, KEY: 2 } as const;
const NFTA_CMP = { SREG: 1, OP: 2, DATA: 3 } as const;
const NFTA_IMMEDIATE = { DREG: 1, DATA: 2 } as const;
const NFTA_DATA = { VALUE: 1, VERDICT: 2 } as const;
const NFTA_VERDICT_CODE = 1;
const NFT_META_MARK = 3;
const NFT_CMP_EQ = 0;
const NFT_REG = { VERDICT: 0, FIRST: 1 } as const;
const NF_DROP = 0;
const NF_ACCEPT = 1;

/** The mark of CRIU's own packets (soccr/soccr.h), as the kernel has it in memory. */
const CRIU_MARK = new Uint8Array(Uint32Array.of(0xc114).buffer);
/** What is sent on it stays in the namespace. */
const LOOPBACK = "lo";

/**
 * The quarantine of one namespace, imposed or not. Making and disposing of this object changes nothing, so that an agent that starts
 * again can lift what the one before it imposed.
 */
export class Quarantine implements Disposable {
  readonly #namespace: NetworkNamespace;
  readonly #netlink: NetlinkSocket;

  /** Throws NETWORK if the namespace is the agent's own: a container without a network of its own can't be silenced. */
  constructor(namespace: NetworkNamespace) {
    if (namespace.isOwn()) {
      throw new DmigrateError("NETWORK", "The container uses the host's own network; give it a network of its own to migrate it");
    }
    this.#namespace = namespace;
    this.#netlink = namespace.run(() => new NetlinkSocket(NETLINK.NETFILTER));
  }

  /** Imposes the quarantine, or extends it to interfaces that have come since. Throws KERNEL; then nothing has changed. */
  impose(): void {
    for (;;) {
      const names = this.#interfaceNames();
      try {
        return this.#netlink.transact(batch([...removal(), ...FAMILIES.map(newTable), ...chains(names)]));
      } catch (error) {
        // An interface that went away meanwhile makes the kernel refuse the whole.
        if (this.#interfaceNames().join() === names.join()) throw error;
      }
    }
  }

  /** Ends the quarantine if there is one. Throws KERNEL. */
  lift(): void {
    this.#netlink.transact(batch(removal()));
  }

  [Symbol.dispose](): void {
    this.#netlink[Symbol.dispose]();
  }

  /** Read from /proc, which, unlike rtnetlink, waits for nobody who is changing an interface anywhere on the host. */
  #interfaceNames(): string[] {
    const lines = this.#namespace.run(() => readFileSync("/proc/thread-self/net/dev", "utf8")).split("\n");
    return lines.slice(2, -1).map((line) => line.slice(0, line.indexOf(":")).trim());
  }
}

function chains(interfaceNames: readonly string[]): Uint8Array[] {
  return [
    newChain(INET, "in"),
    newChain(INET, "out"),
    acceptMarked(INET, "in"),
    acceptMarked(INET, "out"),
    newChain(ARP, "in"),
    newChain(ARP, "out"),
    ...interfaceNames.flatMap((name) => (name === LOOPBACK ? [] : [newChain(NETDEV, "in", name), newChain(NETDEV, "out", name)])),
  ];
}

/** Removes the tables, which are made first because it would be an error to remove what is not there. */
function removal(): Uint8Array[] {
  return FAMILIES.flatMap((family) => [newTable(family), message(NFT_MSG_DELTABLE, family, attribute(NFTA_TABLE_NAME, TABLE))]);
}

function newTable(family: Family): Uint8Array {
  return message(NFT_MSG_NEWTABLE, family, attribute(NFTA_TABLE_NAME, TABLE));
}

function newChain(family: Family, direction: "in" | "out", device?: string): Uint8Array {
  const hook = [attribute(NFTA_HOOK.NUMBER, family[direction]), attribute(NFTA_HOOK.PRIORITY, PRIORITY)];
  if (device !== undefined) hook.push(attribute(NFTA_HOOK.DEVICE, device));
  return message(
    NFT_MSG_NEWCHAIN,
    family,
    attribute(NFTA_CHAIN.TABLE, TABLE),
    attribute(NFTA_CHAIN.NAME, device === undefined ? direction : `${direction}-${device}`),
    attribute(NFTA_CHAIN.HOOK, hook),
    attribute(NFTA_CHAIN.POLICY, NF_DROP),
    attribute(NFTA_CHAIN.TYPE, "filter"),
  );
}

/** Lets through what carries CRIU's mark. */
function acceptMarked(family: Family, chain: "in" | "out"): Uint8Array {
  const expressions = [
    expression("meta", attribute(NFTA_META.DREG, NFT_REG.FIRST), attribute(NFTA_META.KEY, NFT_META_MARK)),
    expression(
      "cmp",
      attribute(NFTA_CMP.SREG, NFT_REG.FIRST),
      attribute(NFTA_CMP.OP, NFT_CMP_EQ),
      attribute(NFTA_CMP.DATA, [attribute(NFTA_DATA.VALUE, CRIU_MARK)]),
    ),
    expression(
      "immediate",
      attribute(NFTA_IMMEDIATE.DREG, NFT_REG.VERDICT),
      attribute(NFTA_IMMEDIATE.DATA, [attribute(NFTA_DATA.VERDICT, [attribute(NFTA_VERDICT_CODE, NF_ACCEPT)])]),
    ),
  ];
  const [table, name] = [attribute(NFTA_RULE.TABLE, TABLE), attribute(NFTA_RULE.CHAIN, chain)];
  return message(NFT_MSG_NEWRULE, family, table, name, attribute(NFTA_RULE.EXPRESSIONS, expressions));
}

function expression(name: string, ...data: readonly Uint8Array[]): Uint8Array {
  return attribute(NFTA_LIST_ELEM, [attribute(NFTA_EXPR.NAME, name), attribute(NFTA_EXPR.DATA, data)]);
}

function message(type: number, family: Family, ...attributes: readonly Uint8Array[]): Uint8Array {
  const flags = { [NFT_MSG_DELTABLE]: 0, [NFT_MSG_NEWRULE]: NLM_F_CREATE | NLM_F_APPEND }[type] ?? NLM_F_CREATE;
  return request(type, flags, Uint8Array.of(family.family, 0, 0, 0), ...attributes);
}

function batch(messages: readonly Uint8Array[]): Uint8Array[] {
  const frame = Uint8Array.of(0, 0, 0, NFNL_SUBSYS_NFTABLES);
  return [request(NFNL_MSG_BATCH_BEGIN, 0, frame), ...messages, request(NFNL_MSG_BATCH_END, 0, frame)];
}
