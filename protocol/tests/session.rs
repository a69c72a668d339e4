//! The session against a naive mailbox and a naive client, for arbitrary sequences of what a network, a ledger and a till can do.
//!
//! The mailbox is a list of rows that may be superseded at any time. The client stores the notices that it receives, acknowledges some of them or
//! none, polls beside its WebSocket, and reconnects with its position or without. A read is an operation of its own: behind a slow socket a page
//! arrives long after it was requested, and acknowledgements, deadlines and changes of the mailbox come in between.
//!
//! Checked: every live notice is sent (no lost order), the chain is unbroken for a client that missed nothing, every redelivery is marked, no more
//! than `max_in_flight` notices are unacknowledged, an honest client is never closed, a dead or unresponsive one always is. Time is a number;
//! nothing sleeps.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends where it stands")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use orderbell_protocol::frame::NoticeFrame;
use orderbell_protocol::notice::EncodedNotice;
use orderbell_protocol::session::{Cursor, EventVerdict, Session, SessionInput, SessionLimits, SessionOutput};
use orderbell_protocol::{
    ClientEvent, ClientFrame, Close, Delivery, EventStatus, Freshness, Id, MailboxPage, Position, RejectionReason,
    ServerFrame,
};
use proptest::prelude::*;
use proptest::test_runner::{FailurePersistence, FileFailurePersistence};

const EPOCH: u32 = 3;
/// Rows that one read examines: few, so that some pages hold no notice and are not the last.
const ROWS_PER_READ: usize = 4;
const MAX_PENDING_EVENTS: u16 = 2;
const HEARTBEAT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(25);
const ACK_TIMEOUT: Duration = Duration::from_secs(4);

