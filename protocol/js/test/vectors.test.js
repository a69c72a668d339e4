// The shared vectors: what the Rust machine does with these inputs at these times, this one does.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { machine } from "../src/core.js";

const file = process.env.MORE_VECTORS ?? new URL("../../vectors/client.json", import.meta.url);
const scripts = JSON.parse(readFileSync(file, "utf8"));
const plain = (value) => JSON.parse(JSON.stringify(value));

/** An output as the file tells it. */
function told(output) {
  switch (output.do) {
    case "notice":
      return { do: "notice", notice: output.notice.id };
    case "openOrders":
      return { do: "openOrders", orders: output.orders.map((order) => order.order) };
    default:
      return plain(output);
  }
}

test(`${scripts.length} scripts`, () => {
  assert.ok(scripts.length > 40, "the vectors are not there");
  for (const { seed, token, device, saved, steps } of scripts) {
    const client = machine({ token, device, saved, seed });
    steps.forEach(({ now, input, value, out, stands, deadline }, nth) => {
      const found = client.input(input, value ?? undefined, now).map(told);
      const { position, known, events } = client.saved();
      const shows = { out: found, stands: { position, known: known.length, events: events.map((event) => event.id) }, deadline: client.deadline() };
      assert.deepEqual(shows, { out, stands, deadline }, `script ${seed}, step ${nth}: ${input} ${JSON.stringify(value)}`);
    });
  }
});
