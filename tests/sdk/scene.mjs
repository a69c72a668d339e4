// What the scripts share: a server that runs, orders that are paid, a device that writes down what it hears, and waiting for what must come.

import assert from "node:assert/strict";

export const [server] = process.argv.slice(2);
const { PRODUCER_TOKEN } = process.env;
const PATIENCE_MS = Number(process.env.ORDERBELL_PATIENCE_S ?? 120) * 1_000;

export async function until(what, holds) {
  const end = Date.now() + PATIENCE_MS;
  while (!(await holds())) {
    assert.ok(Date.now() < end, `in vain: ${what}`);
    await new Promise((done) => setTimeout(done, 10));
  }
}

let number = 0;
/** Something happens to an order. */
export async function happens(kind, order, more) {
  number += 1;
  const body = JSON.stringify({ type: `order.${kind}`, order, id: `${process.pid}-${number}`, time: Date.now(), store: "17", customer: "c1", ...more });
  const headers = { authorization: `Bearer ${PRODUCER_TOKEN}`, "content-type": "application/json" };
  const answer = await fetch(`${server}/v1/events`, { method: "POST", headers, body });
  assert.equal(answer.status, 200, await answer.text());
}

/** Handlers that write down what they are told. */
export function notebook() {
  const heard = [];
  const lists = [];
  const links = [];
  const faults = [];
  return {
    heard,
    lists,
    links,
    faults,
    on: {
      notice: ({ kind, order }) => heard.push(`${kind} ${order}`),
      orders: (orders) => lists.push(orders.map(({ order, stage }) => `${order} ${stage}`)),
      link: (link) => links.push(link),
      fault: (code, reason) => faults.push(`${code} ${reason}`),
      error: (error) => faults.push(String(error)),
    },
    hears: (what) => until(`to hear ${what}; heard ${heard.join(", ")}`, () => heard.includes(what)),
    is: (link) => until(`to be ${link}; was ${links.join(", ")}`, () => links.at(-1) === link),
    once() {
      assert.equal(new Set(heard).size, heard.length, `something was heard twice: ${heard}`);
      assert.deepEqual(faults, []);
    },
  };
}
