// What the shell does on a platform whose time is the test's, and which fails as platforms do.

import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { run } from "../src/shell.js";
import { naps } from "../src/web.js";

const STEPS_MAX = 10_000;

/** A platform without network: it notes what is asked, and its time passes when the test says so. */
function platform(more) {
  const timers = new Set();
  let at = 0;
  const one = {
    requests: [],
    sockets: 0,
    app: null,
    socket: () => ({ send() {}, close() {}, nth: (one.sockets += 1) }),
    request(asked, done) {
      one.requests.push({ ...asked, done });
      return () => {};
    },
    later(ms, then) {
      const timer = { at: at + ms, then };
      timers.add(timer);
      return () => timers.delete(timer);
    },
    watch(app) {
      one.app = app;
      return () => {};
    },
    now: () => at,
    load: () => null,
    save() {},
    timers: () => timers.size,
    /** Lets time pass, and everything that waits for it happen in its order. */
    async passes(ms) {
      const end = at + ms;
      for (let steps = 0; ; steps += 1) {
        assert.ok(steps < STEPS_MAX, "it wakes again and again, and does nothing");
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
    ...more,
  };
  return one;
}

/** What is promised has happened. */
const settled = () => new Promise((done) => setImmediate(done));

const options = (more) => ({ server: "http://chain.example", device: "till-1", token: "token", ...more });

test("a token that never comes is told as a server that is not reached, and what is said meanwhile is sent once it does", async () => {
  const chain = platform();
  const [links, errors] = [[], []];
  const answers = [];
  const token = () => new Promise((yes) => answers.push(yes));
  const till = run(chain, options({ token, on: { link: (link) => links.push(link), error: (error) => errors.push(error.message) } }));
  till.accept("o1", "A17");
  await chain.passes(61_000);
  assert.deepEqual(links, ["unreachable"]);
  assert.equal(errors[0], "no token in time");
  assert.equal(chain.requests.length, 0, "nobody is asked without a token");
  answers[0]("fresh");
  await chain.passes(0);
  assert.equal(chain.requests[0].token, "fresh");
  assert.match(chain.requests[0].url, /orders\?open=1/);
  till.close();
  assert.equal(chain.timers(), 0, "nothing goes on when it has left");
});

test("who gives out tokens is asked less and less often while none is to be had", async () => {
  const chain = platform();
  const asked = [];
  const token = () => {
    asked.push(chain.now());
    throw new Error("away");
  };
  const till = run(chain, options({ token, on: { error() {} } }));
  await chain.passes(10 * 60_000);
  assert.ok(asked.length >= 10 && asked.length <= 30, `${asked.length} times in ten minutes`);
  const waits = asked.slice(1).map((at, nth) => at - asked[nth]);
  assert.ok(waits[0] <= 1_000 && waits.at(-1) >= 30_000, waits.join(" "));
  till.close();
  assert.equal(chain.timers(), 0);
});

test("what is no token is none", async () => {
  const chain = platform();
  const errors = [];
  const till = run(chain, options({ token: async () => undefined, on: { error: (error) => errors.push(error.message) } }));
  await chain.passes(0);
  assert.deepEqual([errors, chain.requests], [["this is no token"], []]);
  till.close();
});

test("a platform that throws, and handlers that throw, do not end it", async () => {
  const broken = () => {
    throw new Error("broken");
  };
  let throws = true;
  const asked = [];
  const chain = platform({
    request(one, done) {
      asked.push(one);
      return throws ? broken() : (done({ status: 503, body: "" }), () => {});
    },
    save: broken,
  });
  const till = run(chain, options({ on: { error: broken, link: broken } }));
  const quiet = mock.method(console, "error", () => {});
  await chain.passes(120_000);
  const before = asked.length;
  assert.ok(before > 3, `asked ${before} times`);
  throws = false;
  await chain.passes(120_000);
  assert.ok(asked.length > before, "it asks on; an answer may come at once");
  assert.ok(quiet.mock.callCount() > 0, "nobody is told of nothing");
  quiet.mock.restore();
  till.close();
  assert.equal(chain.timers(), 0);
});

/** A platform whose one socket is the test's to speak on. */
function wired() {
  const wire = { sent: [], closed: 0, on: {} };
  const chain = platform({
    socket(_, __, heard) {
      wire.on = heard;
      return { send: (text) => wire.sent.push(JSON.parse(text)), close: () => (wire.closed += 1) };
    },
    load: (key) => (key === "orderbell.till-1" ? JSON.stringify({ position: "1.2.0000", known: [] }) : null),
  });
  const says = (frame) => wire.on.text(JSON.stringify(frame));
  const welcomes = async () => {
    await chain.passes(0);
    wire.on.opened();
    says({ type: "welcome", recipient: "store:S1", device: "till-1", position: "1.2.0000", heartbeat_ms: 25_000, window: 64, frame_bytes_max: 16_384, at: 1 });
  };
  return { chain, wire, says, welcomes };
}

const notice = { type: "notice", id: "n1", kind: "new_order", order: "o1", at: 1, body: {}, attempt: 1, position: "1.3.0000", after: "1.2.0000" };

test("who leaves in the middle of a notice has left", async () => {
  const { chain, wire, says, welcomes } = wired();
  const till = run(chain, options({ keeps: true, on: { notice: () => till.close() } }));
  await welcomes();
  says(notice);
  assert.deepEqual(wire.sent.map(({ type }) => type), ["hello", "bye"]);
  assert.equal(wire.closed, 1);
  assert.equal(chain.timers(), 0);
});

test("a notice at which the application throws is told as unusable", async () => {
  const { chain, wire, says, welcomes } = wired();
  const errors = [];
  const broken = () => {
    throw new Error("no paper");
  };
  const till = run(chain, options({ keeps: true, on: { notice: broken, error: (error) => errors.push(error.message) } }));
  await welcomes();
  says(notice);
  assert.deepEqual(wire.sent.at(-1), { type: "unusable", position: "1.3.0000", reason: "application" });
  assert.deepEqual(errors, ["no paper"]);
  till.close();
});

test("an event that is said twice is one, and both are told what became of it", async () => {
  const { chain, wire, says, welcomes } = wired();
  const till = run(chain, options({ keeps: true }));
  await welcomes();
  const said = () => till.event({ id: "e1", kind: "order.accepted", order: "o1", code: "A17" });
  const both = Promise.all([said(), said()]);
  assert.equal(wire.sent.filter(({ type }) => type === "event").length, 1);
  says({ type: "logged", id: "e1", status: "refused", reason: "too-late" });
  assert.deepEqual(await both, [1, 2].map(() => ({ id: "e1", refused: "too-late" })));
  till.close();
});

test("with the network back it comes back at once, even if its socket does not know that it died", async () => {
  const chain = platform({ load: () => JSON.stringify({ position: "1.2.0000", known: [] }) });
  const till = run(chain, options({ keeps: true }));
  await chain.passes(0);
  assert.equal(chain.sockets, 1);
  chain.app.online();
  await chain.passes(0);
  assert.match(chain.requests[0].url, /orders/);
  till.close();
});

test("a machine that slept is told from one whose clock was set a little", () => {
  let tick = null;
  mock.method(globalThis, "setInterval", (then) => (tick = then));
  mock.method(globalThis, "clearInterval", () => (tick = null));
  let [wall, ticks, woke] = [1_000_000, 0, 0];
  const stop = naps(() => (woke += 1), () => wall, () => ticks);
  const passes = (ofDay, ofClock) => {
    wall += ofDay;
    ticks += ofClock;
    tick();
  };
  passes(5_000, 5_000);
  passes(7_000, 5_000);
  passes(65_000, 65_000);
  assert.equal(woke, 0, "a timer that is late, and a clock that is set, are no sleep");
  passes(3_600_000, 5_000);
  assert.equal(woke, 1);
  stop();
  assert.equal(tick, null);
  mock.restoreAll();
});
