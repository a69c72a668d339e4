// Formats numbers, money, durations and times for display, in the page's language and the chain's time zone.

import { currentLanguage, locale, word } from "/assets/words.js";

const formatters = new Map();

/** An Intl formatter, cached: creating one is slow. */
function formatter(kind, options) {
  const key = `${kind} ${locale()} ${JSON.stringify(options)}`;
  if (!formatters.has(key)) {
    formatters.set(key, new Intl[kind](locale(), options));
  }
  return formatters.get(key);
}

/** 1284302 as "1 284 302": grouped by thin spaces in both languages. */
export function count(number) {
  return formatter("NumberFormat", { useGrouping: "always" })
    .formatToParts(Math.round(number))
    .map((part) => (part.type === "group" ? "\u2009" : part.value))
    .join("");
}

/** Formats an amount given in the smallest currency unit: "CNY 38.4 M", in Chinese with 万 and 亿. */
export function money(amount, currency, digits) {
  const value = amount / 10 ** digits;
  if (value < (currentLanguage() === "zh" ? 100_000 : 1_000_000)) {
    return `${currency}\u00a0${count(value)}`;
  }
  const options = { notation: "compact", maximumSignificantDigits: 4 };
  // en-US writes M and B where en-GB writes m and bn.
  const english = () => new Intl.NumberFormat("en-US", options).format(value).replace(/([A-Z])$/, "\u2009$1");
  const short = currentLanguage() === "zh" ? formatter("NumberFormat", options).format(value) : english();
  return `${currency}\u00a0${short}`;
}

/** Relative change as "+12.6 %", bounded to 999 %; the minus sign (U+2212) is as wide as a digit. */
export function percentChange(now, before) {
  const percent = ((now - before) / before) * 100;
  const bounded = Math.min(Math.max(percent, -999), 999);
  const sign = bounded < 0 ? "\u2212" : "+";
  return `${sign}${Math.abs(bounded).toFixed(1)}\u2009%`;
}

/** A duration in one unit: 8 s, 3 min, 2 h. */
export function duration(ms) {
  const seconds = ms / 1000;
  const [value, unit] = seconds < 90 ? [seconds, "s"] : seconds < 5400 ? [seconds / 60, "min"] : [seconds / 3600, "h"];
  const digits = value < 10 && unit !== "s" ? 1 : 0;
  return `${formatter("NumberFormat", { maximumFractionDigits: digits }).format(value)}\u2009${word(unit)}`;
}

/** Time of day as 14:32:07, in `timeZone` (the browser's when absent). */
export function clock(ms, timeZone, seconds = true) {
  const options = { timeZone, hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return formatter("DateTimeFormat", seconds ? { ...options, second: "2-digit" } : options).format(ms);
}

/** Date as Sat 21 Nov, in `timeZone` (the browser's when absent). */
export function date(ms, timeZone) {
  return formatter("DateTimeFormat", { timeZone, weekday: "short", day: "numeric", month: "short" }).format(ms);
}

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** Whether the user asked for no animation. */
export const prefersReducedMotion = () => reducedMotion.matches;

/** Returns a function that animates the element's figure to a new value (250 ms, ease-out). A newer value starts from the figure shown at that moment. */
export function animatedFigure(element, write) {
  let shown = null;
  let frame = 0;
  return (to) => {
    cancelAnimationFrame(frame);
    if (shown === null || prefersReducedMotion() || document.hidden) {
      shown = to;
      element.textContent = write(to);
      return;
    }
    const [from, startedAt] = [shown, performance.now()];
    const step = (now) => {
      // The first frame may have begun before the value came: its time is that of its beginning.
      const progress = Math.min(Math.max((now - startedAt) / 250, 0), 1);
      shown = progress === 1 ? to : from + (to - from) * (1 - (1 - progress) ** 3);
      element.textContent = write(shown);
      if (progress < 1) {
        frame = requestAnimationFrame(step);
      }
    };
    frame = requestAnimationFrame(step);
  };
}
