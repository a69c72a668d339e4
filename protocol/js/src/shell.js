// Carries out the outputs of the machine on any platform: one socket, one request and one timer at a time.
//
//   platform (socket, request, timer, storage, visibility) --input--> machine --outputs, in order--> platform, application
//
// The state is persisted before anything is sent to the server. When the application's handler throws on a notice, the server receives a `nack` and
// raises an alert, in place of sending the notice again for ever. Refused: retries, ordering and deduplication here; they belong to the machine.

import { machine } from "./core.js";

export const SUBPROTOCOL = "orderbell.v1";
const REQUEST_TIMEOUT_MS = 15_000;
/** Ids of notices that are persisted: at most 64 notices are in flight, and a poll returns at most 100. */
const PERSISTED_IDS = 500;
/** WeChat cuts the network of a hidden mini-program after five seconds; a shorter absence keeps the socket. */
const HIDDEN_MS = 4_500;
/** How long the `token` function may take, and the bounds of the doubling wait before it is called again. */
const TOKEN_TIMEOUT_MS = 30_000;
const TOKEN_RETRY_MIN_MS = 1_000;
const TOKEN_RETRY_MAX_MS = 60_000;
/** The longest delay of `setTimeout`. */
const TIMER_MAX_MS = 2_147_483_647;

const randomText = () => Math.random().toString(36).slice(2, 12).padEnd(10, "0");

/** The device id of this installation: generated once, stored by the platform. */
function storedDevice(platform) {
  const stored = platform.load("orderbell.device");
  const device = stored || `web-${randomText()}${randomText()}`;
  if (!stored) {
    platform.save("orderbell.device", device);
  }
  return device;
}

function loadState(platform, storageKey, resume) {
  try {
    const stored = JSON.parse(platform.load(storageKey) || "{}");
    // An application that starts with an empty screen needs the open orders, not only what is new.
    return { known: stored.known || [], events: stored.events || [], position: resume ? stored.position : null };
  } catch {
    return {};
  }
}

/**
 * Runs a client on a platform.
 * @param {import("./index.d.ts").Platform} platform
 * @param {import("./index.d.ts").Options} options
 * @returns {import("./index.d.ts").Client}
 */
