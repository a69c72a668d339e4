// Renders the wall from the documents of its feed. All figures are the server's; only the age of the data is computed here, since only this screen knows when
// it last received something.

import { chart } from "/assets/curve.js";
import { follow } from "/assets/feed.js";
import { animatedFigure, clock, count, date, duration, money, percentChange, prefersReducedMotion } from "/assets/format.js";
import { initToolbar } from "/assets/toolbar.js";
import { word } from "/assets/words.js";

/** Data older than AMBER_MS is marked late, data older than RED_MS as outdated. */
const AMBER_MS = 5_000;
const RED_MS = 30_000;
const ANNOUNCE_MS = 60_000;
/** A rejected token is tried again after this: nobody stands at the screen, and a rotated key or a wrong clock is corrected on the server. */
const TOKEN_RETRY_MS = 60_000;
const TOKEN = "orderbell.wall.token";
/** Minutes of the funnel until the server says how many. */
const FUNNEL_MINUTES = 15;

const byId = (id) => document.getElementById(id);
const wallElement = document.querySelector(".wall");
const curve = chart(byId("chart"));
const rollOrders = animatedFigure(byId("orders"), (number) => {
  const text = count(number);
  byId("orders").style.setProperty("--digits", Math.max(text.length, 5));
  return text;
});
const rollMinute = animatedFigure(byId("per-minute"), count);

let shown = null;
let receivedAt = 0;
let pulse = { at: 0, orders: 0 };
let announcedAt = 0;

/** The server's clock, estimated from the newest document. */
const serverNow = () => shown.at + (performance.now() - receivedAt);

function render(wall) {
  const first = shown === null;
  byId("sign-in").hidden = true;
  wallElement.hidden = false;
  shown = wall;
  receivedAt = performance.now();
  const empty = wall.today.created === 0 && wall.yesterday_by_now.created === 0;
  wallElement.dataset.empty = empty;
  byId("chain").textContent = wall.chain;
  byId("chain").title = wall.chain;
  document.title = word("wallTitle", wall.chain);
  if (empty) {
    byId("orders").textContent = "–";
    byId("hero-name").textContent = word("waitingForFirst");
    byId("amount").textContent = "";
    byId("versus").textContent = "";
    byId("per-minute").textContent = "";
  } else {
    rollOrders(wall.today.paid);
    rollMinute(wall.per_minute);
    byId("hero-name").textContent = word("ordersToday");
    byId("amount").textContent = money(wall.today.paid_amount, wall.currency, wall.currency_digits);
    const before = wall.yesterday_by_now.paid;
    const time = clock(serverNow(), wall.time_zone, false);
    byId("versus").textContent =
      before > 0 ? word("versusYesterday", percentChange(wall.today.paid, before), time) : word("noYesterday");
  }
  curve.show(wall.curves);
  renderBars(byId("stores"), storeRows(wall.stores));
  renderBars(byId("cities"), wall.cities.map((city) => ({ name: city.name, value: city.last_hour })));
  wallElement.dataset.cities = wall.cities.length > 0;
  renderFunnel(wall.funnel);
  renderReachability(wall.reachability);
  if (!byId("chart-table").hidden) {
    renderTable(wall.curves);
  }
  if (first) {
    pulse.orders = wall.today.paid;
  }
  showPulse(wall.today.paid);
  announce(wall);
  renderAge();
}

/** Rows of the stores. Stores that share a name are told apart by their city, or by their id where no city is known. */
function storeRows(stores) {
  const times = new Map();
  for (const { name } of stores) {
    times.set(name, (times.get(name) ?? 0) + 1);
  }
  return stores.map(({ id, name, city, last_hour: value }) => ({ name: name ?? id, note: name && times.get(name) > 1 ? (city ?? id) : "", value }));
}

/** Renders rows with a bar each. Existing rows are updated in place. */
function renderBars(body, rows) {
  const largest = Math.max(1, ...rows.map(({ value }) => value));
  while (body.rows.length > rows.length) {
    body.deleteRow(-1);
  }
  rows.forEach(({ name, note, value }, nth) => {
    const row = body.rows[nth] ?? insertBarRow(body);
    const [head, cell] = row.cells;
    const [label, suffix] = head.firstChild.children;
    label.textContent = name;
    suffix.textContent = note ? ` \u00b7 ${note}` : "";
    head.title = `${name}${suffix.textContent}`;
    cell.lastChild.textContent = count(value);
    cell.firstChild.firstChild.style.transform = `scaleX(${value / largest})`;
  });
}

function insertBarRow(body) {
  const row = body.insertRow();
  const head = document.createElement("th");
  head.scope = "row";
  const label = document.createElement("span");
  label.className = "label";
  label.append(document.createElement("span"), document.createElement("span"));
  head.append(label);
  const cell = document.createElement("td");
  const bar = document.createElement("span");
  bar.className = "bar";
  bar.append(document.createElement("span"));
  const value = document.createElement("b");
  cell.append(bar, value);
  row.append(head, cell);
  return row;
}

