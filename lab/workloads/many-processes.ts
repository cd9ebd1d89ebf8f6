/**
 * Containers of many processes, with clients that notice everything: a PostgreSQL with a backend for each connection of its client, and a
 * pre-forking server whose workers share a socket and memory.
 */
import { postgresImage, workloadsImage } from "../images/catalogue.ts";
import { buildImage, type ImageSpec } from "../images/image.ts";
import { loadImage } from "../images/load.ts";
import type { Host } from "../host.ts";
import { CLIENT, LAN, type Lab } from "../lab.ts";
import { CHECKOUT_IN_HOST } from "../paths.ts";
import { ensurePostgresRoot, ROOT_DIR } from "../setup.ts";
import { ClientProcess } from "./client-control.ts";
import { clientResult, postgresClientResult, type ClientResult, type PostgresClientResult } from "./client-result.ts";

/** So many connections its client has, so many workers a server. */
export interface ManyProcesses {
  readonly name: string;
  readonly address: string;
  readonly connections: number;
  /** How long each connection rests after an answer. */
  readonly pauseMs: number;
}

/**
 * Starts a PostgreSQL and its client; returns that once it is being answered.
 * @param megabytes how much the client fills into the server's shared memory, which has 256 MB
 */
export async function startPostgres(
  lab: Lab,
  host: Host,
  subject: ManyProcesses,
  megabytes = 200,
): Promise<ClientProcess<PostgresClientResult>> {
  const root = await ensurePostgresRoot();
  const settings = ["-c", "shared_buffers=256MB", "-c", `max_connections=${subject.connections + 10}`];
  await start(host, subject, postgresImage(root), root, settings);
  const client = new ClientProcess(spawnClient(lab, "postgres-client.ts", subject, "--megabytes", String(megabytes)), postgresClientResult);
  await client.ready();
  return client;
}

/** Starts a pre-forking server and its client; returns that once it is being answered. */
export async function startPreforking(lab: Lab, host: Host, subject: ManyProcesses): Promise<ClientProcess<ClientResult>> {
  await start(host, subject, workloadsImage(ROOT_DIR), ROOT_DIR, ["echo", "--workers", String(subject.connections), "--round", "1"]);
  await host.run("docker", "exec", subject.name, "check");
  const client = new ClientProcess(spawnClient(lab, "echo-client.ts", subject), clientResult);
  await client.ready();
  return client;
}

async function start(host: Host, { name, address }: ManyProcesses, image: ImageSpec, root: string, command: readonly string[]) {
  await loadImage(host, await buildImage(image, root));
  await host.run("docker", "run", "--detach", "--name", name, "--network", LAN, "--ip", address, image.name, ...command);
}

function spawnClient(lab: Lab, program: string, { address, connections, pauseMs }: ManyProcesses, ...more: readonly string[]) {
  const options = ["--host", address, "--connections", String(connections), "--pause-ms", String(pauseMs), ...more];
  const argv = [`${CHECKOUT_IN_HOST}/bin/node`, `${CHECKOUT_IN_HOST}/lab/workloads/${program}`, ...options];
  return lab.host(CLIENT).spawn(argv, { stdio: ["pipe", "pipe", "inherit"] });
}
