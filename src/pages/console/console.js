// The console: what hurts on top, tables in the middle, one story at the right. It asks the admin listener, and shows what it says; the only thing
// that it works out is the latency of the last minute.

import { count, span } from "/assets/figures.js";
import { lately, scraped } from "/assets/numbers.js";
import { ask, closes, moment, ofLetter, ofOrder, ofStore, state } from "/assets/story.js";
import { made, table } from "/assets/table.js";
import { tools } from "/assets/tools.js";
import "/assets/vocabulary.js";
import { word } from "/assets/words.js";

const TOP_MS = 2_000;
const SCRAPE_MS = 5_000;
const STORES_MS = 10_000;
const TOPICS_MS = 30_000;
/** Beyond this something is slow: people in a store wonder after ten seconds. */
const SLOW_STREAM_MS = 5_000;
const SLOW_COMMIT_MS = 1_000;
const DELAYS = [
  ["read_delay", "read", "readWhy"],
  ["commit_delay", "commit", "commitWhy"],
  ["push_delay", "pushStage", "pushWhy"],
  ["ack_delay", "ack", "ackWhy"],
];

const by = (id) => document.getElementById(id);
const known = { stores: [], letters: [], ofTopics: [], topicsAway: false, top: null, lost: false };

const empty = (text, command) => () => made("div", { className: "empty" }, made("p", { textContent: word(text) }), command ? made("code", { textContent: command }) : null);
const age = (as_of) => (known.top && as_of !== undefined && as_of !== null ? Math.max(0, known.top.at - as_of) : null);
/** How a letter is called: those of topics by their own place, those of the ledger's log by number. */
const nameOf = (letter) => letter.which ?? String(letter.number);
const allLetters = () => [...known.letters, ...known.ofTopics];
const troubled = (store) => store.devices.filter((device) => device.trouble).length;

const stores = table({
  caption: "stores",
  id: (row) => row.id,
  sorted: { column: 4, down: true },
  empty: empty("storesEmpty", "orderbell serve --try"),
  opens: (row) => ofStore(row, openOrder, () => stores.forgets()),
  columns: [
    { name: "store", text: (row) => row.id },
    { name: "name", text: (row) => row.name ?? "" },
    { name: "city", text: (row) => row.city ?? "" },
    {
      name: "reach",
      text: (row) => `${word(row.reach)} ${row.devices.map((device) => (device.trouble ? word(device.trouble) : "")).join(" ")}`,
      cell: (row) => {
        const worst = ["stuck", "deaf", "slow"].find((trouble) => row.devices.some((device) => device.trouble === trouble));
        return made("span", {}, state(row.reach), worst ? made("span", { className: "late", textContent: ` \u25b2 ${word(worst)}` }) : null);
      },
    },
    { name: "waiting", number: true, main: true, text: (row) => count(row.waiting), value: (row) => row.waiting },
    { name: "since", text: () => "", value: (row) => -(row.waiting_since ?? Infinity), cell: (row) => moment(row.waiting_since) },
    { name: "devices", number: true, text: (row) => String(row.devices.length), value: (row) => row.devices.length },
    { name: "lastHour", number: true, text: (row) => count(row.last_hour), value: (row) => row.last_hour },
    { name: "today", number: true, text: (row) => count(row.today), value: (row) => row.today },
  ],
});

const partitions = table({
  caption: "partition",
  id: (row) => row.partition,
  sorted: { column: 2, down: true },
  empty: empty("logEmpty"),
  columns: [
    { name: "partition", text: (row) => row.partition },
    {
      name: "state",
      text: (row) => word(row.damaged ? "damaged" : row.paused ? "paused" : "resting"),
      cell: (row) => state(row.damaged || row.paused ? "suspect" : "push", word(row.damaged ? "damaged" : row.paused ? "paused" : "resting")),
    },
    { name: "lag", number: true, main: true, text: (row) => count(row.lag), value: (row) => row.lag },
    { name: "frontier", number: true, text: (row) => count(row.frontier), value: (row) => row.frontier },
    { name: "end", number: true, text: (row) => (row.end === null ? "" : count(row.end)), value: (row) => row.end ?? 0 },
    { name: "inFlight", number: true, text: (row) => count(row.in_flight), value: (row) => row.in_flight },
    { name: "readUpTo", text: () => "", value: (row) => age(row.as_of) ?? Infinity, cell: (row) => moment(row.as_of, known.top.at) },
  ],
});

const hot = table({
  caption: "hotNone",
  id: (row) => row.key,
  sorted: { column: 1, down: true },
  empty: empty("hotEmpty"),
  columns: [
    { name: "hot", text: (row) => row.key },
    { name: "records", number: true, main: true, text: (row) => count(row.records), value: (row) => row.records },
    { name: "bytes", number: true, text: (row) => count(row.bytes), value: (row) => row.bytes },
  ],
});

