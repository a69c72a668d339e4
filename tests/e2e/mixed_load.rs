//! A day on which everything goes wrong at once: thirty kills of the server under a load with every kind of fault in a tenth of it. In the end
//! each number is exact: the wall's, the balance's, and what each store was notified of.

mod envelope;
mod expected;
mod load;
mod odd;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use orderbell_client::HttpClient;
use orderbell_lab::{Dice, patience};
use orderbell_protocol::admin::BalanceAnswer;
use orderbell_protocol::alert::AlertCode;
use orderbell_protocol::balance::Bin;
use orderbell_protocol::wall::{Wall, WallSums};
use orderbell_protocol::{NoticeKind, UnixMs};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::chain::{Node, post_raw, until};
use crate::crash::{Seen, till};
use crate::wall::look;
use envelope::Envelope;
pub(crate) use expected::Bins;
use expected::Expected;
use load::{CONNECTED, Load, NEVER_CONNECTED, Sent};

mod embedded {
    #[tokio::test]
    async fn killed_thirty_times_the_numbers_are_those_of_the_log() {
        let node = crate::chain::Node::configured(&format!("{}envelope = \"form\"\n", super::config()));
        super::killed_thirty_times_the_numbers_are_those_of_the_log(node, super::Topics::default()).await;
    }
}

#[cfg(feature = "real-kafka")]
mod on_kafka {
    use std::fmt::Write;

    use super::envelope::{Envelope, NAMED};
    use crate::kafka::{Topic, bootstrap, node_of};

    /// Each envelope that a mapping names has a topic of its own.
    #[tokio::test]
    async fn killed_thirty_times_the_numbers_are_those_of_the_log() {
        let events = Topic::make(&bootstrap(), 4).await;
        let (mut config, mut named) = (super::config(), Vec::new());
        for (envelope, name) in NAMED {
            let topic = Topic::make(&bootstrap(), 2).await;
            let more = match envelope {
                Envelope::Maxwell => "amount_unit = \"major\"\n",
                Envelope::Spring => "kafka_key = \"order\"\n",
                _ => "",
            };
            write!(config, "[mapping.topics.{:?}]\nenvelope = {name:?}\n{more}", topic.name).unwrap();
            named.push((envelope, topic));
        }
        let further: Vec<&str> = named.iter().map(|(_, topic)| topic.name.as_str()).collect();
        let mut node = node_of(events, &further, &config);
        let topics = super::Topics { events: node.topic.take(), named };
        super::killed_thirty_times_the_numbers_are_those_of_the_log(node, topics).await;
    }
}

/// Where orders are produced; by HTTP where there are none.
#[derive(Default)]
struct Topics {
    #[cfg(feature = "real-kafka")]
    events: Option<crate::kafka::Topic>,
    #[cfg(feature = "real-kafka")]
    named: Vec<(Envelope, crate::kafka::Topic)>,
}

const KILLS: u32 = 30;
/// Batches after the last kill within which every kind of fault has happened: each is in one of ten.
const MORE_BATCHES: u32 = 200;

fn config() -> String {
    format!("{}[mapping]\ntypes = {{ \"loyalty.points\" = \"ignore\" }}\n", crate::wall::config())
}

/// Looks all the time, over all restarts: numbers and `seq` never go back.
async fn watcher(server: watch::Receiver<SocketAddr>, token: String, end: CancellationToken) -> u64 {
    let (mut looks, mut seen) = (0, None::<Wall>);
    while !end.is_cancelled() {
        let address = *server.borrow();
        let asked = HttpClient::new(address);
        let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(5), asked.get("/v1/wall", &token)).await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        if answer.status != 200 {
            continue;
        }
        let wall: Wall = serde_json::from_slice(&answer.body).unwrap();
        if let Some(before) = &seen {
            assert_eq!(before.epoch, wall.epoch, "a kill -9 is no other history");
            assert!(before.seq <= wall.seq, "seq decreased from {} to {}", before.seq, wall.seq);
            let rises = |of: fn(&WallSums) -> i64| of(&before.today) <= of(&wall.today);
            let all = rises(|sums| sums.created) && rises(|sums| sums.paid) && rises(|sums| sums.paid_amount);
            assert!(all, "numbers decreased from {:?} to {:?}", before.today, wall.today);
        }
        looks += 1;
        seen = Some(wall);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    looks
}

