// A till to try: a card for each order, newest on top, a ring that does not stop until somebody touches it. All that it knows of the server is the
// SDK; what is here is the screen.

import { hush, mayRing, ring, rings } from "/assets/bell.js";
import { span } from "/assets/figures.js";
import { connect } from "/assets/sdk/browser.js";
import { by, drawn, parameters, pays, saysHow, token } from "/assets/trial.js";
import { tools } from "/assets/tools.js";
import { word } from "/assets/words.js";

const store = parameters.get("store") ?? "17";
const SOUND = "orderbell.till.silent";
const REASONS = ["soldOut", "tooBusy", "closing"];
/** A code is a letter and two digits: short enough to be called out. */
const CODES = 100;

/** By order: { stage, at, code, body, end, touched, element, refusing, told }. */
const cards = new Map();
let stale = false;
let codes = Number(sessionStorage.getItem("orderbell.till.codes") ?? Math.floor(Math.random() * CODES));

function nextCode() {
  codes = (codes + 1) % CODES;
  sessionStorage.setItem("orderbell.till.codes", codes);
  return `A${String(codes).padStart(2, "0")}`;
}

const made = (name, properties, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

const items = (body) => (body.details?.items ?? []).map(({ name, count }) => `${count} \u00d7 ${name}`).join(", ");

// What can be done at each stage.

function button(text, className, act) {
  return made("button", { type: "button", className, textContent: text, onclick: act });
}

function accepting(order, card) {
  const field = made("input", { className: "code-field", value: card.code, maxLength: 8, autocomplete: "off", enterKeyHint: "done", required: true });
  field.oninput = () => (card.code = field.value);
  field.onfocus = () => field.select();
  const form = made(
    "form",
    { className: "act" },
    made("label", {}, made("span", { textContent: word("code") }), field),
    made("button", { className: "large", textContent: word("accept") }),
    button(word("refuse"), "", () => {
      card.refusing = true;
      draw(order, "button");
    }),
  );
  form.onsubmit = (event) => {
    event.preventDefault();
    says(order, till.accept(order, field.value.trim()));
  };
  return form;
}

function refusing(order, card) {
  const back = button(word("back"), "", () => {
    card.refusing = false;
    draw(order, "input");
  });
  const reasons = REASONS.map((reason) => button(word(reason), "choice", () => says(order, till.refuse(order, word(reason)))));
  return made("div", { className: "act" }, ...reasons, back);
}

function acts(order, card) {
  if (card.end) {
    return made("div", { className: "act" }, button(word("seen"), "large", () => drop(order)));
  }
  if (card.stage === "paid") {
    return card.refusing ? refusing(order, card) : accepting(order, card);
  }
  const [kind, next, name] = card.stage === "accepted" ? ["ready", "ready", "isReady"] : ["pickedUp", "picked_up", "handedOver"];
  const act = () => says(order, till[kind](order), next);
  return made("div", { className: "act" }, made("b", { className: "code", textContent: card.code ?? "" }), button(word(name), "large", act));
}

/** Tells the server, and the card what became of it. The card waits meanwhile: a second touch says nothing new. */
async function says(order, answered, next) {
  touch(order);
  const card = cards.get(order);
  card.element.querySelectorAll("button, input").forEach((one) => (one.disabled = true));
  const { refused } = await answered;
  if (!cards.has(order)) {
    return;
  }
  card.told = refused === null ? "" : word("notTaken", refused);
  if (refused === null && next) {
    card.stage = next;
  }
  if (card.stage === "picked_up") {
    drop(order);
  } else {
    draw(order, "button, input");
  }
}

// The cards.

/** Draws a card anew; `focus` is what in it gets the focus, if it had it. */
function draw(order, focus) {
  const card = cards.get(order);
  const had = card.element.contains(document.activeElement) || document.activeElement === document.body;
  card.element.dataset.stage = card.end ?? card.stage;
  const state = made("p", { className: `stage ${card.end ? "alarm" : ""}`, textContent: word(card.end ?? `at_${card.stage}`) });
  const about = made("p", { className: "quiet ago" });
  const what = made("div", { className: "what" }, made("h2", { textContent: order }), state, made("p", { textContent: items(card.body) }), about);
  if (card.told) {
    what.append(made("p", { className: "alarm", role: "alert", textContent: card.told }));
  }
  card.element.replaceChildren(what, acts(order, card));
  ago(card);
  if (focus && had) {
    card.element.querySelector(focus)?.focus();
  }
}

function ago(card) {
  const { amount, currency } = card.body;
  const price = amount === undefined ? "" : `${currency ?? ""} ${(amount / 100).toFixed(2)} \u00b7 `;
  card.element.querySelector(".ago").textContent = `${price}${word("ago", span(Math.max(0, Date.now() - card.at)))}`;
}

/** A card for this order, new or known. */
function put(order, fields) {
  let card = cards.get(order);
  if (!card) {
    card = { code: nextCode(), body: {}, touched: false, element: made("li", { className: "card" }) };
    card.element.addEventListener("pointerdown", () => touch(order));
    card.element.addEventListener("keydown", () => touch(order));
    cards.set(order, card);
    by("cards").prepend(card.element);
  }
  Object.assign(card, fields);
  draw(order);
  return card;
}

function drop(order) {
  cards.get(order)?.element.remove();
  cards.delete(order);
  look();
}

/** Somebody has seen it. */
function touch(order) {
  const card = cards.get(order);
  if (card && !card.touched) {
    card.touched = true;
    card.element.classList.add("touched");
    if (card.notice) {
      till.shown(card.notice);
    }
    look();
  }
}

/** Whatever depends on all cards: the bell, the title, the empty page. */
function look() {
  const waiting = [...cards.values()].filter((card) => card.stage === "paid" && !card.end);
  const loud = waiting.some((card) => !card.touched) && localStorage.getItem(SOUND) === null;
  if (loud) {
    ring();
  } else {
    hush();
  }
  document.body.classList.toggle("ringing", rings());
  by("empty").hidden = cards.size > 0;
  document.title = `${waiting.length ? `(${waiting.length}) ` : ""}${word("tillOf", store)}`;
}

const till = connect({
  token: () => token("store", store),
  device: drawn(sessionStorage, "orderbell.till.device", "try-till-"),
  on: {
    orders(orders) {
      const open = new Set(orders.map(({ order }) => order));
      [...cards.keys()].filter((order) => !open.has(order)).forEach(drop);
      const placed = orders.filter(({ stage }) => stage !== "created" && stage !== "unknown").sort((a, b) => a.at - b.at);
      placed.forEach(({ order, stage, at, body }) => put(order, { stage, at, body, ...(body.code && { code: body.code }) }));
      look();
    },
    notice(notice) {
      const { kind, order, at, body } = notice;
      if (kind === "new_order") {
        const card = put(order, { stage: "paid", at, body, notice });
        by("aloud").textContent = word("newOrder", order);
        if (!document.activeElement?.matches("input, button, a") || document.activeElement === document.body) {
          card.element.querySelector("input")?.focus({ preventScroll: true });
        }
      } else if (kind === "taken" && cards.has(order)) {
        put(order, { stage: "accepted", code: body.code ?? "", touched: true });
      } else if (kind === "cancelled" && cards.has(order)) {
        put(order, { end: "cancelled" });
        by("aloud").textContent = word("wasCancelled", order);
      } else if (kind === "refused") {
        drop(order);
      } else if (kind === "declined" && body.device === till.device && cards.has(order)) {
        put(order, { told: word("notTaken", body.reason ?? "") });
      }
      look();
    },
    stale(is) {
      stale = is;
      write();
    },
    link: () => write(),
    fault: (code, reason) => trouble(`${code} ${reason}`),
    error: (error) => trouble(String(error)),
  },
});

function trouble(text) {
  by("trouble").textContent = text;
  by("trouble").hidden = false;
}

const write = saysHow(till, () => stale);

function soundIs(on) {
  by("sound").setAttribute("aria-pressed", String(on));
  by("sound").textContent = word(on ? "soundOn" : "soundOff");
}

async function sounds() {
  soundIs((await mayRing()) && localStorage.getItem(SOUND) === null);
  look();
}

tools(() => {
  by("title").textContent = word("tillOf", store);
  by("pay").textContent = word("payOne");
  by("phone").textContent = word("openPhone");
  by("phone").href = `/try/phone/?${new URLSearchParams({ store })}`;
  cards.forEach((_, order) => draw(order));
  soundIs(rings());
  sounds();
});
by("pay").onclick = () => pays(store, drawn(localStorage, "orderbell.phone.customer", "try-")).catch((error) => trouble(error.message));
by("sound").onclick = () => {
  if (by("sound").getAttribute("aria-pressed") === "true") {
    localStorage.setItem(SOUND, "1");
  } else {
    localStorage.removeItem(SOUND);
  }
  sounds();
};
addEventListener("pointerdown", sounds);
addEventListener("keydown", sounds);
setInterval(() => cards.forEach(ago), 1_000);
navigator.wakeLock?.request("screen").catch(() => {});
