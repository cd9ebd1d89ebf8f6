/**
 * Gives another process descriptors of this one: it is stopped for some hundred microseconds and takes them itself (pidfd_getfd(2)). On
 * x86-64.
 */
import { callIn } from "./remote-call.ts";

const CALL = { close: 3, pidfdOpen: 434, pidfdGetfd: 438 } as const;

/** Returns what numbers they have there, in their order; they end there with exec(2). Throws KERNEL. */
export async function giveDescriptors(pid: number, fds: readonly number[]): Promise<number[]> {
  return await callIn(pid, async (thread) => {
    const self = await thread.call("pidfd_open", CALL.pidfdOpen, [process.pid, 0]);
    const given: number[] = [];
    for (const fd of fds) given.push(Number(await thread.call("pidfd_getfd", CALL.pidfdGetfd, [self, fd, 0])));
    await thread.call("close", CALL.close, [self]);
    return given;
  });
}
