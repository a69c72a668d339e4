// The operators' console: alerts on top, tables in the middle, details on the right. It polls the admin listener and shows its answers; only the latency of the
// last minute is computed here.

import { alertSection, alertText } from "/assets/alerts.js";
import "/assets/console_words.js";
import { closeDetails, fetchJson, openDeadLetter, openOrder, openStore, stateBadge, timeAgo } from "/assets/details.js";
import { count, duration } from "/assets/format.js";
import { addScrape, lastMinute } from "/assets/latency.js";
import { createElement, table } from "/assets/table.js";
import { initToolbar } from "/assets/toolbar.js";
import { word } from "/assets/words.js";

const TOP_INTERVAL_MS = 2_000;
const METRICS_INTERVAL_MS = 5_000;
const STORES_INTERVAL_MS = 10_000;
/** Topics are read from the brokers each time, which costs more. */
const TOPICS_INTERVAL_MS = 30_000;
/** Above these the whole is shown as degraded, although no alert is raised yet. */
const SLOW_STREAM_MS = 5_000;
const SLOW_COMMIT_MS = 1_000;
const MAX_DEAD_LETTERS = 10_000;
/** [metric, stage, explanation] of each histogram, in the order of an event's path. */
const HISTOGRAMS = [
  ["consume_lag", "consumed", "consumeHint"],
  ["commit_latency", "committed", "commitHint"],
  ["push_latency", "pushed", "pushHint"],
  ["ack_latency", "acked", "ackHint"],
];
/** Problems of a device, the worst first. */
const PROBLEMS = ["shared", "poisoned", "unresponsive", "slow"];

const byId = (id) => document.getElementById(id);
const data = { stores: [], ledgerDeadLetters: [], topicDeadLetters: [], brokersUnreachable: false, top: null, disconnected: false };

const empty = (text, command) => () =>
  createElement("div", { className: "empty" }, createElement("p", { textContent: word(text) }), command ? createElement("code", { textContent: command }) : null);
const age = (as_of) => (data.top && as_of !== undefined && as_of !== null ? Math.max(0, data.top.at - as_of) : null);
/** Dead letters in topics are identified by TOPIC/PARTITION@OFFSET, those in the ledger's log by number. */
const deadLetterId = (deadLetter) => deadLetter.which ?? String(deadLetter.number);
const allDeadLetters = () => [...data.ledgerDeadLetters, ...data.topicDeadLetters];
const problemDevices = (store) => store.devices.filter((device) => device.problem).length;

const stores = table({
  caption: "stores",
  id: (row) => row.id,
  sorted: { column: 4, down: true },
  empty: empty("storesEmpty", "orderbell serve --playground"),
  onOpen: (row) => openStore(row, showOrder, () => stores.clearSelection()),
  columns: [
    { name: "store", text: (row) => row.id },
    { name: "name", text: (row) => row.name ?? "" },
    { name: "city", text: (row) => row.city ?? "" },
    {
      name: "reachability",
      text: (row) => `${word(row.reachability)} ${row.devices.map((device) => (device.problem ? word(device.problem) : "")).join(" ")}`,
      cell: (row) => {
        const worst = PROBLEMS.find((problem) => row.devices.some((device) => device.problem === problem));
        return createElement("span", {}, stateBadge(row.reachability), worst ? createElement("span", { className: "late", textContent: ` \u25b2 ${word(worst)}` }) : null);
      },
    },
    { name: "backlog", number: true, main: true, text: (row) => count(row.backlog), value: (row) => row.backlog },
    { name: "since", text: () => "", value: (row) => -(row.backlog_since ?? Infinity), cell: (row) => timeAgo(row.backlog_since) },
    { name: "devices", number: true, text: (row) => String(row.devices.length), value: (row) => row.devices.length },
    { name: "lastHour", number: true, text: (row) => count(row.last_hour), value: (row) => row.last_hour },
    { name: "today", number: true, text: (row) => count(row.today), value: (row) => row.today },
  ],
});

const partitionState = ({ damaged, paused }) => (damaged ? "damaged" : paused ? "paused" : "ok");

