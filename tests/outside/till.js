#!/usr/bin/env node
/*
 * A till on a WebSocket: a complete client of orderbell.v1 for Node 20 and the package `ws`.
 *
 *   ORDERBELL_TOKEN=... node till.js http://127.0.0.1:8377 till-1 [--once] [--accept CODE] [--state FILE]
 *
 * It polls while it cannot connect. Its state, and the events that are not answered yet, are in orderbell-DEVICE.json.
 * It prints one line per occurrence: ring, accepted, cancelled, pickup_code, ready, event, resync, stale, fresh. Errors
 * go to stderr. It exits with 2 when a person must act; with --once it exits after the first ring, or with --accept
 * after the first accepted order. --accept accepts every order that rings, with that pickup code.
 */
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const { setTimeout: sleep } = require('node:timers/promises');
const { parseArgs } = require('node:util');
const WebSocket = require('ws');

const WELCOME_TIMEOUT_MS = 10_000; // longest wait for a welcome
const HTTP_TIMEOUT_MS = 10_000; // longest wait for an answer that the server does not hold
const HOLD_S = 50; // how long the server may hold an answer
const UNREACHABLE_AFTER_MS = 60_000; // without an answer for this long the till reports that it may miss orders
const TOO_MANY_CONNECTIONS_MS = [120_000, 180_000]; // delay after a close with 4004
const MAX_PENDING_EVENTS = 8; // unanswered events at once
const MAX_KNOWN = 5000; // ids of the newest notices that are stored

/** Ends the process with an exit code, and with a reason if it is an error. */
class Quit extends Error {
  constructor(code, reason) {
    super(reason);
    this.code = code;
  }
}

/** Retry after `delayMs`, or after a back-off if it is undefined; `poll` says whether to poll in the meantime. */
class Retry extends Error {
  constructor(reason, delayMs, poll = true) {
    super(reason);
    this.delayMs = delayMs;
    this.poll = poll;
  }
}

class Till {
  constructor(server, device, token, stateFile, once, pickupCode) {
    Object.assign(this, { server: server.replace(/\/+$/, ''), device, token, stateFile, once, pickupCode });
    this.stale = false;
    this.failures = 0; // this and resynced: since the last heartbeat
    this.resynced = false;
    this.sent = new Set(); // ids of the events that were sent on this connection and are not answered yet
    const state = readState(stateFile);
    this.position = state.position;
    this.known = new Set(state.known);
    this.events = state.events ?? {}; // not answered yet, by id
  }

  async run() {
    this.noteContact();
    for (;;) {
      this.welcomed = false;
      let ending;
      try {
        if (!this.position) await this.resync();
        ending = await this.listen();
      } catch (error) {
        ending = error;
      }
      if (ending instanceof Quit) throw ending;
      this.failures += 1;
      const delayMs = ending.delayMs ?? between(1000, Math.min(60_000, 1000 * 2 ** this.failures));
      log(`${explain(ending)}; retrying in ${(delayMs / 1000).toFixed(1)} s`);
      if (ending.poll !== false && !this.welcomed) await this.fallBack(delayMs);
      else await sleep(delayMs);
    }
  }

  // WebSocket

  /** Runs one connection until it ends. Resolves with how to react: an Error, a Retry or a Quit. */
  listen() {
    return new Promise((resolve) => {
      const socket = new WebSocket(`${this.server.replace(/^http/, 'ws')}/v1/ws`, 'orderbell.v1', { handshakeTimeout: WELCOME_TIMEOUT_MS });
      let end; // why this side ended the connection
      let idleTimer;
      const stop = (reason) => {
        end ??= reason;
        socket.terminate();
      };
      const expectFrame = (ms) => {
        clearTimeout(idleTimer);
        idleTimer = setTimeout(() => stop(new Retry('the connection is idle')), ms);
      };
      let timeoutMs = WELCOME_TIMEOUT_MS;
      this.goawayMs = undefined;
      this.sent.clear();
      socket.on('open', () => {
        send(socket, { type: 'hello', token: this.token, device: this.device, position: this.position });
        expectFrame(timeoutMs);
      });
      socket.on('message', (data) => {
        if (end) return;
        try {
          const frame = JSON.parse(data);
          this.noteContact();
          if (frame.type === 'welcome') timeoutMs = 2 * frame.heartbeat_ms;
          expectFrame(timeoutMs);
          if (this.onFrame(socket, frame)) {
            end = new Quit(0);
            send(socket, { type: 'bye' });
            socket.close();
          }
        } catch (error) {
          stop(error);
        }
      });
      // The handshake is rejected before the server has seen the token: the polls show whether the token is valid.
      socket.on('unexpected-response', (request, response) => stop(retryAfter(response.statusCode, response.headers['retry-after'])));
      socket.on('error', (error) => {
        end ??= error;
      });
      socket.on('close', (code, reason) => {
        clearTimeout(idleTimer);
        resolve(end ?? this.onClose(code, reason.toString()));
      });
    });
  }

