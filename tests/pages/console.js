// Tests the console in Chromium: tables, details, live tail and replay of dead letters by keyboard; both languages and themes; a server that stops.
// `node console.js ADMIN SCREENSHOTS`; the public address and tokens come in the environment.

import { createInterface } from "node:readline";
import { accessible, check, fault, finish, laidOut, launch, open, translated } from "./browser.js";

const [base, shots] = process.argv.slice(2);
const { PRODUCER_TOKEN, PUBLIC } = process.env;
const SIZES = [
  [1920, 1080],
  [1366, 768],
  [1024, 768],
  [390, 844],
];
const BLOCKS = [".strip", ".bar", "#list", "aside"];

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function request(what) {
  console.log(what);
  await answers.next();
}

let number = 0;
async function postEvent(kind, order, more) {
  number += 1;
  const event = { type: `order.${kind}`, order, id: `console-${number}`, store: "7", customer: "somebody", amount: 2200, time: Date.now(), ...more };
  const headers = { authorization: `Bearer ${PRODUCER_TOKEN}`, "content-type": "application/json" };
  const answer = await fetch(`${PUBLIC}/v1/events`, { method: "POST", headers, body: JSON.stringify(event) });
  check(answer.ok, `an event was rejected: ${answer.status}`);
}

const row = (page, text) => page.locator("tbody tr").filter({ hasText: text });
const health = (page, word) => page.waitForFunction((wanted) => document.querySelector("#health").textContent === wanted, word);

/** The filter, the rows, the details and the tabs are used without a mouse. */
async function testKeyboard(page) {
  await page.keyboard.press("/");
  check((await page.evaluate(() => document.activeElement.id)) === "filter", "/ does not focus the filter");
  await page.keyboard.type("Riverside 4");
  await page.waitForFunction(() => document.querySelectorAll("#list tbody tr").length < 10);
  await page.keyboard.press("Control+a");
  await page.keyboard.press("Delete");
  await page.locator("#list .open").first().focus();
  await page.keyboard.press("ArrowDown");
  const second = await page.evaluate(() => document.activeElement.closest("tr").rowIndex);
  check(second === 2, `the down arrow focuses row ${second}`);
  const outlined = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle !== "none");
  check(outlined, "the focus is not visible");
  // Rendering new rows keeps the focus.
  const chosen = await page.evaluate(() => document.activeElement.textContent);
  await page.waitForResponse((answer) => answer.url().endsWith("/top"));
  await page.waitForFunction((text) => document.activeElement.textContent === text, chosen);
  await page.keyboard.press("Enter");
  await page.locator("#details h2").waitFor();
  await page.keyboard.press("Escape");
  await page.locator("#details").waitFor({ state: "hidden" });
  await page.locator("#tab-stores").focus();
  await page.keyboard.press("ArrowRight");
  await page.waitForFunction(() => document.querySelector("#tab-log").getAttribute("aria-selected") === "true");
  await row(page, "orderbell.embedded").first().or(row(page, "/0").first()).waitFor();
  await accessible(page, "console: log");
  await page.keyboard.press("ArrowLeft");
}

async function testDetails(page) {
  await page.locator("#filter").fill("");
  await page.locator("#list .open").filter({ hasText: /^7$/ }).click();
  await page.getByText("Waiting: new notices of this mailbox appear here.").waitFor();
  await page.waitForResponse((answer) => answer.url().includes("/stores/7/tail"));
  await postEvent("paid", "seen-live");
  await page.locator("#details").getByRole("button", { name: /^\d\d:\d\d/ }).first().waitFor();
  await row(page, "seen-live").waitFor();
  await accessible(page, "console: store");
  await page.screenshot({ path: `${shots}/console-store.png` });
  await row(page, "seen-live").locator(".open").click();
  await page.locator("#details").getByText("applied").first().waitFor();
  await page.locator("#details").getByText("new_order").first().waitFor();
  page.expected.push(/404/);
  await page.locator("#order").fill("unknown-order");
  await page.getByRole("button", { name: "Trace" }).click();
  await page.getByText("Order unknown-order is unknown").waitFor();
  await page.locator("#order").fill("seen-live");
  await page.keyboard.press("Enter");
  await page.locator("#details").getByText("order.paid").first().waitFor();
  await accessible(page, "console: order");
  await page.screenshot({ path: `${shots}/console-order.png` });
}

