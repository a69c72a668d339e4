// What the two pages share: tokens, an order system of one button, and how the server is heard, in words.

import { span } from "/assets/figures.js";
import { word } from "/assets/words.js";

export const by = (id) => document.getElementById(id);
export const parameters = new URLSearchParams(location.search);

/** A token for this page's own use; given out on loopback only. */
export async function token(role, id) {
  const answer = await fetch(`/try/token?${new URLSearchParams({ role, id })}`, { cache: "no-store" });
  if (!answer.ok) {
    throw new Error(`no token: ${answer.status}`);
  }
  return answer.text();
}

/** An id that stays with this browser, or with this tab. */
export function drawn(storage, name, prefix) {
  const kept = storage.getItem(name) ?? `${prefix}${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
  storage.setItem(name, kept);
  return kept;
}

const MEALS = [
  ["兰州牛肉面 Beef noodles", 2200],
  ["宫保鸡丁饭 Kung pao chicken", 2800],
  ["小笼包 Soup dumplings", 1800],
  ["麻婆豆腐 Mapo tofu", 2400],
];

/** Somebody orders at a store and pays: as an order system would post it. */
export async function pays(store, customer) {
  const order = `T${Date.now().toString(36).slice(-6).toUpperCase()}`;
  const [name, amount] = MEALS[Math.floor(Math.random() * MEALS.length)];
  const fields = { order, store, customer, amount, currency: "CNY", items: [{ name, count: 1 }] };
  const events = ["created", "paid"].map((kind) => ({ type: `order.${kind}`, id: `${kind}-${order}`, time: Date.now(), ...fields }));
  const headers = { authorization: `Bearer ${await token("producer", "try")}`, "content-type": "application/json" };
  const answer = await fetch("/v1/events", { method: "POST", headers, body: JSON.stringify(events) });
  if (!answer.ok) {
    throw new Error(`not taken: ${answer.status}`);
  }
  return order;
}

const SHAPES = { pushed: "push", polled: "poll", begun: "suspect", lost: "suspect", unreachable: "away", replaced: "suspect" };

/** Keeps the line that says how the server is heard: shape, word, and since when not. */
export function saysHow(client, isStale) {
  const says = {
    begun: () => word("connecting"),
    pushed: () => (isStale() ? word("lags") : word("push")),
    lost: () => word("reconnecting", span(client.silence())),
    polled: () => word("polledAgo", span(client.silence())),
    unreachable: () => word("unheard", span(client.silence())),
    replaced: () => word("elsewhere"),
  };
  const write = () => {
    const link = client.link() === "pushed" && !client.connected() ? "lost" : client.link();
    by("state").className = `state ${isStale() ? "suspect" : SHAPES[link]}`;
    const text = says[link]();
    if (by("state").textContent !== text) {
      by("state").textContent = text;
    }
    // A screen reader hears of a change of state, not of every second.
    by("state").setAttribute("aria-live", link === "pushed" ? "polite" : "off");
  };
  setInterval(write, 500);
  return write;
}
