// Types of the SDK. The protocol's own words are in ../../README.md (`protocol/README.md`).

/** How the server is heard. `replaced`: the same device is connected elsewhere. */
export type Link = "begun" | "pushed" | "polled" | "unreachable" | "replaced";

/** What a notice tells; others may be added: keep them, and ignore them. */
export type Kind = "new_order" | "taken" | "pickup_code" | "ready" | "refused" | "cancelled" | "declined" | (string & {});

export interface Notice {
  /** The same fact has the same id. */
  id: string;
  kind: Kind;
  order: string;
  /** When the fact happened. Milliseconds since 1970. */
  at: number;
  /** What this recipient may see of it. */
  body: Record<string, any>;
  position: string;
  after: string;
  /** 1, or higher when this device may have got it before. */
  attempt: number;
}

export interface Order {
  order: string;
  stage: "unknown" | "created" | "paid" | "accepted" | "ready" | "picked_up";
  open: boolean;
  end?: "refused" | "cancelled" | "refunded" | "expired";
  at: number;
  /** For stores: the id of its `new_order`. */
  notice?: string;
  /** For stores: whether this device was told of it before, perhaps before a restart. */
  known: boolean;
  body: Record<string, any>;
}

export interface Event {
  /** Drawn when missing; the same id is the same event. */
  id?: string;
  kind: "order.accepted" | "order.refused" | "order.ready" | "order.picked_up";
  order: string;
  code?: string;
  reason?: string;
  /** Milliseconds since 1970, if not now. */
  at?: number;
}

/** What became of an event: `refused` is null when it is durable, or a word that says why it was not taken. */
export interface Answered {
  id: string;
  refused: string | null;
}

export interface Handlers {
  /** Something new: keep it, show it, ring. What it throws at is told to the server as unusable. */
  notice?(notice: Notice): void;
  /** These orders are open and no others: show them in place of what is shown; ring for those that are `paid`. */
  orders?(orders: Order[]): void;
  /** What became of an event, also of one from before a restart. */
  answered?(answered: Answered): void;
  /** How the server is heard has changed; at `unreachable` ask the order system itself, if you can. */
  link?(link: Link): void;
  /** What the server knows is too old, or is new again. */
  stale?(stale: boolean): void;
  /** The server complains of this client (a close code of 40xx, or an HTTP status): mend it. */
  fault?(code: number, reason: string): void;
  /** A handler threw, a token was not to be had, or nothing can be kept. Goes to the console without it. */
  error?(error: unknown): void;
}

export interface Options {
  /** Where the server is, for instance https://push.example. In a browser: where the page is from, unless told otherwise. */
  server?: string;
  /** A token, or how to get one: asked again when it is of no use any more, and less and less often while none comes within 30 seconds. */
  token: string | (() => string | Promise<string>);
  /** This installation; drawn and kept when missing. One for each recipient. */
  device?: string;
  /** Under which name it keeps what it must know after a restart. */
  key?: string;
  /** True for an application that keeps its notices itself: after a restart it hears what is new. Else it begins with the open orders. */
  keeps?: boolean;
  on?: Handlers;
}

export interface NodeOptions extends Options {
  /** Where it keeps what it must know after a restart. */
  file?: string;
  /** A WebSocket class, where Node has none of its own. */
  WebSocket?: unknown;
}

export interface Client {
  readonly device: string;
  /** Something happened here. Sent until it is answered, over restarts too. */
  event(event: Event): Promise<Answered>;
  accept(order: string, code?: string): Promise<Answered>;
  refuse(order: string, reason?: string): Promise<Answered>;
  ready(order: string): Promise<Answered>;
  pickedUp(order: string): Promise<Answered>;
  /** A person has seen it. */
  shown(notice: { position: string }): void;
  /** A new token. */
  token(token: string): void;
  link(): Link;
  /** Whether there is a socket at this moment; `link` changes only when the machine has found another way, or none. */
  connected(): boolean;
  /** For how long nobody was heard. Milliseconds. */
  silence(): number;
  /** Leaves, on purpose. */
  close(): void;
}

export function connect(options: NodeOptions): Client;

/** What the shell needs of a platform. */
export interface Platform {
  socket(
    url: string,
    protocol: string,
    on: { opened(): void; text(text: string): void; closed(close?: { code?: number; reason?: string }): void },
  ): { send(text: string): void; close(): void };
  request(
    asked: { method: string; url: string; token: string; body?: string },
    done: (answer: { status: number; body: string; retryAfter?: number } | null) => void,
  ): () => void;
  later(ms: number, then: () => void): () => void;
  /** Milliseconds of a clock that does not jump. */
  now(): number;
  load(key: string): string | null;
  save(key: string, text: string): void;
  watch?(app: { hidden(): void; shown(): void; online(): void }): () => void;
}
