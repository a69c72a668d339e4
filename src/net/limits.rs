//! The limits of the public listener, and how many connections they come to.

use std::time::Duration;

use orderbell_protocol::session;

use super::places::PlaceLimits;
use super::token_bucket::Rate;
use super::{ADMIN_IDLE_CONNECTIONS_MAX, ADMIN_REQUESTS_MAX, IdentityRate};

/// Limits of the public listener.
#[derive(Clone, Copy, Debug)]
pub struct NetLimits {
    /// Time-outs and limits of one WebSocket.
    pub session: session::SessionLimits,
    /// Events that the clients of one store may report.
    pub events: IdentityRate,
    /// Polls and requests for orders of one store.
    pub polls: IdentityRate,
    /// Sessions that one store may begin.
    pub hellos: IdentityRate,
    /// Tolerated difference between the clocks of the tokens' issuer and this server.
    pub clock_skew: Duration,
    /// Open WebSockets. Below the process's file limit, so that the ledger's files still find room.
    pub max_connections: usize,
    /// Viewers of the wall at once.
    pub max_viewers: usize,
    /// The same with one token, which screens often share.
    pub max_viewers_per_token: usize,
    /// HTTP connections without a request: those that send the head of one, and those that are kept open for the next. More are, while
    /// requests are fewer than they may be.
    pub max_idle_connections: usize,
    /// Requests at work that are of no class of their own: polls that do not wait, handshakes.
    pub max_requests: usize,
    /// Polls that wait at once. Above it a poll is answered without waiting. Customers together have half of these, and of lists and posts.
    pub max_waiting_polls: usize,
    /// The same of one store; a customer has a tenth.
    pub max_waiting_polls_per_recipient: u16,
    /// Requests for open orders and timelines at work, which scan.
    pub max_lists: usize,
    /// The same of one recipient.
    pub max_lists_per_recipient: u16,
    /// `POST /v1/events` of tills and phones at work, whose bodies may come slowly.
    pub max_client_posts: usize,
    /// The same of one store; a customer has a tenth.
    pub max_posts_per_recipient: u16,
    /// `POST /v1/events` of producers at work.
    pub max_producer_posts: usize,
    /// Time within which the head of a request must have arrived.
    pub head_timeout: Duration,
    /// Longest time that a poll waits. Below the 60 s after which many proxies end a silent request.
    pub max_poll_wait: Duration,
    /// Largest number of notices in the answer to one poll.
    pub max_poll_notices: u16,
    /// When a client without a WebSocket should poll again.
    pub poll_interval: Duration,
    /// The time over which a drain spreads its `goaway` frames.
    pub drain_spread: Duration,
    /// When the stream was not read to its end for this long, clients see `stale`.
    pub stale_after: Duration,
    /// The time over which clients of a draining server spread their return.
    pub retry_spread: Duration,
}

impl NetLimits {
    /// The largest number of connections of all kinds, those of the admin listener among them.
    #[must_use]
    pub fn max_descriptors(&self) -> usize {
        let PlaceLimits { idle, requests, classes } = self.places();
        let admin = ADMIN_IDLE_CONNECTIONS_MAX + ADMIN_REQUESTS_MAX;
        self.max_connections + self.max_viewers + idle + requests + classes + admin
    }

    /// The connections of the public listener before their upgrade, and their requests.
    #[must_use]
    pub fn places(&self) -> PlaceLimits {
        let posts = self.max_client_posts + self.max_producer_posts;
        let classes = self.max_waiting_polls + self.max_lists + posts;
        PlaceLimits { idle: self.max_idle_connections, requests: self.max_requests, classes }
    }
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            session: session::SessionLimits {
                hello_timeout: Duration::from_secs(5),
                max_in_flight: 64,
                page_size: 32,
                heartbeat_interval: Duration::from_secs(25),
                idle_timeout: Duration::from_secs(70),
                ack_timeout: Duration::from_secs(10),
                max_delivery_attempts: 4,
                max_frames_per_second: 200,
                // A till is used with one hand; what it collected during an outage goes out in batches of eight.
                max_pending_events: 8,
            },
            // The bursts of a device: what a till collects during an outage, the pages of a full mailbox five times, and a minute of connections
            // that are cut at once. Those of a store: two such devices, as it may have a single one that does everything; and ten times as many
            // connections as it may have.
            events: IdentityRate {
                store: Rate { burst: 2_000, per_minute: 240 },
                device: Rate { burst: 1_000, per_minute: 120 },
            },
            polls: IdentityRate {
                store: Rate { burst: 2_000, per_minute: 1_200 },
                device: Rate { burst: 1_000, per_minute: 600 },
            },
            hellos: IdentityRate {
                store: Rate { burst: 640, per_minute: 240 },
                device: Rate { burst: 60, per_minute: 30 },
            },
            clock_skew: Duration::from_secs(60),
            max_connections: 15_000,
            max_viewers: 2_000,
            max_viewers_per_token: 1_000,
            // Together 2,500. A class of its own for whatever can be made slow from outside: it takes no place of another.
            max_idle_connections: 1_000,
            max_requests: 200,
            max_waiting_polls: 1_000,
            // A store has a handful of tills, and each waits with one poll.
            max_waiting_polls_per_recipient: 32,
            // A scan takes a thread for milliseconds: fifty keep every core busy, and eight tills of one store come back at once.
            max_lists: 50,
            max_lists_per_recipient: 8,
            max_client_posts: 150,
            max_posts_per_recipient: 8,
            max_producer_posts: 100,
            head_timeout: Duration::from_secs(5),
            max_poll_wait: Duration::from_secs(50),
            max_poll_notices: 100,
            poll_interval: Duration::from_secs(60),
            drain_spread: Duration::from_secs(2),
            stale_after: Duration::from_secs(30),
            retry_spread: Duration::from_secs(10),
        }
    }
}
