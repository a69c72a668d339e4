//! The actors of the scenarios: a server, the chain that produces events, tills and customers.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use orderbell::config::Config;
use orderbell::net::tokens::Tokens;
use orderbell_client::{HttpClient, HttpResponse, Received, Socket};
use orderbell_lab::{Process, patience};
use orderbell_protocol::alert::{Alert, AlertCode};
use orderbell_protocol::command_output::ReadyLine;
use orderbell_protocol::event::PickupCode;
use orderbell_protocol::frame::{NoticeFrame, PollAnswer};
use orderbell_protocol::{ClientEvent, NoticeKind, Position, ServerFrame, UnixMs};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) fn now() -> UnixMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    UnixMs(i64::try_from(since.as_millis()).unwrap())
}

/// In time, or the test fails with the reason.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(patience(), future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// Looks again until it holds.
pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    soon(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// A server process on a data directory of its own.
pub(crate) struct Node {
    pub(crate) process: Process,
    pub(crate) dir: PathBuf,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) http: HttpClient,
    _temp: TempDir,
    pub(crate) args: Vec<String>,
    /// The step at which the next start ends as by kill -9: `durable@3`.
    pub(crate) die_at: String,
    #[cfg(feature = "real-kafka")]
    pub(crate) topic: Option<crate::kafka::Topic>,
}

/// Rates that no load of a scenario meets: variables of the environment, which count more than a file.
const HIGH_RATES: [(&str, &str); 6] = [
    ("ORDERBELL__RATES__MAX_EVENTS_PER_MINUTE", "1000000"),
    ("ORDERBELL__RATES__MAX_DEVICE_EVENTS_PER_MINUTE", "1000000"),
    ("ORDERBELL__RATES__MAX_POLLS_PER_MINUTE", "1000000"),
    ("ORDERBELL__RATES__MAX_DEVICE_POLLS_PER_MINUTE", "1000000"),
    ("ORDERBELL__RATES__MAX_HELLOS_PER_MINUTE", "1000000"),
    ("ORDERBELL__RATES__MAX_DEVICE_HELLOS_PER_MINUTE", "1000000"),
];

/// Whether the configuration file of these arguments sets rates: then the scenario is about them.
fn has_rates(args: &[String]) -> bool {
    let file = args.windows(2).find(|pair| pair[0] == "--config").map(|pair| &pair[1]);
    file.is_some_and(|file| std::fs::read_to_string(file).is_ok_and(|text| text.contains("[rates]")))
}

static EVENTS: AtomicU64 = AtomicU64::new(0);

pub(crate) fn ready_line(line: &str) -> Option<ReadyLine> {
    serde_json::from_str(line).ok()
}

