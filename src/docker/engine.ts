/**
 * The Docker Engine of one host: the endpoints of its API that Dmigrate uses, typed. Every method throws DOCKER; `isNotFound` and
 * `refusalOf` tell what kind of refusal it was.
 */
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import * as z from "zod";
import { DmigrateError } from "../core/errors.ts";
import {
  createdContainer,
  engineEvent,
  engineInfo,
  engineVersion,
  inspectedContainer,
  inspectedExec,
  inspectedImage,
  inspectedNetwork,
  inspectedVolume,
  listedContainer,
  listedImage,
  type CreatedContainer,
  type EngineInfo,
  type InspectedContainer,
  type InspectedExec,
  type InspectedImage,
  type InspectedNetwork,
  type InspectedVolume,
  type ListedContainer,
  type ListedImage,
  type RestartPolicy,
} from "./inspect.ts";
import { Transport, type CallOptions, unless } from "./transport.ts";

/** Where dockerd listens unless it was told otherwise. */
export const DOCKER_SOCKET = "/run/docker.sock";

/** 1.44 is the first that takes several networks and a MAC address for each in one create request. */
const API_MIN = 44;
/** 1.52 begins to leave out parts of inspections, and to refuse requests that follow from older ones. */
const API_MAX = 51;

/** What somebody may ask an engine to do with a container: to send it a signal, which may end it, to pause it, to change its settings. */
export type ContainerRequest =
  | { readonly kind: "signal"; readonly signal: number }
  | { readonly kind: "pause" | "unpause" }
  /** `action` as the engine calls it, like `update`. */
  | { readonly kind: "change"; readonly action: string };

/** What an engine that is listened to tells: also that it ends. */
export type EngineNews = ContainerRequest | { readonly kind: "engine-end" };

/** Filters of a list, as the API takes them. */
export type Filters = Readonly<Record<string, readonly string[]>>;

export class Engine {
  readonly #transport: Transport;

  private constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Agrees with the engine on a version of its API. */
  static async connect(socketPath: string = DOCKER_SOCKET): Promise<Engine> {
    const transport = new Transport(socketPath, "");
    const version = understood(engineVersion, "GET /version", await transport.json("GET", "/version"));
    const newest = Math.min(API_MAX, minor(version.ApiVersion));
    if (newest < API_MIN || newest < minor(version.MinAPIVersion)) {
      throw new DmigrateError(
        "DOCKER",
        `Docker Engine ${version.Version} speaks API ${version.MinAPIVersion} to ${version.ApiVersion}, ` +
          `Dmigrate 1.${API_MIN} to 1.${API_MAX}; update whichever is older (Docker 25 is the first that works)`,
      );
    }
    return new Engine(transport.with({ prefix: `/v1.${newest}` }));
  }

