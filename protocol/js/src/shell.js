// Carries out what the machine wants done, on whatever platform: one socket, one request and one timer at a time.
//
//   platform (socket, request, timer, storage, app shown and hidden) --input--> machine --outputs, in order--> platform, application
//
// What is to be kept is kept before the server hears of it. A notice at which the application throws is told to the server as `unusable`:
// it raises a light there instead of coming again for ever. Refused: retries, order and dedupe here; they are the machine's.

import { machine } from "./core.js";

export const SUBPROTOCOL = "orderbell.v1";
const REQUEST_MS = 15_000;
/** Ids of notices that are kept over a restart: a window is 64 and a poll 100. */
const KNOWN_KEPT = 500;
/** WeChat gives a hidden mini-program five seconds of network; a short look elsewhere costs nothing. */
const HIDDEN_MS = 4_500;
const TOKEN_AGAIN_MS = 5_000;
const TIMER_MAX_MS = 2_147_483_647;

const draw = () => Math.random().toString(36).slice(2, 12).padEnd(10, "0");

/** A device id that stays: drawn once, kept by the platform. */
function deviceOf(platform) {
  const kept = platform.load("orderbell.device");
  const device = kept || `web-${draw()}${draw()}`;
  if (!kept) {
    platform.save("orderbell.device", device);
  }
  return device;
}

