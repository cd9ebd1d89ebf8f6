/**
 * Keeps the source's engine from starting what a migration has handed over, whoever asks it to (`docker restart`, `docker start`): a
 * container must not run twice.
 *
 * For each start an engine writes the file that becomes /etc/hosts. Where a directory is in its place that fails, and so does the start;
 * the frozen tasks have the file itself mounted, wherever it is by now. A removal takes either along.
 */
import { existsSync, mkdirSync, renameSync, rmdirSync } from "node:fs";

const SUFFIX = ".handed-over";

/**
 * Does nothing to one that was shut.
 * @param hostsFile as the engine shows it (`HostsPath`)
 */
export function shut(hostsFile: string): void {
  if (existsSync(hostsFile + SUFFIX)) return;
  renameSync(hostsFile, hostsFile + SUFFIX);
  mkdirSync(hostsFile);
}

/** For a container that may be started here again. Does nothing to one that was not shut. */
export function reopen(hostsFile: string): void {
  if (!existsSync(hostsFile + SUFFIX)) return;
  rmdirSync(hostsFile);
  renameSync(hostsFile + SUFFIX, hostsFile);
}
