// A customer's phone to try: one order, one code as large as the screen allows, and what happens as a sentence.

import { connect } from "/assets/sdk/browser.js";
import { by, drawn, parameters, pays, saysHow, token } from "/assets/trial.js";
import { tools } from "/assets/tools.js";
import { word } from "/assets/words.js";

const store = parameters.get("store") ?? "17";
const customer = parameters.get("customer") ?? drawn(localStorage, "orderbell.phone.customer", "try-");
const OVER = ["refused", "cancelled", "picked_up"];

/** The order on the screen: { order, stage, code, reason }. */
let shown = null;
let stale = false;
let ordering = false;

function draw() {
  const stage = shown?.stage ?? "none";
  const code = shown?.code && !OVER.includes(stage) ? shown.code : "";
  document.body.dataset.stage = stage;
  by("code").textContent = code;
  by("code").hidden = !code;
  // As tall and as wide as there is room for.
  by("code").style.setProperty("--letters", Math.max(code.length, 2));
  by("sentence").textContent = word(`is_${stage}`, shown?.reason ?? "");
  by("which").textContent = shown ? word("orderAt", shown.order, shown.store ?? store) : "";
  by("collect").hidden = stage !== "ready";
  by("order").hidden = !(stage === "none" || OVER.includes(stage));
  by("order").disabled = ordering;
  by("order").textContent = word(shown ? "orderAgain" : "orderNow");
}

const phone = connect({
  token: () => token("customer", customer),
  device: drawn(sessionStorage, "orderbell.phone.device", "try-phone-"),
  on: {
    orders(orders) {
      const newest = orders.toSorted((a, b) => b.at - a.at)[0];
      if (newest) {
        shown = { order: newest.order, stage: newest.stage, code: newest.body.code, store: newest.body.store };
      } else if (shown && !OVER.includes(shown.stage) && !ordering) {
        shown = null;
      }
      draw();
    },
    notice({ kind, order, body, ...notice }) {
      if (shown && shown.order !== order && kind !== "pickup_code") {
        return;
      }
      const stage = { pickup_code: "accepted", ready: "ready", refused: "refused", cancelled: "cancelled" }[kind];
      if (stage) {
        shown = { ...(shown?.order === order && shown), order, stage, ...body };
        draw();
        phone.shown(notice);
        navigator.vibrate?.(200);
      }
    },
    stale(is) {
      stale = is;
      write();
    },
    link: () => write(),
  },
});
const write = saysHow(phone, () => stale);

by("order").onclick = async () => {
  ordering = true;
  draw();
  try {
    shown = { order: await pays(store, customer), stage: "paid", store };
  } catch (error) {
    by("sentence").textContent = error.message;
    return;
  } finally {
    ordering = false;
  }
  draw();
};
by("collect").onclick = async () => {
  const { refused } = await phone.pickedUp(shown.order);
  if (refused === null) {
    shown.stage = "picked_up";
    draw();
  } else {
    by("sentence").textContent = word("notTaken", refused);
  }
};
tools(draw);
