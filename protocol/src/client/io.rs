//! Inputs, outputs and timings of the client machine.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bearer_token::BearerToken;
use crate::frame::{ClientEvent, NoticeFrame, OpenOrder, RejectionReason};
use crate::position::Position;

/// Waits and time limits of a client.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// First wait before reconnecting. It doubles with every failure and is jittered over its upper half.
    pub retry_min: Duration,
    /// Longest wait before reconnecting.
    pub retry_max: Duration,
    /// A socket that has not received `welcome` after this time is given up.
    pub welcome_timeout: Duration,
    /// A connection that lasted at least this long resets the back-off.
    pub stable_after: Duration,
    /// Polls are at least this far apart, unless the server reports that more notices wait.
    pub poll_min: Duration,
    /// The server counts as unreachable when nothing arrives for this long after something was due. The application may then ask the order
    /// system itself.
    pub unreachable_after: Duration,
    /// Upper bound for every wait that a server asks for: a server must not send a till away for a day.
    pub server_wait_max: Duration,
    /// Wait before the next socket after the server reported a fault of this client. Polling continues.
    pub fault_retry: Duration,
    /// Wait after another connection of the same device superseded this one. Grows linearly, to at most twelve times this value.
    pub superseded_retry: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            retry_min: Duration::from_millis(500),
            retry_max: Duration::from_secs(30),
            welcome_timeout: Duration::from_secs(10),
            stable_after: Duration::from_secs(30),
            poll_min: Duration::from_secs(1),
            unreachable_after: Duration::from_secs(60),
            server_wait_max: Duration::from_secs(300),
            fault_retry: Duration::from_secs(600),
            superseded_retry: Duration::from_secs(300),
        }
    }
}

/// The state that a client needs after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistedState {
    /// Position of the last notice that was delivered to the application.
    pub position: Option<Position>,
    /// Ids of notices that were delivered, oldest first.
    pub known: VecDeque<String>,
    /// Events that have no result yet.
    #[serde(default)]
    pub events: Vec<ClientEvent>,
}

/// Something that happened to a client.
#[derive(Debug)]
pub enum Input<'a> {
    /// The deadline has passed. Also the first input.
    Time,
    /// The socket of [`Output::OpenSocket`] is open.
    Opened,
    /// A text frame arrived.
    Text(&'a str),
    /// The socket could not be opened, or was closed; with code and reason of the close frame, if there was one.
    Closed(Option<(u16, &'a str)>),
    /// The response to the pending request.
    Response {
        /// HTTP status.
        status: u16,
        /// Body as text.
        body: &'a str,
        /// The header `Retry-After`, if present.
        retry_after: Option<Duration>,
    },
    /// The pending request got no response.
    RequestFailed,
    /// The application reports an event.
    Event(ClientEvent),
    /// A person has seen the notice at this position.
    Displayed(Position),
    /// A new token.
    Token(BearerToken),
    /// The application loses its network access (a mini-program goes to the background).
    Background,
    /// The application is back in the foreground.
    Foreground,
}

/// The text of a frame to send. Its `Debug` form hides the token.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(pub String);

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.contains("\"token\"") { "hello ***" } else { &self.0 })
    }
}

/// What the shell has to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Open a socket and report [`Input::Opened`] or [`Input::Closed`]. There is no other socket at this time.
    OpenSocket,
    /// Send a text frame.
    Send(Frame),
    /// Drop the socket, if there is one, and report nothing.
    DropSocket,
    /// Cancel the pending request and report nothing.
    CancelRequest,
    /// Request `GET /v1/notices` after this position. Report [`Input::Response`] or [`Input::RequestFailed`].
    Poll(Option<Position>),
    /// Request `GET /v1/orders?open=1`, from this order on. Report [`Input::Response`] or [`Input::RequestFailed`].
    FetchOrders(Option<String>),
    /// Send these events to `POST /v1/events`. Report [`Input::Response`] or [`Input::RequestFailed`].
    PostEvents(Vec<ClientEvent>),
    /// A new notice: store it. Its acknowledgement follows as [`Output::Send`].
    Notice(NoticeFrame),
    /// The complete list of open orders: it replaces the list that the application has.
    OpenOrders(Vec<OpenOrder>),
    /// The final result of an event. The client sends the event no more.
    EventResult {
        /// Id of the event.
        id: String,
        /// `None` when the event is durable, otherwise the reason for which the server rejected it.
        rejected: Option<RejectionReason>,
    },
    /// The connectivity has changed.
    Connectivity(Connectivity),
    /// The server's data has become stale (true) or current again (false).
    Stale(bool),
    /// The server refused the token: get a new one and report it as [`Input::Token`].
    TokenNeeded,
    /// The server reported a fault of this client, with a close code or an HTTP status: a developer must fix it.
    Fault(u16, String),
}

/// How notices reach this client at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Connectivity {
    /// Nothing has arrived yet.
    Starting,
    /// The server pushes over a socket.
    Push,
    /// The client polls.
    Polling,
    /// Nothing arrived for longer than [`Timings::unreachable_after`] allows.
    Unreachable,
    /// Another connection of the same device took over. This client pauses and tries again later.
    Superseded,
}
