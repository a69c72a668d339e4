#!/usr/bin/env python3
"""A till that polls: a complete client of orderbell.v1 with Python's standard library only.

    ORDERBELL_TOKEN=... python3 poll_till.py http://127.0.0.1:8377 till-1 [--once] [--state FILE]

It asks with `wait`, so an order rings at once, and asks again when it has the answer. What it knows is in
orderbell-DEVICE.json. One line for each thing that happened: ring, taken, off, code, ready, resync, stale, fresh.
Errors go to stderr. It ends with 2 when somebody has to mend something, and with --once after the first ring.
"""
import argparse, http.client, json, os, random, re, sys, time
from urllib.parse import quote, urlsplit

HOLD_S = 50         # how long the server may hold an answer
SILENCE_S = 60      # after so long without an answer nobody knows whether there are orders
KNOWN_MAX = 5000    # notices remembered, the newest


class Quit(Exception):
    def __init__(self, code, why=None):
        super().__init__(code, why)
        self.code, self.why = code, why


class Later(Exception):
    def __init__(self, why, pause_s=None):
        super().__init__(why)
        self.pause_s = pause_s


class Till:
    def __init__(self, server, device, token, state_file, once):
        self.server, self.device, self.token = urlsplit(server.rstrip("/")), device, token
        self.state_file, self.once = state_file, once
        self.stale, self.heard = False, time.monotonic()
        self.failures, self.resynced = 0, False     # since it last went well
        try:
            with open(state_file, encoding="utf-8") as file:
                state = json.load(file)
        except FileNotFoundError:
            state = {}
        except ValueError:
            print(f"{state_file} is of no use: starting anew", file=sys.stderr)
            state = {}
        self.position, self.known = state.get("position"), dict.fromkeys(state.get("known", []))

    def run(self):
        while True:
            try:
                if self.position is None:
                    self.resync()
                self.poll()
                continue
            except Later as later:
                why, pause_s = later, later.pause_s
            except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
                why, pause_s = repr(error), None
            self.failures += 1
            if pause_s is None:
                pause_s = random.uniform(1, min(60, 2 ** min(self.failures, 6)))
            if time.monotonic() - self.heard > SILENCE_S:
                self.set_stale(True)
            print(f"{why}; again in {pause_s:.1f} s", file=sys.stderr, flush=True)
            time.sleep(pause_s)

    def poll(self):
        asked = time.monotonic()
        answer = self.get(f"/v1/notices?device={quote(self.device, safe='')}&wait={HOLD_S}&after={quote(self.position)}")
        for notice in answer["notices"]:
            self.take(notice)
        if self.position != answer["position"]:
            self.position = answer["position"]
            self.save()
        if not answer["notices"] and time.monotonic() - asked < HOLD_S / 2:
            raise Later("the answer was not held")
        self.failures, self.resynced = 0, False

    def take(self, notice):
        new, follows = notice["id"] not in self.known, notice["after"] == self.position
        if new and not follows:
            raise Later("a notice is missing")
        if follows:
            self.position = notice["position"]
        if not new:
            return
        # Said first, kept next, acknowledged last: a crash in between says it twice rather than never.
        kind, order, body = notice["kind"], notice["order"], notice["body"]
        if kind == "new_order":
            say("ring", order)
        elif kind == "taken":
            say("taken", order, body.get("code", "-"))
        elif kind in ("cancelled", "refused") and body.get("cancels") in self.known:
            say("off", order)
        elif kind == "pickup_code":
            say("code", order, body.get("code", "-"))
        elif kind == "ready":
            say("ready", order)
        self.keep(notice["id"], kind == "new_order")

    def resync(self):
        """The open orders, and the position of the same moment: for a new till, and when ours is of no use."""
        page = self.get("/v1/orders?open=1")
        position, count = page["position"], 0
        while True:
            for order in page["orders"]:
                count += 1
                if "notice" in order and order["notice"] not in self.known:
                    rings = order["stage"] == "paid"
                    if rings:
                        say("ring", order["order"])
                    self.keep(order["notice"], rings)
            if "next" not in page:
                break
            page = self.get(f"/v1/orders?open=1&from={quote(page['next'], safe='')}")
        self.position, self.resynced = position, True
        self.save()
        say("resync", str(count))

    def keep(self, notice_id, rang):
        self.known[notice_id] = None
        self.save()
        if rang and self.once:
            raise Quit(0)

    def save(self):
        self.known = dict.fromkeys(list(self.known)[-KNOWN_MAX:])
        try:
            with open(self.state_file + ".new", "w", encoding="utf-8") as file:
                json.dump({"position": self.position, "known": list(self.known)}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self.state_file + ".new", self.state_file)
        except OSError as error:    # what is not kept must not be acknowledged
            raise Quit(1, f"cannot keep anything: {error}") from error

    def get(self, path):
        secure = self.server.scheme == "https"
        connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(
            self.server.netloc, timeout=HOLD_S + 20)
        try:
            connection.request("GET", self.server.path + path, headers={"Authorization": "Bearer " + self.token})
            response = connection.getresponse()
            status, body = response.status, response.read()
        finally:
            connection.close()
        if status == 200:
            answer = json.loads(body)
            self.heard = time.monotonic()
            self.set_stale(answer.get("stale", False))
            return answer
        if status in (401, 403):
            raise Quit(2, f"HTTP {status}")
        if status in (409, 410):
            self.position = None    # the open orders next, at once; but not again and again
            raise Later(f"HTTP {status}", None if self.resynced else 0)
        retry_after = response.headers.get("Retry-After", "")
        raise Later(f"HTTP {status}", int(retry_after) + random.random() if retry_after.isdecimal() else None)

    def set_stale(self, stale):
        if stale != self.stale:
            self.stale = stale
            say("stale" if stale else "fresh")


def say(*words):
    print(re.sub(r"[\x00-\x1f\x7f]", " ", " ".join(words)), flush=True)


def main():
    parser = argparse.ArgumentParser(description="A till that polls; the token is in ORDERBELL_TOKEN.")
    parser.add_argument("server")
    parser.add_argument("device")
    parser.add_argument("--once", action="store_true", help="end after the first ring")
    parser.add_argument("--state", help="the file of position and known notices (orderbell-DEVICE.json)")
    args = parser.parse_args()
    token = os.environ.get("ORDERBELL_TOKEN", "").strip()
    if not re.fullmatch("[!-~]+", token):
        parser.error("ORDERBELL_TOKEN holds no token")
    state_file = args.state or f"orderbell-{quote(args.device, safe='')}.json"
    try:
        Till(args.server, args.device, token, state_file, args.once).run()
    except Quit as quit:
        if quit.why:
            print(quit.why, file=sys.stderr)
        return quit.code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
