#!/usr/bin/env python3
"""A till on a WebSocket: a complete client of orderbell.v1 for Python 3.11 and the package `websockets`.

    ORDERBELL_TOKEN=... python till.py http://127.0.0.1:8377 till-1 [--once] [--accept CODE] [--state FILE]

It polls while it cannot connect. What it knows, and what it has yet to tell, is in orderbell-DEVICE.json.
One line for each thing that happened: ring, taken, off, code, ready, logged, resync, stale, fresh. Errors go to
stderr. It ends with 2 when somebody has to mend something; with --once after the first ring, with --accept after
the first taken. --accept takes every order that rings, with that code.
"""
import argparse
import asyncio
import hashlib
import http.client
import json
import math
import os
import random
import re
import sys
from urllib.parse import quote, urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

HELLO_S = 10            # how long a welcome may take
HTTP_S = 10             # how long an answer that is not held may take
HOLD_S = 50             # how long the server may hold an answer
SILENCE_S = 60          # after so long without a word nobody knows whether there are orders
CROWDED_S = (120, 180)  # how long to stay away when there are too many connections
EVENTS_MAX = 8          # events that may wait for their answer at once
KNOWN_MAX = 5000        # notices remembered, the newest


class Quit(Exception):
    """The end, with an exit code, and why if it is not a good one."""

    def __init__(self, code, why=None):
        super().__init__(code, why)
        self.code, self.why = code, why


class Later(Exception):
    """Not now, but after `pause_s` if it is known; and whether to poll until then."""

    def __init__(self, why, pause_s=None, poll=True):
        super().__init__(why)
        self.pause_s, self.poll = pause_s, poll


TROUBLE = (Later, OSError, http.client.HTTPException, InvalidHandshake, ValueError, LookupError)


