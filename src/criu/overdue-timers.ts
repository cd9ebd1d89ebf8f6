/**
 * Mends timer descriptors that had fired before the dump and whose ticks nobody had read: CRIU 4.2 restores them disarmed, so that
 * whoever waits for one waits for ever (docs/decisions/0007-overdue-timers.md).
 *
 * Pure. In the image such a descriptor has ticks and no time left until it fires, as a disarmed one has; one nanosecond makes
 * timerfd_settime(2) arm it, and it fires at once.
 */
import { entriesOf, fieldsOf, type Field } from "./image-entries.ts";

/** images/fdinfo.proto, file_entry; images/timerfd.proto, timerfd_entry. */
const FILE_TIMERFD = 12;
const TIMER = { TICKS: 5, VALUE_SECONDS: 7, VALUE_NANOSECONDS: 8 } as const;

/** Mends `files.img` in place; returns how many timers there were to mend. Throws PROTOCOL if it is no such image. */
export function mendOverdueTimers(filesImage: Uint8Array): number {
  let mendedCount = 0;
  for (const { start, end } of entriesOf(filesImage)) {
    for (const file of fieldsOf(filesImage, start, end)) {
      if (file.number === FILE_TIMERFD && mend(filesImage, file)) mendedCount += 1;
    }
  }
  return mendedCount;
}

function mend(image: Uint8Array, timer: Field): boolean {
  const fields = new Map([...fieldsOf(image, timer.start, timer.end)].map((field) => [field.number, field]));
  const nanoseconds = fields.get(TIMER.VALUE_NANOSECONDS);
  const isOverdue =
    (fields.get(TIMER.TICKS)?.value ?? 0n) > 0n && fields.get(TIMER.VALUE_SECONDS)?.value === 0n && nanoseconds?.value === 0n;
  if (!isOverdue) return false;
  image[nanoseconds.start] = 1; // a varint of one byte, as the 0 it replaces
  return true;
}
