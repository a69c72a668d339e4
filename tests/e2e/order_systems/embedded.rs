//! The same inputs, posted: whoever posts what cannot be taken is refused.

use std::collections::BTreeMap;

use orderbell_protocol::alert::AlertCode;
use orderbell_protocol::balance::Bin;

use super::inputs::{self, Input, Sent, is_dead_letter};
use super::{RECIPIENTS, bins, difference_of_bins, differences_of_notices, no_differences, notices_of};
use crate::chain::{Node, now, post_raw, soon, until};

/// The head's lines of a post. What is an attribute of a CloudEvent in a header of Kafka is one in a header of HTTP, by the name that it has there.
fn lines(sent: &Sent) -> String {
    let name = |name: &str| {
        let attribute = ["ce_", "cloudEvents_"].into_iter().find_map(|prefix| {
            let is_it = name.get(..prefix.len())?.eq_ignore_ascii_case(prefix);
            is_it.then(|| name[prefix.len()..].to_owned())
        });
        attribute.map_or_else(|| name.to_owned(), |attribute| format!("Ce-{attribute}"))
    };
    let headers = sent.headers.iter().map(|(key, value)| format!("{}: {value}\r\n", name(key)));
    format!("Content-Type: application/json\r\n{}", headers.collect::<String>())
}

/// Posts the records one by one; how many were refused.
async fn refused(node: &Node, token: &str, input: &Input) -> u64 {
    let mut refused = 0;
    for sent in &input.records {
        let body = sent.value.as_deref().unwrap_or_default();
        let answer = soon(input.kind, post_raw(node.public, token, &lines(sent), body)).await.unwrap();
        match &answer[9..12] {
            "200" => {}
            "400" | "422" => refused += 1,
            _ => panic!("{}: {answer}", input.kind),
        }
    }
    refused
}

/// The input of this kind as of now: its clocks are off by whole hours, and not by what a slow machine adds.
fn fresh(kind: &str) -> Input {
    inputs::all(now().0).into_iter().find(|input| input.kind == kind).unwrap()
}

/// Posts one input after another to a server with their mapping: each is looked at alone, so that what goes wrong has its name.
async fn posted(mapping: &str, inputs: &[Input]) {
    // It is asked far more often than any till asks.
    let node = Node::configured(&format!("[rates]\nmax_polls_per_minute = 100000\n[mapping]\n{mapping}\n"));
    let token = node.token("producer", "chain");
    let mut wanted: BTreeMap<(Bin, &str), u64> = BTreeMap::new();
    for (at, input) in inputs.iter().enumerate() {
        assert_eq!(
            refused(&node, &token, &fresh(input.kind)).await,
            input.dead_letters(),
            "{}: refused posts",
            input.kind
        );
        // A post makes no dead letters, and keeps nothing of an ignored event.
        let kept = input.bins.iter().filter(|(bin, ..)| !is_dead_letter(*bin) && *bin != Bin::Ignored);
        kept.for_each(|(bin, reason, records)| *wanted.entry((*bin, reason)).or_default() += records);
        no_differences(async || {
            let wanted = wanted.iter().map(|((bin, reason), records)| (*bin, (*reason).to_owned(), *records)).collect();
            let found = bins(&node).await.into_iter().map(|(_, bin)| bin).collect();
            let of_notices = differences_of_notices(&inputs[..=at], &notices_of(&node, &RECIPIENTS).await);
            let all = difference_of_bins("all so far", wanted, found).into_iter().chain(of_notices);
            all.map(|difference| format!("after {}: {difference}", input.kind)).collect()
        })
        .await;
    }
    assert_eq!(notices_of(&node, &["customer:0", "customer:open-77", "store:0"]).await, [""; 0]);
    if wanted.contains_key(&(Bin::AfterEnd, "")) {
        until("it is an alert", async || node.alert(AlertCode::PaidUnannounced).await.is_some()).await;
    }
}

/// One server for all that need no mapping of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_of_an_order_system_that_is_posted_notifies_its_store_or_is_refused_or_an_alert() {
    let mut by_mapping: BTreeMap<&str, Vec<Input>> = BTreeMap::new();
    for input in inputs::all(now().0) {
        by_mapping.entry(input.mapping).or_default().push(input);
    }
    for (mapping, inputs) in by_mapping {
        posted(mapping, &inputs).await;
    }
}
