// A browser that writes down what goes wrong in it.

import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { AxeBuilder } from "@axe-core/playwright";
import { chromium } from "playwright-core";

const PICTURES = fileURLToPath(new URL("../../docs/pictures/", import.meta.url));

export async function start() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    // Root has no sandbox of its own; nothing may be asked of hosts outside; and each window of Chromium
    // loads pages of its own for its address bar, which would be measured with ours.
    args: ["--no-sandbox", "--disable-gpu", "--disable-features=WebUIOmniboxPopup,WebUIOmniboxFullPopup,WebUIOmniboxAimPopup", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"],
  });
}

/** A page, and the errors that its console has. */
export async function open(browser, address, { theme = "dark", width = 1440, height = 900, still = false } = {}) {
  const context = await browser.newContext({
    viewport: { width, height }, colorScheme: theme, reducedMotion: still ? "reduce" : "no-preference", bypassCSP: false,
  });
  const page = await context.newPage();
  const errors = [];
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.addInitScript(noteDrawn);
  await page.goto(address);
  await page.locator("svg g.node").first().waitFor();
  return { page, errors, close: () => context.close() };
}

/** In the page: notes in `drawn` after how many milliseconds the first frame with pods came. */
function noteDrawn() {
  const look = () => requestAnimationFrame(() => {
    if (document.querySelector("svg .pod")) requestAnimationFrame(() => { globalThis.drawn = performance.now(); });
    else look();
  });
  look();
}

/** After how many milliseconds the page had drawn the cluster, since the browser was sent there. */
export async function drawn(page) {
  await page.waitForFunction(() => globalThis.drawn);
  return page.evaluate(() => globalThis.drawn);
}

/** What axe finds serious or critical. */
export async function faults(page) {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const serious = violations.filter((one) => one.impact === "serious" || one.impact === "critical");
  return serious.map((one) => `${one.id}: ${one.nodes.map((node) => `${node.target} ${node.any[0]?.message ?? ""}`).slice(0, 5).join("; ")}`);
}

/** A picture for the documentation, if it is to be taken. */
export async function shoot(page, name) {
  if (!process.env.PICTURES) return;
  mkdirSync(PICTURES, { recursive: true });
  await page.screenshot({ path: `${PICTURES}${name}.png` });
}
