/**
 * The agent's configuration.
 */

export interface AgentConfig {
  /** Keys, list of hosts, journal; survives a restart of the machine. */
  readonly stateDir: string;
  /** Control socket and what a running migration needs; gone after a restart of the machine. */
  readonly runDir: string;
  /** Address for other hosts. */
  readonly listen: { readonly host: string; readonly port: number };
  /** Docker Engine's unix socket. */
  readonly dockerSocket: string;
}
