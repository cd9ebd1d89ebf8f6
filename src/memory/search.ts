/**
 * Search among ascending values. Pure.
 */

/** Which of `count` ascending values is the last that is at most `limit`; -1 if none is. */
export function lastAtMost(limit: number, count: number, valueAt: (at: number) => number | undefined): number {
  let low = -1;
  for (let high = count; high - low > 1;) {
    const middle = (low + high) >> 1;
    if ((valueAt(middle) ?? Infinity) <= limit) low = middle;
    else high = middle;
  }
  return low;
}