fn limits(max_in_flight: u16, page_size: u16, max_delivery_attempts: u32) -> SessionLimits {
    SessionLimits {
        hello_timeout: Duration::from_secs(5),
        max_in_flight,
        page_size,
        heartbeat_interval: HEARTBEAT,
        idle_timeout: IDLE_TIMEOUT,
        ack_timeout: ACK_TIMEOUT,
        max_delivery_attempts,
        max_frames_per_second: 1_000,
        max_pending_events: MAX_PENDING_EVENTS,
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Appends rows with gaps of `gap` seqs.
    Append {
        rows: usize,
        gap: u64,
    },
    /// Supersedes the nth row from the end.
    Supersede {
        back: usize,
    },
    MailboxChanged,
    /// The requested page arrives.
    Read,
    /// The client acknowledges the nth newest notice that it received on this connection.
    Ack {
        back: usize,
    },
    /// The client acknowledges a notice that was never sent.
    BadAck {
        beyond: u64,
    },
    /// The client sends a ping.
    Ping,
    /// The client polls notices beside its WebSocket and acknowledges them by the poll.
    Poll {
        count: usize,
    },
    /// Milliseconds pass.
    Wait(u64),
    /// The client opens another connection, with its position or without.
    Connect {
        position: bool,
    },
    /// The client sends an event.
    Event,
    /// The oldest pending event becomes durable.
    Stored,
    /// The client rejects the nth newest notice that it received on this connection.
    Nack {
        back: usize,
    },
}

#[derive(Debug)]
struct Row {
    position: Position,
    superseded: bool,
}

struct World {
    limits: SessionLimits,
    rows: Vec<Row>,
    session: Session,
    /// Pages arrive at once.
    pages_at_once: bool,
    reading: Option<(Position, Position, u16)>,
    cursor: Cursor,
    now: Duration,
    last_frame_at: Duration,
    /// When an acknowledgement last advanced, or the connection began.
    acked_at: Duration,
    closed: Option<Close>,
    /// Everything up to here is acknowledged.
    acked: Position,
    /// The client has everything up to here: the `prev` of the next new notice.
    chain_end: Position,
    /// Received on this connection.
    received: BTreeMap<u64, Position>,
    known: BTreeSet<u64>,
    nacked: usize,
    /// Events of this connection that are not durable yet, and how many events were sent and answered.
    pending: Vec<String>,
    sent_events: usize,
    answered: usize,
    /// Frames with a notice that the client had already.
    redeliveries: usize,
    /// The newest notice that the client ever stored.
    newest: Position,
}

impl World {
    fn new(limits: SessionLimits, pages_at_once: bool) -> Self {
        let start = Position::start(EPOCH);
        let mut world = Self {
            limits,
            rows: Vec::new(),
            session: Session::new(limits, 1, Duration::ZERO),
            pages_at_once,
            reading: None,
            cursor: Cursor { acked: start, sent_seq: 0 },
            now: Duration::ZERO,
            last_frame_at: Duration::ZERO,
            acked_at: Duration::ZERO,
            closed: None,
            acked: start,
            chain_end: start,
            received: BTreeMap::new(),
            known: BTreeSet::new(),
            nacked: 0,
            pending: Vec::new(),
            sent_events: 0,
            answered: 0,
            redeliveries: 0,
            newest: start,
        };
        world.connect(false);
        world
    }

    fn head(&self) -> Position {
        self.rows.last().map_or(Position::start(EPOCH), |row| row.position)
    }

    /// Reads as the ledger does: live rows behind `scan`, linked to `after`.
    fn page(&self, after: Position, scan: Position, limit: u16) -> MailboxPage {
        let mut page = MailboxPage { notices: Vec::new(), next: after, head: self.head() };
        let mut chain = after;
        let from = after.seq.max(scan.seq);
        for row in self.rows.iter().filter(|row| row.position.seq > from).take(ROWS_PER_READ) {
            if !row.superseded {
                if page.notices.len() >= usize::from(limit) {
                    return page;
                }
                page.notices.push(Delivery { position: row.position, prev: chain, notice: notice(row.position.seq) });
                chain = row.position;
            }
            page.next = row.position;
        }
        page
    }

    fn connect(&mut self, position: bool) {
        self.session = Session::new(self.limits, self.now.as_secs(), self.now);
        (self.closed, self.reading) = (None, None);
        self.received.clear();
        self.pending.clear();
        (self.sent_events, self.answered) = (0, 0);
        let position = position.then(|| self.newest.to_string());
        self.send(&ClientFrame::Hello { token: "t".into(), device: Some("till-1".into()), position });
    }

    fn send(&mut self, frame: &ClientFrame) {
        self.last_frame_at = self.now;
        self.input(SessionInput::Text(&frame.encode()));
    }

    fn input(&mut self, input: SessionInput<'_>) {
        let mut out = Vec::new();
        self.session.input(input, self.now, Freshness::default(), &mut out);
        assert!(self.closed.is_none() || out.is_empty(), "outputs after the close: {out:?}");
        for output in out {
            assert!(self.closed.is_none(), "{output:?} after a close");
            self.output(output);
        }
        assert_eq!(self.session.is_closed(), self.closed.is_some());
        if self.pages_at_once && self.closed.is_none() {
            self.read();
        }
    }

    fn output(&mut self, output: SessionOutput) {
        match output {
            SessionOutput::Authenticate { position, .. } => {
                let acked = position.unwrap_or(self.cursor.acked);
                let cursor = Cursor { acked, sent_seq: self.cursor.sent_seq };
                (self.acked, self.chain_end, self.acked_at, self.last_frame_at) = (acked, acked, self.now, self.now);
                let (device, head) = (Id::new("till-1").unwrap(), self.head());
                self.input(SessionInput::Authenticated { recipient: "store:1".into(), device, cursor, head });
            }
            SessionOutput::Read { after, scan, limit } => {
                assert_eq!(self.reading.replace((after, scan, limit)), None, "two pages are requested at once");
                assert!(limit > 0 && limit <= self.limits.page_size);
            }
            SessionOutput::Send(text) if text.contains("\"type\":\"notice\"") => self.receive(&text),
            SessionOutput::Send(text) => {
                if let ServerFrame::EventResult(result) = serde_json::from_str(&text).unwrap() {
                    self.answered += 1;
                    let full = self.pending.len() >= usize::from(MAX_PENDING_EVENTS);
                    let is_busy = full && result.reason == Some(RejectionReason::Busy);
                    assert!(result.status == EventStatus::Stored || is_busy, "{text}");
                }
            }
            SessionOutput::Ping
            | SessionOutput::AckTimedOut(_)
            | SessionOutput::Displayed(_)
            | SessionOutput::Sent { .. }
            | SessionOutput::Acked(_) => {}
            SessionOutput::Nacked { position, reason } => {
                assert!(self.received.contains_key(&position.seq) && reason == "no-printer", "{reason}");
                self.nacked += 1;
            }
            SessionOutput::PublishEvent(event) => self.pending.push(event.id),
            SessionOutput::SaveCursor(cursor) => {
                assert!(cursor.sent_seq >= self.cursor.sent_seq || cursor.acked.seq >= self.cursor.sent_seq);
                let sent_seq = cursor.sent_seq.max(self.cursor.sent_seq);
                self.cursor = Cursor { acked: cursor.acked, sent_seq };
                assert_eq!(cursor.acked, self.acked, "the saved cursor is not what the client acknowledged");
            }
            SessionOutput::Close(close) => self.closed = Some(close),
        }
    }

    /// The client receives a notice.
    fn receive(&mut self, text: &str) {
        let frame: NoticeFrame = serde_json::from_str(text).unwrap();
        let seq = frame.position.seq;
        let is_redelivery = self.known.contains(&seq);
        self.redeliveries += usize::from(is_redelivery);
        assert_eq!(frame.attempt > 1, is_redelivery, "attempt {} of {seq}", frame.attempt);
        assert!(seq > self.acked.seq, "{seq} is acknowledged and is sent again");
        if seq > self.chain_end.seq {
            assert_eq!(frame.prev, self.chain_end, "the chain is broken at {seq}");
            self.chain_end = frame.position;
        } else {
            assert!(self.received.contains_key(&seq), "{seq} was skipped and is sent out of order");
        }
        self.store(frame.position);
        self.received.insert(seq, frame.position);
        let live = |seq: &u64| self.rows.iter().any(|row| row.position.seq == *seq && !row.superseded);
        let in_flight = self.received.range(self.acked.seq + 1..).filter(|(seq, _)| live(seq)).count();
        assert!(in_flight <= usize::from(self.limits.max_in_flight), "{in_flight} unacknowledged");
    }

    fn store(&mut self, position: Position) {
        self.known.insert(position.seq);
        if position.seq > self.newest.seq {
            self.newest = position;
        }
    }

    fn read(&mut self) {
        if let Some((after, scan, limit)) = self.reading.take() {
            let page = self.page(after, scan, limit);
            self.input(SessionInput::Page(Ok(page)));
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append { rows, gap } => (0..rows).for_each(|_| self.append(gap)),
            Step::Supersede { back } => {
                if let Some(at) = self.rows.len().checked_sub(back + 1) {
                    self.rows[at].superseded = true;
                }
            }
            Step::Connect { position } if self.closed.is_some() => self.connect(position),
            Step::Connect { position } => {
                self.input(SessionInput::Replaced);
                assert_eq!(self.closed.map(Close::code), Some(4003));
                self.input(SessionInput::MailboxChanged);
                self.input(SessionInput::Time);
                self.connect(position);
            }
            Step::Wait(ms) => self.wait(Duration::from_millis(ms)),
            _ if self.closed.is_some() => {}
            Step::MailboxChanged => self.input(SessionInput::MailboxChanged),
            Step::Read => self.read(),
            Step::Ack { back } => self.ack(back),
            Step::BadAck { beyond } => self.bad_ack(beyond),
            Step::Ping => {
                self.last_frame_at = self.now;
                self.input(SessionInput::Control);
            }
            Step::Poll { count } => self.poll(count),
            Step::Event => self.send_event(),
            Step::Nack { back } => self.nack(back),
            Step::Stored if !self.pending.is_empty() => {
                let id = self.pending.remove(0);
                self.input(SessionInput::EventAnswered { id, verdict: EventVerdict::Stored });
            }
            Step::Stored => {}
        }
        assert_eq!(self.sent_events, self.answered + self.pending.len(), "an event does not have exactly one answer");
        self.check_deadline();
    }

    fn send_event(&mut self) {
        let (id, order) = (format!("e{}", self.sent_events), String::from("o1"));
        let event = ClientEvent { id, kind: "order.ready".into(), order, pickup_code: None, reason: None, at: None };
        self.sent_events += 1;
        self.send(&ClientFrame::Event(event));
        assert!(self.pending.len() <= usize::from(MAX_PENDING_EVENTS), "too many events are pending");
    }

    fn append(&mut self, gap: u64) {
        let seq = self.head().seq + 1 + gap;
        let position = Position { epoch: EPOCH, seq, check: (seq % 999) as u16 };
        self.rows.push(Row { position, superseded: false });
    }

    fn ack(&mut self, back: usize) {
        let Some(position) = self.received.values().rev().nth(back).copied() else { return };
        self.note_ack(position);
        self.send(&ClientFrame::Ack { position: position.to_string() });
        assert_eq!(self.closed, None, "an honest client is closed for an ack of {position}");
    }

    fn nack(&mut self, back: usize) {
        let Some(position) = self.received.values().rev().nth(back).copied() else { return };
        let (nacked, known) = (self.nacked, position.seq <= self.acked.seq);
        self.note_ack(position);
        self.send(&ClientFrame::Nack { position: position.to_string(), reason: "no-printer".into() });
        assert_eq!(self.closed, None, "an honest client is closed");
        assert_eq!(self.nacked, nacked + usize::from(!known), "each nack is reported once");
    }

    fn note_ack(&mut self, position: Position) {
        if position.seq > self.acked.seq {
            (self.acked, self.acked_at) = (position, self.now);
        }
    }

    fn bad_ack(&mut self, beyond: u64) {
        let top = self.received.keys().next_back().copied().unwrap_or(0).max(self.chain_end.seq).max(self.acked.seq);
        let position = Position { epoch: EPOCH, seq: top + beyond, check: 7 };
        self.send(&ClientFrame::Ack { position: position.to_string() });
        assert_eq!(self.closed.map(Close::code), Some(4001), "an ack of a notice that was never sent is accepted");
    }

    fn poll(&mut self, count: usize) {
        let live = self.rows.iter().filter(|row| !row.superseded && row.position.seq > self.newest.seq).take(count);
        let polled: Vec<Position> = live.map(|row| row.position).collect();
        polled.into_iter().for_each(|position| self.store(position));
        let position = self.newest;
        self.cursor.sent_seq = self.cursor.sent_seq.max(position.seq);
        self.note_ack(position);
        if position.seq > self.chain_end.seq {
            self.chain_end = position;
        }
        self.input(SessionInput::AckedByPoll(position));
    }

    /// Time passes; the session gets an input at each of its deadlines.
    fn wait(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(due) = self.session.deadline().filter(|due| *due <= until) {
            self.now = due.max(self.now);
            self.input(SessionInput::Time);
            self.check_close();
            let next = self.session.deadline();
            assert!(next.is_none_or(|next| next > self.now), "the deadline does not advance: {next:?}");
        }
        self.now = until;
    }

    /// Only an idle or unresponsive client is closed by a deadline, and such a client always is.
    fn check_close(&self) {
        let is_idle = self.now >= self.last_frame_at + IDLE_TIMEOUT;
        match self.closed.map(Close::code) {
            None => assert!(!is_idle, "idle, and not closed"),
            Some(3008) => assert!(is_idle, "closed as idle too early"),
            Some(4103) => {
                assert!(
                    self.now >= self.acked_at + ACK_TIMEOUT * self.limits.max_delivery_attempts,
                    "closed as unresponsive too early"
                );
            }
            Some(code) => panic!("closed with {code} by a deadline"),
        }
    }

    fn check_deadline(&self) {
        let latest = self.now + HEARTBEAT * 11 / 10;
        match self.session.deadline() {
            None => assert!(self.closed.is_some(), "a live session without a deadline"),
            Some(due) => assert!(due <= latest, "the next heartbeat is too late: {due:?}"),
        }
    }

    /// With a client that acknowledges everything that it receives, every live notice arrives.
    fn settle(&mut self) {
        if self.closed.is_some() {
            self.step(Step::Connect { position: true });
        }
        for _ in 0..3 * self.rows.len() + 6 {
            let steps = [Step::MailboxChanged, Step::Read, Step::Read, Step::Ack { back: 0 }, Step::Read];
            steps.into_iter().for_each(|step| self.step(step));
        }
        assert_eq!(self.closed, None);
        let live = self.rows.iter().filter(|row| !row.superseded).map(|row| row.position.seq);
        let missed: Vec<u64> = live.filter(|seq| !self.known.contains(seq)).collect();
        assert!(missed.is_empty(), "never sent: {missed:?}");
        let unsent = self.rows.iter().filter(|row| !row.superseded && row.position.seq > self.acked.seq).count();
        assert_eq!(unsent, 0, "not acknowledged at the end");
    }
}

fn notice(seq: u64) -> EncodedNotice {
    let text = format!("{{\"id\":\"n{seq}\",\"kind\":\"new_order\",\"order\":\"o{seq}\",\"at\":1,\"body\":{{}}}}");
    EncodedNotice::from_stored(text.as_bytes()).unwrap()
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1_usize..6, 0_u64..3).prop_map(|(rows, gap)| Step::Append { rows, gap }),
        5 => (0_usize..8).prop_map(|back| Step::Supersede { back }),
        6 => Just(Step::MailboxChanged),
        12 => Just(Step::Read),
        8 => (0_usize..5).prop_map(|back| Step::Ack { back }),
        1 => (1_u64..4).prop_map(|beyond| Step::BadAck { beyond }),
        5 => Just(Step::Ping),
        1 => (0_usize..3).prop_map(|count| Step::Poll { count }),
        8 => (1_u64..6_000).prop_map(Step::Wait),
        1 => (1_u64..40_000).prop_map(Step::Wait),
        2 => any::<bool>().prop_map(|position| Step::Connect { position }),
        4 => Just(Step::Event),
        3 => Just(Step::Stored),
        2 => (0_usize..5).prop_map(|back| Step::Nack { back }),
    ]
}

