//! A configuration that changes while the server runs: good or not at all.

use orderbell::client::{Heard, Socket};
use orderbell_protocol::ServerFrame;
use tokio::task::block_in_place;

use crate::chain::{Bell, soon};

/// The window that a new connection is told.
async fn window(bell: &Bell) -> u16 {
    let mut socket = Socket::hello(bell.public, &bell.token("store", "1"), "a", None).await.unwrap();
    match soon("a welcome", socket.next()).await.unwrap() {
        Heard::Frame(ServerFrame::Welcome { window, .. }) => window,
        other => panic!("instead of a welcome: {other:?}"),
    }
}

fn reload(bell: &Bell, text: &str, says: &str) -> String {
    std::fs::write(&bell.args[1], text).unwrap();
    bell.process.signal("HUP");
    block_in_place(|| bell.process.err.wait_for(says, |line| line.contains(says).then(|| line.to_owned())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_what_may_change_and_names_what_waits_for_a_restart() {
    let bell = Bell::configured("[sessions]\nwindow = 5\n");
    assert_eq!(window(&bell).await, 5);
    let text = "state_retention_hours = 48\n[sessions]\nwindow = 7\n[visible]\nnew_order = [\"amount\"]\n";
    let said = reload(&bell, text, "reloaded");
    assert!(said.contains("taken=[\"sessions\", \"visible\"]"), "{said}");
    assert!(said.contains("waits_for_a_restart=[\"state_retention_hours\"]"), "{said}");
    assert_eq!(window(&bell).await, 7);
    // And a notice says less than before.
    let mut till = bell.till("1", "b").await;
    let paid = serde_json::json!({"store": "1", "amount": 5, "currency": "CNY"});
    bell.happens(&[crate::chain::event("order.paid", "o1", paid)]).await;
    let notice = till.hears(orderbell_protocol::NoticeKind::NewOrder, "o1").await;
    assert_eq!(notice.notice.body, serde_json::json!({"amount": 5}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_reload_changes_nothing() {
    let bell = Bell::configured("[sessions]\nwindow = 5\n");
    let mut till = bell.till("1", "b").await;
    for bad in [
        "[sessions]\nwindow = 7\nattempts_max = 0\n",
        "[sessions]\nwindow = 8\nwindo = 1\n",
        "[sessions\n",
        "[sessions]\nwindow = 9\n[tokens]\nkeys = [{ id = \"k\", secret_file = \"/nowhere/at/all\" }]\n",
    ] {
        let before = bell.process.err.text().matches("the reload changes nothing").count();
        std::fs::write(&bell.args[1], bad).unwrap();
        bell.process.signal("HUP");
        crate::chain::until("it is refused", async || {
            bell.process.err.text().matches("the reload changes nothing").count() > before
        })
        .await;
        assert_eq!(window(&bell).await, 5, "{bad}");
    }
    bell.pays("o1", "1").await;
    till.hears(orderbell_protocol::NoticeKind::NewOrder, "o1").await;
}
