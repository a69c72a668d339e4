//! A disk that is nearly full: nothing new is taken in, reading goes on, nothing is lost.

use orderbell::client::Http;
use orderbell_protocol::NoticeKind::NewOrder;
use serde_json::json;

use crate::chain::{Bell, accepted, event, until};

scenarios! {
    with "free_space_min_mb = 0";
    below_the_guard_intake_stops_and_reading_goes_on,
}

/// Sets the guard in the configuration file and starts again.
fn guard(bell: &mut Bell, mb: u64) {
    bell.process.signal("TERM");
    assert!(bell.process.ends().success(), "{}", bell.process.err.text());
    let config = bell.args[1].clone();
    let text = std::fs::read_to_string(&config).unwrap();
    let (_, rest) = text.split_once('\n').unwrap_or((&text, ""));
    std::fs::write(&config, format!("free_space_min_mb = {mb}\n{rest}")).unwrap();
    bell.restart();
}

async fn below_the_guard_intake_stops_and_reading_goes_on(mut bell: Bell) {
    bell.pays("o1", "1").await;
    let mut till = bell.till("1", "a").await;
    let first = till.hears(NewOrder, "o1").await;
    drop(till);
    // No disk has so much room: as full as one can be.
    guard(&mut bell, 1 << 40);
    let red = Http::new(bell.admin).ask("/ready", "").await.unwrap().json()["red"].clone();
    assert!(red["disk"].is_string(), "{red}");
    let paid = event("order.paid", "o2", json!({"store": "1"}));
    let answer = bell.post(&json!([paid])).await;
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("unavailable")));
    // Who reads is not disturbed.
    let page = bell.polls("1", "b", None, 0).await;
    assert_eq!(page.notices[0].notice.order, "o1");
    let mut till = bell.till_from("1", "a", Some(first.position)).await;
    assert_eq!(till.says(accepted("o1", "A17")).await, ("refused".into(), Some("unavailable".into())));
    drop(till);
    #[cfg(feature = "real-kafka")]
    if bell.topic.is_some() {
        // On Kafka orders come in all the same: they wait in the log.
        bell.happens(std::slice::from_ref(&paid)).await;
        let admin = Http::new(bell.admin);
        let halted = async || admin.ask("/ready", "").await.unwrap().json()["red"]["handler"].is_string();
        until("intake stands still", halted).await;
        assert_eq!(bell.polls("1", "b", Some(page.position), 0).await.notices.len(), 0);
    }
    guard(&mut bell, 0);
    if bell.polls("1", "b", Some(page.position), 10).await.notices.is_empty() {
        bell.posts(&[paid]).await;
    }
    let mut till = bell.till_from("1", "a", Some(first.position)).await;
    till.hears(NewOrder, "o2").await;
    till.accepts("o2", "A18").await;
    let lights = async || Http::new(bell.admin).ask("/ready", "").await.unwrap().json()["red"] == json!({});
    until("nothing is red", lights).await;
}
