// The wall in a real Chromium. `node wall.js BASE SHOTS`; tokens come in the environment. It asks whoever runs it to stop and start the server:
// a line "stop the server" or "start the server" on its output, answered by a line on its input.

import { createInterface } from "node:readline";
import { accessible, check, fault, finish, laidOut, launch, open, PATIENCE_MS, spoken } from "./browser.js";

const [base, shots] = process.argv.slice(2);
const { PRODUCER_TOKEN, WALL_TOKEN } = process.env;
const SIZES = [
  [1920, 1080],
  [1366, 768],
  [3840, 1080],
  [390, 844],
];
const BLOCKS = ["header", ".hero .figure", "#hero-name", ".under", ".curve h2", ".stores", ".cities", ".funnel", ".reach"];

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function please(what) {
  console.log(what);
  await answers.next();
}

let number = 0;
async function pays() {
  number += 1;
  const body = JSON.stringify({ type: "order.paid", order: `late-${number}`, id: `late-${number}`, store: "7", amount: 1000, time: Date.now() });
  const headers = { authorization: `Bearer ${PRODUCER_TOKEN}`, "content-type": "application/json" };
  const answer = await fetch(`${base}/v1/events`, { method: "POST", headers, body });
  check(answer.ok, `an order was not taken: ${answer.status}`);
}

const figure = (page) => page.evaluate(() => Number(document.querySelector("#orders").textContent.replace(/\D/g, "")));
const shows = (page, orders) =>
  page.waitForFunction((wanted) => document.querySelector("#orders").textContent.replace(/\D/g, "") === String(wanted), orders);
const state = (page, wanted) => page.waitForFunction((name) => document.querySelector(".wall").dataset.state === name, wanted);

async function signsIn(page) {
  await page.goto(`${base}/wall/?lang=en`);
  await page.locator("#sign-in").waitFor();
  await accessible(page, "sign-in");
  await page.screenshot({ path: `${shots}/wall-sign-in.png` });
  await page.locator("#token").fill("not a token");
  await page.getByRole("button", { name: "Show the wall" }).click();
  await page.getByText("That token is not taken.").waitFor();
  // One that was refused is tried again by itself, since nobody stands at a screen.
  const [again] = await Promise.all([
    page.waitForResponse((answer) => answer.url().endsWith("/v1/wall") && answer.status() === 401),
    page.clock.fastForward(61_000),
  ]);
  check(again.request().headers().authorization === "Bearer not a token", "the token was forgotten");
  await page.locator("#token").fill(WALL_TOKEN);
  await page.getByRole("button", { name: "Show the wall" }).click();
  await page.waitForFunction(() => /\d/.test(document.querySelector("#orders").textContent));
  check(!page.url().includes(WALL_TOKEN), "the token is in the address");
}

/** Every size in both languages and themes: fit to be seen, read and heard. */
async function looksRight(browser, storage) {
  for (const [width, height] of SIZES) {
    for (const lang of ["en", "zh"]) {
      for (const theme of ["dark", "light"]) {
        const name = `wall-${width}x${height}-${lang}-${theme}`;
        const page = await open(browser, base, name, { viewport: { width, height }, storageState: storage });
        await page.goto(`${base}/wall/?lang=${lang}&theme=${theme}`);
        await page.waitForFunction(() => /\d/.test(document.querySelector("#orders").textContent));
        await page.locator("#chart canvas").waitFor();
        await page.evaluate(() => document.fonts.ready);
        await spoken(page, name, lang);
        await laidOut(page, name, { blocks: BLOCKS, scrolls: width < 760 });
        if (width === 1366 || width < 760) {
          await accessible(page, name);
        }
        await page.screenshot({ path: `${shots}/${name}.png`, fullPage: width < 760 });
        await page.context().close();
      }
    }
  }
}

/** A promotion day: the largest numbers and the longest names that a chain has. */
async function busiest(browser, storage) {
  const sums = { created: 5_012_881, paid: 4_998_302, accepted: 4_981_204, refused: 9_312, ready: 4_910_288, picked_up: 4_888_120, cancelled: 12_901, refunded: 8_811, paid_amount: 19_412_200_012, refunded_amount: 31_200_400 };
  const curve = (until) => ({ from: 0, orders: Array.from({ length: until }, (_, minute) => Math.round(6_000 * Math.sin(minute / 460) ** 4)) });
  const name = "Shanghai Pudong International Airport Terminal 2 上海浦东国际机场二号航站楼";
  const store = (nth) => ({ id: String(nth), name: `${name} ${nth}`, city: "上海", last_hour: 18_402 - nth * 700, today: 99_000 });
  const at = Date.now();
  const wall = {
    type: "snapshot", seq: 1, epoch: 1, at, as_of: at, complete_through: at, stale: false,
    chain: "The Very Large Golden Bowl Company of the East 大金碗餐饮集团", time_zone: "Asia/Shanghai", currency: "CNY", currency_digits: 2,
    day: "2026-11-21", day_began: at - 64_000_000, today: sums, yesterday_by_now: { ...sums, paid: 1_284_302 }, per_minute: 128_402,
    funnel: { minutes: 15, stages: ["created", "paid", "accepted", "ready", "picked_up"].map((stage, nth) => ({ stage, orders: 90_812 - nth, median_ms: nth ? 260_000 : undefined })) },
    stores: Array.from({ length: 24 }, (_, nth) => store(nth)), cities: Array.from({ length: 24 }, (_, nth) => ({ name: `Shijiazhuang 石家庄 ${nth}`, last_hour: 91_204 - nth, today: 1 })),
    reach: { push: 19_812, poll: 1_121, away: 2_207 }, tail: { from: 1_060, orders: [1, 2, 3, 4, 5] }, curves: { today: curve(1_065), yesterday: curve(1_440) },
  };
  for (const [width, height] of SIZES) {
    for (const lang of ["en", "zh"]) {
      const what = `wall-${width}x${height}-${lang}-busiest`;
      const page = await open(browser, base, what, { viewport: { width, height }, storageState: storage });
      await page.route("**/v1/wall", (route) => route.fulfill({ contentType: "text/event-stream", body: `event: snapshot\ndata: ${JSON.stringify(wall)}\n\n` }));
      await page.goto(`${base}/wall/?lang=${lang}`);
      await shows(page, sums.paid);
      await page.locator("#chart canvas").waitFor();
      await laidOut(page, what, { blocks: BLOCKS, scrolls: width < 760 });
      await page.screenshot({ path: `${shots}/${what}.png`, fullPage: width < 760 });
      await page.context().close();
    }
  }
}

