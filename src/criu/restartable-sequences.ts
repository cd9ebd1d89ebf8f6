/**
 * Where the kernel writes into the memory of threads by itself, as CRIU's images tell: a thread's area of rseq(2) says on which processor
 * it runs, and is written whenever it goes on, also by CRIU's hand, and on the target anew.
 */
import { existsSync, readFileSync } from "node:fs";
import type { AddressRange } from "../kernel/pagemap.ts";
import { entriesOf, fieldsOf, type Field } from "./image-entries.ts";

/** images/pstree.proto, pstree_entry. */
const PSTREE = { PID: 1, THREADS: 5 } as const;
/** images/core.proto: the thread_core_entry of a core_entry, and the rseq_entry in it. */
const THREAD_CORE = 5;
const RSEQ = 15;
/** images/rseq.proto. */
const RSEQ_ENTRY = { POINTER: 1, SIZE: 2 } as const;

/** The areas of each process, by its id inside the container. Throws PROTOCOL for an image that is none. */
export function readKernelAreas(images: string): Map<number, AddressRange[]> {
  const pstree = readFileSync(`${images}/pstree.img`);
  const processes = [...entriesOf(pstree)].map(({ start, end }) => {
    const fields = [...fieldsOf(pstree, start, end)];
    const threads = fields.filter(({ number }) => number === PSTREE.THREADS).map(({ value }) => Number(value));
    const process = Number(valueOf(fields, PSTREE.PID));
    return [process, threads.flatMap((thread) => areasOf(`${images}/core-${thread}.img`))] as const;
  });
  return new Map(processes);
}

/** Of one thread: that which it has registered. What is left of one that has ended has no image. */
function areasOf(file: string): AddressRange[] {
  if (!existsSync(file)) return [];
  const core = readFileSync(file);
  const inside = (fields: readonly Field[], number: number): Field[] => {
    const field = fields.find((each) => each.number === number);
    return field === undefined ? [] : [...fieldsOf(core, field.start, field.end)];
  };
  return [...entriesOf(core)].flatMap(({ start, end }) => {
    const entry = inside(inside([...fieldsOf(core, start, end)], THREAD_CORE), RSEQ);
    const [address, byteCount] = [Number(valueOf(entry, RSEQ_ENTRY.POINTER)), Number(valueOf(entry, RSEQ_ENTRY.SIZE))];
    return address === 0 ? [] : [{ start: address, end: address + byteCount }];
  });
}

function valueOf(fields: readonly Field[], number: number): bigint {
  return fields.find((field) => field.number === number)?.value ?? 0n;
}
