/**
 * An agent that serves the pages of a restore from a source that never answers, until it is killed.
 *
 *     node dying-agent.fixture.ts FOLDER
 *
 * It says "listening", waits for its input, says "serving", waits again and says "restored".
 */
import { once } from "node:events";
import path from "node:path";
import { PageStore } from "../../memory/page-store.ts";
import { TrunkStream } from "../../transfer/stream.ts";
import { openTaskPages } from "./pages.ts";

const [folder = ""] = process.argv.slice(2);
const folders = { folder, images: path.join(folder, "images"), work: path.join(folder, "work") };
const pages = openTaskPages("own", folders, new PageStore(0));
process.stdout.write("listening\n");
await once(process.stdin, "data");
const silence = (): TrunkStream =>
  TrunkStream.opening({ ready: () => {}, control: () => {}, over: () => {}, broken: () => {} }, 1, "pages", "demanded");
await pages.serve({ demanded: silence(), ahead: silence(), criu: silence() });
process.stdout.write("serving\n");
await once(process.stdin, "data");
pages.restored();
process.stdout.write("restored\n");
