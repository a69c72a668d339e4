//! The wall: exact numbers, whatever crashes; shown to those who may see them, the newest only, never backwards.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use orderbell_client::HttpClient;
use orderbell_lab::Dice;
use orderbell_protocol::UnixMs;
use orderbell_protocol::wall::{WALL_SUBPROTOCOL, Wall, WallKind, WallSums};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;

use crate::chain::{Node, event, now, soon, until};

scenarios! { with crate::wall::config();
    the_wall_shows_what_happened_and_nothing_of_load_tests,
    killed_thirty_times_the_numbers_are_those_of_the_log,
}

const KILLS: u32 = 30;
/// Lives that are posted at once.
const LIVES_PER_BATCH: u64 = 6;

/// A chain in whose zone it is about noon, so that no scenario meets its midnight.
pub(crate) fn config() -> &'static str {
    let hour = now().0.rem_euclid(86_400_000) / 3_600_000;
    // POSIX counts the other way round: Etc/GMT-8 is eight hours ahead of UTC.
    let zone = format!("[wall]\nname = \"Noon & Co\"\ntime_zone = \"Etc/GMT{:+}\"\n", hour - 12);
    Box::leak(zone.replace("+0\"", "\"").into_boxed_str())
}

pub(crate) async fn look(node: &Node) -> Wall {
    let answer = node.http.get("/v1/wall", &node.token("wall", "lobby")).await.unwrap();
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    serde_json::from_slice(&answer.body).unwrap()
}

/// Server-sent events, as a browser reads them.
struct Events(BufReader<TcpStream>);

impl Events {
    async fn open(server: SocketAddr, token: &str, query: &str) -> Self {
        let mut stream = TcpStream::connect(server).await.unwrap();
        let request = format!(
            "GET /v1/wall{query} HTTP/1.1\r\nhost: {server}\r\naccept: text/event-stream\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        Self(BufReader::new(stream))
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = soon("a line", self.0.read_line(&mut line)).await.ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The next document; nothing at the end.
    async fn next(&mut self) -> Option<Wall> {
        loop {
            if let Some(data) = self.line().await?.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).unwrap());
            }
        }
    }
}

async fn the_wall_shows_what_happened_and_nothing_of_load_tests(node: Node) {
    let mut events = Events::open(node.public, &node.token("wall", "lobby"), "").await;
    let first = events.next().await.unwrap();
    assert_eq!((first.kind, first.chain.as_str(), first.today), (WallKind::Snapshot, "Noon & Co", WallSums::default()));
    assert!(first.curves.is_some());

    let at = |after_s: i64| now().0 - 300_000 + after_s * 1000;
    node.happens(&[
        event("order.created", "o1", json!({"store": "7", "amount": 900, "time": at(0)})),
        event("order.paid", "o1", json!({"store": "7", "amount": 850, "time": at(20)})),
        event("order.accepted", "o1", json!({"pickup_code": "A1", "time": at(40)})),
        event("order.paid", "o2", json!({"store": "8", "amount": 100, "time": at(50)})),
        event("order.cancelled", "o2", json!({"time": at(60)})),
        event("order.refunded", "o2", json!({"amount": 40, "time": at(70)})),
        event("order.paid", "s1", json!({"store": "7", "amount": 5000, "shadow": true})),
    ])
    .await;
    let wanted = WallSums {
        created: 2,
        paid: 2,
        accepted: 1,
        cancelled: 1,
        refunded: 1,
        paid_amount: 950,
        refunded_amount: 40,
        ..WallSums::default()
    };
    until("the wall shows it", async || look(&node).await.today == wanted).await;
    let wall = look(&node).await;
    let stores: Vec<_> = wall.stores.iter().map(|store| (store.id.as_str(), store.last_hour)).collect();
    assert_eq!(stores, [("7", 1), ("8", 1)]);
    let accepted = &wall.funnel.stages[2];
    assert_eq!((accepted.stage.as_str(), accepted.orders), ("accepted", 1));
    assert!((16_000..24_000).contains(&accepted.median_ms.unwrap()), "twenty seconds, to a fifth: {accepted:?}");
    let mut before = None::<UnixMs>;
    loop {
        let next = events.next().await.unwrap();
        assert!(next.kind == WallKind::Update && next.curves.is_none());
        let apart_ms = before.map_or(i64::MAX, |before| next.at.0 - before.0);
        assert!(apart_ms >= 200, "more than four documents a second: {apart_ms} ms apart");
        before = Some(next.at);
        if next.today == wanted {
            break;
        }
    }
    // A socket is told the same; one that asks for less is told less often.
    let mut request = format!("ws://{}/v1/wall?every_ms=1000", node.public).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", WALL_SUBPROTOCOL.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let hello = json!({"type": "hello", "token": node.token("wall", "lobby")});
    socket.send(Message::text(hello.to_string())).await.unwrap();
    let mut told = Vec::new();
    while told.len() < 3 {
        if let Message::Text(text) = soon("a document", socket.next()).await.unwrap().unwrap() {
            let wall: Wall = serde_json::from_str(&text).unwrap();
            assert_eq!(wall.today, wanted);
            told.push((wall.kind, wall.at));
        }
    }
    assert_eq!((told[0].0, told[1].0), (WallKind::Snapshot, WallKind::Update));
    assert!(told[2].1.0 - told[1].1.0 >= 700, "at its own pace: {told:?}");
    may_look(&node).await;
}

