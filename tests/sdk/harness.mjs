// Shared by the scripts: the server's address, posting events of the order system, recording what a client receives, and waiting for conditions.

import assert from "node:assert/strict";

export const [server] = process.argv.slice(2);
const { PRODUCER_TOKEN } = process.env;
const PATIENCE_MS = Number(process.env.ORDERBELL_PATIENCE_S ?? 120) * 1_000;

export async function until(what, condition) {
  const end = Date.now() + PATIENCE_MS;
  while (!(await condition())) {
    assert.ok(Date.now() < end, `timed out waiting ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

let number = 0;
/** Posts an event of the order system. */
export async function postEvent(kind, order, fields) {
  number += 1;
  const body = JSON.stringify({ type: `order.${kind}`, order, id: `${process.pid}-${number}`, time: Date.now(), store: "17", customer: "c1", ...fields });
  const headers = { authorization: `Bearer ${PRODUCER_TOKEN}`, "content-type": "application/json" };
  const response = await fetch(`${server}/v1/events`, { method: "POST", headers, body });
  assert.equal(response.status, 200, await response.text());
}

/** Handlers that record their calls, and methods that wait for them. */
export function recorder() {
  const notices = [];
  const lists = [];
  const connectivities = [];
  const faults = [];
  return {
    notices,
    lists,
    connectivities,
    faults,
    on: {
      notice: ({ kind, order }) => notices.push(`${kind} ${order}`),
      orders: (orders) => lists.push(orders.map(({ order, stage }) => `${order} ${stage}`)),
      connectivity: (connectivity) => connectivities.push(connectivity),
      fault: (code, reason) => faults.push(`${code} ${reason}`),
      error: (error) => faults.push(String(error)),
    },
    receives: (notice) => until(`for the notice ${notice}; received ${notices.join(", ")}`, () => notices.includes(notice)),
    becomes: (connectivity) => until(`for ${connectivity}; was ${connectivities.join(", ")}`, () => connectivities.at(-1) === connectivity),
    assertNoDuplicatesAndNoFaults() {
      assert.equal(new Set(notices).size, notices.length, `duplicates: ${notices}`);
      assert.deepEqual(faults, []);
    },
  };
}
