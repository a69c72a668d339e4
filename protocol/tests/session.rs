//! The session against a naive mailbox and a naive client, for any sequence of what a network, a ledger and a till
//! can do.
//!
//! The mailbox is a list of rows that may be superseded at any time. The client keeps what it hears, acknowledges
//! some of it, or nothing, polls beside its socket and connects again with its position or without. Reading is an
//! operation of its own: behind a slow socket a page comes long after it was asked for, and acknowledgements,
//! deadlines and rings come in between.
//!
//! Attacked: a notice that is never sent although it is live (a lost order), a chain that seems broken to a client
//! that missed nothing, a repeat that is not marked, a window that is overrun, an honest client that is closed, a
//! dead or deaf one that is not. Time is a number; nothing sleeps.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends where it stands")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use orderbell_protocol::frame::NoticeFrame;
use orderbell_protocol::notice::Encoded;
use orderbell_protocol::session::{Input, Limits, Output, Session, Standing, Verdict};
use orderbell_protocol::{ClientEvent, ClientFrame, Close, Delivery, Freshness, Id, Page, Position, ServerFrame};
use proptest::prelude::*;

const EPOCH: u32 = 3;
/// Rows that one read looks at: small, so that pages come that hold nothing and are not the last.
const ROWS_PER_READ: usize = 4;
const EVENTS_MAX: u16 = 2;
const HEARTBEAT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(25);
const REDELIVER: Duration = Duration::from_secs(4);

