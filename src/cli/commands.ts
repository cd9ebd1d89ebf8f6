/** What each command does: most are one call to the agent, its answer as text or as JSON. */
import { ERROR_CODES } from "../core/errors.ts";
import { hostName, migrationId } from "../core/ids.ts";
import type { RequestableMode } from "../core/migration.ts";
import { answer, type Command, type Invocation } from "./invocation.ts";
import { blockersOf, renderCheck, renderHosts, renderMigrations, renderStatus } from "./render-lists.ts";
import { renderReport } from "./render-report.ts";

export { complete, completion } from "./completion.ts";
export { migrate, watch } from "./follow.ts";

const SLOW_MS = 1000;

/** Says at a terminal what takes so long, if it does. */
async function toldIfSlow<T>({ err }: Invocation, what: string, work: Promise<T>): Promise<T> {
  const timer = err.isTerminal ? setTimeout(() => err.write(`${what}\n`), SLOW_MS) : undefined;
  try {
    return await work;
  } finally {
    clearTimeout(timer);
  }
}

type CheckOptions = { readonly mode: RequestableMode };
export const check: Command<[container: string, host: string, options: CheckOptions]> = async (invocation, container, host, { mode }) => {
  const target = hostName(host);
  const checking = invocation.client.check(container, target, mode);
  const result = await toldIfSlow(invocation, `Examining ${container} and both hosts ...`, checking);
  answer(invocation, result, (value, { paint }) => renderCheck(value, paint));
  return blockersOf(result).length > 0 ? ERROR_CODES.PREFLIGHT_BLOCKED.exitCode : 0;
};

export const list: Command<[]> = async (invocation) => {
  const migrations = await invocation.client.list();
  answer(invocation, { migrations }, (_value, { paint }) => renderMigrations(migrations, invocation.now(), paint));
  return 0;
};

export const report: Command<[id: string]> = async (invocation, id) => {
  answer(invocation, await invocation.client.report(migrationId(id)), (value, { columns, paint }) => renderReport(value, columns, paint));
  return 0;
};

type CancelOptions = { readonly takeBack: boolean };
export const cancel: Command<[id: string, options: CancelOptions]> = async (invocation, text, { takeBack }) => {
  const id = migrationId(text);
  await toldIfSlow(invocation, `Undoing ${id} ...`, invocation.client.cancel(id, { takeBack }));
  answer(invocation, { cancelled: id }, () => [
    `Cancelled ${id}: its container keeps running on the source, and nothing is left on the target.`,
  ]);
  return 0;
};

export const status: Command<[]> = async (invocation) => {
  answer(invocation, await invocation.client.status(), (value, { paint }) => renderStatus(value, paint));
  return 0;
};

export const init: Command<[name: string, options: { readonly address: string }]> = async (invocation, name, { address }) => {
  const host = await invocation.client.init(hostName(name), address);
  answer(invocation, host, () => [
    `This host is ${host.name}, the first of a new cluster; others reach it at ${host.address}.`,
    `Add another: run \`dmigrate status\` there for its token, then here \`dmigrate hosts add NAME ADDRESS --token TOKEN\`.`,
  ]);
  return 0;
};

export const hostsList: Command<[]> = async (invocation) => {
  const hosts = await invocation.client.hosts();
  answer(invocation, { hosts }, (_value, { paint }) => renderHosts(hosts, paint));
  return 0;
};

type AddOptions = { readonly token: string };
export const hostsAdd: Command<[name: string, address: string, options: AddOptions]> = async (invocation, name, address, { token }) => {
  const { warnings } = await invocation.client.addHost(hostName(name), address, token);
  answer(invocation, { added: name, warnings }, () => [`Host ${name} is a member now.`, ...warnings.map((text) => `warning: ${text}`)]);
  return 0;
};

export const hostsRemove: Command<[name: string]> = async (invocation, name) => {
  const { warnings } = await invocation.client.removeHost(hostName(name));
  answer(invocation, { removed: name, warnings }, () => [
    `Host ${name} is no member any more.`,
    ...warnings.map((text) => `warning: ${text}`),
  ]);
  return 0;
};