const partitions = table({
  caption: "partition",
  id: (row) => row.partition,
  sorted: { column: 2, down: true },
  empty: empty("logEmpty"),
  columns: [
    { name: "partition", text: (row) => row.partition },
    {
      name: "state",
      text: (row) => word(partitionState(row)),
      cell: (row) => stateBadge(partitionState(row) === "ok" ? "push" : "warning", word(partitionState(row))),
    },
    { name: "lag", number: true, main: true, text: (row) => count(row.lag), value: (row) => row.lag },
    { name: "checkpoint", number: true, text: (row) => count(row.checkpoint), value: (row) => row.checkpoint },
    { name: "endOffset", number: true, text: (row) => (row.end === null ? "" : count(row.end)), value: (row) => row.end ?? 0 },
    { name: "inFlight", number: true, text: (row) => count(row.in_flight), value: (row) => row.in_flight },
    { name: "upToDate", text: () => "", value: (row) => age(row.as_of) ?? Infinity, cell: (row) => timeAgo(row.as_of, data.top.at) },
  ],
});

const hotKeys = table({
  caption: "hotKeys",
  id: (row) => row.key,
  sorted: { column: 1, down: true },
  empty: empty("hotKeysEmpty"),
  columns: [
    { name: "hotKey", text: (row) => row.key },
    { name: "records", number: true, main: true, text: (row) => count(row.records), value: (row) => row.records },
    { name: "bytes", number: true, text: (row) => count(row.bytes), value: (row) => row.bytes },
  ],
});

const deadLetters = table({
  caption: "deadLetters",
  id: deadLetterId,
  sorted: { column: 1, down: true },
  empty: empty("deadLettersEmpty", "orderbell dlq list"),
  onOpen: (row) => openDeadLetter(row, () => replay([row], row.reason), () => deadLetters.clearSelection()),
  columns: [
    { name: "number", text: deadLetterId },
    { name: "when", text: () => "", value: (row) => row.at, cell: (row) => timeAgo(row.at) },
    { name: "reason", main: true, text: (row) => row.reason },
    { name: "message", text: (row) => row.message },
    { name: "partition", text: (row) => `${row.topic}/${row.partition ?? "?"}` },
    { name: "offset", number: true, text: (row) => String(row.offset ?? ""), value: (row) => row.offset ?? 0 },
  ],
});

const latency = table({
  caption: "latency",
  id: (row) => row.metric,
  empty: empty("latencyEmpty", "orderbell serve --playground"),
  columns: [
    { name: "stage", text: (row) => `${row.nth + 1}. ${word(row.stage)}`, value: (row) => row.nth },
    { name: "p50", number: true, text: (row) => bound(row.bounds[0]), value: (row) => row.bounds[0] },
    { name: "p99", number: true, main: true, text: (row) => bound(row.bounds[1]), value: (row) => row.bounds[1] },
    { name: "samples", number: true, text: (row) => count(row.total), value: (row) => row.total },
    { name: "measured", text: (row) => word(row.hint) },
  ],
});

const bound = (ms) => (ms === Infinity ? "> 30 s" : ms < 1_000 ? `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms` : duration(ms));
const latencyRows = () =>
  HISTOGRAMS.map(([metric, stage, hint], nth) => ({ metric, nth, stage, hint, ...lastMinute(metric, [0.5, 0.99]) })).filter((row) => row.total);

// Sections.

const SECTIONS = {
  stores: { tables: [stores], rows: () => [data.stores], size: () => data.stores.length },
  log: { tables: [partitions, hotKeys], rows: () => [data.top?.partitions ?? [], data.top?.hot_keys ?? []], size: () => data.top?.partitions.length ?? 0 },
  deadLetters: { tables: [deadLetters], rows: () => [allDeadLetters()], size: () => allDeadLetters().length },
  latency: { tables: [latency], rows: () => [latencyRows()], size: () => null },
};
let section = SECTIONS[location.hash.slice(1)] ? location.hash.slice(1) : "stores";

function createTab(name) {
  const button = createElement("button", { type: "button", id: `tab-${name}`, role: "tab", onclick: () => selectSection(name) });
  button.setAttribute("aria-controls", "list");
  button.onkeydown = (event) => {
    const names = Object.keys(SECTIONS);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) {
      const next = names[(names.indexOf(name) + step + names.length) % names.length];
      selectSection(next);
      byId(`tab-${next}`).focus();
    }
  };
  return button;
}

