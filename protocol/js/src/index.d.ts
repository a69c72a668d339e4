// Types of the SDK. `protocol/README.md` (../../README.md) documents the protocol.

/** How notices reach this client. `superseded`: another connection of the same device took over; this client pauses and tries again later. */
export type Connectivity = "starting" | "push" | "polling" | "unreachable" | "superseded";

/** Kinds may be added: store notices of an unknown kind and do nothing else with them. */
export type NoticeKind =
  | "new_order"
  | "pickup_code"
  | "order_accepted"
  | "order_refused"
  | "ready"
  | "cancelled"
  | "event_rejected"
  | (string & {});

export interface Notice {
  /** The same fact always has the same id. */
  id: string;
  kind: NoticeKind;
  order: string;
  /** Time of the event. Milliseconds since 1970. */
  at: number;
  /** The details that this recipient may see. */
  body: Record<string, any>;
  position: string;
  /** Position of the previous notice. */
  prev: string;
  /** 1, or higher when the server may have sent the notice to this device before. */
  attempt: number;
}

export interface Order {
  order: string;
  /** How far the order has come. Words may be added: treat one that you do not know as `unknown`. */
  stage: "unknown" | "created" | "paid" | "accepted" | "ready" | "picked_up" | (string & {});
  /** False when the order is completed or has an outcome. */
  active: boolean;
  /** How the order ended before it was picked up. Words may be added: `active` says whether the order goes on. */
  outcome?: "refused" | "cancelled" | "refunded" | "expired" | (string & {});
  /** Time of the last change. Milliseconds since 1970. */
  at: number;
  /** For stores: id of the notice `new_order`. */
  notice?: string;
  /** For stores: whether this device has received that notice, possibly before a restart. */
  known: boolean;
  body: Record<string, any>;
}

export interface Event {
  /** Generated when absent. Events with the same id are the same event. */
  id?: string;
  kind: "order.accepted" | "order.refused" | "order.ready" | "order.picked_up";
  order: string;
  /** With `order.accepted`. */
  pickup_code?: string;
  /** With `order.refused`. */
  reason?: string;
  /** Time of the event, if not now. Milliseconds since 1970. */
  at?: number;
}

/** Why the server did not store an event. Reasons may be added: treat one that you do not know as final. The SDK itself sends the event again after `busy` and `unavailable`. */
export type RejectionReason =
  | "busy"
  | "unavailable"
  | "not-found"
  | "too-early"
  | "forbidden"
  | "unknown-kind"
  | "bad-id"
  | "bad-order"
  | "too-long"
  | "bad-text"
  | "conflict"
  | (string & {});

/** `rejected` is null when the event is stored durably, otherwise the reason of the rejection; `unknown` when the server named none. */
export interface EventResult {
  id: string;
  rejected: RejectionReason | null;
}

/** How an order ended. Words may be added. */
export type OrderEnd =
  | "refused"
  | "cancelled"
  | "refunded"
  | "expired"
  | "picked_up"
  | (string & {});

/** The body of a notice `event_rejected`: an event of `device` came after the order had ended. Other devices ignore the notice. */
export interface EventRejectedBody {
  device?: string;
  /** How the order had ended. */
  reason?: OrderEnd;
  /** The id of the event. */
  event?: string;
}

export interface Handlers {
  /** A new notice. When the handler throws, the server receives a `nack`, raises an alert and sends the next notice. */
  notice?(notice: Notice): void;
  /** The complete list of open orders. Replace what you display with it, and notify the staff of every order in stage `paid` that is not `known`. */
  orders?(orders: Order[]): void;
  /** The result of an event, also of an event that was reported before a restart. */
  eventResult?(result: EventResult): void;
  /** The connectivity has changed. At `unreachable`, query the order system itself if you can. */
  connectivity?(connectivity: Connectivity): void;
  /** The server's data became stale (true) or current (false). */
  stale?(stale: boolean): void;
  /** The server reported a fault of this client, with a close code 40xx or an HTTP status: a developer must fix it. */
  fault?(code: number, reason: string): void;
  /** A handler threw, no token could be obtained, or the state could not be stored. Without this handler the error goes to the console. */
  error?(error: unknown): void;
}

export interface Options {
  /** URL of the server, for example https://push.example. In a browser it defaults to the origin of the page. */
  server?: string;
  /**
   * A token, or a function that obtains one. The function is called at the start and whenever the server refuses the token; with back-off when it throws
   * or takes longer than 30 seconds.
   */
  token: string | (() => string | Promise<string>);
  /** Id of this installation. Generated and stored when absent. Every recipient on one installation needs its own. */
  device?: string;
  /** Storage key of the client's state. */
  storageKey?: string;
  /**
   * True for an application that stores its notices: after a restart it receives the notices since then. False (the default): after a restart it
   * receives the open orders first.
   */
  resume?: boolean;
  on?: Handlers;
}

export interface NodeOptions extends Options {
  /** File in which the client's state is stored. Without it the state is lost at the end of the process. */
  file?: string;
  /** A WebSocket class, for versions of Node that have none. */
  WebSocket?: unknown;
}

export interface Client {
  readonly device: string;
  /** Reports an event. It is sent until the server answers it, also after a restart. */
  event(event: Event): Promise<EventResult>;
  accept(order: string, pickupCode?: string): Promise<EventResult>;
  refuse(order: string, reason?: string): Promise<EventResult>;
  ready(order: string): Promise<EventResult>;
  pickedUp(order: string): Promise<EventResult>;
  /** Reports that a person has seen the notice. */
  displayed(notice: { position: string }): void;
  /** Replaces the token. */
  setToken(token: string): void;
  connectivity(): Connectivity;
  /** Whether there is a live socket at this moment. `connectivity` changes later: only when polling works, or nothing does. */
  isConnected(): boolean;
  /** Milliseconds since the last message from the server. */
  silenceMs(): number;
  /** Sends `bye` and stops the client. */
  close(): void;
}

export function connect(options: NodeOptions): Client;

/** What the shell needs from a platform. */
export interface Platform {
  socket(
    url: string,
    protocol: string,
    on: { opened(): void; text(text: string): void; closed(close?: { code?: number; reason?: string }): void },
  ): { send(text: string): void; close(): void };
  /** Makes a request and returns a function that aborts it. `done` receives null when there is no response; `retryAfter` is in milliseconds. */
  request(
    request: { method: string; url: string; token: string; body?: string },
    done: (response: { status: number; body: string; retryAfter?: number } | null) => void,
  ): () => void;
  /** Starts a timer and returns a function that cancels it. */
  schedule(ms: number, then: () => void): () => void;
  /** A monotonic clock in milliseconds. */
  now(): number;
  load(key: string): string | null;
  save(key: string, text: string): void;
  /** Watches visibility and network, and returns a function that stops it. */
  watch?(on: { hidden(): void; shown(): void; online(): void }): () => void;
}
