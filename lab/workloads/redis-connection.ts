/**
 * One TCP connection to redis: batches of commands go out in order, and each batch's replies come back together.
 */
import { once } from "node:events";
import net from "node:net";
import { DmigrateError } from "../../src/core/errors.ts";
import { encodeCommands, ReplyDecoder, RespError, type Command, type Reply } from "./resp.ts";

/** Where a server listens. */
export interface Endpoint {
  readonly host: string;
  readonly port: number;
}

interface Waiting {
  readonly replyCount: number;
  readonly replies: Reply[];
  readonly resolve: (replies: Reply[]) => void;
  readonly reject: (error: DmigrateError) => void;
}

/** An open connection. Disposing it closes it. */
export class RedisConnection implements Disposable {
  private readonly socket: net.Socket;
  private readonly endpoint: Endpoint;
  private readonly decoder = new ReplyDecoder();
  private readonly waiting: Waiting[] = [];
  private failure: DmigrateError | undefined;

  private constructor(socket: net.Socket, endpoint: Endpoint) {
    this.socket = socket;
    this.endpoint = endpoint;
    socket.on("data", (piece) => this.receive(piece));
    socket.on("error", (error) => this.fail(error));
    socket.on("close", () => this.fail());
  }

  /** Connects; throws NETWORK if nobody answers within `limitMs`. */
  static async connect(endpoint: Endpoint, limitMs: number): Promise<RedisConnection> {
    const socket = net.connect({ ...endpoint, noDelay: true });
    try {
      await once(socket, "connect", { signal: AbortSignal.timeout(limitMs) });
    } catch (error) {
      socket.destroy();
      throw new DmigrateError(
        "NETWORK",
        `Found no redis at ${endpoint.host}:${endpoint.port}; make sure that it runs and can be reached`,
        error,
      );
    }
    return new RedisConnection(socket, endpoint);
  }

  /** Sends commands as one; resolves to one reply each. Throws NETWORK if the connection breaks before the last one. */
  exchange(commands: readonly Command[]): Promise<Reply[]> {
    return new Promise((resolve, reject) => {
      if (this.failure !== undefined) {
        reject(this.failure);
        return;
      }
      this.waiting.push({ replyCount: commands.length, replies: [], resolve, reject });
      this.socket.write(encodeCommands(commands));
    });
  }

  /** Sends one command; throws LAB if the server replies an error. */
  async command(...command: Command): Promise<Reply> {
    const [reply = null] = await this.exchange([command]);
    if (reply instanceof RespError) throw new DmigrateError("LAB", `Redis refused ${String(command[0])}: ${reply.message}`);
    return reply;
  }

  /** Closes the connection at once; whoever waits for replies gets an error. */
  [Symbol.dispose](): void {
    this.socket.destroy();
    this.fail();
  }

  private receive(piece: Buffer): void {
    try {
      for (const reply of this.decoder.push(piece)) this.deliver(reply);
    } catch (error) {
      this.socket.destroy();
      this.fail(error);
    }
  }

  private deliver(reply: Reply): void {
    const [first] = this.waiting;
    if (first === undefined)
      throw new DmigrateError("PROTOCOL", "Redis replied to a command that nobody sent; make sure that a redis listens there");
    first.replies.push(reply);
    if (first.replies.length < first.replyCount) return;
    this.waiting.shift();
    first.resolve(first.replies);
  }

  private fail(cause?: unknown): void {
    const { host, port } = this.endpoint;
    this.failure ??= new DmigrateError(
      "NETWORK",
      `The connection to redis at ${host}:${port} broke; make sure that it runs and can be reached`,
      cause,
    );
    for (const waiting of this.waiting.splice(0)) waiting.reject(this.failure);
  }
}