  /** The same engine; `signal` ends every request under way and to come. */
  until(signal: AbortSignal): Engine {
    return new Engine(this.#transport.with({ signal }));
  }

  info(): Promise<EngineInfo> {
    return this.#ask(engineInfo, "GET", "/info");
  }

  /** Running containers; with `all` the others too. */
  listContainers(options: { readonly all?: boolean; readonly filters?: Filters } = {}): Promise<ListedContainer[]> {
    return this.#ask(z.array(listedContainer), "GET", "/containers/json", {
      query: { all: options.all, filters: filterText(options.filters) },
    });
  }

  /** Waits while the container is being started. */
  inspectContainer(nameOrId: string): Promise<InspectedContainer> {
    return this.#ask(inspectedContainer, "GET", `/containers/${encodeURIComponent(nameOrId)}/json`);
  }

  createContainer(name: string, body: object): Promise<CreatedContainer> {
    return this.#ask(createdContainer, "POST", "/containers/create", { query: { name }, body });
  }

  /** Returns when the runtime has created and started it, however long that takes. One that runs already is no error. */
  async startContainer(id: string): Promise<void> {
    await this.#transport.with({ limitMs: Infinity }).json("POST", `/containers/${encodeURIComponent(id)}/start`);
  }

  /** Sends the first task of a running container a signal, by its number. */
  async killContainer(id: string, signal: number): Promise<void> {
    await this.#transport.json("POST", `/containers/${encodeURIComponent(id)}/kill`, { query: { signal: String(signal) } });
  }

  /** Sets the restart policy. Has runc set the cgroup's limits anew, so not while the cgroup is frozen. */
  async updateContainer(id: string, update: { readonly RestartPolicy: RestartPolicy }): Promise<void> {
    await this.#transport.json("POST", `/containers/${encodeURIComponent(id)}/update`, { body: update });
  }

  /** @param options `force` kills it first; `volumes` removes its anonymous volumes too */
  async removeContainer(id: string, options: { readonly force?: boolean; readonly volumes?: boolean } = {}): Promise<void> {
    await this.#transport.json("DELETE", `/containers/${encodeURIComponent(id)}`, { query: { force: options.force, v: options.volumes } });
  }

  /** Waits until a container does not run, or until the engine has removed it. */
  async awaitContainer(id: string, condition: "not-running" | "removed"): Promise<void> {
    await this.#transport.with({ limitMs: Infinity }).json("POST", `/containers/${encodeURIComponent(id)}/wait`, { query: { condition } });
  }

  /**
   * What somebody has asked the engine to do with a container since then (Unix time). Of its networks this tells nothing: a start that
   * fails connects and disconnects them.
   */
  async requestsSince(id: string, sinceMs: number): Promise<readonly ContainerRequest[]> {
    const period = { since: (sinceMs / 1000).toFixed(3), until: (Date.now() / 1000).toFixed(3) }; // without an end they would go on
    const query = { ...period, filters: filterText({ container: [id], event: CONTAINER_EVENTS }) };
    const events = await text(await this.#transport.stream("GET", "/events", { query }));
    return events.split("\n").flatMap((line) => (line === "" ? [] : [requestIn(line).request]));
  }

  /**
   * Begins to listen, until `signal`.
   * @param id in full
   * @param told is called when somebody asks the engine to do something with the container, and when the engine ends
   */
  async watchRequests(id: string, told: (news: EngineNews) => void, signal: AbortSignal): Promise<void> {
    const query = { filters: filterText({ event: [...CONTAINER_EVENTS, "connect", "disconnect"] }) };
    const events = await this.#transport.with({ signal }).stream("GET", "/events", { query });
    const lines = createInterface(events);
    lines.on("line", (line) => {
      const { container, request } = requestIn(line);
      if (container === id) told(request);
    });
    lines.on("error", () => {
      if (!signal.aborted) told({ kind: "engine-end" });
    });
    events.once("end", () => told({ kind: "engine-end" }));
  }

  /** What `docker exec` started in a container, by the ids of its inspection. */
  inspectExec(id: string): Promise<InspectedExec> {
    return this.#ask(inspectedExec, "GET", `/exec/${encodeURIComponent(id)}/json`);
  }

  listNetworks(): Promise<InspectedNetwork[]> {
    return this.#ask(z.array(inspectedNetwork), "GET", "/networks");
  }

  inspectNetwork(nameOrId: string): Promise<InspectedNetwork> {
    return this.#ask(inspectedNetwork, "GET", `/networks/${encodeURIComponent(nameOrId)}`);
  }

  /**
   * Whether this engine has begun after that, in Unix time, and ended the containers of the one before it: without live-restore it makes
   * the default bridge anew when it begins (moby's daemon/daemon_unix.go, initNetworkController). One without that bridge never has.
   */
  async hasBegunSince(sinceMs: number): Promise<boolean> {
    const bridge = await this.inspectNetwork("bridge").catch(unless(404));
    return bridge?.Created !== undefined && Date.parse(bridge.Created) > sinceMs;
  }

  async createNetwork(body: object): Promise<void> {
    await this.#transport.json("POST", "/networks/create", { body });
  }

  async removeNetwork(nameOrId: string): Promise<void> {
    await this.#transport.json("DELETE", `/networks/${encodeURIComponent(nameOrId)}`);
  }

  inspectVolume(name: string): Promise<InspectedVolume> {
    return this.#ask(inspectedVolume, "GET", `/volumes/${encodeURIComponent(name)}`);
  }

  createVolume(body: object): Promise<InspectedVolume> {
    return this.#ask(inspectedVolume, "POST", "/volumes/create", { body });
  }

  async removeVolume(name: string): Promise<void> {
    await this.#transport.json("DELETE", `/volumes/${encodeURIComponent(name)}`);
  }

  /** With `all` also the images between others' layers that older builders left. */
  listImages(options: { readonly all?: boolean } = {}): Promise<ListedImage[]> {
    return this.#ask(z.array(listedImage), "GET", "/images/json", { query: { all: options.all } });
  }

  inspectImage(reference: string): Promise<InspectedImage> {
    return this.#ask(inspectedImage, "GET", `/images/${imagePath(reference)}/json`);
  }

  /** Gives an image one more name, `REPOSITORY:TAG`, taking it from the image that has it. */
  async tagImage(id: string, name: string): Promise<void> {
    const colon = name.lastIndexOf(":");
    await this.#transport.json("POST", `/images/${imagePath(id)}/tag`, {
      query: { repo: name.slice(0, colon), tag: name.slice(colon + 1) },
    });
  }

  /** Takes a name from an image, and removes the image with its last name, or by its id if nothing uses it. */
  async removeImage(reference: string): Promise<void> {
    await this.#transport.json("DELETE", `/images/${imagePath(reference)}`);
  }

  /** The image as a tar archive; without names if asked for by its id. The engine writes all of it to disk before the first byte comes. */
  saveImage(reference: string): Promise<Readable> {
    return this.#transport.stream("GET", "/images/get", { query: { names: reference } });
  }

  /** Takes such an archive; what goes wrong after the first byte of the answer stands in the answer. */
  loadImage(archive: AsyncIterable<Uint8Array>): Promise<Readable> {
    return this.#transport.stream("POST", "/images/load", { query: { quiet: true }, upload: archive });
  }

  async #ask<T>(schema: z.ZodType<T>, method: string, path: string, options?: CallOptions): Promise<T> {
    return understood(schema, `${method} ${path}`, await this.#transport.json(method, path, options));
  }
}

