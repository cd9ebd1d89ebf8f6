/**
 * Redis' protocol RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/). Pure: commands to bytes, bytes to replies.
 */
import { DmigrateError } from "../../src/core/errors.ts";

/** A reply of the server. Strings are taken as bytes; an error is a value, for the server goes on after it. */
export type Reply = Buffer | number | null | RespError | Reply[];

/** An error that the server replied, like `ERR unknown command`. */
export class RespError {
  readonly message: string;

  constructor(message: string) {
    this.message = message;
  }
}

/** A command: its name and arguments. */
export type Command = readonly (string | Buffer)[];

const CRLF = Buffer.from("\r\n");

/** Encodes commands one after the other, to be sent as one. */
export function encodeCommands(commands: readonly Command[]): Buffer {
  const parts: Buffer[] = [];
  let text = "";
  for (const command of commands) {
    text += `*${command.length}\r\n`;
    for (const argument of command) {
      if (typeof argument === "string") {
        text += `$${Buffer.byteLength(argument)}\r\n${argument}\r\n`;
      } else {
        parts.push(Buffer.from(`${text}$${argument.length}\r\n`), argument);
        text = "\r\n";
      }
    }
  }
  parts.push(Buffer.from(text));
  return Buffer.concat(parts);
}

/**
 * Takes replies out of a byte stream that arrives in pieces of any size. Strings of the replies are copies.
 * After an error the decoder must be discarded.
 */
export class ReplyDecoder {
  private pending: Buffer = Buffer.alloc(0);

  /** Takes the next piece; returns the replies that it completes. Throws PROTOCOL if the stream is none of redis. */
  push(piece: Buffer): Reply[] {
    const bytes = this.pending.length === 0 ? piece : Buffer.concat([this.pending, piece]);
    const replies: Reply[] = [];
    let position = 0;
    for (;;) {
      const parsed = parseReply(bytes, position);
      if (parsed === undefined) break;
      replies.push(parsed.reply);
      position = parsed.end;
    }
    this.pending = Buffer.from(bytes.subarray(position));
    return replies;
  }
}

interface Parsed {
  readonly reply: Reply;
  readonly end: number;
}

/** The reply at `start`, or undefined if it is not complete. */
function parseReply(bytes: Buffer, start: number): Parsed | undefined {
  const lineEnd = bytes.indexOf(CRLF, start);
  if (lineEnd < 0) return undefined;
  const line = bytes.toString("latin1", start + 1, lineEnd);
  const next = lineEnd + CRLF.length;
  const type = String.fromCodePoint(bytes[start] ?? 0);
  switch (type) {
    case "+":
      return { reply: Buffer.from(line, "latin1"), end: next };
    case "-":
      return { reply: new RespError(line), end: next };
    case ":":
      return { reply: integer(line), end: next };
    case "$":
      return parseString(bytes, length(line), next);
    case "*":
      return parseArray(bytes, length(line), next);
    default:
      throw new DmigrateError("PROTOCOL", `Unknown reply type ${JSON.stringify(type)}; make sure that a redis listens there`);
  }
}

/** Length of a string or array; -1 stands for null. */
function length(line: string): number {
  const value = integer(line);
  if (value < -1) throw malformed(line);
  return value;
}

function parseString(bytes: Buffer, size: number, start: number): Parsed | undefined {
  if (size === -1) return { reply: null, end: start };
  const end = start + size + CRLF.length;
  if (bytes.length < end) return undefined;
  return { reply: Buffer.from(bytes.subarray(start, start + size)), end };
}

function parseArray(bytes: Buffer, count: number, start: number): Parsed | undefined {
  if (count === -1) return { reply: null, end: start };
  const items: Reply[] = [];
  let position = start;
  while (items.length < count) {
    const item = parseReply(bytes, position);
    if (item === undefined) return undefined;
    items.push(item.reply);
    position = item.end;
  }
  return { reply: items, end: position };
}

function integer(line: string): number {
  if (!/^-?\d{1,15}$/.test(line)) throw malformed(line);
  return Number(line);
}

function malformed(line: string): DmigrateError {
  return new DmigrateError("PROTOCOL", `Malformed number ${JSON.stringify(line)} in a reply; make sure that a redis listens there`);
}