/** A click on a column header sorts, and the header says so. */
async function testSorting(page) {
  const today = page.getByRole("columnheader", { name: "Today" });
  await today.getByRole("button").click();
  const counts = () => page.locator("#list tbody tr td:last-child").allTextContents();
  const numbers = (await counts()).map((text) => Number(text.replace(/\D/g, "")));
  check(numbers.every((one, nth) => nth === 0 || numbers[nth - 1] >= one), `not sorted: ${numbers}`);
  check((await today.getAttribute("aria-sort")) === "descending", "the header does not say how it is sorted");
}

async function testDeadLetters(page) {
  await page.locator("#tab-deadLetters").click();
  await row(page, "store-mismatch").first().waitFor();
  await health(page, "failing");
  await page.locator("#list .open").first().click();
  await page.locator("#details pre").waitFor();
  await accessible(page, "console: dead letter");
  await page.screenshot({ path: `${shots}/console-dead-letter.png` });
  await page.getByRole("button", { name: "Replay", exact: true }).click();
  await page.getByText("Replay this record").waitFor();
  await page.screenshot({ path: `${shots}/console-confirm.png` });
  await page.getByRole("button", { name: "No", exact: true }).click();
  const asked = [];
  page.on("request", (request) => asked.push(request.method()));
  await page.locator("#details").getByRole("button", { name: "Replay", exact: true }).focus();
  await page.keyboard.press("Enter");
  check(!asked.includes("POST"), "it was replayed without a confirmation");
  const [answer] = await Promise.all([page.waitForResponse((one) => one.url().includes("/dead-letters/replay")), page.locator("#confirm-yes").press("Enter")]);
  check(answer.ok(), `replay: ${answer.status()}`);
  await page.locator("#details").waitFor({ state: "hidden" });
  // An alert links to its section.
  await page.locator("#tab-stores").click();
  await page.locator("#alerts button").first().click();
  await page.waitForFunction(() => document.querySelector("#tab-deadLetters").getAttribute("aria-selected") === "true");
  await page.locator("#tab-latency").click();
  await row(page, "durable").waitFor();
  await accessible(page, "console: latency");
  await page.screenshot({ path: `${shots}/console-latency.png` });
}

async function testAppearance(browser) {
  for (const [width, height] of SIZES) {
    for (const lang of ["en", "zh"]) {
      for (const theme of ["dark", "light"]) {
        const name = `console-${width}x${height}-${lang}-${theme}`;
        const page = await open(browser, base, name, { viewport: { width, height } });
        await page.goto(`${base}/console/?lang=${lang}&theme=${theme}`);
        await page.locator("#list .open").nth(5).waitFor();
        await page.evaluate(() => document.fonts.ready);
        await translated(page, name, lang);
        if (lang === "zh") {
          await page.locator("#alerts button", { hasText: "死信中有已支付的订单，或可能有" }).waitFor();
        }
        if (width > 900) {
          await page.locator("#list .open").first().click();
          await page.locator("#details h2").waitFor();
        }
        await accessible(page, name);
        check(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name}: scrolls sideways`);
        if (width > 900) {
          await laidOut(page, name, { blocks: BLOCKS, scrolls: true });
        }
        await page.screenshot({ path: `${shots}/${name}.png` });
        await page.context().close();
      }
    }
  }
}

const browser = await launch();
try {
  const page = await open(browser, base, "console", { viewport: { width: 1366, height: 768 } });
  await page.goto(`${base}/`);
  check(page.url().startsWith(`${base}/console/`), `/ leads to ${page.url()}`);
  await page.goto(`${base}/console/?lang=en`);
  await page.locator("#list .open").nth(5).waitFor();
  await accessible(page, "console");
  await testKeyboard(page);
  await testDetails(page);
  await testSorting(page);
  await testDeadLetters(page);
  await page.locator("#tab-stores").click();
  await page.getByText(/\u25b2 (slow|unresponsive|poisoned)/).first().waitFor();
  await testAppearance(browser);
  page.expected.push(/ERR_CONNECTION|Failed to load resource|net::/i);
  await request("stop the server");
  await health(page, "No answer from the server");
  await request("start the server");
  await page.waitForFunction(() => ["ok", "degraded", "failing"].includes(document.querySelector("#health").textContent));
} catch (error) {
  fault(error.stack);
}
await finish(browser);