function renderFunnel({ minutes, stages }) {
  byId("funnel-name").textContent = word("lastMinutes", minutes);
  const list = byId("funnel");
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
    time.textContent = stage.median_ms === undefined ? "" : duration(stage.median_ms);
    time.title = stage.median_ms === undefined ? "" : word("median", duration(stage.median_ms));
    name.textContent = word(stage.stage);
    value.textContent = count(stage.orders);
  });
}

function renderReachability(stores) {
  const parts = ["push", "poll", "offline"].map((how) => {
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
  byId("reachability").replaceChildren(...parts);
}

/** Renders the curves as a table with one row per hour. */
function renderTable({ today, yesterday }) {
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
  byId("chart-table").replaceChildren(element);
}

/** Shows a ring that spreads from the figure, at most once a second; its brightness tells how many orders it stands for. */
function showPulse(orders) {
  const now = performance.now();
  const more = orders - pulse.orders;
  if (now - pulse.at < 1_000) {
    return;
  }
  pulse = { at: now, orders };
  if (more <= 0 || prefersReducedMotion() || document.hidden) {
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

/** Announces the figures to screen readers, once a minute. */
function announce(wall) {
  const now = performance.now();
  if (announcedAt === 0 || now - announcedAt > ANNOUNCE_MS) {
    announcedAt = now;
    byId("announcement").textContent = word("summary", count(wall.today.paid), count(wall.per_minute));
  }
}

/** Renders the age of the data: fresh, late (amber, spelled out) or outdated (red, with the figures in quiet ink). */
function renderAge() {
  const text = byId("age-text");
  if (!shown) {
    return;
  }
  const now = serverNow();
  byId("date").textContent = date(now, shown.time_zone);
  byId("clock").textContent = clock(now, shown.time_zone);
  const known = shown.as_of !== undefined;
  const old = known ? Math.max(0, now - shown.as_of) : Infinity;
  const seconds = Math.floor(old / 1_000);
  const state = old > RED_MS || shown.stale ? "red" : old > AMBER_MS ? "amber" : "fresh";
  wallElement.dataset.state = state;
  const texts = {
    fresh: () => word("dataAge", seconds),
    amber: () => word("dataLate", seconds),
    red: () => (known ? word("noNewDataSince", clock(shown.as_of, shown.time_zone)) : word("dataAgeUnknown")),
  };
  const newText = texts[state]();
  if (text.textContent !== newText) {
    text.textContent = newText;
  }
  // A screen reader announces a change of state, not every second.
  byId("age").setAttribute("aria-live", state === "fresh" ? "off" : "polite");
  byId("age").className = `age state ${{ fresh: "push", amber: "suspect", red: "offline" }[state]}`;
}

/** Before the first figures, the reason of a refusal is all there is to show. */
function renderDisconnect(refusal) {
  const text = refusal ? word("refusedBecause", refusal) : word("connecting");
  // A screen reader announces a change, not every try.
  if (!shown && byId("age-text").textContent !== text) {
    byId("age-text").textContent = text;
  }
  renderAge();
}

function requestToken() {
  const panel = byId("sign-in");
  const rejected = localStorage.getItem(TOKEN) !== null;
  panel.hidden = false;
  wallElement.hidden = true;
  byId("sign-in-hint").textContent = rejected ? word("tokenRejected") : word("signInHint");
  if (document.activeElement !== byId("token")) {
    byId("token").focus();
  }
  return new Promise((done) => {
    const retry = rejected ? setTimeout(done, TOKEN_RETRY_MS) : 0;
    panel.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      clearTimeout(retry);
      localStorage.setItem(TOKEN, byId("token").value.trim());
      byId("token").value = "";
      done();
    };
  });
}

/** Renders what depends on the language. */
function renderLabels() {
  byId("tables").textContent = word("tables");
  byId("full").textContent = word("fullScreen");
  if (shown) {
    render(shown);
  }
}

/** Keeps the screen on. The browser drops the lock when the page is hidden, so it is requested again when the page is shown. */
async function keepAwake() {
  try {
    await navigator.wakeLock?.request("screen");
  } catch {
    // The browser may deny it, for instance on a low battery. The wall works without.
  }
}

function begin() {
  initToolbar(renderLabels, () => curve.redraw());
  byId("tables").onclick = () => {
    const on = byId("chart-table").hidden;
    byId("chart-table").hidden = !on;
    byId("chart").hidden = on;
    byId("tables").setAttribute("aria-pressed", String(on));
    if (on && shown) {
      renderTable(shown.curves);
    }
  };
  byId("full").hidden = !document.fullscreenEnabled;
  byId("full").onclick = () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen());
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) {
      keepAwake();
    }
  });
  keepAwake();
  setInterval(renderAge, 250);
  document.fonts.ready.then(() => curve.redraw());
  byId("funnel-name").textContent = word("lastMinutes", FUNNEL_MINUTES);
  follow({ token: () => localStorage.getItem(TOKEN), onWall: render, requestToken, onDisconnect: renderDisconnect });
}

begin();
