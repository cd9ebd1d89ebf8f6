/**
 * The cluster as one host knows it: who it is itself, who the other members are, and whom it trusts. A host begins as an outsider
 * with a join token; `init` or `install` make it a member, `leave` an outsider again.
 */
import { EventEmitter } from "node:events";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import { z } from "zod";
import { DmigrateError, messageOf } from "../core/errors.ts";
import { hostName, type HostName } from "../core/ids.ts";
import { formatAddress, parsePeerAddress } from "./address.ts";
import { writeDurably } from "./files.ts";
import * as pki from "./pki.ts";

export interface Member {
  readonly name: HostName;
  /** host:port. */
  readonly address: string;
  /** SHA-256 of its certificate, hexadecimal: a host of the same name that was removed earlier is not taken for it. */
  readonly fingerprint: string;
}

/** This host is in no cluster: it answers only to who knows its token. */
export interface Outsider {
  readonly kind: "outsider";
  readonly credentials: pki.Credentials;
  readonly token: pki.JoinToken;
}

export interface Membership {
  readonly kind: "member";
  readonly self: HostName;
  /** The host that holds the authority's key. */
  readonly authority: HostName;
  readonly keys: pki.MemberKeys;
  /** Every member by name, this host among them. */
  readonly members: ReadonlyMap<HostName, Member>;
}

/** What a member tells a host that joins. */
export interface Admission {
  readonly name: HostName;
  readonly authority: HostName;
  readonly authorityCertificate: string;
  readonly certificate: string;
  readonly members: readonly Member[];
}

/** Wrong secrets after which a token is void and another takes its place. */
const WRONG_SECRETS_MAX = 10;

const name = z.string().transform(hostName);
const ClusterFile = z.object({
  self: name,
  authority: name,
  members: z.array(z.object({ name, address: z.string(), fingerprint: z.string() })),
});

/** Emits `changed` after every change to `state`. Changes are on disk when the method that makes them returns. */
export class Cluster extends EventEmitter<{ changed: [] }> {
  readonly #stateDir: string;
  readonly #file: string;
  #state: Outsider | Membership;
  #wrongSecrets = 0;

  private constructor(stateDir: string, file: string, state: Outsider | Membership) {
    super();
    this.#stateDir = stateDir;
    this.#file = file;
    this.#state = state;
  }

  /** Reads what is in `stateDir`. Throws AGENT if it cannot be read. */
  static async open(stateDir: string): Promise<Cluster> {
    const file = join(stateDir, "cluster.json");
    if (!existsSync(file)) return new Cluster(stateDir, file, await newOutsider());
    try {
      const { self, authority, members } = ClusterFile.parse(JSON.parse(readFileSync(file, "utf8")));
      const keys = pki.readMemberKeys(stateDir, self === authority);
      return new Cluster(stateDir, file, { kind: "member", self, authority, keys, members: byName(members) });
    } catch (error) {
      throw new DmigrateError(
        "AGENT",
        `Cannot read ${file} and the keys beside it: ${messageOf(error)}; restore them, or remove ${file} to join anew`,
        error,
      );
    }
  }

  get state(): Outsider | Membership {
    return this.#state;
  }