/// A case that failed is kept beside this file, to be committed and tried first from then on. The default looks for a `lib.rs`, which tests have not.
fn kept_failures() -> Option<Box<dyn FailurePersistence>> {
    Some(Box::new(FileFailurePersistence::WithSource("regressions")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 768, failure_persistence: kept_failures(), ..ProptestConfig::default() })]

    #[test]
    fn the_chain_is_unbroken_and_every_live_notice_arrives(
        max_in_flight in 1_u16..8,
        page_size in 1_u16..5,
        max_delivery_attempts in 1_u32..4,
        pages_at_once: bool,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut world = World::new(limits(max_in_flight, page_size, max_delivery_attempts), pages_at_once);
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();
    }

    #[test]
    fn a_client_that_never_acknowledges_is_closed_after_max_delivery_attempts(
        max_in_flight in 1_u16..8,
        page_size in 1_u16..5,
        max_delivery_attempts in 1_u32..5,
        rows in 1_usize..12,
    ) {
        let mut world = World::new(limits(max_in_flight, page_size, max_delivery_attempts), true);
        world.step(Step::Append { rows, gap: 0 });
        world.step(Step::MailboxChanged);
        for round in 1..=max_delivery_attempts {
            prop_assert_eq!(world.received.len(), rows.min(usize::from(max_in_flight)), "round {}", round);
            prop_assert_eq!(world.closed, None, "closed in round {} of {}", round, max_delivery_attempts);
            world.step(Step::Ping);
            world.step(Step::Wait(4_000));
        }
        prop_assert_eq!(world.closed.map(Close::code), Some(4103));
    }

    #[test]
    fn an_idle_client_gets_heartbeats_and_is_closed_after_idle_timeout(seed: u64, hello: bool) {
        let limits = limits(4, 4, 3);
        let mut world = World::new(limits, true);
        world.session = Session::new(limits, seed, Duration::ZERO);
        if hello {
            world.connect(false);
        }
        let (mut out, mut heartbeats) = (Vec::new(), 0);
        while let Some(due) = world.session.deadline() {
            world.session.input(SessionInput::Time, due, Freshness::default(), &mut out);
            heartbeats += usize::from(out.contains(&SessionOutput::Ping));
            world.now = due;
            prop_assert!(!out.is_empty(), "a deadline without output");
            if let Some(SessionOutput::Close(close)) = out.last() {
                prop_assert_eq!(close.code(), 3008);
            }
            out.clear();
        }
        prop_assert_eq!((world.now, heartbeats), if hello { (IDLE_TIMEOUT, 2) } else { (limits.hello_timeout, 0) });
    }
}

#[test]
fn a_page_requested_before_a_rewind_does_not_prevent_redelivery() {
    let mut world = World::new(limits(4, 4, 3), false);
    let (two, one) = (Step::Append { rows: 2, gap: 0 }, Step::Append { rows: 1, gap: 0 });
    let steps = [two, Step::MailboxChanged, Step::Read, Step::Read, one];
    steps.into_iter().for_each(|step| world.step(step));
    // The third row is superseded before it is read: the page requested now holds no notice and only advances `scan` behind row 3.
    [Step::Supersede { back: 0 }, Step::MailboxChanged, Step::Wait(4_000)]
        .into_iter()
        .for_each(|step| world.step(step));
    assert_eq!(world.redeliveries, 0);
    let steps = [Step::Read, one, Step::Read, Step::Read];
    steps.into_iter().for_each(|step| world.step(step));
    assert_eq!(world.redeliveries, 2, "unacknowledged notices are not sent again");
}
