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
/** A function that gets tokens: so long it may take, and between these it is asked again, twice as late each time. */
const TOKEN_MS = 30_000;
const TOKEN_AGAIN_MIN_MS = 1_000;
const TOKEN_AGAIN_MAX_MS = 60_000;
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
  // Without a token it waits; what is said meanwhile is kept.
  const client = machine({ token: "", device, saved: savedOf(platform, key, keeps), seed: Math.floor(Math.random() * 2 ** 32), now: platform.now() });
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
  let asking = null;
  let tokenTimer = null;
  let tokenTries = 0;
  let heardAt = platform.now();
  const queue = [];

  const report = (error) => {
    try {
      on.error ? on.error(error) : console.error(error);
    } catch (another) {
      console.error(another);
    }
  };
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
    let stop = null;
    const cancel = platform.later(REQUEST_MS, () => {
      stop?.();
      done(null);
    });
    const end = () => {
      over = true;
      cancel();
      abort = null;
    };
    const done = (answer) => {
      if (!over) {
        end();
        input(answer ? "answer" : "failed", answer || undefined);
      }
    };
    abort = () => {
      end();
      stop?.();
    };
    try {
      stop = platform.request({ method, url: base + path, token: current, body }, done);
    } catch (error) {
      report(error);
      done(null);
    }
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
    tokenNeeded: () => typeof token === "function" ? fetchToken() : tell("fault", 401, "unauthorized"),
  };

  /** One thing happened. What happens while outputs are carried out waits for its turn. */
  function input(name, value) {
    queue.push([name, value]);
    if (running || ended) {
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
      client.input(next, what, platform.now()).forEach((output) => ended || carries(output));
      keep();
    }
  }

  /** A platform may throw where none should; the machine notices by itself when nothing comes of it. */
  function carries(output) {
    try {
      does[output.do](output);
    } catch (error) {
      report(error);
    }
  }

  /** Gets a token. One that does not come is asked for again, less and less often: all tills of a chain may be asking. One that comes late serves. */
  function fetchToken() {
    if (asking || ended) {
      return;
    }
    const mine = { failed: false };
    asking = mine;
    const got = (newer) => {
      if (!ended) {
        asking = null;
        tokenTimer();
        tokenTries = 0;
        input("token", newer);
      }
    };
    const again = (error) => {
      if (asking !== mine || mine.failed || ended) {
        return;
      }
      mine.failed = true;
      tokenTimer();
      report(error);
      const wait = Math.min(TOKEN_AGAIN_MIN_MS * 2 ** tokenTries, TOKEN_AGAIN_MAX_MS) * (0.5 + Math.random() / 2);
      tokenTries += 1;
      tokenTimer = platform.later(wait, () => {
        asking = null;
        fetchToken();
      });
    };
    tokenTimer = platform.later(TOKEN_MS, () => again(new Error("no token in time")));
    Promise.resolve()
      .then(() => (typeof token === "function" ? token() : token))
      .then((newer) => (newer && typeof newer === "string" ? got(newer) : again(new Error("this is no token"))), again);
  }

  const unwatch = platform.watch?.({
    hidden() {
      hiddenAt = platform.now();
      leave?.();
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
    /** The network is back, or the machine slept: at once, instead of when a wait is over. A socket from before may be dead without knowing it. */
    online: () => client.link() !== "replaced" && input("foreground"),
  });

  fetchToken();
  // Not before the application has its client; somebody has to look whether a token ever comes.
  Promise.resolve().then(() => input("time"));

  /** Resolves when it is answered; it is sent until then, over restarts too. */
  const event = ({ id = `${Date.now().toString(36)}-${draw()}`, ...fields }) =>
    new Promise((done) => {
      // Said twice, it is one event, and both are told what became of it.
      const before = waiting.get(id);
      waiting.set(id, (answer) => {
        before?.(answer);
        done(answer);
      });
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
    link: client.link,
    connected: () => socket !== null && client.link() === "pushed",
    silence: () => platform.now() - heardAt,
    close() {
      if (!ended && socket && client.link() === "pushed") {
        socket.link.send(JSON.stringify({ type: "bye" }));
      }
      ended = true;
      wake?.();
      leave?.();
      tokenTimer?.();
      abort?.();
      does.drop();
      unwatch?.();
    },
  };
}
