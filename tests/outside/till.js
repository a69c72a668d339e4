#!/usr/bin/env node
/*
 * A till on a WebSocket: a complete client of orderbell.v1 for Node 20 and the package `ws`.
 *
 *   ORDERBELL_TOKEN=... node till.js http://127.0.0.1:8377 till-1 [--once] [--accept CODE] [--state FILE]
 *
 * It polls while it cannot connect. What it knows, and what it has yet to tell, is in orderbell-DEVICE.json.
 * One line for each thing that happened: ring, taken, off, code, ready, logged, resync, stale, fresh. Errors go to
 * stderr. It ends with 2 when somebody has to mend something; with --once after the first ring, with --accept after
 * the first taken. --accept takes every order that rings, with that code.
 */
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const { setTimeout: sleep } = require('node:timers/promises');
const { parseArgs } = require('node:util');
const WebSocket = require('ws');

const HELLO_MS = 10_000; // how long a welcome may take
const HTTP_MS = 10_000; // how long an answer that is not held may take
const HOLD_S = 50; // how long the server may hold an answer
const SILENCE_MS = 60_000; // after so long without a word nobody knows whether there are orders
const CROWDED_MS = [120_000, 180_000]; // how long to stay away when there are too many connections
const EVENTS_MAX = 8; // events that may wait for their answer at once
const KNOWN_MAX = 5000; // notices remembered, the newest

/** The end, with an exit code, and why if it is not a good one. */
class Quit extends Error {
  constructor(code, why) {
    super(why);
    this.code = code;
  }
}

/** Not now, but after `pauseMs` if it is known; and whether to poll until then. */
class Later extends Error {
  constructor(why, pauseMs, poll = true) {
    super(why);
    this.pauseMs = pauseMs;
    this.poll = poll;
  }
}

class Till {
  constructor(server, device, token, stateFile, once, code) {
    Object.assign(this, { server: server.replace(/\/+$/, ''), device, token, stateFile, once, code });
    this.stale = false;
    this.failures = 0; // this and resynced: since it last went well
    this.resynced = false;
    this.sent = new Set(); // the events sent on this connection and not answered yet
    const state = readState(stateFile);
    this.position = state.position;
    this.known = new Set(state.known);
    this.events = state.events ?? {}; // not answered yet, by their id
  }

  async run() {
    this.hear();
    for (;;) {
      this.welcomed = false;
      let later;
      try {
        if (!this.position) await this.resync();
        later = await this.listen();
      } catch (error) {
        later = error;
      }
      if (later instanceof Quit) throw later;
      this.failures += 1;
      const pauseMs = later.pauseMs ?? between(1000, Math.min(60_000, 1000 * 2 ** this.failures));
      note(`${explain(later)}; again in ${(pauseMs / 1000).toFixed(1)} s`);
      if (later.poll !== false && !this.welcomed) await this.fallBack(pauseMs);
      else await sleep(pauseMs);
    }
  }

  // The socket

  /** One connection, until it ends; returns what to do then: a Later or a Quit. */
  listen() {
    return new Promise((resolve) => {
      const socket = new WebSocket(`${this.server.replace(/^http/, 'ws')}/v1/ws`, 'orderbell.v1', { handshakeTimeout: HELLO_MS });
      let end; // what this side ends the connection for
      let silence;
      const stop = (why) => {
        end ??= why;
        socket.terminate();
      };
      const expect = (ms) => {
        clearTimeout(silence);
        silence = setTimeout(() => stop(new Later('silence')), ms);
      };
      let patienceMs = HELLO_MS;
      this.leaveMs = undefined;
      this.sent.clear();
      socket.on('open', () => {
        send(socket, { type: 'hello', token: this.token, device: this.device, position: this.position });
        expect(patienceMs);
      });
      socket.on('message', (data) => {
        if (end) return;
        try {
          const frame = JSON.parse(data);
          this.hear();
          if (frame.type === 'welcome') patienceMs = 2 * frame.heartbeat_ms;
          expect(patienceMs);
          if (this.frame(socket, frame)) {
            end = new Quit(0);
            send(socket, { type: 'bye' });
            socket.close();
          }
        } catch (error) {
          stop(error);
        }
      });
      // Whoever refuses here has not seen the token: the polls find out whether it is good.
      socket.on('unexpected-response', (request, response) => stop(heldOff(response.statusCode, response.headers['retry-after'])));
      socket.on('error', (error) => {
        end ??= error;
      });
      socket.on('close', (code, reason) => {
        clearTimeout(silence);
        resolve(end ?? this.parting(code, reason.toString()));
      });
    });
  }

