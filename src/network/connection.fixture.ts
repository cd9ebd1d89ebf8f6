/**
 * A TCP connection between two hosts of a segment, for the tests of this folder. Its server's end lives in the test, its client's in
 * a process of its own, because Node makes a client's socket too late to choose its namespace.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import type { Readable, Writable } from "node:stream";
import type { Host } from "./segment.fixture.ts";

const PORT = 7000;
const CLIENT = `const socket = require("node:net").connect(${PORT}, process.argv[1]); process.stdin.pipe(socket).pipe(process.stdout);`;

/** Both ends. Disposing of it closes them. */
export interface Connection extends AsyncDisposable {
  readonly server: Socket;
  /** What is written to `input` the client sends; what it receives comes out of `output`. */
  readonly client: { readonly input: Writable; readonly output: Readable };
}

/** Connects a client on one host with a server on another, at the latter's `address`. */
export async function connect(clientHost: Host, serverHost: Host, address: string): Promise<Connection> {
  const listener = createServer();
  serverHost.namespace.run(() => listener.listen(PORT));
  const client = clientHost.namespace.run((): ChildProcessByStdio<Writable, Readable, null> =>
    spawn(process.execPath, ["-e", CLIENT, address], { stdio: ["pipe", "pipe", "inherit"] }),
  );
  const [server] = (await once(listener, "connection")) as [Socket]; // net.Server's only argument
  return {
    server,
    client: { input: client.stdin, output: client.stdout },
    async [Symbol.asyncDispose]() {
      server.destroy();
      listener.close();
      client.kill("SIGKILL");
      await once(client, "exit");
    },
  };
}

/** What a stream has given so far. */
export class Received {
  readonly #chunks: Buffer[] = [];
  byteCount = 0;

  constructor(stream: Readable) {
    stream.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.byteCount += chunk.length;
    });
  }

  get bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }

  get text(): string {
    return this.bytes.toString();
  }
}