function understood<T>(schema: z.ZodType<T>, what: string, answer: unknown): T {
  const result = schema.safeParse(answer);
  if (result.success) return result.data;
  throw new DmigrateError(
    "DOCKER",
    `Docker Engine answered ${what} in another form than expected: ${z.prettifyError(result.error)}; report this with \`docker version\``,
    result.error,
  );
}

/** `44` of `1.44`. */
function minor(version: string): number {
  return Number(/^1\.(\d+)$/.exec(version)?.[1] ?? 0);
}

function filterText(filters: Filters | undefined): string | undefined {
  return filters === undefined ? undefined : JSON.stringify(filters);
}

/** The event of a request to stop or kill a container, and those of requests to change its settings, or its files (`docker cp`). */
const CONTAINER_EVENTS = ["kill", "extract-to-dir", "pause", "rename", "unpause", "update"];

/** @param line an event as the engine writes it */
function requestIn(line: string): { readonly container: string | undefined; readonly request: ContainerRequest } {
  const { Type, Action, Actor } = understood(engineEvent, "GET /events", JSON.parse(line));
  const container = Type === "network" ? Actor.Attributes?.["container"] : Actor.ID;
  if (Action === "kill") return { container, request: { kind: "signal", signal: Number(Actor.Attributes?.["signal"]) } };
  if (Action === "pause" || Action === "unpause") return { container, request: { kind: Action } };
  return { container, request: { kind: "change", action: Action } };
}

/** A reference may contain slashes, which the engine wants as they are. */
function imagePath(reference: string): string {
  return reference.split("/").map(encodeURIComponent).join("/");
}
