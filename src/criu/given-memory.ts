/**
 * Has CRIU map files that it is given where it would restore shared memory, as files that it inherits (`--inherit-fd`): what was copied
 * ahead is the tasks' memory then, and nobody copies it once more.
 *
 * CRIU dumps memory that has no name as a memfd and knows only regular files that are given (criu/files-reg.c, `open_path`). So those
 * memfds become regular files in the images: an entry each, and a bit of each mapping.
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { DmigrateError } from "../core/errors.ts";
import { entriesOf, fieldsOf, numberField, varint, type Field } from "./image-entries.ts";

/** images/mm.proto, mm_entry. */
const VMAS = 14;
/** images/vma.proto, vma_entry; of a mapped file the shmid is the file's id. */
const VMA = { START: 1, FILE: 4, STATUS: 7 } as const;
/** criu/include/image.h, VMA_AREA_MEMFD: in the third byte of a status, which has three. */
const MEMFD_BIT = 1n << 14n;
/** images/fdinfo.proto, file_entry and fd_types. */
const FILE = { TYPE: 1, ID: 2, REGULAR: 3, MEMFD: 20 } as const;
const TYPE_REGULAR = 1;
/** images/memfd.proto, memfd_file_entry. */
const MEMFD = { FLAGS: 2, POSITION: 3, OWNER: 4, INODE: 5 } as const;
/** images/regfile.proto, reg_file_entry. */
const REGULAR = { ID: 1, FLAGS: 2, POSITION: 3, OWNER: 5, NAME: 6, IS_EXTERNAL: 9 } as const;

/** Memory that is to be a file that is given. */
export interface GivenMemory {
  /** By which that is known. */
  readonly object: number;
  /** A process id inside the container, and where that has it mapped. */
  readonly process: number;
  readonly start: number;
}

/** By what name CRIU is to find the file among those that it inherits. */
export function nameOfGiven(object: number): string {
  return `/dmigrate-shared-${object}`;
}

/** Amends a folder of images: all mappings of these files. Throws PROTOCOL if they are not mapped so. */
export function mapGiven(images: string, memory: readonly GivenMemory[]): void {
  const read = (name: string): Buffer => readFileSync(`${images}/${name}`);
  const names = new Map<bigint, string>();
  for (const { object, process, start } of memory) names.set(fileAt(read(`mm-${process}.img`), BigInt(start)), nameOfGiven(object));
  const { image, files } = withRegularFiles(read("files.img"), names);
  writeFileSync(`${images}/files.img`, image);
  for (const name of readdirSync(images).filter((each) => /^mm-\d+\.img$/.test(each))) {
    const mappings = read(name);
    if (mendMappings(mappings, files) > 0) writeFileSync(`${images}/${name}`, mappings);
  }
}

/** The id of the memfd that is mapped there. */
function fileAt(mmImage: Uint8Array, start: bigint): bigint {
  for (const { start: at, file, status } of mappingsIn(mmImage)) if (at === start && isMemfd(status)) return file;
  throw malformed();
}

/**
 * The image of files, in which each memfd of the same inode as one of these is a regular file.
 * @param names by the ids of files
 * @returns the ids of all that are now
 */
function withRegularFiles(filesImage: Buffer, names: ReadonlyMap<bigint, string>): { image: Buffer; files: ReadonlySet<bigint> } {
  const memfds = [...entriesOf(filesImage)].flatMap(({ start, end }) => {
    const memfd = memfdIn(filesImage, start, end);
    return memfd === undefined ? [] : [{ start, end, ...memfd }];
  });
  const nameOfInode = new Map(memfds.flatMap(({ id, inode }) => (names.has(id) ? [[inode, names.get(id) ?? ""] as const] : [])));
  if (nameOfInode.size < names.size) throw malformed();
  const parts: Uint8Array[] = [];
  const files = new Set<bigint>();
  let copied = 0;
  for (const { start, end, id, inode, fields } of memfds) {
    const name = nameOfInode.get(inode);
    if (name === undefined) continue;
    const entry = regularFile(filesImage, id, name, fields);
    const length = Buffer.alloc(LENGTH_BYTES);
    length.writeUInt32LE(entry.length);
    parts.push(filesImage.subarray(copied, start - LENGTH_BYTES), length, entry);
    copied = end;
    files.add(id);
  }
  return { image: Buffer.concat([...parts, filesImage.subarray(copied)]), files };
}

