// A till or a phone in Node. `file` is where it keeps what it must know after a restart; `WebSocket` is needed where Node has none of its own
// (before 22): that of the package `ws`.

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { run } from "./shell.js";
import { later, naps, now, request, socketOf } from "./web.js";

/** One JSON file, written beside and put in place: a power cut leaves the old one or the new one. */
function storage(file) {
  let kept = {};
  try {
    kept = file ? JSON.parse(readFileSync(file, "utf8")) : {};
  } catch (error) {
    if (error.code !== "ENOENT") {
      throw new Error(`${file} cannot be read: ${error.message}`);
    }
  }
  return {
    load: (key) => kept[key] ?? null,
    save(key, text) {
      kept[key] = text;
      if (file) {
        writeFileSync(`${file}.new`, JSON.stringify(kept));
        renameSync(`${file}.new`, file);
      }
    },
  };
}

/** @type {typeof import("./index.d.ts").connect} */
export function connect({ file, WebSocket = globalThis.WebSocket, ...options }) {
  if (!WebSocket) {
    throw new Error("This Node has no WebSocket of its own: give that of the package ws as an option");
  }
  const watch = ({ online }) => naps(online);
  return run({ socket: socketOf(WebSocket), request, later, now, watch, ...storage(file) }, options);
}
