// Shared by the till and the phone: tokens, a one-button order system, and the display of the connection.

import { duration } from "/assets/format.js";
import { hasWord, word } from "/assets/words.js";

export const byId = (id) => document.getElementById(id);
export const parameters = new URLSearchParams(location.search);

/** Fetches a token; the server issues them to the playground, on loopback only. */
export async function fetchToken(role, id) {
  const response = await fetch(`/playground/token?${new URLSearchParams({ role, id })}`, { cache: "no-store" });
  if (!response.ok) {
    throw new Error(`no token: ${response.status}`);
  }
  return response.text();
}

/** A random id that is kept in `storage`: per browser (localStorage) or per tab (sessionStorage). */
export function persistentId(storage, name, prefix) {
  const id = storage.getItem(name) ?? `${prefix}${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
  storage.setItem(name, id);
  return id;
}

const MEALS = [
  ["兰州牛肉面 Beef noodles", 2200],
  ["宫保鸡丁饭 Kung pao chicken", 2800],
  ["小笼包 Soup dumplings", 1800],
  ["麻婆豆腐 Mapo tofu", 2400],
];

/** Posts a new, paid order, as an order system would. */
export async function payOrder(store, customer) {
  const order = `T${Date.now().toString(36).slice(-6).toUpperCase()}`;
  const [name, amount] = MEALS[Math.floor(Math.random() * MEALS.length)];
  const fields = { order, store, customer, amount, currency: "CNY", items: [{ name, count: 1 }] };
  const events = ["created", "paid"].map((kind) => ({ type: `order.${kind}`, id: `${kind}-${order}`, time: Date.now(), ...fields }));
  const headers = { authorization: `Bearer ${await fetchToken("producer", "playground")}`, "content-type": "application/json" };
  const response = await fetch("/v1/events", { method: "POST", headers, body: JSON.stringify(events) });
  if (!response.ok) {
    throw new Error(`the order was rejected: ${response.status}`);
  }
  return order;
}

/** Says why an event was rejected or came too late. A reason of a newer server is shown by its word. */
export function rejectionText(reason = "unknown") {
  const key = `reason_${reason}`;
  return word("rejected", hasWord(key) ? word(key) : reason);
}

const SHAPES = { push: "push", polling: "poll", starting: "warning", lost: "warning", unreachable: "offline", superseded: "warning" };

/** Shows the state of the connection: shape, word, and the time since the last contact. Returns a function that updates it at once. */
export function showConnection(client, isStale) {
  const texts = {
    starting: () => word("connecting"),
    push: () => (isStale() ? word("streamLags") : word("push")),
    lost: () => word("reconnecting", duration(client.silenceMs())),
    polling: () => word("pollingSince", duration(client.silenceMs())),
    unreachable: () => word("unreachable", duration(client.silenceMs())),
    superseded: () => word("superseded"),
  };
  const update = () => {
    const link = client.connectivity() === "push" && !client.isConnected() ? "lost" : client.connectivity();
    byId("state").className = `state ${isStale() ? "warning" : SHAPES[link]}`;
    const text = texts[link]();
    if (byId("state").textContent !== text) {
      byId("state").textContent = text;
    }
    // A screen reader announces a change of state, not every second.
    byId("state").setAttribute("aria-live", link === "push" ? "polite" : "off");
  };
  setInterval(update, 500);
  return update;
}
