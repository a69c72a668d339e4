// What stands at the right: one store with its devices and what comes in live, one order's steps, one dead letter. One at a time; opening another
// ends the one before.

import { clock, count, date, span } from "/assets/figures.js";
import { made, table } from "/assets/table.js";
import { word } from "/assets/words.js";

const TAIL_MS = 1_000;
const TAIL_ROWS = 200;
const place = document.getElementById("story");
let end = () => {};

/** A moment: how long ago, and exactly for whoever points at it or has it read aloud. */
export function moment(at, now = Date.now()) {
  if (at === undefined || at === null) {
    return "\u2013";
  }
  const exact = new Date(at).toISOString();
  return made("time", { dateTime: exact, title: exact, textContent: word("agoLong", span(Math.max(0, now - at))) });
}

export async function ask(path, options) {
  const answer = await fetch(path, { cache: "no-store", ...options });
  if (!answer.ok) {
    throw Object.assign(new Error(`${path}: ${answer.status}`), { status: answer.status });
  }
  return answer.json();
}

/** Closes what is open; `closed` is told once. */
export function closes() {
  end();
  end = () => {};
  place.hidden = true;
  place.replaceChildren();
}

function opens(title, closed) {
  closes();
  const heading = made("h2", { textContent: title });
  const button = made("button", { type: "button", textContent: word("close"), onclick: () => closes() });
  place.replaceChildren(made("header", {}, heading, button));
  place.hidden = false;
  const over = new AbortController();
  end = () => {
    over.abort();
    closed();
  };
  return over.signal;
}

const STATES = { push: "push", poll: "poll", away: "away" };

/** Shape and word, as everywhere. */
export const state = (name, text) => made("span", { className: `state ${STATES[name] ?? "suspect"}`, textContent: text ?? word(name) });

const devices = (now) =>
  table({
    caption: "devices",
    id: (row) => row.device,
    empty: () => made("p", { className: "quiet", textContent: word("nobody") }),
    columns: [
      { name: "device", text: (row) => row.device },
      {
        name: "state",
        text: (row) => word(row.trouble ?? (row.connected ? "connected" : "away")),
        cell: (row) => state(row.trouble ? "suspect" : row.connected ? "push" : "away", word(row.trouble ?? (row.connected ? "connected" : "away"))),
      },
      { name: "waiting", number: true, main: true, text: (row) => count(row.waiting), value: (row) => row.waiting },
      { name: "since", text: () => "", value: (row) => row.waiting_since ?? Infinity, cell: (row) => moment(row.waiting_since, now) },
    ],
  });

/** A store: its devices, and its mailbox as it fills. `orders(id)` opens an order. */
export async function ofStore(store, orders, closed) {
  const signal = opens(store.name ?? store.id, closed);
  const list = devices(Date.now());
  list.shows(store.devices);
  const tail = table({
    caption: "tail",
    id: (row) => row.position,
    sorted: { column: 0, down: true },
    empty: () => made("p", { className: "quiet", textContent: word("tailEmpty") }),
    opens: (row) => orders(row.order),
    columns: [
      { name: "when", text: (row) => clock(row.at), value: (row) => row.at },
      { name: "name", text: (row) => row.kind },
      { name: "order", main: true, text: (row) => row.order },
    ],
  });
  place.append(
    made("p", { className: "quiet", textContent: [store.id, store.city].filter(Boolean).join(" \u00b7 ") }),
    made("h3", { textContent: word("devices") }),
    list.element,
    made("h3", { textContent: word("tail") }),
    tail.element,
  );
  tail.shows([]);
  let after = null;
  let heard = [];
  while (!signal.aborted) {
    try {
      const page = await ask(`/stores/${encodeURIComponent(store.id)}/tail${after ? `?after=${after}` : ""}`, { signal });
      after = page.position;
      if (page.notices.length > 0) {
        heard = [...heard, ...page.notices].slice(-TAIL_ROWS);
        tail.shows(heard);
      }
    } catch (error) {
      // A position that is of no use any more: from where the newest stands.
      after = error.status === 409 || error.status === 410 ? null : after;
    }
    await new Promise((done) => setTimeout(done, TAIL_MS));
  }
}

/** One order, step by step. */
export async function ofOrder(order, closed) {
  const signal = opens(order, closed);
  let story;
  try {
    story = await ask(`/orders/${encodeURIComponent(order)}`, { signal });
  } catch (error) {
    if (!signal.aborted) {
      place.append(made("p", { className: "alarm", role: "alert", textContent: error.status === 404 ? word("notHeld", order) : error.message }));
    }
    return;
  }
  const steps = table({
    caption: "story",
    id: (row) => String(row.nth),
    empty: () => "",
    columns: [
      { name: "when", text: (row) => exactly(row.at), value: (row) => row.nth },
      { name: "state", text: (row) => row.step, cell: (row) => made("span", { className: row.step === "unusable" ? "alarm" : "", textContent: row.step }) },
      { name: "name", main: true, text: (row) => row.event ?? row.kind ?? "" },
      { name: "device", text: (row) => [row.to, row.device, row.attempt > 1 ? word("attempt", row.attempt) : ""].filter(Boolean).join(", ") },
    ],
  });
  const what = [story.stage, story.end, story.store && `${word("store")} ${story.store}`].filter(Boolean).join(" \u00b7 ");
  place.append(made("p", { textContent: what }), made("h3", { textContent: `${date(story.at)} \u00b7 ${word("toldIn", story.timeline.length)}` }), steps.element);
  steps.shows(story.timeline.map((entry, nth) => ({ ...entry, nth })));
}

const exactly = (at) => `${clock(at)}.${String(at % 1000).padStart(3, "0")}`;

/** One dead letter, whole; `again` sends it again. */
export async function ofLetter({ which, number }, again, closed) {
  const signal = opens(word("letter", which ?? number), closed);
  let letter;
  try {
    letter = await ask(which ? `/letters/topics?which=${encodeURIComponent(which)}` : `/letters/${number}`, { signal });
  } catch (error) {
    if (!signal.aborted) {
      place.append(made("p", { className: "alarm", role: "alert", textContent: error.status === 503 ? word("brokersAway") : error.message }));
    }
    return;
  }
  const where = `${letter.topic}/${letter.partition ?? "?"}@${letter.offset ?? "?"}`;
  place.append(
    made("p", { className: "alarm", textContent: letter.reason }),
    made("p", { textContent: letter.message }),
    made("p", { className: "quiet", textContent: `${where} \u00b7 ${date(letter.at)} ${clock(letter.at)}` }),
    made("pre", { tabIndex: 0, textContent: shown(letter.value) }),
    made("button", { type: "button", className: "act", textContent: word("again"), onclick: again }),
  );
}

function shown(value) {
  if (typeof value !== "string") {
    return value?.hex ?? "\u2205";
  }
  try {
    return JSON.stringify(JSON.parse(value), null, 2);
  } catch {
    return value;
  }
}
