// A till on the SDK behind networks that are cut, drop all data silently, or are slow. `node networks.mjs SERVER`; tokens are in the environment.
// The clock is real; the silence that the till must notice follows from the configured heartbeat interval.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { connect } from "../../protocol/js/src/node.js";
import { postEvent, recorder, server, until } from "./harness.mjs";
import { network } from "./proxy.mjs";

const WebSocket = globalThis.WebSocket ?? createRequire(join(process.cwd(), "node_modules/"))("ws");
const net = await network(server.replace("http://", ""));
const received = recorder();
const till = connect({ server: net.address, token: process.env.STORE_TOKEN, device: "till-1", WebSocket, on: received.on });

await received.becomes("push");
assert.equal(received.lists.length, 1, "a new till fetches the open orders once");
await postEvent("paid", "o1");
await received.receives("new_order o1");

// Cut: both sides see it. Notices arrive afterwards, and events that were reported in the meantime get their result.
net.setMode("cut");
const accepted = till.accept("o1", "A17");
await postEvent("paid", "o2");
net.setMode("good");
await received.receives("new_order o2");
assert.deepEqual((await accepted).rejected, null);
await received.receives("order_accepted o1");

// Black hole: neither side sees it. The till notices the silence and reconnects.
net.setMode("blackhole");
await postEvent("paid", "o3");
await until("for the till to give up the silent socket", () => till.connectivity() !== "push" || net.connections() > 1);
net.setMode("good");
await received.receives("new_order o3");

// Slow: 10 kB a second. Notices arrive late, but all of them, and each once. Orders are processed side by side: no order among them is promised.
net.setMode("slow");
for (let nth = 0; nth < 20; nth += 1) {
  await postEvent("paid", `slow-${nth}`);
}
const wanted = Array.from({ length: 20 }, (_, nth) => `new_order slow-${nth}`);
for (const notice of wanted) {
  await received.receives(notice);
}
net.setMode("good");
await received.becomes("push");
const slow = received.notices.filter((line) => line.includes("slow-"));
assert.deepEqual([...slow].sort(), [...wanted].sort());

// A handler that throws: the server receives a nack and sends the next notice.
const throwing = recorder();
const other = connect({
  server,
  token: process.env.STORE_TOKEN,
  device: "till-2",
  WebSocket,
  on: { ...throwing.on, notice: (notice) => (notice.order === "odd" ? assert.fail("no paper") : throwing.on.notice(notice)) },
});
await throwing.becomes("push");
await postEvent("paid", "odd");
await postEvent("paid", "even");
await throwing.receives("new_order even");
assert.ok(throwing.faults.some((fault) => fault.includes("no paper")), throwing.faults.join());
other.close();

await received.receives("new_order even");
received.assertNoDuplicatesAndNoFaults();
till.close();
net.close();
console.log("all is well");
