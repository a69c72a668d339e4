//! The client against the real server session, a simple mailbox and an unreliable network.
//!
//! Sockets are refused, cut, half open and slow; requests fail before or after the server processed them; the server restarts with or without
//! its history; the client crashes, sleeps and wakes. Time is a number; nothing sleeps.
//!
//! The test looks for: a live notice that is never delivered, a notice that is delivered twice or out of order, an acknowledgement of a notice
//! that was not delivered, an event that gets no result or two, a deadline that does not move, two sockets or requests at the same time, and a
//! client that does not return to push.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use orderbell_protocol::client::{Client, Connectivity, Input, Output, PersistedState, Timings};
use orderbell_protocol::frame::encode_poll;
use orderbell_protocol::notice::EncodedNotice;
use orderbell_protocol::session::{self, Cursor, EventVerdict, Session, SessionLimits};
use orderbell_protocol::{ClientEvent, ClientFrame, Close, Delivery, Freshness, Id, MailboxPage, Position};
use proptest::prelude::*;
use proptest::test_runner::{FailurePersistence, FileFailurePersistence};
use serde_json::json;

const LIMITS: SessionLimits = SessionLimits {
    hello_timeout: Duration::from_secs(5),
    max_in_flight: 4,
    page_size: 3,
    heartbeat_interval: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(25),
    ack_timeout: Duration::from_secs(4),
    max_delivery_attempts: 3,
    max_frames_per_second: 1_000,
    max_pending_events: 2,
};

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Supersede(usize),
    /// Number of frames that arrive at the client, and at the server.
    Deliver(usize, usize),
    /// Whether the server accepts sockets, and requests.
    Up {
        sockets: bool,
        http: bool,
    },
    /// The socket closes on both sides.
    Cut,
    /// The socket closes on the server's side only.
    HalfOpen,
    /// The server processes the request; `lost`: the response does not arrive.
    Respond {
        lost: bool,
    },
    /// The server restarts; `new_epoch`: without its history.
    Restart {
        new_epoch: bool,
    },
    /// The client restarts with its persisted state.
    Crash,
    Sleep,
    Wake,
    /// The application reports an event.
    Report,
    /// Milliseconds.
    Wait(u64),
}

struct Row {
    position: Position,
    id: String,
    superseded: bool,
}

struct Socket {
    session: Session,
    to_server: VecDeque<String>,
}

enum Wire {
    Text(String),
    Close(u16, String),
}

struct World {
    client: Client,
    now: Duration,
    epoch: u32,
    rows: Vec<Row>,
    cursor: Cursor,
    /// Ids of durable events.
    stored: BTreeSet<String>,
    sockets: bool,
    http: bool,
    socket: Option<Socket>,
    /// Whether the client has a socket, from its point of view.
    open: bool,
    to_client: VecDeque<Wire>,
    /// Result of opening a socket, until it is reported to the client.
    opened: Option<bool>,
    request: Option<Output>,
    asleep: bool,
    /// Ids of delivered notices.
    delivered: Vec<String>,
    /// Ids of notices in the open orders.
    listed: BTreeSet<String>,
    reported: usize,
    /// Ids of events with a result.
    completed: Vec<String>,
    connectivity: Connectivity,
}

fn timings() -> Timings {
    Timings::default()
}

fn notice(id: &str) -> EncodedNotice {
    let text = json!({"id": id, "kind": "new_order", "order": id, "at": 1, "body": {}}).to_string();
    EncodedNotice::from_stored(text.as_bytes()).unwrap()
}

impl World {
    fn new() -> Self {
        let client = Client::new("token", "till-1", PersistedState::default(), timings(), 7, Duration::ZERO);
        let start = Position::start(1);
        let mut world = Self {
            client,
            now: Duration::ZERO,
            epoch: 1,
            rows: Vec::new(),
            cursor: Cursor { acked: start, sent_seq: 0 },
            stored: BTreeSet::new(),
            sockets: true,
            http: true,
            socket: None,
            open: false,
            to_client: VecDeque::new(),
            opened: None,
            request: None,
            asleep: false,
            delivered: Vec::new(),
            listed: BTreeSet::new(),
            reported: 0,
            completed: Vec::new(),
            connectivity: Connectivity::Starting,
        };
        world.input(Input::Time);
        world
    }

    fn head(&self) -> Position {
        self.rows.last().map_or(Position::start(self.epoch), |row| row.position)
    }

    fn page(&self, after: Position, scan: Position, limit: u16) -> MailboxPage {
        let mut page = MailboxPage { notices: Vec::new(), next: after, head: self.head() };
        let (mut chain, from) = (after, after.seq.max(scan.seq));
        for row in self.rows.iter().filter(|row| row.position.seq > from) {
            if !row.superseded {
                if page.notices.len() >= usize::from(limit) {
                    return page;
                }
                page.notices.push(Delivery { position: row.position, prev: chain, notice: notice(&row.id) });
                chain = row.position;
            }
            page.next = row.position;
        }
        page
    }

