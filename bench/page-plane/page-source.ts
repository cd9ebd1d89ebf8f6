/**
 * The source of a page plane that is measured: a process with memory, and what sends its pages by a trunk of as many connections as come.
 *
 *     node page-source.ts clear|tls PAGES priority|fifo
 *
 * Says on standard output at which port and on which page the memory begins; ends with its standard input.
 */
import { once } from "node:events";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { newSelfSigned } from "../../src/agent/certificates.ts";
import { limitUnsent } from "../../src/kernel/tcp.ts";
import { sendPages } from "../../src/memory/page-sender.ts";
import { Trunk } from "../../src/transfer/trunk.ts";
import { ArenaProcess } from "../../src/memory/arena-process.fixture.ts";
import { TLS } from "../../src/agent/tls.ts";
import { UNSENT_BYTES_MAX } from "../../src/agent/trunks.ts";
import { CONNECTIONS, FIRST_VALUE, laneOf, PROCESS } from "./plane.ts";

const [kind, count, order] = process.argv.slice(2);
const pageCount = Number(count);
const task = new ArenaProcess(pageCount, pageCount);
await task.started();
await task.tell(0, "fill", 0, pageCount, FIRST_VALUE);

const trunk = new Trunk((stream) => stream.destroy(), order === "fifo" ? "fifo" : "priority");
let connectionCount = 0;
const serve = (socket: Socket): void => {
  limitUnsent(socket, UNSENT_BYTES_MAX);
  trunk.join(socket.setNoDelay(true), laneOf(connectionCount));
  connectionCount += 1;
  if (connectionCount === CONNECTIONS) void begin();
};
async function begin(): Promise<void> {
  const streams = [await trunk.open("demanded", "demanded"), await trunk.open("ahead", "near")];
  for (const stream of streams) sendPages(stream, new Map([[PROCESS, task.pid]]));
}
const server = kind === "clear" ? createServer(serve) : await tlsServer();
server.listen(0);
await once(server, "listening");
process.stdout.write(`${(server.address() as AddressInfo).port} ${task.arenaPage}\n`); // it listens on TCP
await once(process.stdin.resume(), "end");
server.close();
await task[Symbol.asyncDispose]();
process.exit();

async function tlsServer(): Promise<Server> {
  const { certificate, key } = await newSelfSigned();
  return createTlsServer({ cert: certificate, key, ...TLS }, serve);
}
