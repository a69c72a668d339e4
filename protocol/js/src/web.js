// What browsers and Node have in common: fetch, WebSocket, timers.

/** Carries a socket. `make` is a WebSocket class as browsers have it. */
export const socketOf = (make) => (url, protocol, on) => {
  const socket = new make(url, protocol);
  socket.onopen = () => on.opened();
  socket.onmessage = ({ data }) => on.text(typeof data === "string" ? data : "");
  socket.onclose = ({ code, reason }) => on.closed({ code, reason: String(reason || "") });
  // A close follows each error, and tells as much.
  socket.onerror = () => {};
  return {
    send: (text) => socket.readyState === 1 && socket.send(text),
    close: () => socket.close(1000, "bye"),
  };
};

/** Carries a request. */
export function request({ method, url, token, body }, done) {
  const controller = new AbortController();
  const headers = { authorization: `Bearer ${token}`, ...(body && { "content-type": "application/json" }) };
  fetch(url, { method, headers, body, signal: controller.signal, cache: "no-store", credentials: "omit" })
    .then(async (answer) => {
      const after = Number(answer.headers.get("retry-after") ?? NaN);
      done({ status: answer.status, body: await answer.text(), ...(after >= 0 && { retryAfter: after * 1000 }) });
    })
    .catch(() => done(null));
  return () => controller.abort();
}

export function later(ms, then) {
  const timer = setTimeout(then, ms);
  return () => clearTimeout(timer);
}

export const now = () => performance.now();

const LOOK_MS = 5_000;
/** Clocks are set by less than this; whoever sets one by more has a socket opened anew. */
const SLEPT_MS = 10_000;

/** Calls when the machine has slept: its clock stood still meanwhile (not everywhere), the day went on. */
export function naps(slept, wall = Date.now, ticks = now) {
  let apart = wall() - ticks();
  const timer = setInterval(() => {
    const before = apart;
    apart = wall() - ticks();
    if (apart - before > SLEPT_MS) {
      slept();
    }
  }, LOOK_MS);
  return () => clearInterval(timer);
}
