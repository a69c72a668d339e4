"""A till that polls: a complete client of orderbell.v1, with Python's standard library only.

    ORDERBELL_TOKEN=... python3 poll_till.py http://127.0.0.1:8377 till-1 [--once]

It prints `ring ORDER`, `accepted ORDER PICKUP_CODE`, `cancelled ORDER` and `resync COUNT`. Its state is in
orderbell-DEVICE.json. It exits with 2 when it needs another token, and with --once after the first ring.
"""
import json, os, random, re, sys, time
from collections import deque
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

MAX_KNOWN = 1000    # ids of the newest notices that are stored


class Till:
    def __init__(self, server, device, token, once):
        self.server, self.device, self.token, self.once = server.rstrip("/"), quote(device, safe=""), token, once
        self.file, self.stale = f"orderbell-{self.device}.json", False
        try:
            state = json.loads(Path(self.file).read_bytes())
            self.position, self.known = state["position"], deque(state["known"], MAX_KNOWN)
        except (OSError, ValueError, LookupError, TypeError):   # missing or damaged
            self.position, self.known = None, deque([], MAX_KNOWN)

    def run(self):
        delay = 1
        while True:
            try:
                if not self.position:
                    self.open_orders()
                self.poll()
                delay = 1
            except BrokenPipeError:
                raise   # nobody reads the output
            except Exception as error:  # no answer, or an unexpected one; an HTTPError has a code and headers
                status, headers = getattr(error, "code", None), getattr(error, "headers", {})
                if status in (401, 403):
                    print(f"The server rejects this token (HTTP {status}): get another one.", file=sys.stderr)
                    sys.exit(2)
                if status in (409, 410, 422):
                    self.position = None
                delay, retry_after = min(60, 2 * delay), headers.get("Retry-After", "")
                jittered = random.uniform(delay / 2, delay)
                seconds = int(retry_after) + random.random() if retry_after.isdecimal() else jittered
                print(f"{type(error).__name__}: {error}; retrying in {seconds:.1f} s", file=sys.stderr)
                time.sleep(seconds)

    def open_orders(self):
        page = self.get("/v1/orders?open=1")
        position, orders = page["position"], page["orders"]
        while "next" in page:
            page = self.get("/v1/orders?open=1&from=" + quote(page["next"], safe=""))
            orders += page["orders"]
        for order in orders:
            if "notice" in order:
                self.process(order["notice"], "new_order" if order["stage"] == "paid" else None, order["order"], {})
        print("resync", len(orders))
        self.position = position

    def poll(self):
        began, after = time.monotonic(), quote(str(self.position), safe="")
        answer = self.get(f"/v1/notices?device={self.device}&after={after}&wait=50")
        for notice in answer["notices"]:
            if notice["prev"] == self.position:
                self.position = notice["position"]
            elif notice["id"] not in self.known:
                raise LookupError("a notice is missing")    # poll again from the stored position
            self.process(notice["id"], notice["kind"], notice["order"], notice["body"])
        self.position = answer["position"]
        if not answer["notices"] and time.monotonic() - began < 5:
            time.sleep(random.uniform(1, 2))    # no notice, and the server did not hold the answer

    def process(self, notice_id, kind, order, body):
        if notice_id in self.known:
            return
        if kind == "new_order":
            print("ring", order)
        elif kind == "order_accepted":
            print("accepted", order, re.sub(r"[\x00-\x1f\x7f]", " ", body.get("pickup_code", "-")))
        elif kind in ("cancelled", "order_refused") and body.get("cancels") in self.known:
            print("cancelled", order)
        self.known.append(notice_id)
        if kind == "new_order" and self.once:
            self.save()
            sys.exit(0)

    def get(self, path):
        self.save()     # print, then store, and only then acknowledge: by this request
        request = Request(self.server + path, headers={"Authorization": "Bearer " + self.token})
        with urlopen(request, timeout=70) as response:
            answer = json.load(response)
        if answer.get("stale") and not self.stale:
            print("stale", file=sys.stderr)
        self.stale = answer.get("stale")
        return answer

    def save(self):
        fresh = Path(self.file + ".new")
        fresh.write_text(json.dumps({"position": self.position, "known": list(self.known)}))
        fresh.replace(self.file)


if __name__ == "__main__":
    names = [word for word in sys.argv[1:] if word != "--once"]
    token = os.environ.get("ORDERBELL_TOKEN", "").strip()
    if len(names) != 2 or not re.fullmatch("[!-~]+", token):
        sys.exit(__doc__)
    sys.stdout.reconfigure(encoding="utf-8", errors="replace", line_buffering=True)
    Till(*names, token, once="--once" in sys.argv).run()
