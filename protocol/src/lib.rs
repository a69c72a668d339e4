//! The language that is spoken in every room of Orderbell.
//!
//! Facts that come in ([`event`]), messages that go out ([`notice`], [`page`]), where a reader stands ([`position`]), who reads
//! ([`recipient`]), what goes over the wire ([`frame`], [`close`], [`problem`]) and the pure protocol state of one client, on the server's side
//! ([`session`]) and on its own ([`client`]).
//!
//! This crate has no clock, no task, no lock and no socket: time is an argument, bytes come in and go out as values. It is the one
//! place that knows how a frame looks as JSON.

pub mod client;
pub mod close;
pub mod event;
pub mod frame;
pub mod notice;
pub mod page;
pub mod position;
pub mod problem;
pub mod recipient;
pub mod session;
pub mod wall;

pub use close::Close;
pub use event::{Event, EventType};
pub use frame::{ClientEvent, ClientFrame, Freshness, SUBPROTOCOL, ServerFrame};
pub use notice::{Notice, NoticeKind};
pub use page::{Delivery, Page, ReadError};
pub use position::Position;
pub use problem::Problem;
pub use recipient::{DeviceId, Id, Recipient, Role};

/// Milliseconds since 1970-01-01T00:00:00Z, as the wall clock or a producer tells it.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub i64);

impl UnixMs {
    /// This moment moved by `ms` milliseconds (may be negative), held inside the range of the type.
    #[must_use]
    pub fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}
