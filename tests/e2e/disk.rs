//! A disk that is nearly full: nothing new is taken in, reading goes on, nothing is lost.

use orderbell_protocol::NoticeKind::NewOrder;
use orderbell_protocol::alert::AlertCode;
use serde_json::json;

use crate::chain::{Node, accepted, event, until};

scenarios! {
    with "min_free_space = \"0MiB\"";
    below_the_guard_intake_stops_and_reading_goes_on,
}

/// Sets the guard in the configuration file and starts again.
fn guard(node: &mut Node, mb: u64) {
    node.process.signal("TERM");
    assert!(node.process.ends().success(), "{}", node.process.err.text());
    let config = node.args[1].clone();
    let text = std::fs::read_to_string(&config).unwrap();
    let (_, rest) = text.split_once('\n').unwrap_or((&text, ""));
    std::fs::write(&config, format!("min_free_space = \"{mb}MiB\"\n{rest}")).unwrap();
    node.restart();
}

async fn below_the_guard_intake_stops_and_reading_goes_on(mut node: Node) {
    node.pays("o1", "1").await;
    let mut till = node.till("1", "a").await;
    let first = till.hears(NewOrder, "o1").await;
    drop(till);
    // No disk has so much room: as full as one can be.
    guard(&mut node, 1 << 40);
    assert!(node.alert(AlertCode::DiskLow).await.is_some(), "{:?}", node.alerts().await);
    let paid = event("order.paid", "o2", json!({"store": "1"}));
    let answer = node.post(&json!([paid])).await;
    assert_eq!((answer.status, &answer.json().unwrap()["code"]), (503, &json!("unavailable")));
    // Who reads is not disturbed.
    let page = node.polls("1", "b", None, 0).await;
    assert_eq!(page.notices[0].notice.order, "o1");
    let mut till = node.till_from("1", "a", Some(first.position)).await;
    assert_eq!(till.says(accepted("o1", "A17")).await, ("rejected".into(), Some("unavailable".into())));
    drop(till);
    #[cfg(feature = "real-kafka")]
    if node.topic.is_some() {
        // On Kafka orders come in all the same: they wait in the log.
        node.happens(std::slice::from_ref(&paid)).await;
        let halted = async || node.alert(AlertCode::HandlerFailing).await.is_some();
        until("intake stands still", halted).await;
        assert_eq!(node.polls("1", "b", Some(page.position), 0).await.notices.len(), 0);
    }
    guard(&mut node, 0);
    if node.polls("1", "b", Some(page.position), 10).await.notices.is_empty() {
        node.posts(&[paid]).await;
    }
    let mut till = node.till_from("1", "a", Some(first.position)).await;
    till.hears(NewOrder, "o2").await;
    till.accepts("o2", "A18").await;
    until("no alert is left", async || node.is_well().await).await;
}
