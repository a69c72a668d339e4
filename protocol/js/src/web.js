// What browsers and Node have in common: fetch, WebSocket and timers.

import { BYE } from "./close.js";

/** The `socket` of a platform, made with a WebSocket class as browsers have it. */
export const webSocketWith = (WebSocketClass) => (url, protocol, on) => {
  const socket = new WebSocketClass(url, protocol);
  socket.onopen = () => on.opened();
  socket.onmessage = ({ data }) => on.text(typeof data === "string" ? data : "");
  socket.onclose = ({ code, reason }) => on.closed({ code, reason: String(reason || "") });
  // A close event follows every error.
  socket.onerror = () => {};
  return {
    send: (text) => socket.readyState === 1 && socket.send(text),
    close: () => socket.close(BYE, "bye"),
  };
};

/** The `request` of a platform. */
export function request({ method, url, token, body }, done) {
  const controller = new AbortController();
  const headers = { authorization: `Bearer ${token}`, ...(body && { "content-type": "application/json" }) };
  fetch(url, { method, headers, body, signal: controller.signal, cache: "no-store", credentials: "omit" })
    .then(async (response) => {
      const after = Number(response.headers.get("retry-after") ?? NaN);
      done({ status: response.status, body: await response.text(), ...(after >= 0 && { retryAfter: after * 1000 }) });
    })
    .catch(() => done(null));
  return () => controller.abort();
}

export function schedule(ms, then) {
  const timer = setTimeout(then, ms);
  return () => clearTimeout(timer);
}

export const now = () => performance.now();

const CHECK_MS = 5_000;
/** Clock corrections are smaller than this; a larger one only costs a reconnect. */
const SLEEP_MIN_MS = 10_000;

/**
 * Calls `wokeUp` after the computer slept: on most systems the monotonic clock stands still during sleep while the wall clock continues. Returns a
 * function that stops the checks.
 */
export function onWakeUp(wokeUp, wallClock = Date.now, monotonicClock = now) {
  let offset = wallClock() - monotonicClock();
  const timer = setInterval(() => {
    const before = offset;
    offset = wallClock() - monotonicClock();
    if (offset - before > SLEEP_MIN_MS) {
      wokeUp();
    }
  }, CHECK_MS);
  return () => clearInterval(timer);
}
