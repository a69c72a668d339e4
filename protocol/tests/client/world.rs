//! The client against the real server session, a naive mailbox and a network that does its worst.
//!
//! Sockets are refused, cut, half open and slow; requests fail before or after the server did what they asked for; the server restarts
//! with its history or without; the client crashes, sleeps and wakes. Time is a number; nothing sleeps.
//!
//! Attacked: a notice that is never heard although it is live, one that is heard twice or out of order, an acknowledgement of what was
//! not heard, an event that is never answered or answered twice, a deadline that does not move, two sockets or requests at once, and a client
//! that does not come back to push.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use orderbell_protocol::client::{Client, Input, Link, Output, Pace, Saved};
use orderbell_protocol::frame::encode_poll;
use orderbell_protocol::notice::Encoded;
use orderbell_protocol::session::{self, Limits, Session, Standing, Verdict};
use orderbell_protocol::{ClientEvent, ClientFrame, Close, Delivery, Freshness, Id, Page, Position};
use proptest::prelude::*;
use serde_json::json;

const LIMITS: Limits = Limits {
    hello_timeout: Duration::from_secs(5),
    window: 4,
    page: 3,
    heartbeat: Duration::from_secs(10),
    silence_timeout: Duration::from_secs(25),
    redeliver_after: Duration::from_secs(4),
    attempts_max: 3,
    frames_per_second: 1_000,
    events_max: 2,
};

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Supersede(usize),
    /// So many frames arrive at the client, and at the server.
    Deliver(usize, usize),
    /// The server takes sockets, and requests, or does not.
    Up {
        sockets: bool,
        http: bool,
    },
    /// The socket is gone, and both see it.
    Cut,
    /// The server's side is gone, and the client does not see it.
    HalfOpen,
    /// The request is answered; lost on the way back, or not.
    Answer {
        lost: bool,
    },
    /// The server begins again, with its history or without.
    Restart {
        epoch: bool,
    },
    /// The client begins again with what it kept.
    Crash,
    Sleep,
    Wake,
    Say,
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
    standing: Standing,
    logged: BTreeSet<String>,
    sockets: bool,
    http: bool,
    socket: Option<Socket>,
    /// The client believes that there is one.
    open: bool,
    to_client: VecDeque<Wire>,
    /// A socket was asked for: what came of it is not told yet.
    opened: Option<bool>,
    request: Option<Output>,
    asleep: bool,
    heard: Vec<String>,
    /// Known from the open orders.
    listed: BTreeSet<String>,
    said: usize,
    answered: Vec<String>,
    link: Link,
}

fn pace() -> Pace {
    Pace::default()
}

fn notice(id: &str) -> Encoded {
    let text = json!({"id": id, "kind": "new_order", "order": id, "at": 1, "body": {}}).to_string();
    Encoded::from_stored(text.as_bytes()).unwrap()
}

impl World {
    fn new() -> Self {
        let client = Client::new("token", "till-1", Saved::default(), pace(), 7, Duration::ZERO);
        let start = Position::start(1);
        let mut world = Self {
            client,
            now: Duration::ZERO,
            epoch: 1,
            rows: Vec::new(),
            standing: Standing { acked: start, sent_seq: 0 },
            logged: BTreeSet::new(),
            sockets: true,
            http: true,
            socket: None,
            open: false,
            to_client: VecDeque::new(),
            opened: None,
            request: None,
            asleep: false,
            heard: Vec::new(),
            listed: BTreeSet::new(),
            said: 0,
            answered: Vec::new(),
            link: Link::Begun,
        };
        world.tell(Input::Time);
        world
    }

    fn head(&self) -> Position {
        self.rows.last().map_or(Position::start(self.epoch), |row| row.position)
    }

