/**
 * A link of a certain rate between this network namespace and another one, in which programs can be run.
 */
import { run } from "../../lab/run.ts";

const NAME = "dmigrate-bench";
const [HERE, THERE] = ["198.18.251.1", "198.18.251.2"];

export class ShapedLink implements AsyncDisposable {
  /** Runs a program at the other end. */
  readonly prefix: readonly string[] = ["ip", "netns", "exec", NAME];
  /** Where it can be reached. */
  readonly address: string = THERE;

  /** @param rate bits a second, each way */
  static async create(rate: number): Promise<ShapedLink> {
    await run("ip", "netns", "add", NAME);
    const link = new ShapedLink();
    try {
      await run("ip", "link", "add", NAME, "type", "veth", "peer", "name", "eth0", "netns", NAME);
      await run("ip", "address", "add", `${HERE}/30`, "dev", NAME);
      await run("ip", "link", "set", NAME, "up");
      await run("ip", "-n", NAME, "address", "add", `${THERE}/30`, "dev", "eth0");
      await run("ip", "-n", NAME, "link", "set", "eth0", "up");
      const shape = ["root", "tbf", "rate", `${rate}bit`, "burst", "128kb", "latency", "200ms"];
      await run("tc", "qdisc", "add", "dev", NAME, ...shape);
      await run("tc", "-n", NAME, "qdisc", "add", "dev", "eth0", ...shape);
      return link;
    } catch (error) {
      await link[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The veth goes with the namespace. */
  async [Symbol.asyncDispose](): Promise<void> {
    await run("ip", "netns", "delete", NAME);
  }
}
