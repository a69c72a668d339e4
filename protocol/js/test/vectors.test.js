// The shared vectors: for the same inputs at the same times, this machine gives the outputs of the Rust machine.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { machine } from "../src/core.js";

const file = process.env.MORE_VECTORS ?? new URL("../../vectors/client.json", import.meta.url);
const scripts = JSON.parse(readFileSync(file, "utf8"));
const plain = (value) => JSON.parse(JSON.stringify(value));

/** An output in the file's form. */
function encode(output) {
  switch (output.type) {
    case "notice":
      return { type: "notice", notice: output.notice.id };
    case "openOrders":
      return { type: "openOrders", orders: output.orders.map((order) => order.order) };
    default:
      return plain(output);
  }
}

test(`${scripts.length} scripts`, () => {
  assert.ok(scripts.length > 40, "vectors are missing");
  for (const { seed, token, device, persistedState, steps } of scripts) {
    const client = machine({ token, device, state: persistedState, seed });
    steps.forEach(({ now, input, value, ...expected }, nth) => {
      const outputs = client.input(input, value ?? undefined, now).map(encode);
      const { position, known, events } = client.persistedState();
      const state = { position, known: known.length, events: events.map((event) => event.id) };
      assert.deepEqual({ outputs, state, deadline: client.deadline() }, expected, `script ${seed}, step ${nth}: ${input} ${JSON.stringify(value)}`);
    });
  }
});
