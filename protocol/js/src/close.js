// The close codes of the protocol by their words. Generated from `CloseKind` in Rust: `UPDATE=1 cargo test --test reference`.

export const BYE = 1000;
export const PROTOCOL = 1002;
export const UNSUPPORTED = 1003;
export const ENCODING = 1007;
export const TOO_BIG = 1009;
export const INTERNAL = 1011;
export const RESTART = 1012;
export const OVERLOADED = 1013;
export const UNAUTHORIZED = 3000;
export const TIMEOUT = 3008;
export const BAD_MESSAGE = 4001;
export const REPLACED = 4003;
export const TOO_MANY_CONNECTIONS = 4004;
export const RATE_LIMITED = 4102;
export const ACK_TIMEOUT = 4103;
export const RESYNC = 4200;
