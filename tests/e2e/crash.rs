//! kill -9: what was answered is there, under the same name and number.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use orderbell_client::{HttpClient, Received, Socket};
use orderbell_lab::Dice;
use orderbell_protocol::frame::NoticeFrame;
use orderbell_protocol::{NoticeKind, Position};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::chain::{Node, event, until};

const KILLS: u32 = 20;

/// What one client has seen of a mailbox over all its connections: a notice keeps its position, a position its notice.
#[derive(Default)]
pub(crate) struct Seen {
    places: BTreeMap<String, Position>,
    ids: BTreeMap<u64, String>,
    orders: BTreeSet<String>,
    /// The notice of each new order.
    pub(crate) new_orders: BTreeMap<String, String>,
    pub(crate) epochs: BTreeSet<u32>,
}

impl Seen {
    fn sees(&mut self, notice: &NoticeFrame) {
        let (id, position) = (notice.notice.id.clone(), notice.position);
        let before = self.places.insert(id.clone(), position);
        assert!(before.is_none_or(|before| before == position), "notice {id} moved from {before:?} to {position}");
        assert!(before.is_none() || notice.attempt > 1, "a repeat is not marked: {notice:?}");
        let other = self.ids.insert(position.seq, id.clone());
        assert!(other.as_ref().is_none_or(|other| *other == id), "position {position} was {other:?}, now {id}");
        if notice.notice.kind == NoticeKind::NewOrder {
            let before = self.new_orders.insert(notice.notice.order.clone(), id.clone());
            assert!(before.is_none_or(|before| before == id), "an order rang under two names: {notice:?}");
        }
        self.orders.insert(notice.notice.order.clone());
        self.epochs.insert(position.epoch);
    }
}

