// Follows the wall's feed: server-sent events over fetch, because the token belongs in a header and never in a URL. Reconnects with back-off. Keeps only the
// newest document and drops an older one, so that no figure goes backwards.

const IDLE_TIMEOUT_MS = 8_000;
const BACKOFF_MS = [500, 1_000, 2_000, 5_000, 10_000];
/** Late orders change past minutes of the curves: a new snapshot is requested this often. */
const SNAPSHOT_INTERVAL_MS = 300_000;

/** The page may not ask: of this origin, or under this host name. */
const REFUSED = [403, 421];

/** The server requires a token, or rejected this one. */
export class Unauthorized extends Error {}

/** Reads one event stream to its end; `onDocument` gets each document. */
async function readStream(token, onDocument, signal) {
  const headers = { accept: "text/event-stream" };
  if (token) {
    headers.authorization = `Bearer ${token}`;
  }
  const response = await fetch("/v1/wall", { headers, signal, cache: "no-store" });
  // Only Orderbell itself answers with this media type; a proxy that cannot reach it for a moment does not.
  const fromServer = (response.headers.get("content-type") ?? "").startsWith("application/problem+json");
  if (fromServer && (response.status === 401 || response.status === 404)) {
    throw new Unauthorized();
  }
  if (!response.ok) {
    const after = Number(response.headers.get("retry-after"));
    const refusal = fromServer && REFUSED.includes(response.status) ? (await response.json()).title : undefined;
    throw Object.assign(new Error(`status ${response.status}`), { retryMs: after > 0 ? after * 1000 : undefined, refusal });
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
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
        onDocument(JSON.parse(data));
      }
    }
  }
}

/**
 * Follows the wall until the page is closed.
 * @param {{ token: () => string | null, onWall: (wall: object) => void, requestToken: () => Promise<void>, onDisconnect: (refusal?: string) => void }} page
 */
export async function follow(page) {
  let newest = null;
  let tries = 0;
  const receive = (wall) => {
    tries = 0;
    if (newest && newest.epoch === wall.epoch && newest.seq > wall.seq) {
      return;
    }
    // An update has no curves: its recent minutes are merged into the newest ones. If they do not fit (another day, or a gap), a snapshot is requested.
    const curves = wall.curves ?? (newest && mergeRecent(newest, wall));
    if (!curves) {
      abort();
      return;
    }
    newest = { ...wall, curves };
    page.onWall(newest);
  };
  let abort = () => {};
  for (;;) {
    const controller = new AbortController();
    abort = () => controller.abort();
    const startedAt = performance.now();
    let lastAt = startedAt;
    // A connection that was cut without a close looks open for ever: the idle timeout ends it. It also ends when a new snapshot is due.
    const watchdog = setInterval(() => {
      const now = performance.now();
      if (now - lastAt > IDLE_TIMEOUT_MS || now - startedAt > SNAPSHOT_INTERVAL_MS) {
        controller.abort();
      }
    }, 1_000);
    let wait = 0;
    let refusal;
    try {
      await readStream(
        page.token(),
        (wall) => {
          lastAt = performance.now();
          receive(wall);
        },
        controller.signal,
      );
    } catch (error) {
      if (error instanceof Unauthorized) {
        clearInterval(watchdog);
        await page.requestToken();
        continue;
      }
      wait = error.retryMs ?? 0;
      refusal = error.refusal;
    }
    clearInterval(watchdog);
    if (performance.now() - startedAt > SNAPSHOT_INTERVAL_MS && lastAt > startedAt) {
      continue;
    }
    page.onDisconnect(refusal);
    const base = BACKOFF_MS[Math.min(tries, BACKOFF_MS.length - 1)];
    tries += 1;
    // Jitter spreads the viewers that were disconnected at the same moment.
    await new Promise((done) => setTimeout(done, Math.max(wait, base) * (1 + Math.random() / 2)));
  }
}

/** The curves with the newest minutes of `wall` merged in; null when they do not fit. */
export function mergeRecent(shown, wall) {
  const { today, yesterday } = shown.curves;
  if (shown.day !== wall.day || shown.epoch !== wall.epoch || wall.recent.from > today.orders.length) {
    return null;
  }
  const orders = today.orders.slice(0, wall.recent.from).concat(wall.recent.orders);
  return { today: { from: 0, orders }, yesterday };
}
