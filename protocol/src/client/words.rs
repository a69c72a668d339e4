//! What a client is told, what it wants done, and its times.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::frame::{ClientEvent, NoticeFrame, OpenOrder};
use crate::position::Position;

/// The times of a client.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// First wait before connecting again; doubled each time, and spread by chance over its upper half.
    pub retry_min: Duration,
    /// Longest wait before connecting again.
    pub retry_max: Duration,
    /// A socket that is not welcomed by then is given up.
    pub welcome_timeout: Duration,
    /// A connection that lived as long as this was a good one: the next wait is short again.
    pub good_after: Duration,
    /// Polls are at least this far apart, unless more is waiting.
    pub poll_min: Duration,
    /// Nobody heard for this long beyond the time when somebody should have been: the application is told, and may ask the order system itself.
    pub unreachable_after: Duration,
    /// No wait that a server asks for is longer: a till must not be sent away for a day.
    pub told_max: Duration,
    /// The server complained of this client: a socket is tried again after this long. Polling goes on.
    pub fault_retry: Duration,
    /// The same device was connected elsewhere: this long it stays away; doubled each time, at most twelve times as long.
    pub replaced_retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            retry_min: Duration::from_millis(500),
            retry_max: Duration::from_secs(30),
            welcome_timeout: Duration::from_secs(10),
            good_after: Duration::from_secs(30),
            poll_min: Duration::from_secs(1),
            unreachable_after: Duration::from_secs(60),
            told_max: Duration::from_secs(300),
            fault_retry: Duration::from_secs(600),
            replaced_retry: Duration::from_secs(300),
        }
    }
}

/// What a client keeps over its restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Where it stands.
    pub position: Option<Position>,
    /// Notices it knows, oldest first.
    pub known: VecDeque<String>,
    /// Events that were not answered.
    #[serde(default)]
    pub events: Vec<ClientEvent>,
}

/// What happens to a client.
#[derive(Debug)]
pub enum Input<'a> {
    /// The deadline has come; also the first input.
    Time,
    /// The socket that was asked for is open.
    Opened,
    /// A text frame.
    Text(&'a str),
    /// The socket could not be opened, or is gone: with the close frame's code and reason, if there was one.
    Closed(Option<(u16, &'a str)>),
    /// The answer to the request that was asked for.
    Answer {
        /// HTTP status.
        status: u16,
        /// Body.
        body: &'a str,
        /// Its `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// No answer came to the request.
    Failed,
    /// The application says that something happened.
    Say(ClientEvent),
    /// A person has seen the notice at this position.
    Shown(Position),
    /// A new token.
    Token(Token),
    /// The application goes where it has no network (a mini-program in the background).
    Background,
    /// The application is back.
    Foreground,
}

/// A frame to send. Its `Debug` form does not show a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(pub String);

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.contains("\"token\"") { "hello ***" } else { &self.0 })
    }
}

/// A token. Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What the shell has to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Open a socket. Answer `Opened` or `Closed`. There is none when this comes.
    Open,
    /// Send a text frame.
    Send(Frame),
    /// Drop the socket, if there is one. No answer.
    Drop,
    /// Nobody waits for the answer to the request any more, if there is one. No answer.
    Abandon,
    /// Ask `GET /v1/notices` from here. Answer `Answer` or `Failed`.
    Poll(Option<Position>),
    /// Ask `GET /v1/orders?open=1`, from here on. Answer `Answer` or `Failed`.
    Orders(Option<String>),
    /// Send these to `POST /v1/events`. Answer `Answer` or `Failed`.
    Post(Vec<ClientEvent>),
    /// A notice that is not known yet: keep it. Its acknowledgement follows.
    Notice(NoticeFrame),
    /// These orders are open, and no others: take them in place of what you have.
    OpenOrders(Vec<OpenOrder>),
    /// What became of an event; it is not repeated any more.
    Answered {
        /// Its id.
        id: String,
        /// Nothing when it is durable, or why it was not taken.
        refused: Option<String>,
    },
    /// How the server is heard has changed.
    Link(Link),
    /// What the server knows is stale, or is fresh again.
    Stale(bool),
    /// The token is of no use any more: get another, and give it with [`Input::Token`].
    TokenNeeded,
    /// The server complains of this client: mend it. The way of reading that it complains of is not used any more.
    Fault(u16, String),
}

/// How the server is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// Not yet.
    Begun,
    /// It pushes.
    Pushed,
    /// It is asked.
    Polled,
    /// It was not heard for a while.
    Unreachable,
    /// The same device is connected elsewhere: this one stays away, and looks again after a while.
    Replaced,
}
