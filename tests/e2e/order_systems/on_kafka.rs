//! On Kafka: a topic for each kind of fault, with its mapping.

use std::collections::BTreeSet;
use std::time::Duration;

use orderbell_protocol::alert::AlertCode;
use orderbell_protocol::balance::Bin;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::inputs::{self, Input, Sent, is_dead_letter};
use super::{RECIPIENTS, bins, difference_of_bins, differences_of_notices, no_differences, notices_of};
use crate::chain::{Node, now, until};
use crate::kafka::{Topic, bootstrap, node_of};

/// Makes the topics, and writes each one's records a millisecond after one another: what comes later happened later.
async fn produce(inputs: &[Input], name_of: impl Fn(&Input) -> String) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap()).set("enable.idempotence", "true");
    // See `Topic::make_named`.
    config.set("max.in.flight.requests.per.connection", "1");
    let names: Vec<String> = inputs.iter().map(&name_of).collect();
    let topics: Vec<_> = names.iter().map(|name| NewTopic::new(name, 1, TopicReplication::Fixed(1))).collect();
    let admin: rdkafka::admin::AdminClient<_> = config.create().unwrap();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
    let made = admin.create_topics(&topics, &options).await.unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    let producer: FutureProducer = config.create().unwrap();
    let mut sent = Vec::new();
    for (input, name) in inputs.iter().zip(&names) {
        let from = now().0 - input.records.len() as i64;
        for (n, Sent { key, headers, value }) in input.records.iter().enumerate() {
            let mut all = OwnedHeaders::new();
            for &(key, value) in headers {
                all = all.insert(Header { key, value: Some(value) });
            }
            let mut record: FutureRecord<'_, str, [u8]> = FutureRecord::to(name).partition(0).headers(all);
            (record.key, record.payload) = (*key, value.as_deref());
            sent.push(producer.send_result(record.timestamp(from + n as i64)).map_err(|(error, _)| error).unwrap());
        }
    }
    for delivery in sent {
        delivery.await.unwrap().map_err(|(error, _)| error).unwrap();
    }
}

/// An alert is raised, and it names these topics and of no other.
async fn reports(node: &Node, code: AlertCode, names: &[String], reported: &BTreeSet<&String>) {
    let detail = async || node.alert(code).await.map_or_else(String::new, |alert| alert.detail);
    let is_named = |detail: &str, name: &String| detail.contains(&format!(" at {name}/0@"));
    until("the alert names each topic", async || {
        let detail = detail().await;
        reported.iter().all(|name| is_named(&detail, name))
    })
    .await;
    let detail = detail().await;
    let others: Vec<_> = names.iter().filter(|name| !reported.contains(name) && is_named(&detail, name)).collect();
    assert!(others.is_empty(), "{others:?}: {detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_of_an_order_system_notifies_its_store_or_is_an_alert() {
    let first = Topic::make(&bootstrap(), 1).await;
    let name_of = |input: &Input| format!("{}-{}", first.name, input.kind);
    let inputs = inputs::all(now().0);
    produce(&inputs, name_of).await;
    let names: Vec<String> = inputs.iter().map(name_of).collect();
    let further: Vec<&str> = names.iter().map(String::as_str).collect();
    let configured = inputs.iter().zip(&names).filter(|(input, _)| !input.mapping.is_empty());
    let sections = configured.map(|(input, name)| format!("[mapping.topics.{name:?}]\n{}\n", input.mapping));
    let mut node = node_of(first, &further, &sections.collect::<String>());

    no_differences(async || {
        let found = bins(&node).await;
        let of_input = |(input, name): (&Input, &String)| {
            let wanted = input.bins.iter().map(|(bin, why, records)| (*bin, (*why).to_owned(), *records)).collect();
            let of_topic = found.iter().filter(|(topic, _)| topic == name).map(|(_, bin)| bin.clone()).collect();
            difference_of_bins(input.kind, wanted, of_topic)
        };
        inputs.iter().zip(&names).filter_map(of_input).collect()
    })
    .await;
    no_differences(async || differences_of_notices(&inputs, &notices_of(&node, &RECIPIENTS).await)).await;
    assert_eq!(notices_of(&node, &["customer:0", "customer:open-77", "store:0"]).await, [""; 0]);
    let dead_letters = inputs.iter().map(Input::dead_letters).sum::<u64>();
    let written = async || node.metric("orderbell_records_dead_lettered_total").await;
    until("all dead letters are written", async || written().await == dead_letters).await;

    for (code, of_dead_letters) in [(AlertCode::DeadLetters, true), (AlertCode::PaidUnannounced, false)] {
        let needs_a_person = |bin: Bin| bin.needs_a_person() && is_dead_letter(bin) == of_dead_letters;
        let reported =
            inputs.iter().zip(&names).filter(|(input, _)| input.bins.iter().any(|(bin, ..)| needs_a_person(*bin)));
        reports(&node, code, &names, &reported.map(|(_, name)| name).collect()).await;
    }
    let codes = async || node.alerts().await.into_iter().map(|alert| alert.code).collect::<Vec<AlertCode>>();
    until("nothing else is wrong", async || codes().await == [AlertCode::DeadLetters, AlertCode::PaidUnannounced])
        .await;

    node.process.signal("TERM");
    assert!(node.process.ends().success(), "{}", node.process.err.text());
    let (done, said) = node.command(&["reconcile"]);
    assert!(done && said.contains(", 0 differences") && !said.contains("not compared"), "{said}");
}
