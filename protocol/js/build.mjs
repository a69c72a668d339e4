// Builds what is published besides the sources: one CommonJS file per platform, in the JavaScript of 2017 that every mini-program runs, and one file for
// a script element. Prints the compressed size of the core, and fails when it exceeds the budget for mini-programs.

import { writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const CORE_BYTES_MAX = 5 * 1024;
const common = { bundle: true, target: "es2017", minify: true, legalComments: "none", logLevel: "warning" };
const source = (name) => `src/${name}.js`;

await Promise.all([
  ...["browser", "wx"].map((name) => build({ ...common, entryPoints: [source(name)], format: "cjs", outfile: `dist/${name}.cjs` })),
  build({ ...common, entryPoints: [source("node")], format: "cjs", platform: "node", outfile: "dist/node.cjs" }),
  build({ ...common, entryPoints: [source("browser")], format: "iife", globalName: "orderbell", outfile: "dist/orderbell.js" }),
]);
const { outputFiles } = await build({ ...common, entryPoints: [source("core")], format: "esm", write: false });
const bytes = gzipSync(outputFiles[0].contents, { level: 9 }).length;
writeFileSync("dist/package.json", '{ "type": "commonjs" }\n');
console.log(`core: ${bytes} bytes of ${CORE_BYTES_MAX}, compressed`);
process.exit(bytes <= CORE_BYTES_MAX ? 0 : 1);
