// The shell on a simulated platform with simulated time and failures.

import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { run } from "../src/shell.js";
import { onWakeUp } from "../src/web.js";

const MAX_STEPS = 10_000;

/** A platform without a network: it records requests, and the test advances its clock. */
function platform(overrides) {
  const timers = new Set();
  let at = 0;
  const one = {
    requests: [],
    sockets: 0,
    app: null,
    socket: () => ({ send() {}, close() {}, nth: (one.sockets += 1) }),
    request(request, done) {
      one.requests.push({ ...request, done });
      return () => {};
    },
    schedule(ms, then) {
      const timer = { at: at + ms, then };
      timers.add(timer);
      return () => timers.delete(timer);
    },
    watch(on) {
      one.app = on;
      return () => {};
    },
    now: () => at,
    load: () => null,
    save() {},
    timers: () => timers.size,
    /** Advances the clock and runs the timers in order. */
    async advance(ms) {
      const end = at + ms;
      for (let steps = 0; ; steps += 1) {
        assert.ok(steps < MAX_STEPS, "the shell spins");
        await settled();
        const next = [...timers].filter((timer) => timer.at <= end).sort((a, b) => a.at - b.at)[0];
        if (!next) {
          break;
        }
        timers.delete(next);
        at = Math.max(at, next.at);
        next.then();
      }
      at = end;
    },
    ...overrides,
  };
  return one;
}

/** Lets pending promises settle. */
const settled = () => new Promise((done) => setImmediate(done));

const options = (overrides) => ({ server: "http://chain.example", device: "till-1", token: "token", ...overrides });

test("without a token the client reports unreachable; events are kept and the late token is used", async () => {
  const chain = platform();
  const [changes, errors] = [[], []];
  const resolves = [];
  const token = () => new Promise((resolve) => resolves.push(resolve));
  const till = run(chain, options({ token, on: { connectivity: (now) => changes.push(now), error: (error) => errors.push(error.message) } }));
  till.accept("o1", "A17");
  await chain.advance(61_000);
  assert.deepEqual(changes, ["unreachable"]);
  assert.equal(errors[0], "timed out waiting for a token");
  assert.equal(chain.requests.length, 0, "no request is made without a token");
  resolves[0]("fresh");
  await chain.advance(0);
  assert.equal(chain.requests[0].token, "fresh");
  assert.match(chain.requests[0].url, /orders\?open=1/);
  till.close();
  assert.equal(chain.timers(), 0, "no timer is left after close");
});

test("the token function is called with back-off while it fails", async () => {
  const chain = platform();
  const calls = [];
  const token = () => {
    calls.push(chain.now());
    throw new Error("unavailable");
  };
  const till = run(chain, options({ token, on: { error() {} } }));
  await chain.advance(10 * 60_000);
  assert.ok(calls.length >= 10 && calls.length <= 30, `${calls.length} calls in ten minutes`);
  const waits = calls.slice(1).map((at, nth) => at - calls[nth]);
  assert.ok(waits[0] <= 1_000 && waits.at(-1) >= 30_000, waits.join(" "));
  till.close();
  assert.equal(chain.timers(), 0);
});

test("a token that is not a string is an error", async () => {
  const chain = platform();
  const errors = [];
  const till = run(chain, options({ token: async () => undefined, on: { error: (error) => errors.push(error.message) } }));
  await chain.advance(0);
  assert.deepEqual([errors, chain.requests], [["the token is not a non-empty string"], []]);
  till.close();
});

test("the client survives a platform and handlers that throw", async () => {
  const broken = () => {
    throw new Error("broken");
  };
  let throws = true;
  const requests = [];
  const chain = platform({
    request(request, done) {
      requests.push(request);
      return throws ? broken() : (done({ status: 503, body: "" }), () => {});
    },
    save: broken,
  });
  const till = run(chain, options({ on: { error: broken, connectivity: broken } }));
  const quiet = mock.method(console, "error", () => {});
  await chain.advance(120_000);
  const before = requests.length;
  assert.ok(before > 3, `${before} requests`);
  throws = false;
  await chain.advance(120_000);
  assert.ok(requests.length > before, "no requests after the platform recovered, with responses that arrive synchronously");
  assert.ok(quiet.mock.callCount() > 0, "the errors were not reported");
  quiet.mock.restore();
  till.close();
  assert.equal(chain.timers(), 0);
});