function selectSection(name) {
  if (section !== name) {
    closeDetails();
  }
  section = name;
  history.replaceState(null, "", `#${name}`);
  byId("list").setAttribute("aria-labelledby", `tab-${name}`);
  byId("list").replaceChildren(...SECTIONS[name].tables.map((one) => one.element), ...(name === "deadLetters" ? [replayAll, replayStatus] : []));
  render();
  if (name === "deadLetters") {
    readTopicDeadLetters().catch(() => (data.disconnected = true));
  }
}

const replayAll = createElement("button", { type: "button", className: "act", onclick: () => replay(allDeadLetters(), word("deadLetters")) });
const replayStatus = createElement("p", { className: "late", role: "status" });

function showOrder(order) {
  openOrder(order, () => {});
}

/** Asks for confirmation. Resolved by the buttons, not by the dialog's `close` event: that comes late, and may belong to the question before. */
function confirm(question, yes) {
  byId("confirm-question").textContent = question;
  byId("confirm-yes").textContent = yes;
  byId("confirm").showModal();
  return new Promise((resolve) => {
    const answer = (value) => () => {
      byId("confirm").close();
      resolve(value);
    };
    byId("confirm-yes").onclick = answer(true);
    byId("confirm-no").onclick = answer(false);
    byId("confirm").oncancel = () => resolve(false);
  });
}

/** Replays dead letters, after a confirmation. */
async function replay(chosen, what) {
  if (!(await confirm(word("confirmReplay", chosen.length, what), word("replay")))) {
    return;
  }
  let [replayed, cut] = [0, 0];
  for (const { number } of chosen.filter(({ which }) => !which)) {
    const answer = await fetchJson(`/dead-letters/replay?after=${number - 1}&limit=1`, { method: "POST" });
    replayed += answer.replayed;
    cut += answer.cut?.length ?? 0;
  }
  const which = chosen.flatMap((deadLetter) => deadLetter.which ?? []);
  if (which.length > 0) {
    const answer = await fetchJson("/dead-letters/topics/replay", { method: "POST", body: JSON.stringify(which) });
    replayed += answer.replayed;
    cut += answer.cut?.length ?? 0;
  }
  closeDetails();
  await readLedgerDeadLetters();
  replayStatus.textContent = [word("replayed", replayed), ...(cut > 0 ? [word("notReplayed", cut)] : [])].join(" · ");
}

// Alerts and the state of the whole.

/** What needs attention: the server's alerts, then what is slow without having raised one. */
function findProblems() {
  const alerts = data.top?.alerts ?? [];
  const found = alerts.map((alert) => ({ text: alertText(alert), detail: alert.detail, section: alertSection(alert), critical: alert.severity === "critical" }));
  const devices = data.stores.reduce((sum, store) => sum + problemDevices(store), 0);
  if (devices > 0) {
    found.push({ text: word("problemDevices", devices), section: "stores" });
  }
  if ((age(data.top?.as_of) ?? 0) > SLOW_STREAM_MS && !alerts.some(({ code }) => code === "stream_stale")) {
    found.push({ text: word("slowStream"), section: "log" });
  }
  if ((lastMinute("commit_latency", [0.99])?.bounds[0] ?? 0) > SLOW_COMMIT_MS) {
    found.push({ text: word("slowCommit"), section: "latency" });
  }
  return found;
}

function overallState(problems) {
  if (data.disconnected) {
    return "disconnected";
  }
  return problems.some(({ critical }) => critical) ? "failing" : problems.length > 0 ? "degraded" : "ok";
}

function renderProblem({ text, detail, section: name, critical }) {
  const button = createElement("button", { type: "button", textContent: text, onclick: () => selectSection(name) });
  const note = detail ? createElement("span", { className: "detail", textContent: detail, title: detail }) : null;
  return createElement("li", { className: critical ? "" : "warning" }, button, note);
}