    fn is_valid(&self, position: Position) -> bool {
        position.epoch == self.epoch && position.seq <= self.head().seq
    }

    // Client side.

    fn input(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        self.client.input(input, self.now, &mut out);
        for output in out {
            self.output(output);
        }
        match self.opened.take() {
            Some(true) => self.input(Input::Opened),
            Some(false) => self.input(Input::Closed(None)),
            None => {}
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::OpenSocket => {
                assert!(!self.open, "two sockets at the same time");
                self.open = true;
                self.to_client.clear();
                if self.sockets {
                    let session = Session::new(LIMITS, 3, self.now);
                    self.socket = Some(Socket { session, to_server: VecDeque::new() });
                } else {
                    self.open = false;
                }
                self.opened = Some(self.sockets);
            }
            Output::DropSocket => self.cut(false),
            Output::CancelRequest => assert!(self.request.take().is_some(), "there was no request to cancel"),
            Output::Send(text) => {
                let text = text.0;
                assert!(self.open, "sent without a socket: {text}");
                if let ClientFrame::Ack { position } = ClientFrame::decode(&text).unwrap() {
                    let acked: Position = position.parse().unwrap();
                    let row = self.rows.iter().find(|row| row.position == acked);
                    let known = row.is_none_or(|row| self.knows(&row.id));
                    assert!(known, "acknowledged but not delivered");
                }
                if let Some(socket) = &mut self.socket {
                    socket.to_server.push_back(text);
                }
            }
            Output::Poll(_) | Output::FetchOrders(_) | Output::PostEvents(_) => {
                assert!(self.request.replace(output).is_none(), "two requests at the same time");
            }
            Output::Notice(notice) => {
                let id = notice.notice.id;
                assert!(!self.knows(&id), "{id} is delivered twice");
                self.delivered.push(id);
            }
            Output::OpenOrders(orders) => self.listed.extend(orders.into_iter().filter_map(|order| order.notice)),
            Output::EventResult { id, rejected } => {
                assert_eq!(rejected, None);
                assert!(self.stored.contains(&id), "stored but not durable");
                assert!(!self.completed.contains(&id), "{id} has two results");
                self.completed.push(id);
            }
            Output::Connectivity(connectivity) => self.connectivity = connectivity,
            Output::Stale(_) => {}
            Output::TokenNeeded | Output::Fault(..) => panic!("a correct client got an error: {output:?}"),
        }
    }

    fn knows(&self, id: &String) -> bool {
        self.delivered.contains(id) || self.listed.contains(id)
    }

    fn cut(&mut self, notify: bool) {
        self.socket = None;
        self.to_client.clear();
        if std::mem::take(&mut self.open) && notify {
            self.input(Input::Closed(None));
        }
    }

    // Server side.

    fn session_input(&mut self, input: session::SessionInput<'_>) {
        let Some(socket) = &mut self.socket else { return };
        let mut out = Vec::new();
        socket.session.input(input, self.now, Freshness::default(), &mut out);
        for output in out {
            self.session_output(output);
        }
    }

    fn session_output(&mut self, output: session::SessionOutput) {
        use session::SessionOutput as O;
        match output {
            O::Authenticate { position, .. } => {
                let acked = position.unwrap_or(self.cursor.acked);
                if !self.is_valid(acked) {
                    return self.session_input(session::SessionInput::Rejected(Close::Resync(
                        orderbell_protocol::ResyncReason::EpochChanged,
                    )));
                }
                let cursor = Cursor { acked, sent_seq: self.cursor.sent_seq };
                let (device, head) = (Id::new("till-1").unwrap(), self.head());
                self.session_input(session::SessionInput::Authenticated {
                    recipient: "store:1".into(),
                    device,
                    cursor,
                    head,
                });
            }
            O::Read { after, scan, limit } => {
                let page = self.page(after, scan, limit);
                self.session_input(session::SessionInput::Page(Ok(page)));
            }
            O::Send(text) => self.to_client.push_back(Wire::Text(text)),
            O::SaveCursor(cursor) => self.cursor = cursor,
            O::PublishEvent(event) => {
                self.stored.insert(event.id.clone());
                self.session_input(session::SessionInput::EventAnswered {
                    id: event.id,
                    verdict: EventVerdict::Stored,
                });
            }
            O::Close(close) => {
                self.to_client.push_back(Wire::Close(close.code(), close.reason()));
                self.socket = None;
            }
            // The WebSocket library of the client answers pings.
            O::Ping if self.open => self.session_input(session::SessionInput::Control),
            O::Ping | O::Sent { .. } | O::Acked(_) | O::Displayed(_) | O::Nacked { .. } | O::AckTimedOut(_) => {}
        }
    }

