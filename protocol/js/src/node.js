// The platform of Node. `file` stores the state for the next start; `WebSocket` is needed before Node 22, which has none of its own: pass that of the
// package `ws`.

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { run } from "./shell.js";
import { now, onWakeUp, request, schedule, webSocketWith } from "./web.js";

/** One JSON file, written to a temporary file and renamed: a power cut leaves the old content or the new one. */
function storage(file) {
  let stored = {};
  try {
    stored = file ? JSON.parse(readFileSync(file, "utf8")) : {};
  } catch (error) {
    if (error.code !== "ENOENT") {
      throw new Error(`${file} cannot be read: ${error.message}`);
    }
  }
  return {
    load: (key) => stored[key] ?? null,
    save(key, text) {
      stored[key] = text;
      if (file) {
        writeFileSync(`${file}.new`, JSON.stringify(stored));
        renameSync(`${file}.new`, file);
      }
    },
  };
}

/** @type {typeof import("./index.d.ts").connect} */
export function connect({ file, WebSocket = globalThis.WebSocket, ...options }) {
  if (!WebSocket) {
    throw new Error("this version of Node has no WebSocket: pass the class of the package ws as the option WebSocket");
  }
  const watch = ({ online }) => onWakeUp(online);
  return run({ socket: webSocketWith(WebSocket), request, schedule, now, watch, ...storage(file) }, options);
}
