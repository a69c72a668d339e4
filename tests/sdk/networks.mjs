// A till on the SDK behind networks that are cut, swallow everything, or are slow. `node networks.mjs SERVER`; tokens come in the environment.
// The clock of the machine is real; the silence that it must notice is that of the configured heartbeat.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { connect } from "../../protocol/js/src/node.js";
import { network } from "./proxy.mjs";
import { happens, notebook, server, until } from "./scene.mjs";

const WebSocket = globalThis.WebSocket ?? createRequire(join(process.cwd(), "node_modules/"))("ws");
const net = await network(server.replace("http://", ""));
const book = notebook();
const till = connect({ server: net.address, token: process.env.STORE_TOKEN, device: "till-1", WebSocket, on: book.on });

await book.is("pushed");
assert.equal(book.lists.length, 1, "a till that begins takes the open orders, once");
await happens("paid", "o1");
await book.hears("new_order o1");

// Cut: both sides see it. What happens meanwhile comes afterwards, and what is said meanwhile is taken afterwards.
net.becomes("cut");
const accepted = till.accept("o1", "A17");
await happens("paid", "o2");
net.becomes("good");
await book.hears("new_order o2");
assert.deepEqual((await accepted).refused, null);
await book.hears("taken o1");

// A hole: nobody tells anybody. The till notices the silence and comes back by itself.
net.becomes("hole");
await happens("paid", "o3");
await until("the till gives the silent socket up", () => till.link() !== "pushed" || net.connections() > 1);
net.becomes("good");
await book.hears("new_order o3");

// Slow: 10 kB a second. Later than otherwise, in order and whole.
net.becomes("slow");
for (let nth = 0; nth < 20; nth += 1) {
  await happens("paid", `slow-${nth}`);
}
await book.hears("new_order slow-19");
net.becomes("good");
await book.is("pushed");
const slow = book.heard.filter((line) => line.includes("slow-"));
assert.deepEqual(slow, Array.from({ length: 20 }, (_, nth) => `new_order slow-${nth}`));

// A handler that throws at a notice: the server is told, and the next one comes.
const throwing = notebook();
const other = connect({
  server,
  token: process.env.STORE_TOKEN,
  device: "till-2",
  WebSocket,
  on: { ...throwing.on, notice: (notice) => (notice.order === "odd" ? assert.fail("no paper") : throwing.on.notice(notice)) },
});
await throwing.is("pushed");
await happens("paid", "odd");
await happens("paid", "even");
await throwing.hears("new_order even");
assert.ok(throwing.faults.some((fault) => fault.includes("no paper")), throwing.faults.join());
other.close();

await book.hears("new_order even");
book.once();
till.close();
net.close();
console.log("all is well");
