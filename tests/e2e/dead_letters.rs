//! Dead letters on real Kafka: which records become one, what it says, and where it goes when its topic does not take it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use orderbell_protocol::NoticeKind::NewOrder;
use orderbell_protocol::alert::AlertCode;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use serde_json::json;

use crate::chain::{Node, until};
use crate::kafka::{Topic, node, node_with, paid};
use crate::ledger::{ledger, open_orders, stops};

/// A record's value and headers, and the reason of its dead letter.
type Poison<'a> = (&'a [u8], &'a [(&'a str, &'a str)], &'a str);

#[tokio::test]
async fn poison_records_of_each_kind_stop_nobody() {
    let node = node().await;
    let topic = node.topic.as_ref().unwrap();
    let long = format!("{{\"type\":\"order.paid\",\"note\":\"{}\"}}", "x".repeat(70_000));
    let batch = [("content-type", "application/cloudevents-batch+json")];
    let cloud = [("content-type", "application/cloudevents+json")];
    let future = [("ce_specversion", "2.0"), ("ce_type", "order.paid"), ("ce_id", "1"), ("ce_source", "/x")];
    let poison: [Poison<'_>; 12] = [
        (b"", &[], "not-json"),
        (b"{", &[], "not-json"),
        (b"\xff\xfe", &[], "not-json"),
        (b"{}", &[], "no-type"),
        (b"{\"type\":\"order.eaten\",\"order\":\"1\"}", &[], "unknown-type"),
        (b"{\"type\":\"order.paid\"}", &[], "no-order"),
        (long.as_bytes(), &[], "too-long"),
        (b"{\"type\":\"order.paid\",\"order\":\"1\",\"shadow\":\"maybe\"}", &[], "bad-shadow"),
        (b"{\"type\":\"order.paid\",\"order\":{\"a\":1}}", &[], "bad-id"),
        (b"[1]", &batch, "batch"),
        (b"{\"specversion\":\"0.3\",\"type\":\"order.paid\",\"id\":\"1\",\"source\":\"/x\"}", &cloud, "bad-envelope"),
        (b"{}", &future, "bad-envelope"),
    ];
    // Each partition of the dead letter topic is created when its first dead letter comes: the moment when one can be lost.
    for partition in 0..4 {
        for (value, headers, _) in poison {
            topic.produces_with(partition, None, Some(value), headers).await;
        }
        topic.produces_raw(partition, None).await;
    }
    let mut till = node.till("1", "a").await;
    node.pays("o1", "1").await;
    till.hears(NewOrder, "o1").await;
    let dead_letters = topic.dead_letters(&format!("{}.dlq", topic.name), 4, 4 * poison.len());
    let count = |dead_letters: Vec<String>| {
        dead_letters.into_iter().fold(BTreeMap::new(), |mut map, reason| {
            *map.entry(reason).or_insert(0) += 1;
            map
        })
    };
    let wanted = count(poison.iter().cycle().take(4 * poison.len()).map(|(.., reason)| (*reason).to_owned()).collect());
    assert_eq!(count(dead_letters.iter().map(|(reason, _)| reason.clone()).collect()), wanted);
    assert!(dead_letters.iter().any(|(_, value)| value == long.as_bytes()), "the original bytes");
}

/// Produces a record that is compressed: it may unpack to any size.
fn compressed(topic: &Topic, dir: &Path, value: &[u8], more: &[&OsStr]) {
    let file = dir.join("value");
    std::fs::write(&file, value).unwrap();
    let mut kcat = Command::new("kcat");
    kcat.args(["-P", "-b", &topic.bootstrap, "-t", &topic.name, "-p", "0", "-z", "gzip"]);
    kcat.args(["-X", "message.max.bytes=100000000"]).args(more).arg(&file);
    assert!(kcat.status().unwrap().success());
}

/// The bugs: a header name that is not UTF-8 ended the process, and again at each start. A record that unpacks to a thousand times its size
/// was copied whole, several times, and kept whole for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_absurd_size_and_unreadable_header_names_stop_nobody() {
    let mut node = node().await;
    let topic = node.topic.take().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let kcat = |value: &[u8], more: &[&OsStr]| compressed(&topic, dir.path(), value, more);
    kcat(paid(1).as_bytes(), &[OsStr::new("-H"), OsStr::from_bytes(b"trace\xff=1")]);
    let bomb = vec![b'0'; 30_000_000];
    kcat(&bomb, &[]);
    let dlq = format!("{}.dlq", topic.name);
    let dead_letters = topic.dead_letters(&dlq, 4, 1);
    assert_eq!((dead_letters[0].0.as_str(), dead_letters[0].1.len()), ("too-large", 64 << 10));
    let (.., headers) = topic.first_of(&dlq);
    assert_eq!(headers.get("x-cut-value-bytes").map(String::as_str), Some("30000000"), "{headers:?}");
    assert!(headers["x-dlq-message"].contains("30000000"), "{headers:?}");
    let many = paid(2).into_bytes();
    kcat(&many, &[[OsStr::new("-H"), OsStr::new("h=1")]; 1_001].concat());
    kcat(paid(3).as_bytes(), &[]);
    let mut till = node.till("1", "a").await;
    till.hears(NewOrder, "o1").await;
    till.hears(NewOrder, "o3").await;
    let whole = ("too-large".to_owned(), many.clone());
    assert!(topic.dead_letters(&dlq, 4, 2).contains(&whole), "its value is not what is too large");
    // It looks whole, and lacks headers: it is not handled again, nor when another tool sends it.
    let (done, said) = node.command(&["dlq", "replay"]);
    assert!(done && said.contains("0 records were replayed"), "{said}");
    let marks = ["-H", "x-dlq-reason=too-large", "-H", "x-cut-headers=1001"].map(OsStr::new);
    kcat(&many, &marks);
    assert!(topic.dead_letters(&dlq, 4, 3).iter().any(|(reason, _)| reason == "cut"));
    until("all are finished", async || topic.committed(4) == 5).await;
    backup_holds_both_orders(node).await;
}

