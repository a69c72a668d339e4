// Tests the playground's till and phone in Chromium, on the SDK: an order from the phone rings at the till, its pickup code appears on the phone, and both survive
// a restart of the server. `node playground.js BASE SCREENSHOTS`; as in wall.js it asks its caller to stop and start the server.

import { createInterface } from "node:readline";
import { network } from "../sdk/proxy.mjs";
import { accessible, check, fault, finish, laidOut, launch, open, PATIENCE_MS, translated } from "./browser.js";

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
async function request(what) {
  console.log(what);
  await answers.next();
}

let number = 0;
async function postEvent(kind, order, more) {
  number += 1;
  const event = { type: `order.${kind}`, order, id: `playground-${number}`, store: "17", customer: "somebody", amount: 2200, currency: "CNY", time: Date.now(), ...more };
  const headers = { authorization: `Bearer ${PRODUCER_TOKEN}`, "content-type": "application/json" };
  const answer = await fetch(`${base}/v1/events`, { method: "POST", headers, body: JSON.stringify(event) });
  check(answer.ok, `an event was rejected: ${answer.status}`);
}

const card = (page, order) => page.locator("li.card").filter({ has: page.getByRole("heading", { name: order, exact: true }) });
const showsState = (page, text) => page.waitForFunction((wanted) => document.querySelector("#state").textContent.includes(wanted), text);
const isRinging = (page, wanted) => page.waitForFunction((is) => document.body.classList.contains("ringing") === is, wanted);

/** An order goes from the phone to the till and back to the phone. */
async function testOrder(till, phone) {
  await phone.getByRole("button", { name: "Order and pay" }).click();
  await phone.getByText("Paid. Waiting for the store to accept.").waitFor();
  const order = (await phone.locator("#which").textContent()).match(/T[0-9A-Z]+/)[0];
  const placed = card(till, order);
  await placed.waitFor();
  await isRinging(till, true);
  check((await till.title()).startsWith("(1)"), "the title lacks the number of new orders");
  const focused = await till.evaluate(() => document.activeElement?.className);
  check(focused === "code-field", `the code field does not have the focus, but ${focused}`);
  await till.keyboard.type("B12");
  await isRinging(till, false);
  await till.keyboard.press("Enter");
  await phone.waitForFunction(() => document.querySelector("#code").textContent === "B12");
  await phone.screenshot({ path: `${shots}/phone-code.png` });
  await placed.getByRole("button", { name: "Ready" }).click();
  await phone.getByText("Your order is ready. Show this code at the counter.").waitFor();
  await phone.getByRole("button", { name: "I have it" }).click();
  await phone.getByText("Enjoy your meal.").waitFor();
  return order;
}

/** One order is refused by the store, another cancelled. */
async function testRefusedAndCancelled(till, phone) {
  await phone.getByRole("button", { name: "Order again" }).click();
  const first = till.locator('li.card[data-stage="paid"]').first();
  await first.waitFor();
  await first.getByRole("button", { name: "Refuse" }).click();
  await till.screenshot({ path: `${shots}/till-refusing.png` });
  await first.getByRole("button", { name: "Sold out" }).click();
  await phone.getByText("The store cannot make your order (Sold out). You will be refunded.").waitFor();
  await postEvent("paid", "cancelled-1");
  await card(till, "cancelled-1").waitFor();
  await postEvent("cancelled", "cancelled-1");
  await card(till, "cancelled-1").getByText("Cancelled: stop cooking").waitFor();
  await isRinging(till, false);
  await card(till, "cancelled-1").getByRole("button", { name: "Seen" }).click();
  await card(till, "cancelled-1").waitFor({ state: "detached" });
}

/** A second till of the store accepts an order: the first till shows it. After a reload a till shows the open orders. */
async function testSecondTill(browser, till) {
  await postEvent("paid", "two");
  await card(till, "two").waitFor();
  const second = await open(browser, base, "second till", {});
  await second.goto(`${base}/playground/till/?store=17&lang=en`);
  await card(second, "two").getByRole("button", { name: "Accept" }).click();
  await card(till, "two").getByText("cooking").waitFor();
  await postEvent("paid", "three");
  await card(till, "three").waitFor();
  await till.reload();
  await card(till, "two").getByText("cooking").waitFor();
  await card(till, "three").getByRole("button", { name: "Accept" }).waitFor();
  await second.context().close();
}