class Till:
    def __init__(self, server, device, token, state_file, once, code):
        self.server, self.device, self.token = urlsplit(server.rstrip("/")), device, token
        self.state_file, self.once, self.code = state_file, once, code
        self.stale, self.silence = False, None
        self.failures, self.resynced = 0, False     # since it last went well
        try:
            with open(state_file, encoding="utf-8") as file:
                state = json.load(file)
        except FileNotFoundError:
            state = {}
        except ValueError:
            note(f"{state_file} is of no use: starting anew")
            state = {}
        self.position = state.get("position")
        self.known = dict.fromkeys(state.get("known", []))
        self.events = state.get("events", {})   # not answered yet, by their id
        self.sent = set()                       # those of them that were sent on this connection

    async def run(self):
        self.hear()
        while True:
            self.welcomed = False
            try:
                if self.position is None:
                    await self.resync()
                await self.listen()
            except TROUBLE as trouble:
                later = trouble if isinstance(trouble, Later) else Later(repr(trouble))
            self.failures += 1
            pause_s = later.pause_s
            if pause_s is None:
                pause_s = random.uniform(1, min(60, 2 ** min(self.failures, 6)))
            note(f"{later}; again in {pause_s:.1f} s")
            if later.poll and not self.welcomed:
                await self.fall_back(pause_s)
            else:
                await asyncio.sleep(pause_s)

    # The socket

    async def listen(self):
        """One connection, until it ends: always by an exception."""
        scheme = "wss" if self.server.scheme == "https" else "ws"
        url = f"{scheme}://{self.server.netloc}{self.server.path}/v1/ws"
        self.sent.clear()
        leave_s = None
        try:
            async with connect(url, subprotocols=["orderbell.v1"], ping_interval=None, close_timeout=2) as socket:
                await send(socket, type="hello", token=self.token, device=self.device, position=self.position)
                patience_s = HELLO_S
                while True:
                    async with asyncio.timeout(patience_s):
                        frame = json.loads(await socket.recv())
                    self.hear()
                    match frame["type"]:
                        case "welcome":
                            self.welcomed = True
                            self.position, patience_s = frame["position"], 2 * frame["heartbeat_ms"] / 1000
                            self.set_stale(frame.get("stale", False))
                            await self.tell(socket)
                        case "notice":
                            done = self.take(frame)
                            await send(socket, type="ack", position=frame["position"])
                            if done:
                                await send(socket, type="bye")
                                await socket.close()
                                raise Quit(0)
                            await self.tell(socket)
                        case "beat":
                            self.failures, self.resynced = 0, False
                            self.set_stale(frame.get("stale", False))
                            self.sent.clear()
                            await self.tell(socket)
                        case "logged":
                            self.answered(frame)
                            await self.tell(socket)
                        case "leave":
                            leave_s = frame["retry_ms"] / 1000
        except TimeoutError:
            raise Later("silence") from None
        except ConnectionClosed as closed:
            raise self.parting(closed.rcvd, leave_s) from None
        except InvalidStatus as refused:
            # Whoever refuses here has not seen the token: the polls find out whether it is good.
            raise held_off(refused.response.status_code, refused.response.headers) from None

    def parting(self, close, leave_s):
        """What the end of a connection asks for."""
        if close is None:
            return Later("the connection broke", leave_s, poll=False)
        why = f"closed with {close.code} {close.reason}"
        if close.code == 4004:
            return Later(why, random.uniform(*CROWDED_S))
        if close.code == 3000 or 4000 <= close.code < 4100:
            return Quit(2, why)
        if 4200 <= close.code < 4300:
            return self.lost(why)
        if retry_ms := re.search(r";retry_ms=(\d+)", close.reason):
            return Later(why, int(retry_ms[1]) / 1000, poll=False)
        return Later(why)

    def refusal(self, status, headers):
        """What an answer that is not the one wanted asks for."""
        if status in (401, 403):
            return Quit(2, f"HTTP {status}")
        if status in (409, 410):
            return self.lost(f"HTTP {status}")
        return held_off(status, headers)

    def lost(self, why):
        """The position is of no use: the open orders next, at once; but not again and again."""
        self.position = None
        return Later(why, None if self.resynced else 0, poll=False)

    async def tell(self, socket):
        """Sends the events that are not on their way yet, as many as may be. A beat makes it send all again."""
        for event in self.events.values():
            if len(self.sent) < EVENTS_MAX and event["id"] not in self.sent:
                self.sent.add(event["id"])
                await send(socket, type="event", **event)

    # Polling

    async def fall_back(self, pause_s):
        """Polls until it is time to try the socket again."""
        clock = asyncio.get_running_loop().time
        end = clock() + pause_s
        try:
            if self.position is None:
                await self.resync()
            while (left_s := end - clock()) > 0:
                if self.events:
                    await self.post()
                if not await self.poll(min(HOLD_S, math.ceil(left_s))):
                    break
        except TROUBLE as trouble:
            note(f"polling: {trouble!r}")
        await asyncio.sleep(max(0, end - clock()))

    async def poll(self, hold_s):
        device, after = quote(self.device, safe=""), quote(self.position)
        answer = await self.http("GET", f"/v1/notices?device={device}&after={after}&wait={hold_s}", timeout_s=hold_s + HTTP_S)
        for notice in answer["notices"]:
            if self.take(notice):
                raise Quit(0)
        if self.position != answer["position"]:
            self.position = answer["position"]
            self.save()
        return answer["notices"]

    async def post(self):
        events = list(self.events.values())[:EVENTS_MAX]
        answer = await self.http("POST", f"/v1/events?device={quote(self.device, safe='')}", json.dumps(events))
        for event in answer["events"]:
            self.answered(event)

    async def resync(self):
        """The open orders, and the position of the same moment: for a new till, and when ours is of no use."""
        page = await self.http("GET", "/v1/orders?open=1")
        position, count = page["position"], 0
        while True:
            for order in page["orders"]:
                count += 1
                if "notice" in order and order["notice"] not in self.known:
                    rings = order["stage"] == "paid"
                    if rings:
                        self.ring(order["order"])
                    self.keep(order["notice"])
                    if rings and self.once and not self.code:
                        raise Quit(0)
            if "next" not in page:
                break
            page = await self.http("GET", f"/v1/orders?open=1&from={quote(page['next'], safe='')}")
        self.position, self.resynced = position, True
        self.save()
        say("resync", str(count))

    async def http(self, method, path, body=None, timeout_s=HTTP_S):
        status, headers, text = await asyncio.to_thread(self.exchange, method, path, body, timeout_s)
        if status != 200:
            raise self.refusal(status, headers)
        answer = json.loads(text)
        self.hear()
        if method == "GET":
            self.set_stale(answer.get("stale", False))
        return answer

    def exchange(self, method, path, body, timeout_s):
        secure = self.server.scheme == "https"
        connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(
            self.server.netloc, timeout=timeout_s)
        try:
            headers = {"Authorization": "Bearer " + self.token, "Content-Type": "application/json"}
            connection.request(method, self.server.path + path, body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    # What comes, and what is kept of it

    def take(self, notice):
        """Says what is new, and keeps it. True when this till has done what it was started for."""
        new, follows = notice["id"] not in self.known, notice["after"] == self.position
        if new and not follows:
            raise Later("a notice is missing")
        if follows:
            self.position = notice["position"]
        if not new:
            return False
        # Said first, kept next, acknowledged last: a crash in between says it twice rather than never.
        kind, order, body = notice["kind"], notice["order"], notice["body"]
        match kind:
            case "new_order":
                self.ring(order)
            case "taken":
                say("taken", order, body.get("code", "-"))
            case "cancelled" | "refused" if body.get("cancels") in self.known:
                say("off", order)
            case "pickup_code":
                say("code", order, body.get("code", "-"))
            case "ready":
                say("ready", order)
        self.keep(notice["id"])
        return self.once and kind == ("taken" if self.code else "new_order")

    def ring(self, order):
        say("ring", order)
        if self.code:
            event_id = hashlib.sha256(f"order.accepted {order}".encode()).hexdigest()[:32]
            self.events[event_id] = {"id": event_id, "kind": "order.accepted", "order": order, "code": self.code}

    def answered(self, answer):
        event, reason = self.events.get(answer["id"]), answer.get("reason")
        if event is None:
            return
        if reason:
            note(f"event of order {event['order']}: {reason}")
        if reason in ("busy", "unavailable"):
            return
        del self.events[answer["id"]]
        self.sent.discard(answer["id"])
        self.save()
        say("logged", event["order"], answer["status"])

    def keep(self, notice_id):
        self.known[notice_id] = None
        self.save()

    def save(self):
        self.known = dict.fromkeys(list(self.known)[-KNOWN_MAX:])
        state = {"position": self.position, "known": list(self.known), "events": self.events}
        try:
            with open(self.state_file + ".new", "w", encoding="utf-8") as file:
                json.dump(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self.state_file + ".new", self.state_file)
        except OSError as error:    # what is not kept must not be acknowledged
            raise Quit(1, f"cannot keep anything: {error}") from error

    def hear(self):
        if self.silence:
            self.silence.cancel()
        self.silence = asyncio.get_running_loop().call_later(SILENCE_S, self.set_stale, True)

    def set_stale(self, stale):
        if stale != self.stale:
            self.stale = stale
            say("stale" if stale else "fresh")


def held_off(status, headers):
    retry_after = headers.get("Retry-After", "")
    if retry_after.isdecimal():
        return Later(f"HTTP {status}", int(retry_after) + random.random(), poll=False)
    return Later(f"HTTP {status}")


async def send(socket, **frame):
    await socket.send(json.dumps(frame))


def say(*words):
    print(re.sub(r"[\x00-\x1f\x7f]", " ", " ".join(words)), flush=True)


def note(text):
    print(text, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description="A till on a WebSocket; the token is in ORDERBELL_TOKEN.")
    parser.add_argument("server")
    parser.add_argument("device")
    parser.add_argument("--once", action="store_true", help="end after the first ring, with --accept after the first taken")
    parser.add_argument("--accept", metavar="CODE", help="take every order that rings, with this code")
    parser.add_argument("--state", metavar="FILE", help="where to keep what is known (orderbell-DEVICE.json)")
    args = parser.parse_args()
    token = os.environ.get("ORDERBELL_TOKEN", "").strip()
    if not re.fullmatch("[!-~]+", token):
        parser.error("ORDERBELL_TOKEN holds no token")
    state_file = args.state or f"orderbell-{quote(args.device, safe='')}.json"
    try:
        asyncio.run(Till(args.server, args.device, token, state_file, args.once, args.accept).run())
    except Quit as end:
        if end.why:
            note(end.why)
        return end.code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
