// Not run: what an application writes has to pass the types, and what makes no sense must not.

import { connect, type Link, type Order } from "../src/index.js";

const till = connect({
  server: "https://push.example",
  token: async () => "token",
  device: "till-1",
  on: {
    notice(notice) {
      const [id, at, amount]: [string, number, unknown] = [notice.id, notice.at, notice.body.amount];
      console.log(id, at, amount, notice.kind === "new_order");
    },
    orders: (orders: Order[]) => orders.filter((order) => order.stage === "paid" && !order.known),
    link: (link: Link) => link === "unreachable",
  },
});
till.accept("o1", "A17").then(({ refused }) => refused?.length);
till.event({ kind: "order.ready", order: "o1", id: "9f2c", at: Date.now() });
till.shown({ position: "1.2.0000" });

// @ts-expect-error a token is needed
connect({ server: "https://push.example" });
// @ts-expect-error tills do not say this
till.event({ kind: "order.paid", order: "o1" });
// @ts-expect-error there is no such handler
connect({ token: "t", on: { notices() {} } });
