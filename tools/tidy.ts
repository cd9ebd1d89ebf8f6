/** House rules that no linter knows: how a file opens, how long a line is, which words stay out, and that named files are there. */
import { existsSync, globSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";

const MAX_COLUMNS = 140;
/** They quote what is banned. */
const QUOTING = ["tools/tidy.ts", "tools/check.test.ts"];
const OPENING = /^(#!.*\n)?\/\*\*(\n \*)? \S/;

/** A file of ours, by its path from the root of the checkout. */
const NAMED_FILE = /(?<![\w./-])(src|lab|test|tools|docs|proto)\/[\w./-]+\.(ts|md|proto)\b/g;

/** Words that say nothing, or for which the project has another. */
const BANNED: readonly (readonly [word: RegExp, remedy: string])[] = [
  [/\b(TODO|FIXME|XXX|HACK)\b/, "do it now, or open an issue"],
  [/\b(obviously|of course|simply|basically)\b/i, "say it without, or say why"],
  [/\b(seamless(ly)?|blazing(ly)?|cutting-edge|state-of-the-art|leverag(e|es|ing)|utili[sz](e|es|ing))\b/i, "say what it does"],
  [/\b(cut-?over|switch-?over)\b/i, 'the word here is "handover"'],
  [/\b(black|white)-?list/i, "deny list, allow list"],
];

/** Checks the checkout in the working directory; returns a line for each breach. */
export async function checkTidy(): Promise<string[]> {
  const code = globSync("{src,lab,test,bench,tools}/**/*.ts").filter((file) => !file.startsWith("src/gen/"));
  const prose = globSync(["*.md", "docs/**/*.md", "proto/**/*.proto", "bin/*", ".ci/*", "src/shim/**"]).filter((file) =>
    statSync(file).isFile(),
  );
  const files = [...new Set([...code, ...prose])].filter((file) => !QUOTING.includes(file)).toSorted();
  return (await Promise.all(files.map(checkFile))).flat();
}

async function checkFile(file: string): Promise<string[]> {
  const text = await readFile(file, "utf8");
  const breaches: string[] = [];
  if (file.endsWith(".ts") && !OPENING.test(text)) breaches.push(`${file}:1: a file opens with /** and what it is about`);
  for (const [index, line] of text.split("\n").entries()) {
    const place = `${file}:${index + 1}`;
    if (line.length > MAX_COLUMNS && !file.endsWith(".md")) breaches.push(`${place}: ${line.length} columns, at most ${MAX_COLUMNS}`);
    for (const [named] of line.matchAll(NAMED_FILE)) if (!existsSync(named)) breaches.push(`${place}: there is no ${named}`);
    for (const [word, remedy] of BANNED) {
      const found = word.exec(line);
      if (found) breaches.push(`${place}: "${found[0]}": ${remedy}`);
    }
  }
  return breaches;
}
