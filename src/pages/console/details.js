// The details panel on the right: a store with its devices and its mailbox as it fills, an order's timeline, or a dead letter. One at a time; opening another
// closes the one before.

import { clock, count, date, duration } from "/assets/format.js";
import { createElement, table } from "/assets/table.js";
import { hasWord, word } from "/assets/words.js";

const TAIL_MS = 1_000;
const TAIL_ROWS = 200;
const panel = document.getElementById("details");
let dispose = () => {};

/** A time as "3 s ago", with the exact time on hover and for screen readers. */
export function timeAgo(at, now = Date.now()) {
  if (at === undefined || at === null) {
    return "\u2013";
  }
  const exact = new Date(at).toISOString();
  return createElement("time", { dateTime: exact, title: exact, textContent: word("ago", duration(Math.max(0, now - at))) });
}

/** Requests JSON of the admin listener; throws an error with `status` unless it answers 2xx. */
export async function fetchJson(path, options) {
  const response = await fetch(path, { cache: "no-store", ...options });
  if (!response.ok) {
    throw Object.assign(new Error(`${path}: ${response.status}`), { status: response.status });
  }
  return response.json();
}

/** Closes the panel and calls its `onClose`. */
export function closeDetails() {
  dispose();
  dispose = () => {};
  panel.hidden = true;
  panel.replaceChildren();
}

/** Opens the panel. Returns a signal that is aborted when it closes. */
function open(title, onClose) {
  closeDetails();
  const heading = createElement("h2", { textContent: title });
  const button = createElement("button", { type: "button", textContent: word("close"), onclick: () => closeDetails() });
  panel.replaceChildren(createElement("header", {}, heading, button));
  panel.hidden = false;
  const controller = new AbortController();
  dispose = () => {
    controller.abort();
    onClose();
  };
  return controller.signal;
}

const STATES = ["push", "poll", "offline"];

/** A state as shape and word; any other name than a reachability is shown as warning. */
export const stateBadge = (name, text) => createElement("span", { className: `state ${STATES.includes(name) ? name : "warning"}`, textContent: text ?? word(name) });

const deviceState = ({ problem, connected }) => problem ?? (connected ? "connected" : "offline");

const deviceTable = (now) =>
  table({
    caption: "devices",
    id: (row) => row.device,
    empty: () => createElement("p", { className: "quiet", textContent: word("noDevices") }),
    columns: [
      { name: "device", text: (row) => row.device },
      {
        name: "state",
        text: (row) => word(deviceState(row)),
        cell: (row) => stateBadge(row.problem ? "warning" : row.connected ? "push" : "offline", word(deviceState(row))),
      },
      { name: "backlog", number: true, main: true, text: (row) => count(row.backlog), value: (row) => row.backlog },
      { name: "since", text: () => "", value: (row) => row.backlog_since ?? Infinity, cell: (row) => timeAgo(row.backlog_since, now) },
    ],
  });

/** Opens a store: its devices, and its mailbox as it fills. `onOrder(id)` opens an order. */
export async function openStore(store, onOrder, onClose) {
  const signal = open(store.name ?? store.id, onClose);
  const list = deviceTable(Date.now());
  list.show(store.devices);
  const tail = table({
    caption: "tail",
    id: (row) => row.position,
    sorted: { column: 0, down: true },
    empty: () => createElement("p", { className: "quiet", textContent: word("tailEmpty") }),
    onOpen: (row) => onOrder(row.order),
    columns: [
      { name: "when", text: (row) => clock(row.at), value: (row) => row.at },
      { name: "kind", text: (row) => row.kind },
      { name: "order", main: true, text: (row) => row.order },
    ],
  });
  panel.append(
    createElement("p", { className: "quiet", textContent: [store.id, store.city].filter(Boolean).join(" \u00b7 ") }),
    createElement("h3", { textContent: word("devices") }),
    list.element,
    createElement("h3", { textContent: word("tail") }),
    tail.element,
  );
  tail.show([]);
  let after = null;
  let received = [];
  while (!signal.aborted) {
    try {
      const page = await fetchJson(`/stores/${encodeURIComponent(store.id)}/tail${after ? `?after=${after}` : ""}`, { signal });
      after = page.position;
      if (page.notices.length > 0) {
        received = [...received, ...page.notices].slice(-TAIL_ROWS);
        tail.show(received);
      }
    } catch (error) {
      // The position is not valid any more: continue from the newest.
      after = error.status === 409 || error.status === 410 ? null : after;
    }
    await new Promise((done) => setTimeout(done, TAIL_MS));
  }
}

