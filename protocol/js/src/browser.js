// The platform of browsers.

import { run } from "./shell.js";
import { now, onWakeUp, request, schedule, webSocketWith } from "./web.js";

/** `localStorage`; where it is forbidden, memory of this page. */
function storage() {
  const fallback = new Map();
  return {
    load(key) {
      try {
        return localStorage.getItem(key);
      } catch {
        return fallback.get(key) ?? null;
      }
    },
    save(key, text) {
      try {
        localStorage.setItem(key, text);
      } catch {
        fallback.set(key, text);
      }
    },
  };
}

function watch({ online, shown, hidden }) {
  // `persisted`: the page goes to, or comes from, the back/forward cache.
  const onPageShow = ({ persisted }) => persisted && shown();
  const onPageHide = ({ persisted }) => persisted && hidden();
  addEventListener("online", online);
  addEventListener("pageshow", onPageShow);
  addEventListener("pagehide", onPageHide);
  const stopWakeUps = onWakeUp(online);
  return () => {
    stopWakeUps();
    removeEventListener("online", online);
    removeEventListener("pageshow", onPageShow);
    removeEventListener("pagehide", onPageHide);
  };
}

/** @type {typeof import("./index.d.ts").connect} */
export const connect = (options) =>
  run({ socket: webSocketWith(WebSocket), request, schedule, now, watch, ...storage() }, { server: location.origin, ...options });
