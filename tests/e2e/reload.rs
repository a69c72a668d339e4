//! A configuration that changes while the server runs: good or not at all.

use orderbell_client::{Received, Socket};
use orderbell_protocol::ServerFrame;
use tokio::task::block_in_place;

use crate::chain::{Node, soon};

/// The number of notices in flight that a new connection is allowed.
async fn window(node: &Node) -> u16 {
    let mut socket = Socket::open_with_hello(node.public, &node.token("store", "1"), "a", None).await.unwrap();
    match soon("a welcome", socket.next()).await.unwrap() {
        Received::Frame(ServerFrame::Welcome { max_in_flight, .. }) => max_in_flight,
        other => panic!("instead of a welcome: {other:?}"),
    }
}

fn reload(node: &Node, text: &str, says: &str) -> String {
    std::fs::write(&node.args[1], text).unwrap();
    node.process.signal("HUP");
    block_in_place(|| node.process.err.wait_for(says, |line| line.contains(says).then(|| line.to_owned())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_what_may_change_and_names_what_waits_for_a_restart() {
    let node = Node::configured("[sessions]\nmax_in_flight = 5\n");
    assert_eq!(window(&node).await, 5);
    let text = "state_retention = \"48h\"\n[sessions]\nmax_in_flight = 7\n[notice_fields]\nnew_order = [\"amount\"]\n";
    let said = reload(&node, text, "reloaded");
    assert!(said.contains("applied=[\"notice_fields\", \"sessions.max_in_flight\"]"), "{said}");
    assert!(said.contains("needs_restart=[\"state_retention\"]"), "{said}");
    assert_eq!(window(&node).await, 7);
    // And a notice says less than before.
    let mut till = node.till("1", "b").await;
    let paid = serde_json::json!({"store": "1", "amount": 5, "currency": "CNY"});
    node.happens(&[crate::chain::event("order.paid", "o1", paid)]).await;
    let notice = till.hears(orderbell_protocol::NoticeKind::NewOrder, "o1").await;
    assert_eq!(notice.notice.body, serde_json::json!({"amount": 5}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_reload_changes_nothing() {
    let node = Node::configured("[sessions]\nmax_in_flight = 5\n");
    let mut till = node.till("1", "b").await;
    for bad in [
        "[sessions]\nmax_in_flight = 7\nmax_delivery_attempts = 0\n",
        "[sessions]\nmax_in_flight = 8\nmax_in_fligh = 1\n",
        "[sessions\n",
        "[sessions]\nmax_in_flight = 9\n[tokens]\nkeys = [{ kid = \"k\", secret_file = \"/nowhere/at/all\" }]\n",
    ] {
        let before = node.process.err.text().matches("reload failed, the configuration is unchanged").count();
        std::fs::write(&node.args[1], bad).unwrap();
        node.process.signal("HUP");
        crate::chain::until("it is refused", async || {
            node.process.err.text().matches("reload failed, the configuration is unchanged").count() > before
        })
        .await;
        assert_eq!(window(&node).await, 5, "{bad}");
    }
    node.pays("o1", "1").await;
    till.hears(orderbell_protocol::NoticeKind::NewOrder, "o1").await;
}
