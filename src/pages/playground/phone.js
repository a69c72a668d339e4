// The playground's phone: one order, its pickup code as large as the screen allows, and its state as a sentence.

import { connect } from "/assets/sdk/browser.js";
import { byId, fetchToken, parameters, payOrder, persistentId, showConnection } from "/assets/playground.js";
import { initToolbar } from "/assets/toolbar.js";
import { word } from "/assets/words.js";

const store = parameters.get("store") ?? "17";
const customer = parameters.get("customer") ?? persistentId(localStorage, "orderbell.phone.customer", "playground-");
const CLOSED = ["refused", "cancelled", "picked_up"];

/** The order on the screen: { order, stage, pickup_code, store, reason }. */
let shown = null;
let stale = false;
let ordering = false;

function render() {
  const stage = shown?.stage ?? "none";
  const code = shown?.pickup_code && !CLOSED.includes(stage) ? shown.pickup_code : "";
  document.body.dataset.stage = stage;
  byId("code").textContent = code;
  byId("code").hidden = !code;
  // The stylesheet sizes the code by its number of characters.
  byId("code").style.setProperty("--letters", Math.max(code.length, 2));
  byId("sentence").textContent = word(`phone_${stage}`, shown?.reason ?? "");
  byId("which").textContent = shown ? word("orderAt", shown.order, shown.store ?? store) : "";
  byId("collect").hidden = stage !== "ready";
  byId("order").hidden = !(stage === "none" || CLOSED.includes(stage));
  byId("order").disabled = ordering;
  byId("order").textContent = word(shown ? "orderAgain" : "orderNow");
}

const phone = connect({
  token: () => fetchToken("customer", customer),
  device: persistentId(sessionStorage, "orderbell.phone.device", "playground-phone-"),
  on: {
    orders(orders) {
      const newest = orders.toSorted((a, b) => b.at - a.at)[0];
      if (newest) {
        shown = { order: newest.order, stage: newest.stage, pickup_code: newest.body.pickup_code, store: newest.body.store };
      } else if (shown && !CLOSED.includes(shown.stage) && !ordering) {
        shown = null;
      }
      render();
    },
    notice({ kind, order, body, ...notice }) {
      if (shown && shown.order !== order && kind !== "pickup_code") {
        return;
      }
      const stage = { pickup_code: "accepted", ready: "ready", order_refused: "refused", cancelled: "cancelled" }[kind];
      if (stage) {
        shown = { ...(shown?.order === order && shown), order, stage, ...body };
        render();
        phone.displayed(notice);
        navigator.vibrate?.(200);
      }
    },
    stale(is) {
      stale = is;
      update();
    },
    connectivity: () => update(),
  },
});
const update = showConnection(phone, () => stale);

byId("order").onclick = async () => {
  ordering = true;
  render();
  try {
    shown = { order: await payOrder(store, customer), stage: "paid", store };
  } catch (error) {
    byId("sentence").textContent = error.message;
    return;
  } finally {
    ordering = false;
  }
  render();
};
byId("collect").onclick = async () => {
  const { rejected } = await phone.pickedUp(shown.order);
  if (rejected === null) {
    shown.stage = "picked_up";
    render();
  } else {
    byId("sentence").textContent = rejectionText(rejected);
  }
};
initToolbar(render);
