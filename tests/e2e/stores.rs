//! What an operator sees of the stores.

use std::path::Path;

use orderbell_lab::Process;
use orderbell_protocol::NoticeKind::{NewOrder, PickupCode};
use serde_json::{Value, json};

use crate::chain::{Bell, until};

scenarios! {
    for_whom_something_waits_is_seen,
    one_orders_story_is_told_without_what_is_nobodys_business,
    a_mailbox_is_followed_and_nobody_hears_less_for_it,
}

/// Runs `orderbell` against the server; what it said, or why not.
fn orderbell(bell: &Bell, args: &[&str]) -> Result<String, String> {
    let admin = bell.admin.to_string();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_orderbell"));
    let done = command.args(args).args(["--admin", &admin]).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr)) }
}

fn stores(bell: &Bell, args: &[&str]) -> String {
    orderbell(bell, &[&["stores"], args].concat()).unwrap()
}

fn store(bell: &Bell, id: &str) -> Value {
    let seen: Value = serde_json::from_str(&stores(bell, &["--json"])).unwrap();
    let all = seen["stores"].as_array().unwrap();
    all.iter().find(|store| store["id"] == id).cloned().unwrap_or_default()
}

async fn for_whom_something_waits_is_seen(bell: Bell) {
    let (mut awake, mut asleep) = (bell.till("1", "awake").await, bell.till("1", "asleep").await);
    bell.pays("o1", "1").await;
    awake.hears(NewOrder, "o1").await;
    let missed = asleep.notice().await;
    asleep.acks(&missed).await;
    // A cursor is written lazily: from now on this device is known, too.
    until("both have a cursor", async || store(&bell, "1")["devices"].as_array().is_some_and(|all| all.len() == 2))
        .await;
    drop(asleep);
    bell.pays("o2", "1").await;
    awake.hears(NewOrder, "o2").await;
    bell.pays("o3", "2").await;
    let polled = bell.polls("3", "poller", None, 0).await;
    bell.pays("o4", "3").await;
    until("the poller has something", async || {
        !bell.polls("3", "poller", Some(polled.position), 0).await.notices.is_empty()
    })
    .await;
    until("the first till has everything", async || {
        let seen = store(&bell, "1");
        seen["waiting"] == 0 && seen["devices"][0]["waiting"] == 1
    })
    .await;
    until("the others are counted", async || ["2", "3"].iter().all(|id| store(&bell, id)["waiting"] == 1)).await;
    let (first, second, third) = (store(&bell, "1"), store(&bell, "2"), store(&bell, "3"));
    assert_eq!((&first["reach"], &first["today"]), (&"push".into(), &2.into()));
    assert_eq!(first["devices"][0]["device"], "asleep");
    assert!(first["devices"][0]["waiting_since"].is_i64() && first["devices"][1]["waiting"] == 0);
    assert_eq!((&second["reach"], &second["waiting"]), (&"away".into(), &1.into()));
    assert_eq!((&third["reach"], &third["waiting"]), (&"poll".into(), &1.into()));
    let hurt = stores(&bell, &["--hurt"]);
    let lines: Vec<&str> = hurt.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(lines, ["STORE", "2", "3"], "{hurt}");
}

async fn one_orders_story_is_told_without_what_is_nobodys_business(bell: Bell) {
    let (mut till, mut phone) = (bell.till("1", "till-1").await, bell.phone("of-o1").await);
    bell.pays("o1", "1").await;
    till.hears(NewOrder, "o1").await;
    bell.event("order.accepted", "o1", json!({"code": "A17-secret"})).await;
    phone.hears(PickupCode, "o1").await;
    let told = || orderbell(&bell, &["trace", "o1"]).unwrap();
    until("both have received theirs", async || told().matches("received").count() == 2).await;
    let story = told();
    let steps =
        ["happened  order.paid", "stored    new_order to the store", "sent      new_order to the store, device till-1"];
    assert!(steps.iter().all(|step| story.contains(step)), "{story}");
    assert!(story.contains("received  pickup_code to the customer, device phone"), "{story}");
    assert!(story.starts_with("order o1: accepted; store 1\n"), "{story}");
    let json = orderbell(&bell, &["trace", "o1", "--json"]).unwrap();
    for said in [&story, &json] {
        assert!(!said.contains("A17-secret") && !said.contains("of-o1"), "{said}");
    }
    let unknown = orderbell(&bell, &["trace", "o2"]).unwrap_err();
    assert!(unknown.contains("no order o2 is held"), "{unknown}");
}

async fn a_mailbox_is_followed_and_nobody_hears_less_for_it(bell: Bell) {
    bell.pays("before", "1").await;
    let mut till = bell.till("1", "a").await;
    till.hears(NewOrder, "before").await;
    let admin = bell.admin.to_string();
    let tail = Process::start(
        Path::new(env!("CARGO_BIN_EXE_orderbell")),
        &["tail", "1", "--seconds", "60", "--admin", &admin],
        &[],
    );
    tail.err.wait_for("that it follows", |line| line.contains("following store 1").then_some(()));
    bell.pays("o1", "1").await;
    bell.pays("elsewhere", "2").await;
    bell.event("order.cancelled", "o1", json!({})).await;
    tail.out.wait_for("the cancel", |line| line.ends_with("cancelled   o1").then_some(()));
    let said = tail.out.text();
    assert!(!said.contains("before") && !said.contains("elsewhere"), "{said}");
    till.hears(NewOrder, "o1").await;
    // Cursors are written lazily: the till's comes, and none for who follows.
    until("the till is known, and alone", async || store(&bell, "1")["devices"].as_array().unwrap().len() == 1).await;
    let top = || serde_json::from_str::<Value>(&orderbell(&bell, &["top", "--json"]).unwrap()).unwrap();
    until("the partitions are known", async || top()["partitions"].as_array().is_some_and(|all| !all.is_empty())).await;
    assert_eq!(top()["readers"], 1);
    let drawn = orderbell(&bell, &["top", "--once"]).unwrap();
    assert!(drawn.contains("; read up to") && drawn.contains("PARTITION"), "{drawn}");
    // Others than this machine are told nothing of it, and a server that is not there is said to be away.
    let away = std::process::Command::new(env!("CARGO_BIN_EXE_orderbell"))
        .args(["top", "--once", "--admin", "127.0.0.1:9"])
        .output()
        .unwrap();
    assert_eq!(away.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&away.stderr).contains("no server answers on 127.0.0.1:9"));
}
