/**
 * Makes a cluster of a lab's hosts with the same commands that an administrator of real machines gives.
 */
import { controlClient, type ControlClient } from "../src/agent/client.ts";
import { until, type Host } from "./host.ts";
import type { Lab } from "./lab.ts";
import { CHECKOUT_IN_HOST } from "./paths.ts";

/** The command inside a host. */
export const DMIGRATE: string = `${CHECKOUT_IN_HOST}/bin/dmigrate`;

const PORT = 7461;

/**
 * Starts an agent on every host with an engine and joins them into one cluster.
 * @param flags of every agent
 */
export async function startCluster(lab: Lab, ...flags: readonly string[]): Promise<void> {
  const [first, ...others] = lab.hosts.filter((host) => host.record.docker);
  if (first === undefined) return;
  await Promise.all([first, ...others].map((host) => startAgent(host, ...flags)));
  await first.run(DMIGRATE, "init", first.name, "--address", `${first.address}:${PORT}`);
  for (const host of others) {
    const { joinToken = "" } = await askAgent(host, (agent) => agent.status());
    await first.run(DMIGRATE, "hosts", "add", host.name, `${host.address}:${PORT}`, "--token", joinToken);
  }
}

/** Starts the agent of a host and waits until it has recovered and answers; returns its process id as this machine counts. */
export async function startAgent(host: Host, ...flags: readonly string[]): Promise<number> {
  const pid = host.startDaemon("agent", [DMIGRATE, "agent", ...flags]);
  // One that was killed has left its socket behind: only an answer counts.
  const answers = (): Promise<boolean> =>
    askAgent(host, (agent) => agent.status()).then(
      () => true,
      () => false,
    );
  await until(`the agent of host ${host.name}`, answers);
  return pid;
}

/** Asks the agent of a host without the cost of a command. Throws what the agent throws, or AGENT_UNREACHABLE. */
export async function askAgent<T>(host: Host, question: (agent: ControlClient) => Promise<T>): Promise<T> {
  using agent = agentOf(host);
  return await question(agent);
}

/** A client of the agent of a host. */
export function agentOf(host: Host): ControlClient {
  return controlClient(`${host.root}/run/dmigrate/agent.sock`);
}
