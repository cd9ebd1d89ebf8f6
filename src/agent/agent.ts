/**
 * The agent: puts journal, cluster, listener, calls and migration sessions together, and takes them apart again.
 */
import { join } from "node:path";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import type { Logger } from "pino";
import packageJson from "../../package.json" with { type: "json" };
import type { DmigrateError } from "../core/errors.ts";
import { controlRoutes } from "./api/control.ts";
import { errorInterceptor } from "./api/errors.ts";
import { refuseOtherVersions } from "./api/version.ts";
import { callerValues, peerRoutes } from "./api/peer.ts";
import { Cluster } from "./cluster.ts";
import type { AgentConfig } from "./config.ts";
import type { AgentContext, StartSessions } from "./context.ts";
import { serveControl } from "./control-server.ts";
import { makeFolder } from "./files.ts";
import { EventHub } from "./events.ts";
import { Journal } from "./journal.ts";
import { Link } from "./link.ts";
import { listen } from "./listener.ts";
import { Peers } from "./peers.ts";

/** The longest message that another host may send. */
const PEER_MESSAGE_BYTES_MAX = 64 << 20;
/** How long the journal may be with what lets a container run on whose agent was killed (release.ts). */
const JOURNAL_WAIT_MS = 3_000;

export interface Agent extends AsyncDisposable {
  /** The control socket's path. */
  readonly socketPath: string;
  /** Where it listens for other hosts, host:port. */
  readonly listen: string;
}

/**
 * Starts an agent: when this returns, it has recovered and serves. Disposing of it ends the sessions first, so that it can still be told
 * how they end. Throws AGENT if another agent uses its directories or port.
 */
export async function runAgent(config: AgentConfig, startSessions: StartSessions, log: Logger): Promise<Agent> {
  await using starting = new AsyncDisposableStack();
  makeFolder(config.stateDir, 0o700);
  makeFolder(config.runDir, 0o755);
  const journal = starting.use(Journal.open(config.stateDir, JOURNAL_WAIT_MS));
  const cluster = await Cluster.open(config.stateDir);
  const peers = starting.use(new Peers(cluster));
  const link = new Link(cluster, log, config.order);
  const events = starting.use(
    new EventHub(journal, (migration, error) => log.error({ err: error, migration }, "the end of a migration can't be written down")),
  );
  const context: AgentContext = { config, journal, events, link, peers, log, self: () => cluster.membership.self };
  const { migrations, targets } = startSessions(context);

  const ending = new AbortController();
  const recovered = Promise.withResolvers<void>();
  const interceptors = [errorInterceptor((error) => logError(log, error)), refuseOtherVersions];
  const peerCalls = connectNodeAdapter({
    routes: (router) => peerRoutes(router, { cluster, journal, migrations, targets, ending: ending.signal, recovered: recovered.promise }),
    contextValues: (request) => callerValues(cluster.peerOf(request.socket)),
    readMaxBytes: PEER_MESSAGE_BYTES_MAX,
    interceptors,
  });
  // Other hosts may ask how migrations stand before this one has recovered: their recovery may need it. A target that lacks pages and dials
  // waits: it would give up if it were refused.
  const listener = starting.use(
    await listen(
      config.listen,
      cluster,
      { calls: peerCalls, channel: (socket) => void recovered.promise.then(() => link.serve(socket)) },
      log,
    ),
  );
  const sessions = starting.use(new AsyncDisposableStack());
  sessions.use(targets);
  sessions.use(migrations);
  await targets.recover();
  await migrations.recover();
  recovered.resolve();

  const parts = { cluster, journal, events, peers, migrations, version: packageJson.version, listen: listener.address };
  const socketPath = join(config.runDir, "agent.sock");
  starting.use(await serveControl(socketPath, connectNodeAdapter({ routes: (router) => controlRoutes(router, parts), interceptors })));
  starting.defer(() => ending.abort());
  announce(cluster, log, listener.address);

  const running = starting.move();
  return {
    socketPath,
    listen: listener.address,
    async [Symbol.asyncDispose]() {
      await sessions.disposeAsync(); // while whoever follows them, here or on another host, still can
      await running.disposeAsync();
    },
  };
}

/** Says who the agent is, at its start and whenever that changes. The token is a secret, and logs are read by others than root. */
function announce(cluster: Cluster, log: Logger, address: string): void {
  const say = (): void => {
    const { state } = cluster;
    if (state.kind === "member") log.info({ host: state.self, hosts: [...state.members.keys()], listen: address }, "member of a cluster");
    else
      log.info(
        { listen: address },
        "in no cluster: run `dmigrate init` here, or `dmigrate hosts add` on a member with the token that `dmigrate status` shows here",
      );
  };
  say();
  cluster.on("changed", say);
}

/** What users and peers do wrong is told to them; bugs are for the log. */
function logError(log: Logger, error: DmigrateError): void {
  if (error.fault === "bug") log.error({ err: error }, "a call failed");
  else log.debug({ err: error }, "a call failed");
}
