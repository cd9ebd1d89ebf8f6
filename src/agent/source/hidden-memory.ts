/**
 * Shared memory that was copied ahead, in the freeze: CRIU is kept from dumping it, and what has changed since is sent while CRIU works
 * on both hosts.
 */
import { FileDecoys } from "../../criu/file-decoy.ts";
import type { ShowDecoy } from "../../criu/lazy-dump.ts";
import { writeEmptied, type EmptiedMemory } from "../../criu/shared-memory.ts";
import type { ReadMappings } from "../../kernel/maps.ts";
import type { SharedObject } from "../../kernel/shared-objects.ts";
import type { SharedRounds } from "../../memory/shared-rounds.ts";
import { CHANNELS } from "../channels.ts";
import { sendStream, type Channel } from "../link.ts";
import type { SourceScope } from "./scope.ts";

/** What is ready for it before the freeze. */
interface Parts {
  readonly rounds: SharedRounds;
  readonly decoys: FileDecoys;
  readonly channel: Channel;
}

export class HiddenMemory implements Disposable {
  readonly #scope: SourceScope;
  readonly #parts: Parts | undefined;
  #hidden: ReadonlyMap<bigint, SharedObject> = new Map();

  private constructor(scope: SourceScope, parts: Parts | undefined) {
    this.#scope = scope;
    this.#parts = parts;
  }

  /**
   * Makes everything ready; the container runs. Throws KERNEL.
   * @param rounds undefined if nothing was copied ahead: then CRIU dumps all that there is
   */
  static async prepare(scope: SourceScope, rounds: SharedRounds | undefined, show: ShowDecoy): Promise<HiddenMemory> {
    const objects = rounds?.objects();
    if (rounds === undefined || objects === undefined || objects.size === 0) return new HiddenMemory(scope, undefined);
    using decoys = new DisposableStack();
    const made = decoys.use(new FileDecoys(show));
    await made.prepare(objects);
    const channel = await scope.channel(CHANNELS.lastSharedMemory, "memory");
    decoys.move();
    return new HiddenMemory(scope, { rounds, decoys: made, channel });
  }

  /**
   * Sees to it that CRIU finds empty what was copied ahead, of tasks that are frozen now. Throws DUMP_FAILED, KERNEL.
   * @param tasks process ids on this host by those inside the container
   * @param read reads their mappings
   */
  async update(tasks: ReadonlyMap<number, number>, read: ReadMappings): Promise<void> {
    if (this.#parts === undefined) return;
    const { rounds, decoys } = this.#parts;
    this.#hidden = await decoys.update(new Set(tasks.values()), rounds.objects(read), read);
  }

  /**
   * Says among the images what is empty in them, and sends what has changed since it was copied; returns when the target has all of it.
   * The tasks stand still until then.
   */
  async send(images: string, tasks: ReadonlyMap<number, number>): Promise<void> {
    if (this.#parts === undefined) return;
    const { rounds, channel } = this.#parts;
    const processes = new Map([...tasks].map(([process, pid]) => [pid, process]));
    const emptied = [...this.#hidden.values()].map(({ inode, mappings: [{ pid, mapping }] }): EmptiedMemory => {
      const { object, size } = rounds.describe(inode);
      return { object, size, process: processes.get(pid) ?? 0, start: mapping.start, end: mapping.end };
    });
    const sendLast = rounds.last(this.#hidden); // looks at what was written before CRIU works
    if (emptied.length > 0) writeEmptied(images, emptied);
    await this.#scope.timeline.step("last shared memory", async () => {
      await sendStream(channel, () => sendLast(channel));
      await channel.close();
    });
  }

  /** CRIU has ended, or not begun. */
  [Symbol.dispose](): void {
    this.#parts?.decoys[Symbol.dispose]();
  }
}
