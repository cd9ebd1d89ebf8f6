/**
 * Gathers facts for a preflight on the host it runs on, as an agent does, and prints them as JSON.
 *
 * `preflight-gather.ts container NAME...` prints a list with the facts and the arrival of each container;
 * `preflight-gather.ts host NAME [ARRIVING]` prints the facts of the host, as the target of what arrives if that is given.
 */
import { hostName } from "../../src/core/ids.ts";
import { describe } from "../../src/docker/describe.ts";
import { Engine, DOCKER_SOCKET } from "../../src/docker/engine.ts";
import { probeNetwork } from "../../src/network/probe.ts";
import { gatherContainer } from "../../src/preflight/container.ts";
import { gatherHost } from "../../src/preflight/host.ts";
import { readArriving, writeArriving } from "../../src/preflight/schema.ts";

const [what, ...names] = process.argv.slice(2);

if (what === "container") {
  const engine = await Engine.connect();
  const gathered = [];
  for (const name of names) {
    const description = await describe(engine, name);
    const facts = await gatherContainer(engine, description);
    const arriving = writeArriving({ needs: facts.needs, description, source: hostName("a") });
    gathered.push({ facts: { ...facts, watchedPaths: [...facts.watchedPaths] }, arriving });
  }
  console.log(JSON.stringify(gathered));
} else {
  const [name = "", arriving] = names;
  const options = {
    host: hostName(name),
    dockerSocket: DOCKER_SOCKET,
    imageFolder: "/run",
    pageHandler: "own" as const,
    tryNetwork: probeNetwork,
    hasMovedAway: () => false,
  };
  const subject = arriving === undefined ? {} : { arriving: readArriving(JSON.parse(arriving)) };
  console.log(JSON.stringify(await gatherHost({ ...options, ...subject })));
}
