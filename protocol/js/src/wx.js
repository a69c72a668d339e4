// The platform of WeChat mini-programs. The server's domain must be registered for requests and for sockets; see ../README.md.
//
// Five seconds after a mini-program is hidden, WeChat cuts its network: requests fail with "interrupted" and sockets close with code 1000. That is
// no error: the shell pauses, and resumes with one request when the mini-program is shown.

import { BYE } from "./close.js";
import { run } from "./shell.js";

function socket(url, protocol, on) {
  const task = wx.connectSocket({ url, protocols: [protocol], fail: () => on.closed() });
  task.onOpen(() => on.opened());
  task.onMessage(({ data }) => on.text(typeof data === "string" ? data : ""));
  task.onClose(({ code, reason }) => on.closed({ code, reason: reason || "" }));
  task.onError(() => on.closed());
  return {
    send: (data) => task.send({ data, fail: () => {} }),
    close: () => task.close({ code: BYE, reason: "bye", fail: () => {} }),
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
      const name = Object.keys(header || {}).find((key) => key.toLowerCase() === "retry-after");
      const after = name === undefined ? NaN : Number(header[name]);
      done({ status: statusCode, body: typeof data === "string" ? data : JSON.stringify(data), ...(after >= 0 && { retryAfter: after * 1000 }) });
    },
    fail: () => done(null),
  });
  return () => task.abort();
}

function schedule(ms, then) {
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
  schedule,
  watch,
  // Without a monotonic clock, a jump of the wall clock costs a reconnect.
  now: () => (typeof performance === "object" && performance.now ? performance.now() : Date.now()),
  load: (key) => wx.getStorageSync(key) || null,
  save: (key, text) => wx.setStorageSync(key, text),
};

/** @type {typeof import("./index.d.ts").connect} */
export const connect = (options) => run(platform, options);