const letters = table({
  caption: "letters",
  id: nameOf,
  sorted: { column: 1, down: true },
  empty: empty("lettersEmpty", "orderbell dlq list"),
  opens: (row) => ofLetter(row, () => again([row], row.reason), () => letters.forgets()),
  columns: [
    { name: "number", text: nameOf },
    { name: "when", text: () => "", value: (row) => row.at, cell: (row) => moment(row.at) },
    { name: "reason", main: true, text: (row) => row.reason },
    { name: "message", text: (row) => row.message },
    { name: "partition", text: (row) => `${row.topic}/${row.partition ?? "?"}` },
    { name: "offset", number: true, text: (row) => String(row.offset ?? ""), value: (row) => row.offset ?? 0 },
  ],
});

const latency = table({
  caption: "latency",
  id: (row) => row.name,
  empty: empty("latencyEmpty", "orderbell serve --try"),
  columns: [
    { name: "stage", text: (row) => `${row.nth + 1}. ${word(row.word)}`, value: (row) => row.nth },
    { name: "p50", number: true, text: (row) => within(row.within[0]), value: (row) => row.within[0] },
    { name: "p99", number: true, main: true, text: (row) => within(row.within[1]), value: (row) => row.within[1] },
    { name: "count", number: true, text: (row) => count(row.all), value: (row) => row.all },
    { name: "timed", text: (row) => word(row.why) },
  ],
});

const within = (ms) => (ms === Infinity ? "> 30 s" : ms < 1_000 ? `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms` : span(ms));
const timed = () =>
  DELAYS.map(([name, stage, why], nth) => ({ name, nth, word: stage, why, ...lately(name, [0.5, 0.99]) })).filter((row) => row.all);

// Sections.

const SECTIONS = {
  stores: { tables: [stores], rows: () => [known.stores], count: () => known.stores.length },
  log: { tables: [partitions, hot], rows: () => [known.top?.partitions ?? [], known.top?.hot ?? []], count: () => known.top?.partitions.length ?? 0 },
  letters: { tables: [letters], rows: () => [allLetters()], count: () => allLetters().length },
  latency: { tables: [latency], rows: () => [timed()], count: () => null },
};
let section = SECTIONS[location.hash.slice(1)] ? location.hash.slice(1) : "stores";

function tab(name) {
  const button = made("button", { type: "button", id: `tab-${name}`, role: "tab", onclick: () => go(name) });
  button.setAttribute("aria-controls", "list");
  button.onkeydown = (event) => {
    const names = Object.keys(SECTIONS);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) {
      const next = names[(names.indexOf(name) + step + names.length) % names.length];
      go(next);
      by(`tab-${next}`).focus();
    }
  };
  return button;
}

function go(name) {
  if (section !== name) {
    closes();
  }
  section = name;
  history.replaceState(null, "", `#${name}`);
  by("list").setAttribute("aria-labelledby", `tab-${name}`);
  by("list").replaceChildren(...SECTIONS[name].tables.map((one) => one.element), ...(name === "letters" ? [all, away] : []));
  draw();
  if (name === "letters") {
    readTopics().catch(() => (known.lost = true));
  }
}

const all = made("button", { type: "button", className: "act", onclick: () => again(allLetters(), word("letters")) });
const away = made("p", { className: "late", role: "status" });

function openOrder(order) {
  ofOrder(order, () => {});
}

/** Whether somebody says yes. Not by the dialog's close event: it comes late, and may be that of the question before. */
function asks(question, yes) {
  by("ask-what").textContent = question;
  by("ask-yes").textContent = yes;
  by("ask").showModal();
  return new Promise((done) => {
    const answers = (value) => () => {
      by("ask").close();
      done(value);
    };
    by("ask-yes").onclick = answers(true);
    by("ask-no").onclick = answers(false);
    by("ask").oncancel = () => done(false);
  });
}

/** Sends letters again, once somebody has said so. */
async function again(chosen, what) {
  if (!(await asks(word("askAgain", chosen.length, what), word("again")))) {
    return;
  }
  let sent = 0;
  for (const { number } of chosen.filter(({ which }) => !which)) {
    const answer = await ask(`/letters/replay?after=${number - 1}&limit=1`, { method: "POST" });
    sent += answer.replayed;
  }
  const which = chosen.flatMap((letter) => letter.which ?? []);
  if (which.length > 0) {
    const answer = await ask("/letters/topics/replay", { method: "POST", body: JSON.stringify(which) });
    sent += answer.replayed;
  }
  closes();
  await readLetters();
  away.textContent = word("sent", sent);
}

// What hurts.

