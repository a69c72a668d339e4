//! What happens to topics: partitions are added, retention deletes unread records, a topic is recreated, two topics carry events of one order.

use std::collections::BTreeMap;

use orderbell_protocol::NoticeKind::{self, NewOrder};
use orderbell_protocol::alert::AlertCode;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminOptions, NewPartitions};
use serde_json::json;
use tokio::task::block_in_place;

use crate::chain::{Node, Till, event, until};
use crate::kafka::{Topic, bootstrap, node_on};

fn stops(node: &mut Node) {
    node.process.signal("TERM");
    assert!(block_in_place(|| node.process.ends()).success(), "{}", node.process.err.text());
}

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
    assert_eq!(node.alerts().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_that_deleted_unread_records_raises_an_alert_with_the_gap_and_work_goes_on() {
    let mut node = node_on(Topic::make(&bootstrap(), 1).await, "");
    node.pays("o0", "1").await;
    node.till("1", "a").await.hears(NewOrder, "o0").await;
    stops(&mut node);
    let topic = node.topic.as_ref().unwrap();
    for n in 1..6 {
        topic.produces_raw(0, Some(paid(&format!("o{n}")).as_bytes())).await;
    }
    let mut upto = TopicPartitionList::new();
    upto.add_partition_offset(&topic.name, 0, rdkafka::Offset::Offset(4)).unwrap();
    topic.admin().delete_records(&upto, &AdminOptions::new()).await.unwrap();
    drop(upto);
    node.restart();
    let name = format!("{}/0", node.topic.as_ref().unwrap().name);
    until("the alert is raised", async || node.alert(AlertCode::RetentionGap).await.is_some()).await;
    let alert = node.alert(AlertCode::RetentionGap).await.unwrap();
    assert!(alert.subject == Some(name) && alert.detail.contains("3 offsets"), "{alert:?}");
    let mut till = node.till("1", "b").await;
    // Between orders there is no order.
    let mut heard = std::collections::BTreeSet::new();
    while heard.len() < 3 {
        let notice = till.notice().await;
        till.acks(&notice).await;
        heard.insert(notice.notice.order);
    }
    assert_eq!(Vec::from_iter(heard), ["o0", "o4", "o5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recreated_topic_is_noticed_and_read_from_its_first_record() {
    let mut node = node_on(Topic::make(&bootstrap(), 1).await, "");
    node.pays("o1", "1").await;
    node.till("1", "a").await.hears(NewOrder, "o1").await;
    stops(&mut node);
    let name = node.topic.as_ref().unwrap().name.clone();
    let gone = node.topic.as_ref().unwrap().admin().delete_topics(&[&name], &AdminOptions::new()).await;
    assert!(gone.unwrap().iter().all(Result::is_ok));
    let anew = Topic::make_named(&bootstrap(), &name, 1).await;
    anew.produces_raw(0, Some(paid("o2").as_bytes())).await;
    anew.produces_raw(0, Some(paid("o3").as_bytes())).await;
    node.restart();
    until("the alert is raised", async || node.alert(AlertCode::TopicRecreated).await.is_some()).await;
    assert_eq!(node.alert(AlertCode::TopicRecreated).await.unwrap().subject, Some(format!("{name}/0")));
    let mut till = node.till("1", "a").await;
    let heard = received(&mut till, 2).await;
    assert_eq!(Vec::from_iter(heard.keys()), ["o2", "o3"], "between orders there is no order");
}

/// All orders in which four things can be told.
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
    let heard = received(&mut till, 2 * all.len()).await;
    assert!(heard.len() == all.len() && heard.values().all(|kinds| *kinds == [NewOrder, OrderAccepted]), "{heard:?}");
    let heard = received(&mut phone, 2 * all.len()).await;
    assert!(heard.len() == all.len() && heard.values().all(|kinds| *kinds == [PickupCode, Ready]), "{heard:?}");
}
