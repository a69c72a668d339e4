//! A whole server in this process, with a row that the test damages.

use std::path::Path;

use orderbell_ledger::{KeyBatchEffects, NewNotice};
use orderbell_protocol::admin::ReadyAnswer;
use orderbell_protocol::alert::{Alert, AlertCode, Severity};
use orderbell_protocol::frame::{EventsAnswer, OrderStage, OrdersAnswer};
use orderbell_protocol::notice::EncodedNotice;
use orderbell_protocol::{NoticeKind, Problem, RejectionReason};

use super::*;
use crate::config::Listen;
use orderbell_client::{HttpClient, HttpResponse, Socket};
use orderbell_lab::log_capture::LogCapture;
use orderbell_protocol::OrderKey;

pub(super) fn config(dir: &Path) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::in_dir(dir);
    config.boot.listen = Listen { public: any, admin: any };
    config
}

pub(super) async fn start_with(config: &Config) -> Arc<Server> {
    released(&config.boot.data_dir).await;
    Server::start(config, config.limits(), |why: &str| panic!("{why}")).await.unwrap()
}

async fn start(dir: &Path) -> Arc<Server> {
    start_with(&config(dir)).await
}

/// Waits until no task of a server that was stopped holds its ledger any more.
async fn released(dir: &Path) {
    let began = std::time::Instant::now();
    let Ok(lock) = std::fs::File::open(dir.join("lock")) else { return };
    while lock.try_lock().is_err() {
        assert!(began.elapsed() < Duration::from_secs(30), "the ledger is still in use");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn store() -> Recipient {
    Recipient::store(Id::new("1").unwrap())
}

fn order_key(order: &str) -> OrderKey {
    OrderKey { shadow: false, id: Id::new(order).unwrap() }
}

fn token(server: &Server) -> String {
    server.state.tokens().mint("store", "1", None, wall_clock(), 600).unwrap()
}

/// Writes the state of an open order of store 1.
async fn write(server: &Server, order: &str, state: &[u8]) {
    let (who, key) = (store(), order_key(order));
    let states = vec![(key.clone(), state.to_vec())];
    let effects = KeyBatchEffects { states, open_index: vec![(who, key, true)], ..KeyBatchEffects::default() };
    server.ledger.commit(effects).await.unwrap();
}

/// A server whose store 1 has one notice, stored as `damage` leaves the row. A backup is damaged and restored: the files of the ledger itself have
/// checksums.
async fn start_with_damaged_notice(dir: &Path, damage: fn(&[u8]) -> Vec<u8>) -> Arc<Server> {
    let server = start(dir).await;
    let notice = EncodedNotice::from_stored(NOTICE.as_bytes()).unwrap();
    let (order, expires_at) = (order_key("o1"), wall_clock().plus_ms(3_600_000));
    let notice =
        NewNotice { order, id: "n1".into(), kind: NoticeKind::NewOrder, recipient: store(), notice, expires_at };
    server.ledger.commit(KeyBatchEffects { notices: vec![notice], ..KeyBatchEffects::default() }).await.unwrap();
    let backup = stop_with_backup(server, dir).await;
    let is_notice = |value: &[u8]| value.ends_with(NOTICE.as_bytes());
    let backup = with_values(&backup, |_, _, value| if is_notice(value) { damage(value) } else { value.to_vec() });
    let restored = dir.join("restored");
    Ledger::restore(&restored, backup.as_slice()).unwrap();
    start(&restored).await
}

const NOTICE: &str = r#"{"id":"n1","kind":"new_order","order":"o1","at":1,"body":{}}"#;

/// What the server in `dir` has written at its end: the cursors of tills are written last.
async fn stop_with_backup(server: Arc<Server>, dir: &Path) -> Vec<u8> {
    server.stop().await;
    drop(server);
    released(dir).await;
    let mut backup = Vec::new();
    Ledger::write_backup(dir, &mut backup, |_| {}).unwrap();
    backup
}

/// The backup with one more row.
fn with_row(backup: &[u8], table: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
    let (rows, end) = backup.split_at(backup.len() - 17);
    let count = u64::from_be_bytes(end[1..9].try_into().unwrap()) + 1;
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_be_bytes();
    let mut out = [rows, &[table], &len(key), &len(value), key, value, &[0xff], &count.to_be_bytes()].concat();
    let sum = xxhash_rust::xxh3::xxh3_64(&out);
    out.extend(sum.to_be_bytes());
    out
}

/// The backup with every value changed; `change` is given the table's number, the key and the value. Its layout is in `src/ledger/backup.rs`.
fn with_values(backup: &[u8], mut change: impl FnMut(u8, &[u8], &[u8]) -> Vec<u8>) -> Vec<u8> {
    let number = |at: usize| u32::from_be_bytes(backup[at..at + 4].try_into().unwrap()) as usize;
    let mut at = backup.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let mut out = backup[..at].to_vec();
    while backup[at] != 0xff {
        let value_at = at + 9 + number(at + 1);
        let end = value_at + number(at + 5);
        let value = change(backup[at], &backup[at + 9..value_at], &backup[value_at..end]);
        out.extend_from_slice(&backup[at..at + 5]);
        out.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&backup[at + 9..value_at]);
        out.extend(value);
        at = end;
    }
    out.extend_from_slice(&backup[at..at + 9]);
    let sum = xxhash_rust::xxh3::xxh3_64(&out);
    out.extend(sum.to_be_bytes());
    out
}

/// What a till is sent until the server closes the connection: types of frames, then the code of the close.
async fn sent_to_till(server: &Server) -> Vec<String> {
    let mut socket = Socket::open_with_hello(server.public(), &token(server), "till-1", None).await.unwrap();
    let mut sent = Vec::new();
    loop {
        match socket.next_text().await {
            Ok(text) => {
                let frame: serde_json::Value = serde_json::from_str(&text).unwrap();
                sent.push(frame["type"].as_str().unwrap().to_owned());
            }
            Err(close) => {
                sent.push(close.unwrap().0.to_string());
                return sent;
            }
        }
    }
}

fn decoded<T: serde::de::DeserializeOwned>(response: &HttpResponse) -> T {
    serde_json::from_slice(&response.body).unwrap()
}

fn assert_unavailable(response: &HttpResponse) {
    let problem: Problem = decoded(response);
    assert_eq!((response.status, &*problem.code), (503, "unavailable"));
}

/// The alerts with this code, as `/ready` shows them.
pub(super) async fn alerts(server: &Server, code: AlertCode) -> Vec<Alert> {
    let ready: ReadyAnswer = decoded(&HttpClient::new(server.admin()).get("/ready", "").await.unwrap());
    assert!(ready.ready);
    ready.alerts.into_iter().filter(|alert| alert.code == code).collect()
}

async fn damage_alerts(server: &Server) -> Vec<Severity> {
    alerts(server, AlertCode::LedgerDamaged).await.into_iter().map(|alert| alert.severity).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_order_that_does_not_decode_is_an_error_and_an_alert_and_never_a_shorter_list() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let token = token(&server);
    let http = HttpClient::new(server.public());
    let paid = br#"{"stage":"paid","store":"1"}"#;
    write(&server, "good", paid).await;
    let list: OrdersAnswer = decoded(&http.get("/v1/orders?open=1", &token).await.unwrap());
    assert_eq!(list.orders.iter().map(|order| order.stage).collect::<Vec<_>>(), [OrderStage::Paid]);
    assert_eq!(damage_alerts(&server).await, []);

    write(&server, "bad", br#"{"stage":"#).await;
    assert_unavailable(&http.get("/v1/orders?open=1", &token).await.unwrap());
    assert_unavailable(&http.get("/v1/orders/bad", &token).await.unwrap());
    assert_unavailable(&HttpClient::new(server.admin()).get("/orders/bad", "").await.unwrap());
    assert_eq!(http.get("/v1/orders/good", &token).await.unwrap().status, 200);
    let event = r#"{"id":"e1","kind":"order.accepted","order":"bad"}"#;
    let answer = http.send("POST", "/v1/events", &token, "application/json", event).await.unwrap();
    let answer: EventsAnswer = decoded(&answer);
    assert_eq!(
        answer.events[0].reason,
        Some(RejectionReason::Unavailable),
        "a client keeps the event and sends it again"
    );
    assert_eq!(damage_alerts(&server).await, [Severity::Critical]);

    // The alert says what was found since the start: it stays.
    write(&server, "bad", paid).await;
    let list: OrdersAnswer = decoded(&http.get("/v1/orders?open=1", &token).await.unwrap());
    assert_eq!(list.orders.len(), 2);
    assert_eq!(damage_alerts(&server).await, [Severity::Critical]);
    server.stop().await;
    drop(server);
    let server = start(dir.path()).await;
    let http = HttpClient::new(server.public());
    let list: OrdersAnswer = decoded(&http.get("/v1/orders?open=1", &token).await.unwrap());
    assert_eq!(list.orders.len(), 2);
    assert_eq!(alerts(&server, AlertCode::LedgerDamaged).await, [], "nothing is damaged any more");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_order_without_a_state_is_an_error_and_an_alert_and_never_a_shorter_list() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let http = HttpClient::new(server.public());
    write(&server, "good", br#"{"stage":"paid","store":"1"}"#).await;
    assert_eq!(http.get("/v1/orders?open=1", &token(&server)).await.unwrap().status, 200);
    let open_index = vec![(store(), order_key("gone"), true)];
    server.ledger.commit(KeyBatchEffects { open_index, ..KeyBatchEffects::default() }).await.unwrap();
    assert_unavailable(&http.get("/v1/orders?open=1", &token(&server)).await.unwrap());
    assert_eq!(damage_alerts(&server).await, [Severity::Critical]);
    server.stop().await;
}

#[tokio::test]
async fn a_notice_that_does_not_decode_is_an_alert_and_stops_poll_push_and_tail() {
    let log = LogCapture::at(tracing::Level::ERROR);
    let dir = tempfile::tempdir().unwrap();
    // In the middle: the braces around it are still there.
    let without_kind = |row: &[u8]| {
        let kind = row.windows(6).position(|bytes| bytes == b"\"kind\"").unwrap();
        [&row[..kind], &row[kind + 4..]].concat()
    };
    let server = start_with_damaged_notice(dir.path(), without_kind).await;
    assert_eq!(damage_alerts(&server).await, []);
    assert_eq!(sent_to_till(&server).await, ["welcome", "1011"]);
    assert_eq!(damage_alerts(&server).await, [Severity::Critical]);
    // The row is named by its table and a hash when it is met first; the till, each time it cannot be served.
    assert_eq!(log.line("a stored row is damaged")["fields"]["table"], "mailboxes");
    let span = &log.line("cannot read a mailbox")["span"];
    assert_eq!((&span["recipient"], &span["device"]), (&"store:1".into(), &"till-1".into()));

    let (cursor, _) = server.ledger.devices().cursor_and_head(&store(), &Id::new("d").unwrap()).unwrap();
    let http = HttpClient::new(server.public());
    for path in ["/v1/notices", "/v1/notices?wait=5"] {
        assert_unavailable(&http.get(path, &token(&server)).await.unwrap());
    }
    // A poll names whose mailbox it is, too.
    let lines: Vec<serde_json::Value> = log.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_polls: Vec<_> = lines.iter().filter(|line| line["span"]["name"] == "poll").collect();
    assert_eq!(of_polls.len(), 2, "{lines:?}");
    for line in of_polls {
        let (message, span) = (&line["fields"]["message"], &line["span"]);
        assert_eq!((message, &span["recipient"]), (&"cannot read a mailbox".into(), &"store:1".into()));
        assert_eq!(span["device"], "default");
    }
    let tail = format!("/stores/1/tail?after={}", cursor.acked);
    assert_unavailable(&HttpClient::new(server.admin()).get(&tail, "").await.unwrap());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_row_that_does_not_decode_is_an_alert_and_rejects_hello_poll_and_tail() {
    for meets_it in ["hello", "poll", "tail"] {
        let dir = tempfile::tempdir().unwrap();
        let server = start_with_damaged_notice(dir.path(), |row| row[..1].to_vec()).await;
        assert_eq!(damage_alerts(&server).await, []);
        let admin = HttpClient::new(server.admin());
        match meets_it {
            "hello" => assert_eq!(sent_to_till(&server).await, ["1011"]),
            "poll" => {
                let http = HttpClient::new(server.public());
                assert_unavailable(&http.get("/v1/notices", &token(&server)).await.unwrap());
            }
            _ => assert_unavailable(&admin.get("/stores/1/tail", "").await.unwrap()),
        }
        assert_eq!(damage_alerts(&server).await, [Severity::Critical], "{meets_it}");
        server.stop().await;
    }
}

/// The rows of one kind, as a backup names them: the table's number, and a place in the key with the bytes that stand there.
type RowsOf = (&'static str, u8, usize, &'static [u8]);

/// Every kind that a server with one order writes. The schema is in `src/ledger/tables.rs`.
const KINDS: [RowsOf; 18] = [
    ("orders", 0, 1, b"o"),
    ("notice index", 0, 1, b"n"),
    ("mailbox rows", 1, 1, b"s"),
    ("records", 2, 0, b""),
    ("open orders", 3, 0, b"i"),
    ("expiry checks", 3, 0, b"t"),
    ("row counts", 3, 0, b"k"),
    ("floors", 3, 0, b"m"),
    ("cursors", 3, 0, b"c"),
    ("event ids", 3, 0, b"e"),
    ("dead letters", 3, 0, b"d"),
    ("losses", 3, 0, b"l"),
    ("checkpoints", 3, 0, b"f"),
    ("log ends", 3, 0, b"s"),
    ("log starts", 3, 0, b"S"),
    ("newest seq", 3, 0, b"!seq"),
    ("delivery steps", 4, 0, b""),
    ("counters", 5, 0, b""),
];

pub(super) async fn post_paid(server: &Server, order: &str, store: &str) {
    let producer = server.state.tokens().mint("producer", "shop", None, wall_clock(), 600).unwrap();
    let event = serde_json::json!({"type": "order.paid", "order": order, "store": store, "time": wall_clock().0});
    let http = HttpClient::new(server.public());
    let answer = http.send("POST", "/v1/events", &producer, "application/json", event.to_string()).await.unwrap();
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
}

/// Connects a till of a store, and acknowledges its first notice; returns the order that it is about.
async fn first_notice(server: &Server, store: &str) -> String {
    let token = server.state.tokens().mint("store", store, None, wall_clock(), 600).unwrap();
    let mut socket = Socket::open_with_hello(server.public(), &token, "till-1", None).await.unwrap();
    loop {
        let frame: serde_json::Value = serde_json::from_str(&socket.next_text().await.unwrap()).unwrap();
        if frame["type"] == "notice" {
            socket.ack(frame["position"].as_str().unwrap().parse().unwrap()).await.unwrap();
            return frame["order"].as_str().unwrap().to_owned();
        }
    }
}

/// A backup of a server whose store 1 has one order, from its event to the till's acknowledgement.
async fn backup_of_one_order(dir: &Path) -> Vec<u8> {
    let server = start(dir).await;
    post_paid(&server, "o1", "1").await;
    assert_eq!(first_notice(&server, "1").await, "o1");
    let dead_letter = orderbell_consumers::DeadLetter {
        record: orderbell_consumers::Record {
            partition: orderbell_consumers::TopicPartition::new("orders", 0),
            offset: 0,
            timestamp_ms: 0,
            read_ms: 0,
            key: None,
            value: None,
            headers: Default::default(),
        },
        reason: orderbell_consumers::Reason { code: "no-type", message: String::new() },
        attempts: 1,
    };
    orderbell_consumers::DeadLetterSink::write(&*server.ledger, dead_letter).await.unwrap();
    let backup = stop_with_backup(server, dir).await;
    // What only time or a broken topic would write.
    let backup = with_row(&backup, 3, b"lgorders\0\0\0\0\0", &[0; 16]);
    let backup = with_row(&backup, 3, b"m\0s9\0", &[0; 18]);
    with_row(&backup, 3, b"S\0\0\0\0", &[0; 8])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_and_serves_with_every_row_of_any_kind_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let backup = backup_of_one_order(&dir.path().join("whole")).await;
    for (kind, table, at, tag) in KINDS {
        let dir = dir.path().join(kind);
        let mut damaged = 0;
        let backup = with_values(&backup, |of, key, value| {
            if of != table || !key.get(at..).is_some_and(|key| key.starts_with(tag)) {
                return value.to_vec();
            }
            damaged += 1;
            vec![0xff]
        });
        assert!(damaged > 0, "{kind}");
        Ledger::restore(&dir, backup.as_slice()).unwrap();
        // A restart meets the same row again.
        for order in ["o2", "o3"] {
            let server = start(&dir).await;
            post_paid(&server, order, order).await;
            assert_eq!(first_notice(&server, order).await, order, "{kind}: another store's till is served");
            server.stop().await;
        }
    }
}

/// Retention meets them by itself: nobody asks for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_that_retention_meets_is_an_alert_after_each_start() {
    let dir = tempfile::tempdir().unwrap();
    let backup = backup_of_one_order(&dir.path().join("whole")).await;
    for (kind, table, _, tag) in KINDS
        .into_iter()
        .filter(|(kind, ..)| ["cursors", "event ids", "floors", "losses", "log starts", "counters"].contains(kind))
    {
        let dir = dir.path().join(kind);
        let is_damaged = |of, key: &[u8]| of == table && key.starts_with(tag);
        let damage = |of, key: &[u8], value: &[u8]| if is_damaged(of, key) { vec![0xff] } else { value.to_vec() };
        Ledger::restore(&dir, with_values(&backup, damage).as_slice()).unwrap();
        for _ in 0..2 {
            let server = start(&dir).await;
            let began = std::time::Instant::now();
            while damage_alerts(&server).await.is_empty() {
                assert!(began.elapsed() < Duration::from_secs(30), "{kind}: no alert");
                tokio::task::yield_now().await;
            }
            assert_eq!(damage_alerts(&server).await, [Severity::Critical], "{kind}");
            server.stop().await;
        }
    }
}
