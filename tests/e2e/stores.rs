//! What an operator sees of the stores.

use std::path::Path;

use orderbell_lab::Process;
use orderbell_protocol::NoticeKind::{NewOrder, PickupCode};
use orderbell_protocol::alert::AlertCode;
use serde_json::{Value, json};

use crate::chain::{Node, Till, until};

scenarios! {
    for_whom_something_waits_is_seen,
    who_is_turned_away_and_two_tills_with_one_id_are_seen,
    one_orders_timeline_is_shown_without_what_is_nobodys_business,
    a_mailbox_is_followed_and_nobody_hears_less_for_it,
}

/// Runs `orderbell` against the server; what it said, or why not.
fn orderbell(node: &Node, args: &[&str]) -> Result<String, String> {
    let admin = node.admin.to_string();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_orderbell"));
    let done = command.args(args).args(["--admin", &admin]).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr)) }
}

fn stores(node: &Node, args: &[&str]) -> String {
    orderbell(node, &[&["stores"], args].concat()).unwrap()
}

fn store(node: &Node, id: &str) -> Value {
    let seen: Value = serde_json::from_str(&stores(node, &["--json"])).unwrap();
    let all = seen["stores"].as_array().unwrap();
    all.iter().find(|store| store["id"] == id).cloned().unwrap_or_default()
}

async fn for_whom_something_waits_is_seen(node: Node) {
    let (mut awake, mut asleep) = (node.till("1", "awake").await, node.till("1", "asleep").await);
    node.pays("o1", "1").await;
    awake.hears(NewOrder, "o1").await;
    let missed = asleep.notice().await;
    asleep.acks(&missed).await;
    // A cursor is written lazily: from now on this device is known, too.
    until("both have a cursor", async || store(&node, "1")["devices"].as_array().is_some_and(|all| all.len() == 2))
        .await;
    drop(asleep);
    node.pays("o2", "1").await;
    awake.hears(NewOrder, "o2").await;
    node.pays("o3", "2").await;
    let polled = node.polls("3", "poller", None, 0).await;
    node.pays("o4", "3").await;
    until("the poller has something", async || {
        !node.polls("3", "poller", Some(polled.position), 0).await.notices.is_empty()
    })
    .await;
    until("the first till has everything", async || {
        let seen = store(&node, "1");
        seen["backlog"] == 0 && seen["devices"][0]["backlog"] == 1
    })
    .await;
    until("the others are counted", async || ["2", "3"].iter().all(|id| store(&node, id)["backlog"] == 1)).await;
    let (first, second, third) = (store(&node, "1"), store(&node, "2"), store(&node, "3"));
    assert_eq!((&first["reachability"], &first["today"]), (&"push".into(), &2.into()));
    assert_eq!(first["devices"][0]["device"], "asleep");
    assert!(first["devices"][0]["backlog_since"].is_i64() && first["devices"][1]["backlog"] == 0);
    assert_eq!((&second["reachability"], &second["backlog"]), (&"offline".into(), &1.into()));
    assert_eq!((&third["reachability"], &third["backlog"]), (&"poll".into(), &1.into()));
    let unhealthy = stores(&node, &["--unhealthy"]);
    let lines: Vec<&str> = unhealthy.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(lines, ["STORE", "2", "3"], "{unhealthy}");
}

async fn who_is_turned_away_and_two_tills_with_one_id_are_seen(mut node: Node) {
    node.pays("o1", "1").await;
    // Both have the same token: a copied installation.
    let token = node.token("store", "1");
    for _ in 0..5 {
        let mut old = Till::connect(node.public, &token, "twin", None).await;
        let _new = Till::connect(node.public, &token, "twin", None).await;
        assert_eq!(old.closed().await.unwrap().0, 4003);
    }
    until("operators are alerted", async || node.alert(AlertCode::DeviceShared).await.is_some()).await;
    let alert = node.alert(AlertCode::DeviceShared).await.unwrap();
    assert_eq!(alert.subject.as_deref(), Some("store:1"));
    until("the till is marked", async || store(&node, "1")["devices"][0]["problem"] == "shared").await;
    let expired = node.tokens().mint("store", "1", None, crate::chain::now().plus_ms(-600_000), 3).unwrap();
    assert_eq!(node.http.get("/v1/notices", &expired).await.unwrap().status, 401);
    let seen = stores(&node, &["--unhealthy"]);
    assert!(seen.contains("twin shared") && seen.contains("token-expired  1 times"), "{seen}");
    assert!(seen.contains("last by store 1"), "{seen}");
    assert_eq!(node.metric("orderbell_clients_rejected_total{reason=\"token-expired\"}").await, 1);
    node.process.err.wait_for("the log line", |line| line.contains("token-expired").then_some(()));
    assert!(!node.process.err.text().contains(&expired), "a token is in the log");
    // Ten minutes without a replacement end the alert, or a restart.
    node.restart();
    until("the alert is over", async || node.is_well().await).await;
}

