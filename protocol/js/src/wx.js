// A phone in a WeChat mini-program. Domains must be registered, for requests and sockets alike; see ../README.md.
//
// Five seconds behind its leaving the screen a mini-program has no network: requests fail as "interrupted" and sockets close with code 1000. That
// is no error; the shell sleeps, and comes back with one request when the application is shown.

import { run } from "./shell.js";

function socket(url, protocol, on) {
  const task = wx.connectSocket({ url, protocols: [protocol], fail: () => on.closed() });
  task.onOpen(() => on.opened());
  task.onMessage(({ data }) => on.text(typeof data === "string" ? data : ""));
  task.onClose(({ code, reason }) => on.closed({ code, reason: reason || "" }));
  task.onError(() => on.closed());
  return {
    send: (data) => task.send({ data, fail: () => {} }),
    close: () => task.close({ code: 1000, reason: "bye", fail: () => {} }),
  };
}

function request({ method, url, token, body }, done) {
  const task = wx.request({
    url,
    method,
    data: body,
    dataType: "text",
    timeout: 15_000,
    header: { authorization: `Bearer ${token}`, ...(body && { "content-type": "application/json" }) },
    success({ statusCode, data, header }) {
      const name = Object.keys(header || {}).find((one) => one.toLowerCase() === "retry-after");
      const after = name === undefined ? NaN : Number(header[name]);
      done({ status: statusCode, body: typeof data === "string" ? data : JSON.stringify(data), ...(after >= 0 && { retryAfter: after * 1000 }) });
    },
    fail: () => done(null),
  });
  return () => task.abort();
}

function later(ms, then) {
  const timer = setTimeout(then, ms);
  return () => clearTimeout(timer);
}

function watch({ hidden, shown }) {
  wx.onAppHide(hidden);
  wx.onAppShow(shown);
  return () => {
    wx.offAppHide(hidden);
    wx.offAppShow(shown);
  };
}

const platform = {
  socket,
  request,
  later,
  watch,
  // Clocks of phones jump; where there is none that does not, one that jumps costs a reconnect.
  now: () => (typeof performance === "object" && performance.now ? performance.now() : Date.now()),
  load: (key) => wx.getStorageSync(key) || null,
  save: (key, text) => wx.setStorageSync(key, text),
};

/** @type {typeof import("./index.d.ts").connect} */
export const connect = (options) => run(platform, options);
