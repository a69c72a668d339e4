//! The protocol state of one connected client: pure, without socket, clock or mailbox.
//!
//! ```text
//!   AwaitHello --hello--> Authenticating --admitted--> Live --close--> Closed
//! ```
//!
//! The shell feeds [`Input`]s with the time since the process started and carries out the [`Output`]s in order. A session never holds a
//! notice: it holds positions. It asks for a page with [`Output::Read`], sends what comes back, and remembers what is un-acknowledged.
//! When acknowledgements stay away it goes back to the last acknowledged position and reads again, with a higher `attempt`; when none
//! ever comes, the client is connected but deaf, and the socket is closed so that somebody notices.
//!
//! Two cursors: `chain` is the last notice sent (the `after` of the next), `scan` how far the mailbox was looked through behind it (rows
//! that are superseded are not looked at twice). Refused: a queue of notices per connection (a slow reader would then cost memory and
//! lose on overflow), and timers per notice (one deadline serves the whole window, since acknowledgements are cumulative).

mod live;

use std::collections::VecDeque;
use std::time::Duration;

use crate::close::Close;
use crate::frame::{CLIENT_FRAME_BYTES_MAX, ClientEvent, ClientFrame, Freshness, ServerFrame, TOKEN_BYTES_MAX};
use crate::page::{Page, ReadError};
use crate::position::Position;
use crate::recipient::Id;
use live::Live;

/// Longest word that a client gives for what it cannot use.
const REASON_BYTES_MAX: usize = 32;

/// The bounds of a session. Every value has its reason in the configuration's defaults.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A client that says nothing for this long after connecting is closed.
    pub hello_timeout: Duration,
    /// Un-acknowledged notices at once.
    pub window: u16,
    /// Notices read in one turn.
    pub page: u16,
    /// A `beat` and a ping at least this often (jittered by a tenth).
    pub heartbeat: Duration,
    /// Nothing heard for this long: the connection is dead.
    pub silence_timeout: Duration,
    /// Without any acknowledgement for this long, un-acknowledged notices are sent again.
    pub redeliver_after: Duration,
    /// Sent this often without a single acknowledgement, the client is deaf.
    pub attempts_max: u32,
    /// Text frames a second that a client may send, on average and at once.
    pub frames_per_second: u32,
    /// Events of one client that wait to be durable.
    pub events_max: u16,
}

/// What the mailbox knows of a device: where it stands, and what it may have got already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Everything up to here is acknowledged.
    pub acked: Position,
    /// Highest seq that was ever sent to this device: up to here a notice may be a repeat.
    pub sent_seq: u64,
}

/// What happens to a session.
#[derive(Debug)]
pub enum Input<'a> {
    /// A text frame.
    Text(&'a str),
    /// A binary frame.
    Binary,
    /// A ping or pong: a sign of life.
    Control,
    /// The token is good: who it is, its device and where it stands.
    Admitted {
        /// Shown in `welcome`.
        recipient: String,
        /// Shown in `welcome`.
        device: Id,
        /// Where reading starts.
        standing: Standing,
        /// The newest durable notice.
        head: Position,
    },
    /// The token is not good, or the position is not: close.
    Turned(Close),
    /// Something new is in the mailbox, or may be.
    Rung,
    /// The answer to [`Output::Read`].
    Page(Result<Page, ReadError>),
    /// The same device acknowledged on another way (a poll beside the socket).
    AckedElsewhere(Position),
    /// The deadline has come.
    Time,
    /// The server stops.
    Drain {
        /// Delay chosen for this client. Milliseconds.
        retry_ms: u32,
    },
    /// The answer to [`Output::Append`].
    Logged {
        /// The client's own id of the event.
        id: String,
        /// What became of it.
        verdict: Verdict,
    },
    /// The same device connected again.
    Replaced,
    /// The token is past its end.
    Expired,
}

/// What became of an event that a client said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Durable: it will come back as a fact, or as a notice that it came too late.
    Logged,
    /// It was durable before.
    Duplicate,
    /// Not taken, for this reason. `unavailable` and `busy` pass; the others will not.
    Refused(&'static str),
}

