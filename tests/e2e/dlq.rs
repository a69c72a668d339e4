//! Dead letters: found, looked at, mended, sent again.

use serde_json::{Value, json};

use crate::chain::{Node, event, until};

/// Runs `orderbell dlq ...`; what it said.
fn dlq(node: &Node, args: &[&str]) -> String {
    let (done, said) = node.command(&[&["dlq"], args].concat());
    assert!(done, "{said}");
    said
}

async fn dead_lettered(node: &Node, count: u64) {
    until("the dead letters", async || node.metric("orderbell_records_dead_lettered_total").await == count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_of_the_embedded_stream_are_listed_shown_and_replayed() {
    let node = Node::embedded();
    node.pays("o1", "1").await;
    // Another store speaks about the order: understood, and refused as a security event.
    let forged = event("order.ready", "o1", json!({"store": "2", "note": "取餐"}));
    node.happens(std::slice::from_ref(&forged)).await;
    // It is counted before it is written.
    until("it is written", async || !dlq(&node, &["list"]).is_empty()).await;
    let listed = dlq(&node, &["list"]);
    assert!(listed.starts_with("1\torderbell.events/") && listed.contains("store-mismatch"), "{listed}");
    assert_eq!(dlq(&node, &["list", "--reason", "not-json"]), "");
    let shown: Value = serde_json::from_str(&dlq(&node, &["show", "1"])).unwrap();
    let value: Value = serde_json::from_str(shown["value"].as_str().unwrap()).unwrap();
    assert_eq!(value, forged, "as it came");
    // It is still refused: it comes back as a new dead letter, and the old one is gone.
    assert_eq!(dlq(&node, &["replay"]), "1 records were replayed\n");
    until("the new one is written", async || dlq(&node, &["list"]).starts_with("2\t")).await;
    let listed = dlq(&node, &["list"]);
    assert!(listed.starts_with("2\t") && listed.lines().count() == 1, "{listed}");
}

#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_mapping_is_corrected_the_replayed_dead_letters_of_a_topic_notify() {
    use orderbell_protocol::NoticeKind::NewOrder;
    let mut node = crate::kafka::node().await;
    let theirs = |n: u32| json!({"type": "PAY_SUCCESS", "id": format!("p{n}"), "order": format!("o{n}"), "store": "1"});
    // Two in one record: each is a dead letter of its own.
    node.happens(&[json!([theirs(1), theirs(2)]), json!({"type": "NOBODY_KNOWS", "order": "o3"})]).await;
    // A paid order that cannot be understood raises an alert at once.
    node.happens(&[json!({"type": "order.paid", "order": {"a": 1}})]).await;
    dead_lettered(&node, 4).await;
    let alert = node.alert(orderbell_protocol::alert::AlertCode::DeadLetters).await.unwrap();
    assert!(alert.detail.contains("1 dead letters that are paid orders (bad-id)"), "{alert:?}");
    until("all are in their topic", async || dlq(&node, &["list"]).lines().count() == 4).await;
    let listed = dlq(&node, &["list"]);
    assert_eq!(listed.matches("unknown-type").count(), 3, "{listed}");
    let which = listed.lines().find(|line| line.contains("bad-id")).unwrap().split('\t').next().unwrap().to_owned();
    assert!(dlq(&node, &["show", &which]).contains("x-dlq-reason: bad-id"));
    // The operator has seen it; the next one is another alert.
    let alert = async || node.alert(orderbell_protocol::alert::AlertCode::DeadLetters).await;
    assert!(node.command(&["alerts", "ack", "dead_letters"]).0);
    assert_eq!(alert().await, None);
    node.happens(&[json!({"type": "order.paid", "order": {"a": 2}})]).await;
    dead_lettered(&node, 5).await;
    assert!(alert().await.unwrap().detail.contains("1 dead letters that are paid orders"));

    node.process.signal("TERM");
    assert!(tokio::task::block_in_place(|| node.process.ends()).success());
    let config = node.args[1].clone();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\n[mapping]\ntypes = {{ PAY_SUCCESS = \"order.paid\" }}\n")).unwrap();
    node.restart();
    assert_eq!(dlq(&node, &["replay", "--reason", "unknown-type"]), "3 records were replayed\n");
    let mut till = node.till("1", "a").await;
    let mut notices = [till.notice().await, till.notice().await];
    notices.sort_by_key(|notice| notice.notice.order.clone());
    assert!(notices.iter().zip(["o1", "o2"]).all(|(n, order)| n.notice.kind == NewOrder && n.notice.order == order));
    till.acks(&notices[1]).await;
    // A second time changes nothing.
    dlq(&node, &["replay", "--reason", "unknown-type"]);
    node.pays("o9", "1").await;
    let mut fresh = node.till_from("1", "b", Some(till.position)).await;
    fresh.hears(NewOrder, "o9").await;
}

/// The console reads the dead letters of topics through the server, and replays those that an operator chose.
#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_lists_the_dead_letters_of_a_topic_and_replays_the_chosen_one() {
    use orderbell_client::HttpClient;
    use orderbell_protocol::NoticeKind::NewOrder;
    let mut node = crate::kafka::node().await;
    let theirs = |n: u32| json!({"type": "PAY_SUCCESS", "id": format!("p{n}"), "order": format!("o{n}"), "store": "1"});
    node.happens(&[theirs(1), theirs(2)]).await;
    dead_lettered(&node, 2).await;
    let listed = async |node: &Node| {
        HttpClient::new(node.admin).get("/dead-letters/topics", "").await.unwrap().json().unwrap()["records"].clone()
    };
    until("both are listed", async || listed(&node).await.as_array().is_some_and(|all| all.len() == 2)).await;
    let records = listed(&node).await;
    let records = records.as_array().unwrap();
    assert!(
        records.iter().all(|record| record["reason"] == "unknown-type" && record.get("value").is_none()),
        "{records:?}"
    );
    let mut second = Value::Null;
    for record in records {
        let path = format!("/dead-letters/topics?which={}", record["which"].as_str().unwrap().replace('@', "%40"));
        let whole = HttpClient::new(node.admin).get(&path, "").await.unwrap().json().unwrap();
        let value: Value = serde_json::from_str(whole["value"].as_str().unwrap()).unwrap();
        if value == theirs(2) {
            second = whole["which"].clone();
        }
    }
    let none = HttpClient::new(node.admin).get("/dead-letters/topics?which=orders.dlq/0%407777", "").await.unwrap();
    assert_eq!(none.status, 404);
    // Stopped, not killed: what is not saved would be read again, by the new mapping.
    node.process.signal("TERM");
    assert!(tokio::task::block_in_place(|| node.process.ends()).success());
    let config = node.args[1].clone();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\n[mapping]\ntypes = {{ PAY_SUCCESS = \"order.paid\" }}\n")).unwrap();
    node.restart();
    let replay = json!([second]).to_string();
    let answer =
        HttpClient::new(node.admin).send("POST", "/dead-letters/topics/replay", "", "application/json", replay).await;
    assert_eq!(answer.unwrap().json().unwrap(), json!({"replayed": 1}));
    let mut till = node.till("1", "a").await;
    till.hears(NewOrder, "o2").await;
    node.pays("o9", "1").await;
    till.hears(NewOrder, "o9").await;
}

/// Five records at two a second take two seconds and more: the first pair at once, the last record two seconds later.
async fn replays_at_its_rate(node: &Node) {
    node.pays("o1", "1").await;
    // Another store speaks about the order: refused, whatever the mapping says, and refused again when it is replayed.
    let forged: Vec<Value> = (0..5).map(|_| event("order.ready", "o1", json!({"store": "2"}))).collect();
    node.happens(&forged).await;
    dead_lettered(node, 5).await;
    until("all are listed", async || dlq(node, &["list"]).lines().count() == 5).await;
    let began = std::time::Instant::now();
    assert_eq!(dlq(node, &["replay", "--rate", "2"]), "5 records were replayed\n");
    assert!(began.elapsed() >= std::time::Duration::from_secs(2), "five in {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_of_the_ledgers_dead_letters_holds_its_rate() {
    replays_at_its_rate(&Node::embedded()).await;
}

#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_of_a_topics_dead_letters_holds_its_rate() {
    replays_at_its_rate(&crate::kafka::node().await).await;
}