    fn deliver_to_server(&mut self) -> bool {
        let Some(text) = self.socket.as_mut().and_then(|socket| socket.to_server.pop_front()) else { return false };
        self.session_input(session::SessionInput::Text(&text));
        true
    }

    fn deliver_to_client(&mut self) -> bool {
        match self.to_client.pop_front() {
            None => return false,
            Some(Wire::Text(text)) => self.input(Input::Text(&text)),
            Some(Wire::Close(code, reason)) => {
                self.open = false;
                self.to_client.clear();
                self.input(Input::Closed(Some((code, &reason))));
            }
        }
        true
    }

    fn respond(&mut self, lost: bool) -> bool {
        let Some(request) = self.request.take() else { return false };
        let response = if self.http { Some(self.handle(request)) } else { None };
        match response.filter(|_| !lost) {
            Some((status, body)) => self.input(Input::Response { status, body: &body, retry_after: None }),
            None => self.input(Input::RequestFailed),
        }
        true
    }

    fn handle(&mut self, request: Output) -> (u16, String) {
        match request {
            Output::Poll(after) => {
                let after = after.unwrap_or(self.cursor.acked);
                if !self.is_valid(after) {
                    return (409, String::new());
                }
                let page = self.page(after, after, 3);
                if after.seq > self.cursor.acked.seq {
                    self.cursor.acked = after;
                }
                self.session_input(session::SessionInput::AckedByPoll(after));
                let position = page.notices.last().map_or(page.next, |delivery| delivery.position);
                let notices: Vec<(Delivery, u32)> = page.notices.iter().map(|delivery| (delivery.clone(), 1)).collect();
                let next = if page.has_more() { 0 } else { 60_000 };
                (200, encode_poll(&notices, position, page.head, next, Freshness::default()))
            }
            Output::FetchOrders(from) => {
                // Three orders to a page.
                let from: usize = from.map_or(0, |at| at.parse().unwrap());
                let live = self.rows.iter().enumerate().skip(from).filter(|(_, row)| !row.superseded);
                let mut orders: Vec<_> = live.take(4).collect();
                let next = (orders.len() == 4).then(|| orders.pop()).flatten().map(|(at, _)| at.to_string());
                let to_json = |(_, row): (usize, &Row)| json!({"order": row.id, "stage": "paid", "active": true, "at": 1, "notice": row.id, "body": {}});
                let orders: Vec<_> = orders.into_iter().map(to_json).collect();
                (200, json!({"orders": orders, "position": self.head(), "next": next, "at": 1}).to_string())
            }
            Output::PostEvents(events) => {
                let results: Vec<_> = events.iter().map(|event| json!({"id": event.id, "status": "stored"})).collect();
                self.stored.extend(events.into_iter().map(|event| event.id));
                (200, json!({ "events": results }).to_string())
            }
            other => panic!("{other:?} is not a request"),
        }
    }

    fn append(&mut self, count: usize) {
        for _ in 0..count {
            let seq = self.head().seq + 2;
            let position = Position { epoch: self.epoch, seq, check: (seq % 999) as u16 };
            let id = format!("n{}", self.rows.len());
            self.rows.push(Row { position, id, superseded: false });
        }
        self.session_input(session::SessionInput::MailboxChanged);
    }

    fn restart(&mut self, new_epoch: bool) {
        if new_epoch {
            self.epoch += 1;
            for (at, row) in self.rows.iter_mut().enumerate() {
                row.position = Position { epoch: self.epoch, seq: 3 * at as u64 + 1, check: 5 };
            }
            self.cursor = Cursor { acked: Position::start(self.epoch), sent_seq: 0 };
        }
        self.cut(true);
    }

