// Shared by the page tests: a Chromium, pages that may request their own server only, and checks of accessibility, layout and translation.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "node_modules/"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

/** Time limit of a step. Generous: a slow machine is no fault of a page. */
export const PATIENCE_MS = Number(process.env.ORDERBELL_PATIENCE_S ?? 120) * 1_000;

const faults = [];

/** Records a fault. The run continues, so that one run reports all of them. */
export function fault(what) {
  faults.push(what);
  console.error(`fault: ${what}`);
}

export function check(holds, what) {
  if (!holds) {
    fault(what);
  }
}

export async function launch() {
  // In a container Chromium's sandbox is not available, and shared memory may be small.
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] });
}

/** Ends the run; the exit code is 0 without faults. */
export async function finish(browser) {
  await browser.close();
  console.log(faults.length === 0 ? "no faults" : `${faults.length} faults`);
  process.exit(faults.length === 0 ? 0 : 1);
}

/** Opens a page. Its errors, warnings and requests to other hosts are faults, unless they match `page.expected`. */
export async function open(browser, base, name, options) {
  const context = await browser.newContext({ reducedMotion: "no-preference", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.expected = [];
  const report = (what) => {
    if (!page.expected.some((pattern) => pattern.test(what))) {
      fault(`${name}: ${what}`);
    }
  };
  page.on("pageerror", (error) => report(`threw ${error.message}`));
  page.on("console", (line) => {
    if (["error", "warning"].includes(line.type())) {
      report(`console: ${line.text()}`);
    }
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(base) && !request.url().startsWith("data:")) {
      report(`requested ${request.url()}`);
    }
  });
  return page;
}

/** Checks the page with axe: WCAG 2.2 A and AA, and axe's best practices. */
export async function accessible(page, name) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  for (const { id, nodes } of found.violations) {
    const where = nodes.map((node) => `${node.target.join(" ")} (${node.any[0]?.message ?? node.failureSummary})`);
    fault(`${name}: axe ${id}: ${where.join("; ")}`);
  }
}

/** Checks that no text is cut off or off the screen, and that the `blocks` (selectors) do not overlap. With `scrolls` the page may scroll vertically. */
export async function laidOut(page, name, { blocks, scrolls }) {
  const found = await page.evaluate(
    ([selectors, mayScroll]) => {
      const wrong = [];
      const { scrollWidth, scrollHeight } = document.documentElement;
      if (scrollWidth > innerWidth) {
        wrong.push(`scrolls sideways: ${scrollWidth} in ${innerWidth}`);
      }
      if (!mayScroll && scrollHeight > innerHeight) {
        wrong.push(`scrolls: ${scrollHeight} in ${innerHeight}`);
      }
      const visible = (element) => element.checkVisibility({ visibilityProperty: true }) && !element.closest(".visually-hidden");
      // The innermost elements with text. A text may be shortened where it has an ellipsis and a title.
      const texts = [...document.body.querySelectorAll("*")].filter(
        (element) => visible(element) && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()),
      );
      for (const element of texts) {
        const range = document.createRange();
        range.selectNodeContents(element);
        const text = range.getBoundingClientRect();
        const what = `"${element.textContent.trim().slice(0, 30)}"`;
        if (text.width === 0) {
          continue;
        }
        const shortened = element.closest("[title]") && getComputedStyle(element.closest("[title]")).textOverflow === "ellipsis";
        if (!shortened && (text.left < -1 || text.right > innerWidth + 1)) {
          wrong.push(`${what} is off the screen horizontally`);
        }
        if (!mayScroll && (text.top < -1 || text.bottom > innerHeight + 1)) {
          wrong.push(`${what} is off the screen`);
        }
        for (let box = element; box && !shortened; box = box.parentElement) {
          const style = getComputedStyle(box);
          const edge = box.getBoundingClientRect();
          if (["hidden", "clip"].includes(style.overflowX) && box !== document.body && box !== document.documentElement) {
            if (text.right > edge.right + 1 || text.left < edge.left - 1 || text.bottom > edge.bottom + 2) {
              wrong.push(`${what} is cut off by ${box.className || box.tagName}`);
              break;
            }
          }
        }
      }
      const boxes = selectors.map((selector) => [selector, document.querySelector(selector)]);
      const shown = boxes.filter(([, element]) => element && visible(element)).map(([selector, element]) => {
        return [selector, element.getBoundingClientRect()];
      });
      shown.forEach(([one, a], nth) => {
        for (const [other, b] of shown.slice(nth + 1)) {
          const over = Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
          if (over) {
            wrong.push(`${one} and ${other} overlap`);
          }
        }
      });
      return [...new Set(wrong)];
    },
    [blocks, scrolls],
  );
  found.forEach((what) => fault(`${name}: ${what}`));
}

/** Checks that every fixed text exists in the language of the page. */
export async function translated(page, name, language) {
  const missing = await page.evaluate((zh) => {
    const words = [...document.querySelectorAll("[data-word]")].map((element) => [element.dataset.word, element.textContent]);
    return words.filter(([, text]) => text.trim() === "" || (zh && !/[\u4e00-\u9fff]/.test(text))).map(([word]) => word);
  }, language === "zh");
  check(missing.length === 0, `${name}: no text for ${missing.join(", ")}`);
  const lang = await page.evaluate(() => document.documentElement.lang);
  check(lang.startsWith(language), `${name}: lang is ${lang}`);
}