  /** Processes a frame. True when the till is done (--once). */
  onFrame(socket, frame) {
    let done = false;
    switch (frame.type) {
      case 'welcome':
        this.welcomed = true;
        this.position = frame.position;
        this.setStale(frame.stale);
        break;
      case 'notice':
        done = this.process(frame);
        send(socket, { type: 'ack', position: frame.position });
        break;
      case 'heartbeat':
        this.failures = 0;
        this.resynced = false;
        this.setStale(frame.stale);
        this.sent.clear();
        break;
      case 'event_result':
        this.noteEventResult(frame);
        break;
      case 'goaway':
        this.goawayMs = frame.retry_ms;
        break;
    }
    if (this.welcomed && !done) this.sendEvents(socket);
    return done;
  }

  /** How to react to the end of a connection. */
  onClose(code, reason) {
    const message = `closed with ${code} ${reason}`;
    const retryMs = /;retry_ms=(\d+)/.exec(reason)?.[1] ?? this.goawayMs;
    if (code === 4004) return new Retry(message, between(...TOO_MANY_CONNECTIONS_MS));
    if (code === 3000 || (code >= 4000 && code < 4100)) return new Quit(2, message);
    if (code >= 4200 && code < 4300) return this.invalidatePosition(message);
    return retryMs === undefined ? new Retry(message) : new Retry(message, Number(retryMs), false);
  }

  /** How to react to an HTTP status other than 200. */
  onErrorStatus(status, retryAfterHeader) {
    if (status === 401 || status === 403) return new Quit(2, `HTTP ${status}`);
    if (status === 409 || status === 410) return this.invalidatePosition(`HTTP ${status}`);
    return retryAfter(status, retryAfterHeader);
  }

  /** Fetch the open orders next: at once, but with a back-off if that did not help before. */
  invalidatePosition(reason) {
    this.position = null;
    return new Retry(reason, this.resynced ? undefined : 0, false);
  }

  /** Sends the events that were not sent on this connection, within the limit. After a heartbeat all are sent again. */
  sendEvents(socket) {
    for (const event of Object.values(this.events)) {
      if (this.sent.size >= MAX_PENDING_EVENTS || this.sent.has(event.id)) continue;
      this.sent.add(event.id);
      send(socket, { type: 'event', ...event });
    }
  }

  // Polling

  /** Polls until the next attempt to connect. */
  async fallBack(delayMs) {
    const end = Date.now() + delayMs;
    try {
      if (!this.position) await this.resync();
      for (let leftMs; (leftMs = end - Date.now()) > 0; ) {
        if (Object.keys(this.events).length > 0) await this.post();
        if ((await this.poll(Math.min(HOLD_S, Math.ceil(leftMs / 1000)))) === 0) break;
      }
    } catch (error) {
      if (error instanceof Quit) throw error;
      log(`polling: ${explain(error)}`);
    }
    await sleep(Math.max(0, end - Date.now()));
  }

  async poll(holdS) {
    const query = new URLSearchParams({ device: this.device, after: this.position, wait: holdS });
    const answer = await this.http('GET', `/v1/notices?${query}`, undefined, 1000 * holdS + HTTP_TIMEOUT_MS);
    for (const notice of answer.notices) {
      if (this.process(notice)) throw new Quit(0);
    }
    if (this.position !== answer.position) {
      this.position = answer.position;
      this.save();
    }
    return answer.notices.length;
  }

  async post() {
    const events = Object.values(this.events).slice(0, MAX_PENDING_EVENTS);
    const answer = await this.http('POST', `/v1/events?device=${encodeURIComponent(this.device)}`, JSON.stringify(events));
    for (const event of answer.events) this.noteEventResult(event);
  }

  /** Fetches the open orders and the position of the same snapshot: at the first start, and when the position is invalid. */
  async resync() {
    let page = await this.http('GET', '/v1/orders?open=1');
    const { position } = page;
    let count = 0;
    for (;;) {
      for (const order of page.orders) {
        count += 1;
        if (!order.notice || this.known.has(order.notice)) continue;
        const isPaid = order.stage === 'paid';
        if (isPaid) this.ring(order.order);
        this.remember(order.notice);
        if (isPaid && this.once && !this.pickupCode) throw new Quit(0);
      }
      if (!page.next) break;
      page = await this.http('GET', `/v1/orders?open=1&from=${encodeURIComponent(page.next)}`);
    }
    this.position = position;
    this.resynced = true;
    this.save();
    report('resync', count);
  }

