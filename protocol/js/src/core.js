// The client of a mailbox: pure, without socket, clock or chance. The same machine as `orderbell_protocol::client` in Rust, held to it by
// shared vectors (../vectors): the same inputs at the same times give the same outputs.
//
//   resync --open orders--> down --connect--> opening --welcome--> live
//      ^                     |  ^                                   |
//      +---- 4200, 409, 410 -+  +------- lost, silent, broken ------+        while not live: polls
//
// A shell feeds inputs with the time since its start, in milliseconds, and carries out the outputs IN ORDER: that is the whole contract. A notice
// comes before its acknowledgement; a shell that cannot keep the notice must not go on. A closure, not a class: it minifies to what a
// mini-program can afford.

/** The times of a client, in milliseconds. See `Pace` in Rust for the reason of each. */
export const PACE = {
  retryMin: 500,
  retryMax: 30_000,
  welcomeTimeout: 10_000,
  goodAfter: 30_000,
  pollMin: 1_000,
  unreachableAfter: 60_000,
  toldMax: 300_000,
  faultRetry: 600_000,
  replacedRetry: 300_000,
};
const KNOWN_MAX = 4096;
const PAGES_MAX = 1000;
const SENT_MAX = 8;
const FRAME_BYTES_MAX = 16_384;
const POSITION = /^(0|[1-9a-f][0-9a-f]{0,7})\.(0|[1-9a-f][0-9a-f]{0,15})\.[0-9a-f]{4}$/;

const isText = (value) => typeof value === "string";
const isWhole = Number.isSafeInteger;
const isPosition = (value) => isText(value) && POSITION.test(value);
const all = (is, ...values) => values.every((value) => is(value));
const isNotice = (it) => it && all(isPosition, it.position, it.after) && all(isWhole, it.attempt, it.at) && all(isText, it.id, it.kind, it.order) && it.body !== undefined;
const isOrder = (it) => it && isText(it.order) && isText(it.stage) && typeof it.open === "boolean" && isWhole(it.at) && it.body !== undefined;
const bytes = (text) => encodeURIComponent(text).replace(/%../g, "x").length;

function parsed(text) {
  try {
    return JSON.parse(text) || {};
  } catch {
    return {};
  }
}

