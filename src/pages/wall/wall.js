// The wall: one document from the feed becomes the page. Nothing is computed here that the server knows better; what is computed is how old
// the figures are, since only this screen knows when it last heard something.

import { chart } from "/assets/curve.js";
import { follow } from "/assets/feed.js";
import { clock, count, date, money, motionless, roller, share, span } from "/assets/figures.js";
import { tools } from "/assets/tools.js";
import { word } from "/assets/words.js";

/** Older than this is spelled out, and older than that is no wall any more. */
const AMBER_MS = 5_000;
const RED_MS = 30_000;
const ALOUD_MS = 60_000;
/** A screen without a keyboard goes on asking: a key that was renewed, or a clock that was wrong, is mended elsewhere. */
const ASK_AGAIN_MS = 60_000;
const TOKEN = "orderbell.wall.token";

const by = (id) => document.getElementById(id);
const wallElement = document.querySelector(".wall");
const curve = chart(by("chart"));
const rollOrders = roller(by("orders"), (number) => {
  const text = count(number);
  by("orders").style.setProperty("--digits", Math.max(text.length, 5));
  return text;
});
const rollMinute = roller(by("per-minute"), count);

let shown = null;
let heardAt = 0;
let ringed = { at: 0, orders: 0 };
let spokeAt = 0;

/** The server's clock, as this screen can tell it. */
const serverNow = () => shown.at + (performance.now() - heardAt);

function shows(wall) {
  const first = shown === null;
  by("sign-in").hidden = true;
  wallElement.hidden = false;
  shown = wall;
  heardAt = performance.now();
  const none = wall.today.created === 0 && wall.yesterday_by_now.created === 0;
  wallElement.dataset.empty = none;
  by("chain").textContent = wall.chain;
  by("chain").title = wall.chain;
  document.title = word("title", wall.chain);
  if (none) {
    by("orders").textContent = "–";
    by("hero-name").textContent = word("waiting");
    by("amount").textContent = "";
    by("against").textContent = "";
    by("per-minute").textContent = "";
  } else {
    rollOrders(wall.today.paid);
    rollMinute(wall.per_minute);
    by("hero-name").textContent = word("ordersToday");
    by("amount").textContent = money(wall.today.paid_amount, wall.currency, wall.currency_digits);
    const before = wall.yesterday_by_now.paid;
    const time = clock(serverNow(), wall.time_zone, false);
    by("against").textContent =
      before > 0 ? word("against", share(wall.today.paid, before), time) : word("firstYesterday");
  }
  curve.show(wall.curves);
  bars(by("stores"), wall.stores, (store) => [store.name ?? store.id, store.last_hour]);
  bars(by("cities"), wall.cities, (city) => [city.name, city.last_hour]);
  wallElement.dataset.cities = wall.cities.length > 0;
  funnel(wall.funnel);
  reach(wall.reach);
  if (!by("chart-table").hidden) {
    table(wall.curves);
  }
  if (first) {
    ringed.orders = wall.today.paid;
  }
  ring(wall.today.paid);
  aloud(wall);
  age();
}

/** Rows with a bar each; rows stay where they are and change what they say. */
function bars(body, all, read) {
  const rows = all.map(read);
  const most = Math.max(1, ...rows.map(([, value]) => value));
  while (body.rows.length > rows.length) {
    body.deleteRow(-1);
  }
  rows.forEach(([name, value], nth) => {
    const row = body.rows[nth] ?? barRow(body);
    const [head, cell] = row.cells;
    head.firstChild.textContent = name;
    head.title = name;
    cell.lastChild.textContent = count(value);
    cell.firstChild.firstChild.style.transform = `scaleX(${value / most})`;
  });
}

function barRow(body) {
  const row = body.insertRow();
  const head = document.createElement("th");
  head.scope = "row";
  head.append(document.createElement("span"));
  const cell = document.createElement("td");
  const bar = document.createElement("span");
  bar.className = "bar";
  bar.append(document.createElement("span"));
  const value = document.createElement("b");
  cell.append(bar, value);
  row.append(head, cell);
  return row;
}

function funnel({ minutes, stages }) {
  by("funnel-name").textContent = word("lastMinutes", minutes);
  const list = by("funnel");
  if (list.children.length !== stages.length) {
    list.replaceChildren(
      ...stages.map(() => {
        const item = document.createElement("li");
        item.append(...["time", "name", "value"].map((part) => Object.assign(document.createElement("span"), { className: part })));
        return item;
      }),
    );
  }
  stages.forEach((stage, nth) => {
    const [time, name, value] = list.children[nth].children;
    time.textContent = stage.median_ms === undefined ? "" : span(stage.median_ms);
    time.title = stage.median_ms === undefined ? "" : word("median", span(stage.median_ms));
    name.textContent = word(stage.stage);
    value.textContent = count(stage.orders);
  });
}

function reach(stores) {
  const parts = ["push", "poll", "away"].map((how) => {
    const state = document.createElement("span");
    state.className = `state ${how}`;
    const value = document.createElement("b");
    value.textContent = count(stores[how]);
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = word(how);
    state.append(value, " ", name);
    return state;
  });
  by("reach").replaceChildren(...parts);
}