async function testRestart(till) {
  till.expected.push(/ERR_CONNECTION|Failed to load resource|ERR_EMPTY_RESPONSE|WebSocket connection|net::/i);
  await request("stop the server");
  await till.waitForFunction(() => !document.querySelector("#state").classList.contains("push"));
  await request("start the server");
  await postEvent("paid", "after");
  await card(till, "after").waitFor({ timeout: PATIENCE_MS });
  await showsState(till, "online");
}

/** The SDK behind networks that are cut, drop everything, or are slow: every order arrives, late but once. */
async function testBadNetworks(browser) {
  const net = await network(base.replace("http://", ""));
  const page = await open(browser, net.address, "till behind a bad network", {});
  page.expected.push(/ERR_|Failed to load resource|WebSocket connection|net::/i);
  await page.goto(`${net.address}/playground/till/?store=bad&lang=en`);
  await showsState(page, "online");
  for (const mode of ["cut", "blackhole", "slow"]) {
    net.setMode(mode);
    await postEvent("paid", `in-a-${mode}`, { store: "bad" });
    if (mode !== "slow") {
      await page.waitForFunction(() => !document.querySelector("#state").classList.contains("push"));
      net.setMode("good");
    }
    await card(page, `in-a-${mode}`).waitFor();
    net.setMode("good");
    await showsState(page, "online");
  }
  check((await page.locator("li.card").count()) === 3, `cards: ${await page.locator("li.card h2").allTextContents()}`);
  await page.context().close();
  net.close();
}

async function testAppearance(browser, page, sizes, path, name, ready) {
  for (const [width, height] of sizes) {
    for (const lang of ["en", "zh"]) {
      for (const theme of ["dark", "light"]) {
        const what = `${name}-${width}x${height}-${lang}-${theme}`;
        const one = await open(browser, base, what, { viewport: { width, height }, reducedMotion: "reduce" });
        await one.goto(`${base}${path}&lang=${lang}&theme=${theme}`);
        await ready(one);
        await one.evaluate(() => document.fonts.ready);
        await translated(one, what, lang);
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
  await till.goto(`${base}/playground/till/?store=17&lang=en`);
  await showsState(till, "online");
  await till.getByText("No open orders").waitFor();
  await accessible(till, "till without orders");
  await till.screenshot({ path: `${shots}/till-empty.png` });
  // Browsers let a page play sound only after a touch.
  await till.locator("h1").click();
  const phone = await open(browser, base, "phone", { viewport: { width: 390, height: 844 } });
  await phone.goto(`${base}/playground/phone/?store=17&lang=en`);
  await showsState(phone, "online");
  await testOrder(till, phone);
  await testRefusedAndCancelled(till, phone);
  await testSecondTill(browser, till);
  await postEvent("accepted", "three", { pickup_code: "C07" });
  await postEvent("paid", "four", { items: [{ name: "兰州牛肉面 Lanzhou beef noodles with a long name", count: 2 }, { name: "Tea", count: 1 }] });
  await card(till, "four").getByText("Lanzhou beef noodles").waitFor();
  await testAppearance(browser, till, TILLS, "/playground/till/?store=17", "till", (page) => card(page, "four").waitFor());
  await postEvent("paid", "mine", { customer: "viewer" });
  await postEvent("accepted", "mine", { customer: "viewer", pickup_code: "A17" });
  await testAppearance(browser, phone, PHONES, "/playground/phone/?customer=viewer", "phone", (page) => page.waitForFunction(() => document.querySelector("#code").textContent === "A17"));
  await phone.context().close();
  await testBadNetworks(browser);
  await testRestart(till);
} catch (error) {
  fault(error.stack);
}
await finish(browser);
