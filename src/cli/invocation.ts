/** A command at work: what it gets beside its arguments, and how it answers. */
import type { ControlClient } from "../agent/client.ts";
import type { Output, Surroundings } from "./surroundings.ts";

export interface Invocation extends Surroundings {
  readonly json: boolean;
  readonly client: ControlClient;
}

/** Returns the exit code; errors are thrown. */
export type Command<Arguments extends unknown[]> = (invocation: Invocation, ...args: Arguments) => Promise<number>;

/** Prints an answer as JSON if that was asked for, else as the lines that `render` makes of it. */
export function answer<T>({ json, out }: Invocation, value: T, render: (value: T, out: Output) => readonly string[]): void {
  const lines = json ? [JSON.stringify(value, undefined, 2)] : render(value, out);
  for (const line of lines) out.write(`${line}\n`);
}
