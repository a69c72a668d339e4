//! The limits of a session, each at its bound and one step beyond. What follows from sequences of inputs is in `tests/session.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends where it stands")]

use std::time::Duration;

use super::{Cursor, REASON_BYTES_MAX, Session, SessionInput, SessionLimits, SessionOutput};
use crate::notice::EncodedNotice;
use crate::{ClientFrame, Close, Delivery, Freshness, Id, MailboxPage, Position};

const SECOND: Duration = Duration::from_secs(1);

fn limits(max_frames_per_second: u32) -> SessionLimits {
    SessionLimits {
        hello_timeout: 5 * SECOND,
        max_in_flight: 64,
        page_size: 64,
        heartbeat_interval: 10 * SECOND,
        idle_timeout: 25 * SECOND,
        ack_timeout: 4 * SECOND,
        max_delivery_attempts: 3,
        max_frames_per_second,
        max_pending_events: 2,
    }
}

fn position(seq: u64) -> Position {
    Position { epoch: 1, seq, check: 0 }
}

fn ack(seq: u64) -> ClientFrame {
    ClientFrame::Ack { position: position(seq).to_string() }
}

fn hello() -> ClientFrame {
    ClientFrame::Hello { token: "t".into(), device: None, position: None }
}

/// A session, its clock, and everything that it returned.
struct Script {
    session: Session,
    now: Duration,
    out: Vec<SessionOutput>,
}

impl Script {
    fn new(limits: SessionLimits) -> Self {
        Self { session: Session::new(limits, 1, Duration::ZERO), now: Duration::ZERO, out: Vec::new() }
    }

    /// An authenticated session to which notices 1 to `notices` were sent. The client has sent one frame.
    fn live(limits: SessionLimits, notices: u64) -> Self {
        let mut script = Self::new(limits);
        script.send(&hello());
        let (start, device) = (Position::start(1), Id::new("till-1").unwrap());
        let cursor = Cursor { acked: start, sent_seq: 0 };
        script.input(SessionInput::Authenticated { recipient: "store:1".into(), device, cursor, head: start });
        let delivery = |seq| {
            let text =
                format!("{{\"id\":\"n{seq}\",\"kind\":\"new_order\",\"order\":\"o{seq}\",\"at\":1,\"body\":{{}}}}");
            let prev = if seq == 1 { start } else { position(seq - 1) };
            Delivery { position: position(seq), prev, notice: EncodedNotice::from_stored(text.as_bytes()).unwrap() }
        };
        let end = if notices == 0 { start } else { position(notices) };
        let notices = (1..=notices).map(delivery).collect();
        script.input(SessionInput::Page(Ok(MailboxPage { notices, next: end, head: end })));
        script
    }

    fn input(&mut self, input: SessionInput<'_>) {
        self.session.input(input, self.now, Freshness::default(), &mut self.out);
    }

    fn send(&mut self, frame: &ClientFrame) {
        self.input(SessionInput::Text(&frame.encode()));
    }

    fn closed(&self) -> Option<Close> {
        self.out.iter().find_map(|output| match output {
            SessionOutput::Close(close) => Some(*close),
            _ => None,
        })
    }
}

#[test]
fn a_second_holds_the_permitted_frames_and_not_one_more() {
    let mut script = Script::live(limits(3), 0);
    for _ in 0..2 {
        script.send(&ack(0));
    }
    assert_eq!(script.closed(), None, "three frames are permitted, hello included");
    script.send(&ack(0));
    assert_eq!(script.closed(), Some(Close::RateLimited));
}

#[test]
fn the_frame_limit_refills_with_time_up_to_one_second_of_frames() {
    let mut script = Script::live(limits(4), 0);
    for _ in 0..3 {
        script.send(&ack(0));
    }
    script.now += SECOND / 4;
    script.send(&ack(0));
    assert_eq!(script.closed(), None, "a quarter of a second permits one frame of four");
    script.now += 20 * SECOND;
    for _ in 0..4 {
        script.send(&ack(0));
    }
    assert_eq!(script.closed(), None);
    script.send(&ack(0));
    assert_eq!(script.closed(), Some(Close::RateLimited), "a long silence permits no more than one second of frames");
}

#[test]
fn acknowledgements_that_advance_are_exempt_from_the_frame_limit() {
    let mut script = Script::live(limits(2), 20);
    for seq in 1..=20 {
        script.send(&ack(seq));
    }
    assert_eq!(script.closed(), None, "a client that catches up sends many acknowledgements at once");
    script.send(&ack(20));
    assert_eq!(script.closed(), None, "hello took one of two frames");
    script.send(&ack(20));
    assert_eq!(script.closed(), Some(Close::RateLimited), "an acknowledgement that does not advance is not exempt");
}

#[test]
fn the_reason_of_a_nack_is_reported_if_it_is_a_word() {
    let longest = "r".repeat(REASON_BYTES_MAX);
    let too_long = "r".repeat(REASON_BYTES_MAX + 1);
    let reasons = ["no-printer", "no_printer", "E42", &longest, &too_long, "", "two words", "n\u{e4}me"];
    let mut script = Script::live(limits(100), 8);
    for (seq, reason) in (1..).zip(reasons) {
        script.send(&ClientFrame::Nack { position: position(seq).to_string(), reason: reason.into() });
    }
    let reported = script.out.iter().filter_map(|output| match output {
        SessionOutput::Nacked { reason, .. } => Some(reason.as_str()),
        _ => None,
    });
    let reported: Vec<&str> = reported.collect();
    assert_eq!(reported, ["no-printer", "no_printer", "E42", &longest, "other", "other", "other", "other"]);
}

#[test]
fn an_acknowledgement_by_poll_that_does_not_advance_changes_nothing() {
    let mut script = Script::live(limits(100), 4);
    script.input(SessionInput::AckedByPoll(position(2)));
    script.out.clear();
    script.input(SessionInput::AckedByPoll(position(2)));
    script.input(SessionInput::AckedByPoll(position(1)));
    script.input(SessionInput::AckedByPoll(Position { epoch: 2, ..position(3) }));
    assert_eq!(script.out, [], "neither an older position nor another epoch changes what is acknowledged");
    script.input(SessionInput::AckedByPoll(position(3)));
    assert!(script.out.contains(&SessionOutput::SaveCursor(Cursor { acked: position(3), sent_seq: 4 })));
}

#[test]
fn an_acknowledgement_does_not_examine_superseded_rows_again() {
    let mut script = Script::live(limits(100), 2);
    script.input(SessionInput::MailboxChanged);
    script.input(SessionInput::Page(Ok(MailboxPage { notices: Vec::new(), next: position(9), head: position(9) })));
    script.out.clear();
    script.send(&ack(2));
    let read = SessionOutput::Read { after: position(2), scan: position(9), limit: 64 };
    assert!(script.out.contains(&read), "rows 3 to 9 are superseded, and were examined: {:?}", script.out);
}
