// A till in Node on the SDK: rings for new orders, and accepts them if it is told to.
//
//   ORDERBELL_TOKEN=$(orderbell token store 17) node examples/js/till.mjs http://127.0.0.1:8377 till-1 [--accept A17] [--once]
//
// It keeps what it knows in orderbell-till-1.json. `--once` ends behind the first ring, or with --accept behind the first that was taken. Node before
// version 22 needs the package `ws`.

import { createRequire } from "node:module";
import { connect } from "../../protocol/js/src/node.js";

const [server, device, ...flags] = process.argv.slice(2);
const code = flags.includes("--accept") ? flags[flags.indexOf("--accept") + 1] : null;
const once = flags.includes("--once");
let over = false;

function ends() {
  over = true;
  till.close();
}

function ring(order) {
  if (over) {
    return;
  }
  console.log(`ring ${order}`);
  if (once && !code) {
    ends();
  }
  if (code) {
    till.accept(order, code).then(({ refused }) => console.log(`logged ${order} ${refused ?? "logged"}`));
  }
}

const till = connect({
  server,
  device,
  token: process.env.ORDERBELL_TOKEN,
  file: `orderbell-${device}.json`,
  WebSocket: globalThis.WebSocket ?? createRequire(import.meta.url)("ws"),
  // What rings is on paper, or on a screen that stays: after a restart only what is new.
  keeps: true,
  on: {
    orders(orders) {
      console.log(`resync ${orders.length}`);
      orders.filter(({ stage, known }) => stage === "paid" && !known).forEach(({ order }) => ring(order));
    },
    notice({ kind, order, body }) {
      if (kind === "new_order") {
        ring(order);
      } else if (kind === "taken") {
        console.log(`taken ${order} ${body.code ?? ""}`);
        if (once) {
          ends();
        }
      } else if (kind === "cancelled" || kind === "refused") {
        console.log(`off ${order}`);
      } else if (kind === "declined" && body.device === device) {
        console.log(`declined ${order} ${body.reason}`);
      }
    },
    link: (link) => console.log(`link ${link}`),
    stale: (stale) => console.log(stale ? "the server lags" : "the server is up to date"),
    fault(status, reason) {
      console.error(`the server complains: ${status} ${reason}`);
      if (status === 401) {
        process.exit(2);
      }
    },
  },
});