/** Of an entry's length, before it. */
const LENGTH_BYTES = 4;

interface Memfd {
  readonly id: bigint;
  readonly inode: bigint;
  readonly fields: readonly Field[];
}

function memfdIn(filesImage: Uint8Array, start: number, end: number): Memfd | undefined {
  const entry = [...fieldsOf(filesImage, start, end)];
  const memfd = entry.find(({ number }) => number === FILE.MEMFD);
  if (memfd === undefined) return undefined;
  const fields = [...fieldsOf(filesImage, memfd.start, memfd.end)];
  return { id: valueOf(entry, FILE.ID), inode: valueOf(fields, MEMFD.INODE), fields };
}

function regularFile(image: Uint8Array, id: bigint, name: string, memfd: readonly Field[]): Buffer {
  const owner = memfd.find(({ number }) => number === MEMFD.OWNER);
  const regular = [
    ...numberField(REGULAR.ID, id),
    ...numberField(REGULAR.FLAGS, valueOf(memfd, MEMFD.FLAGS)),
    ...numberField(REGULAR.POSITION, valueOf(memfd, MEMFD.POSITION)),
    ...bytesField(REGULAR.OWNER, owner === undefined ? [] : image.subarray(owner.start, owner.end)),
    ...bytesField(REGULAR.NAME, Buffer.from(name)),
    ...numberField(REGULAR.IS_EXTERNAL, 1),
  ];
  return Buffer.from([...numberField(FILE.TYPE, TYPE_REGULAR), ...numberField(FILE.ID, id), ...bytesField(FILE.REGULAR, regular)]);
}

/** Takes the mark of a memfd from what maps one of these files, in place; returns how often. */
function mendMappings(mmImage: Uint8Array, files: ReadonlySet<bigint>): number {
  let mendedCount = 0;
  for (const { file, status } of mappingsIn(mmImage)) {
    if (!files.has(file) || !isMemfd(status)) continue;
    const last = status.end - 1;
    mmImage[last] = (mmImage[last] ?? 0) & 0xfe; // a number may be written with more bytes than it needs
    mendedCount += 1;
  }
  return mendedCount;
}

function* mappingsIn(mmImage: Uint8Array): Generator<{ start: bigint; file: bigint; status: Field }, void> {
  for (const { start, end } of entriesOf(mmImage)) {
    for (const mapping of fieldsOf(mmImage, start, end)) {
      if (mapping.number !== VMAS) continue;
      const fields = [...fieldsOf(mmImage, mapping.start, mapping.end)];
      const status = fields.find(({ number }) => number === VMA.STATUS);
      if (status !== undefined) yield { start: valueOf(fields, VMA.START), file: valueOf(fields, VMA.FILE), status };
    }
  }
}

/** A status with higher bits is none that this knows. */
function isMemfd({ value, start, end }: Field): boolean {
  return (value & MEMFD_BIT) !== 0n && end - start === 3;
}

function valueOf(fields: readonly Field[], number: number): bigint {
  return fields.find((field) => field.number === number)?.value ?? 0n;
}

function bytesField(number: number, content: Uint8Array | readonly number[]): number[] {
  return [...varint(BigInt((number << 3) | 2)), ...varint(BigInt(content.length)), ...content];
}

function malformed(): DmigrateError {
  return new DmigrateError("PROTOCOL", "CRIU's images lack memory that was copied ahead; update both agents to the same release");
}
