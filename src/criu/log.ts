/**
 * Reads CRIU's log for what a user should see of it.
 */

const ERROR_LINE = /^\(\d+\.\d+\)\s*(?:\d+:\s*)?Error \([^)]*\): (.*)$/;

/** Its end, for the log of the agent. */
export function lastLines(log: string): string {
  return log.trimEnd().split("\n").slice(-40).join("\n");
}

/** The last few errors of a log, in order, joined into one line; empty if there is none. */
export function lastErrors(log: string): string {
  const errors: string[] = [];
  for (const line of log.split("\n")) {
    const text = ERROR_LINE.exec(line.trim())?.[1];
    // Without CAP_SYS_RESOURCE CRIU says so at every start, and works all the same.
    if (text !== undefined && !text.startsWith("rlimit:")) errors.push(text.trim());
  }
  return errors.slice(-3).join(", ");
}

/** Which program was killed, by what who uses it says: runc, containerd or a shell, and Docker Engine; undefined if none was. */
export function killedProgram(said: string): "CRIU" | "runc" | "containerd, or its shim," | undefined {
  if (said.includes("read unixpacket")) return "CRIU";
  if (/ttrpc: closed|error reading from server: EOF|containerd\.sock/.test(said)) return "containerd, or its shim,";
  return /^Killed$|exit status 137/.test(said) ? "runc" : undefined;
}