function renderStrip() {
  const problems = data.disconnected ? [] : findProblems();
  const state = overallState(problems);
  byId("health").className = `state ${{ ok: "push", degraded: "warning" }[state] ?? "offline"}`;
  if (byId("health").textContent !== word(state)) {
    byId("health").textContent = word(state);
    document.title = `${word(state)} \u00b7 ${word("console")}`;
  }
  const texts = problems.map(({ text, detail }) => `${text} ${detail}`).join("\n");
  if (byId("alerts").dataset.texts !== texts) {
    byId("alerts").dataset.texts = texts;
    byId("alerts").replaceChildren(...problems.map(renderProblem));
  }
  if (data.top) {
    const { subscribers, wall_viewers: viewers, in_flight: inFlight, max_in_flight: max, keys_backing_off: backingOff } = data.top;
    byId("summary").textContent = `${word("subscribers", count(subscribers), count(viewers))} \u00b7 ${word("recordsInFlight", count(inFlight), count(max), count(backingOff))}`;
  }
  for (const [name, { size }] of Object.entries(SECTIONS)) {
    const rows = size();
    const [label, number] = byId(`tab-${name}`).children.length ? byId(`tab-${name}`).children : [createElement("span"), createElement("span", { className: "count" })];
    byId(`tab-${name}`).replaceChildren(label, " ", number);
    label.textContent = word(name);
    number.textContent = rows === null ? "" : count(rows);
    byId(`tab-${name}`).setAttribute("aria-selected", String(name === section));
    byId(`tab-${name}`).tabIndex = name === section ? 0 : -1;
  }
}

/** Renders the strip and the section that is shown. */
function render() {
  renderStrip();
  const rows = SECTIONS[section].rows();
  SECTIONS[section].tables.forEach((one, nth) => one.show(rows[nth]));
  replayAll.hidden = allDeadLetters().length < 2;
  replayAll.textContent = word("replayAll", allDeadLetters().length);
}

// Polling.

async function readStores() {
  const found = [];
  for (let from = ""; from !== undefined; ) {
    const page = await fetchJson(`/stores?from=${encodeURIComponent(from)}`);
    found.push(...page.stores);
    from = page.next;
  }
  data.stores = found;
}

async function readLedgerDeadLetters() {
  const found = [];
  for (let after = 0; after !== null && after !== undefined && found.length < MAX_DEAD_LETTERS; ) {
    const page = await fetchJson(`/dead-letters?after=${after}`);
    found.push(...page.records);
    after = page.next;
  }
  data.ledgerDeadLetters = found;
  render();
}

/** Reads the dead letter topics, only while their section is shown. */
async function readTopicDeadLetters() {
  if (section !== "deadLetters") {
    return;
  }
  try {
    data.topicDeadLetters = (await fetchJson("/dead-letters/topics")).records;
    if (data.brokersUnreachable) {
      replayStatus.textContent = "";
    }
    data.brokersUnreachable = false;
  } catch (error) {
    if (error.status !== 503) {
      throw error;
    }
    data.brokersUnreachable = true;
    replayStatus.textContent = word("brokersUnreachable");
  }
  render();
}

async function readTop() {
  data.top = await fetchJson("/top");
}

async function readMetrics() {
  addScrape(await (await fetch("/metrics", { cache: "no-store" })).text());
}

/** Polls for ever, one request at a time, while the page is visible. A failure shows the server as disconnected. */
async function poll(intervalMs, read) {
  for (;;) {
    if (!document.hidden) {
      try {
        await read();
        data.disconnected = false;
      } catch {
        data.disconnected = true;
      }
      render();
    }
    await new Promise((resolve) => setTimeout(resolve, intervalMs));
  }
}

function begin() {
  const allTables = () => Object.values(SECTIONS).flatMap(({ tables }) => tables);
  byId("tabs").append(...Object.keys(SECTIONS).map(createTab));
  selectSection(section);
  initToolbar(() => {
    closeDetails();
    allTables().forEach((one) => one.renderWords());
    render();
  });
  byId("filter").oninput = () => allTables().forEach((one) => one.setFilter(byId("filter").value));
  byId("trace").onsubmit = (event) => {
    event.preventDefault();
    showOrder(byId("order").value.trim());
  };
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !byId("confirm").open) {
      closeDetails();
    } else if (event.key === "/" && !event.target.matches("input")) {
      event.preventDefault();
      byId("filter").focus();
    }
  });
  poll(TOP_INTERVAL_MS, readTop);
  poll(METRICS_INTERVAL_MS, readMetrics);
  poll(STORES_INTERVAL_MS, readStores);
  poll(STORES_INTERVAL_MS, readLedgerDeadLetters);
  poll(TOPICS_INTERVAL_MS, readTopicDeadLetters);
}

begin();
