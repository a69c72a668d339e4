// Tests the wall in Chromium: `node wall.js BASE SCREENSHOTS`, with tokens in the environment. It asks its caller to stop and start the server: it prints a line
// "stop the server" or "start the server" and waits for a line on its input.

import { createInterface } from "node:readline";
import { accessible, check, fault, finish, laidOut, launch, open, PATIENCE_MS, translated } from "./browser.js";

const [base, shots] = process.argv.slice(2);
const { PRODUCER_TOKEN, WALL_TOKEN } = process.env;
const SIZES = [
  [1920, 1080],
  [1366, 768],
  [3840, 1080],
  [390, 844],
];
const BLOCKS = ["header", ".hero .figure", "#hero-name", ".under", ".curve h2", ".stores", ".cities", ".funnel", ".reachability"];

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function request(what) {
  console.log(what);
  await answers.next();
}

let number = 0;
async function payOrder() {
  number += 1;
  const body = JSON.stringify({ type: "order.paid", order: `late-${number}`, id: `late-${number}`, store: "7", amount: 1000, time: Date.now() });
  const headers = { authorization: `Bearer ${PRODUCER_TOKEN}`, "content-type": "application/json" };
  const answer = await fetch(`${base}/v1/events`, { method: "POST", headers, body });
  check(answer.ok, `an order was rejected: ${answer.status}`);
}

const figure = (page) => page.evaluate(() => Number(document.querySelector("#orders").textContent.replace(/\D/g, "")));
const showsOrders = (page, orders) =>
  page.waitForFunction((wanted) => document.querySelector("#orders").textContent.replace(/\D/g, "") === String(wanted), orders);
const hasState = (page, wanted) => page.waitForFunction((name) => document.querySelector(".wall").dataset.state === name, wanted);