  /** This host's membership. Throws NOT_INITIALISED if it has none. */
  get membership(): Membership {
    if (this.#state.kind === "member") return this.#state;
    throw new DmigrateError(
      "NOT_INITIALISED",
      "This host is in no cluster yet; run `dmigrate init` here, or `dmigrate hosts add` on a member",
    );
  }

  /** Throws HOST_UNKNOWN unless `host` is a member. */
  member(host: HostName): Member {
    const member = this.membership.members.get(host);
    if (member !== undefined) return member;
    throw new DmigrateError("HOST_UNKNOWN", `No host ${host} is in the cluster; \`dmigrate hosts list\` shows those that are`);
  }

  /** The members but this one. */
  get others(): readonly Member[] {
    const { members, self } = this.membership;
    return [...members.values()].filter((member) => member.name !== self);
  }

  /** Which member is at the other end of a connection; undefined if none is. */
  peerOf(socket: Socket): HostName | undefined {
    const certificate = socket instanceof TLSSocket ? socket.getPeerX509Certificate() : undefined;
    if (this.#state.kind === "outsider" || certificate === undefined) return undefined;
    const shown = pki.fingerprint(certificate);
    return this.others.find((member) => member.fingerprint === shown)?.name;
  }

  /** Makes this host the first of a new cluster, and its authority. Throws USAGE if it is a member already. */
  async init(self: HostName, address: string): Promise<Member> {
    const { credentials } = this.#outsider();
    const { newAuthority, issueCertificate } = await import("./certificates.ts");
    const authority = await newAuthority(self);
    const certificate = await issueCertificate(authority, self, pki.publicKeyOf(credentials.certificate));
    const member = memberOf(self, address, certificate);
    this.#outsider(); // another request may have been quicker
    const keys = { host: { certificate, key: credentials.key }, authority: authority.certificate, authorityKey: authority.key };
    this.#becomeMember({ kind: "member", self, authority: self, keys, members: byName([member]) });
    return member;
  }

  /** On a joining host: its public key, for who knows the secret. Throws PEER_REFUSED. */
  publicKey(secret: Uint8Array): Uint8Array {
    return pki.publicKeyOf(this.#admit(secret).credentials.certificate);
  }

  /** On a joining host: makes it a member; its token is void from then on. Throws PEER_REFUSED. */
  install(secret: Uint8Array, { name: self, authority, authorityCertificate, certificate, members }: Admission): void {
    const { credentials } = this.#admit(secret);
    const keys = { host: { certificate, key: credentials.key }, authority: authorityCertificate };
    pki.checkMemberKeys(keys, self);
    if (byName(members).get(self)?.fingerprint !== pki.fingerprint(certificate)) {
      throw new DmigrateError(
        "PEER_REFUSED",
        `The list of members offered to host ${self} does not hold its certificate; add the host again`,
      );
    }
    this.#becomeMember({ kind: "member", self, authority, keys, members: byName(members) });
  }

  /** On the authority: signs a certificate for a host that joins. Throws USAGE if the host is a member, or the key is not here. */
  async issue(host: HostName, address: string, publicKey: Uint8Array): Promise<{ member: Member; certificate: string }> {
    const { keys } = this.mayAdd(host);
    const { issueCertificate } = await import("./certificates.ts");
    const certificate = await issueCertificate({ certificate: keys.authority, key: keys.authorityKey }, host, publicKey);
    return { member: memberOf(host, address, certificate), certificate };
  }

  /** Throws USAGE unless this host holds the authority's key and has no member of that name. */
  mayAdd(host: HostName): Membership & { readonly keys: { readonly authorityKey: string } } {
    const membership = this.membership;
    const { authority, keys, members } = membership;
    const { authorityKey } = keys;
    if (authorityKey === undefined) {
      throw new DmigrateError(
        "USAGE",
        `Only host ${authority} can add hosts, for it holds the cluster's key; run \`dmigrate hosts add\` there`,
      );
    }
    if (members.has(host)) {
      throw new DmigrateError(
        "USAGE",
        `A host named ${host} is in the cluster already; choose another name, or run \`dmigrate hosts remove ${host}\` first`,
      );
    }
    return { ...membership, keys: { ...keys, authorityKey } };
  }

  /** Adds a member, or replaces the one of its name. */
  add(member: Member): void {
    const membership = this.membership;
    this.#setMembers(membership, [...membership.members.values()].filter((other) => other.name !== member.name).concat(member));
  }

  /** Removes a member: from now on its certificate is worth nothing here. */
  remove(host: HostName): void {
    const membership = this.membership;
    this.#setMembers(
      membership,
      [...membership.members.values()].filter((other) => other.name !== host),
    );
  }

  /** Makes this host an outsider with a new key and a new token. */
  async leave(): Promise<void> {
    const outsider = await newOutsider();
    rmSync(this.#file, { force: true });
    pki.removeKeys(this.#stateDir);
    this.#become(outsider);
  }

  #outsider(): Outsider {
    if (this.#state.kind === "outsider") return this.#state;
    throw new DmigrateError(
      "USAGE",
      `This host is in a cluster already, as ${this.#state.self}; run \`dmigrate hosts remove ${this.#state.self}\` here to leave it`,
    );
  }

  #admit(secret: Uint8Array): Outsider {
    if (this.#state.kind === "member")
      throw new DmigrateError("PEER_REFUSED", "The host is in a cluster already; its join token has been used");
    if (pki.isSecret(this.#state.token.secret, secret)) return this.#state;
    this.#wrongSecrets += 1;
    if (this.#wrongSecrets >= WRONG_SECRETS_MAX)
      this.#become({ ...this.#state, token: pki.newJoinToken(this.#state.credentials.certificate) });
    throw new DmigrateError("PEER_REFUSED", "The host does not know this join token; copy the one that `dmigrate status` shows there now");
  }

  #setMembers(membership: Membership, members: readonly Member[]): void {
    const changed = { ...membership, members: byName(members) };
    this.#write(changed);
    this.#become(changed);
  }

  /** The list is written last: without it, the keys beside it count for nothing. */
  #becomeMember(membership: Membership): void {
    pki.writeMemberKeys(this.#stateDir, membership.keys);
    this.#write(membership);
    this.#become(membership);
  }

  #write({ self, authority, members }: Membership): void {
    const content: z.input<typeof ClusterFile> = { self, authority, members: [...members.values()] };
    writeDurably(this.#file, `${JSON.stringify(content, undefined, 2)}\n`);
  }

  #become(state: Outsider | Membership): void {
    this.#state = state;
    this.#wrongSecrets = 0;
    this.emit("changed");
  }
}

async function newOutsider(): Promise<Outsider> {
  const { newSelfSigned } = await import("./certificates.ts");
  const credentials = await newSelfSigned();
  return { kind: "outsider", credentials, token: pki.newJoinToken(credentials.certificate) };
}

function memberOf(host: HostName, address: string, certificate: string): Member {
  return { name: host, address: formatAddress(parsePeerAddress(address)), fingerprint: pki.fingerprint(certificate) };
}

function byName(members: readonly Member[]): ReadonlyMap<HostName, Member> {
  return new Map(members.map((member) => [member.name, member]));
}
