// A till and a phone in a real Chromium, on the SDK: an order from the phone rings at the till, its code is on the phone, and both come through a
// server that stops. `node trial.js BASE SHOTS`; as in wall.js it asks for the server to be stopped and started.

import { createInterface } from "node:readline";
import { network } from "../sdk/proxy.mjs";
import { accessible, check, fault, finish, laidOut, launch, open, PATIENCE_MS, spoken } from "./browser.js";

const [base, shots] = process.argv.slice(2);
const { PRODUCER_TOKEN } = process.env;
const BLOCKS = ["header", "main", "footer"];
const TILLS = [
  [1024, 768],
  [1366, 768],
  [390, 844],
];
const PHONES = [
  [390, 844],
  [844, 390],
  [320, 568],
];

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function please(what) {
  console.log(what);
  await answers.next();
}

let number = 0;
async function happens(kind, order, more) {
  number += 1;
  const event = { type: `order.${kind}`, order, id: `trial-${number}`, store: "17", customer: "somebody", amount: 2200, currency: "CNY", time: Date.now(), ...more };
  const headers = { authorization: `Bearer ${PRODUCER_TOKEN}`, "content-type": "application/json" };
  const answer = await fetch(`${base}/v1/events`, { method: "POST", headers, body: JSON.stringify(event) });
  check(answer.ok, `an event was not taken: ${answer.status}`);
}

const card = (page, order) => page.locator("li.card").filter({ has: page.getByRole("heading", { name: order, exact: true }) });
const says = (page, text) => page.waitForFunction((wanted) => document.querySelector("#state").textContent.includes(wanted), text);
const ringing = (page, wanted) => page.waitForFunction((is) => document.body.classList.contains("ringing") === is, wanted);

/** From one screen to the other and back. */
async function oneOrder(till, phone) {
  await phone.getByRole("button", { name: "Order and pay" }).click();
  await phone.getByText("Paid. The store has not taken it yet.").waitFor();
  const order = (await phone.locator("#which").textContent()).match(/T[0-9A-Z]+/)[0];
  const placed = card(till, order);
  await placed.waitFor();
  await ringing(till, true);
  check((await till.title()).startsWith("(1)"), "the title does not count");
  const focused = await till.evaluate(() => document.activeElement?.className);
  check(focused === "code-field", `the code has no focus, ${focused} has`);
  await till.keyboard.type("B12");
  await ringing(till, false);
  await till.keyboard.press("Enter");
  await phone.waitForFunction(() => document.querySelector("#code").textContent === "B12");
  await phone.screenshot({ path: `${shots}/phone-code.png` });
  await placed.getByRole("button", { name: "Ready" }).click();
  await phone.getByText("It is ready. Show this code at the counter.").waitFor();
  await phone.getByRole("button", { name: "I have it" }).click();
  await phone.getByText("Enjoy your meal.").waitFor();
  return order;
}

/** Refused, and called off. */
async function twoSadOnes(till, phone) {
  await phone.getByRole("button", { name: "Order again" }).click();
  const first = till.locator('li.card[data-stage="paid"]').first();
  await first.waitFor();
  await first.getByRole("button", { name: "Refuse" }).click();
  await till.screenshot({ path: `${shots}/till-refusing.png` });
  await first.getByRole("button", { name: "Sold out" }).click();
  await phone.getByText("The store cannot make it (Sold out). Your money comes back.").waitFor();
  await happens("paid", "off");
  await card(till, "off").waitFor();
  await happens("cancelled", "off");
  await card(till, "off").getByText("Cancelled: stop cooking").waitFor();
  await ringing(till, false);
  await card(till, "off").getByRole("button", { name: "Seen" }).click();
  await card(till, "off").waitFor({ state: "detached" });
}

/** A second till of the store takes one: this one hears of it. A reload has what is open, and rings for it. */
async function others(browser, till) {
  await happens("paid", "two");
  await card(till, "two").waitFor();
  const second = await open(browser, base, "second till", {});
  await second.goto(`${base}/try/till/?store=17&lang=en`);
  await card(second, "two").getByRole("button", { name: "Accept" }).click();
  await card(till, "two").getByText("cooking").waitFor();
  await happens("paid", "three");
  await card(till, "three").waitFor();
  await till.reload();
  await card(till, "two").getByText("cooking").waitFor();
  await card(till, "three").getByRole("button", { name: "Accept" }).waitFor();
  await second.context().close();
}

