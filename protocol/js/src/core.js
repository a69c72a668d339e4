// The client of a mailbox as a pure state machine, without socket, clock or randomness. The same machine as `orderbell_protocol::client` in Rust:
// shared test vectors (../vectors) check that the same inputs at the same times give the same outputs.
//
//   resync --open orders--> down --connect--> opening --welcome--> live
//      ^                     |  ^                                   |
//      +---- 4200, 409, 410 -+  +------- closed, silent, broken ----+        while not live: polls
//
// A shell feeds inputs with the time since its start in milliseconds, and carries out the outputs IN ORDER: that is the whole contract. Every notice
// is followed by its acknowledgement; a shell that cannot store the notice must not continue. A closure, not a class: it minifies to what a
// mini-program can afford.

import * as CLOSE from "./close.js";

/** Waits and time limits of a client, in milliseconds. `Timings` in Rust gives the reason of each. */
export const TIMINGS = {
  retryMin: 500,
  retryMax: 30_000,
  welcomeTimeout: 10_000,
  stableAfter: 30_000,
  pollMin: 1_000,
  unreachableAfter: 60_000,
  serverWaitMax: 300_000,
  faultRetry: 600_000,
  supersededRetry: 300_000,
};
/** What a platform reports when a connection broke without a close: no server sends it. */
const ABNORMAL = 1006;
const PROTOCOL_FAULTS = [CLOSE.PROTOCOL, CLOSE.UNSUPPORTED, CLOSE.ENCODING, CLOSE.TOO_BIG];
const isFaultCode = (code) => PROTOCOL_FAULTS.includes(code) || (code >= 4000 && code < 4100);
const isResyncCode = (code) => code >= 4200 && code < 4300;
/** HTTP statuses that this client distinguishes. */
const STATUS = { OK: 200, UNAUTHORIZED: 401, TIMEOUT: 408, CONFLICT: 409, GONE: 410, TOO_MANY_REQUESTS: 429 };
const isClientError = (status) => status >= 400 && status < 500 && status !== STATUS.TIMEOUT && status !== STATUS.TOO_MANY_REQUESTS;
/** Reasons of a rejection that time mends: `RejectionReason::is_temporary` in Rust. */
const TEMPORARY = ["busy", "unavailable"];
const MAX_KNOWN_IDS = 4096;
const MAX_PAGES = 1000;
const MAX_EVENTS_IN_FLIGHT = 8;
const MAX_FRAME_BYTES = 16_384;
const MAX_SUPERSEDED_STEPS = 12;
const POSITION = /^(0|[1-9a-f][0-9a-f]{0,7})\.(0|[1-9a-f][0-9a-f]{0,15})\.[0-9a-f]{4}$/;

const isText = (value) => typeof value === "string";
const isInteger = Number.isSafeInteger;
const isPosition = (value) => isText(value) && POSITION.test(value);
const all = (is, ...values) => values.every((value) => is(value));
const isNotice = (it) => it && all(isPosition, it.position, it.prev) && all(isInteger, it.attempt, it.at) && all(isText, it.id, it.kind, it.order) && it.body !== undefined;
const isOrder = (it) => it && isText(it.order) && isText(it.stage) && typeof it.active === "boolean" && isInteger(it.at) && it.body !== undefined;
const isWelcome = (it) =>
  isPosition(it.position) && all(isText, it.recipient, it.device) && all(isInteger, it.heartbeat_ms, it.max_in_flight, it.max_frame_bytes, it.at);
const byteLength = (text) => encodeURIComponent(text).replace(/%../g, "x").length;
const emptyListing = () => ({ orders: [], position: null, next: null, pages: 0 });

function parse(text) {
  try {
    return JSON.parse(text) || {};
  } catch {
    return {};
  }
}

