// A till in Node on the SDK: rings for new orders and, with --accept, accepts them.
//
//   ORDERBELL_TOKEN=$(orderbell token store 17) node examples/js/till.mjs http://127.0.0.1:8377 till-1 [--accept A17] [--once]
//
// It stores its state in orderbell-till-1.json. `--once` ends the process after the first order that rings, or with --accept after the first order that
// is accepted. Node before version 22 needs the package `ws`.

import { createRequire } from "node:module";
import { connect } from "../../protocol/js/src/node.js";

const [server, device, ...flags] = process.argv.slice(2);
const pickupCode = flags.includes("--accept") ? flags[flags.indexOf("--accept") + 1] : null;
const once = flags.includes("--once");
let closed = false;

function close() {
  closed = true;
  till.close();
}

function ring(order) {
  if (closed) {
    return;
  }
  console.log(`ring ${order}`);
  if (once && !pickupCode) {
    close();
  }
  if (pickupCode) {
    till.accept(order, pickupCode).then(({ rejected }) => console.log(`event ${order} ${rejected ?? "stored"}`));
  }
}

const till = connect({
  server,
  device,
  token: process.env.ORDERBELL_TOKEN,
  file: `orderbell-${device}.json`,
  WebSocket: globalThis.WebSocket ?? createRequire(import.meta.url)("ws"),
  // A real till prints its orders or stores them: after a restart it needs only what is new.
  resume: true,
  on: {
    orders(orders) {
      console.log(`resync ${orders.length}`);
      orders.filter(({ stage, known }) => stage === "paid" && !known).forEach(({ order }) => ring(order));
    },
    notice({ kind, order, body }) {
      if (kind === "new_order") {
        ring(order);
      } else if (kind === "order_accepted") {
        console.log(`accepted ${order} ${body.pickup_code ?? ""}`);
        if (once) {
          close();
        }
      } else if (kind === "cancelled" || kind === "order_refused") {
        console.log(`cancelled ${order}`);
      } else if (kind === "event_rejected" && body.device === device) {
        console.log(`rejected ${order} ${body.reason}`);
      }
    },
    connectivity: (connectivity) => console.log(`connectivity ${connectivity}`),
    stale: (stale) => console.log(stale ? "the server's data is stale" : "the server's data is current"),
    fault(status, reason) {
      console.error(`the server reports a fault of this client: ${status} ${reason}`);
      if (status === 401) {
        process.exit(2);
      }
    },
  },
});
