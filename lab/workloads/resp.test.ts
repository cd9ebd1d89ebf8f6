/**
 * Redis' protocol, however its bytes are cut.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { encodeCommands, ReplyDecoder, RespError, type Reply } from "./resp.ts";

test("commands are encoded as the protocol's documentation shows", () => {
  assert.equal(encodeCommands([["LLEN", "mylist"]]).toString(), "*2\r\n$4\r\nLLEN\r\n$6\r\nmylist\r\n");
  const bytes = Buffer.from([0, 13, 10, 255]);
  const expected = Buffer.concat([
    Buffer.from("*3\r\n$3\r\nSET\r\n$2\r\n\u00e9\r\n$4\r\n"),
    bytes,
    Buffer.from("\r\n*1\r\n$4\r\nPING\r\n"),
  ]);
  assert.deepEqual(encodeCommands([["SET", "\u00e9", bytes], ["PING"]]), expected);
});

test("replies of every kind are decoded", () => {
  const stream = "+OK\r\n-ERR no\r\n:-7\r\n$5\r\nab\r\nc\r\n$0\r\n\r\n$-1\r\n*2\r\n:1\r\n*1\r\n$1\r\nx\r\n*-1\r\n*0\r\n";
  assert.deepEqual(new ReplyDecoder().push(Buffer.from(stream)), [
    Buffer.from("OK"),
    new RespError("ERR no"),
    -7,
    Buffer.from("ab\r\nc"),
    Buffer.alloc(0),
    null,
    [1, [Buffer.from("x")]],
    null,
    [],
  ]);
});

test("what is no reply is refused", () => {
  for (const stream of ["HTTP/1.1 400\r\n", "$x\r\n", ":1e5\r\n", "$99999999999999999999\r\n", "$-2\r\n", "*-2\r\n"]) {
    assert.throws(() => new ReplyDecoder().push(Buffer.from(stream)), { code: "PROTOCOL" }, stream);
  }
});

const { reply: anyReply } = fc.letrec<{ reply: Reply }>((tie) => ({
  reply: fc.oneof(
    { depthSize: "small" },
    fc.uint8Array().map((bytes) => Buffer.from(bytes)),
    fc.integer(),
    fc.constant(null),
    fc.stringMatching(/^[A-Z]+ [a-z ]*$/).map((text) => new RespError(text)),
    fc.array(tie("reply"), { maxLength: 4 }),
  ),
}));

function encodeReply(reply: Reply): Buffer {
  if (reply === null) return Buffer.from("$-1\r\n");
  if (typeof reply === "number") return Buffer.from(`:${reply}\r\n`);
  if (reply instanceof RespError) return Buffer.from(`-${reply.message}\r\n`);
  if (Buffer.isBuffer(reply)) return Buffer.concat([Buffer.from(`$${reply.length}\r\n`), reply, Buffer.from("\r\n")]);
  return Buffer.concat([Buffer.from(`*${reply.length}\r\n`), ...reply.map(encodeReply)]);
}

test("however a stream of replies is cut, the same replies come out", () => {
  fc.assert(
    fc.property(fc.array(anyReply), fc.integer({ min: 1, max: 7 }), (replies, size) => {
      const stream = Buffer.concat(replies.map(encodeReply));
      const decoder = new ReplyDecoder();
      const decoded: Reply[] = [];
      for (let at = 0; at < stream.length; at += size) decoded.push(...decoder.push(stream.subarray(at, at + size)));
      assert.deepEqual(decoded, replies);
    }),
  );
});
