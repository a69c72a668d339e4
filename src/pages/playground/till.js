// The playground's till: one card per order, newest on top, and a bell that rings until somebody touches the card. The SDK talks to the server; this file is
// only the screen.

import { canPlaySound, isRinging, startRinging, stopRinging } from "/assets/bell.js";
import { duration } from "/assets/format.js";
import { connect } from "/assets/sdk/browser.js";
import { byId, fetchToken, parameters, payOrder, persistentId, rejectionText, showConnection } from "/assets/playground.js";
import { initToolbar } from "/assets/toolbar.js";
import { word } from "/assets/words.js";

const store = parameters.get("store") ?? "17";
const MUTED = "orderbell.till.muted";
const REASONS = ["soldOut", "tooBusy", "closing"];
/** A pickup code is a letter and two digits: short enough to be called out. */
const PICKUP_CODES = 100;

/** By order id: { stage, at, pickupCode, body, outcome, touched, element, refusing, message, notice }. */
const cards = new Map();
let stale = false;
let lastCode = Number(sessionStorage.getItem("orderbell.till.codes") ?? Math.floor(Math.random() * PICKUP_CODES));

function nextPickupCode() {
  lastCode = (lastCode + 1) % PICKUP_CODES;
  sessionStorage.setItem("orderbell.till.codes", lastCode);
  return `A${String(lastCode).padStart(2, "0")}`;
}

