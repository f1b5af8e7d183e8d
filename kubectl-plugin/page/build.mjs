// Makes dist/ from src/; with --check it only says whether dist/ is what the sources give.

import { mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** The files of the page, as they must be. */
async function made() {
  const shared = { bundle: true, minify: true, write: false, target: "es2022", legalComments: "none", charset: "utf8" };
  const script = await build({ ...shared, entryPoints: [here("src/app.tsx")], format: "esm", jsx: "automatic", jsxImportSource: "preact" });
  const style = await build({ ...shared, entryPoints: [here("src/style.css")] });
  return {
    "index.html": await readFile(here("src/index.html"), "utf8"),
    "page.js": script.outputFiles[0].text,
    "page.css": style.outputFiles[0].text,
    "THIRD-PARTY.txt": await notices(),
  };
}

/** The licences of what is in the bundle, in full, as they ask for. */
async function notices() {
  const lock = JSON.parse(await readFile(here("package-lock.json"), "utf8"));
  const parts = ["The page contains these libraries, each under its own licence.\n"];
  for (const [path, about] of Object.entries(lock.packages)) {
    if (!path || about.dev) continue;
    const files = await readdir(here(path));
    const licence = files.find((name) => /^licen[cs]e/i.test(name));
    if (!licence) throw new Error(`${path} has no file with its licence`);
    if (!["MIT", "ISC", "BSD-3-Clause", "Apache-2.0"].includes(about.license)) throw new Error(`${path} has the licence ${about.license}`);
    const name = path.replace(/^.*node_modules\//, "");
    parts.push(`== ${name} ${about.version} (${about.license})\n\n${(await readFile(here(`${path}/${licence}`), "utf8")).trim()}\n`);
  }
  return parts.join("\n");
}

/** What would put text of others into markup, or run it. */
const FORBIDDEN = /innerHTML|outerHTML|insertAdjacentHTML|dangerouslySet|document\.write|\beval\b|new Function/;

async function lint() {
  const files = await readdir(here("src"), { recursive: true });
  const bad = [];
  for (const file of files.filter((name) => /\.tsx?$/.test(name))) {
    const lines = (await readFile(here(`src/${file}`), "utf8")).split("\n");
    lines.forEach((line, index) => FORBIDDEN.test(line) && bad.push(`src/${file}:${index + 1}: ${line.trim()}`));
  }
  return bad;
}

const bad = await lint();
const files = await made();
if (process.argv.includes("--check")) {
  for (const [name, text] of Object.entries(files)) {
    const is = await readFile(here(`dist/${name}`), "utf8").catch(() => "");
    if (is !== text) bad.push(`dist/${name} is not what the sources give: run \`make page\` and commit it`);
  }
} else {
  await mkdir(here("dist"), { recursive: true });
  for (const [name, text] of Object.entries(files)) await writeFile(here(`dist/${name}`), text);
}
for (const line of bad) console.error(line);
process.exitCode = bad.length ? 1 : 0;