    fn page(&self, after: Position, scan: Position, limit: u16) -> Page {
        let mut page = Page { notices: Vec::new(), next: after, head: self.head() };
        let (mut chain, from) = (after, after.seq.max(scan.seq));
        for row in self.rows.iter().filter(|row| row.position.seq > from) {
            if !row.superseded {
                if page.notices.len() >= usize::from(limit) {
                    return page;
                }
                page.notices.push(Delivery { position: row.position, after: chain, notice: notice(&row.id) });
                chain = row.position;
            }
            page.next = row.position;
        }
        page
    }

    fn vouched(&self, position: Position) -> bool {
        position.epoch == self.epoch && position.seq <= self.head().seq
    }

    // The client's side.

    fn tell(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        self.client.input(input, self.now, &mut out);
        for output in out {
            self.output(output);
        }
        match self.opened.take() {
            Some(true) => self.tell(Input::Opened),
            Some(false) => self.tell(Input::Closed(None)),
            None => {}
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Open => {
                assert!(!self.open, "two sockets at once");
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
            Output::Drop => self.cut(false),
            Output::Abandon => assert!(self.request.take().is_some(), "nobody was asked"),
            Output::Send(text) => {
                let text = text.0;
                assert!(self.open, "sent without a socket: {text}");
                if let ClientFrame::Ack { position } = ClientFrame::decode(&text).unwrap() {
                    let acked: Position = position.parse().unwrap();
                    let row = self.rows.iter().find(|row| row.position == acked);
                    let known = row.is_none_or(|row| self.knows(&row.id));
                    assert!(known, "acknowledged and never heard");
                }
                if let Some(socket) = &mut self.socket {
                    socket.to_server.push_back(text);
                }
            }
            Output::Poll(_) | Output::Orders(_) | Output::Post(_) => {
                assert!(self.request.replace(output).is_none(), "two requests at once");
            }
            Output::Notice(notice) => {
                let id = notice.notice.id;
                assert!(!self.knows(&id), "{id} is heard twice");
                self.heard.push(id);
            }
            Output::OpenOrders(orders) => self.listed.extend(orders.into_iter().filter_map(|order| order.notice)),
            Output::Answered { id, refused } => {
                assert_eq!(refused, None);
                assert!(self.logged.contains(&id), "answered and not durable");
                assert!(!self.answered.contains(&id), "{id} is answered twice");
                self.answered.push(id);
            }
            Output::Link(link) => self.link = link,
            Output::Stale(_) => {}
            Output::TokenNeeded | Output::Fault(..) => panic!("an honest client is told off: {output:?}"),
        }
    }

    fn knows(&self, id: &String) -> bool {
        self.heard.contains(id) || self.listed.contains(id)
    }

    fn cut(&mut self, told: bool) {
        self.socket = None;
        self.to_client.clear();
        if std::mem::take(&mut self.open) && told {
            self.tell(Input::Closed(None));
        }
    }

    // The server's side.

    fn serve(&mut self, input: session::Input<'_>) {
        let Some(socket) = &mut self.socket else { return };
        let mut out = Vec::new();
        socket.session.input(input, self.now, Freshness::default(), &mut out);
        for output in out {
            self.served(output);
        }
    }

    fn served(&mut self, output: session::Output) {
        use session::Output as O;
        match output {
            O::Admit { position, .. } => {
                let acked = position.unwrap_or(self.standing.acked);
                if !self.vouched(acked) {
                    return self.serve(session::Input::Turned(Close::Resync("epoch-changed")));
                }
                let standing = Standing { acked, sent_seq: self.standing.sent_seq };
                let (device, head) = (Id::new("till-1").unwrap(), self.head());
                self.serve(session::Input::Admitted { recipient: "store:1".into(), device, standing, head });
            }
            O::Read { after, scan, limit } => {
                let page = self.page(after, scan, limit);
                self.serve(session::Input::Page(Ok(page)));
            }
            O::Send(text) => self.to_client.push_back(Wire::Text(text)),
            O::Stand(standing) => self.standing = standing,
            O::Append(event) => {
                self.logged.insert(event.id.clone());
                self.serve(session::Input::Logged { id: event.id, verdict: Verdict::Logged });
            }
            O::Close(close) => {
                self.to_client.push_back(Wire::Close(close.code(), close.reason()));
                self.socket = None;
            }
            // Whoever has a socket answers pings without being asked.
            O::Ping if self.open => self.serve(session::Input::Control),
            O::Ping | O::Sent { .. } | O::Received(_) | O::Shown(_) | O::Unusable { .. } | O::GaveUp(_) => {}
        }
    }

    fn reach_server(&mut self) -> bool {
        let Some(text) = self.socket.as_mut().and_then(|socket| socket.to_server.pop_front()) else { return false };
        self.serve(session::Input::Text(&text));
        true
    }

    fn reach_client(&mut self) -> bool {
        match self.to_client.pop_front() {
            None => return false,
            Some(Wire::Text(text)) => self.tell(Input::Text(&text)),
            Some(Wire::Close(code, reason)) => {
                self.open = false;
                self.to_client.clear();
                self.tell(Input::Closed(Some((code, &reason))));
            }
        }
        true
    }

    fn respond(&mut self, lost: bool) -> bool {
        let Some(request) = self.request.take() else { return false };
        let answer = if self.http { Some(self.handle(request)) } else { None };
        match answer.filter(|_| !lost) {
            Some((status, body)) => self.tell(Input::Answer { status, body: &body, retry_after: None }),
            None => self.tell(Input::Failed),
        }
        true
    }

    fn handle(&mut self, request: Output) -> (u16, String) {
        match request {
            Output::Poll(after) => {
                let after = after.unwrap_or(self.standing.acked);
                if !self.vouched(after) {
                    return (409, String::new());
                }
                let page = self.page(after, after, 3);
                if after.seq > self.standing.acked.seq {
                    self.standing.acked = after;
                }
                self.serve(session::Input::AckedElsewhere(after));
                let position = page.notices.last().map_or(page.next, |delivery| delivery.position);
                let notices: Vec<(Delivery, u32)> = page.notices.iter().map(|delivery| (delivery.clone(), 1)).collect();
                let next = if page.more() { 0 } else { 60_000 };
                (200, encode_poll(&notices, position, page.head, next, Freshness::default()))
            }
            Output::Orders(from) => {
                // Three to a page.
                let from: usize = from.map_or(0, |at| at.parse().unwrap());
                let live = self.rows.iter().enumerate().skip(from).filter(|(_, row)| !row.superseded);
                let mut orders: Vec<_> = live.take(4).collect();
                let next = (orders.len() == 4).then(|| orders.pop()).flatten().map(|(at, _)| at.to_string());
                let seen = |(_, row): (usize, &Row)| json!({"order": row.id, "stage": "paid", "open": true, "at": 1, "notice": row.id, "body": {}});
                let orders: Vec<_> = orders.into_iter().map(seen).collect();
                (200, json!({"orders": orders, "position": self.head(), "next": next, "at": 1}).to_string())
            }
            Output::Post(events) => {
                let told: Vec<_> = events.iter().map(|event| json!({"id": event.id, "status": "logged"})).collect();
                self.logged.extend(events.into_iter().map(|event| event.id));
                (200, json!({ "events": told }).to_string())
            }
            other => panic!("{other:?} is no request"),
        }
    }

    fn append(&mut self, count: usize) {
        for _ in 0..count {
            let seq = self.head().seq + 2;
            let position = Position { epoch: self.epoch, seq, check: (seq % 999) as u16 };
            let id = format!("n{}", self.rows.len());
            self.rows.push(Row { position, id, superseded: false });
        }
        self.serve(session::Input::Rung);
    }

    fn restart(&mut self, epoch: bool) {
        if epoch {
            self.epoch += 1;
            for (at, row) in self.rows.iter_mut().enumerate() {
                row.position = Position { epoch: self.epoch, seq: 3 * at as u64 + 1, check: 5 };
            }
            self.standing = Standing { acked: Position::start(self.epoch), sent_seq: 0 };
        }
        self.cut(true);
    }

    fn crash(&mut self) {
        let saved = serde_json::to_string(&self.client.saved()).unwrap();
        self.cut(false);
        (self.request, self.asleep) = (None, false);
        self.client = Client::new("token", "till-1", serde_json::from_str(&saved).unwrap(), pace(), 11, self.now);
        self.link = Link::Begun;
        self.tell(Input::Time);
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
                let _arrived = (0..to_client).filter(|_| self.reach_client()).count();
                let _arrived = (0..to_server).filter(|_| self.reach_server()).count();
            }
            Step::Up { sockets, http } => (self.sockets, self.http) = (sockets, http),
            Step::Cut => self.cut(true),
            Step::HalfOpen => {
                self.socket = None;
                self.to_client.clear();
            }
            Step::Answer { lost } => {
                let _was_asked = self.respond(lost);
            }
            Step::Restart { epoch } => self.restart(epoch),
            Step::Crash => self.crash(),
            Step::Sleep => {
                self.asleep = true;
                self.tell(Input::Background);
            }
            Step::Wake => {
                self.asleep = false;
                self.tell(Input::Foreground);
            }
            Step::Say => {
                let id = format!("e{}", self.said);
                self.said += 1;
                let (kind, order) = (String::from("order.ready"), String::from("o1"));
                self.tell(Input::Say(ClientEvent { id, kind, order, code: None, reason: None, at: None }));
            }
            Step::Wait(ms) => self.wait(Duration::from_millis(ms)),
        }
    }

    /// Time goes on; every deadline on the way is kept, of both sides.
    fn wait(&mut self, span: Duration) {
        let until = self.now + span;
        let mut still = 0;
        loop {
            let server = self.socket.as_ref().and_then(|socket| socket.session.deadline());
            let Some(due) = [self.client.deadline(), server].into_iter().flatten().min().filter(|due| *due <= until)
            else {
                break;
            };
            still = if due <= self.now { still + 1 } else { 0 };
            assert!(still < 20, "a deadline that does not move: {:?}", self.client);
            self.now = due.max(self.now);
            self.serve(session::Input::Time);
            self.tell(Input::Time);
        }
        self.now = until;
    }

    /// Everything works again: what was owed comes.
    fn settle(&mut self, sockets: bool) {
        (self.sockets, self.http) = (sockets, true);
        if !sockets {
            self.cut(true);
        }
        if self.asleep {
            self.step(Step::Wake);
        }
        for _ in 0..400 {
            while self.reach_client() || self.reach_server() || self.respond(false) {}
            self.wait(Duration::from_millis(500));
        }
        while self.reach_client() || self.reach_server() || self.respond(false) {}
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
        8 => any::<bool>().prop_map(|lost| Step::Answer { lost }),
        2 => any::<bool>().prop_map(|epoch| Step::Restart { epoch }),
        1 => Just(Step::Crash),
        1 => Just(Step::Sleep),
        2 => Just(Step::Wake),
        4 => Just(Step::Say),
        8 => (1_u64..8_000).prop_map(Step::Wait),
        2 => (1_u64..90_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_network_does_every_live_notice_is_heard_once_and_every_event_answered(
        steps in prop::collection::vec(step(), 0..90),
        sockets: bool,
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.settle(sockets);
        for row in world.rows.iter().filter(|row| !row.superseded) {
            prop_assert!(world.knows(&row.id), "{} was never heard", row.id);
        }
        let order: Vec<usize> = world.heard.iter().map(|id| id[1..].parse().unwrap()).collect();
        prop_assert!(order.is_sorted(), "out of order: {:?}", order);
        prop_assert_eq!(world.answered.len(), world.said, "events without an answer");
        prop_assert_eq!(world.link, if sockets { Link::Pushed } else { Link::Polled });
    }
}
