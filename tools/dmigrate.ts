/** The command `dmigrate` as a checkout has it: with the lab and the demo, which a package lacks. */
import { runCli } from "../src/cli/program.ts";
import { processSurroundings } from "../src/cli/surroundings.ts";

const exitCode = await runCli(process.argv.slice(2), processSurroundings(), async (program) => {
  const { register } = await import("../lab/cli.ts");
  register(program);
});
process.exitCode ||= exitCode; // the lab's commands set it themselves