/// A backup that is taken while the server runs has what came before such records and after them, without reading the log again.
async fn backup_holds_both_orders(mut node: Node) {
    let file = node.dir.with_extension("backup");
    let name = file.to_str().unwrap();
    let (code, said) = tokio::task::block_in_place(|| ledger(&node, &["backup", name]));
    assert_eq!(code, 0, "{said}");
    stops(&mut node).await;
    std::fs::remove_dir_all(node.dir.join("db")).unwrap();
    for args in [&["restore", name][..], &["check"]] {
        let (code, said) = ledger(&node, args);
        assert_eq!(code, 0, "{args:?}: {said}");
    }
    node.restart();
    assert_eq!(open_orders(&node).await.0, ["o1", "o3"].map(str::to_owned).into());
    assert_eq!(node.metric("orderbell_notices_created_total{kind=\"new_order\"}").await, 0, "nothing was read again");
}

/// A key that is no text names nothing, so the body counts; one that names another order than the body is a dead letter.
#[tokio::test]
async fn keys_that_are_no_text_or_contradict_their_record_stop_nobody() {
    let node = node_with("[mapping]\nkafka_key = \"order\"\n").await;
    let topic = node.topic.as_ref().unwrap();
    let body = paid(7);
    topic.produces_with(0, Some(b"\xff\x00"), Some(body.as_bytes()), &[]).await;
    topic.produces_with(0, Some(b"o8"), Some(body.as_bytes()), &[]).await;
    node.till("1", "a").await.hears(NewOrder, "o7").await;
    let dead_letters = topic.dead_letters(&format!("{}.dlq", topic.name), 4, 1);
    assert_eq!(dead_letters.iter().map(|(reason, _)| reason.as_str()).collect::<Vec<_>>(), ["key-mismatch"]);
}

#[tokio::test]
async fn a_dead_letter_says_where_it_came_from_and_why() {
    let node = node().await;
    let topic = node.topic.as_ref().unwrap();
    topic.produces_with(2, Some(b"the key"), Some(b"{\"type\":\"order.eaten\"}"), &[("trace", "t-1")]).await;
    let dlq = format!("{}.dlq", topic.name);
    assert_eq!(topic.dead_letters(&dlq, 4, 1).len(), 1);
    let (key, value, headers) = topic.first_of(&dlq);
    assert_eq!((key.as_slice(), value.as_slice()), (&b"the key"[..], &b"{\"type\":\"order.eaten\"}"[..]));
    for (name, wanted) in [
        ("kafka_dlt-original-topic", topic.name.as_str()),
        ("kafka_dlt-original-partition", "2"),
        ("kafka_dlt-original-offset", "0"),
        ("kafka_dlt-original-consumer-group", topic.name.as_str()),
        ("x-dlq-reason", "unknown-type"),
        ("trace", "t-1"),
        ("x-dlq-attempts", "1"),
    ] {
        assert_eq!(headers.get(name).map(String::as_str), Some(wanted), "{name} of {headers:?}");
    }
    assert!(!headers["x-dlq-message"].is_empty() && headers["kafka_dlt-original-timestamp"].parse::<i64>().is_ok());
}