    fn crash(&mut self) {
        let state = serde_json::to_string(&self.client.persisted_state()).unwrap();
        self.cut(false);
        (self.request, self.asleep) = (None, false);
        self.client = Client::new("token", "till-1", serde_json::from_str(&state).unwrap(), timings(), 11, self.now);
        self.connectivity = Connectivity::Starting;
        self.input(Input::Time);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append(count) => self.append(count),
            Step::Supersede(back) => {
                if let Some(at) = self.rows.len().checked_sub(back + 1) {
                    self.rows[at].superseded = true;
                }
            }
            Step::Deliver(to_client, to_server) => {
                let _arrived = (0..to_client).filter(|_| self.deliver_to_client()).count();
                let _arrived = (0..to_server).filter(|_| self.deliver_to_server()).count();
            }
            Step::Up { sockets, http } => (self.sockets, self.http) = (sockets, http),
            Step::Cut => self.cut(true),
            Step::HalfOpen => {
                self.socket = None;
                self.to_client.clear();
            }
            Step::Respond { lost } => {
                let _was_pending = self.respond(lost);
            }
            Step::Restart { new_epoch } => self.restart(new_epoch),
            Step::Crash => self.crash(),
            Step::Sleep => {
                self.asleep = true;
                self.input(Input::Background);
            }
            Step::Wake => {
                self.asleep = false;
                self.input(Input::Foreground);
            }
            Step::Report => {
                let id = format!("e{}", self.reported);
                self.reported += 1;
                let (kind, order) = (String::from("order.ready"), String::from("o1"));
                self.input(Input::Event(ClientEvent { id, kind, order, pickup_code: None, reason: None, at: None }));
            }
            Step::Wait(ms) => self.wait(Duration::from_millis(ms)),
        }
    }

    /// Lets time pass and keeps every deadline of both sides.
    fn wait(&mut self, span: Duration) {
        let until = self.now + span;
        let mut repeats = 0;
        loop {
            let server = self.socket.as_ref().and_then(|socket| socket.session.deadline());
            let Some(due) = [self.client.deadline(), server].into_iter().flatten().min().filter(|due| *due <= until)
            else {
                break;
            };
            repeats = if due <= self.now { repeats + 1 } else { 0 };
            assert!(repeats < 20, "a deadline that does not move: {:?}", self.client);
            self.now = due.max(self.now);
            self.session_input(session::SessionInput::Time);
            self.input(Input::Time);
        }
        self.now = until;
    }

    /// Everything works again, and everything that is pending completes.
    fn settle(&mut self, sockets: bool) {
        (self.sockets, self.http) = (sockets, true);
        if !sockets {
            self.cut(true);
        }
        if self.asleep {
            self.step(Step::Wake);
        }
        for _ in 0..400 {
            while self.deliver_to_client() || self.deliver_to_server() || self.respond(false) {}
            self.wait(Duration::from_millis(500));
        }
        while self.deliver_to_client() || self.deliver_to_server() || self.respond(false) {}
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_usize..5).prop_map(Step::Append),
        3 => (0_usize..6).prop_map(Step::Supersede),
        16 => (0_usize..5, 0_usize..5).prop_map(|(c, s)| Step::Deliver(c, s)),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(sockets, http)| Step::Up { sockets, http }),
        2 => Just(Step::Cut),
        1 => Just(Step::HalfOpen),
        8 => any::<bool>().prop_map(|lost| Step::Respond { lost }),
        2 => any::<bool>().prop_map(|new_epoch| Step::Restart { new_epoch }),
        1 => Just(Step::Crash),
        1 => Just(Step::Sleep),
        2 => Just(Step::Wake),
        4 => Just(Step::Report),
        8 => (1_u64..8_000).prop_map(Step::Wait),
        2 => (1_u64..90_000).prop_map(Step::Wait),
    ]
}

/// Takes the steps, lets everything settle, and checks what must then hold.
fn run(steps: Vec<Step>, sockets: bool) -> Result<(), TestCaseError> {
    let mut world = World::new();
    for step in steps {
        world.step(step);
    }
    world.settle(sockets);
    for row in world.rows.iter().filter(|row| !row.superseded) {
        prop_assert!(world.knows(&row.id), "{} was never delivered", row.id);
    }
    let order: Vec<usize> = world.delivered.iter().map(|id| id[1..].parse().unwrap()).collect();
    prop_assert!(order.is_sorted(), "out of order: {:?}", order);
    prop_assert_eq!(world.completed.len(), world.reported, "events without a result");
    prop_assert_eq!(world.connectivity, if sockets { Connectivity::Push } else { Connectivity::Polling });
    Ok(())
}

/// A case that failed is kept beside this file, to be committed and tried first from then on.
fn kept_failures() -> Option<Box<dyn FailurePersistence>> {
    Some(Box::new(FileFailurePersistence::WithSource("regressions")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: kept_failures(), ..ProptestConfig::default() })]

    #[test]
    fn on_any_network_every_live_notice_is_delivered_once_and_every_event_gets_a_result(
        steps in prop::collection::vec(step(), 0..90),
        sockets: bool,
    ) {
        run(steps, sockets)?;
    }
}

/// Random steps rarely meet this case, so it is written by hand. The first notice is on its way over a socket that is being opened when it is
/// superseded, and the poll that is pending delivers the second.
#[test]
fn a_poll_overtakes_a_superseded_notice_on_a_socket_that_is_being_opened() {
    let steps = vec![
        Step::Respond { lost: false },
        Step::Deliver(0, 1),
        Step::Deliver(1, 0),
        Step::Cut,
        Step::Wait(600),
        Step::Append(1),
        Step::Deliver(0, 1),
        Step::Supersede(0),
        Step::Append(1),
        Step::Respond { lost: false },
        Step::Deliver(2, 0),
    ];
    run(steps, true).unwrap();
}
