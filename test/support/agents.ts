/**
 * Whole agents in one process, with real sockets, TLS and journals, and with sessions that a test makes up.
 */
import { join } from "node:path";
import type { TestContext } from "node:test";
import { pino } from "pino";
import { runAgent, type Agent } from "../../src/agent/agent.ts";
import { controlClient, type ControlClient } from "../../src/agent/client.ts";
import type { AgentContext } from "../../src/agent/context.ts";
import type { Migrations, TargetSessions } from "../../src/agent/migrations.ts";
import { hostName } from "../../src/core/ids.ts";
import { temporaryDirectory } from "./hosts.ts";

/** An agent and how a test reaches it. */
export interface TestAgent {
  readonly agent: Agent;
  readonly context: AgentContext;
  readonly client: ControlClient;
  /** Where its state lies. */
  readonly dir: string;
}

/** Sessions as far as a test needs them; whatever else is called fails. */
export interface TestSessions {
  readonly migrations?: Partial<Migrations>;
  readonly targets?: Partial<TargetSessions>;
}

export type MakeSessions = (context: AgentContext) => TestSessions;

/** Starts an agent, by default on a free port and with nothing known, and ends it with the test. */
export async function startAgent(
  t: TestContext,
  sessions: MakeSessions = () => ({}),
  { dir = temporaryDirectory(t), port = 0 }: { readonly dir?: string; readonly port?: number } = {},
): Promise<TestAgent> {
  const contexts: AgentContext[] = [];
  const agent = await runAgent(
    {
      stateDir: join(dir, "state"),
      runDir: join(dir, "run"),
      listen: { host: "127.0.0.1", port },
      dockerSocket: join(dir, "docker.sock"),
      pageHandler: "own",
      order: "priority",
      dumpPlan: "measured",
      cpuBudget: 20,
      logLevel: "silent",
    },
    (context) => {
      contexts.push(context);
      const { migrations, targets } = sessions(context);
      return { migrations: complete<Migrations>(migrations), targets: complete<TargetSessions>(targets) };
    },
    pino({ level: "silent" }),
  );
  const client = controlClient(agent.socketPath);
  t.after(async () => {
    client[Symbol.dispose]();
    await agent[Symbol.asyncDispose]();
  });
  return { agent, context: contexts[0]!, client, dir };
}

/** Agents that are members of one cluster, joined by their tokens; the first one is the authority. */
export async function joinedAgents(t: TestContext, hosts: Readonly<Record<string, MakeSessions>>): Promise<TestAgent[]> {
  const agents: TestAgent[] = [];
  for (const [name, sessions] of Object.entries(hosts)) {
    const joining = await startAgent(t, sessions);
    const [first] = agents;
    if (first === undefined) await joining.client.init(hostName(name), joining.agent.listen);
    else await first.client.addHost(hostName(name), joining.agent.listen, (await joining.client.status()).joinToken!);
    agents.push(joining);
  }
  return agents;
}

/** What a test leaves out fails when called, but recovers and ends like the real thing. */
function complete<T extends AsyncDisposable & { recover(): Promise<void> }>(part: Partial<T> = {}): T {
  const ends = { recover: () => Promise.resolve(), [Symbol.asyncDispose]: () => Promise.resolve() };
  return new Proxy({ ...ends, ...part } as unknown as T, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key);
      if (value !== undefined || typeof key === "symbol") return value;
      return () => Promise.reject(new Error(`this test has no ${key}`));
    },
  });
}
