/**
 * The source of a page plane that is measured: a process with memory, and a page server for one connection.
 *
 *     node page-source.ts clear|tls PAGES
 *
 * Says on standard output at which port and on which page the memory begins; ends with its standard input.
 */
import { once } from "node:events";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { newSelfSigned } from "../../src/agent/certificates.ts";
import { ArenaProcess } from "../../src/memory/arena-process.fixture.ts";
import { PageServer } from "../../src/memory/page-server.ts";
import { FIRST_VALUE, PROCESS } from "./plane.ts";

const [kind, count] = process.argv.slice(2);
const pageCount = Number(count);
const task = new ArenaProcess(pageCount, pageCount);
await task.started();
await task.tell(0, "fill", 0, pageCount, FIRST_VALUE);

const serve = (channel: Socket): void => PageServer.serve(channel.setNoDelay(true), new Map([[PROCESS, task.pid]]), () => {});
const server = kind === "clear" ? createServer(serve) : await tlsServer();
server.listen(0, "127.0.0.1");
await once(server, "listening");
process.stdout.write(`${(server.address() as AddressInfo).port} ${task.arenaPage}\n`); // it listens on TCP
await once(process.stdin.resume(), "end");
server.close();
await task[Symbol.asyncDispose]();
process.exit();

async function tlsServer(): Promise<Server> {
  const { certificate, key } = await newSelfSigned();
  return createTlsServer({ cert: certificate, key, minVersion: "TLSv1.3" }, serve);
}
