/**
 * Makes moves of processes between cgroups quick while it matters. Each waits for a grace period of RCU, 11 to 15 ms, unless another one
 * was made just before (cgroup_threadgroup_rwsem in kernel/cgroup/cgroup.c, a percpu semaphore: kernel/rcu/sync.c).
 */
import { writeFileSync } from "node:fs";

/** Shorter than a grace period. */
const INTERVAL_MS = 2;

/**
 * Until this is disposed of, moves do not wait: this process is moved, every now and then, to where it is. That takes 60 us each time, but
 * the first one waits for the grace period, before this returns: so begin while nobody stands still.
 * @param ownProcs cgroup.procs of a cgroup that this process is in
 */
export function keepMovesQuick(ownProcs: string): Disposable {
  const move = (): void => {
    try {
      writeFileSync(ownProcs, String(process.pid));
    } catch {
      // Refused, but only after the semaphore was taken. At worst moves take as long as ever.
    }
  };
  move();
  const timer = setInterval(move, INTERVAL_MS);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