/** Opens an order with its timeline. */
export async function openOrder(order, onClose) {
  const signal = open(order, onClose);
  let found;
  try {
    found = await fetchJson(`/orders/${encodeURIComponent(order)}`, { signal });
  } catch (error) {
    if (!signal.aborted) {
      panel.append(createElement("p", { className: "alarm", role: "alert", textContent: error.status === 404 ? word("orderUnknown", order) : error.message }));
    }
    return;
  }
  const steps = table({
    caption: "timeline",
    id: (row) => String(row.nth),
    empty: () => "",
    columns: [
      { name: "when", text: (row) => exactTime(row.at), value: (row) => row.nth },
      { name: "step", text: (row) => stepWord(row.step), cell: (row) => createElement("span", { className: row.step === "nacked" ? "alarm" : "", textContent: stepWord(row.step) }) },
      { name: "kind", main: true, text: (row) => row.event ?? row.kind ?? "" },
      { name: "device", text: (row) => [row.to, row.device, row.attempt > 1 ? word("attempt", row.attempt) : ""].filter(Boolean).join(", ") },
    ],
  });
  const summary = [found.stage, found.outcome, found.store && `${word("store")} ${found.store}`].filter(Boolean).join(" \u00b7 ");
  panel.append(createElement("p", { textContent: summary }), createElement("h3", { textContent: `${date(found.at)} \u00b7 ${word("steps", found.timeline.length)}` }), steps.element);
  steps.show(found.timeline.map((entry, nth) => ({ ...entry, nth })));
}

/** A step of a timeline in words; one of a newer server is shown as it is. */
const stepWord = (step) => (hasWord(`step_${step}`) ? word(`step_${step}`) : step);

const exactTime = (at) => `${clock(at)}.${String(at % 1000).padStart(3, "0")}`;

/** Opens a dead letter with its whole record. `onReplay` replays it. */
export async function openDeadLetter({ which, number }, onReplay, onClose) {
  const signal = open(word("deadLetter", which ?? number), onClose);
  let deadLetter;
  try {
    deadLetter = await fetchJson(which ? `/dead-letters/topics?which=${encodeURIComponent(which)}` : `/dead-letters/${number}`, { signal });
  } catch (error) {
    if (!signal.aborted) {
      panel.append(createElement("p", { className: "alarm", role: "alert", textContent: error.status === 503 ? word("brokersUnreachable") : error.message }));
    }
    return;
  }
  const source = `${deadLetter.topic}/${deadLetter.partition ?? "?"}@${deadLetter.offset ?? "?"}`;
  panel.append(
    createElement("p", { className: "alarm", textContent: deadLetter.reason }),
    createElement("p", { textContent: deadLetter.message }),
    createElement("p", { className: "quiet", textContent: `${source} \u00b7 ${date(deadLetter.at)} ${clock(deadLetter.at)}` }),
    createElement("pre", { tabIndex: 0, textContent: formatValue(deadLetter.value) }),
    createElement("button", { type: "button", className: "act", textContent: word("replay"), onclick: onReplay }),
  );
}

function formatValue(value) {
  if (typeof value !== "string") {
    return value?.hex ?? "\u2205";
  }
  try {
    return JSON.stringify(JSON.parse(value), null, 2);
  } catch {
    return value;
  }
}
