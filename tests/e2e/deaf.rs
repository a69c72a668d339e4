//! Connected, but deaf: a client that reads and never acknowledges.

use orderbell::client::{Heard, Http};
use orderbell_protocol::NoticeKind::NewOrder;
use serde_json::json;

use crate::chain::{Bell, soon, until};

scenarios! {
    with "[sessions]\nredeliver_after_ms = 400\n";
    un_acked_notices_come_again_marked_and_a_deaf_client_is_found,
    a_notice_nobody_can_ack_does_not_block_the_next,
    what_a_client_cannot_use_counts_as_acknowledged_and_is_an_alarm,
}

/// What the server says of a device of store 1.
async fn trouble(bell: &Bell, device: &str) -> serde_json::Value {
    let seen = Http::new(bell.admin).ask("/stores", "").await.unwrap().json();
    let devices = seen["stores"][0]["devices"].as_array().cloned().unwrap_or_default();
    devices.into_iter().find(|seen| seen["device"] == device).unwrap_or_default()["trouble"].clone()
}

async fn un_acked_notices_come_again_marked_and_a_deaf_client_is_found(bell: Bell) {
    let mut till = bell.till("1", "deaf").await;
    bell.pays("o1", "1").await;
    let first = till.notice().await;
    let mut attempts = vec![first.attempt];
    let closed = loop {
        match soon("a repeat or the end", till.socket.next()).await.unwrap() {
            Heard::Notice(again) => {
                assert_eq!((again.position, again.notice.id), (first.position, first.notice.id.clone()));
                attempts.push(again.attempt);
            }
            Heard::Frame(_) => {}
            Heard::Closed(why) => break why,
        }
    };
    assert_eq!(attempts, [1, 2, 3, 4]);
    assert_eq!(closed, Some((4103, "deaf".into())));
    until("operators see it", async || trouble(&bell, "deaf").await == "deaf").await;
    // Nothing is lost: the next connection hears it, marked.
    let mut back = bell.till("1", "deaf").await;
    let again = back.notice().await;
    assert!(again.attempt > 1 && again.notice.id == first.notice.id);
    back.acks(&again).await;
    until("it hears again", async || trouble(&bell, "deaf").await.is_null()).await;
}

async fn a_notice_nobody_can_ack_does_not_block_the_next(bell: Bell) {
    let mut other = bell.till("1", "other").await;
    bell.pays("o1", "1").await;
    other.hears(NewOrder, "o1").await;
    for _ in 0..3 {
        let mut till = bell.till("1", "a").await;
        till.notice().await;
        assert_eq!(till.closed().await, Some((4103, "deaf".into())));
    }
    until("operators see it", async || trouble(&bell, "a").await == "stuck").await;
    assert!(trouble(&bell, "other").await.is_null());
    // Its next connection goes on behind it, and somebody is told; among the open orders it still is.
    bell.pays("o2", "1").await;
    let mut till = bell.till("1", "a").await;
    till.hears(NewOrder, "o2").await;
    assert_eq!(bell.metric("orderbell_notices_stuck_total").await, 1);
    let red = Http::new(bell.admin).ask("/ready", "").await.unwrap().json()["red"]["notices"].clone();
    assert!(red.as_str().unwrap().contains("1 that no connection gets acknowledged"), "{red}");
    let open = bell.http.ask("/v1/orders?open=1", &bell.token("store", "1")).await.unwrap().json();
    assert_eq!(open["orders"][0]["order"], "o1");
    other.hears(NewOrder, "o2").await;
}

async fn what_a_client_cannot_use_counts_as_acknowledged_and_is_an_alarm(bell: Bell) {
    let mut till = bell.till("1", "a").await;
    bell.pays("o1", "1").await;
    let notice = till.notice().await;
    let unusable = json!({"type": "unusable", "position": notice.position, "reason": "no-printer"});
    till.socket.say(&unusable.to_string()).await.unwrap();
    let shown = json!({"type": "shown", "position": notice.position});
    till.socket.say(&shown.to_string()).await.unwrap();
    bell.pays("o2", "1").await;
    till.hears(NewOrder, "o2").await;
    assert_eq!(bell.metric("orderbell_notices_unusable_total").await, 1);
    assert_eq!(bell.metric("orderbell_notices_shown_total").await, 1);
    let mut again = bell.till("1", "a").await;
    assert!(again.position.seq >= notice.position.seq, "it is not sent again");
    bell.pays("o3", "1").await;
    again.hears(NewOrder, "o3").await;
}