function savedOf(platform, key, keeps) {
  try {
    const saved = JSON.parse(platform.load(key) || "{}");
    // An application that begins with an empty screen needs the open orders, not what is new since then.
    return { known: saved.known || [], events: saved.events || [], position: keeps ? saved.position : null };
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
  const { server, token, on = {}, keeps = false } = options;
  const base = server.replace(/\/+$/, "");
  const device = options.device || deviceOf(platform);
  const key = options.key || `orderbell.${device}`;
  const waiting = new Map();
  let client = null;
  let current = "";
  let socket = null;
  let abort = null;
  let wake = null;
  let kept = "";
  let ended = false;
  let hiddenAt = null;
  let leave = null;
  let running = false;
  let unkept = null;
  let heardAt = platform.now();
  const queue = [];

  const report = (error) => (on.error ? on.error(error) : console.error(error));
  const tell = (name, ...values) => {
    try {
      on[name]?.(...values);
      return true;
    } catch (error) {
      report(error);
      return false;
    }
  };

  function keep() {
    const { position, known, events } = client.saved();
    const text = JSON.stringify({ position, known: known.slice(-KNOWN_KEPT), events });
    if (text !== kept) {
      kept = text;
      try {
        platform.save(key, text);
      } catch (error) {
        report(error);
      }
    }
  }

  function open() {
    const mine = {};
    socket = mine;
    const live = () => socket === mine;
    const closed = (close) => {
      if (live()) {
        socket = null;
        // Closed because the application sleeps: no error, and nothing to be done until it is back.
        input(hiddenAt === null ? "closed" : "background", hiddenAt === null ? close : undefined);
      }
    };
    try {
      mine.link = platform.socket(`${base.replace(/^http/, "ws")}/v1/ws`, SUBPROTOCOL, {
        opened: () => live() && input("opened"),
        text: (text) => live() && input("text", text),
        closed,
      });
    } catch (error) {
      // An address that is none, or a page that may not: the machine polls, and tries again less and less often.
      report(error);
      closed();
    }
  }

  function request(method, path, body) {
    let over = false;
    const done = (answer) => {
      if (!over) {
        over = true;
        cancel();
        abort = null;
        input(answer ? "answer" : "failed", answer || undefined);
      }
    };
    const stop = platform.request({ method, url: base + path, token: current, body }, done);
    const cancel = platform.later(REQUEST_MS, () => {
      stop();
      done(null);
    });
    abort = () => {
      over = true;
      cancel();
      stop();
      abort = null;
    };
  }

  const at = encodeURIComponent(device);
  const does = {
    open,
    drop() {
      const mine = socket;
      socket = null;
      mine?.link?.close();
    },
    abandon: () => abort?.(),
    send({ frame }) {
      keep();
      const said = frame.type === "ack" && frame.position === unkept ? { type: "unusable", position: unkept, reason: "application" } : frame;
      socket?.link.send(JSON.stringify(said));
    },
    poll({ after }) {
      keep();
      request("GET", `/v1/notices?device=${at}${after ? `&after=${after}` : ""}`);
    },
    orders({ from }) {
      keep();
      request("GET", `/v1/orders?open=1${from ? `&from=${encodeURIComponent(from)}` : ""}`);
    },
    post({ events }) {
      keep();
      request("POST", `/v1/events?device=${at}`, JSON.stringify(events));
    },
    notice({ notice }) {
      unkept = tell("notice", notice) ? null : notice.position;
    },
    openOrders: ({ orders }) => tell("orders", orders),
    answered({ id, refused }) {
      waiting.get(id)?.({ id, refused });
      waiting.delete(id);
      tell("answered", { id, refused });
    },
    link: ({ link }) => tell("link", link),
    stale: ({ stale }) => tell("stale", stale),
    fault: ({ code, reason }) => tell("fault", code, reason),
    tokenNeeded: () => typeof token === "function" ? fetchToken((newer) => input("token", newer)) : tell("fault", 401, "unauthorized"),
  };

  /** One thing happened. What happens while outputs are carried out waits for its turn. */
  function input(name, value) {
    queue.push([name, value]);
    if (running || ended || !client) {
      return;
    }
    running = true;
    try {
      carryOut();
    } finally {
      running = false;
    }
    if (!ended) {
      wake?.();
      const due = client.deadline();
      wake = due === null ? null : platform.later(Math.min(Math.max(due - platform.now(), 0), TIMER_MAX_MS), () => input("time"));
    }
  }

  function carryOut() {
    while (queue.length > 0 && !ended) {
      const [next, what] = queue.shift();
      if (next === "token") {
        current = what;
      } else if (next === "text" || (next === "answer" && what.status === 200)) {
        heardAt = platform.now();
      }
      client.input(next, what, platform.now()).forEach((output) => ended || does[output.do](output));
      keep();
    }
  }

  function fetchToken(then) {
    Promise.resolve()
      .then(() => (typeof token === "function" ? token() : token))
      .then(
        (newer) => ended || then(newer),
        (error) => {
          report(error);
          leaveLater(() => fetchToken(then));
        },
      );
  }

  const leaveLater = (then) => ended || platform.later(TOKEN_AGAIN_MS, then);

  const unwatch = platform.watch?.({
    hidden() {
      hiddenAt = platform.now();
      leave = platform.later(HIDDEN_MS, () => input("background"));
    },
    shown() {
      const slept = hiddenAt !== null && (platform.now() - hiddenAt >= HIDDEN_MS || socket === null);
      hiddenAt = null;
      leave?.();
      if (slept) {
        input("background");
        input("foreground");
      }
    },
    /** The network is back: at once, instead of when a wait is over. */
    online: () => client && client.link() !== "pushed" && input("foreground"),
  });

  fetchToken((first) => {
    current = first;
    const saved = savedOf(platform, key, keeps);
    client = machine({ token: first, device, saved, seed: Math.floor(Math.random() * 2 ** 32), now: platform.now() });
    input("time");
  });

  /** Resolves when it is answered; it is sent until then, over restarts too. */
  const event = ({ id = `${Date.now().toString(36)}-${draw()}`, ...fields }) =>
    new Promise((done) => {
      waiting.set(id, done);
      input("say", { id, ...fields });
    });
  const about = (kind) => (order, more) => event({ kind, order, ...more });

  return {
    device,
    event,
    accept: (order, code) => event({ kind: "order.accepted", order, ...(code && { code }) }),
    refuse: (order, reason) => event({ kind: "order.refused", order, ...(reason && { reason }) }),
    ready: about("order.ready"),
    pickedUp: about("order.picked_up"),
    shown: ({ position }) => input("shown", position),
    token: (newer) => input("token", newer),
    link: () => (client ? client.link() : "begun"),
    connected: () => socket !== null && client?.link() === "pushed",
    silence: () => platform.now() - heardAt,
    close() {
      if (!ended && socket && client?.link() === "pushed") {
        socket.link.send(JSON.stringify({ type: "bye" }));
      }
      ended = true;
      wake?.();
      leave?.();
      abort?.();
      does.drop();
      unwatch?.();
    },
  };
}