/// Tokens for something else see nothing, and nobody sees anything without one.
async fn may_look(node: &Node) {
    for (role, status) in [("store", 404), ("customer", 404), ("producer", 404)] {
        assert_eq!(node.http.get("/v1/wall", &node.token(role, "7")).await.unwrap().status, status);
    }
    assert_eq!(node.http.get("/v1/wall", "garbage").await.unwrap().status, 401);
    for path in ["/v1/notices", "/v1/orders?open=1"] {
        assert_eq!(node.http.get(path, &node.token("wall", "lobby")).await.unwrap().status, 404, "a wall reads {path}");
    }
    let mut request = format!("ws://{}/v1/wall", node.public).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", WALL_SUBPROTOCOL.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let hello = json!({"type": "hello", "token": node.token("store", "7")});
    socket.send(Message::text(hello.to_string())).await.unwrap();
    let heard = soon("a close", socket.next()).await.unwrap().unwrap();
    let Message::Close(Some(close)) = heard else { panic!("instead of a close: {heard:?}") };
    assert_eq!(u16::from(close.code), 3000);
}

/// One order's life, and what it adds to the day.
fn life(n: u64, dice: &mut Dice, sums: &mut WallSums) -> Vec<Value> {
    let order = format!("o{n}");
    let store = format!("{}", dice.below(5) + 1);
    let amount = dice.below(9_000) as i64 + 100;
    let mut at = now().0 - 600_000 - dice.below(9_000_000) as i64;
    let mut event = |kind: &str, more: Value| {
        at += 1_000 + dice.below(60_000) as i64;
        let mut event = event(kind, &order, more);
        event["time"] = at.into();
        event["store"] = store.as_str().into();
        event
    };
    let (created, paid) = ("order.created", "order.paid");
    let mut events = Vec::new();
    if n % 7 != 3 {
        events.push(event(created, json!({"amount": amount})));
    }
    sums.created += 1;
    if n % 7 == 6 {
        return events;
    }
    events.push(event(paid, json!({"amount": amount})));
    sums.paid += 1;
    sums.paid_amount += amount;
    match n % 7 {
        0 => {
            events.push(event("order.refused", json!({})));
            sums.refused += 1;
        }
        1 => {
            events.push(event("order.cancelled", json!({})));
            events.push(event("order.refunded", json!({"amount": 30})));
            events.push(event("order.refunded", json!({"amount": 12})));
            sums.cancelled += 1;
            sums.refunded += 1;
            sums.refunded_amount += 42;
        }
        _ => {
            events.push(event("order.accepted", json!({"pickup_code": "A1"})));
            events.push(event("order.ready", json!({})));
            events.push(event("order.picked_up", json!({})));
            sums.accepted += 1;
            sums.ready += 1;
            sums.picked_up += 1;
        }
    }
    events
}

/// Mixes lives: some events out of their order, some twice (once more under another id, where that is not another fact), load tests between.
fn mixed(lives: Vec<Vec<Value>>, dice: &mut Dice) -> Vec<Value> {
    let mut all: Vec<Value> = lives.into_iter().flatten().collect();
    for again in 0..all.len() {
        if dice.below(4) == 0 {
            let mut copy = all[again].clone();
            if copy["type"] != "order.refunded" && dice.below(2) == 0 {
                copy["id"] = format!("{}-again", copy["id"].as_str().unwrap()).into();
            }
            all.push(copy);
        }
        if dice.below(10) == 0 {
            let mut copy = all[again].clone();
            copy["shadow"] = true.into();
            copy["id"] = format!("{}-shadow", copy["id"].as_str().unwrap()).into();
            all.push(copy);
        }
    }
    for _ in 0..all.len() / 4 {
        let (a, b) = (dice.below(all.len() as u64) as usize, dice.below(all.len() as u64) as usize);
        all.swap(a, b);
    }
    all
}