/** @type {import("./core.js").machine} */
export function machine({ token, device, saved = {}, seed = 1, now: begun = 0, pace = PACE }) {
  let now = begun;
  let out = [];
  let position = saved.position || null;
  let known = new Set(saved.known || []);
  // What happened here and was not answered, in its order: { event, sent, notBefore }.
  let events = (saved.events || []).map((event) => ({ event, sent: false, notBefore: 0 }));
  let hold = 0;
  // { retryAt, told } | { until } | { since, heard, silence }
  let socket = { retryAt: now, told: false };
  // { kind: "poll" | "orders" | "post", from }
  let request = null;
  let failures = 0;
  let refusals = { post: 0, ask: 0 };
  let resyncs = 0;
  let resyncedAt = now;
  let pollAt = now;
  let resyncAt = position ? null : now;
  let listing = { orders: [], position: null, next: null, pages: 0 };
  let expectedAt = now;
  let droppedAt = null;
  let awayUntil = null;
  let replaced = 0;
  let link = "begun";
  let stale = false;
  let tokenNumber = 0;
  let used = { socket: 0, request: 0 };
  let tokenFailures = 0;
  let tokenFailedAt = now;
  let tokenBad = !token;
  let background = false;

  const isLive = () => socket.since !== undefined;
  const isDown = () => socket.retryAt !== undefined;
  const say = (what, more) => out.push({ do: what, ...more });
  const send = (frame) => isLive() && say("send", { frame });
  const unreachableAt = () => expectedAt + pace.unreachableAfter;
  const bounded = (wait) => Math.min(Math.max(wait, pace.retryMin), pace.toldMax);
  // There is no socket, and not because the first one is only being opened.
  const asks = () => resyncAt === null && failures > 0;

  /** `retryMin * 2^n`, at most `retryMax`, somewhere in its upper half. */
  function backOff(times) {
    const half = Math.floor(Math.min(pace.retryMin * 2 ** Math.min(Math.max(times - 1, 0), 16), pace.retryMax) / 2);
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return half + Math.floor((half * ((seed >>> 16) % 1000)) / 1000);
  }

  function tellLink(to) {
    if (link !== to) {
      link = to;
      say("link", { link });
    }
  }

  function freshness({ stale: is = false }) {
    if (stale !== is) {
      stale = is;
      say("stale", { stale });
    }
  }

  // Events.

  function unanswered(at) {
    for (const entry of events.filter((one) => one.sent)) {
      Object.assign(entry, { sent: false, notBefore: at });
    }
  }

  const room = () => SENT_MAX - events.filter((entry) => entry.sent).length;

  function eventsDue() {
    // Of each order the first decides: what is behind it waits for it.
    const orders = new Set();
    const first = events.filter(({ sent, event }) => !sent && !orders.has(event.order) && orders.add(event.order));
    return room() > 0 && first.length ? Math.min(...first.map((entry) => Math.max(entry.notBefore, hold))) : null;
  }

  function takeEvents() {
    const waiting = new Set();
    let places = room();
    return events
      .filter((entry) => {
        const { sent, event, notBefore } = entry;
        if (sent) {
          return false;
        }
        if (places <= 0 || now < Math.max(notBefore, hold) || waiting.has(event.order)) {
          waiting.add(event.order);
          return false;
        }
        places -= 1;
        return (entry.sent = true);
      })
      .map((entry) => entry.event);
  }

  function answered({ id, status, reason = "" }) {
    if (status === "refused" && (reason === "busy" || reason === "unavailable")) {
      for (const entry of events.filter(({ event }) => event.id === id)) {
        Object.assign(entry, { sent: false, notBefore: now + pace.retryMin * 4 });
      }
      return;
    }
    const before = events.length;
    events = events.filter(({ event }) => event.id !== id);
    if (events.length < before) {
      say("answered", { id, refused: status === "refused" ? reason : null });
    }
  }

  // Notices.

  function remember(id) {
    known.add(id);
    if (known.size > KNOWN_MAX) {
      known.delete(known.values().next().value);
    }
  }

  /** Takes a notice, unless it is known; false when the chain is broken. A known one that follows where we stand moves us on all the same. */
  function take(notice) {
    const follows = position === null || position === notice.after;
    const isKnown = known.has(notice.id);
    if (follows) {
      position = notice.position;
      if (!isKnown) {
        remember(notice.id);
        say("notice", { notice });
      }
    }
    return follows || isKnown;
  }

  // The socket.

  function noteLife() {
    if (isLive() && now >= socket.since + pace.goodAfter) {
      failures = resyncs = replaced = 0;
    }
  }

  function abandon() {
    if (request) {
      if (request.kind === "post") {
        unanswered(now);
      }
      request = null;
      say("abandon");
    }
  }

  function lost() {
    say("drop");
    droppedAt = now;
    closed();
  }

  function dropSocket() {
    if (!isDown()) {
      noteLife();
      unanswered(now);
      socket = { retryAt: now, told: false };
      droppedAt = now;
      say("drop");
    }
  }

  function tokenRefused(number) {
    tokenFailures += 1;
    tokenFailedAt = now;
    if (number === tokenNumber && !isLive()) {
      tokenBad = true;
      say("tokenNeeded");
    }
  }

  function resync(at) {
    listing = { orders: [], position: null, next: null, pages: 0 };
    resyncAt = at;
  }

  /** The server says that our position is of no use. When it says so again and again, it is asked less and less often. */
  function ofNoUse() {
    resyncs += 1;
    resyncedAt = now;
    position = null;
    resync(now + (resyncs > 1 ? backOff(resyncs) : 0));
  }

  /** The same device is connected elsewhere: away, and no request either. Unless what the server hears late of a socket that we gave up ends the one behind it. */
  function wasReplaced() {
    const at = droppedAt;
    droppedAt = null;
    if (at !== null && now < at + pace.toldMax) {
      return;
    }
    replaced = Math.min(replaced + 1, 12);
    awayUntil = now + pace.replacedRetry * replaced;
    socket = { retryAt: now, told: true };
    abandon();
    tellLink("replaced");
  }

  function closed({ code = 1006, reason = "" } = {}) {
    if (isDown()) {
      return;
    }
    if (isLive()) {
      // At once for what may have come between; while it only does not open, polls keep their own time.
      pollAt = now;
      unanswered(now);
    }
    noteLife();
    failures += 1;
    const wait = /(?:^|;) *retry_ms=(\d+) *(?:;|$)/.exec(reason);
    socket = { retryAt: now + (wait ? bounded(Number(wait[1])) : backOff(failures)), told: Boolean(wait) };
    if (code === 3000) {
      tokenRefused(used.socket);
    } else if (code === 4003) {
      wasReplaced();
    } else if (code === 4004) {
      socket = { retryAt: now + pace.retryMax * 4, told: true };
    } else if (code >= 4200 && code < 4300) {
      ofNoUse();
    } else if ([1002, 1003, 1007, 1009].includes(code) || (code >= 4000 && code < 4100)) {
      socket = { retryAt: now + pace.faultRetry, told: true };
      say("fault", { code, reason });
    }
  }

  function heard(text) {
    if (isLive()) {
      socket.heard = now;
      expectedAt = now + Math.floor(socket.silence / 2);
      tellLink("pushed");
    }
    const frame = parsed(text);
    if (frame.type === "notice") {
      if (!isNotice(frame)) {
        // What stands behind it must not be taken as if it had been read.
        lost();
      } else if (isLive()) {
        if (take(frame)) {
          send({ type: "ack", position: frame.position });
        } else {
          lost();
        }
      }
    } else if (frame.type === "welcome" && isPosition(frame.position) && all(isText, frame.recipient, frame.device) && all(isWhole, frame.heartbeat_ms, frame.window, frame.frame_bytes_max, frame.at)) {
      // The server's word holds: it may have set something aside that this device could not get.
      position = frame.position;
      const beat = bounded(frame.heartbeat_ms);
      socket = { since: now, heard: now, silence: beat * 2 };
      expectedAt = now + beat;
      tokenFailures = 0;
      tokenBad = false;
      unanswered(now);
      hold = now;
      tellLink("pushed");
      freshness(frame);
    } else if (frame.type === "beat" && all(isPosition, frame.sent, frame.head) && isWhole(frame.at)) {
      freshness(frame);
    } else if (frame.type === "logged" && all(isText, frame.id, frame.status)) {
      answered(frame);
    }
  }

  // Requests.

  function ask() {
    const asked = (kind, what, from) => {
      request = { kind, from };
      used.request = tokenNumber;
      say(kind, what);
    };
    if (resyncAt !== null) {
      if (now >= resyncAt) {
        asked("orders", { from: listing.next }, listing.next);
      }
      return;
    }
    if (!asks()) {
      return;
    }
    const some = takeEvents();
    if (some.length) {
      asked("post", { events: some });
    } else if (now >= pollAt) {
      asked("poll", { after: position }, position);
    }
  }

  function failed(retryAfter) {
    const which = request && request.kind === "post" ? "post" : "ask";
    refusals[which] += 1;
    const at = now + (retryAfter === undefined ? backOff(refusals[which]) : bounded(retryAfter));
    const kind = request && request.kind;
    request = null;
    if (kind === "poll") {
      pollAt = at;
    } else if (kind === "post") {
      unanswered(at);
      hold = at;
    } else if (kind === "orders") {
      // A position that is of use needs no list: the socket and the polls go on from it.
      resyncAt = position !== null || resyncAt === null ? null : at;
    }
  }

  function answer({ status, body, retryAfter }) {
    if (!request) {
      return;
    }
    let done = false;
    if (status === 200) {
      done = { poll: polled, orders: listed, post: posted }[request.kind](parsed(body), request.from);
    } else if (status === 401) {
      failed();
      tokenRefused(used.request);
      return;
    } else if ((status === 409 || status === 410) && request.kind === "poll") {
      if (!isLive() && request.from === position) {
        ofNoUse();
      }
      done = true;
    }
    if (done) {
      refusals[request.kind === "post" ? "post" : "ask"] = 0;
      request = null;
      tokenFailures = 0;
      return;
    }
    if (status >= 400 && status < 500 && status !== 429 && status !== 408) {
      say("fault", { code: status, reason: "" });
    }
    failed(retryAfter);
  }

  // A good answer; false when it cannot be read, or leads nowhere.

  function posted({ events: told }) {
    if (!Array.isArray(told) || !told.every((one) => one && all(isText, one.id, one.status))) {
      return false;
    }
    told.forEach(answered);
    // What was left out is sent again, not at once.
    unanswered(now + pace.retryMin * 4);
    return true;
  }

  function polled(page, from) {
    const { notices, next_poll_ms: next } = page;
    if (!Array.isArray(notices) || !notices.every(isNotice) || !all(isPosition, page.position, page.head) || !all(isWhole, next, page.at) || next < 0) {
      return false;
    }
    if (isLive() || from !== position) {
      // Asked before a socket was there, which goes, or went, on from where we stand.
      return true;
    }
    if (now >= resyncedAt + pace.goodAfter) {
      resyncs = 0;
    }
    if (!notices.every(take)) {
      return false;
    }
    const moved = from !== page.position;
    position = page.position;
    const wait = Math.min(next, pace.toldMax);
    pollAt = wait === 0 && moved ? now : now + Math.max(wait, pace.pollMin);
    expectedAt = pollAt;
    tellLink("polled");
    freshness(page);
    return true;
  }

  function listed(page, from) {
    const { orders, next = null } = page;
    if (!Array.isArray(orders) || !orders.every(isOrder) || !isPosition(page.position) || !isWhole(page.at)) {
      return false;
    }
    if (resyncAt === null || from !== listing.next || isLive()) {
      // Asked before it began anew, or before a socket was there that tells more.
      return true;
    }
    expectedAt = now;
    listing.pages += 1;
    if (next !== null && (next === listing.next || listing.pages > PAGES_MAX)) {
      // It leads nowhere. A position that is of use needs no list; without one it is asked again, less and less often.
      const before = position;
      ofNoUse();
      if (before !== null) {
        position = before;
        resyncAt = null;
      }
      return true;
    }
    listing.orders.push(...orders);
    listing.position = listing.position || page.position;
    listing.next = next;
    if (next !== null) {
      return true;
    }
    const whole = listing;
    listing = { orders: [], position: null, next: null, pages: 0 };
    // An application rings for what it has not rung for yet, also after a restart.
    say("openOrders", { orders: whole.orders.map((order) => ({ ...order, known: known.has(order.notice) })) });
    whole.orders.filter((order) => order.notice).forEach((order) => remember(order.notice));
    position = whole.position;
    resyncAt = null;
    pollAt = now;
    if (isDown() && !socket.told) {
      socket.retryAt = now;
    }
    freshness(page);
    return true;
  }

  /** What happened meanwhile is asked for at once, and once. A socket that slept may be dead without knowing it, and so may a request. */
  function foreground() {
    dropSocket();
    abandon();
    background = false;
    failures = 0;
    refusals = { post: 0, ask: 0 };
    awayUntil = null;
    hold = now;
    expectedAt = now;
    socket = { retryAt: now, told: false };
    pollAt = now;
    resync(now);
  }

  const inputs = {
    time() {},
    opened() {
      if (socket.until === undefined) {
        say("drop");
        return;
      }
      used.socket = tokenNumber;
      say("send", { frame: { type: "hello", token, device, ...(position && { position }) } });
    },
    text: heard,
    closed,
    answer,
    failed: () => failed(),
    say(event) {
      // It would end every socket that it is sent on.
      if (bytes(JSON.stringify({ type: "event", ...event })) > FRAME_BYTES_MAX) {
        say("answered", { id: event.id, refused: "too-long" });
      } else if (events.every((entry) => entry.event.id !== event.id)) {
        events.push({ event, sent: false, notBefore: now });
      }
    },
    shown: (at) => send({ type: "shown", position: at }),
    token(newer) {
      token = newer;
      tokenNumber += 1;
      if (tokenBad) {
        tokenBad = false;
        // One that was opening goes with the old token.
        dropSocket();
        // An application whose tokens are all refused must not storm the server with them.
        const at = tokenFailures > 1 ? Math.max(now, tokenFailedAt + backOff(tokenFailures)) : now;
        pollAt = at;
        socket = { retryAt: at, told: true };
      }
    },
    background() {
      background = true;
      dropSocket();
      abandon();
    },
    foreground,
  };

  /** Whether nobody was heard for too long. */
  function look() {
    if (now >= unreachableAt()) {
      tellLink("unreachable");
    }
  }

  /** Whatever is due. */
  function goOn() {
    if (background) {
      return;
    }
    if (tokenBad) {
      // Nobody is asked with a token that is no good; a screen must not say "online" meanwhile.
      look();
      return;
    }
    if (awayUntil !== null) {
      if (now < awayUntil) {
        return;
      }
      // The socket goes first: a poll would take from the other one what it needs.
      awayUntil = null;
      expectedAt = now;
      pollAt = now + pace.welcomeTimeout;
    }
    if (isDown()) {
      if (now >= socket.retryAt && resyncAt === null) {
        socket = { until: now + pace.welcomeTimeout };
        say("open");
      }
    } else if (now >= (isLive() ? socket.heard + socket.silence : socket.until)) {
      lost();
    }
    if (isLive()) {
      takeEvents().forEach((event) => send({ type: "event", ...event }));
    } else if (!request) {
      ask();
    }
    look();
  }

  function deadline() {
    if (background) {
      return null;
    }
    const unreachable = link === "unreachable" ? null : unreachableAt();
    if (tokenBad) {
      return unreachable;
    }
    if (awayUntil !== null) {
      return awayUntil;
    }
    const free = !request && !isLive();
    const asking = free && asks();
    const due = [
      isDown() ? (resyncAt === null ? socket.retryAt : null) : isLive() ? socket.heard + socket.silence : socket.until,
      asking ? pollAt : null,
      isLive() || asking ? eventsDue() : null,
      free ? resyncAt : null,
      unreachable,
    ].filter((one) => one !== null);
    return due.length ? Math.min(...due) : null;
  }

  return {
    input(name, value, at) {
      now = at;
      out = [];
      inputs[name](value);
      goOn();
      return out;
    },
    deadline,
    saved: () => ({ position, known: [...known], events: events.map((entry) => entry.event) }),
    link: () => link,
  };
}