  async http(method, path, body, timeoutMs = HTTP_TIMEOUT_MS) {
    const response = await fetch(this.server + path, {
      method,
      body,
      headers: { Authorization: `Bearer ${this.token}`, 'Content-Type': 'application/json' },
      redirect: 'error',
      signal: AbortSignal.timeout(timeoutMs),
    });
    const text = await response.text();
    if (response.status !== 200) throw this.onErrorStatus(response.status, response.headers.get('retry-after'));
    const answer = JSON.parse(text);
    this.noteContact();
    if (method === 'GET') this.setStale(answer.stale);
    return answer;
  }

  // Notices and state

  /** Prints a new notice and stores its id. True when the till is done (--once). */
  process(notice) {
    const { id, kind, order, body } = notice;
    const follows = notice.prev === this.position;
    if (!this.known.has(id) && !follows) throw new Retry('a notice is missing');
    if (follows) this.position = notice.position;
    if (this.known.has(id)) return false;
    // Print first, then store, then acknowledge: after a crash a notice is printed twice rather than never.
    switch (kind) {
      case 'new_order':
        this.ring(order);
        break;
      case 'order_accepted':
        report('accepted', order, body.pickup_code ?? '-');
        break;
      case 'cancelled':
      case 'order_refused':
        if (this.known.has(body.cancels)) report('cancelled', order);
        break;
      case 'pickup_code':
        report('pickup_code', order, body.pickup_code ?? '-');
        break;
      case 'ready':
        report('ready', order);
        break;
    }
    this.remember(id);
    return this.once && kind === (this.pickupCode ? 'order_accepted' : 'new_order');
  }

  ring(order) {
    report('ring', order);
    if (!this.pickupCode) return;
    const id = crypto.createHash('sha256').update(`order.accepted ${order}`).digest('hex').slice(0, 32);
    this.events[id] = { id, kind: 'order.accepted', order, pickup_code: this.pickupCode };
  }

  noteEventResult({ id, status, reason }) {
    const event = this.events[id];
    if (!event) return;
    if (reason) log(`event of order ${event.order}: ${reason}`);
    if (reason === 'busy' || reason === 'unavailable') return;
    delete this.events[id];
    this.sent.delete(id);
    this.save();
    report('event', event.order, status);
  }

  remember(id) {
    this.known.add(id);
    this.save();
  }

  save() {
    this.known = new Set([...this.known].slice(-MAX_KNOWN));
    const state = { position: this.position, known: [...this.known], events: this.events };
    try {
      fs.writeFileSync(`${this.stateFile}.new`, JSON.stringify(state), { flush: true });
      fs.renameSync(`${this.stateFile}.new`, this.stateFile);
    } catch (error) {
      throw new Quit(1, `cannot store the state: ${error.message}`); // what is not stored must not be acknowledged
    }
  }

  noteContact() {
    clearTimeout(this.unreachableTimer);
    this.unreachableTimer = setTimeout(() => this.setStale(true), UNREACHABLE_AFTER_MS).unref();
  }

  setStale(stale = false) {
    if (stale === this.stale) return;
    this.stale = stale;
    report(stale ? 'stale' : 'fresh');
  }
}

function readState(file) {
  let text;
  try {
    text = fs.readFileSync(file, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return {};
    throw error;
  }
  try {
    return JSON.parse(text);
  } catch {
    log(`${file} cannot be read: starting without state`);
    return {};
  }
}

function retryAfter(status, header) {
  if (/^\d+$/.test(header)) return new Retry(`HTTP ${status}`, 1000 * (Number(header) + Math.random()), false);
  return new Retry(`HTTP ${status}`);
}

function send(socket, frame) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(frame));
}

function between(min, max) {
  return min + Math.random() * (max - min);
}

function explain(error) {
  return error.cause?.message ?? error.message;
}

function report(...words) {
  console.log(words.join(' ').replace(/[\x00-\x1f\x7f]/g, ' '));
}

function log(text) {
  console.error(text);
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { once: { type: 'boolean' }, accept: { type: 'string' }, state: { type: 'string' } },
  });
  const [server, device] = positionals;
  const token = (process.env.ORDERBELL_TOKEN ?? '').trim();
  if (positionals.length !== 2 || !/^[!-~]+$/.test(token)) {
    throw new Quit(2, 'usage: ORDERBELL_TOKEN=... node till.js SERVER_URL DEVICE [--once] [--accept CODE] [--state FILE]');
  }
  const stateFile = values.state ?? `orderbell-${encodeURIComponent(device)}.json`;
  await new Till(server, device, token, stateFile, values.once, values.accept).run();
}

main().catch((error) => {
  if (error.message) log(error.message);
  process.exitCode = error instanceof Quit ? error.code : 1;
});
