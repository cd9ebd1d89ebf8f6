/**
 * Packet sockets: whole frames, taken from and given to network interfaces (packet(7)).
 */
import { failedWith } from "./libc.ts";
import type { NetworkNamespace } from "./netns.ts";
import { AF, int32, RawSocket } from "./socket.ts";

/** Ethernet protocol numbers, as in <linux/if_ether.h>. */
export const ETHERTYPE = { IPV4: 0x0800, ARP: 0x0806, IPV6: 0x86dd } as const;
const ETH_P_ALL = 3;
const ARPHRD_ETHER = 1;
const PACKET_HOST = 0;

const SOL_PACKET = 263;
const PACKET_STATISTICS = 6;
const PACKET_VNET_HDR = 15;
const PACKET_IGNORE_OUTGOING = 23;

const VNET_HEADER_BYTES = 10; // struct virtio_net_hdr: u8 flags, gso_type; u16 hdr_len, gso_size, csum_start, csum_offset
const VIRTIO_NET_HDR_F_NEEDS_CSUM = 1;
const VIRTIO_NET_HDR_GSO_TCPV4 = 1;
const VIRTIO_NET_HDR_GSO_TCPV6 = 4;
const VIRTIO_NET_HDR_GSO_UDP_L4 = 5;
const VIRTIO_NET_HDR_GSO_ECN = 0x80;

const KEPT_BYTES_MAX = 64 * 1024 * 1024;
const FRAME_BYTES_MAX = 128 * 1024; // frames have 64 KiB at most unless an administrator raised gro_max_size

/** Work left to hardware, which a frame between virtual interfaces therefore still lacks (<linux/virtio_net.h>). */
export interface Offload {
  /** The checksum still to be made: of all bytes from `start` on, the sum so far lying at `at`, where it also goes. */
  readonly checksum?: { readonly start: number; readonly at: number };
  /** The frame stands for several: its TCP or UDP payload is to be cut into pieces of this size. */
  readonly segmentBytes?: number;
}

/** A frame that an Ethernet interface received. */
export interface Frame {
  /** From the Ethernet header on, without a VLAN tag. */
  readonly bytes: Uint8Array;
  /** Whether it was addressed to this interface, rather than to a group or to someone else. */
  readonly toThisHost: boolean;
  readonly offload: Offload;
}

/**
 * Takes copies of the frames that arrive at the Ethernet interfaces of a namespace, those that come later included. It sees what
 * a packet filter drops. The kernel keeps up to 64 MiB for it until they are asked for.
 */
export class PacketTap implements AsyncDisposable {
  readonly #socket: RawSocket;
  readonly #into = Buffer.alloc(VNET_HEADER_BYTES + FRAME_BYTES_MAX);
  #lostCount = 0;

  /** A tap that is not open yet: nothing is taken before `open`. */
  constructor(namespace: NetworkNamespace) {
    this.#socket = namespace.run(() => new RawSocket(AF.PACKET, 0));
    this.#socket.keepUpTo(KEPT_BYTES_MAX);
    this.#socket.setOption(SOL_PACKET, PACKET_VNET_HDR, int32(1));
    this.#socket.setOption(SOL_PACKET, PACKET_IGNORE_OUTGOING, int32(1));
  }

  /** To be waited for with `readable`. */
  get fd(): number {
    return this.#socket.fd;
  }

  open(): void {
    this.#socket.bind(linkAddress(ETH_P_ALL, 0));
  }

  /** Takes every frame that has arrived. */
  receive(): Frame[] {
    const frames: Frame[] = [];
    const sender = linkAddress(0, 0);
    for (let size = this.#receiveOne(sender); size !== undefined; size = this.#receiveOne(sender)) {
      if (sender.readUInt16LE(8) !== ARPHRD_ETHER) continue;
      if (size > this.#into.length) this.#lostCount += 1;
      else frames.push(frameOf(this.#into.subarray(0, size), sender[10] === PACKET_HOST));
    }
    return frames;
  }

  /** How many frames were lost so far, because there were too many at a time or because they were of an unknown kind. */
  lostCount(): number {
    const statistics = Buffer.alloc(8); // struct tpacket_stats: u32 packets, drops; both since they were read last
    this.#socket.getOption(SOL_PACKET, PACKET_STATISTICS, statistics);
    this.#lostCount += statistics.readUInt32LE(4);
    return this.#lostCount;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#socket[Symbol.asyncDispose]();
  }

  #receiveOne(sender: Uint8Array): number | undefined {
    for (;;) {
      try {
        return this.#socket.receive(this.#into, sender);
      } catch (error) {
        // The frame is gone: a virtio_net_hdr has no word for its kind of offload, SCTP for example (virtio_net_hdr_from_skb).
        if (!failedWith("EINVAL", error)) throw error;
        this.#lostCount += 1;
      }
    }
  }
}

/** Sends frames from the interfaces of a namespace. */
export class PacketSender implements AsyncDisposable {
  readonly #socket: RawSocket;

  constructor(namespace: NetworkNamespace) {
    this.#socket = namespace.run(() => new RawSocket(AF.PACKET, 0));
  }

  /** Sends a frame, which begins with its Ethernet header. Throws KERNEL, for example with cause ENETDOWN. */
  send(interfaceIndex: number, frame: Uint8Array): void {
    this.#socket.send(frame, linkAddress(0, interfaceIndex));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#socket[Symbol.asyncDispose]();
  }
}

function frameOf(message: Buffer, toThisHost: boolean): Frame {
  const needsChecksum = (message.readUInt8(0) & VIRTIO_NET_HDR_F_NEEDS_CSUM) !== 0;
  const start = message.readUInt16LE(6);
  return {
    bytes: new Uint8Array(message.subarray(VNET_HEADER_BYTES)),
    toThisHost,
    offload: {
      ...(needsChecksum && { checksum: { start, at: start + message.readUInt16LE(8) } }),
      ...(isSegmented(message.readUInt8(1)) && { segmentBytes: message.readUInt16LE(4) }),
    },
  };
}

function isSegmented(gsoType: number): boolean {
  return [VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4].includes(gsoType & ~VIRTIO_NET_HDR_GSO_ECN);
}

/** struct sockaddr_ll: u16 family; be16 protocol; i32 index; u16 hardware type; u8 packet type, address length, address[8]. */
function linkAddress(protocol: number, interfaceIndex: number): Buffer {
  const address = Buffer.alloc(20);
  address.writeUInt16LE(AF.PACKET, 0);
  address.writeUInt16BE(protocol, 2);
  address.writeInt32LE(interfaceIndex, 4);
  return address;
}