export function run(platform, options) {
  const { server, token, on = {}, resume = false } = options;
  const base = server.replace(/\/+$/, "");
  const device = options.device || storedDevice(platform);
  const storageKey = options.storageKey || `orderbell.${device}`;
  const resolvers = new Map();
  // Without a token the machine waits, and keeps the events that are reported in the meantime.
  const client = machine({
    token: "",
    device,
    state: loadState(platform, storageKey, resume),
    seed: Math.floor(Math.random() * 2 ** 32),
    now: platform.now(),
  });
  let currentToken = "";
  let socket = null;
  let abortRequest = null;
  let cancelTimer = null;
  let persisted = "";
  let ended = false;
  let hiddenAt = null;
  let cancelHiding = null;
  let running = false;
  // Position of the notice on which the application's handler threw.
  let failedNotice = null;
  let tokenCall = null;
  let cancelTokenTimer = null;
  let tokenTries = 0;
  let lastReceivedAt = platform.now();
  const queue = [];

  const report = (error) => {
    try {
      on.error ? on.error(error) : console.error(error);
    } catch (another) {
      console.error(another);
    }
  };
  /** Calls a handler of the application; false when it threw. */
  const call = (name, ...values) => {
    try {
      on[name]?.(...values);
      return true;
    } catch (error) {
      report(error);
      return false;
    }
  };

  function persist() {
    const { position, known, events } = client.persistedState();
    const text = JSON.stringify({ position, known: known.slice(-PERSISTED_IDS), events });
    if (text !== persisted) {
      persisted = text;
      try {
        platform.save(storageKey, text);
      } catch (error) {
        report(error);
      }
    }
  }

  function openSocket() {
    const mine = {};
    socket = mine;
    const isCurrent = () => socket === mine;
    const closed = (close) => {
      if (isCurrent()) {
        socket = null;
        // A close while the application is hidden is no failure: there is nothing to do until it is shown again.
        input(hiddenAt === null ? "closed" : "background", hiddenAt === null ? close : undefined);
      }
    };
    try {
      mine.link = platform.socket(`${base.replace(/^http/, "ws")}/v1/ws`, SUBPROTOCOL, {
        opened: () => isCurrent() && input("opened"),
        text: (text) => isCurrent() && input("text", text),
        closed,
      });
    } catch (error) {
      // The URL is invalid, or the page's policy forbids it: the machine polls and backs off.
      report(error);
      closed();
    }
  }

  function dropSocket() {
    const mine = socket;
    socket = null;
    mine?.link?.close();
  }

  function request(method, path, body) {
    let over = false;
    let stop = null;
    const cancelTimeout = platform.schedule(REQUEST_TIMEOUT_MS, () => {
      stop?.();
      done(null);
    });
    const end = () => {
      over = true;
      cancelTimeout();
      abortRequest = null;
    };
    const done = (response) => {
      if (!over) {
        end();
        input(response ? "response" : "requestFailed", response || undefined);
      }
    };
    abortRequest = () => {
      end();
      stop?.();
    };
    try {
      stop = platform.request({ method, url: base + path, token: currentToken, body }, done);
    } catch (error) {
      report(error);
      done(null);
    }
  }

  const deviceParam = `device=${encodeURIComponent(device)}`;
  const actions = {
    openSocket,
    dropSocket,
    cancelRequest: () => abortRequest?.(),
    send({ frame }) {
      persist();
      const isFailed = frame.type === "ack" && frame.position === failedNotice;
      socket?.link.send(JSON.stringify(isFailed ? { type: "nack", position: failedNotice, reason: "application" } : frame));
    },
    poll({ after }) {
      persist();
      request("GET", `/v1/notices?${deviceParam}${after ? `&after=${after}` : ""}`);
    },
    fetchOrders({ from }) {
      persist();
      request("GET", `/v1/orders?open=1${from ? `&from=${encodeURIComponent(from)}` : ""}`);
    },
    postEvents({ events }) {
      persist();
      request("POST", `/v1/events?${deviceParam}`, JSON.stringify(events));
    },
    notice({ notice }) {
      failedNotice = call("notice", notice) ? null : notice.position;
    },
    openOrders: ({ orders }) => call("orders", orders),
    eventResult({ id, rejected }) {
      resolvers.get(id)?.({ id, rejected });
      resolvers.delete(id);
      call("eventResult", { id, rejected });
    },
    connectivity: ({ connectivity }) => call("connectivity", connectivity),
    stale: ({ stale }) => call("stale", stale),
    fault: ({ code, reason }) => call("fault", code, reason),
    tokenNeeded: () => (typeof token === "function" ? fetchToken() : call("fault", 401, "unauthorized")),
  };

  /** Processes one input. Inputs that arrive while outputs are carried out are queued. */
  function input(name, value) {
    queue.push([name, value]);
    if (running || ended) {
      return;
    }
    running = true;
    try {
      processQueue();
    } finally {
      running = false;
    }
    if (!ended) {
      cancelTimer?.();
      const due = client.deadline();
      cancelTimer = due === null ? null : platform.schedule(Math.min(Math.max(due - platform.now(), 0), TIMER_MAX_MS), () => input("time"));
    }
  }

  function processQueue() {
    while (queue.length > 0 && !ended) {
      const [name, value] = queue.shift();
      if (name === "token") {
        currentToken = value;
      } else if (name === "text" || (name === "response" && value.status === 200)) {
        lastReceivedAt = platform.now();
      }
      client.input(name, value, platform.now()).forEach((output) => ended || carryOut(output));
      persist();
    }
  }

  /** Carries out one output. When the platform throws, the machine recovers by its time-outs. */
  function carryOut(output) {
    try {
      actions[output.type](output);
    } catch (error) {
      report(error);
    }
  }

  /**
   * Gets a token from the application. While none arrives it asks again with back-off, since all tills of a chain may be asking. A token that arrives
   * after the time-out is used.
   */
  function fetchToken() {
    if (tokenCall || ended) {
      return;
    }
    const mine = { failed: false };
    tokenCall = mine;
    const received = (newer) => {
      if (!ended) {
        tokenCall = null;
        cancelTokenTimer();
        tokenTries = 0;
        input("token", newer);
      }
    };
    const failed = (error) => {
      if (tokenCall !== mine || mine.failed || ended) {
        return;
      }
      mine.failed = true;
      cancelTokenTimer();
      report(error);
      const wait = Math.min(TOKEN_RETRY_MIN_MS * 2 ** tokenTries, TOKEN_RETRY_MAX_MS) * (0.5 + Math.random() / 2);
      tokenTries += 1;
      cancelTokenTimer = platform.schedule(wait, () => {
        tokenCall = null;
        fetchToken();
      });
    };
    cancelTokenTimer = platform.schedule(TOKEN_TIMEOUT_MS, () => failed(new Error("timed out waiting for a token")));
    Promise.resolve()
      .then(() => (typeof token === "function" ? token() : token))
      .then((newer) => (newer && typeof newer === "string" ? received(newer) : failed(new Error("the token is not a non-empty string"))), failed);
  }

  const stopWatching = platform.watch?.({
    hidden() {
      hiddenAt = platform.now();
      cancelHiding?.();
      cancelHiding = platform.schedule(HIDDEN_MS, () => input("background"));
    },
    shown() {
      const slept = hiddenAt !== null && (platform.now() - hiddenAt >= HIDDEN_MS || socket === null);
      hiddenAt = null;
      cancelHiding?.();
      if (slept) {
        input("background");
        input("foreground");
      }
    },
    /** The network is back, or the machine woke up: reconnect at once, since the old socket may be dead without knowing it. */
    online: () => client.connectivity() !== "superseded" && input("foreground"),
  });

  fetchToken();
  // Only after the application has its client. The deadline that follows reports a token that never arrives as unreachable.
  Promise.resolve().then(() => input("time"));

  /** Resolves with the result of the event, which is sent until it has one. */
  const event = ({ id = `${Date.now().toString(36)}-${randomText()}`, ...fields }) =>
    new Promise((resolve) => {
      // An event that is reported twice is sent once, and both promises resolve with its result.
      const earlier = resolvers.get(id);
      resolvers.set(id, (result) => {
        earlier?.(result);
        resolve(result);
      });
      input("event", { id, ...fields });
    });

  return {
    device,
    event,
    accept: (order, pickupCode) => event({ kind: "order.accepted", order, ...(pickupCode && { pickup_code: pickupCode }) }),
    refuse: (order, reason) => event({ kind: "order.refused", order, ...(reason && { reason }) }),
    ready: (order, fields) => event({ kind: "order.ready", order, ...fields }),
    pickedUp: (order, fields) => event({ kind: "order.picked_up", order, ...fields }),
    displayed: ({ position }) => input("displayed", position),
    setToken: (newer) => input("token", newer),
    connectivity: client.connectivity,
    isConnected: () => socket !== null && client.connectivity() === "push",
    silenceMs: () => platform.now() - lastReceivedAt,
    close() {
      if (!ended && socket && client.connectivity() === "push") {
        socket.link.send(JSON.stringify({ type: "bye" }));
      }
      ended = true;
      cancelTimer?.();
      cancelHiding?.();
      cancelTokenTimer?.();
      abortRequest?.();
      dropSocket();
      stopWatching?.();
    },
  };
}