fn limits(window: u16, page: u16, attempts_max: u32) -> Limits {
    Limits {
        hello_timeout: Duration::from_secs(5),
        window,
        page,
        heartbeat: HEARTBEAT,
        silence_timeout: SILENCE,
        redeliver_after: REDELIVER,
        attempts_max,
        frames_per_second: 1_000,
        events_max: EVENTS_MAX,
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many rows are appended, this far apart.
    Append {
        rows: usize,
        hole: u64,
    },
    /// The nth row from the end is superseded.
    Supersede {
        back: usize,
    },
    Ring,
    /// The page that was asked for comes.
    Read,
    /// The client acknowledges the nth notice from the newest that it got on this connection.
    Ack {
        back: usize,
    },
    /// It acknowledges what it was never sent.
    BadAck {
        beyond: u64,
    },
    Alive,
    /// It polls so many beside its socket, and acknowledges them there.
    Poll {
        count: usize,
    },
    Wait(u64),
    Connect {
        position: bool,
    },
    /// The client says that something happened.
    Say,
    /// The oldest of what it said becomes durable.
    Logged,
    /// It cannot use the nth notice from the newest that it got on this connection.
    Unusable {
        back: usize,
    },
}

#[derive(Debug)]
struct Row {
    position: Position,
    superseded: bool,
}

struct World {
    limits: Limits,
    rows: Vec<Row>,
    session: Session,
    /// Pages come at once.
    quick: bool,
    reading: Option<(Position, Position, u16)>,
    standing: Standing,
    now: Duration,
    heard_at: Duration,
    /// When the window last moved, or the connection began.
    moved_at: Duration,
    closed: Option<Close>,
    /// What this connection must have been acknowledged up to.
    acked: Position,
    /// The newest that the client knows to be complete on this connection: the `after` of the next new notice.
    here: Position,
    /// Got on this connection.
    got: BTreeMap<u64, Position>,
    known: BTreeSet<u64>,
    unusable: usize,
    /// Events of this connection that wait to be durable, and how many were said and answered.
    appending: Vec<String>,
    said: usize,
    answered: usize,
    /// Frames that held a notice once more.
    repeats: usize,
    /// Newest that the client ever kept.
    newest: Position,
}

impl World {
    fn new(limits: Limits, quick: bool) -> Self {
        let start = Position::start(EPOCH);
        let mut world = Self {
            limits,
            rows: Vec::new(),
            session: Session::new(limits, 1, Duration::ZERO),
            quick,
            reading: None,
            standing: Standing { acked: start, sent_seq: 0 },
            now: Duration::ZERO,
            heard_at: Duration::ZERO,
            moved_at: Duration::ZERO,
            closed: None,
            acked: start,
            here: start,
            got: BTreeMap::new(),
            known: BTreeSet::new(),
            unusable: 0,
            appending: Vec::new(),
            said: 0,
            answered: 0,
            repeats: 0,
            newest: start,
        };
        world.connect(false);
        world
    }

    fn head(&self) -> Position {
        self.rows.last().map_or(Position::start(EPOCH), |row| row.position)
    }

    /// The read function, as the ledger's: live rows behind `scan`, linked to `after`.
    fn page(&self, after: Position, scan: Position, limit: u16) -> Page {
        let mut page = Page { notices: Vec::new(), next: after, head: self.head() };
        let mut chain = after;
        let from = after.seq.max(scan.seq);
        for row in self.rows.iter().filter(|row| row.position.seq > from).take(ROWS_PER_READ) {
            if !row.superseded {
                if page.notices.len() >= usize::from(limit) {
                    return page;
                }
                page.notices.push(Delivery { position: row.position, after: chain, notice: notice(row.position.seq) });
                chain = row.position;
            }
            page.next = row.position;
        }
        page
    }

    fn connect(&mut self, position: bool) {
        self.session = Session::new(self.limits, self.now.as_secs(), self.now);
        (self.closed, self.reading) = (None, None);
        self.got.clear();
        self.appending.clear();
        (self.said, self.answered) = (0, 0);
        let named = position.then(|| self.newest.to_string());
        self.say(&ClientFrame::Hello { token: "t".into(), device: Some("till-1".into()), position: named });
    }

    fn say(&mut self, frame: &ClientFrame) {
        self.heard_at = self.now;
        self.input(Input::Text(&frame.encode()));
    }

    fn input(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        self.session.input(input, self.now, Freshness::default(), &mut out);
        assert!(self.closed.is_none() || out.is_empty(), "after a close: {out:?}");
        for output in out {
            assert!(self.closed.is_none(), "{output:?} behind a close");
            self.output(output);
        }
        assert_eq!(self.session.is_closed(), self.closed.is_some());
        if self.quick && self.closed.is_none() {
            self.read();
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Admit { position, .. } => {
                let acked = position.unwrap_or(self.standing.acked);
                let standing = Standing { acked, sent_seq: self.standing.sent_seq };
                (self.acked, self.here, self.moved_at, self.heard_at) = (acked, acked, self.now, self.now);
                let (device, head) = (Id::new("till-1").unwrap(), self.head());
                self.input(Input::Admitted { recipient: "store/1".into(), device, standing, head });
            }
            Output::Read { after, scan, limit } => {
                assert_eq!(self.reading.replace((after, scan, limit)), None, "two pages are asked for at once");
                assert!(limit > 0 && limit <= self.limits.page);
            }
            Output::Send(text) if text.contains("\"type\":\"notice\"") => self.heard(&text),
            Output::Send(text) => {
                if let ServerFrame::Logged { status, reason, .. } = serde_json::from_str(&text).unwrap() {
                    self.answered += 1;
                    let full = self.appending.len() >= usize::from(EVENTS_MAX);
                    assert!(status == "logged" || (full && reason.as_deref() == Some("busy")), "{text}");
                }
            }
            Output::Ping | Output::GaveUp(_) | Output::Shown(_) | Output::Sent { .. } | Output::Received(_) => {}
            Output::Unusable { position, reason } => {
                assert!(self.got.contains_key(&position.seq) && reason == "no-printer", "{reason}");
                self.unusable += 1;
            }
            Output::Append(event) => self.appending.push(event.id),
            Output::Stand(standing) => {
                assert!(standing.sent_seq >= self.standing.sent_seq || standing.acked.seq >= self.standing.sent_seq);
                let sent_seq = standing.sent_seq.max(self.standing.sent_seq);
                self.standing = Standing { acked: standing.acked, sent_seq };
                assert_eq!(standing.acked, self.acked, "stands where nobody acknowledged");
            }
            Output::Close(close) => self.closed = Some(close),
        }
    }

    /// The client gets a notice.
    fn heard(&mut self, text: &str) {
        let frame: NoticeFrame = serde_json::from_str(text).unwrap();
        let seq = frame.position.seq;
        let repeated = self.known.contains(&seq);
        self.repeats += usize::from(repeated);
        assert_eq!(frame.attempt > 1, repeated, "attempt {} of {seq}", frame.attempt);
        assert!(seq > self.acked.seq, "{seq} was acknowledged and is sent again");
        if seq > self.here.seq {
            assert_eq!(frame.after, self.here, "the chain seems broken at {seq}");
            self.here = frame.position;
        } else {
            assert!(self.got.contains_key(&seq), "{seq} was skipped and comes late");
        }
        self.keep(frame.position);
        self.got.insert(seq, frame.position);
        let live = |seq: &u64| self.rows.iter().any(|row| row.position.seq == *seq && !row.superseded);
        let in_flight = self.got.range(self.acked.seq + 1..).filter(|(seq, _)| live(seq)).count();
        assert!(in_flight <= usize::from(self.limits.window), "{in_flight} un-acknowledged");
    }

    fn keep(&mut self, position: Position) {
        self.known.insert(position.seq);
        if position.seq > self.newest.seq {
            self.newest = position;
        }
    }

    fn read(&mut self) {
        if let Some((after, scan, limit)) = self.reading.take() {
            let page = self.page(after, scan, limit);
            self.input(Input::Page(Ok(page)));
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append { rows, hole } => (0..rows).for_each(|_| self.append(hole)),
            Step::Supersede { back } => {
                if let Some(at) = self.rows.len().checked_sub(back + 1) {
                    self.rows[at].superseded = true;
                }
            }
            Step::Connect { position } if self.closed.is_some() => self.connect(position),
            Step::Connect { position } => {
                self.input(Input::Replaced);
                assert_eq!(self.closed.map(Close::code), Some(4003));
                self.input(Input::Rung);
                self.input(Input::Time);
                self.connect(position);
            }
            Step::Wait(ms) => self.wait(Duration::from_millis(ms)),
            _ if self.closed.is_some() => {}
            Step::Ring => self.input(Input::Rung),
            Step::Read => self.read(),
            Step::Ack { back } => self.ack(back),
            Step::BadAck { beyond } => self.bad_ack(beyond),
            Step::Alive => {
                self.heard_at = self.now;
                self.input(Input::Control);
            }
            Step::Poll { count } => self.poll(count),
            Step::Say => self.say_event(),
            Step::Unusable { back } => self.cannot_use(back),
            Step::Logged if !self.appending.is_empty() => {
                let id = self.appending.remove(0);
                self.input(Input::Logged { id, verdict: Verdict::Logged });
            }
            Step::Logged => {}
        }
        assert_eq!(self.said, self.answered + self.appending.len(), "an event without its one answer");
        self.check_deadline();
    }

    fn say_event(&mut self) {
        let (id, order) = (format!("e{}", self.said), String::from("o1"));
        let event = ClientEvent { id, kind: "order.ready".into(), order, code: None, reason: None, at: None };
        self.said += 1;
        self.say(&ClientFrame::Event(event));
        assert!(self.appending.len() <= usize::from(EVENTS_MAX), "more wait than may");
    }

    fn append(&mut self, hole: u64) {
        let seq = self.head().seq + 1 + hole;
        let position = Position { epoch: EPOCH, seq, check: (seq % 999) as u16 };
        self.rows.push(Row { position, superseded: false });
    }

    fn ack(&mut self, back: usize) {
        let Some(position) = self.got.values().rev().nth(back).copied() else { return };
        self.moved(position);
        self.say(&ClientFrame::Ack { position: position.to_string() });
        assert_eq!(self.closed, None, "an honest client is closed for an ack of {position}");
    }

    fn cannot_use(&mut self, back: usize) {
        let Some(position) = self.got.values().rev().nth(back).copied() else { return };
        let (alarms, known) = (self.unusable, position.seq <= self.acked.seq);
        self.moved(position);
        self.say(&ClientFrame::Unusable { position: position.to_string(), reason: "no-printer".into() });
        assert_eq!(self.closed, None, "an honest client is closed");
        assert_eq!(self.unusable, alarms + usize::from(!known), "each alarm once");
    }

    fn moved(&mut self, position: Position) {
        if position.seq > self.acked.seq {
            (self.acked, self.moved_at) = (position, self.now);
        }
    }

    fn bad_ack(&mut self, beyond: u64) {
        let top = self.got.keys().next_back().copied().unwrap_or(0).max(self.here.seq).max(self.acked.seq);
        let position = Position { epoch: EPOCH, seq: top + beyond, check: 7 };
        self.say(&ClientFrame::Ack { position: position.to_string() });
        assert_eq!(self.closed.map(Close::code), Some(4001), "acknowledged what was never sent");
    }

    fn poll(&mut self, count: usize) {
        let live = self.rows.iter().filter(|row| !row.superseded && row.position.seq > self.newest.seq).take(count);
        let polled: Vec<Position> = live.map(|row| row.position).collect();
        polled.into_iter().for_each(|position| self.keep(position));
        let position = self.newest;
        self.standing.sent_seq = self.standing.sent_seq.max(position.seq);
        self.moved(position);
        if position.seq > self.here.seq {
            self.here = position;
        }
        self.input(Input::AckedElsewhere(position));
    }

    /// Time goes on; every deadline on the way is kept.
    fn wait(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(due) = self.session.deadline().filter(|due| *due <= until) {
            self.now = due.max(self.now);
            self.input(Input::Time);
            self.check_close();
            let next = self.session.deadline();
            assert!(next.is_none_or(|next| next > self.now), "a deadline that does not move: {next:?}");
        }
        self.now = until;
    }

    /// Only who is silent or deaf is closed by the clock, and they always are.
    fn check_close(&self) {
        let silent = self.now >= self.heard_at + SILENCE;
        match self.closed.map(Close::code) {
            None => assert!(!silent, "silent, and not closed"),
            Some(3008) => assert!(silent, "closed as silent"),
            Some(4103) => {
                assert!(self.now >= self.moved_at + REDELIVER * self.limits.attempts_max, "closed as deaf too early");
            }
            Some(code) => panic!("closed with {code} by the clock"),
        }
    }

    fn check_deadline(&self) {
        let latest = self.now + HEARTBEAT * 11 / 10;
        match self.session.deadline() {
            None => assert!(self.closed.is_some(), "a live session without a deadline"),
            Some(due) => assert!(due <= latest, "the next heartbeat is too late: {due:?}"),
        }
    }

    /// Left alone with a client that acknowledges all it gets, everything live arrives.
    fn settle(&mut self) {
        if self.closed.is_some() {
            self.step(Step::Connect { position: true });
        }
        for _ in 0..3 * self.rows.len() + 6 {
            let steps = [Step::Ring, Step::Read, Step::Read, Step::Ack { back: 0 }, Step::Read];
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

fn notice(seq: u64) -> Encoded {
    let text = format!("{{\"id\":\"n{seq}\",\"kind\":\"new_order\",\"order\":\"o{seq}\",\"at\":1,\"body\":{{}}}}");
    Encoded::from_stored(text.as_bytes()).unwrap()
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1_usize..6, 0_u64..3).prop_map(|(rows, hole)| Step::Append { rows, hole }),
        5 => (0_usize..8).prop_map(|back| Step::Supersede { back }),
        6 => Just(Step::Ring),
        12 => Just(Step::Read),
        8 => (0_usize..5).prop_map(|back| Step::Ack { back }),
        1 => (1_u64..4).prop_map(|beyond| Step::BadAck { beyond }),
        5 => Just(Step::Alive),
        1 => (0_usize..3).prop_map(|count| Step::Poll { count }),
        8 => (1_u64..6_000).prop_map(Step::Wait),
        1 => (1_u64..40_000).prop_map(Step::Wait),
        2 => any::<bool>().prop_map(|position| Step::Connect { position }),
        4 => Just(Step::Say),
        3 => Just(Step::Logged),
        2 => (0_usize..5).prop_map(|back| Step::Unusable { back }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 768, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_chain_holds_and_every_live_notice_arrives(
        window in 1_u16..8,
        page in 1_u16..5,
        attempts_max in 1_u32..4,
        quick: bool,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut world = World::new(limits(window, page, attempts_max), quick);
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();
    }

    #[test]
    fn a_client_that_never_acknowledges_is_closed_as_deaf_after_its_rounds(
        window in 1_u16..8,
        page in 1_u16..5,
        attempts_max in 1_u32..5,
        rows in 1_usize..12,
    ) {
        let mut world = World::new(limits(window, page, attempts_max), true);
        world.step(Step::Append { rows, hole: 0 });
        world.step(Step::Ring);
        for round in 1..=attempts_max {
            prop_assert_eq!(world.got.len(), rows.min(usize::from(window)), "round {}", round);
            prop_assert_eq!(world.closed, None, "closed in round {} of {}", round, attempts_max);
            world.step(Step::Alive);
            world.step(Step::Wait(4_000));
        }
        prop_assert_eq!(world.closed.map(Close::code), Some(4103));
    }

    #[test]
    fn who_says_nothing_is_closed_after_the_silence_and_a_heartbeat_comes_before(seed: u64, hello: bool) {
        let limits = limits(4, 4, 3);
        let mut world = World::new(limits, true);
        world.session = Session::new(limits, seed, Duration::ZERO);
        if hello {
            world.connect(false);
        }
        let (mut out, mut beats) = (Vec::new(), 0);
        while let Some(due) = world.session.deadline() {
            world.session.input(Input::Time, due, Freshness::default(), &mut out);
            beats += usize::from(out.contains(&Output::Ping));
            world.now = due;
            prop_assert!(!out.is_empty(), "a deadline for nothing");
            if let Some(Output::Close(close)) = out.last() {
                prop_assert_eq!(close.code(), 3008);
            }
            out.clear();
        }
        prop_assert_eq!((world.now, beats), if hello { (SILENCE, 2) } else { (limits.hello_timeout, 0) });
    }
}

#[test]
fn a_page_from_before_a_rewind_does_not_hide_what_must_be_sent_again() {
    let mut world = World::new(limits(4, 4, 3), false);
    let (two, one) = (Step::Append { rows: 2, hole: 0 }, Step::Append { rows: 1, hole: 0 });
    let steps = [two, Step::Ring, Step::Read, Step::Read, one];
    steps.into_iter().for_each(|step| world.step(step));
    // The third row is superseded before it is read: the page that is asked for now says only "look behind 3".
    [Step::Supersede { back: 0 }, Step::Ring, Step::Wait(4_000)].into_iter().for_each(|step| world.step(step));
    assert_eq!(world.repeats, 0);
    let steps = [Step::Read, one, Step::Read, Step::Read];
    steps.into_iter().for_each(|step| world.step(step));
    assert_eq!(world.repeats, 2, "un-acknowledged notices are not sent again");
}