/** The curves as a table: an hour a row. */
function table({ today, yesterday }) {
  const sum = (orders, hour) => orders.slice(hour * 60, hour * 60 + 60).reduce((all, one) => all + one, 0);
  const rows = [];
  for (let hour = 0; hour * 60 < today.orders.length; hour += 1) {
    const times = `${String(hour).padStart(2, "0")}:00`;
    rows.push([times, count(sum(today.orders, hour)), count(sum(yesterday.orders, hour))]);
  }
  const element = document.createElement("table");
  const head = element.createTHead().insertRow();
  for (const name of ["hour", "today", "yesterday"]) {
    head.append(Object.assign(document.createElement("th"), { scope: "col", textContent: word(name) }));
  }
  const body = element.createTBody();
  for (const row of rows.reverse()) {
    const line = body.insertRow();
    row.forEach((text, nth) => {
      line.append(Object.assign(document.createElement(nth === 0 ? "th" : "td"), nth === 0 ? { scope: "row", textContent: text } : { textContent: text }));
    });
  }
  by("chart-table").replaceChildren(element);
}

/** A ring spreads from the figure, at most once a second; the more orders in it, the brighter. */
function ring(orders) {
  const now = performance.now();
  const more = orders - ringed.orders;
  if (now - ringed.at < 1_000) {
    return;
  }
  ringed = { at: now, orders };
  if (more <= 0 || motionless() || document.hidden) {
    return;
  }
  const bright = Math.min(0.2 + Math.log10(1 + more) * 0.25, 0.9);
  document.querySelector(".ring").animate(
    [
      { transform: "scale(0.2)", opacity: bright },
      { transform: "scale(1)", opacity: 0 },
    ],
    { duration: 950, easing: "cubic-bezier(0.2, 0.6, 0.3, 1)" },
  );
}

/** For those who hear the page: one sentence a minute. */
function aloud(wall) {
  const now = performance.now();
  if (spokeAt === 0 || now - spokeAt > ALOUD_MS) {
    spokeAt = now;
    by("aloud").textContent = word("summary", count(wall.today.paid), count(wall.per_minute));
  }
}

/** How old the figures are: quiet, then amber in words, then red, and the figures go to quiet ink. */
function age() {
  const text = by("age-text");
  if (!shown) {
    return;
  }
  const now = serverNow();
  by("date").textContent = date(now, shown.time_zone);
  by("clock").textContent = clock(now, shown.time_zone);
  const known = shown.as_of !== undefined;
  const old = known ? Math.max(0, now - shown.as_of) : Infinity;
  const seconds = Math.floor(old / 1_000);
  const state = old > RED_MS || shown.stale ? "red" : old > AMBER_MS ? "amber" : "fresh";
  wallElement.dataset.state = state;
  const says = {
    fresh: () => word("agoSeconds", seconds),
    amber: () => word("lateSeconds", seconds),
    red: () => (known ? word("lateSince", clock(shown.as_of, shown.time_zone)) : word("unknownAge")),
  };
  const said = says[state]();
  if (text.textContent !== said) {
    text.textContent = said;
  }
  // A screen reader hears of a change of state, not of every second.
  by("age").setAttribute("aria-live", state === "fresh" ? "off" : "polite");
  by("age").className = `age state ${{ fresh: "push", amber: "suspect", red: "away" }[state]}`;
}

function asksForToken() {
  const place = by("sign-in");
  const refused = localStorage.getItem(TOKEN) !== null;
  place.hidden = false;
  wallElement.hidden = true;
  by("sign-in-why").textContent = refused ? word("wrongToken") : word("signInWhy");
  if (document.activeElement !== by("token")) {
    by("token").focus();
  }
  return new Promise((done) => {
    const again = refused ? setTimeout(done, ASK_AGAIN_MS) : 0;
    place.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      clearTimeout(again);
      localStorage.setItem(TOKEN, by("token").value.trim());
      by("token").value = "";
      done();
    };
  });
}

/** What the page says itself, in the language that is shown. */
function labels() {
  by("tables").textContent = word("tables");
  by("full").textContent = word("full");
  if (shown) {
    shows(shown);
  }
}

/** The screen of a wall does not go dark. Asked for again when the page comes back. */
async function keepAwake() {
  try {
    await navigator.wakeLock?.request("screen");
  } catch {
    // Refused, for instance on a low battery: the wall works all the same.
  }
}

function begin() {
  tools(labels, () => curve.redraw());
  by("tables").onclick = () => {
    const on = by("chart-table").hidden;
    by("chart-table").hidden = !on;
    by("chart").hidden = on;
    by("tables").setAttribute("aria-pressed", String(on));
    if (on && shown) {
      table(shown.curves);
    }
  };
  by("full").hidden = !document.fullscreenEnabled;
  by("full").onclick = () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen());
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) {
      keepAwake();
    }
  });
  keepAwake();
  setInterval(age, 250);
  document.fonts.ready.then(() => curve.redraw());
  follow({ token: () => localStorage.getItem(TOKEN), shows, asksForToken, lost: age });
}

begin();
