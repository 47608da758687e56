// Build the page as one HTML file with its script and its style inside. Beside it go the licences of what it holds, and
// hashes by which a test finds a page that is older than its source.

import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type Plugin } from "vite";

const OUT = "../src/panollava/viewer/page";
const FILES = [".npmrc", "index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts"];
const BUNDLED = ["@photo-sphere-viewer/core", "@photo-sphere-viewer/markers-plugin", "three"];

function sourcesHash(): string {
  const sources = readdirSync("src", { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).replaceAll("\\", "/"));
  const hash = createHash("sha256");
  for (const path of [...FILES, ...sources].sort()) hash.update(`${path}\0`).update(readFileSync(path)).update("\0");
  return hash.digest("hex");
}

function licences(): string {
  return BUNDLED.map((name) => {
    const folder = join("node_modules", name);
    const { version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as { version: string };
    return `${name} ${version}\n\n${readFileSync(join(folder, "LICENSE"), "utf8").trim()}\n`;
  }).join(`\n${"-".repeat(80)}\n\n`);
}

function oneFile(): Plugin {
  return {
    name: "one-file",
    enforce: "post",
    generateBundle(_options, bundle) {
      const page = bundle["index.html"];
      if (page?.type !== "asset") throw new Error("the build made no index.html");
      let html = String(page.source);
      for (const [name, file] of Object.entries(bundle)) {
        if (file === page) continue;
        const [pattern, element] =
          file.type === "chunk"
            ? [/<script type="module"[^>]*src="[^"]*"[^>]*><\/script>/, `<script type="module">${inScript(file.code)}</script>`]
            : [/<link rel="stylesheet"[^>]*>/, `<style>${String(file.source).trim()}</style>`];
        if (!pattern.test(html)) throw new Error(`${name} has no place in index.html`);
        html = html.replace(pattern, () => element);
        delete bundle[name];
      }
      page.source = html;
    },
    writeBundle() {
      const page = createHash("sha256").update(readFileSync(join(OUT, "index.html"))).digest("hex");
      writeFileSync(join(OUT, "hashes.json"), `${JSON.stringify({ sources: sourcesHash(), page }, null, 2)}\n`);
      writeFileSync(join(OUT, "LICENSES.txt"), licences());
    },
  };
}

// What would end or open a script element inside one.
function inScript(code: string): string {
  return code.trim().replaceAll("</script", "<\\/script").replaceAll("<!--", "<\\!--");
}

export default defineConfig({
  base: "./",
  build: {
    outDir: OUT,
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: Number.MAX_SAFE_INTEGER,
    cssCodeSplit: false,
    modulePreload: false,
    chunkSizeWarningLimit: 1000,
    reportCompressedSize: false,
  },
  plugins: [oneFile()],
});