/// A till that lives through crashes: connects again where it stood, acknowledges, sees everything until `wanted` orders are there.
pub(crate) async fn till(mut server: watch::Receiver<SocketAddr>, token: String, end: CancellationToken) -> Seen {
    let (mut seen, mut position) = (Seen::default(), None::<Position>);
    while !end.is_cancelled() {
        let address = *server.borrow_and_update();
        let Ok(mut socket) = Socket::open_with_hello(address, &token, "a", position).await else {
            // Not there at the moment: wait for the next server, or the end.
            tokio::select! {
                () = end.cancelled() => break,
                _ = server.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
            continue;
        };
        loop {
            let received = tokio::select! {
                () = end.cancelled() => return seen,
                received = socket.next() => received,
            };
            match received {
                Ok(Received::Notice(notice)) => {
                    seen.sees(&notice);
                    position = Some(notice.position);
                    if socket.ack(notice.position).await.is_err() {
                        break;
                    }
                }
                Ok(Received::Frame(_)) => {}
                Ok(Received::Closed(why)) => {
                    assert!(
                        why.as_ref().is_none_or(|(code, _)| *code != 4200),
                        "a kill -9 is no other history: {why:?}"
                    );
                    break;
                }
                Err(_) => break,
            }
        }
    }
    seen
}

/// A till that polls, and stores every second answer only: what was in the others comes again.
async fn poller(mut server: watch::Receiver<SocketAddr>, token: String, end: CancellationToken) -> Seen {
    let (mut seen, mut after) = (Seen::default(), None::<Position>);
    for n in 0.. {
        if end.is_cancelled() {
            break;
        }
        let http = HttpClient::new(*server.borrow_and_update());
        match http.poll(&token, "poller", after, Duration::from_secs(u64::from(n % 3 == 0))).await {
            Ok(page) => {
                page.notices.iter().for_each(|notice| seen.sees(notice));
                after = if n % 2 == 0 { Some(page.position) } else { after };
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    seen
}

/// Posts orders one by one until the end; an answer that does not come is asked for again with the same event, also after the end: what
/// was posted is answered, so that nothing is under way when all is compared.
async fn producer(server: watch::Receiver<SocketAddr>, token: String, end: CancellationToken) -> BTreeSet<String> {
    let mut answered = BTreeSet::new();
    for n in 0.. {
        if end.is_cancelled() {
            break;
        }
        let order = format!("o{n}");
        let paid = event("order.paid", &order, json!({"store": "1"})).to_string();
        loop {
            let http = HttpClient::new(*server.borrow());
            let posted = tokio::time::timeout(
                Duration::from_secs(5),
                http.send("POST", "/v1/events", &token, "application/json", paid.clone()),
            );
            match posted.await {
                Ok(Ok(answer)) if answer.status == 200 => break,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        answered.insert(order);
    }
    answered
}

/// Kills and restarts at moments drawn from a seed. Checkpoints are saved once a second: every fourth kill comes just after a save.
async fn kills(node: &mut Node, server: &watch::Sender<SocketAddr>) {
    let mut dice = Dice(2_026);
    for kill in 0..KILLS {
        let behind_a_save = if kill % 4 == 3 { 1_000 } else { 0 };
        let moment = Duration::from_millis(behind_a_save + 20 + dice.below(300));
        tokio::time::sleep(moment).await;
        tokio::task::block_in_place(|| node.restart());
        server.send_replace(node.public);
    }
}

/// After the last crash: everything that was answered was received, in one epoch, and a device that knows nothing finds the same.
async fn settle(node: &Node, answered: &BTreeSet<String>, seen: &Seen) {
    assert!(!answered.is_empty());
    assert_eq!(seen.epochs.len(), 1, "a kill -9 changes no epoch");
    assert!(answered.is_subset(&seen.orders), "lost: {:?}", answered.difference(&seen.orders).collect::<Vec<_>>());
    assert_eq!(seen.orders.len(), seen.places.len(), "an order rang under two names");
    let mut after = None;
    let mut found = Seen::default();
    loop {
        let page = node.polls("1", "stranger", after, 0).await;
        page.notices.iter().for_each(|notice| found.sees(notice));
        assert!(page.notices.iter().all(|notice| notice.attempt == 1), "a device that was never here is sent repeats");
        if page.notices.is_empty() {
            break;
        }
        after = Some(page.position);
    }
    assert_eq!(found.places, seen.places, "another device finds another mailbox");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_twenty_times_under_load_nothing_answered_is_lost() {
    let mut node = Node::embedded();
    let (server, _) = watch::channel(node.public);
    let (produced, stop_reading) = (CancellationToken::new(), CancellationToken::new());
    let producing = tokio::spawn(producer(server.subscribe(), node.token("producer", "p"), produced.clone()));
    let hearing = tokio::spawn(till(server.subscribe(), node.token("store", "1"), stop_reading.clone()));
    let polling = tokio::spawn(poller(server.subscribe(), node.token("store", "1"), stop_reading.clone()));
    kills(&mut node, &server).await;
    produced.cancel();
    let answered = producing.await.unwrap();
    // Everything has rung when a last order has: it stands behind all of them in the mailbox of its store only if their turns are done.
    let all = answered.len() as u64;
    until("the stream is read to its end", async || node.polls("1", "counter", None, 0).await.head.seq >= all).await;
    wait_for_head(&node).await;
    stop_reading.cancel();
    polling.await.unwrap();
    settle(&node, &answered, &hearing.await.unwrap()).await;
    assert_eq!(node.metric("orderbell_invariant_violations_total").await, 0);
}

/// The till has acknowledged everything there is: its own cursor has come to the head.
async fn wait_for_head(node: &Node) {
    until("the till stands at the head", async || {
        let page = node.polls("1", "a", None, 0).await;
        page.notices.is_empty() && page.position == page.head
    })
    .await;
}

#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_twenty_times_on_kafka_nothing_the_broker_has_is_lost() {
    let mut node = crate::kafka::node().await;
    let (server, _) = watch::channel(node.public);
    let stop_reading = CancellationToken::new();
    let hearing = tokio::spawn(till(server.subscribe(), node.token("store", "1"), stop_reading.clone()));
    let topic = node.topic.take().unwrap();
    let produced = CancellationToken::new();
    let end = produced.clone();
    let producing = tokio::spawn(async move {
        let mut answered = BTreeSet::new();
        for batch in 0.. {
            if end.is_cancelled() {
                break;
            }
            let orders: Vec<String> = (0..5).map(|n| format!("o{batch}-{n}")).collect();
            let events: Vec<_> = orders.iter().map(|order| event("order.paid", order, json!({"store": "1"}))).collect();
            topic.produces(&events).await;
            answered.extend(orders);
        }
        answered
    });
    kills(&mut node, &server).await;
    produced.cancel();
    let answered = producing.await.unwrap();
    let all = answered.len() as u64;
    until("the topic is read to its end", async || node.polls("1", "counter", None, 0).await.head.seq >= all).await;
    wait_for_head(&node).await;
    stop_reading.cancel();
    settle(&node, &answered, &hearing.await.unwrap()).await;
}
