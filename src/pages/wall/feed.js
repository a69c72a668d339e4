// The wall's feed in the browser: server-sent events over fetch (a token goes into a header, never into an address), from one reconnect to
// the next. Keeps the newest document only; one that is older than what is shown is dropped, so no figure runs backwards.

const SILENT_MS = 8_000;
const BACKOFF_MS = [500, 1_000, 2_000, 5_000, 10_000];
/** Curves of past minutes change when orders come late: they are fetched again this often. */
const SNAPSHOT_MS = 300_000;

/** Thrown when a token is needed, or not taken. */
export class Unauthorized extends Error {}

/** Reads one stream to its end; `heard` gets each document. */
async function stream(token, heard, signal) {
  const headers = { accept: "text/event-stream" };
  if (token) {
    headers.authorization = `Bearer ${token}`;
  }
  const answer = await fetch("/v1/wall", { headers, signal, cache: "no-store" });
  // Only the server itself says this so: a proxy that has lost it for a moment answers otherwise.
  const own = (answer.headers.get("content-type") ?? "").startsWith("application/problem+json");
  if (own && (answer.status === 401 || answer.status === 404)) {
    throw new Unauthorized();
  }
  if (!answer.ok) {
    const after = Number(answer.headers.get("retry-after"));
    throw Object.assign(new Error(`status ${answer.status}`), { retryMs: after > 0 ? after * 1000 : undefined });
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) {
      return;
    }
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event
        .split("\n")
        .filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).trimStart())
        .join("\n");
      if (data) {
        heard(JSON.parse(data));
      }
    }
  }
}

/**
 * Follows the wall for ever.
 * @param {{ token: () => string | null, shows: (wall: object) => void, asksForToken: () => Promise<void>, lost: () => void }} page
 */
export async function follow(page) {
  let newest = null;
  let tries = 0;
  const heard = (wall) => {
    tries = 0;
    if (newest && newest.epoch === wall.epoch && newest.seq > wall.seq) {
      return;
    }
    // A document without curves is laid over the newest ones; those of another day, or with a gap before them, are of no use.
    const curves = wall.curves ?? (newest && laidOver(newest, wall));
    if (!curves) {
      abort();
      return;
    }
    newest = { ...wall, curves };
    page.shows(newest);
  };
  let abort = () => {};
  for (;;) {
    const controller = new AbortController();
    abort = () => controller.abort();
    const began = performance.now();
    let last = began;
    // A connection that was cut without a word looks open for ever: silence ends it. Now and then a new snapshot is wanted anyway.
    const watch = setInterval(() => {
      const now = performance.now();
      if (now - last > SILENT_MS || now - began > SNAPSHOT_MS) {
        controller.abort();
      }
    }, 1_000);
    let wait = 0;
    try {
      await stream(
        page.token(),
        (wall) => {
          last = performance.now();
          heard(wall);
        },
        controller.signal,
      );
    } catch (error) {
      if (error instanceof Unauthorized) {
        clearInterval(watch);
        await page.asksForToken();
        continue;
      }
      wait = error.retryMs ?? 0;
    }
    clearInterval(watch);
    if (performance.now() - began > SNAPSHOT_MS && last > began) {
      continue;
    }
    page.lost();
    const base = BACKOFF_MS[Math.min(tries, BACKOFF_MS.length - 1)];
    tries += 1;
    // Each at a moment of its own, also when all were turned away at once.
    await new Promise((done) => setTimeout(done, Math.max(wait, base) * (1 + Math.random() / 2)));
  }
}

/** Today's curve with the newest minutes in it; nothing when they do not fit on. */
export function laidOver(shown, wall) {
  const { today, yesterday } = shown.curves;
  if (shown.day !== wall.day || shown.epoch !== wall.epoch || wall.tail.from > today.orders.length) {
    return null;
  }
  const orders = today.orders.slice(0, wall.tail.from).concat(wall.tail.orders);
  return { today: { from: 0, orders }, yesterday };
}