/// What the shell has to do, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Check the token and find the standing of the device; answer `Admitted` or `Turned`.
    Admit {
        /// The token, unchecked.
        token: String,
        /// The device the client names.
        device: Option<Id>,
        /// The position the client names.
        position: Option<Position>,
    },
    /// Read the mailbox: `after` is the chain, `scan` where looking begins; answer `Page`.
    Read {
        /// The last notice sent.
        after: Position,
        /// Rows up to here need no second look.
        scan: Position,
        /// At most this many notices.
        limit: u16,
    },
    /// Write a text frame.
    Send(String),
    /// Write a ping frame.
    Ping,
    /// Note where the device stands.
    Stand(Standing),
    /// Notices were sent: a stretch of the mailbox, both ends included. For an order's story; nothing follows from it.
    Sent {
        /// Seq of the first.
        from: u64,
        /// Seq of the last.
        to: u64,
        /// The same of all.
        attempt: u32,
    },
    /// The client has received and kept everything up to here. For an order's story; [`Output::Stand`] says where it stands.
    Received(Position),
    /// The client says that a person has seen this notice.
    Shown(Position),
    /// The client cannot use this notice: an alarm. It counts as acknowledged.
    Unusable {
        /// Which.
        position: Position,
        /// The client's own word.
        reason: String,
    },
    /// The client acknowledged nothing from here on, however often it was sent: the socket is about to be closed as deaf.
    GaveUp(Position),
    /// Make this event durable; answer `Logged`.
    Append(ClientEvent),
    /// Write a close frame and end.
    Close(Close),
}

/// The session of one connection.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    state: State,
    /// Spreads heartbeats; any number will do.
    seed: u64,
    last_heard: Duration,
    /// Frames left in the bucket, in thousandths, and when it was filled.
    bucket: (u64, Duration),
}

#[derive(Debug)]
enum State {
    AwaitHello { until: Duration },
    Authenticating,
    Live(Live),
    Closed,
}

impl Session {
    /// A session that begins at `now`. `seed` spreads its heartbeats against those of others.
    #[must_use]
    pub fn new(limits: Limits, seed: u64, now: Duration) -> Self {
        let state = State::AwaitHello { until: now + limits.hello_timeout };
        let bucket = (u64::from(limits.frames_per_second) * 1000, now);
        Self { limits, state, seed, last_heard: now, bucket }
    }

