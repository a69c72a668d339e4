// A till or a phone in a browser.

import { run } from "./shell.js";
import { later, naps, now, request, socketOf } from "./web.js";

/** Kept in the browser; where that is forbidden, in this page only. */
function storage() {
  const kept = new Map();
  return {
    load(key) {
      try {
        return localStorage.getItem(key);
      } catch {
        return kept.get(key) ?? null;
      }
    },
    save(key, text) {
      try {
        localStorage.setItem(key, text);
      } catch {
        kept.set(key, text);
      }
    },
  };
}

function watch({ online, shown, hidden }) {
  const back = ({ persisted }) => persisted && shown();
  const gone = ({ persisted }) => persisted && hidden();
  addEventListener("online", online);
  addEventListener("pageshow", back);
  addEventListener("pagehide", gone);
  const wakes = naps(online);
  return () => {
    wakes();
    removeEventListener("online", online);
    removeEventListener("pageshow", back);
    removeEventListener("pagehide", gone);
  };
}

/** @type {typeof import("./index.d.ts").connect} */
export const connect = (options) =>
  run({ socket: socketOf(WebSocket), request, later, now, watch, ...storage() }, { server: location.origin, ...options });
