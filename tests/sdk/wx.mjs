// A phone on the SDK in a simulated WeChat mini-program. Five seconds after it is hidden it has no network: its socket closes with code 1000 and the reason
// "interrupted", and requests fail. It may have five sockets. Responses are text, and header names have any case.
// `node wx.mjs SERVER`; tokens are in the environment.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { postEvent, recorder, server, until } from "./harness.mjs";

const WebSocket = globalThis.WebSocket ?? createRequire(join(process.cwd(), "node_modules/"))("ws");
const GRACE_MS = 5_000;
const MAX_SOCKETS = 5;

const app = { hide: new Set(), show: new Set(), hasNetwork: true, timer: null };
const sockets = new Set();
const requests = [];
let opened = 0;
const interrupted = { errMsg: "request:fail interrupted" };

globalThis.wx = {
  onAppHide: (then) => app.hide.add(then),
  onAppShow: (then) => app.show.add(then),
  offAppHide: (then) => app.hide.delete(then),
  offAppShow: (then) => app.show.delete(then),
  getStorageSync: (key) => storage.get(key) ?? "",
  setStorageSync: (key, text) => storage.set(key, text),
  request({ url, method, data, header, dataType, timeout, success, fail }) {
    assert.ok(timeout <= 60_000 && dataType === "text", "the documentation of WeChat allows only these values");
    const controller = new AbortController();
    requests.push(`${method} ${new URL(url).pathname}`);
    if (!app.hasNetwork) {
      setTimeout(() => fail(interrupted));
      return { abort() {} };
    }
    const interrupt = () => fail(interrupted);
    app.hide.add(interrupt);
    fetch(url, { method, body: data, headers: header, signal: controller.signal })
      .then(async (response) => success({ statusCode: response.status, data: await response.text(), header: { "Retry-After": response.headers.get("retry-after") ?? undefined } }))
      .catch(() => fail({ errMsg: "request:fail" }))
      .finally(() => app.hide.delete(interrupt));
    return { abort: () => controller.abort() };
  },
  connectSocket({ url, protocols, fail }) {
    const on = {};
    const task = {
      onOpen: (then) => (on.open = then),
      onMessage: (then) => (on.message = then),
      onClose: (then) => (on.close = then),
      onError: (then) => (on.error = then),
      send: ({ data, fail: failed }) => (socket.readyState === 1 ? socket.send(data) : failed(interrupted)),
      close: ({ code, reason }) => socket.close(code, reason),
    };
    if (!app.hasNetwork || sockets.size >= MAX_SOCKETS) {
      setTimeout(() => fail(interrupted));
      return task;
    }
    opened += 1;
    const socket = new WebSocket(url, protocols);
    sockets.add(socket);
    socket.onopen = () => on.open({});
    socket.onmessage = ({ data }) => on.message({ data });
    socket.onerror = () => on.error({ errMsg: "connectSocket:fail" });
    socket.onclose = ({ code, reason }) => {
      sockets.delete(socket);
      on.close(socket.interrupted ? { code: 1000, reason: "interrupted" } : { code, reason });
    };
    socket.interrupt = () => {
      socket.interrupted = true;
      socket.close();
    };
    return task;
  },
};
const storage = new Map();

/** The customer switches to another app. */
function hide() {
  app.timer = setTimeout(() => {
    app.hasNetwork = false;
    sockets.forEach((socket) => socket.interrupt());
  }, GRACE_MS);
  app.hide.forEach((then) => then());
}

function show() {
  clearTimeout(app.timer);
  app.hasNetwork = true;
  app.show.forEach((then) => then());
}

const { connect } = createRequire(import.meta.url)("../../protocol/js/dist/wx.cjs");
const received = recorder();
const phone = connect({ server, token: () => process.env.CUSTOMER_TOKEN, on: received.on });

await received.becomes("push");
await postEvent("paid", "o1");
await postEvent("accepted", "o1", { pickup_code: "A17" });
await received.receives("pickup_code o1");
assert.equal(sockets.size, 1, "one socket at most");

// A short absence keeps the socket.
const before = [opened, requests.length];
hide();
await new Promise((done) => setTimeout(done, 300));
show();
await postEvent("ready", "o1");
await received.receives("ready o1");
assert.deepEqual([opened, requests.length], before, "a short absence caused a reconnect");

// A long absence: the network is cut, no request is made, and there is no error.
hide();
await until("for the socket to close", () => sockets.size === 0);
const whenHidden = requests.length;
await postEvent("paid", "o2");
await postEvent("accepted", "o2", { pickup_code: "B4" });
await new Promise((done) => setTimeout(done, GRACE_MS));
assert.equal(requests.length, whenHidden, `requests while hidden: ${requests.slice(whenHidden)}`);
show();
await until("for the open orders", () => received.lists.at(-1).includes("o2 accepted"));
await until("for push", () => sockets.size === 1 && phone.connectivity() === "push");
assert.deepEqual(requests.slice(whenHidden), ["GET /v1/orders"], "one request when it is shown again");
await postEvent("ready", "o2");
await received.receives("ready o2");
received.assertNoDuplicatesAndNoFaults();

// Repeatedly: never more than one socket.
for (let times = 0; times < 3; times += 1) {
  hide();
  await until("for the socket to close", () => sockets.size === 0);
  show();
  await until("for the reconnect", () => sockets.size === 1 && [...sockets][0].readyState === 1);
}
await postEvent("paid", "o3");
await postEvent("accepted", "o3", { pickup_code: "C5" });
await received.receives("pickup_code o3");
received.assertNoDuplicatesAndNoFaults();
phone.close();
await until("for the socket to close", () => sockets.size === 0);
assert.deepEqual([app.hide.size, app.show.size], [0, 0], "listeners are left after close");
console.log("all is well");
process.exit(0);
