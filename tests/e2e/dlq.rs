//! Dead letters: found, looked at, mended, sent again.

use serde_json::{Value, json};

use crate::chain::{Bell, event, until};

/// Runs `orderbell dlq ...`; what it said.
fn dlq(bell: &Bell, args: &[&str]) -> String {
    let admin = bell.admin.to_string();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_orderbell"));
    command.arg("dlq").args(args).args(["--data-dir", bell.dir.to_str().unwrap(), "--admin", &admin]).args(&bell.args);
    let done = tokio::task::block_in_place(|| command.output().unwrap());
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    said
}

async fn buried(bell: &Bell, count: u64) {
    until("the letters", async || bell.metric("orderbell_records_buried_total").await == count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_embedded_stream_refused_is_listed_shown_and_sent_again() {
    let bell = Bell::embedded();
    bell.pays("o1", "1").await;
    // Another store speaks about the order: understood, and refused as a security event.
    let forged = event("order.ready", "o1", json!({"store": "2", "note": "取餐"}));
    bell.happens(std::slice::from_ref(&forged)).await;
    buried(&bell, 1).await;
    let listed = dlq(&bell, &["list"]);
    assert!(listed.starts_with("1\torderbell.events/") && listed.contains("store-mismatch"), "{listed}");
    assert_eq!(dlq(&bell, &["list", "--reason", "not-json"]), "");
    let shown: Value = serde_json::from_str(&dlq(&bell, &["show", "1"])).unwrap();
    let value: Value = serde_json::from_str(shown["value"].as_str().unwrap()).unwrap();
    assert_eq!(value, forged, "as it came");
    // It is still refused: it comes back as a new letter, and the old one is gone.
    assert_eq!(dlq(&bell, &["replay"]), "1 letters were sent again\n");
    buried(&bell, 2).await;
    let listed = dlq(&bell, &["list"]);
    assert!(listed.starts_with("2\t") && listed.lines().count() == 1, "{listed}");
}

#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_mapping_was_mended_the_letters_of_a_topic_ring() {
    use orderbell_protocol::NoticeKind::NewOrder;
    let mut bell = crate::kafka::bell().await;
    let theirs = |n: u32| json!({"type": "PAY_SUCCESS", "id": format!("p{n}"), "order": format!("o{n}"), "store": "1"});
    bell.happens(&[theirs(1), theirs(2), json!({"type": "NOBODY_KNOWS", "order": "o3"})]).await;
    // Of an order that is paid in our own words, and cannot be understood, somebody is told at once.
    bell.happens(&[json!({"type": "order.paid", "order": {"a": 1}})]).await;
    buried(&bell, 4).await;
    let admin = orderbell::client::Http::new(bell.admin);
    let red = admin.ask("/ready", "").await.unwrap().json()["red"]["dead letters"].clone();
    assert!(red.as_str().unwrap().starts_with("1 since the start"), "{red}");
    until("all are in their topic", async || dlq(&bell, &["list"]).lines().count() == 4).await;
    let listed = dlq(&bell, &["list"]);
    assert_eq!(listed.matches("unknown-type").count(), 3, "{listed}");
    let which = listed.lines().find(|line| line.contains("bad-id")).unwrap().split('\t').next().unwrap().to_owned();
    assert!(dlq(&bell, &["show", &which]).contains("x-dlq-reason: bad-id"));

    bell.process.signal("TERM");
    assert!(tokio::task::block_in_place(|| bell.process.ends()).success());
    let config = bell.args[1].clone();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\n[mapping]\ntypes = {{ PAY_SUCCESS = \"order.paid\" }}\n")).unwrap();
    bell.restart();
    assert_eq!(dlq(&bell, &["replay", "--reason", "unknown-type"]), "3 letters were sent again\n");
    let mut till = bell.till("1", "a").await;
    let mut heard = [till.notice().await, till.notice().await];
    heard.sort_by_key(|notice| notice.notice.order.clone());
    assert!(heard.iter().zip(["o1", "o2"]).all(|(n, order)| n.notice.kind == NewOrder && n.notice.order == order));
    till.acks(&heard[1]).await;
    // A second time changes nothing.
    dlq(&bell, &["replay", "--reason", "unknown-type"]);
    bell.pays("o9", "1").await;
    let mut fresh = bell.till_from("1", "b", Some(till.position)).await;
    fresh.hears(NewOrder, "o9").await;
}

/// The console looks at the letters of topics through the server, and sends those again that somebody chose.
#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_letters_of_a_topic_are_told_by_the_server_and_the_chosen_one_rings() {
    use orderbell::client::Http;
    use orderbell_protocol::NoticeKind::NewOrder;
    let mut bell = crate::kafka::bell().await;
    let theirs = |n: u32| json!({"type": "PAY_SUCCESS", "id": format!("p{n}"), "order": format!("o{n}"), "store": "1"});
    bell.happens(&[theirs(1), theirs(2)]).await;
    buried(&bell, 2).await;
    let told =
        async |bell: &Bell| Http::new(bell.admin).ask("/letters/topics", "").await.unwrap().json()["letters"].clone();
    until("both are told", async || told(&bell).await.as_array().is_some_and(|all| all.len() == 2)).await;
    let letters = told(&bell).await;
    let letters = letters.as_array().unwrap();
    assert!(
        letters.iter().all(|letter| letter["reason"] == "unknown-type" && letter.get("value").is_none()),
        "{letters:?}"
    );
    let mut second = Value::Null;
    for letter in letters {
        let path = format!("/letters/topics?which={}", letter["which"].as_str().unwrap().replace('@', "%40"));
        let whole = Http::new(bell.admin).ask(&path, "").await.unwrap().json();
        let value: Value = serde_json::from_str(whole["value"].as_str().unwrap()).unwrap();
        if value == theirs(2) {
            second = whole["which"].clone();
        }
    }
    let none = Http::new(bell.admin).ask("/letters/topics?which=orders.dlq/0%407777", "").await.unwrap();
    assert_eq!(none.status, 404);
    let config = bell.args[1].clone();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\n[mapping]\ntypes = {{ PAY_SUCCESS = \"order.paid\" }}\n")).unwrap();
    bell.restart();
    let replay = json!([second]).to_string();
    let answer = Http::new(bell.admin).send("POST", "/letters/topics/replay", "", "application/json", replay).await;
    assert_eq!(answer.unwrap().json(), json!({"replayed": 1}));
    let mut till = bell.till("1", "a").await;
    till.hears(NewOrder, "o2").await;
    bell.pays("o9", "1").await;
    till.hears(NewOrder, "o9").await;
}