/** What happens shows by itself; keys reach everything; each chart has its table. */
async function lives(page) {
  const before = await figure(page);
  await pays();
  await shows(page, before + 1);
  await page.evaluate(() => {
    globalThis.least = [];
    new MutationObserver(() => globalThis.least.push(Number(document.querySelector("#orders").textContent.replace(/\D/g, "")))).observe(
      document.querySelector("#orders"),
      { childList: true, characterData: true, subtree: true },
    );
  });
  await page.keyboard.press("Tab");
  const reached = [];
  for (let times = 0; times < 4; times += 1) {
    reached.push(await page.evaluate(() => document.activeElement.id));
    const outlined = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle !== "none");
    check(outlined, `the focus on ${reached.at(-1)} is not seen`);
    await page.keyboard.press("Tab");
  }
  check(reached.join() === "lang,theme,tables,full", `keys reach ${reached.join()}`);
  await page.locator("#tables").press("Enter");
  const hours = await page.locator("#chart-table tbody tr").count();
  check(hours >= 1 && (await page.locator("#chart").isHidden()), "the curve has no table");
  await accessible(page, "wall with tables");
  await page.locator("#tables").press("Enter");
  await page.locator("#lang").press("Enter");
  await spoken(page, "wall after a change of language", "zh");
  await page.locator("#lang").press("Enter");
}

/** A server that stops is seen on the screen; one that is back is followed again, and no figure ran backwards meanwhile. */
async function survives(page) {
  page.expected.push(/ERR_CONNECTION|Failed to load resource|ERR_INCOMPLETE|network error/i);
  await please("stop the server");
  await page.clock.fastForward(6_000);
  await state(page, "amber");
  check(/data is \d+ s old/.test(await page.locator("#age").textContent()), "amber is not spelled out");
  await page.clock.fastForward(40_000);
  await state(page, "red");
  check(/no new data since \d\d:\d\d:\d\d/.test(await page.locator("#age").textContent()), "red does not say since when");
  await accessible(page, "wall without a server");
  await page.screenshot({ path: `${shots}/wall-red.png` });
  const before = await figure(page);
  await please("start the server");
  await pays();
  const until = Date.now() + PATIENCE_MS;
  while ((await figure(page)) <= before && Date.now() < until) {
    // The page waits by its own clock, which runs as fast as it is told to.
    await page.clock.fastForward(2_000);
    await page.waitForTimeout(50);
  }
  await shows(page, before + 1);
  const told = await page.evaluate(() => globalThis.least);
  check(told.length > 0 && told.every((one, nth) => nth === 0 || told[nth - 1] <= one), `figures ran backwards: ${told}`);
}

/** Whoever wants nothing to move sees figures change, and nothing else. */
async function stands(browser, storage) {
  const page = await open(browser, base, "wall without motion", { reducedMotion: "reduce", storageState: storage });
  await page.goto(`${base}/wall/?lang=en`);
  await page.waitForFunction(() => /\d/.test(document.querySelector("#orders").textContent));
  const before = await figure(page);
  await page.evaluate(() => {
    globalThis.steps = new Set();
    new MutationObserver(() => globalThis.steps.add(document.querySelector("#orders").textContent)).observe(document.querySelector("#orders"), {
      childList: true,
      characterData: true,
      subtree: true,
    });
  });
  for (let times = 0; times < 5; times += 1) {
    await pays();
  }
  await shows(page, before + 5);
  check((await page.evaluate(() => document.getAnimations().length)) === 0, "something moves");
  const between = await page.evaluate(() => [...globalThis.steps].map((text) => Number(text.replace(/\D/g, ""))));
  check(between.every((one) => Number.isInteger(one) && one <= before + 5), `figures rolled: ${between}`);
  await page.context().close();
}

const browser = await launch();
try {
  const page = await open(browser, base, "wall", { viewport: { width: 1366, height: 768 } });
  page.expected.push(/401/);
  await page.clock.install();
  await page.clock.resume();
  await signsIn(page);
  const storage = await page.context().storageState();
  await looksRight(browser, storage);
  await busiest(browser, storage);
  await lives(page);
  await stands(browser, storage);
  await survives(page);
} catch (error) {
  fault(error.stack);
}
await finish(browser);
