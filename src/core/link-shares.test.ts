/** Migrations that send at the same time, over connections of any speed, in simulated time. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { HELD_MS_MAX, LEAD_BYTES, LinkShares, STRICT_MS, STRICT_SHARE, STUCK_MS, type LinkShare } from "./link-shares.ts";

const FRAME_BYTES = 65_536;

/** A migration that always has something to send that nobody waits for. */
interface Sender {
  readonly share: LinkShare;
  /** How long each of its connections takes for a frame. */
  readonly frameMs: readonly number[];
  /** When each of them is free. */
  readonly freeAtMs: number[];
  sentBytes: number;
  waitsUntilMs: number;
}

function senderOf(shares: LinkShares, peer: string, frameMs: readonly number[]): Sender {
  const sender: Sender = {
    share: shares.join(peer, () => (sender.waitsUntilMs = 0)),
    frameMs,
    freeAtMs: frameMs.map(() => 0),
    sentBytes: 0,
    waitsUntilMs: 0,
  };
  return sender;
}

/** Each sends whatever it may, millisecond by millisecond, from one time up to another. */
function simulate(
  senders: readonly Sender[],
  [fromMs, untilMs]: readonly [number, number],
  each: (nowMs: number) => unknown = () => {},
): void {
  for (let nowMs = fromMs; nowMs < untilMs; nowMs++) {
    for (const { share } of senders) share.ready(true, nowMs);
    for (let hasSent = true; hasSent;) {
      hasSent = false;
      for (const sender of senders) hasSent = sendOne(sender, nowMs) || hasSent;
    }
    each(nowMs);
  }
}

function sendOne(sender: Sender, nowMs: number): boolean {
  const connection = sender.freeAtMs.findIndex((freeAtMs) => freeAtMs <= nowMs);
  if (connection < 0 || sender.waitsUntilMs > nowMs) return false;
  sender.waitsUntilMs = nowMs + sender.share.waitMs(nowMs);
  if (sender.waitsUntilMs > nowMs) return false;
  sender.freeAtMs[connection] = nowMs + (sender.frameMs[connection] ?? 0);
  sender.sentBytes += FRAME_BYTES;
  sender.share.sent(FRAME_BYTES, false, nowMs);
  return true;
}

const connections = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 8 });

test("those that send to the same host get the same, whatever connections they have, and who has got least is never held up", () => {
  fc.assert(
    fc.property(fc.array(connections, { minLength: 2, maxLength: 5 }), (all) => {
      const shares = new LinkShares();
      const senders = all.map((frameMs) => senderOf(shares, "b", frameMs));
      simulate(senders, [0, 500], (nowMs) => {
        const sent = senders.map(({ sentBytes }) => sentBytes);
        const [least, most] = [Math.min(...sent), Math.max(...sent)];
        assert.ok(most - least <= LEAD_BYTES + FRAME_BYTES, `${most} and ${least}`);
        for (const { share, sentBytes } of senders) if (sentBytes === least) assert.equal(share.waitMs(nowMs), 0);
      });
    }),
    { numRuns: 50 },
  );
});

test("those that send to different hosts do not wait for each other", () => {
  const shares = new LinkShares();
  const [slow, quick] = [senderOf(shares, "b", [40]), senderOf(shares, "c", [1])];
  simulate([slow, quick], [0, 400]);
  assert.deepEqual([slow.sentBytes / FRAME_BYTES, quick.sentBytes / FRAME_BYTES], [10, 400]);
});

test("what was not sent for want of something to send is not made up for; what others have ended need not be waited for", () => {
  const shares = new LinkShares();
  const [first, late] = [senderOf(shares, "b", [1]), senderOf(shares, "b", [1])];
  simulate([first], [0, 1000]);
  simulate([first, late], [1000, 1100]);
  assert.deepEqual([first.sentBytes, late.sentBytes], [1100 * FRAME_BYTES, 100 * FRAME_BYTES]);
  first.share.ready(false, 1100);
  simulate([late], [1100, 1500]);
  simulate([first, late], [1500, 1600]);
  assert.deepEqual([first.sentBytes, late.sentBytes], [1200 * FRAME_BYTES, 600 * FRAME_BYTES]);
  late.share.leave(1600);
  simulate([first], [1600, 1700]);
  assert.equal(first.sentBytes, 1300 * FRAME_BYTES);
});

test("who is stuck holds nobody up for longer than a second, and then has no more than its share", () => {
  const shares = new LinkShares();
  const [stuck, other] = [senderOf(shares, "b", [Infinity]), senderOf(shares, "b", [1])];
  simulate([stuck, other], [0, STUCK_MS]);
  assert.equal(other.sentBytes, LEAD_BYTES + FRAME_BYTES);
  simulate([stuck, other], [STUCK_MS, 2 * STUCK_MS]);
  assert.equal(other.sentBytes, LEAD_BYTES + FRAME_BYTES + STUCK_MS * FRAME_BYTES);
  stuck.freeAtMs[0] = 0;
  stuck.share.sent(FRAME_BYTES, false, 2 * STUCK_MS);
  assert.equal(other.share.waitMs(2 * STUCK_MS), 0);
});

test("what somebody waits for in one holds up what nobody waits for in others, of which a byte in sixteen leaves", () => {
  const strictSizes = fc.array(fc.integer({ min: 1, max: FRAME_BYTES }), { minLength: 1, maxLength: 5 });
  fc.assert(
    fc.property(strictSizes, fc.integer({ min: 1, max: 40 }), fc.constantFrom("b", "c"), (sizes, everyMs, peer) => {
      const shares = new LinkShares();
      const [urgent, bulk] = [shares.join("b", () => {}), senderOf(shares, peer, [0])];
      let strictBytes = 0;
      const sendStrict = (nowMs: number): void => {
        const byteCount = sizes[nowMs % sizes.length] ?? 0;
        strictBytes += byteCount;
        urgent.sent(byteCount, true, nowMs);
      };
      sendStrict(0);
      simulate([bulk], [0, 1000], (nowMs) => nowMs % everyMs === 0 && sendStrict(nowMs));
      const least = 1000 / HELD_MS_MAX - 1;
      const most = strictBytes / (STRICT_SHARE - 1) / FRAME_BYTES + 1000 / HELD_MS_MAX + 1;
      const frames = bulk.sentBytes / FRAME_BYTES;
      assert.ok(frames >= least && frames <= most, `${frames} frames, not ${least} to ${most}`);
      assert.equal(bulk.share.waitMs(999 + STRICT_MS), 0);
    }),
  );
});