/** @type {import("./core.js").machine} */
export function machine({ token, device, state = {}, seed = 1, now: startedAt = 0, timings = TIMINGS }) {
  let now = startedAt;
  let out = [];
  let position = state.position || null;
  // The position that the last `hello` named.
  let helloPosition = null;
  let known = new Set(state.known || []);
  // Events without a result, in the order in which they were reported: { event, inFlight, notBefore }.
  let events = (state.events || []).map((event) => ({ event, inFlight: false, notBefore: 0 }));
  // No event is sent before this time.
  let holdUntil = 0;
  // Down: { retryAt, isFixed } (isFixed: no resync may bring that time forward). Opening: { until }. Live: { since, lastFrameAt, silence }.
  let socket = { retryAt: now, isFixed: false };
  // { kind: "poll" | "orders" | "post", from }
  let request = null;
  // Consecutive failures, from which the back-offs follow. Posts are counted separately: polls that succeed say nothing about them.
  let failures = { sockets: 0, requests: 0, posts: 0, superseded: 0 };
  // Fetching the open orders in place of an invalid position: `at` is null while none is due.
  let resync = { at: position ? null : now, listing: emptyListing(), failures: 0, lastFailed: now };
  let pollAt = now;
  // When something from the server is due, if all is well.
  let expectedAt = now;
  // When this client last dropped a socket: the server may learn of it late and then close the next one as replaced.
  let droppedAt = null;
  let connectivity = "starting";
  let stale = false;
  // A refused token may not be the newest one, hence the versions.
  let tokenVersion = 0;
  let versionUsed = { socket: 0, request: 0 };
  let tokenRefusals = 0;
  let tokenRefusedAt = now;
  // What the client may do. It acts when none of these holds; they are checked in this order.
  let mode = { background: false, needsToken: !token, supersededUntil: null };

  const isLive = () => socket.since !== undefined;
  const isDown = () => socket.retryAt !== undefined;
  const socketDeadline = () => (isDown() ? socket.retryAt : isLive() ? socket.lastFrameAt + socket.silence : socket.until);
  const emit = (type, fields) => out.push({ type, ...fields });
  const send = (frame) => isLive() && emit("send", { frame });
  const unreachableAt = () => expectedAt + timings.unreachableAfter;
  /** A wait that the server asks for, within bounds. */
  const bounded = (wait) => Math.min(Math.max(wait, timings.retryMin), timings.serverWaitMax);
  /** Whether polls and posts take the place of the socket: not while the first socket is only being opened. */
  const mayPoll = () => resync.at === null && failures.sockets > 0;

  /** `retryMin * 2^n`, at most `retryMax`, jittered over its upper half. */
  function backOff(times) {
    const half = Math.floor(Math.min(timings.retryMin * 2 ** Math.min(Math.max(times - 1, 0), 16), timings.retryMax) / 2);
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return half + Math.floor((half * ((seed >>> 16) % 1000)) / 1000);
  }

  function setConnectivity(to) {
    if (connectivity !== to) {
      connectivity = to;
      emit("connectivity", { connectivity });
    }
  }

  function updateFreshness({ stale: is = false }) {
    if (stale !== is) {
      stale = is;
      emit("stale", { stale });
    }
  }

  // Events.

  const retry = (entry, at) => Object.assign(entry, { inFlight: false, notBefore: at });

  /** Whatever is in flight may be lost: send it again from `at` on. */
  function resendEvents(at) {
    events.filter((entry) => entry.inFlight).forEach((entry) => retry(entry, at));
  }

  const freeSlots = () => MAX_EVENTS_IN_FLIGHT - events.filter((entry) => entry.inFlight).length;

  function nextEventDue() {
    // The first event of each order decides: the later ones wait for it.
    const orders = new Set();
    const first = events.filter(({ inFlight, event }) => !inFlight && !orders.has(event.order) && orders.add(event.order));
    return freeSlots() > 0 && first.length ? Math.min(...first.map((entry) => Math.max(entry.notBefore, holdUntil))) : null;
  }

  /** Takes the events to send now. Events of one order are sent in sequence: one that waits holds back those behind it. */
  function takeDueEvents() {
    const waitingOrders = new Set();
    let slots = freeSlots();
    return events
      .filter((entry) => {
        const { inFlight, event, notBefore } = entry;
        if (inFlight) {
          return false;
        }
        if (slots <= 0 || now < Math.max(notBefore, holdUntil) || waitingOrders.has(event.order)) {
          waitingOrders.add(event.order);
          return false;
        }
        slots -= 1;
        return (entry.inFlight = true);
      })
      .map((entry) => entry.event);
  }

  function eventResult({ id, status, reason }) {
    const isRejected = status === "rejected";
    if (isRejected && TEMPORARY.includes(reason)) {
      events.filter(({ event }) => event.id === id).forEach((entry) => retry(entry, now + timings.retryMin * 4));
      return;
    }
    const before = events.length;
    events = events.filter(({ event }) => event.id !== id);
    if (events.length < before) {
      emit("eventResult", { id, rejected: isRejected ? reason || "unknown" : null });
    }
  }

  // Notices.

  function remember(id) {
    known.add(id);
    if (known.size > MAX_KNOWN_IDS) {
      known.delete(known.values().next().value);
    }
  }

  /**
   * Delivers a notice, unless it is a duplicate; false when the chain is broken. A duplicate that follows our position advances it all the same: in a
   * new epoch old notices have new positions.
   */
  function acceptNotice(notice) {
    const follows = position === null || position === notice.prev;
    const isKnown = known.has(notice.id);
    if (follows) {
      position = notice.position;
      if (!isKnown) {
        remember(notice.id);
        emit("notice", { notice });
      }
    }
    return follows || isKnown;
  }

  // The socket.

  /** After a connection that lasted, the back-offs restart at the first wait. */
  function resetFailuresIfStable() {
    if (isLive() && now >= socket.since + timings.stableAfter) {
      failures.sockets = resync.failures = failures.superseded = 0;
    }
  }

  function cancelRequest() {
    if (request) {
      if (request.kind === "post") {
        resendEvents(now);
      }
      request = null;
      emit("cancelRequest");
    }
  }

  /** Drops a socket that is dead or cannot be trusted, as if it had failed. */
  function giveUpSocket() {
    emit("dropSocket");
    droppedAt = now;
    closed();
  }

  /** Drops the socket, if there is one, without counting a failure. */
  function dropSocket() {
    if (!isDown()) {
      resetFailuresIfStable();
      resendEvents(now);
      socket = { retryAt: now, isFixed: false };
      droppedAt = now;
      emit("dropSocket");
    }
  }

  function pauseSocket(retryAt) {
    socket = { retryAt, isFixed: true };
  }

  /** The server refused the token of this version. If there is a newer one, that is tried; otherwise the application has to bring one. */
  function tokenRefused(version) {
    tokenRefusals += 1;
    tokenRefusedAt = now;
    if (version === tokenVersion && !isLive()) {
      mode.needsToken = true;
      emit("tokenNeeded");
    }
  }

  function beginResync(at) {
    resync.listing = emptyListing();
    resync.at = at;
  }

  /** The server refused our position. When it does so repeatedly, the open orders are fetched with back-off. */
  function positionInvalid() {
    resync.failures += 1;
    resync.lastFailed = now;
    position = null;
    beginResync(now + (resync.failures > 1 ? backOff(resync.failures) : 0));
  }

  /**
   * Another connection of the same device took over: pause, and make no request either, since both share one cursor. Unless the other connection was
   * our own: when the server learns late of a socket that we dropped, it closes the next one as replaced.
   */
  function superseded() {
    const at = droppedAt;
    droppedAt = null;
    if (at !== null && now < at + timings.serverWaitMax) {
      return;
    }
    failures.superseded = Math.min(failures.superseded + 1, MAX_SUPERSEDED_STEPS);
    mode.supersededUntil = now + timings.supersededRetry * failures.superseded;
    pauseSocket(now);
    cancelRequest();
    setConnectivity("superseded");
  }

  function closed({ code = ABNORMAL, reason = "" } = {}) {
    if (isDown()) {
      return;
    }
    if (isLive()) {
      // Poll at once for what may have come in between. A socket that never opened does not change the time of the next poll.
      pollAt = now;
      resendEvents(now);
    }
    resetFailuresIfStable();
    failures.sockets += 1;
    const wait = /(?:^|;) *retry_ms=(\d+) *(?:;|$)/.exec(reason);
    socket = { retryAt: now + (wait ? bounded(Number(wait[1])) : backOff(failures.sockets)), isFixed: Boolean(wait) };
    if (code === CLOSE.UNAUTHORIZED) {
      tokenRefused(versionUsed.socket);
    } else if (code === CLOSE.REPLACED) {
      superseded();
    } else if (code === CLOSE.TOO_MANY_CONNECTIONS) {
      pauseSocket(now + timings.retryMax * 4);
    } else if (isResyncCode(code)) {
      positionInvalid();
    } else if (isFaultCode(code)) {
      pauseSocket(now + timings.faultRetry);
      emit("fault", { code, reason });
    }
  }

  function noticeReceived(frame) {
    if (!isNotice(frame)) {
      // The notices behind it must not be accepted as if it had been read.
      giveUpSocket();
    } else if (isLive()) {
      if (acceptNotice(frame)) {
        send({ type: "ack", position: frame.position });
      } else {
        giveUpSocket();
      }
    }
  }

  function welcomed(frame) {
    // The server's position takes precedence: it may have skipped a notice that this device could not process. Unless a poll moved ours in the
    // meantime: what the socket brings may then be older than what the poll delivered.
    if (position === null || position === helloPosition) {
      position = frame.position;
    }
    const heartbeat = bounded(frame.heartbeat_ms);
    socket = { since: now, lastFrameAt: now, silence: heartbeat * 2 };
    expectedAt = now + heartbeat;
    tokenRefusals = 0;
    mode.needsToken = false;
    resendEvents(now);
    holdUntil = now;
    setConnectivity("push");
    updateFreshness(frame);
  }

  function textReceived(text) {
    if (isLive()) {
      socket.lastFrameAt = now;
      expectedAt = now + Math.floor(socket.silence / 2);
      setConnectivity("push");
    }
    const frame = parse(text);
    if (frame.type === "notice") {
      noticeReceived(frame);
    } else if (frame.type === "welcome" && isWelcome(frame)) {
      welcomed(frame);
    } else if (frame.type === "heartbeat" && all(isPosition, frame.last_sent, frame.head) && isInteger(frame.at)) {
      updateFreshness(frame);
    } else if (frame.type === "event_result" && all(isText, frame.id, frame.status)) {
      eventResult(frame);
    }
    // Unknown frames are ignored, so that v1 can grow. The delay of `goaway` comes again in the close frame.
  }

  // Requests.

  function makeRequest() {
    const begin = (kind, type, fields, from) => {
      request = { kind, from };
      versionUsed.request = tokenVersion;
      emit(type, fields);
    };
    if (resync.at !== null) {
      const from = resync.listing.next;
      if (now >= resync.at) {
        begin("orders", "fetchOrders", { from }, from);
      }
      return;
    }
    if (!mayPoll()) {
      return;
    }
    const due = takeDueEvents();
    if (due.length) {
      begin("post", "postEvents", { events: due });
    } else if (now >= pollAt) {
      begin("poll", "poll", { after: position }, position);
    }
  }

  const failureKind = () => (request && request.kind === "post" ? "posts" : "requests");

  function requestFailed(retryAfter) {
    const kind = failureKind();
    failures[kind] += 1;
    const at = now + (retryAfter === undefined ? backOff(failures[kind]) : bounded(retryAfter));
    const failed = request && request.kind;
    request = null;
    if (failed === "poll") {
      pollAt = at;
    } else if (failed === "post") {
      resendEvents(at);
      holdUntil = at;
    } else if (failed === "orders") {
      // With a valid position no list is needed: the socket and the polls continue from it.
      resync.at = position !== null || resync.at === null ? null : at;
    }
  }

  function requestDone() {
    failures[failureKind()] = 0;
    request = null;
    tokenRefusals = 0;
  }

  function response({ status, body, retryAfter }) {
    if (!request) {
      return;
    }
    if (status === STATUS.UNAUTHORIZED) {
      requestFailed();
      tokenRefused(versionUsed.request);
    } else if ((status === STATUS.CONFLICT || status === STATUS.GONE) && request.kind === "poll") {
      if (!isLive() && request.from === position) {
        positionInvalid();
      }
      requestDone();
    } else if (status === STATUS.OK && { poll: polled, orders: ordersFetched, post: posted }[request.kind](parse(body), request.from)) {
      requestDone();
    } else {
      if (isClientError(status)) {
        emit("fault", { code: status, reason: "" });
      }
      requestFailed(retryAfter);
    }
  }

  // Bodies of successful responses; false when one cannot be read, or breaks the chain.

  function posted({ events: results }) {
    if (!Array.isArray(results) || !results.every((one) => one && all(isText, one.id, one.status))) {
      return false;
    }
    results.forEach(eventResult);
    // Events without a result are sent again after a pause.
    resendEvents(now + timings.retryMin * 4);
    return true;
  }

  function polled(page, from) {
    const { notices, next_poll_ms: next } = page;
    if (!Array.isArray(notices) || !notices.every(isNotice) || !all(isPosition, page.position, page.head) || !all(isInteger, next, page.at) || next < 0) {
      return false;
    }
    if (isLive() || from !== position) {
      // The request was made before a socket delivered notices: that one continues, or continued, from our position.
      return true;
    }
    if (now >= resync.lastFailed + timings.stableAfter) {
      resync.failures = 0;
    }
    if (!notices.every(acceptNotice)) {
      return false;
    }
    const moved = from !== page.position;
    position = page.position;
    const wait = Math.min(next, timings.serverWaitMax);
    pollAt = wait === 0 && moved ? now : now + Math.max(wait, timings.pollMin);
    expectedAt = pollAt;
    setConnectivity("polling");
    updateFreshness(page);
    return true;
  }

  function ordersFetched(page, from) {
    const { orders, next = null } = page;
    const { listing } = resync;
    if (!Array.isArray(orders) || !orders.every(isOrder) || !isPosition(page.position) || !isInteger(page.at)) {
      return false;
    }
    if (resync.at === null || from !== listing.next || isLive()) {
      // The request belongs to an earlier resync, or a socket was opened since then.
      return true;
    }
    expectedAt = now;
    listing.pages += 1;
    if (next !== null && (next === listing.next || listing.pages > MAX_PAGES)) {
      // The pages make no progress. With a valid position no list is needed; without one the list is requested again after a back-off.
      const before = position;
      positionInvalid();
      if (before !== null) {
        position = before;
        resync.at = null;
      }
      return true;
    }
    listing.orders.push(...orders);
    listing.position = listing.position || page.position;
    listing.next = next;
    if (next !== null) {
      return true;
    }
    resync.listing = emptyListing();
    resync.at = null;
    // `known` lets an application ring for the orders that it has not rung for yet, also after a restart.
    emit("openOrders", { orders: listing.orders.map((order) => ({ ...order, known: known.has(order.notice) })) });
    listing.orders.filter((order) => order.notice).forEach((order) => remember(order.notice));
    position = listing.position;
    pollAt = now;
    if (isDown() && !socket.isFixed) {
      socket.retryAt = now;
    }
    updateFreshness(page);
    return true;
  }

  /**
   * Fetches what happened in the meantime with one request: the open orders and the position to continue from. A socket from before may be dead
   * without knowing it, and so may a request.
   */
  function foreground() {
    dropSocket();
    cancelRequest();
    mode = { background: false, needsToken: mode.needsToken, supersededUntil: null };
    failures = { sockets: 0, requests: 0, posts: 0, superseded: failures.superseded };
    holdUntil = now;
    expectedAt = now;
    socket = { retryAt: now, isFixed: false };
    pollAt = now;
    beginResync(now);
  }

  const inputs = {
    time() {},
    opened() {
      if (isDown() || isLive()) {
        emit("dropSocket");
        return;
      }
      versionUsed.socket = tokenVersion;
      helloPosition = position;
      emit("send", { frame: { type: "hello", token, device, ...(position && { position }) } });
    },
    text: textReceived,
    closed,
    response,
    requestFailed: () => requestFailed(),
    event(event) {
      // The server closes every socket on which it receives a longer frame.
      if (byteLength(JSON.stringify({ type: "event", ...event })) > MAX_FRAME_BYTES) {
        emit("eventResult", { id: event.id, rejected: "too-long" });
      } else if (events.every((entry) => entry.event.id !== event.id)) {
        events.push({ event, inFlight: false, notBefore: now });
      }
    },
    displayed: (at) => send({ type: "displayed", position: at }),
    token(newer) {
      token = newer;
      tokenVersion += 1;
      if (mode.needsToken) {
        mode.needsToken = false;
        // A socket that is being opened carries the old token.
        dropSocket();
        // An application whose tokens are all refused must not flood the server with them.
        const at = tokenRefusals > 1 ? Math.max(now, tokenRefusedAt + backOff(tokenRefusals)) : now;
        pollAt = at;
        pauseSocket(at);
      }
    },
    background() {
      mode.background = true;
      dropSocket();
      cancelRequest();
    },
    foreground,
  };

  function checkReachability() {
    if (now >= unreachableAt()) {
      setConnectivity("unreachable");
    }
  }

  /** Does whatever is due. */
  function advance() {
    if (mode.background) {
      return;
    }
    if (mode.needsToken) {
      // No request with a refused token; but the screen must not say "online" in the meantime.
      checkReachability();
      return;
    }
    if (mode.supersededUntil !== null) {
      if (now < mode.supersededUntil) {
        return;
      }
      // The socket goes first: a poll would move the cursor of the other connection.
      mode.supersededUntil = null;
      expectedAt = now;
      pollAt = now + timings.welcomeTimeout;
    }
    if (isDown()) {
      if (now >= socket.retryAt && resync.at === null) {
        socket = { until: now + timings.welcomeTimeout };
        emit("openSocket");
      }
    } else if (now >= socketDeadline()) {
      giveUpSocket();
    }
    if (isLive()) {
      takeDueEvents().forEach((event) => send({ type: "event", ...event }));
    } else if (!request) {
      makeRequest();
    }
    checkReachability();
  }

  function deadline() {
    if (mode.background) {
      return null;
    }
    const unreachable = connectivity === "unreachable" ? null : unreachableAt();
    if (mode.needsToken) {
      return unreachable;
    }
    if (mode.supersededUntil !== null) {
      return mode.supersededUntil;
    }
    const isFree = !request && !isLive();
    const polls = isFree && mayPoll();
    const due = [
      isDown() && resync.at !== null ? null : socketDeadline(),
      polls ? pollAt : null,
      isLive() || polls ? nextEventDue() : null,
      isFree ? resync.at : null,
      unreachable,
    ].filter((one) => one !== null);
    return due.length ? Math.min(...due) : null;
  }

  return {
    input(name, value, at) {
      now = at;
      out = [];
      inputs[name](value);
      advance();
      return out;
    },
    deadline,
    persistedState: () => ({ position, known: [...known], events: events.map((entry) => entry.event) }),
    connectivity: () => connectivity,
  };
}
