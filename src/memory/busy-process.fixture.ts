/**
 * A process of tests with threads that write all the time, by themselves and by system calls. It says a word and goes on until it is
 * killed.
 */
import { openSync, readSync } from "node:fs";
import { isMainThread, Worker, workerData } from "node:worker_threads";

const PAGE_BYTES = 4096;
const MEMORY_BYTES = 16 << 20;
const READ_BYTES = 1 << 20;
const THREADS = 2;
/** Some pages are written often, others seldom. */
const HOT_PAGES = 64;

if (isMainThread) {
  const memory = new SharedArrayBuffer(MEMORY_BYTES);
  const threads = Array.from({ length: THREADS }, () => new Worker(new URL(import.meta.url), { workerData: memory }));
  process.stdout.write(`busy with ${threads.length} threads\n`);
} else {
  const words = new Uint32Array(workerData as SharedArrayBuffer); // which the main thread gave
  const wordsOfPage = PAGE_BYTES / Uint32Array.BYTES_PER_ELEMENT;
  const input = openSync("/dev/urandom", "r");
  const buffer = Buffer.alloc(READ_BYTES);
  for (let turn = 0; ; turn++) {
    for (let count = 0; count < 1000; count++) {
      const pageCount = count % 10 === 0 ? MEMORY_BYTES / PAGE_BYTES : HOT_PAGES;
      Atomics.add(words, Math.floor(Math.random() * pageCount) * wordsOfPage + (turn % wordsOfPage), 1);
    }
    readSync(input, buffer);
  }
}
