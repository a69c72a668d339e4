// A phone on the SDK in a mini-program, as WeChat treats it: five seconds behind its leaving the screen it has no network, its socket closes with
// code 1000 "interrupted", requests fail the same way; five sockets at most; requests get text back, and headers in any case.
// `node wx.mjs SERVER`; tokens come in the environment.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { happens, notebook, server, until } from "./scene.mjs";

const WebSocket = globalThis.WebSocket ?? createRequire(join(process.cwd(), "node_modules/"))("ws");
const GRACE_MS = 5_000;
const SOCKETS_MAX = 5;

const app = { hide: new Set(), show: new Set(), networked: true, timer: null };
const sockets = new Set();
const asked = [];
let opened = 0;
const interrupted = { errMsg: "request:fail interrupted" };

globalThis.wx = {
  onAppHide: (then) => app.hide.add(then),
  onAppShow: (then) => app.show.add(then),
  offAppHide: (then) => app.hide.delete(then),
  offAppShow: (then) => app.show.delete(then),
  getStorageSync: (key) => kept.get(key) ?? "",
  setStorageSync: (key, text) => kept.set(key, text),
  request({ url, method, data, header, dataType, timeout, success, fail }) {
    assert.ok(timeout <= 60_000 && dataType === "text", "as the documentation has it");
    const controller = new AbortController();
    asked.push(`${method} ${new URL(url).pathname}`);
    if (!app.networked) {
      setTimeout(() => fail(interrupted));
      return { abort() {} };
    }
    const fails = () => fail(interrupted);
    app.hide.add(fails);
    fetch(url, { method, body: data, headers: header, signal: controller.signal })
      .then(async (answer) => success({ statusCode: answer.status, data: await answer.text(), header: { "Retry-After": answer.headers.get("retry-after") ?? undefined } }))
      .catch(() => fail({ errMsg: "request:fail" }))
      .finally(() => app.hide.delete(fails));
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
    if (!app.networked || sockets.size >= SOCKETS_MAX) {
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
const kept = new Map();

/** The customer looks at something else. */
function hides() {
  app.timer = setTimeout(() => {
    app.networked = false;
    sockets.forEach((socket) => socket.interrupt());
  }, GRACE_MS);
  app.hide.forEach((then) => then());
}

function shows() {
  clearTimeout(app.timer);
  app.networked = true;
  app.show.forEach((then) => then());
}

const { connect } = createRequire(import.meta.url)("../../protocol/js/dist/wx.cjs");
const book = notebook();
const phone = connect({ server, token: () => process.env.CUSTOMER_TOKEN, on: book.on });

await book.is("pushed");
await happens("paid", "o1");
await happens("accepted", "o1", { code: "A17" });
await book.hears("pickup_code o1");
assert.equal(sockets.size, 1, "one socket at most");

// A short look elsewhere costs nothing.
const before = [opened, asked.length];
hides();
await new Promise((done) => setTimeout(done, 300));
shows();
await happens("ready", "o1");
await book.hears("ready o1");
assert.deepEqual([opened, asked.length], before, "a short look elsewhere made it connect again");

// A long one: the network goes, nothing is asked, nothing is an error.
hides();
await until("the socket is gone", () => sockets.size === 0);
const slept = asked.length;
await happens("paid", "o2");
await happens("accepted", "o2", { code: "B4" });
await new Promise((done) => setTimeout(done, GRACE_MS));
assert.equal(asked.length, slept, `asked while nobody looked: ${asked.slice(slept)}`);
shows();
await until("the open orders are there", () => book.lists.at(-1).includes("o2 accepted"));
await until("it is pushed to again", () => sockets.size === 1 && phone.link() === "pushed");
assert.deepEqual(asked.slice(slept), ["GET /v1/orders"], "one request on coming back");
await happens("ready", "o2");
await book.hears("ready o2");
book.once();

// Again and again: never more than one socket.
for (let times = 0; times < 3; times += 1) {
  hides();
  await until("the socket is gone", () => sockets.size === 0);
  shows();
  await until("it is back", () => sockets.size === 1 && [...sockets][0].readyState === 1);
}
await happens("paid", "o3");
await happens("accepted", "o3", { code: "C5" });
await book.hears("pickup_code o3");
book.once();
phone.close();
await until("it leaves", () => sockets.size === 0);
assert.deepEqual([app.hide.size, app.show.size], [0, 0], "it goes on listening to the application");
console.log("all is well");
process.exit(0);