  /** True when this till has done what it was started for. */
  frame(socket, frame) {
    let done = false;
    switch (frame.type) {
      case 'welcome':
        this.welcomed = true;
        this.position = frame.position;
        this.setStale(frame.stale);
        break;
      case 'notice':
        done = this.take(frame);
        send(socket, { type: 'ack', position: frame.position });
        break;
      case 'beat':
        this.failures = 0;
        this.resynced = false;
        this.setStale(frame.stale);
        this.sent.clear();
        break;
      case 'logged':
        this.answered(frame);
        break;
      case 'leave':
        this.leaveMs = frame.retry_ms;
        break;
    }
    if (this.welcomed && !done) this.tell(socket);
    return done;
  }

  /** What the end of a connection asks for. */
  parting(code, reason) {
    const why = `closed with ${code} ${reason}`;
    const retryMs = /;retry_ms=(\d+)/.exec(reason)?.[1] ?? this.leaveMs;
    if (code === 4004) return new Later(why, between(...CROWDED_MS));
    if (code === 3000 || (code >= 4000 && code < 4100)) return new Quit(2, why);
    if (code >= 4200 && code < 4300) return this.lost(why);
    return retryMs === undefined ? new Later(why) : new Later(why, Number(retryMs), false);
  }

  /** What an answer that is not the one wanted asks for. */
  refusal(status, retryAfter) {
    if (status === 401 || status === 403) return new Quit(2, `HTTP ${status}`);
    if (status === 409 || status === 410) return this.lost(`HTTP ${status}`);
    return heldOff(status, retryAfter);
  }

  /** The position is of no use: the open orders next, at once; but not again and again. */
  lost(why) {
    this.position = null;
    return new Later(why, this.resynced ? undefined : 0, false);
  }

  /** Sends the events that are not on their way yet, as many as may be. A beat makes it send all again. */
  tell(socket) {
    for (const event of Object.values(this.events)) {
      if (this.sent.size >= EVENTS_MAX || this.sent.has(event.id)) continue;
      this.sent.add(event.id);
      send(socket, { type: 'event', ...event });
    }
  }

  // Polling

  /** Polls until it is time to try the socket again. */
  async fallBack(pauseMs) {
    const end = Date.now() + pauseMs;
    try {
      if (!this.position) await this.resync();
      for (let leftMs; (leftMs = end - Date.now()) > 0; ) {
        if (Object.keys(this.events).length > 0) await this.post();
        if ((await this.poll(Math.min(HOLD_S, Math.ceil(leftMs / 1000)))) === 0) break;
      }
    } catch (error) {
      if (error instanceof Quit) throw error;
      note(`polling: ${explain(error)}`);
    }
    await sleep(Math.max(0, end - Date.now()));
  }

  async poll(holdS) {
    const query = new URLSearchParams({ device: this.device, after: this.position, wait: holdS });
    const answer = await this.http('GET', `/v1/notices?${query}`, undefined, 1000 * holdS + HTTP_MS);
    for (const notice of answer.notices) {
      if (this.take(notice)) throw new Quit(0);
    }
    if (this.position !== answer.position) {
      this.position = answer.position;
      this.save();
    }
    return answer.notices.length;
  }

  async post() {
    const events = Object.values(this.events).slice(0, EVENTS_MAX);
    const answer = await this.http('POST', `/v1/events?device=${encodeURIComponent(this.device)}`, JSON.stringify(events));
    for (const event of answer.events) this.answered(event);
  }

