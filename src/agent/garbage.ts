/**
 * Takes garbage away at a moment of our own choice. Left to itself V8 does that when it likes: for 45 ms, and on every processor, in the
 * middle of a freeze.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void; // what V8 documents of that flag

/** Takes all of it; nothing else is done meanwhile, for some ten milliseconds. */
export function collectGarbage(): void {
  collect();
}