    /// When [`Input::Time`] is due, if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        match &self.state {
            State::AwaitHello { until } => Some(*until),
            State::Authenticating | State::Closed => None,
            State::Live(live) => {
                let quiet = (self.last_heard + self.limits.silence_timeout).min(live.beat_at);
                Some(if live.in_flight.is_empty() { quiet } else { quiet.min(live.redeliver_at) })
            }
        }
    }

    /// True once [`Output::Close`] was given out.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// One thing happened at `now`; what is to be done is added to `out`. `fresh` is only told to the client, never decided
    /// upon.
    pub fn input(&mut self, input: Input<'_>, now: Duration, fresh: Freshness, out: &mut Vec<Output>) {
        if self.is_closed() {
            return;
        }
        match input {
            Input::Text(text) => self.text(text, now, out),
            Input::Binary => self.close(Close::Unsupported, out),
            Input::Control => self.last_heard = now,
            Input::Admitted { recipient, device, standing, head } => {
                self.admitted(recipient, &device, (standing, head), now, fresh, out);
            }
            Input::Turned(close) => self.close(close, out),
            Input::Rung => self.rung(out),
            Input::Page(page) => self.page(page, now, out),
            Input::AckedElsewhere(position) => self.acked_elsewhere(position, now, out),
            Input::Time => self.time(now, fresh, out),
            Input::Drain { retry_ms } => {
                out.push(Output::Send(ServerFrame::Leave { retry_ms }.encode()));
                self.close(Close::Restart { retry_ms }, out);
            }
            Input::Logged { id, verdict } => self.logged(id, verdict, out),
            Input::Replaced => self.close(Close::Replaced, out),
            Input::Expired => self.close(Close::Unauthorized, out),
        }
    }

    fn close(&mut self, close: Close, out: &mut Vec<Output>) {
        self.state = State::Closed;
        out.push(Output::Close(close));
    }

    fn text(&mut self, text: &str, now: Duration, out: &mut Vec<Output>) {
        self.last_heard = now;
        if !self.take_frame(now) {
            return self.close(Close::Rate, out);
        }
        let frame = match ClientFrame::decode(text) {
            Ok(frame) => frame,
            Err(why) => return self.close(Close::BadMessage(why), out),
        };
        match (frame, &self.state) {
            (ClientFrame::Hello { token, device, position }, State::AwaitHello { .. }) => {
                self.hello(token, device, position, out);
            }
            (ClientFrame::Hello { .. }, _) => self.close(Close::BadMessage("a second hello"), out),
            (ClientFrame::Bye, _) => self.close(Close::Bye, out),
            (ClientFrame::Ack { position }, State::Live(_)) => match position.parse() {
                Ok(position) => self.ack(position, now, out),
                Err(_) => self.close(Close::BadMessage("not a position"), out),
            },
            (ClientFrame::Unusable { position, reason }, State::Live(_)) => match position.parse() {
                Ok(position) => self.unusable(position, &reason, now, out),
                Err(_) => self.close(Close::BadMessage("not a position"), out),
            },
            (ClientFrame::Shown { position }, State::Live(_)) => match position.parse() {
                Ok(position) => out.push(Output::Shown(position)),
                Err(_) => self.close(Close::BadMessage("not a position"), out),
            },
            (ClientFrame::Ack { .. } | ClientFrame::Shown { .. } | ClientFrame::Unusable { .. }, _) => {
                self.close(Close::BadMessage("a frame that needs a hello before"), out);
            }
            (ClientFrame::Event(event), State::Live(live)) if live.appending < self.limits.events_max => {
                self.append(event, out);
            }
            (ClientFrame::Event(event), State::Live(_)) => {
                out.push(Output::Send(ServerFrame::logged(event.id, Verdict::Refused("busy")).encode()));
            }
            (ClientFrame::Event(_), _) => self.close(Close::BadMessage("event before hello"), out),
        }
    }

    fn unusable(&mut self, position: Position, reason: &str, now: Duration, out: &mut Vec<Output>) {
        let sent = matches!(&self.state, State::Live(live) if live.sent.contains(&position));
        if sent {
            // A word, not a text: what clients write freely must not come into logs.
            let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            let plain = !reason.is_empty() && reason.len() <= REASON_BYTES_MAX && reason.chars().all(word);
            let reason = if plain { reason.to_owned() } else { String::from("other") };
            out.push(Output::Unusable { position, reason });
        }
        self.ack(position, now, out);
    }

    fn append(&mut self, event: ClientEvent, out: &mut Vec<Output>) {
        let State::Live(live) = &mut self.state else { return };
        live.appending += 1;
        out.push(Output::Append(event));
    }

    fn logged(&mut self, id: String, verdict: Verdict, out: &mut Vec<Output>) {
        let State::Live(live) = &mut self.state else { return };
        live.appending = live.appending.saturating_sub(1);
        out.push(Output::Send(ServerFrame::logged(id, verdict).encode()));
    }

    /// A token bucket of one second's worth of frames; false when it is empty.
    fn take_frame(&mut self, now: Duration) -> bool {
        let full = u64::from(self.limits.frames_per_second) * 1000;
        let (left, at) = self.bucket;
        let gained = u64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u64::MAX);
        let left = left.saturating_add(gained.saturating_mul(u64::from(self.limits.frames_per_second))).min(full);
        let Some(rest) = left.checked_sub(1000) else { return false };
        self.bucket = (rest, now);
        true
    }

    fn hello(&mut self, token: String, device: Option<String>, position: Option<String>, out: &mut Vec<Output>) {
        if token.len() > TOKEN_BYTES_MAX {
            return self.close(Close::Unauthorized, out);
        }
        let Ok(device) = device.map(|text| Id::new(&text)).transpose() else {
            return self.close(Close::BadMessage("not a device id"), out);
        };
        let Ok(position) = position.map(|text| text.parse()).transpose() else {
            // A till whose file is damaged is to go on, not to stay away.
            return self.close(Close::Resync("epoch-changed"), out);
        };
        self.state = State::Authenticating;
        out.push(Output::Admit { token, device, position });
    }

    fn admitted(
        &mut self,
        recipient: String,
        device: &Id,
        (standing, head): (Standing, Position),
        now: Duration,
        fresh: Freshness,
        out: &mut Vec<Output>,
    ) {
        let State::Authenticating = self.state else { return };
        self.last_heard = now;
        let acked = standing.acked;
        out.push(Output::Send(
            ServerFrame::Welcome {
                recipient,
                device: device.to_string(),
                position: acked,
                heartbeat_ms: u32::try_from(self.limits.heartbeat.as_millis()).unwrap_or(u32::MAX),
                window: self.limits.window,
                frame_bytes_max: CLIENT_FRAME_BYTES_MAX as u32,
                fresh,
            }
            .encode(),
        ));
        out.push(Output::Stand(standing));
        let beat_at = now + self.heartbeat();
        self.state = State::Live(Live {
            acked,
            chain: acked,
            scan: acked,
            head,
            in_flight: VecDeque::new(),
            sent: VecDeque::new(),
            sent_seq: standing.sent_seq,
            prior_seq: standing.sent_seq,
            rounds: 0,
            redeliver_at: now,
            beat_at,
            reading: false,
            again: false,
            stale: false,
            appending: 0,
        });
        self.rung(out);
    }

    /// The heartbeat, moved by up to a tenth: ten thousand tills that came back together must not beat together.
    fn heartbeat(&mut self) -> Duration {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let tenth = self.limits.heartbeat / 10;
        let share = u32::try_from(self.seed >> 40).unwrap_or(0) % 1000;
        self.limits.heartbeat - tenth + tenth * 2 * share / 1000
    }

    fn rung(&mut self, out: &mut Vec<Output>) {
        let limits = self.limits;
        let State::Live(live) = &mut self.state else { return };
        if live.reading {
            live.again = true;
        } else {
            live.ask(&limits, out);
        }
    }

    fn page(&mut self, page: Result<Page, ReadError>, now: Duration, out: &mut Vec<Output>) {
        let limits = self.limits;
        let State::Live(live) = &mut self.state else { return };
        live.reading = false;
        let page = match page {
            Ok(page) => page,
            Err(ReadError::Epoch) => return self.close(Close::Resync("epoch-changed"), out),
            Err(ReadError::Gone) => return self.close(Close::Resync("continuity-lost"), out),
            Err(ReadError::Ledger(_)) => return self.close(Close::Internal, out),
        };
        if std::mem::take(&mut live.stale) {
            return live.ask(&limits, out);
        }
        live.deliver(&page, &limits, now, out);
        if page.more() || std::mem::take(&mut live.again) {
            live.ask(&limits, out);
        }
    }

    fn ack(&mut self, position: Position, now: Duration, out: &mut Vec<Output>) {
        let limits = self.limits;
        let State::Live(live) = &mut self.state else { return };
        if position.epoch != live.acked.epoch {
            return self.close(Close::Resync("epoch-changed"), out);
        }
        if position.seq <= live.acked.seq {
            return;
        }
        if !live.sent.contains(&position) {
            return self.close(Close::BadMessage("ack of a notice that was not sent"), out);
        }
        out.push(Output::Received(position));
        // An acknowledgement that moves on is bounded by what was sent, and a client that catches up sends many: it costs nothing.
        self.bucket.0 += 1000;
        live.pass(position, &limits, now, out);
    }

    fn acked_elsewhere(&mut self, position: Position, now: Duration, out: &mut Vec<Output>) {
        let limits = self.limits;
        let State::Live(live) = &mut self.state else { return };
        if position.epoch != live.acked.epoch || position.seq <= live.acked.seq {
            return;
        }
        live.pass(position, &limits, now, out);
    }

    fn time(&mut self, now: Duration, fresh: Freshness, out: &mut Vec<Output>) {
        let limits = self.limits;
        if let State::AwaitHello { until } = self.state {
            if now >= until {
                self.close(Close::Timeout, out);
            }
            return;
        }
        if now >= self.last_heard + limits.silence_timeout {
            return self.close(Close::Timeout, out);
        }
        let State::Live(live) = &mut self.state else { return };
        if !live.in_flight.is_empty() && now >= live.redeliver_at {
            if live.rounds >= limits.attempts_max {
                out.extend(live.in_flight.front().map(|first| Output::GaveUp(*first)));
                return self.close(Close::Deaf, out);
            }
            live.rewind(&limits, out);
        }
        if now >= live.beat_at {
            out.push(Output::Send(ServerFrame::Beat { sent: live.chain, head: live.head, fresh }.encode()));
            out.push(Output::Ping);
            let next = self.heartbeat();
            if let State::Live(live) = &mut self.state {
                live.beat_at = now + next;
            }
        }
    }
}