  /** The open orders, and the position of the same moment: for a new till, and when ours is of no use. */
  async resync() {
    let page = await this.http('GET', '/v1/orders?open=1');
    const { position } = page;
    let count = 0;
    for (;;) {
      for (const order of page.orders) {
        count += 1;
        if (!order.notice || this.known.has(order.notice)) continue;
        const rings = order.stage === 'paid';
        if (rings) this.ring(order.order);
        this.keep(order.notice);
        if (rings && this.once && !this.code) throw new Quit(0);
      }
      if (!page.next) break;
      page = await this.http('GET', `/v1/orders?open=1&from=${encodeURIComponent(page.next)}`);
    }
    this.position = position;
    this.resynced = true;
    this.save();
    say('resync', count);
  }

  async http(method, path, body, timeoutMs = HTTP_MS) {
    const response = await fetch(this.server + path, {
      method,
      body,
      headers: { Authorization: `Bearer ${this.token}`, 'Content-Type': 'application/json' },
      redirect: 'error',
      signal: AbortSignal.timeout(timeoutMs),
    });
    const text = await response.text();
    if (response.status !== 200) throw this.refusal(response.status, response.headers.get('retry-after'));
    const answer = JSON.parse(text);
    this.hear();
    if (method === 'GET') this.setStale(answer.stale);
    return answer;
  }

  // What comes, and what is kept of it

  /** Says what is new, and keeps it. True when this till has done what it was started for. */
  take(notice) {
    const { id, kind, order, body } = notice;
    const follows = notice.after === this.position;
    if (!this.known.has(id) && !follows) throw new Later('a notice is missing');
    if (follows) this.position = notice.position;
    if (this.known.has(id)) return false;
    // Said first, kept next, acknowledged last: a crash in between says it twice rather than never.
    switch (kind) {
      case 'new_order':
        this.ring(order);
        break;
      case 'taken':
        say('taken', order, body.code ?? '-');
        break;
      case 'cancelled':
      case 'refused':
        if (this.known.has(body.cancels)) say('off', order);
        break;
      case 'pickup_code':
        say('code', order, body.code ?? '-');
        break;
      case 'ready':
        say('ready', order);
        break;
    }
    this.keep(id);
    return this.once && kind === (this.code ? 'taken' : 'new_order');
  }

  ring(order) {
    say('ring', order);
    if (!this.code) return;
    const id = crypto.createHash('sha256').update(`order.accepted ${order}`).digest('hex').slice(0, 32);
    this.events[id] = { id, kind: 'order.accepted', order, code: this.code };
  }

  answered({ id, status, reason }) {
    const event = this.events[id];
    if (!event) return;
    if (reason) note(`event of order ${event.order}: ${reason}`);
    if (reason === 'busy' || reason === 'unavailable') return;
    delete this.events[id];
    this.sent.delete(id);
    this.save();
    say('logged', event.order, status);
  }

  keep(id) {
    this.known.add(id);
    this.save();
  }

  save() {
    this.known = new Set([...this.known].slice(-KNOWN_MAX));
    const state = { position: this.position, known: [...this.known], events: this.events };
    try {
      fs.writeFileSync(`${this.stateFile}.new`, JSON.stringify(state), { flush: true });
      fs.renameSync(`${this.stateFile}.new`, this.stateFile);
    } catch (error) {
      throw new Quit(1, `cannot keep anything: ${error.message}`); // what is not kept must not be acknowledged
    }
  }

  hear() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.setStale(true), SILENCE_MS).unref();
  }

  setStale(stale = false) {
    if (stale === this.stale) return;
    this.stale = stale;
    say(stale ? 'stale' : 'fresh');
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
    note(`${file} is of no use: starting anew`);
    return {};
  }
}

function heldOff(status, retryAfter) {
  if (/^\d+$/.test(retryAfter)) return new Later(`HTTP ${status}`, 1000 * (Number(retryAfter) + Math.random()), false);
  return new Later(`HTTP ${status}`);
}

function send(socket, frame) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(frame));
}

function between(least, most) {
  return least + Math.random() * (most - least);
}

function explain(error) {
  return error.cause?.message ?? error.message;
}

function say(...words) {
  console.log(words.join(' ').replace(/[\x00-\x1f\x7f]/g, ' '));
}

function note(text) {
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
  if (error.message) note(error.message);
  process.exitCode = error instanceof Quit ? error.code : 1;
});
