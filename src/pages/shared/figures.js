// Numbers as people read them: grouped, with tabular digits, money in its own currency, times in the chain's zone.

import { locale, shownLanguage, word } from "/assets/words.js";

const made = new Map();

/** A formatter, made once. */
function formatter(kind, options) {
  const key = `${kind} ${locale()} ${JSON.stringify(options)}`;
  if (!made.has(key)) {
    made.set(key, new Intl[kind](locale(), options));
  }
  return made.get(key);
}

/** 1284302 as "1 284 302": thin spaces, the same in both languages. */
export function count(number) {
  return formatter("NumberFormat", { useGrouping: "always" })
    .formatToParts(Math.round(number))
    .map((part) => (part.type === "group" ? "\u2009" : part.value))
    .join("");
}

/** An amount in the smallest unit as short money: "CNY 38.4 M", in Chinese with 万 and 亿. */
export function money(amount, currency, digits) {
  const value = amount / 10 ** digits;
  if (value < (shownLanguage() === "zh" ? 100_000 : 1_000_000)) {
    return `${currency}\u00a0${count(value)}`;
  }
  const options = { notation: "compact", maximumSignificantDigits: 4 };
  // The same letters everywhere: M and B, not m and bn.
  const english = () => new Intl.NumberFormat("en-US", options).format(value).replace(/([A-Z])$/, "\u2009$1");
  const short = shownLanguage() === "zh" ? formatter("NumberFormat", options).format(value) : english();
  return `${currency}\u00a0${short}`;
}

/** +12.6 %, with a sign that is as wide as a digit. */
export function share(now, before) {
  const percent = ((now - before) / before) * 100;
  const bounded = Math.min(Math.max(percent, -999), 999);
  const sign = bounded < 0 ? "\u2212" : "+";
  return `${sign}${Math.abs(bounded).toFixed(1)}\u2009%`;
}

/** A length of time in one unit: 8 s, 3 min, 2 h. */
export function span(ms) {
  const seconds = ms / 1000;
  const [value, unit] = seconds < 90 ? [seconds, "s"] : seconds < 5400 ? [seconds / 60, "min"] : [seconds / 3600, "h"];
  const digits = value < 10 && unit !== "s" ? 1 : 0;
  return `${formatter("NumberFormat", { maximumFractionDigits: digits }).format(value)}\u2009${word(unit)}`;
}

/** 14:32:07 in the chain's zone. */
export function clock(ms, timeZone, seconds = true) {
  const options = { timeZone, hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return formatter("DateTimeFormat", seconds ? { ...options, second: "2-digit" } : options).format(ms);
}

/** Sat 21 Nov in the chain's zone. */
export function date(ms, timeZone) {
  return formatter("DateTimeFormat", { timeZone, weekday: "short", day: "numeric", month: "short" }).format(ms);
}

const still = matchMedia("(prefers-reduced-motion: reduce)");

/** True when nothing may move. */
export const motionless = () => still.matches;

/** Lets a figure roll to its new value, 250 ms, ease out; a newer value takes over where it is. */
export function roller(element, write) {
  let shown = null;
  let frame = 0;
  return (to) => {
    cancelAnimationFrame(frame);
    if (shown === null || motionless() || document.hidden) {
      shown = to;
      element.textContent = write(to);
      return;
    }
    const [from, began] = [shown, performance.now()];
    const step = (now) => {
      const part = Math.min((now - began) / 250, 1);
      shown = part === 1 ? to : from + (to - from) * (1 - (1 - part) ** 3);
      element.textContent = write(shown);
      if (part < 1) {
        frame = requestAnimationFrame(step);
      }
    };
    frame = requestAnimationFrame(step);
  };
}
