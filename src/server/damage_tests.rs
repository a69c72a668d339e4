//! A whole server in this process, with a row that the test damages.

use orderbell_ledger::{KeyBatchEffects, NewNotice};
use orderbell_protocol::admin::ReadyAnswer;
use orderbell_protocol::alert::{AlertCode, Severity};
use orderbell_protocol::frame::{EventsAnswer, OrderStage, OrdersAnswer};
use orderbell_protocol::notice::EncodedNotice;
use orderbell_protocol::{NoticeKind, Problem, RejectionReason};

use super::*;
use crate::config::Listen;
use crate::log_capture::LogCapture;
use orderbell_client::{HttpClient, HttpResponse, Socket};
use orderbell_protocol::OrderKey;

async fn start(dir: &std::path::Path) -> Arc<Server> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::in_dir(dir);
    config.boot.listen = Listen { public: any, admin: any };
    Server::start(&config, config.limits(), |error| panic!("{error}")).await.unwrap()
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
async fn start_with_damaged_notice(dir: &std::path::Path, damage: fn(&[u8]) -> Vec<u8>) -> Arc<Server> {
    let server = start(dir).await;
    let notice = EncodedNotice::from_stored(NOTICE.as_bytes()).unwrap();
    let (order, expires_at) = (order_key("o1"), wall_clock().plus_ms(3_600_000));
    let notice =
        NewNotice { order, id: "n1".into(), kind: NoticeKind::NewOrder, recipient: store(), notice, expires_at };
    server.ledger.commit(KeyBatchEffects { notices: vec![notice], ..KeyBatchEffects::default() }).await.unwrap();
    let mut backup = Vec::new();
    server.ledger.backup(&mut backup, |_| {}).unwrap();
    server.stop().await;
    let is_notice = |value: &[u8]| value.ends_with(NOTICE.as_bytes());
    let backup = with_values(&backup, |value| if is_notice(value) { damage(value) } else { value.to_vec() });
    let restored = dir.join("restored");
    Ledger::restore(&restored, backup.as_slice()).unwrap();
    start(&restored).await
}

const NOTICE: &str = r#"{"id":"n1","kind":"new_order","order":"o1","at":1,"body":{}}"#;

/// The backup with every value changed. Its layout is in `src/ledger/backup.rs`.
fn with_values(backup: &[u8], change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let number = |at: usize| u32::from_be_bytes(backup[at..at + 4].try_into().unwrap()) as usize;
    let mut at = backup.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let mut out = backup[..at].to_vec();
    while backup[at] != 0xff {
        let value_at = at + 9 + number(at + 1);
        let end = value_at + number(at + 5);
        let value = change(&backup[value_at..end]);
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

async fn damage_alerts(server: &Server) -> Vec<Severity> {
    let ready: ReadyAnswer = decoded(&HttpClient::new(server.admin()).get("/ready", "").await.unwrap());
    assert!(ready.ready);
    let damaged = |alert: &orderbell_protocol::alert::Alert| alert.code == AlertCode::LedgerDamaged;
    ready.alerts.into_iter().filter(damaged).map(|alert| alert.severity).collect()
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
    let server = start_with_damaged_notice(dir.path(), |row| row[..row.len() - 2].to_vec()).await;
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
