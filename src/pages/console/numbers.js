// Metrics as the server exposes them, and what they say of the last minute: a scrape minus the one of a minute ago.

const WINDOW_MS = 60_000;
const scrapes = [];

/** Histograms of one scrape: { name: [[bound, count], ...] }, in the order of their bounds. */
export function histograms(text) {
  const found = {};
  for (const [, name, bound, count] of text.matchAll(/^orderbell_(\w+)_seconds_bucket\{le="([^"]+)"\} (\d+)$/gm)) {
    (found[name] ??= []).push([bound === "+Inf" ? Infinity : Number(bound), Number(count)]);
  }
  return found;
}

export function scraped(text, now = performance.now()) {
  scrapes.push({ at: now, found: histograms(text) });
  while (scrapes.length > 2 && scrapes[1].at <= now - WINDOW_MS) {
    scrapes.shift();
  }
}

/** Of the last minute: how many, and within which bound so many of them were. Nothing when there were none. */
export function lately(name, shares) {
  const [newest, oldest] = [scrapes.at(-1)?.found[name] ?? [], scrapes[0]?.found[name] ?? []];
  // The first scrape is all there is: then since the start.
  const since = scrapes.length > 1 ? new Map(oldest) : new Map();
  const counts = newest.map(([bound, count]) => [bound, count - (since.get(bound) ?? 0)]);
  const all = counts.at(-1)?.[1] ?? 0;
  if (all <= 0) {
    return null;
  }
  return { all, within: shares.map((share) => counts.find(([, count]) => count >= all * share)[0] * 1_000) };
}
