/**
 * `npm run build`: the published form in dist/. Node strips no types inside node_modules, so the sources become one bundle:
 * dist/dmigrate.js, with what not every command needs in chunks of their own.
 */
import { cpSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { build, type Plugin } from "esbuild";

const CHECKOUT = path.resolve(import.meta.dirname, "..");
const DIST = path.join(CHECKOUT, "dist");

/** Sources find the shim's scripts relative to themselves; the way there from dist/chunks is the same for all. */
const shimPaths: Plugin = {
  name: "shim-paths",
  setup(builder) {
    builder.onLoad({ filter: /\/src\/.*\.ts$/ }, async ({ path: file }) => {
      const text = await readFile(file, "utf8");
      return { contents: text.replaceAll(/"(\.\.\/)+shim\//g, '"../shim/'), loader: "ts" };
    });
  },
};

rmSync(DIST, { recursive: true, force: true });
const { metafile } = await build({
  absWorkingDir: CHECKOUT,
  entryPoints: { dmigrate: "src/cli/main.ts" },
  outdir: DIST,
  chunkNames: "chunks/[name]-[hash]",
  bundle: true,
  splitting: true,
  metafile: true,
  format: "esm",
  platform: "node",
  target: "node24",
  plugins: [shimPaths],
  // Its native parts are found beside its own package.json.
  external: ["koffi"],
  // Packages that are still CommonJS ask for node's modules with require, which an ES module lacks.
  banner: { js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);' },
});
cpSync(path.join(CHECKOUT, "src/shim"), path.join(DIST, "shim"), { recursive: true, filter: (file) => !file.endsWith(".test.ts") });

const files = Object.values(metafile.outputs);
const bytes = files.reduce((sum, output) => sum + output.bytes, 0);
console.log(`dist/: ${files.length} files, ${(bytes / 1e6).toFixed(1)} MB`);
