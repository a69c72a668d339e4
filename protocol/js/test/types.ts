// Compiled, not run: correct uses must type-check, and wrong ones must not.

import { connect, type Connectivity, type EventRejectedBody, type Order, type RejectionReason } from "../src/index.js";

const till = connect({
  server: "https://push.example",
  token: async () => "token",
  device: "till-1",
  on: {
    notice(notice) {
      const [id, at, amount]: [string, number, unknown] = [notice.id, notice.at, notice.body.amount];
      console.log(id, at, amount, notice.kind === "new_order");
    },
    orders: (orders: Order[]) => {
      const rings = (order: Order) => order.stage === "paid" && !order.known;
      const isNewer = ({ stage, outcome }: Order) => stage === "of-a-newer-server" || outcome === "of-a-newer-server";
      console.log(orders.filter(rings), orders.some(isNewer));
    },
    connectivity: (connectivity: Connectivity) => connectivity === "unreachable",
  },
});
till.accept("o1", "A17").then(({ rejected }) => {
  const reason: RejectionReason = rejected ?? "busy";
  console.log(reason === "not-found", reason === "of-a-newer-server");
});
const late: EventRejectedBody = { device: "till-1", reason: "picked_up", event: "9f2c" };
console.log(late.reason === "cancelled");
till.event({ kind: "order.ready", order: "o1", id: "9f2c", at: Date.now() });
till.displayed({ position: "1.2.0000" });

// @ts-expect-error the token is required
connect({ server: "https://push.example" });
// @ts-expect-error clients cannot report this kind
till.event({ kind: "order.paid", order: "o1" });
// @ts-expect-error a customer's order has no notice
const newOrder = (order: Order): string => order.notice;
// @ts-expect-error there is no such handler
connect({ token: "t", on: { notices() {} } });
