#!/usr/bin/env python3
"""A till on a WebSocket: a complete client of orderbell.v1 for Python 3.11 and the package `websockets`.

    ORDERBELL_TOKEN=... python till.py http://127.0.0.1:8377 till-1 [--once] [--accept CODE] [--state FILE]

It polls while it cannot connect. Its state, and the events that are not answered yet, are in orderbell-DEVICE.json.
It prints one line per occurrence: ring, accepted, cancelled, pickup_code, ready, event, resync, stale, fresh. Errors
go to stderr. It exits with 2 when a person must act; with --once it exits after the first ring, or with --accept after
the first accepted order. --accept accepts every order that rings, with that pickup code.
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

WELCOME_TIMEOUT_S = 10             # longest wait for a welcome
HTTP_TIMEOUT_S = 10                # longest wait for an answer that the server does not hold
HOLD_S = 50                        # how long the server may hold an answer
UNREACHABLE_AFTER_S = 60           # without an answer for this long the till reports that it may miss orders
TOO_MANY_CONNECTIONS_S = (120, 180)  # delay after a close with 4004
MAX_PENDING_EVENTS = 8             # unanswered events at once
MAX_KNOWN = 5000                   # ids of the newest notices that are stored


class Quit(Exception):
    """Ends the process with an exit code, and with a reason if it is an error."""

    def __init__(self, code, reason=None):
        super().__init__(code, reason)
        self.code, self.reason = code, reason


class Retry(Exception):
    """Retry after `delay_s`, or after a back-off if it is None; `poll` says whether to poll in the meantime."""

    def __init__(self, reason, delay_s=None, poll=True):
        super().__init__(reason)
        self.delay_s, self.poll = delay_s, poll


RETRYABLE = (Retry, OSError, http.client.HTTPException, InvalidHandshake, ValueError, LookupError)


class Till:
    def __init__(self, server, device, token, state_file, once, pickup_code):
        self.server, self.device, self.token = urlsplit(server.rstrip("/")), device, token
        self.state_file, self.once, self.pickup_code = state_file, once, pickup_code
        self.stale, self.unreachable_timer = False, None
        self.failures, self.resynced = 0, False     # since the last heartbeat
        try:
            with open(state_file, encoding="utf-8") as file:
                state = json.load(file)
        except FileNotFoundError:
            state = {}
        except ValueError:
            log(f"{state_file} cannot be read: starting without state")
            state = {}
        self.position = state.get("position")
        self.known = dict.fromkeys(state.get("known", []))
        self.events = state.get("events", {})   # not answered yet, by id
        self.sent = set()                       # ids of those that were sent on this connection

    async def run(self):
        self.note_contact()
        while True:
            self.welcomed = False
            try:
                if self.position is None:
                    await self.resync()
                await self.listen()
            except RETRYABLE as error:
                retry = error if isinstance(error, Retry) else Retry(repr(error))
            self.failures += 1
            delay_s = retry.delay_s
            if delay_s is None:
                delay_s = random.uniform(1, min(60, 2 ** min(self.failures, 6)))
            log(f"{retry}; retrying in {delay_s:.1f} s")
            if retry.poll and not self.welcomed:
                await self.fall_back(delay_s)
            else:
                await asyncio.sleep(delay_s)

    # WebSocket

    async def listen(self):
        """Runs one connection until it ends, always with an exception."""
        scheme = "wss" if self.server.scheme == "https" else "ws"
        url = f"{scheme}://{self.server.netloc}{self.server.path}/v1/ws"
        self.sent.clear()
        goaway_s = None
        try:
            async with connect(url, subprotocols=["orderbell.v1"], ping_interval=None, close_timeout=2) as socket:
                await send(socket, type="hello", token=self.token, device=self.device, position=self.position)
                timeout_s = WELCOME_TIMEOUT_S
                while True:
                    async with asyncio.timeout(timeout_s):
                        frame = json.loads(await socket.recv())
                    self.note_contact()
                    match frame["type"]:
                        case "welcome":
                            self.welcomed = True
                            self.position, timeout_s = frame["position"], 2 * frame["heartbeat_ms"] / 1000
                            self.set_stale(frame.get("stale", False))
                            await self.send_events(socket)
                        case "notice":
                            done = self.process(frame)
                            await send(socket, type="ack", position=frame["position"])
                            if done:
                                await send(socket, type="bye")
                                await socket.close()
                                raise Quit(0)
                            await self.send_events(socket)
                        case "heartbeat":
                            self.failures, self.resynced = 0, False
                            self.set_stale(frame.get("stale", False))
                            self.sent.clear()
                            await self.send_events(socket)
                        case "event_result":
                            self.note_event_result(frame)
                            await self.send_events(socket)
                        case "goaway":
                            goaway_s = frame["retry_ms"] / 1000
        except TimeoutError:
            raise Retry("the connection is idle") from None
        except ConnectionClosed as closed:
            raise self.on_close(closed.rcvd, goaway_s) from None
        except InvalidStatus as rejected:
            # The handshake is rejected before the server has seen the token: the polls show whether the token is valid.
            raise retry_after(rejected.response.status_code, rejected.response.headers) from None

    def on_close(self, close, goaway_s):
        """How to react to the end of a connection."""
        if close is None:
            return Retry("the connection broke", goaway_s, poll=False)
        reason = f"closed with {close.code} {close.reason}"
        if close.code == 4004:
            return Retry(reason, random.uniform(*TOO_MANY_CONNECTIONS_S))
        if close.code == 3000 or 4000 <= close.code < 4100:
            return Quit(2, reason)
        if 4200 <= close.code < 4300:
            return self.invalidate_position(reason)
        if retry_ms := re.search(r";retry_ms=(\d+)", close.reason):
            return Retry(reason, int(retry_ms[1]) / 1000, poll=False)
        return Retry(reason)

    def on_error_status(self, status, headers):
        """How to react to an HTTP status other than 200."""
        if status in (401, 403):
            return Quit(2, f"HTTP {status}")
        if status in (409, 410):
            return self.invalidate_position(f"HTTP {status}")
        return retry_after(status, headers)

    def invalidate_position(self, reason):
        """Fetch the open orders next: at once, but with a back-off if that did not help before."""
        self.position = None
        return Retry(reason, None if self.resynced else 0, poll=False)

    async def send_events(self, socket):
        """Sends the events that were not sent on this connection, within the limit. After a heartbeat all are sent again."""
        for event in self.events.values():
            if len(self.sent) < MAX_PENDING_EVENTS and event["id"] not in self.sent:
                self.sent.add(event["id"])
                await send(socket, type="event", **event)

    # Polling

    async def fall_back(self, delay_s):
        """Polls until the next attempt to connect."""
        clock = asyncio.get_running_loop().time
        end = clock() + delay_s
        try:
            if self.position is None:
                await self.resync()
            while (left_s := end - clock()) > 0:
                if self.events:
                    await self.post()
                if not await self.poll(min(HOLD_S, math.ceil(left_s))):
                    break
        except RETRYABLE as error:
            log(f"polling: {error!r}")
        await asyncio.sleep(max(0, end - clock()))

    async def poll(self, hold_s):
        device, after = quote(self.device, safe=""), quote(self.position)
        answer = await self.http("GET", f"/v1/notices?device={device}&after={after}&wait={hold_s}", timeout_s=hold_s + HTTP_TIMEOUT_S)
        for notice in answer["notices"]:
            if self.process(notice):
                raise Quit(0)
        if self.position != answer["position"]:
            self.position = answer["position"]
            self.save()
        return answer["notices"]

    async def post(self):
        events = list(self.events.values())[:MAX_PENDING_EVENTS]
        answer = await self.http("POST", f"/v1/events?device={quote(self.device, safe='')}", json.dumps(events))
        for event in answer["events"]:
            self.note_event_result(event)

    async def resync(self):
        """Fetches the open orders and the position of the same snapshot: at the first start, and when the position is invalid."""
        page = await self.http("GET", "/v1/orders?open=1")
        position, count = page["position"], 0
        while True:
            for order in page["orders"]:
                count += 1
                if "notice" in order and order["notice"] not in self.known:
                    is_paid = order["stage"] == "paid"
                    if is_paid:
                        self.ring(order["order"])
                    self.remember(order["notice"])
                    if is_paid and self.once and not self.pickup_code:
                        raise Quit(0)
            if "next" not in page:
                break
            page = await self.http("GET", f"/v1/orders?open=1&from={quote(page['next'], safe='')}")
        self.position, self.resynced = position, True
        self.save()
        report("resync", str(count))

    async def http(self, method, path, body=None, timeout_s=HTTP_TIMEOUT_S):
        status, headers, text = await asyncio.to_thread(self.exchange, method, path, body, timeout_s)
        if status != 200:
            raise self.on_error_status(status, headers)
        answer = json.loads(text)
        self.note_contact()
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

    # Notices and state

    def process(self, notice):
        """Prints a new notice and stores its id. True when the till is done (--once)."""
        new, follows = notice["id"] not in self.known, notice["prev"] == self.position
        if new and not follows:
            raise Retry("a notice is missing")
        if follows:
            self.position = notice["position"]
        if not new:
            return False
        # Print first, then store, then acknowledge: after a crash a notice is printed twice rather than never.
        kind, order, body = notice["kind"], notice["order"], notice["body"]
        match kind:
            case "new_order":
                self.ring(order)
            case "order_accepted":
                report("accepted", order, body.get("pickup_code", "-"))
            case "cancelled" | "order_refused" if body.get("cancels") in self.known:
                report("cancelled", order)
            case "pickup_code":
                report("pickup_code", order, body.get("pickup_code", "-"))
            case "ready":
                report("ready", order)
        self.remember(notice["id"])
        return self.once and kind == ("order_accepted" if self.pickup_code else "new_order")

    def ring(self, order):
        report("ring", order)
        if self.pickup_code:
            event_id = hashlib.sha256(f"order.accepted {order}".encode()).hexdigest()[:32]
            self.events[event_id] = {"id": event_id, "kind": "order.accepted", "order": order,
                                     "pickup_code": self.pickup_code}

    def note_event_result(self, result):
        event, reason = self.events.get(result["id"]), result.get("reason")
        if event is None:
            return
        if reason:
            log(f"event of order {event['order']}: {reason}")
        if reason in ("busy", "unavailable"):
            return
        del self.events[result["id"]]
        self.sent.discard(result["id"])
        self.save()
        report("event", event["order"], result["status"])

    def remember(self, notice_id):
        self.known[notice_id] = None
        self.save()

    def save(self):
        self.known = dict.fromkeys(list(self.known)[-MAX_KNOWN:])
        state = {"position": self.position, "known": list(self.known), "events": self.events}
        try:
            with open(self.state_file + ".new", "w", encoding="utf-8") as file:
                json.dump(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self.state_file + ".new", self.state_file)
        except OSError as error:    # what is not stored must not be acknowledged
            raise Quit(1, f"cannot store the state: {error}") from error

    def note_contact(self):
        if self.unreachable_timer:
            self.unreachable_timer.cancel()
        self.unreachable_timer = asyncio.get_running_loop().call_later(UNREACHABLE_AFTER_S, self.set_stale, True)

    def set_stale(self, stale):
        if stale != self.stale:
            self.stale = stale
            report("stale" if stale else "fresh")


def retry_after(status, headers):
    seconds = headers.get("Retry-After", "")
    if seconds.isdecimal():
        return Retry(f"HTTP {status}", int(seconds) + random.random(), poll=False)
    return Retry(f"HTTP {status}")


async def send(socket, **frame):
    await socket.send(json.dumps(frame))


def report(*words):
    print(re.sub(r"[\x00-\x1f\x7f]", " ", " ".join(words)), flush=True)


def log(text):
    print(text, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description="A till on a WebSocket; the token is in ORDERBELL_TOKEN.")
    parser.add_argument("server")
    parser.add_argument("device")
    parser.add_argument("--once", action="store_true", help="exit after the first ring, with --accept after the first accepted order")
    parser.add_argument("--accept", metavar="CODE", help="accept every order that rings, with this pickup code")
    parser.add_argument("--state", metavar="FILE", help="the state file (default: orderbell-DEVICE.json)")
    args = parser.parse_args()
    token = os.environ.get("ORDERBELL_TOKEN", "").strip()
    if not re.fullmatch("[!-~]+", token):
        parser.error("ORDERBELL_TOKEN holds no token")
    state_file = args.state or f"orderbell-{quote(args.device, safe='')}.json"
    try:
        asyncio.run(Till(args.server, args.device, token, state_file, args.once, args.accept).run())
    except Quit as end:
        if end.reason:
            log(end.reason)
        return end.code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
