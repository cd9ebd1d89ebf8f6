/** A process that tracks another one, says so, and goes on until it is killed: `node tracking-process.fixture.ts ADAPTER PID`. */
import { setInterval } from "node:timers";
import { ADAPTERS } from "./adapters.fixture.ts";

const [name = "", pid = ""] = process.argv.slice(2);
const adapter = ADAPTERS[name];
if (adapter === undefined) throw new Error(`there is no tracker by ${name}`);
const tracker = await adapter.begin(Number(pid));
tracker.written();
process.stdout.write("tracking\n");
setInterval(() => tracker.writtenByNow(), 1000);
