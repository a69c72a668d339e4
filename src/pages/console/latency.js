// Latency quantiles of the last minute, computed from `/metrics`: the newest scrape minus the one a minute before.

const WINDOW_MS = 60_000;
const scrapes = [];

/** Histograms of one scrape: { name: [[upper bound in seconds, cumulative count], ...] }, by ascending bound. */
export function histograms(text) {
  const found = {};
  for (const [, name, bound, count] of text.matchAll(/^orderbell_(\w+)_seconds_bucket\{le="([^"]+)"\} (\d+)$/gm)) {
    (found[name] ??= []).push([bound === "+Inf" ? Infinity : Number(bound), Number(count)]);
  }
  return found;
}

/** Adds a scrape, and drops those older than the window. */
export function addScrape(text, now = performance.now()) {
  scrapes.push({ at: now, found: histograms(text) });
  while (scrapes.length > 2 && scrapes[1].at <= now - WINDOW_MS) {
    scrapes.shift();
  }
}

/** Number of samples in the last minute, and the bucket bound (ms) below which each quantile lies. Null without samples.
 * @param {string} name @param {number[]} quantiles */
export function lastMinute(name, quantiles) {
  const [newest, oldest] = [scrapes.at(-1)?.found[name] ?? [], scrapes[0]?.found[name] ?? []];
  // With a single scrape: since the start of the server.
  const before = scrapes.length > 1 ? new Map(oldest) : new Map();
  const counts = newest.map(([bound, count]) => [bound, count - (before.get(bound) ?? 0)]);
  const total = counts.at(-1)?.[1] ?? 0;
  if (total <= 0) {
    return null;
  }
  return { total, bounds: quantiles.map((quantile) => counts.find(([, count]) => count >= total * quantile)[0] * 1_000) };
}
