//! What happens to topics: partitions are added, two topics carry events of one order, nothing of one is understood, or its producer's clock is off.

use std::collections::BTreeMap;

use orderbell_protocol::NoticeKind::{self, NewOrder};
use orderbell_protocol::alert::AlertCode;
use rdkafka::admin::{AdminOptions, NewPartitions};
use serde_json::json;

use crate::chain::{Till, event, now, until};
use crate::kafka::{Topic, bootstrap, node_on};

fn paid(order: &str) -> String {
    event("order.paid", order, json!({"store": "1"})).to_string()
}

#[tokio::test]
async fn partitions_that_are_added_begin_at_their_first_record() {
    let node = node_on(Topic::make(&bootstrap(), 2).await, "");
    let topic = node.topic.as_ref().unwrap();
    let mut till = node.till("1", "a").await;
    topic.produces_raw(1, Some(paid("o1").as_bytes())).await;
    till.hears(NewOrder, "o1").await;
    let more = topic.admin().create_partitions(&[NewPartitions::new(&topic.name, 4)], &AdminOptions::new()).await;
    assert!(more.unwrap().iter().all(Result::is_ok));
    // Produced before anybody reads there: a start at the newest record would miss it.
    let own = Topic::known(topic);
    own.produces_raw(3, Some(paid("o2").as_bytes())).await;
    till.hears(NewOrder, "o2").await;
    until("it is well", async || node.is_well().await).await;
}

/// All orders in which four events can be read.
fn permutations(kinds: &[&'static str]) -> Vec<Vec<&'static str>> {
    if kinds.is_empty() {
        return vec![Vec::new()];
    }
    let with = |at: usize| {
        let (mut rest, first) = (kinds.to_vec(), kinds[at]);
        rest.remove(at);
        permutations(&rest).into_iter().map(move |tail| [vec![first], tail].concat())
    };
    (0..kinds.len()).flat_map(with).collect()
}

/// What a mailbox tells of each order, sorted.
async fn received(reader: &mut Till, count: usize) -> BTreeMap<String, Vec<NoticeKind>> {
    let mut received: BTreeMap<String, Vec<NoticeKind>> = BTreeMap::new();
    for _ in 0..count {
        let notice = reader.notice().await;
        reader.acks(&notice).await;
        received.entry(notice.notice.order).or_default().push(notice.notice.kind);
    }
    received.values_mut().for_each(|kinds| kinds.sort());
    received
}

/// Two topics have no order between them: whatever comes first, everybody hears the same.
#[tokio::test]
async fn two_topics_that_tell_of_one_order_lead_to_the_same_in_each_order_of_their_events() {
    use NoticeKind::{OrderAccepted, PickupCode, Ready};
    let (theirs, kitchen) = (Topic::make(&bootstrap(), 2).await, Topic::make(&bootstrap(), 2).await);
    let second = kitchen.name.clone();
    let node = crate::kafka::node_of(theirs, &[&second], "");
    let kinds = ["order.created", "order.paid", "order.accepted", "order.ready"];
    let all = permutations(&kinds);
    assert_eq!(all.len(), 24);
    let (mut till, mut phone) = (node.till("1", "a").await, node.phone("c").await);
    for step in 0..kinds.len() {
        for (n, order) in all.iter().enumerate() {
            let members = json!({"store": "1", "customer": "c", "pickup_code": format!("A{n}")});
            let event = event(order[step], &format!("o{n}"), members);
            let kitchens = matches!(order[step], "order.accepted" | "order.ready");
            let topic = if kitchens { &kitchen } else { node.topic.as_ref().unwrap() };
            topic.produces(&[event]).await;
        }
        // One after another: what the permutation says is the order in which they are read.
        let read = async || node.metric("orderbell_events_total").await;
        until("they are read", async || read().await >= ((step + 1) * all.len()) as u64).await;
    }
    let kinds_of = received(&mut till, 2 * all.len()).await;
    assert!(
        kinds_of.len() == all.len() && kinds_of.values().all(|kinds| *kinds == [NewOrder, OrderAccepted]),
        "{kinds_of:?}"
    );
    let kinds_of = received(&mut phone, 2 * all.len()).await;
    assert!(
        kinds_of.len() == all.len() && kinds_of.values().all(|kinds| *kinds == [PickupCode, Ready]),
        "{kinds_of:?}"
    );
}

#[tokio::test]
async fn a_topic_that_is_not_understood_and_a_clock_that_is_off_are_alerts_until_an_event_is_right() {
    let node = node_on(Topic::make(&bootstrap(), 1).await, "");
    let (topic, now) = (node.topic.as_ref().unwrap(), now());
    let subject = async |code| node.alert(code).await.map(|alert| alert.subject.unwrap());
    let is_about_it = async |code| subject(code).await.as_ref() == Some(&topic.name);
    topic.produces_at(now, &event("PAY_SUCCESS", "o1", json!({"store": "1"}))).await;
    until("nothing is understood", async || is_about_it(AlertCode::TopicUndecodable).await).await;

    // Three records within 20 seconds, and the times of their events are 20 minutes older.
    for (kind, seconds) in [("order.created", -20), ("order.paid", -10), ("order.accepted", 0)] {
        let at = now.plus_ms(seconds * 1000);
        let said = json!({"store": "1", "pickup_code": "A1", "time": at.plus_ms(-20 * 60_000).0});
        topic.produces_at(at, &event(kind, "o1", said)).await;
    }
    until("the clock is off", async || is_about_it(AlertCode::SourceClockOff).await).await;
    let detail = node.alert(AlertCode::SourceClockOff).await.unwrap().detail;
    assert!(detail.contains("0 h 20 min behind"), "{detail}");
    assert_eq!(subject(AlertCode::TopicUndecodable).await, None);

    topic.produces_at(now, &event("order.ready", "o1", json!({"store": "1"}))).await;
    until("the clock is right", async || subject(AlertCode::SourceClockOff).await.is_none()).await;
}