/** A platform whose socket the test controls. */
function withSocket() {
  const wire = { sent: [], closed: 0, on: {} };
  const chain = platform({
    socket(_, __, on) {
      wire.on = on;
      return { send: (text) => wire.sent.push(JSON.parse(text)), close: () => (wire.closed += 1) };
    },
    load: (key) => (key === "orderbell.till-1" ? JSON.stringify({ position: "1.2.0000", known: [] }) : null),
  });
  const receive = (frame) => wire.on.text(JSON.stringify(frame));
  const welcome = async () => {
    await chain.advance(0);
    wire.on.opened();
    receive({ type: "welcome", recipient: "store:S1", device: "till-1", position: "1.2.0000", heartbeat_ms: 25_000, max_in_flight: 64, max_frame_bytes: 16_384, at: 1 });
  };
  return { chain, wire, receive, welcome };
}

const notice = { type: "notice", id: "n1", kind: "new_order", order: "o1", at: 1, body: {}, attempt: 1, position: "1.3.0000", prev: "1.2.0000" };

test("close inside a notice handler stops the client", async () => {
  const { chain, wire, receive, welcome } = withSocket();
  const till = run(chain, options({ resume: true, on: { notice: () => till.close() } }));
  await welcome();
  receive(notice);
  assert.deepEqual(wire.sent.map(({ type }) => type), ["hello", "bye"]);
  assert.equal(wire.closed, 1);
  assert.equal(chain.timers(), 0);
});

test("a notice on which the handler throws is answered with nack", async () => {
  const { chain, wire, receive, welcome } = withSocket();
  const errors = [];
  const broken = () => {
    throw new Error("no paper");
  };
  const till = run(chain, options({ resume: true, on: { notice: broken, error: (error) => errors.push(error.message) } }));
  await welcome();
  receive(notice);
  assert.deepEqual(wire.sent.at(-1), { type: "nack", position: "1.3.0000", reason: "application" });
  assert.deepEqual(errors, ["no paper"]);
  till.close();
});

test("an event reported twice is sent once, and both promises resolve", async () => {
  const { chain, wire, receive, welcome } = withSocket();
  const till = run(chain, options({ resume: true }));
  await welcome();
  const report = () => till.event({ id: "e1", kind: "order.accepted", order: "o1", pickup_code: "A17" });
  const both = Promise.all([report(), report()]);
  assert.equal(wire.sent.filter(({ type }) => type === "event").length, 1);
  receive({ type: "event_result", id: "e1", status: "rejected", reason: "not-found" });
  assert.deepEqual(await both, [1, 2].map(() => ({ id: "e1", rejected: "not-found" })));
  till.close();
});

test("when the network is back the client reconnects at once, even if its socket seems alive", async () => {
  const chain = platform({ load: () => JSON.stringify({ position: "1.2.0000", known: [] }) });
  const till = run(chain, options({ resume: true }));
  await chain.advance(0);
  assert.equal(chain.sockets, 1);
  chain.app.online();
  await chain.advance(0);
  assert.match(chain.requests[0].url, /orders/);
  till.close();
});

test("a wake-up is distinguished from a late timer and a clock correction", () => {
  let tick = null;
  mock.method(globalThis, "setInterval", (then) => (tick = then));
  mock.method(globalThis, "clearInterval", () => (tick = null));
  let [wall, monotonic, wakeUps] = [1_000_000, 0, 0];
  const stop = onWakeUp(() => (wakeUps += 1), () => wall, () => monotonic);
  const advance = (wallMs, monotonicMs) => {
    wall += wallMs;
    monotonic += monotonicMs;
    tick();
  };
  advance(5_000, 5_000);
  advance(7_000, 5_000);
  advance(65_000, 65_000);
  assert.equal(wakeUps, 0, "a late timer or a clock correction counted as a wake-up");
  advance(3_600_000, 5_000);
  assert.equal(wakeUps, 1);
  stop();
  assert.equal(tick, null);
  mock.restoreAll();
});
