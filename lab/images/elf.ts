/**
 * What a program needs in order to be loaded, read from its ELF file (elf(5), ld.so(8)). Pure: bytes in, facts out.
 */
import { DmigrateError } from "../../src/core/errors.ts";

/** A processor architecture by Docker's name. */
export type Architecture = "amd64" | "arm64";

/** What an ELF file asks the loader for. */
export interface ElfFacts {
  readonly architecture: Architecture;
  /** The loader's path; absent in libraries and static programs. */
  readonly interpreter?: string;
  /** Names of the shared libraries it is linked against. */
  readonly needed: readonly string[];
  /** Folders to search before the system's, `$ORIGIN` not yet replaced. */
  readonly searchPath: readonly string[];
}

const MAGIC = 0x7f454c46;
const CLASS_64 = 2;
const LITTLE_ENDIAN = 1;
const MACHINES: ReadonlyMap<number, Architecture> = new Map([
  [62, "amd64"],
  [183, "arm64"],
]);
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const DT_NEEDED = 1;
const DT_STRTAB = 5;
const DT_RPATH = 15;
const DT_RUNPATH = 29;

interface Segment {
  readonly type: number;
  readonly offset: number;
  readonly address: number;
  readonly size: number;
}

/** Reads an ELF file; undefined if it is none. Throws LAB if it is damaged or made for a machine that the lab does not run on. */
export function readElf(file: Uint8Array): ElfFacts | undefined {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.byteLength < 64 || view.getUint32(0) !== MAGIC) return undefined;
  const architecture = MACHINES.get(view.getUint16(18, true));
  if (view.getUint8(4) !== CLASS_64 || view.getUint8(5) !== LITTLE_ENDIAN || architecture === undefined) {
    throw new DmigrateError("LAB", "Found a program for another machine; the lab's images are made of 64-bit x86 or ARM programs");
  }
  try {
    return { architecture, ...readDynamic(file, view, readSegments(view)) };
  } catch (error) {
    throw new DmigrateError("LAB", "Found a damaged ELF file; build the lab's root file system again", error);
  }
}

function readSegments(view: DataView): Segment[] {
  const tableOffset = Number(view.getBigUint64(32, true));
  const entrySize = view.getUint16(54, true);
  return Array.from({ length: view.getUint16(56, true) }, (_, index) => {
    const at = tableOffset + index * entrySize;
    return {
      type: view.getUint32(at, true),
      offset: Number(view.getBigUint64(at + 8, true)),
      address: Number(view.getBigUint64(at + 16, true)),
      size: Number(view.getBigUint64(at + 32, true)),
    };
  });
}

function readDynamic(file: Uint8Array, view: DataView, segments: readonly Segment[]): Omit<ElfFacts, "architecture"> {
  const interpreter = segments.find(({ type }) => type === PT_INTERP);
  const tags = readTags(
    view,
    segments.find(({ type }) => type === PT_DYNAMIC),
  );
  const strings = offsetOf(tags.find(({ tag }) => tag === DT_STRTAB)?.value ?? 0, segments);
  const texts = (...wanted: number[]): string[] =>
    tags.filter(({ tag }) => wanted.includes(tag)).map(({ value }) => textAt(file, strings + value));
  return {
    ...(interpreter === undefined ? {} : { interpreter: textAt(file, interpreter.offset) }),
    needed: texts(DT_NEEDED),
    searchPath: texts(DT_RPATH, DT_RUNPATH).flatMap((folders) => folders.split(":")),
  };
}

function readTags(view: DataView, dynamic: Segment | undefined): { tag: number; value: number }[] {
  return Array.from({ length: (dynamic?.size ?? 0) / 16 }, (_, index) => {
    const at = (dynamic?.offset ?? 0) + index * 16;
    return { tag: Number(view.getBigUint64(at, true)), value: Number(view.getBigUint64(at + 8, true)) };
  });
}

/** Where in the file lies what is loaded at `address`. */
function offsetOf(address: number, segments: readonly Segment[]): number {
  const segment = segments.find((load) => load.type === PT_LOAD && load.address <= address && address < load.address + load.size);
  return segment === undefined ? 0 : segment.offset + address - segment.address;
}

function textAt(file: Uint8Array, start: number): string {
  const end = file.indexOf(0, start);
  if (end < 0) throw new RangeError(`no string at offset ${start}`);
  return new TextDecoder().decode(file.subarray(start, end));
}