async function testSignIn(page) {
  await page.goto(`${base}/wall/?lang=en`);
  await page.locator("#sign-in").waitFor();
  await accessible(page, "sign-in");
  await page.screenshot({ path: `${shots}/wall-sign-in.png` });
  await page.locator("#token").fill("not a token");
  await page.getByRole("button", { name: "Show the wall" }).click();
  await page.getByText("The token was rejected.").waitFor();
  // A rejected token is tried again without input, since nobody stands at the screen.
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

/** A page that may not ask says why, and shows the figures as soon as it may. */
async function testRefusal(browser, storage) {
  const page = await open(browser, base, "wall under another name", { storageState: storage });
  page.expected.push(/421/);
  const body = JSON.stringify({ type: "about:blank", status: 421, code: "misdirected-request", title: "Not under this name" });
  await page.route("**/v1/wall", (route) => route.fulfill({ status: 421, contentType: "application/problem+json", body }));
  await page.goto(`${base}/wall/?lang=en`);
  await page.getByText("refused: Not under this name").waitFor();
  await accessible(page, "wall that is refused");
  await page.unroute("**/v1/wall");
  await page.waitForFunction(() => /\d/.test(document.querySelector("#orders").textContent));
  await page.context().close();
}

/** Checks layout, translation and accessibility at every size, in both languages and themes. */
async function testAppearance(browser, storage) {
  for (const [width, height] of SIZES) {
    for (const lang of ["en", "zh"]) {
      for (const theme of ["dark", "light"]) {
        const name = `wall-${width}x${height}-${lang}-${theme}`;
        const page = await open(browser, base, name, { viewport: { width, height }, storageState: storage });
        await page.goto(`${base}/wall/?lang=${lang}&theme=${theme}`);
        await page.waitForFunction(() => /\d/.test(document.querySelector("#orders").textContent));
        await page.locator("#chart canvas").waitFor();
        await page.evaluate(() => document.fonts.ready);
        await translated(page, name, lang);
        await laidOut(page, name, { blocks: BLOCKS, scrolls: width < 760 });
        await accessible(page, name);
        await page.screenshot({ path: `${shots}/${name}.png`, fullPage: width < 760 });
        await page.context().close();
      }
    }
  }
}

/** A snapshot with the largest figures and the longest names that a chain has, and with two stores of one name. */
function largestWall() {
  const sums = { created: 5_012_881, paid: 4_998_302, accepted: 4_981_204, refused: 9_312, ready: 4_910_288, picked_up: 4_888_120, cancelled: 12_901, refunded: 8_811, paid_amount: 19_412_200_012, refunded_amount: 31_200_400 };
  const curve = (until) => ({ from: 0, orders: Array.from({ length: until }, (_, minute) => Math.round(6_000 * Math.sin(minute / 460) ** 4)) });
  // The first two share a name, in two cities.
  const store = (nth) => ({ id: String(nth), name: `${LONG_NAME} ${Math.max(nth, 1)}`, city: nth ? "上海" : "杭州", last_hour: 18_402 - nth * 700, today: 99_000 });
  const at = Date.now();
  return {
    type: "snapshot", seq: 1, epoch: 1, at, as_of: at, complete_through: at, stale: false,
    chain: "The Very Large Golden Bowl Company of the East 大金碗餐饮集团", time_zone: "Asia/Shanghai", currency: "CNY", currency_digits: 2,
    day: "2026-11-21", day_start: at - 64_000_000, today: sums, yesterday_by_now: { ...sums, paid: 1_284_302 }, per_minute: 128_402,
    funnel: { minutes: 15, stages: ["created", "paid", "accepted", "ready", "picked_up"].map((stage, nth) => ({ stage, orders: 90_812 - nth, median_ms: nth ? 260_000 : undefined })) },
    stores: Array.from({ length: 24 }, (_, nth) => store(nth)), cities: Array.from({ length: 24 }, (_, nth) => ({ name: `Shijiazhuang 石家庄 ${nth}`, last_hour: 91_204 - nth, today: 1 })),
    reachability: { push: 19_812, poll: 1_121, offline: 2_207 }, recent: { from: 1_060, orders: [1, 2, 3, 4, 5] }, curves: { today: curve(1_065), yesterday: curve(1_440) },
  };
}

/** The stream of the wall's feed that holds these documents. */
const feedOf = (...walls) => walls.map((wall) => `event: ${wall.type}\ndata: ${JSON.stringify(wall)}\n\n`).join("");

const LONG_NAME = "Shanghai Pudong International Airport Terminal 2 上海浦东国际机场二号航站楼";

/** Checks the layout with the largest figures and the longest names that a chain has, and with two stores of one name. */
async function testExtremes(browser, storage) {
  const wall = largestWall();
  for (const [width, height] of SIZES) {
    for (const lang of ["en", "zh"]) {
      const what = `wall-${width}x${height}-${lang}-extremes`;
      const page = await open(browser, base, what, { viewport: { width, height }, storageState: storage });
      await page.route("**/v1/wall", (route) => route.fulfill({ contentType: "text/event-stream", body: feedOf(wall) }));
      await page.goto(`${base}/wall/?lang=${lang}`);
      await showsOrders(page, wall.today.paid);
      await page.locator("#chart canvas").waitFor();
      const labels = await page.locator("#stores tr th").evaluateAll((heads) => heads.slice(0, 3).map((head) => head.title));
      check(labels.join() === `${LONG_NAME} 1 · 杭州,${LONG_NAME} 1 · 上海,${LONG_NAME} 2`, `${what}: stores of one name: ${labels}`);
      await laidOut(page, what, { blocks: BLOCKS, scrolls: width < 760 });
      await page.screenshot({ path: `${shots}/${what}.png`, fullPage: width < 760 });
      await page.context().close();
    }
  }
}

/** New orders show without a reload, every control is reachable by keyboard, and the chart has a table. */
async function testUpdates(page) {
  const before = await figure(page);
  await payOrder();
  await showsOrders(page, before + 1);
  await page.evaluate(() => {
    globalThis.figures = [];
    new MutationObserver(() => globalThis.figures.push(Number(document.querySelector("#orders").textContent.replace(/\D/g, "")))).observe(
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
  check(reached.join() === "lang,theme,tables,full", `the Tab key reaches ${reached.join()}`);
  await page.locator("#tables").press("Enter");
  const hours = await page.locator("#chart-table tbody tr").count();
  check(hours >= 1 && (await page.locator("#chart").isHidden()), "the curve has no table");
  await accessible(page, "wall with tables");
  await page.locator("#tables").press("Enter");
  await page.locator("#lang").press("Enter");
  await translated(page, "wall after a change of language", "zh");
  await page.locator("#lang").press("Enter");
}

/** The screen shows that the server stopped, follows it again when it is back, and no figure goes backwards. */
async function testRestart(page) {
  page.expected.push(/ERR_CONNECTION|Failed to load resource|ERR_INCOMPLETE|network error/i);
  await request("stop the server");
  await page.clock.fastForward(6_000);
  await hasState(page, "amber");
  check(/data is \d+ s old/.test(await page.locator("#age").textContent()), "amber is not spelled out");
  await page.clock.fastForward(40_000);
  await hasState(page, "red");
  check(/no new data since \d\d:\d\d:\d\d/.test(await page.locator("#age").textContent()), "red does not say since when");
  await accessible(page, "wall without a server");
  await page.screenshot({ path: `${shots}/wall-red.png` });
  const before = await figure(page);
  await request("start the server");
  await payOrder();
  const until = Date.now() + PATIENCE_MS;
  while ((await figure(page)) <= before && Date.now() < until) {
    // The page's clock is faked: its back-off has to be advanced.
    await page.clock.fastForward(2_000);
    await page.waitForTimeout(50);
  }
  await showsOrders(page, before + 1);
  const figures = await page.evaluate(() => globalThis.figures);
  check(figures.length > 0 && figures.every((one, nth) => nth === 0 || figures[nth - 1] <= one), `figures went backwards: ${figures}`);
}

/**
 * A figure rolls in every frame of 60 a second, and a frame does little: it writes the two figures that roll, draws no curve, and requests no
 * frame after the last. So no frame is long on a slow machine either. The test calls the frames itself; nothing here depends on its speed.
 */
async function testFrames(browser, storage) {
  const page = await open(browser, base, "wall frame by frame", { storageState: storage });
  await page.addInitScript(() => {
    const byHand = { waiting: new Map(), requested: 0, requestedAt: 0, draws: 0 };
    globalThis.byHand = byHand;
    globalThis.requestAnimationFrame = (callback) => {
      byHand.requestedAt = performance.now();
      byHand.requested += 1;
      byHand.waiting.set(byHand.requested, callback);
      return byHand.requested;
    };
    globalThis.cancelAnimationFrame = (number) => byHand.waiting.delete(number);
    const clear = CanvasRenderingContext2D.prototype.clearRect;
    CanvasRenderingContext2D.prototype.clearRect = function (...area) {
      byHand.draws += 1;
      return clear.apply(this, area);
    };
  });
  const before = largestWall();
  const after = { ...before.today, paid: before.today.paid + 600, paid_amount: 1_000 };
  const update = { ...before, type: "update", seq: 2, today: after, per_minute: 64, curves: undefined };
  await page.route("**/v1/wall", (route) => route.fulfill({ contentType: "text/event-stream", body: feedOf(before, update) }));
  await page.goto(`${base}/wall/?lang=en`);
  // Not by frames, which nobody draws here.
  const isReady = () => /\b10$/.test(document.querySelector("#amount").textContent) && globalThis.byHand.draws > 0 && globalThis.byHand.waiting.size > 0;
  await page.waitForFunction(isReady, undefined, { polling: 50 });
  await page.evaluate(() => document.fonts.ready);
  const seen = await page.evaluate(() => {
    const { byHand } = globalThis;
    const [drawn, requestedAt] = [byHand.draws, byHand.requestedAt];
    const changes = new MutationObserver(() => {});
    changes.observe(document.body, { childList: true, characterData: true, attributes: true, subtree: true });
    const figures = [];
    let others = [];
    // A browser may give the first frame a time before the one at which it was requested: that at which it began to draw the frame.
    for (let frame = 0; frame <= 16; frame += 1) {
      const due = [...byHand.waiting.values()];
      byHand.waiting.clear();
      due.forEach((callback) => callback(requestedAt - 8 + (frame * 1_000) / 60));
      const elements = changes.takeRecords().map(({ target }) => (target instanceof Element ? target : target.parentElement).id);
      others = others.concat(elements.filter((id) => !["orders", "per-minute"].includes(id)));
      figures.push(Number(document.querySelector("#orders").textContent.replace(/\D/g, "")));
    }
    return { figures, others, draws: byHand.draws - drawn, left: byHand.waiting.size };
  });
  const { figures, others, draws, left } = seen;
  check(figures[0] >= before.today.paid && figures.every((one, nth) => nth === 0 || figures[nth - 1] <= one), `figures go backwards: ${figures}`);
  check(figures.at(-1) === before.today.paid + 600, `the figure ends as ${figures.at(-1)}`);
  check(new Set(figures).size >= 12, `the figure jumps: ${figures}`);
  check(others.length === 0, `a frame also changes ${others}`);
  check(draws === 0, `a frame draws the curve: ${draws} times`);
  check(left === 0, "frames are requested although nothing moves");
  await page.context().close();
}

/** With reduced motion, figures change at once and nothing is animated. */
async function testReducedMotion(browser, storage) {
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
    await payOrder();
  }
  await showsOrders(page, before + 5);
  check((await page.evaluate(() => document.getAnimations().length)) === 0, "something moves");
  const between = await page.evaluate(() => [...globalThis.steps].map((text) => Number(text.replace(/\D/g, ""))));
  check(between.every((one) => Number.isInteger(one) && one <= before + 5), `figures were animated: ${between}`);
  await page.context().close();
}

const browser = await launch();
try {
  const page = await open(browser, base, "wall", { viewport: { width: 1366, height: 768 } });
  page.expected.push(/401/);
  await page.clock.install();
  await page.clock.resume();
  await testSignIn(page);
  const storage = await page.context().storageState();
  await testRefusal(browser, storage);
  await testAppearance(browser, storage);
  await testExtremes(browser, storage);
  await testUpdates(page);
  await testFrames(browser, storage);
  await testReducedMotion(browser, storage);
  await testRestart(page);
} catch (error) {
  fault(error.stack);
}
await finish(browser);