async function survives(till) {
  till.expected.push(/ERR_CONNECTION|Failed to load resource|ERR_EMPTY_RESPONSE|WebSocket connection|net::/i);
  await please("stop the server");
  await till.waitForFunction(() => !document.querySelector("#state").classList.contains("push"));
  await please("start the server");
  await happens("paid", "after");
  await card(till, "after").waitFor({ timeout: PATIENCE_MS });
  await says(till, "online");
}

/** The SDK in this browser behind networks that are cut, swallow everything, or are slow: late, and whole, and each order once. */
async function networks(browser) {
  const net = await network(base.replace("http://", ""));
  const page = await open(browser, net.address, "till behind a bad network", {});
  page.expected.push(/ERR_|Failed to load resource|WebSocket connection|net::/i);
  await page.goto(`${net.address}/try/till/?store=bad&lang=en`);
  await says(page, "online");
  for (const mode of ["cut", "hole", "slow"]) {
    net.becomes(mode);
    await happens("paid", `in-a-${mode}`, { store: "bad" });
    if (mode !== "slow") {
      await page.waitForFunction(() => !document.querySelector("#state").classList.contains("push"));
      net.becomes("good");
    }
    await card(page, `in-a-${mode}`).waitFor();
    net.becomes("good");
    await says(page, "online");
  }
  check((await page.locator("li.card").count()) === 3, `cards: ${await page.locator("li.card h2").allTextContents()}`);
  await page.context().close();
  net.close();
}

async function looksRight(browser, page, sizes, path, name, ready) {
  for (const [width, height] of sizes) {
    for (const lang of ["en", "zh"]) {
      for (const theme of ["dark", "light"]) {
        const what = `${name}-${width}x${height}-${lang}-${theme}`;
        const one = await open(browser, base, what, { viewport: { width, height }, reducedMotion: "reduce" });
        await one.goto(`${base}${path}&lang=${lang}&theme=${theme}`);
        await ready(one);
        await one.evaluate(() => document.fonts.ready);
        await spoken(one, what, lang);
        await laidOut(one, what, { blocks: BLOCKS, scrolls: name === "till" });
        await accessible(one, what);
        await one.screenshot({ path: `${shots}/${what}.png` });
        await one.context().close();
      }
    }
  }
}

const browser = await launch();
try {
  const context = { viewport: { width: 1024, height: 768 } };
  const till = await open(browser, base, "till", context);
  await till.goto(`${base}/try/till/?store=17&lang=en`);
  await says(till, "online");
  await till.getByText("No open orders").waitFor();
  await accessible(till, "till without orders");
  await till.screenshot({ path: `${shots}/till-empty.png` });
  // A touch, as browsers want before a page may sound.
  await till.locator("h1").click();
  const phone = await open(browser, base, "phone", { viewport: { width: 390, height: 844 } });
  await phone.goto(`${base}/try/phone/?store=17&lang=en`);
  await says(phone, "online");
  await oneOrder(till, phone);
  await twoSadOnes(till, phone);
  await others(browser, till);
  await happens("accepted", "three", { code: "C07" });
  await happens("paid", "four", { items: [{ name: "兰州牛肉面 Lanzhou beef noodles with a long name", count: 2 }, { name: "Tea", count: 1 }] });
  await card(till, "four").getByText("Lanzhou beef noodles").waitFor();
  await looksRight(browser, till, TILLS, "/try/till/?store=17", "till", (page) => card(page, "four").waitFor());
  await happens("paid", "mine", { customer: "looker" });
  await happens("accepted", "mine", { customer: "looker", code: "A17" });
  await looksRight(browser, phone, PHONES, "/try/phone/?customer=looker", "phone", (page) => page.waitForFunction(() => document.querySelector("#code").textContent === "A17"));
  await phone.context().close();
  await networks(browser);
  await survives(till);
} catch (error) {
  fault(error.stack);
}
await finish(browser);