/// A dead letter topic that takes smaller records than its source: the dead letter goes into the ledger's own log, whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_that_is_too_large_for_its_topic_is_kept_in_the_ledger() {
    let node = node().await;
    let topic = node.topic.as_ref().unwrap();
    let dlq = format!("{}.dlq", topic.name);
    let small = NewTopic::new(&dlq, 4, TopicReplication::Fixed(1)).set("max.message.bytes", "2000");
    topic.admin().create_topics([&small], &AdminOptions::new()).await.unwrap();
    let long = format!("{{\"type\":\"order.eaten\",\"order\":\"1\",\"note\":\"{}\"}}", "x".repeat(20_000));
    topic.produces_raw(1, Some(long.as_bytes())).await;
    let admin = orderbell_client::HttpClient::new(node.admin);
    let is_kept = async |count| {
        let answer = admin.get("/dead-letters", "").await.unwrap().json().unwrap();
        answer["records"].as_array().is_some_and(|all| all.len() == count)
    };
    until("it is in the ledger", async || is_kept(1).await).await;
    let kept = admin.get("/dead-letters/1", "").await.unwrap().json().unwrap();
    assert_eq!(kept["value"], long, "whole");
    // What is only the beginning of its record stays where it is.
    topic
        .produces_with(
            1,
            None,
            Some(long.as_bytes()),
            &[("x-dlq-reason", "too-large"), ("x-cut-value-bytes", "5000000")],
        )
        .await;
    until("that is in the ledger", async || is_kept(2).await).await;
    let answer =
        admin.send("POST", "/dead-letters/replay?after=1", "", "application/json", "").await.unwrap().json().unwrap();
    assert_eq!(answer, json!({"replayed": 0, "numbers": [], "cut": [2]}));
    assert!(is_kept(2).await);
    // What is kept of a record that unpacks to a thousand times its size is neither in the way of a backup.
    let dir = tempfile::tempdir().unwrap();
    compressed(topic, dir.path(), &[&[0xff; 64 << 10][..], &[b'0'; 30_000_000]].concat(), &[]);
    until("that is in the ledger", async || is_kept(3).await).await;
    until("all records are finished", async || topic.committed(4) == 3).await;
    let name = dir.path().join("backup");
    let (code, said) = tokio::task::block_in_place(|| ledger(&node, &["backup", name.to_str().unwrap()]));
    assert_eq!(code, 0, "{said}");
    assert!(std::fs::metadata(&name).unwrap().len() < 10_000_000, "the whole record is in the backup");
}

/// The bug: a dead letter topic that was made by hand, or before its source grew, has no such partition, and the dead letter was offered for ever.
#[tokio::test]
async fn a_record_of_a_partition_that_the_dead_letter_topic_lacks_is_kept_all_the_same() {
    let node = node().await;
    let topic = node.topic.as_ref().unwrap();
    let dead_letters = format!("{}.dlq", topic.name);
    Topic::make_named(&topic.bootstrap, &dead_letters, 1).await;
    topic.produces_raw(3, Some(b"{")).await;
    let mut till = node.till("1", "a").await;
    topic.produces_raw(3, Some(paid(1).as_bytes())).await;
    till.hears(NewOrder, "o1").await;
    assert_eq!(topic.dead_letters(&dead_letters, 1, 1), [("not-json".to_owned(), b"{".to_vec())]);
    let names = async || node.metric("orderbell_records_dead_lettered_total").await;
    until("the dead letter counts", async || names().await == 1).await;
    until("its record is finished", async || topic.committed(4) == 2).await;
}

/// The bug: what only mentions a payment raised the alert of a lost payment, and what cannot be read at all raised none.
#[tokio::test]
async fn what_is_no_payment_raises_no_alert_and_what_cannot_be_read_does() {
    let node = node_with("[mapping]\ntypes = { \"2\" = \"order.paid\", PAID = \"order.paid\" }\n").await;
    let topic = node.topic.as_ref().unwrap();
    let rejected = async || node.metric("orderbell_records_dead_lettered_total").await;
    for (at, other) in [
        r#"{"type":"courier.moved","id":"e411","order":"o41","lat":31.2,"lon":121.4}"#,
        r#"{"type":"UNPAID","id":"e412","order":"o41"}"#,
    ]
    .into_iter()
    .enumerate()
    {
        topic.produces_raw(0, Some(other.as_bytes())).await;
        until("it is a dead letter", async || rejected().await == at as u64 + 1).await;
    }
    let schema_change = r#"{"data":null,"table":"orders","isDdl":true,"sql":"alter orders add column x2 INT"}"#;
    topic.produces_raw(0, Some(schema_change.as_bytes())).await;
    until("it is read", async || topic.committed(4) == 3).await;
    assert_eq!(rejected().await, 2, "a schema change is no dead letter either");
    // A topic that was just made may have no leader yet; an alert about a record would not end by itself.
    until("it is well", async || node.is_well().await).await;
    let utf16: Vec<u8> = "{\"type\":\"2\"}".encode_utf16().flat_map(u16::to_be_bytes).collect();
    topic.produces_raw(0, Some(&utf16)).await;
    let alert = async || node.alert(AlertCode::DeadLetters).await.map(|alert| alert.detail);
    until("it is an alert", async || alert().await.is_some()).await;
    let detail = alert().await.unwrap();
    assert!(detail.contains(": 1 dead letters whose type cannot be read (not-json), the newest at "), "{detail}");
    assert_eq!(node.metric("orderbell_paid_records_rejected_total{type=\"unreadable\"}").await, 1);
    assert_eq!(node.metric("orderbell_paid_records_rejected_total{type=\"paid\"}").await, 0);
    topic.produces_raw(0, Some(br#"{"type":"2","order":{}}"#)).await;
    let paid = async || node.metric("orderbell_paid_records_rejected_total{type=\"paid\"}").await;
    until("a paid order is counted as one", async || paid().await == 1).await;
}