impl Node {
    /// Embedded, in a fresh directory.
    pub(crate) fn embedded() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("data");
        Self::with(temp, dir, Vec::new())
    }

    /// Embedded, with a configuration file.
    pub(crate) fn configured(text: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (dir, config) = (temp.path().join("data"), temp.path().join("orderbell.toml"));
        std::fs::write(&config, text).unwrap();
        let args = vec!["--config".to_owned(), config.to_str().unwrap().to_owned()];
        Self::with(temp, dir, args)
    }

    pub(crate) fn with(temp: TempDir, dir: PathBuf, args: Vec<String>) -> Self {
        let (process, public, admin) = Self::serve(&dir, &args, "");
        Self {
            process,
            dir,
            public,
            admin,
            http: HttpClient::new(public),
            _temp: temp,
            args,
            die_at: String::new(),
            #[cfg(feature = "real-kafka")]
            topic: None,
        }
    }

    fn serve(dir: &Path, args: &[String], die_at: &str) -> (Process, SocketAddr, SocketAddr) {
        let process = Self::spawn(dir, args, die_at);
        let ready = process.out.wait_for("that it is ready", ready_line);
        (process, ready.public, ready.admin)
    }

    fn spawn(dir: &Path, args: &[String], die_at: &str) -> Process {
        let data = dir.to_str().unwrap();
        let mut all = vec!["serve", "--ready-json", "--data-dir", data];
        for address in ["--listen", "--admin"].into_iter().filter(|name| !args.iter().any(|arg| arg == name)) {
            all.extend([address, "127.0.0.1:0"]);
        }
        all.extend(args.iter().map(String::as_str));
        // A till that a scenario does not look at for a while answers no ping: that must not be its end on a slow machine.
        let idle_timeout = ("ORDERBELL__SESSIONS__IDLE_TIMEOUT", "1h");
        let mut env = vec![("ORDERBELL_LOG", "info"), ("ORDERBELL_DIE_AT", die_at), idle_timeout];
        if !has_rates(args) {
            env.extend(HIGH_RATES);
        }
        Process::start(Path::new(env!("CARGO_BIN_EXE_orderbell")), &all, &env)
    }

    /// Starts again and dies at this step as by kill -9, whether it is ready by then or not.
    #[cfg(feature = "real-kafka")]
    pub(crate) fn dies_while_it_starts(&mut self, step: &str) {
        self.process.kill();
        self.process = Self::spawn(&self.dir, &self.args, step);
        let ended = tokio::task::block_in_place(|| self.process.ends());
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "it did not die at {step}");
    }

    /// Runs a command of `orderbell` with this server's configuration: whether it succeeded, and what it said.
    pub(crate) fn command(&self, args: &[&str]) -> (bool, String) {
        let (admin, dir) = (self.admin.to_string(), self.dir.to_str().unwrap());
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_orderbell"));
        command.args(args).args(["--data-dir", dir, "--admin", &admin]).args(&self.args);
        let done = tokio::task::block_in_place(|| command.output().unwrap());
        let said = String::from_utf8_lossy(if done.status.success() { &done.stdout } else { &done.stderr });
        (done.status.success(), said.into_owned())
    }

    /// From the next start on at the same addresses. Not such as the system gives to whoever connects: another process could take them meanwhile.
    pub(crate) fn stays_at_one_address(&mut self) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let begin = u64::from(std::process::id()) * 97;
        for name in ["--listen", "--admin"] {
            let port = (0..1_000).map(|_| 20_000 + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000);
            let free = |port: &u64| std::net::TcpListener::bind(("127.0.0.1", *port as u16)).is_ok();
            let port = port.into_iter().find(free).expect("a free port");
            self.args.extend([name.into(), format!("127.0.0.1:{port}")]);
        }
        self.restart();
    }

    /// Starts again on the same directory, after it ended or was killed.
    pub(crate) fn restart(&mut self) {
        self.process.kill();
        (self.process, self.public, self.admin) = Self::serve(&self.dir, &self.args, &self.die_at);
        self.http = HttpClient::new(self.public);
    }

    /// The same one at each call in a run: with another token a till would be another installation.
    pub(crate) fn token(&self, role: &str, id: &str) -> String {
        static ISSUED_AT: LazyLock<UnixMs> = LazyLock::new(now);
        self.tokens().mint(role, id, None, *ISSUED_AT, 7200).unwrap()
    }

    /// The server's own keys.
    pub(crate) fn tokens(&self) -> Tokens {
        let config = Config::in_dir(&self.dir);
        config.load_tokens().unwrap()
    }

    /// These things happen: in the embedded stream, or on Kafka.
    pub(crate) async fn happens(&self, events: &[Value]) {
        #[cfg(feature = "real-kafka")]
        if let Some(topic) = &self.topic {
            return topic.produces(events).await;
        }
        for batch in events.chunks(1000) {
            self.posts(batch).await;
        }
    }

    /// Posts events; all must be taken.
    pub(crate) async fn posts(&self, events: &[Value]) -> Value {
        let answer = self.post(&Value::from(events.to_vec())).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        answer.json().unwrap()
    }

    pub(crate) async fn post(&self, body: &Value) -> HttpResponse {
        let token = self.token("producer", "chain");
        self.http.send("POST", "/v1/events", &token, "application/json", body.to_string()).await.unwrap()
    }

    /// One thing happens to an order.
    pub(crate) async fn event(&self, kind: &str, order: &str, more: Value) {
        self.happens(&[event(kind, order, more)]).await;
    }

    pub(crate) async fn pays(&self, order: &str, store: &str) {
        self.event("order.paid", order, json!({"store": store, "customer": format!("of-{order}"), "amount": 1250}))
            .await;
    }

    pub(crate) async fn till(&self, store: &str, device: &str) -> Till {
        self.till_from(store, device, None).await
    }

    pub(crate) async fn till_from(&self, store: &str, device: &str, position: Option<Position>) -> Till {
        Till::connect(self.public, &self.token("store", store), device, position).await
    }

    pub(crate) async fn phone(&self, customer: &str) -> Till {
        Till::connect(self.public, &self.token("customer", customer), "phone", None).await
    }

    pub(crate) async fn polls(&self, store: &str, device: &str, after: Option<Position>, wait_s: u64) -> PollAnswer {
        let token = self.token("store", store);
        soon("a poll's answer", self.http.poll(&token, device, after, Duration::from_secs(wait_s))).await.unwrap()
    }

    /// What `/ready` says needs a person.
    pub(crate) async fn alerts(&self) -> Vec<Alert> {
        let ready = HttpClient::new(self.admin).get("/ready", "").await.unwrap().json().unwrap();
        serde_json::from_value(ready["alerts"].clone()).unwrap()
    }

    /// The first alert with this code; none while all is well with it.
    pub(crate) async fn alert(&self, code: AlertCode) -> Option<Alert> {
        self.alerts().await.into_iter().find(|alert| alert.code == code)
    }

    pub(crate) async fn is_well(&self) -> bool {
        self.alerts().await.is_empty()
    }

    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text = HttpClient::new(self.admin).get("/metrics", "").await.unwrap().body;
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