impl Topics {
    fn are_on_kafka(&self) -> bool {
        #[cfg(feature = "real-kafka")]
        return self.events.is_some();
        #[cfg(not(feature = "real-kafka"))]
        false
    }
}

/// Where orders come from, over all restarts.
struct Producer {
    server: watch::Receiver<SocketAddr>,
    token: String,
    topics: Topics,
}

impl Producer {
    /// Produces orders until the end, and until there was one of each kind; what must become of them.
    async fn produces(self, end: CancellationToken) -> (WallSums, Expected) {
        let is_kafka = self.topics.are_on_kafka();
        let mut load = Load::new(is_kafka);
        while !end.is_cancelled() {
            self.sends(load.batch()).await;
        }
        // A slow machine sends few batches between the kills.
        for _ in 0..MORE_BATCHES {
            if load.is_complete() {
                break;
            }
            self.sends(load.batch()).await;
        }
        assert!(load.is_complete(), "not every kind of fault happened");
        (load.sums, load.expected)
    }

    async fn sends(&self, records: Vec<Sent>) {
        #[cfg(feature = "real-kafka")]
        if let Some(events) = &self.topics.events {
            let named = self.topics.named.iter().map(|(envelope, topic)| (Some(*envelope), topic));
            let mut topics: Vec<_> =
                named.chain([(None, events)]).map(|(name, topic)| (name, topic, Vec::new())).collect();
            for Sent { key, value, headers, envelope, .. } in records {
                let is_its = |name: &Option<Envelope>| name.is_none_or(|name| name == envelope);
                let (_, _, all) = topics.iter_mut().find(|(name, ..)| is_its(name)).unwrap();
                all.push(crate::kafka::ToProduce { key, value, headers });
            }
            let produced = topics.iter().map(|(_, topic, records)| topic.produces_all(records));
            futures_util::future::join_all(produced).await;
            return;
        }
        let (refused, taken): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.is_refused);
        for (head, body) in posts(taken) {
            assert_eq!(self.posts(&head, &body).await, 200, "{head}{}", String::from_utf8_lossy(&body));
        }
        for record in refused.into_iter().filter_map(|record| record.value) {
            let status = self.posts("", &record).await;
            assert!([400, 409, 422].contains(&status), "{status} for {}", String::from_utf8_lossy(&record));
        }
    }

    /// Posts a body until it is answered by a server that works.
    async fn posts(&self, head: &str, body: &[u8]) -> u16 {
        loop {
            let server = *self.server.borrow();
            let posted = tokio::time::timeout(Duration::from_secs(5), post_raw(server, &self.token, head, body));
            let answer = posted.await.map_or_else(|_| String::new(), Result::unwrap_or_default);
            match answer.get(9..12).and_then(|status| status.parse().ok()) {
                Some(status) if status < 500 => return status,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

/// Heads and bodies of the posts that carry these records, those of an order in their order.
fn posts(records: Vec<Sent>) -> Vec<(String, Vec<u8>)> {
    let media = |name: &str| format!("Content-Type: application/{name}\r\n");
    let mut posts: Vec<(String, Vec<u8>)> = Vec::new();
    let mut together: BTreeMap<Envelope, Vec<Vec<u8>>> = BTreeMap::new();
    for Sent { value, headers, envelope, .. } in records {
        let Some(value) = value else { continue };
        match envelope {
            Envelope::Form if !value.starts_with(b"{") => posts.push((media("x-www-form-urlencoded"), value)),
            Envelope::Form | Envelope::InAString | Envelope::Binary => {
                let attributes =
                    headers.iter().map(|(name, text)| format!("{}: {text}\r\n", name.replace("ce_", "ce-")));
                posts.push((attributes.collect(), value));
            }
            // All of them are CloudEvents: of their kinds, the first stands for all.
            Envelope::DataInAString | Envelope::Base64 => together.entry(Envelope::Structured).or_default().push(value),
            other => together.entry(other).or_default().push(value),
        }
    }
    for (envelope, bodies) in together {
        let array = || [b"[", &bodies.join(&b","[..])[..], b"]"].concat();
        posts.push(match envelope {
            Envelope::Structured => (media("cloudevents-batch+json"), array()),
            Envelope::Lines => (media("x-ndjson"), bodies.join(&b"\n"[..])),
            Envelope::Gzip => ("Content-Encoding: gzip\r\n".to_owned(), crate::http::gzip(&array())),
            _ => (String::new(), array()),
        });
    }
    posts
}

async fn killed_thirty_times_the_numbers_are_those_of_the_log(mut node: Node, topics: Topics) {
    let (server, _) = watch::channel(node.public);
    let (produced, looked) = (CancellationToken::new(), CancellationToken::new());
    let watching = tokio::spawn(watcher(server.subscribe(), node.token("wall", "lobby"), looked.clone()));
    let tills =
        CONNECTED.map(|store| tokio::spawn(till(server.subscribe(), node.token("store", store), looked.clone())));
    let producer = Producer { server: server.subscribe(), token: node.token("producer", "p"), topics };
    let is_kafka = producer.topics.are_on_kafka();
    let happening = tokio::spawn(producer.produces(produced.clone()));
    let mut dice = Dice(2_027);
    for kill in 0..KILLS {
        // Checkpoints are saved once a second: some kills come just after a save, most make the server repeat what was done.
        let behind_a_save = if kill % 6 == 5 { 1_000 } else { 0 };
        tokio::time::sleep(Duration::from_millis(behind_a_save + 20 + dice.below(250))).await;
        node.restart();
        server.send_replace(node.public);
    }
    produced.cancel();
    let (sums, expected) = happening.await.unwrap();
    assert!(sums.paid > 30, "too little happened: {sums:?}");
    until("the log is read to its end", async || {
        let wall = look(&node).await;
        wall.today == sums && wall.as_of.is_some_and(|as_of| as_of > UnixMs(wall.at.0 - 5_000))
    })
    .await;
    is_exact(&node, &expected).await;
    for store in CONNECTED {
        until("each till stands at the head", async || {
            let page = node.polls(store, "a", None, 0).await;
            page.notices.is_empty() && page.position == page.head
        })
        .await;
    }
    looked.cancel();
    assert!(watching.await.unwrap() > 30, "nobody looked");
    for (store, till) in CONNECTED.into_iter().zip(tills) {
        received_each_order_once(store, &till.await.unwrap(), &expected);
    }
    for store in CONNECTED.into_iter().chain(NEVER_CONNECTED) {
        let wanted = expected.orders_of(store, true);
        let found = found_by_a_stranger(&node, store).await;
        assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), wanted, "in the mailbox of store {store}");
        for (order, flags) in wanted.iter().filter_map(|order| Some((order, expected.flags.get(order)?))) {
            // A damaged event marks all that were posted in one body with it.
            let of_itself: Vec<&String> = found[order].iter().filter(|flag| is_kafka || *flag != "text").collect();
            assert_eq!(&of_itself, flags, "flags of {order}");
        }
    }
    assert_eq!(node.metric("orderbell_invariant_violations_total").await, 0);
    ends(&mut node);
    node.restart();
    alerts_are_still_there(&node, &expected).await;
    ends(&mut node);
    reconciles(&node);
}

fn ends(node: &mut Node) {
    node.process.signal("TERM");
    assert!(node.process.ends().success(), "{}", node.process.err.text());
}

/// The balance of all topics together.
pub(crate) async fn bins(node: &Node) -> Bins {
    let answer: BalanceAnswer =
        serde_json::from_slice(&HttpClient::new(node.admin).get("/balance", "").await.unwrap().body).unwrap();
    let mut bins = Bins::new();
    for count in answer.bins.into_iter().filter(|count| count.records > 0) {
        *bins.entry((count.key.shadow, count.key.bin, count.key.reason)).or_default() += count.records;
    }
    bins
}

fn is_dead_letter(bin: Bin) -> bool {
    [Bin::Rejected, Bin::Unreadable, Bin::RejectedLater].contains(&bin)
}

/// Every bin has what somebody who counts by hand has, and all together are the records that were read.
async fn is_exact(node: &Node, expected: &Expected) {
    let reached = async {
        while bins(node).await != expected.bins {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let _or_it_is_shown_how_they_differ = tokio::time::timeout(patience(), reached).await;
    let bins = bins(node).await;
    assert_eq!(bins, expected.bins);
    let counted = bins.iter().filter(|((_, bin, reason), _)| reason.is_empty() || is_dead_letter(*bin));
    assert_eq!(counted.map(|(_, records)| records).sum::<u64>(), expected.records);
}

/// A till was connected all the time: each order under one name (see [`Seen`]), none that it need not know, and none is missing.
fn received_each_order_once(store: &str, seen: &Seen, expected: &Expected) {
    let received: BTreeSet<String> = seen.new_orders.keys().cloned().collect();
    let (wanted, may) = (expected.orders_of(store, true), expected.orders_of(store, false));
    assert_eq!(wanted.difference(&received).collect::<Vec<_>>(), [""; 0], "store {store} was not notified of these");
    assert_eq!(received.difference(&may).collect::<Vec<_>>(), [""; 0], "store {store} was notified of these");
    assert_eq!(seen.epochs.len(), 1, "a kill -9 changes no epoch");
}

/// New orders that a device finds which was never there, and the flags of their notices.
async fn found_by_a_stranger(node: &Node, store: &str) -> BTreeMap<String, Vec<String>> {
    let (mut after, mut found) = (None, BTreeMap::new());
    loop {
        let page = node.polls(store, "stranger", after, 0).await;
        if page.notices.is_empty() {
            return found;
        }
        let new_orders = page.notices.into_iter().filter(|notice| notice.notice.kind == NoticeKind::NewOrder);
        for notice in new_orders {
            assert_eq!(notice.attempt, 1, "a device that was never here is sent repeats");
            let flags = notice.notice.body["flags"].as_array().into_iter().flatten();
            let flags = flags.map(|flag| flag.as_str().unwrap().to_owned()).collect();
            assert!(found.insert(notice.notice.order.clone(), flags).is_none(), "twice: {notice:?}");
        }
        after = Some(page.position);
    }
}

/// Neither kills nor a restart ended them: they tell of every record that needs a person.
async fn alerts_are_still_there(node: &Node, expected: &Expected) {
    for code in [AlertCode::PaidUnannounced, AlertCode::DeadLetters] {
        assert!(node.alert(code).await.is_some(), "{code:?}");
        let of_code = Bin::ALL.into_iter().filter(|bin| bin.needs_a_person());
        for bin in of_code.filter(|bin| is_dead_letter(*bin) == (code == AlertCode::DeadLetters)) {
            for (reason, count) in expected.in_bin(bin) {
                let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
                let sentence = format!(" {}{reason},", bin.sentence());
                // An order that names no store is reported after the time within which another event may name it.
                let reported =
                    async || node.alert(code).await.map_or(0, |alert| number_before(&alert.detail, &sentence));
                until(&format!("{count}{sentence}"), async || reported().await == count).await;
            }
        }
    }
}

/// The number in front of a sentence, of all topics together.
fn number_before(detail: &str, sentence: &str) -> u64 {
    let numbers =
        detail.match_indices(sentence).filter_map(|(at, _)| detail[..at].rsplit(' ').next()?.parse::<u64>().ok());
    numbers.sum()
}

/// The log, counted a second time, gives the same numbers; in parts, too.
fn reconciles(node: &Node) {
    for passes in ["1", "3"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_orderbell"));
        command.args(["reconcile", "--passes", passes, "--data-dir", node.dir.to_str().unwrap()]).args(&node.args);
        let done = command.output().unwrap();
        let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(done.status.success() && said.contains(", 0 differences"), "{said}");
        assert!(!said.contains("not compared") && !said.contains("balance of 0 partitions"), "{said}");
        let compared: u64 = said.split("; ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(compared > 500, "nothing was compared: {said}");
    }
    // Whoever reads the amounts elsewhere counts otherwise, and that is found.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_orderbell"));
    command.args(["reconcile", "--data-dir", node.dir.to_str().unwrap()]).args(&node.args);
    let done = command.env("ORDERBELL__MAPPING__AMOUNT", "/nowhere").output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(5), "{said}");
    assert!(said.contains(" paid_amount: ledger ") && said.contains(", log 0"), "{said}");
}
