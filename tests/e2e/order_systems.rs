//! The faults of order systems, each with its own mapping: who must be notified is, what nobody is notified of is reported, and the balance adds up.
//! Posted to an embedded server, and on real Kafka, each in a topic of its own, all read by one server. What is said of each record is tested with
//! `mapping try` (`src/cli/mapping_fault_tests.rs`).

mod embedded;
mod inputs;
#[cfg(feature = "real-kafka")]
mod on_kafka;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use orderbell_client::HttpClient;
use orderbell_lab::patience;
use orderbell_protocol::admin::BalanceAnswer;
use orderbell_protocol::balance::Bin;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::chain::Node;
use inputs::Input;

#[derive(Deserialize)]
struct Page {
    notices: Vec<Found>,
    position: String,
}

/// A notice, with its body as it was sent: no digit of a number may change.
#[derive(Deserialize)]
struct Found {
    kind: String,
    order: String,
    body: Box<RawValue>,
}

/// What a device finds that was never there.
async fn mailbox(node: &Node, who: &str) -> Vec<String> {
    static DEVICES: AtomicU32 = AtomicU32::new(0);
    let device = DEVICES.fetch_add(1, Ordering::Relaxed);
    let (role, id) = who.split_once(':').unwrap();
    let (token, mut after, mut found) = (node.token(role, id), String::new(), Vec::new());
    loop {
        let asked = format!("/v1/notices?device=stranger-{device}{after}");
        let page: Page = serde_json::from_slice(&node.http.get(&asked, &token).await.unwrap().body).unwrap();
        if page.notices.is_empty() {
            return found;
        }
        // A character and its escape are one text: what is posted is written again.
        let body = |one: &Found| one.body.get().replace("\\ufffd", "\u{fffd}");
        found.extend(page.notices.iter().map(|one| format!("{who} {} {} {}", one.kind, one.order, body(one))));
        after = format!("&after={}", page.position);
    }
}

/// Whoever finds notices in these inputs.
const RECIPIENTS: [&str; 4] = ["store:17", "store:18", "store:m-17", "customer:c14"];

/// What each of these finds, sorted.
async fn notices_of(node: &Node, all: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for who in all {
        found.extend(mailbox(node, who).await);
    }
    found.sort();
    found
}

/// Records of one topic by bin and reason.
type Bins = Vec<(Bin, String, u64)>;

/// Records by topic, bin and reason.
async fn bins(node: &Node) -> Vec<(String, (Bin, String, u64))> {
    let answer = HttpClient::new(node.admin).get("/balance", "").await.unwrap();
    let balance: BalanceAnswer = serde_json::from_slice(&answer.body).unwrap();
    let filled = balance.bins.into_iter().filter(|bin| bin.records > 0);
    filled.map(|bin| (bin.key.topic, (bin.key.bin, bin.key.reason, bin.records))).collect()
}

/// The bins of one kind that differ, by its name.
fn difference_of_bins(kind: &str, mut wanted: Bins, mut found: Bins) -> Option<String> {
    wanted.sort();
    found.sort();
    (wanted != found).then(|| format!("{kind}: in the balance {found:?} instead of {wanted:?}"))
}

/// The notices that are missing, by kind, and those that nobody should find.
fn differences_of_notices(inputs: &[Input], found: &[String]) -> Vec<String> {
    let mut left: Vec<&String> = found.iter().collect();
    let mut differences = Vec::new();
    for input in inputs {
        for notice in &input.notices {
            match left.iter().position(|one| *one == notice) {
                Some(at) => drop(left.swap_remove(at)),
                None => differences.push(format!("{}: nobody finds {notice}", input.kind)),
            }
        }
    }
    differences.extend(left.into_iter().map(|notice| format!("found as well: {notice}")));
    differences
}

/// There are none, in time.
async fn no_differences(differences: impl AsyncFn() -> Vec<String>) {
    let reached = async {
        while !differences().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let _or_they_are_shown = tokio::time::timeout(patience(), reached).await;
    assert_eq!(differences().await, [""; 0]);
}