const createElement = (name, properties, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

const itemsText = (body) => (body.details?.items ?? []).map(({ name, count }) => `${count} \u00d7 ${name}`).join(", ");

// The actions of each stage.

function button(text, className, act) {
  return createElement("button", { type: "button", className, textContent: text, onclick: act });
}

function acceptForm(order, card) {
  const field = createElement("input", { className: "code-field", value: card.pickupCode, maxLength: 8, autocomplete: "off", enterKeyHint: "done", required: true });
  field.oninput = () => (card.pickupCode = field.value);
  field.onfocus = () => field.select();
  const form = createElement(
    "form",
    { className: "act" },
    createElement("label", {}, createElement("span", { textContent: word("pickupCode") }), field),
    createElement("button", { className: "large", textContent: word("accept") }),
    button(word("refuse"), "", () => {
      card.refusing = true;
      renderCard(order, "button");
    }),
  );
  form.onsubmit = (event) => {
    event.preventDefault();
    report(order, till.accept(order, field.value.trim()));
  };
  return form;
}

function refuseChoices(order, card) {
  const back = button(word("back"), "", () => {
    card.refusing = false;
    renderCard(order, "input");
  });
  const reasons = REASONS.map((reason) => button(word(reason), "choice", () => report(order, till.refuse(order, word(reason)))));
  return createElement("div", { className: "act" }, ...reasons, back);
}

function actions(order, card) {
  if (card.outcome) {
    return createElement("div", { className: "act" }, button(word("seen"), "large", () => removeCard(order)));
  }
  if (card.stage === "paid") {
    return card.refusing ? refuseChoices(order, card) : acceptForm(order, card);
  }
  const [kind, next, name] = card.stage === "accepted" ? ["ready", "ready", "markReady"] : ["pickedUp", "picked_up", "handedOver"];
  const act = () => report(order, till[kind](order), next);
  return createElement("div", { className: "act" }, createElement("b", { className: "code", textContent: card.pickupCode ?? "" }), button(word(name), "large", act));
}

/** Shows the server's answer on the card. The card is disabled until then, so that nothing is sent twice. */
async function report(order, answered, next) {
  touch(order);
  const card = cards.get(order);
  card.element.querySelectorAll("button, input").forEach((one) => (one.disabled = true));
  const { rejected } = await answered;
  if (!cards.has(order)) {
    return;
  }
  card.message = rejected === null ? "" : rejectionText(rejected);
  if (rejected === null && next) {
    card.stage = next;
  }
  if (card.stage === "picked_up") {
    removeCard(order);
  } else {
    renderCard(order, "button, input");
  }
}

// Cards.

/** Renders a card. If it contained the focus, the element that matches `focus` gets it. */
function renderCard(order, focus) {
  const card = cards.get(order);
  const hadFocus = card.element.contains(document.activeElement) || document.activeElement === document.body;
  card.element.dataset.stage = card.outcome ?? card.stage;
  const state = createElement("p", { className: `stage ${card.outcome ? "alarm" : ""}`, textContent: word(card.outcome ?? `card_${card.stage}`) });
  const footnote = createElement("p", { className: "quiet ago" });
  const what = createElement("div", { className: "what" }, createElement("h2", { textContent: order }), state, createElement("p", { textContent: itemsText(card.body) }), footnote);
  if (card.message) {
    what.append(createElement("p", { className: "alarm", role: "alert", textContent: card.message }));
  }
  card.element.replaceChildren(what, actions(order, card));
  renderAge(card);
  if (focus && hadFocus) {
    card.element.querySelector(focus)?.focus();
  }
}

function renderAge(card) {
  const { amount, currency } = card.body;
  const price = amount === undefined ? "" : `${currency ?? ""} ${(amount / 100).toFixed(2)} \u00b7 `;
  card.element.querySelector(".ago").textContent = `${price}${word("paidAgo", duration(Math.max(0, Date.now() - card.at)))}`;
}

/** Creates or updates the order's card. */
function putCard(order, fields) {
  let card = cards.get(order);
  if (!card) {
    card = { pickupCode: nextPickupCode(), body: {}, touched: false, element: createElement("li", { className: "card" }) };
    card.element.addEventListener("pointerdown", () => touch(order));
    card.element.addEventListener("keydown", () => touch(order));
    cards.set(order, card);
    byId("cards").prepend(card.element);
  }
  Object.assign(card, fields);
  renderCard(order);
  return card;
}

function removeCard(order) {
  cards.get(order)?.element.remove();
  cards.delete(order);
  renderPage();
}

/** Records that a person has seen the order, which stops its bell. */
function touch(order) {
  const card = cards.get(order);
  if (card && !card.touched) {
    card.touched = true;
    card.element.classList.add("touched");
    if (card.notice) {
      till.displayed(card.notice);
    }
    renderPage();
  }
}

/** Updates what depends on all cards: the bell, the title, the empty page. */
function renderPage() {
  const unaccepted = [...cards.values()].filter((card) => card.stage === "paid" && !card.outcome);
  const loud = unaccepted.some((card) => !card.touched) && localStorage.getItem(MUTED) === null;
  if (loud) {
    startRinging();
  } else {
    stopRinging();
  }
  document.body.classList.toggle("ringing", isRinging());
  byId("empty").hidden = cards.size > 0;
  document.title = `${unaccepted.length ? `(${unaccepted.length}) ` : ""}${word("tillOf", store)}`;
}

const till = connect({
  token: () => fetchToken("store", store),
  device: persistentId(sessionStorage, "orderbell.till.device", "playground-till-"),
  on: {
    orders(orders) {
      const open = new Set(orders.map(({ order }) => order));
      [...cards.keys()].filter((order) => !open.has(order)).forEach(removeCard);
      const placed = orders.filter(({ stage }) => stage !== "created" && stage !== "unknown").sort((a, b) => a.at - b.at);
      placed.forEach(({ order, stage, at, body }) => putCard(order, { stage, at, body, ...(body.pickup_code && { pickupCode: body.pickup_code }) }));
      renderPage();
    },
    notice(notice) {
      const { kind, order, at, body } = notice;
      if (kind === "new_order") {
        const card = putCard(order, { stage: "paid", at, body, notice });
        byId("announcement").textContent = word("newOrder", order);
        if (!document.activeElement?.matches("input, button, a") || document.activeElement === document.body) {
          card.element.querySelector("input")?.focus({ preventScroll: true });
        }
      } else if (kind === "order_accepted" && cards.has(order)) {
        putCard(order, { stage: "accepted", pickupCode: body.pickup_code ?? "", touched: true });
      } else if (kind === "cancelled" && cards.has(order)) {
        putCard(order, { outcome: "cancelled" });
        byId("announcement").textContent = word("wasCancelled", order);
      } else if (kind === "order_refused") {
        removeCard(order);
      } else if (kind === "event_rejected" && body.device === till.device && cards.has(order)) {
        putCard(order, { message: rejectionText(body.reason) });
      }
      renderPage();
    },
    stale(is) {
      stale = is;
      updateConnection();
    },
    connectivity: () => updateConnection(),
    fault: (code, reason) => showError(`${code} ${reason}`),
    error: (error) => showError(String(error)),
  },
});

function showError(text) {
  byId("error").textContent = text;
  byId("error").hidden = false;
}

const updateConnection = showConnection(till, () => stale);

function renderSound(on) {
  byId("sound").setAttribute("aria-pressed", String(on));
  byId("sound").textContent = word(on ? "soundOn" : "soundOff");
}

async function updateSound() {
  renderSound((await canPlaySound()) && localStorage.getItem(MUTED) === null);
  renderPage();
}

initToolbar(() => {
  byId("title").textContent = word("tillOf", store);
  byId("pay").textContent = word("payOne");
  byId("phone").textContent = word("openPhone");
  byId("phone").href = `/playground/phone/?${new URLSearchParams({ store })}`;
  cards.forEach((_, order) => renderCard(order));
  renderSound(isRinging());
  updateSound();
});
byId("pay").onclick = () => payOrder(store, persistentId(localStorage, "orderbell.phone.customer", "playground-")).catch((error) => showError(error.message));
byId("sound").onclick = () => {
  if (byId("sound").getAttribute("aria-pressed") === "true") {
    localStorage.setItem(MUTED, "1");
  } else {
    localStorage.removeItem(MUTED);
  }
  updateSound();
};
addEventListener("pointerdown", updateSound);
addEventListener("keydown", updateSound);
setInterval(() => cards.forEach(renderAge), 1_000);
navigator.wakeLock?.request("screen").catch(() => {});