async fn one_orders_timeline_is_shown_without_what_is_nobodys_business(node: Node) {
    let (mut till, mut phone) = (node.till("1", "till-1").await, node.phone("of-o1").await);
    node.pays("o1", "1").await;
    till.hears(NewOrder, "o1").await;
    node.event("order.accepted", "o1", json!({"pickup_code": "A17-secret"})).await;
    phone.hears(PickupCode, "o1").await;
    let trace = || orderbell(&node, &["trace", "o1"]).unwrap();
    until("both have acknowledged theirs", async || trace().matches("acked").count() == 2).await;
    let traced = trace();
    let steps =
        ["occurred  order.paid", "persisted new_order to the store", "sent      new_order to the store, device till-1"];
    assert!(steps.iter().all(|step| traced.contains(step)), "{traced}");
    assert!(traced.contains("acked     pickup_code to the customer, device phone"), "{traced}");
    assert!(traced.starts_with("order o1: accepted; store 1\n"), "{traced}");
    let json = orderbell(&node, &["trace", "o1", "--json"]).unwrap();
    for said in [&traced, &json] {
        assert!(!said.contains("A17-secret") && !said.contains("of-o1"), "{said}");
    }
    let unknown = orderbell(&node, &["trace", "o2"]).unwrap_err();
    assert!(unknown.contains("order o2 is not found"), "{unknown}");
}

async fn a_mailbox_is_followed_and_nobody_hears_less_for_it(node: Node) {
    node.pays("before", "1").await;
    let mut till = node.till("1", "a").await;
    till.hears(NewOrder, "before").await;
    let admin = node.admin.to_string();
    let tail = Process::start(
        Path::new(env!("CARGO_BIN_EXE_orderbell")),
        &["tail", "1", "--seconds", "600", "--admin", &admin],
        &[],
    );
    tail.err.wait_for("that it follows", |line| line.contains("following store 1").then_some(()));
    node.pays("o1", "1").await;
    node.pays("elsewhere", "2").await;
    node.event("order.cancelled", "o1", json!({})).await;
    tail.out.wait_for("the cancel", |line| line.ends_with("cancelled   o1").then_some(()));
    let said = tail.out.text();
    assert!(!said.contains("before") && !said.contains("elsewhere"), "{said}");
    till.hears(NewOrder, "o1").await;
    // Cursors are written lazily: the till's comes, and none for who follows.
    until("the till is known, and alone", async || store(&node, "1")["devices"].as_array().unwrap().len() == 1).await;
    let top = || serde_json::from_str::<Value>(&orderbell(&node, &["top", "--json"]).unwrap()).unwrap();
    until("the partitions are known", async || top()["partitions"].as_array().is_some_and(|all| !all.is_empty())).await;
    assert_eq!(top()["subscribers"], 1);
    let drawn = orderbell(&node, &["top", "--once"]).unwrap();
    assert!(drawn.contains("; stream read up to") && drawn.contains("PARTITION"), "{drawn}");
    // Others than this machine see nothing of it, and a server that is not there is reported.
    let absent = std::process::Command::new(env!("CARGO_BIN_EXE_orderbell"))
        .args(["top", "--once", "--admin", "127.0.0.1:9"])
        .output()
        .unwrap();
    assert_eq!(absent.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&absent.stderr).contains("no server answers on 127.0.0.1:9"));
}