/// Looks all the time, over all restarts: numbers and `seq` never go back.
async fn watcher(server: watch::Receiver<SocketAddr>, token: String, end: CancellationToken) -> u64 {
    let (mut looks, mut seen) = (0, None::<Wall>);
    while !end.is_cancelled() {
        let address = *server.borrow();
        let asked = HttpClient::new(address);
        let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(5), asked.get("/v1/wall", &token)).await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        if answer.status != 200 {
            continue;
        }
        let wall: Wall = serde_json::from_slice(&answer.body).unwrap();
        if let Some(before) = &seen {
            assert_eq!(before.epoch, wall.epoch, "a kill -9 is no other history");
            assert!(before.seq <= wall.seq, "seq decreased from {} to {}", before.seq, wall.seq);
            let rises = |of: fn(&WallSums) -> i64| of(&before.today) <= of(&wall.today);
            let all = rises(|sums| sums.created) && rises(|sums| sums.paid) && rises(|sums| sums.paid_amount);
            assert!(all, "numbers decreased from {:?} to {:?}", before.today, wall.today);
        }
        looks += 1;
        seen = Some(wall);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    looks
}

/// Where orders come from, over all restarts.
struct Producer {
    server: watch::Receiver<SocketAddr>,
    token: String,
    #[cfg(feature = "real-kafka")]
    topic: Option<crate::kafka::Topic>,
}

impl Producer {
    /// Produces lives until the end; what the sums must be.
    async fn produces(self, end: CancellationToken) -> WallSums {
        let (mut dice, mut sums) = (Dice(7), WallSums::default());
        for batch in 0.. {
            if end.is_cancelled() {
                break;
            }
            let numbers = batch * LIVES_PER_BATCH..(batch + 1) * LIVES_PER_BATCH;
            let lives: Vec<_> = numbers.map(|n| life(n, &mut dice, &mut sums)).collect();
            self.posts(mixed(lives, &mut dice)).await;
        }
        sums
    }

    /// Posts a batch until it is answered.
    async fn posts(&self, events: Vec<Value>) {
        #[cfg(feature = "real-kafka")]
        if let Some(topic) = &self.topic {
            return topic.produces(&events).await;
        }
        let body = Value::from(events).to_string();
        loop {
            let http = HttpClient::new(*self.server.borrow());
            let posted = http.send("POST", "/v1/events", &self.token, "application/json", body.clone());
            match tokio::time::timeout(Duration::from_secs(5), posted).await {
                Ok(Ok(answer)) if answer.status == 200 => return,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

async fn killed_thirty_times_the_numbers_are_those_of_the_log(mut node: Node) {
    let (server, _) = watch::channel(node.public);
    let (produced, looked) = (CancellationToken::new(), CancellationToken::new());
    let watching = tokio::spawn(watcher(server.subscribe(), node.token("wall", "lobby"), looked.clone()));
    let producer = Producer {
        server: server.subscribe(),
        token: node.token("producer", "p"),
        #[cfg(feature = "real-kafka")]
        topic: node.topic.take(),
    };
    let happening = tokio::spawn(producer.produces(produced.clone()));
    let mut dice = Dice(2_027);
    for kill in 0..KILLS {
        // Checkpoints are saved once a second: some kills come just after a save, most make the server repeat what was done.
        let behind_a_save = if kill % 6 == 5 { 1_000 } else { 0 };
        tokio::time::sleep(Duration::from_millis(behind_a_save + 20 + dice.below(250))).await;
        node.restart();
        server.send_replace(node.public);
    }
    produced.cancel();
    let wanted = happening.await.unwrap();
    assert!(wanted.paid > 30, "too little happened: {wanted:?}");
    until("the log is read to its end", async || {
        let wall = look(&node).await;
        wall.today == wanted && wall.as_of.is_some_and(|as_of| as_of > UnixMs(wall.at.0 - 5_000))
    })
    .await;
    looked.cancel();
    assert!(watching.await.unwrap() > 30, "nobody looked");
    node.process.signal("TERM");
    assert!(node.process.ends().success());
    reconciles(&node);
}

/// The log, counted a second time, gives the same numbers; in parts, too.
fn reconciles(node: &Node) {
    for passes in ["1", "3"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_orderbell"));
        command.args(["reconcile", "--passes", passes, "--data-dir", node.dir.to_str().unwrap()]).args(&node.args);
        let done = command.output().unwrap();
        let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(done.status.success() && said.contains(", 0 differences"), "{said}");
        assert!(!said.contains("not compared") && !said.contains("balance of 0 topics"), "{said}");
        let compared: u64 = said.split("; ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(compared > 500, "nothing was compared: {said}");
    }
    // Whoever reads the amounts elsewhere counts otherwise, and that is found.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_orderbell"));
    command.args(["reconcile", "--data-dir", node.dir.to_str().unwrap()]).args(&node.args);
    let done = command.env("ORDERBELL__MAPPING__AMOUNT", "/nowhere").output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(5), "{said}");
    assert!(said.contains(" paid_amount: ledger ") && said.contains(", log 0"), "{said}");
}
