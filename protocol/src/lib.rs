//! The wire protocol of Orderbell: one model of everything that clients and servers exchange.
//!
//! | module | what it holds |
//! |---|---|
//! | [`event`] | order events, as decoded by the server |
//! | [`notice`], [`mailbox_page`], [`position`] | notices, pages of a mailbox, positions in it |
//! | [`recipient`], [`id_text`] | recipients, devices and checked ids; which texts are ids |
//! | [`frame`] | WebSocket frames and HTTP answers |
//! | [`close`], [`problem`] | close codes and HTTP errors |
//! | [`alert`], [`admin`] | alerts for operators, and the documents of the admin listener |
//! | [`cloud_event`] | the envelope of the events that Orderbell publishes |
//! | [`wall`] | the document of the live numbers |
//! | [`session`], [`client`] | the protocol state machines of the server and of the client |
//!
//! This crate has no clock, task, lock or socket: time is an argument, and bytes come in and go out as values. No other crate writes or
//! reads the JSON of a frame or an answer; [`json`] turns these types into text.

pub mod admin;
pub mod alert;
pub mod balance;
mod bearer_token;
pub mod client;
pub mod close;
pub mod cloud_event;
pub mod command_output;
pub mod counters;
pub mod event;
pub mod frame;
pub mod id_text;
pub mod json;
pub mod mailbox_page;
pub mod notice;
mod order_key;
pub mod position;
pub mod problem;
pub mod recipient;
pub mod session;
pub mod wall;

pub use bearer_token::BearerToken;
pub use close::{Close, CloseKind, ResyncReason};
pub use event::{Event, EventType};
pub use frame::{
    ClientEvent, ClientFrame, EventResult, EventStatus, Freshness, RejectionReason, SUBPROTOCOL, ServerFrame,
};
pub use mailbox_page::{Delivery, MailboxPage, ReadError};
pub use notice::{Notice, NoticeKind};
pub use order_key::OrderKey;
pub use position::Position;
pub use problem::{Problem, ProblemCode};
pub use recipient::{DeviceId, Id, Recipient, Role};

/// Milliseconds since 1970-01-01T00:00:00Z, by the wall clock of this server or of a producer.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub i64);

impl UnixMs {
    /// This time moved by `ms` milliseconds, which may be negative. Saturates at the range of `i64`.
    #[must_use]
    pub fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}