function hurts() {
  const found = Object.entries(known.top?.red ?? {}).map(([place, what]) => {
    const to = place === "dead letters" ? "letters" : /^(notices|mailbox)/.test(place) ? "stores" : place === "disk" || place === "ledger" ? "latency" : "log";
    return { text: word("red", place, what), exact: `${place}: ${what}`, to, red: true };
  });
  const deaf = known.stores.reduce((sum, store) => sum + troubled(store), 0);
  if (deaf > 0) {
    found.push({ text: word("trouble", deaf), to: "stores" });
  }
  if ((age(known.top?.as_of) ?? 0) > SLOW_STREAM_MS && !known.top.red.stream) {
    found.push({ text: word("slowStream"), to: "log" });
  }
  if ((lately("commit_delay", [0.99])?.within[0] ?? 0) > SLOW_COMMIT_MS) {
    found.push({ text: word("slowCommit"), to: "latency" });
  }
  return found;
}

function strip() {
  const found = known.lost ? [] : hurts();
  const how = known.lost ? "hurtAway" : found.some(({ red }) => red) ? "hurt" : found.length > 0 ? "slow" : "well";
  by("health").className = `state ${{ well: "push", slow: "suspect" }[how] ?? "away"}`;
  if (by("health").textContent !== word(how)) {
    by("health").textContent = word(how);
    document.title = `${word(how)} \u00b7 ${word("console")}`;
  }
  const texts = found.map(({ text, exact }) => `${text} ${exact}`).join("\n");
  if (by("hurts").dataset.texts !== texts) {
    by("hurts").dataset.texts = texts;
    const line = ({ text, exact, to, red }) => made("li", { className: red ? "" : "slow" }, made("button", { type: "button", textContent: text, title: exact ?? "", onclick: () => go(to) }));
    by("hurts").replaceChildren(...found.map(line));
  }
  if (known.top) {
    const { readers, viewers, held, held_max: max, parked } = known.top;
    by("summary").textContent = `${word("readers", count(readers), count(viewers))} \u00b7 ${word("held", count(held), count(max), count(parked))}`;
  }
  for (const [name, { count: size }] of Object.entries(SECTIONS)) {
    const many = size();
    const [label, number] = by(`tab-${name}`).children.length ? by(`tab-${name}`).children : [made("span"), made("span", { className: "count" })];
    by(`tab-${name}`).replaceChildren(label, " ", number);
    label.textContent = word(name);
    number.textContent = many === null ? "" : count(many);
    by(`tab-${name}`).setAttribute("aria-selected", String(name === section));
    by(`tab-${name}`).tabIndex = name === section ? 0 : -1;
  }
}

function draw() {
  strip();
  // What is not seen is not drawn.
  const rows = SECTIONS[section].rows();
  SECTIONS[section].tables.forEach((one, nth) => one.shows(rows[nth]));
  all.hidden = allLetters().length < 2;
  all.textContent = word("allAgain", allLetters().length);
}

// Asking.

async function readStores() {
  const found = [];
  for (let from = ""; from !== undefined; ) {
    const page = await ask(`/stores?from=${encodeURIComponent(from)}`);
    found.push(...page.stores);
    from = page.next;
  }
  known.stores = found;
}

async function readLetters() {
  const found = [];
  for (let after = 0; after !== null && after !== undefined && found.length < 10_000; ) {
    const page = await ask(`/letters?after=${after}`);
    found.push(...page.letters);
    after = page.next;
  }
  known.letters = found;
  draw();
}

/** What stands in topics is read from the brokers each time: only while somebody looks. */
async function readTopics() {
  if (section !== "letters") {
    return;
  }
  try {
    known.ofTopics = (await ask("/letters/topics")).letters;
    if (known.topicsAway) {
      away.textContent = "";
    }
    known.topicsAway = false;
  } catch (error) {
    if (error.status !== 503) {
      throw error;
    }
    known.topicsAway = true;
    away.textContent = word("brokersAway");
  }
  draw();
}

async function readTop() {
  known.top = await ask("/top");
}

async function scrape() {
  scraped(await (await fetch("/metrics", { cache: "no-store" })).text());
}

/** Asks again and again, one request after the other; a server that is away shows as such. */
async function every(ms, read) {
  for (;;) {
    if (!document.hidden) {
      try {
        await read();
        known.lost = false;
      } catch {
        known.lost = true;
      }
      draw();
    }
    await new Promise((done) => setTimeout(done, ms));
  }
}

function begin() {
  by("tabs").append(...Object.keys(SECTIONS).map(tab));
  go(section);
  tools(() => {
    closes();
    Object.values(SECTIONS).forEach(({ tables }) => tables.forEach((one) => one.words()));
    draw();
  });
  by("filter").oninput = () => Object.values(SECTIONS).forEach(({ tables }) => tables.forEach((one) => one.filters(by("filter").value)));
  by("trace").onsubmit = (event) => {
    event.preventDefault();
    openOrder(by("order").value.trim());
  };
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !by("ask").open) {
      closes();
    } else if (event.key === "/" && !event.target.matches("input")) {
      event.preventDefault();
      by("filter").focus();
    }
  });
  every(TOP_MS, readTop);
  every(SCRAPE_MS, scrape);
  every(STORES_MS, readStores);
  every(STORES_MS, readLetters);
  every(TOPICS_MS, readTopics);
}

begin();
