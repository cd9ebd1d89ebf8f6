/**
 * Trees of a whole hierarchy are taken away, those below a cgroup of the container's are left as they are.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { DmigrateError } from "../core/errors.ts";
import { numberField } from "./image-entries.ts";
import { bytesField, imageOf } from "./image-fixture.ts";
import { mendRootCgroups } from "./root-cgroups.ts";

interface Controller {
  readonly name: string;
  /** The tops of its trees. */
  readonly trees: readonly string[];
}

const CHILD = [...bytesField(1, [...Buffer.from("another-container")]), ...bytesField(3, bytesField(1, [...Buffer.from("cpu.shares")]))];
const DIRECTORIES = 2;
const SKIPPED = 15;

test("a tree that begins at the root is skipped, whatever else is in the image", () => {
  const tree = fc.constantFrom("", "docker/0123", "a");
  const controllers = fc.array(fc.record({ name: fc.constantFrom("cpu", "", "name=systemd"), trees: fc.array(tree, { maxLength: 3 }) }));
  fc.assert(
    fc.property(controllers, (all) => {
      const image = cgroupImage(all, () => DIRECTORIES);
      const rootCount = all.flatMap(({ trees }) => trees).filter((top) => top === "").length;
      assert.equal(mendRootCgroups(image), rootCount);
      assert.deepEqual(
        image,
        cgroupImage(all, (top) => (top === "" ? SKIPPED : DIRECTORIES)),
      );
      assert.equal(mendRootCgroups(image), 0);
    }),
  );
});

test("an image that is cut short is refused", () => {
  const image = cgroupImage([{ name: "cpu", trees: ["a"] }], () => DIRECTORIES);
  assert.throws(
    () => mendRootCgroups(image.subarray(0, -1)),
    (error) => error instanceof DmigrateError && error.code === "PROTOCOL",
  );
});

/** A cgroup.img with a set of cgroups before the controllers; `fieldOf` says the number of the field for a tree with that top. */
function cgroupImage(controllers: readonly Controller[], fieldOf: (top: string) => number): Buffer {
  const member = [...bytesField(1, [...Buffer.from("cpu")]), ...bytesField(2, [0x2f])];
  const set = [...numberField(1, 1), ...bytesField(2, member)];
  const entryOf = ({ name, trees }: Controller): number[] => [
    ...bytesField(1, [...Buffer.from(name)]),
    ...trees.flatMap((top) => bytesField(fieldOf(top), [...bytesField(1, [...Buffer.from(top)]), ...bytesField(2, CHILD)])),
    ...numberField(3, 0),
  ];
  return imageOf(0x59383330, [[...bytesField(1, set), ...controllers.flatMap((each) => bytesField(2, entryOf(each)))]]);
}