/// Posts these bytes to `/v1/events` with these lines in the head; the whole answer.
pub(crate) async fn post_raw(server: SocketAddr, token: &str, lines: &str, body: &[u8]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    let length = body.len();
    let head = format!(
        "POST /v1/events?device=d HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         {lines}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// An event with an id of its own.
pub(crate) fn event(kind: &str, order: &str, more: Value) -> Value {
    let id = format!("e{}", EVENTS.fetch_add(1, Ordering::Relaxed));
    let mut event = json!({"type": kind, "order": order, "id": id, "time": now().0});
    let members = event.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    event
}

/// What a till says, under an id of its own.
pub(crate) fn said(kind: &str, order: &str) -> ClientEvent {
    let id = format!("said-{}", EVENTS.fetch_add(1, Ordering::Relaxed));
    ClientEvent { id, kind: kind.into(), order: order.into(), pickup_code: None, reason: None, at: None }
}

pub(crate) fn accepted(order: &str, code: &str) -> ClientEvent {
    ClientEvent { pickup_code: Some(PickupCode(code.into())), ..said("order.accepted", order) }
}

/// A till or a phone with a socket. Checks on its own what every client checks: the chain of positions.
pub(crate) struct Till {
    pub(crate) socket: Socket,
    pub(crate) position: Position,
    pub(crate) known: HashSet<String>,
    /// Received while it waited for something else.
    early: VecDeque<Received>,
}

impl Till {
    pub(crate) async fn connect(server: SocketAddr, token: &str, device: &str, position: Option<Position>) -> Self {
        let mut socket = Socket::open_with_hello(server, token, device, position).await.unwrap();
        let received = soon("a welcome", socket.next()).await.unwrap();
        let Received::Frame(ServerFrame::Welcome { position, .. }) = received else {
            panic!("instead of a welcome: {received:?}")
        };
        Self { socket, position, known: HashSet::new(), early: VecDeque::new() }
    }

    /// The next notice, in its place in the chain; repeats of what is known must be marked.
    pub(crate) async fn notice(&mut self) -> NoticeFrame {
        loop {
            let received = match self.early.pop_front() {
                Some(received) => received,
                None => soon("a notice", self.socket.next()).await.unwrap(),
            };
            match received {
                Received::Notice(notice) if self.known.contains(&notice.notice.id) => {
                    assert!(notice.attempt > 1, "a repeat without a mark: {notice:?}");
                    self.position = notice.position;
                }
                Received::Notice(notice) => {
                    assert_eq!(notice.prev, self.position, "the chain is broken at {notice:?}");
                    self.position = notice.position;
                    self.known.insert(notice.notice.id.clone());
                    return notice;
                }
                Received::Frame(ServerFrame::Heartbeat { .. }) => {}
                other => panic!("instead of a notice: {other:?}"),
            }
        }
    }

    /// Hears this kind of notice of this order, and acknowledges it.
    pub(crate) async fn hears(&mut self, kind: NoticeKind, order: &str) -> NoticeFrame {
        let notice = self.notice().await;
        assert_eq!((notice.notice.kind, notice.notice.order.as_str()), (kind, order));
        self.acks(&notice).await;
        notice
    }

    pub(crate) async fn acks(&mut self, notice: &NoticeFrame) {
        self.socket.ack(notice.position).await.unwrap();
    }

    /// A person has seen it.
    pub(crate) async fn shows(&mut self, position: Position) {
        let shown = orderbell_protocol::ClientFrame::Displayed { position: position.to_string() };
        self.socket.send_text(&shown.encode()).await.unwrap();
    }

    /// Says that something happened to an order; the answer, and why not.
    pub(crate) async fn says(&mut self, event: ClientEvent) -> (String, Option<String>) {
        let said = event.id.clone();
        self.socket.send_event(event).await.unwrap();
        loop {
            match soon("an answer", self.socket.next()).await.unwrap() {
                Received::Frame(ServerFrame::EventResult(orderbell_protocol::EventResult { id, status, reason })) => {
                    assert_eq!(id, said);
                    return (status.word().to_owned(), reason.map(|reason| reason.word().to_owned()));
                }
                received @ Received::Notice(_) => self.early.push_back(received),
                Received::Frame(ServerFrame::Heartbeat { .. }) => {}
                other => panic!("instead of an answer: {other:?}"),
            }
        }
    }

    /// Accepts an order, and waits for the answer that this is durable, or that the order was accepted before.
    pub(crate) async fn accepts(&mut self, order: &str, code: &str) {
        let (status, reason) = self.says(accepted(order, code)).await;
        assert!(matches!(status.as_str(), "stored" | "duplicate") && reason.is_none(), "{status} {reason:?}");
    }

    /// How the socket ends.
    pub(crate) async fn closed(&mut self) -> Option<(u16, String)> {
        loop {
            if let Received::Closed(why) = soon("the end of the socket", self.socket.next()).await.unwrap() {
                return why;
            }
        }
    }
}

#[cfg(feature = "real-kafka")]
impl Node {
    /// Produces while the broker is stopped, starts it, and waits until it has everything.
    pub(crate) async fn happens_later(&self, events: &[Value], back: impl FnOnce()) {
        let produced = self.happens(events);
        tokio::pin!(produced);
        // One turn of the producer's hand before the broker is there again.
        let early = tokio::time::timeout(Duration::from_millis(500), produced.as_mut()).await;
        assert!(early.is_err(), "a dead broker took records");
        tokio::task::block_in_place(back);
        soon("the producer is done", produced).await;
    }
}
