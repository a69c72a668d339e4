//! Sockets that behave badly, and servers that stop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use orderbell_client::{Received, Socket};
use orderbell_protocol::{NoticeKind::NewOrder, Position, ServerFrame};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::chain::{Node, Till, event, soon, until};

/// A stop may take this long: `drain_timeout`'s default.
const DRAIN_MAX: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_same_device_replaces_its_older_connection() {
    let node = Node::embedded();
    let token = node.token("store", "1");
    let mut old = Till::connect(node.public, &token, "a", None).await;
    let mut new = Till::connect(node.public, &token, "a", None).await;
    assert_eq!(old.closed().await, Some((4003, "replaced".into())));
    node.pays("o1", "1").await;
    new.hears(NewOrder, "o1").await;
}

#[tokio::test]
async fn frames_that_cannot_be_understood_are_answered_with_their_code() {
    let node = Node::embedded();
    let token = node.token("store", "1");
    let hello =
        |token: &str, more: &str| format!("{{\"type\":\"hello\",\"device\":\"d\",\"token\":\"{token}\"{more}}}");
    let cases: [(Vec<Message>, u16); 10] = [
        (vec![Message::text("{")], 4001),
        (vec![Message::text("{\"type\":\"shout\"}")], 4001),
        (vec![Message::text("{\"type\":\"ack\",\"position\":\"1.1.0000\"}")], 4001),
        (vec![Message::binary(vec![1, 2, 3])], 1003),
        (vec![Message::text("x".repeat(17_000))], 1009),
        (vec![Message::text(hello("forged.token.here", ""))], 3000),
        (vec![Message::text(hello(&node.token("producer", "p"), ""))], 3000),
        (vec![Message::text(hello(&token, ",\"position\":\"far away\""))], 4200),
        (vec![Message::text(hello(&token, ",\"position\":\"1.5.0000\""))], 4200),
        (vec![Message::text("{\"type\":\"bye\"}")], 1000),
    ];
    for (messages, code) in cases {
        let mut socket = Socket::open(node.public).await.unwrap();
        for message in messages.clone() {
            socket.send(message).await.unwrap();
        }
        match soon("a close", socket.next()).await.unwrap() {
            Received::Closed(Some((found, _))) => assert_eq!(found, code, "{messages:?}"),
            other => panic!("{messages:?}: {other:?}"),
        }
    }
    let mut till = node.till("1", "a").await;
    till.socket.send_text("{\"type\":\"ack\",\"position\":\"1.1.0000\"}").await.unwrap();
    assert_eq!(till.closed().await.map(|(code, _)| code), Some(4200), "an ack of another epoch");
    let mut till = node.till("1", "b").await;
    let beyond = Position { seq: till.position.seq + 5, ..till.position };
    till.socket.ack(beyond).await.unwrap();
    assert_eq!(till.closed().await.map(|(code, _)| code), Some(4001), "an ack of what was never sent");
}

/// Memory of the server's process that is in use. Bytes.
fn resident_bytes(node: &Node) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/statm", node.process.pid())).unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

scenarios! {
    a_reader_that_stalls_costs_no_memory_and_holds_up_nobody,
}

async fn a_reader_that_stalls_costs_no_memory_and_holds_up_nobody(node: Node) {
    const WAITING: usize = 100_000;
    let mut stalled = Socket::open_with_hello(node.public, &node.token("store", "1"), "stalled", None).await.unwrap();
    let Received::Frame(ServerFrame::Welcome { position, .. }) = soon("a welcome", stalled.next()).await.unwrap()
    else {
        panic!("no welcome")
    };
    let mut quick = node.till("2", "quick").await;
    for batch in 0..WAITING / 1000 {
        let paid = |n| {
            event("order.paid", &format!("o{batch}-{n}"), json!({"store": "1", "amount": n, "note": "x".repeat(100)}))
        };
        let events: Vec<_> = (0..1000).map(paid).collect();
        node.happens(&events).await;
        if batch % 10 == 0 {
            let order = format!("q{batch}");
            node.pays(&order, "2").await;
            quick.hears(NewOrder, &order).await;
        }
    }
    // For a reader that does not acknowledge, no more than a window is ever taken out of its mailbox, sent again a few times: what waits,
    // waits on disk. (10 are the quick one's.)
    let pushed = node.metric("orderbell_notices_pushed_total").await;
    assert!(pushed <= 10 + 64 * 4, "{pushed} notices were read for a reader that does not read");
    // And it costs no memory: the process is as large without this reader as with it, whatever waits for it.
    drop(stalled);
    until("the reader is gone", async || node.metric("orderbell_subscribers").await == 1).await;
    let without = resident_bytes(&node);
    let mut stalled =
        Socket::open_with_hello(node.public, &node.token("store", "1"), "stalled", Some(position)).await.unwrap();
    until("it is sent what it may be sent", async || node.metric("orderbell_notices_pushed_total").await > pushed)
        .await;
    let grown = resident_bytes(&node).saturating_sub(without);
    assert!(grown < WAITING as u64 * 250 / 4, "{grown} bytes more for a reader that does not read");
    // It wakes up and reads everything, in order.
    let mut chain = position;
    let mut received = 0;
    while received < WAITING {
        match soon("the next notice", stalled.next()).await.unwrap() {
            Received::Notice(notice) if notice.attempt > 1 && notice.position.seq <= chain.seq => {}
            Received::Notice(notice) => {
                assert_eq!(notice.prev, chain);
                chain = notice.position;
                received += 1;
                if received % 16 == 0 || received == WAITING {
                    // On a slow machine its connection was closed with ack-timeout meanwhile; the next check says so, and it reconnects.
                    let _closed = stalled.ack(chain).await;
                }
            }
            Received::Frame(_) => {}
            Received::Closed(why) => {
                // It was silent for longer than a living client is: it comes back where it stood, as every client does.
                assert!(why.is_none_or(|(code, _)| code == 3008 || code == 4103), "closed for another reason");
                stalled = Socket::open_with_hello(node.public, &node.token("store", "1"), "stalled", Some(chain))
                    .await
                    .unwrap();
            }
        }
    }
}

#[tokio::test]
async fn sigterm_under_load_sends_everybody_away_and_loses_nothing() {
    // None of the tills acknowledges anything: that must not be its end before the server's.
    let mut node = Node::configured("[sessions]\nack_timeout = \"1h\"\n");
    let mut tills = Vec::new();
    for n in 0..20 {
        tills.push(node.till("1", &format!("t{n}")).await);
    }
    // Orders are posted all the time, before, while and after the server stops taking them.
    let (http, token) = (node.http.clone(), node.token("producer", "chain"));
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let load = tokio::spawn(async move {
        loop {
            let order = format!("o{}", count.load(Ordering::Acquire));
            let paid = event("order.paid", &order, json!({"store": "1"})).to_string();
            match http.send("POST", "/v1/events", &token, "application/json", paid).await {
                Ok(answer) if answer.status == 200 => count.fetch_add(1, Ordering::AcqRel),
                _ => return,
            };
        }
    });
    until("the load runs", async || taken.load(Ordering::Acquire) > 200).await;
    let began = Instant::now();
    node.process.signal("TERM");
    let mut retries = std::collections::HashSet::new();
    for till in &mut tills {
        let mut left = None;
        loop {
            match soon("the leave", till.socket.next()).await.unwrap() {
                Received::Frame(ServerFrame::Goaway { retry_ms }) => left = Some(retry_ms),
                Received::Closed(why) => {
                    assert_eq!(why.map(|(code, _)| code), Some(1012));
                    break;
                }
                Received::Frame(_) | Received::Notice(_) => {}
            }
        }
        retries.insert(left.expect("a leave before the end"));
    }
    assert!(retries.len() > 10, "they are sent back at moments of their own: {retries:?}");
    assert!(node.process.ends().success(), "{}", node.process.err.text());
    assert!(began.elapsed() < DRAIN_MAX, "it took {:?} to stop", began.elapsed());
    assert!(node.process.err.text().contains("clean=true"), "{}", node.process.err.text());
    load.await.unwrap();
    let answered: BTreeSet<String> = (0..taken.load(Ordering::Acquire)).map(|n| format!("o{n}")).collect();
    node.restart();
    let (mut till, mut received) = (node.till("1", "new").await, BTreeSet::new());
    // The last one may have been taken without an answer.
    while !received.is_superset(&answered) {
        let notice = till.notice().await;
        till.acks(&notice).await;
        assert!(received.insert(notice.notice.order), "twice");
    }
    assert!(received.len() <= answered.len() + 1, "{} of {}", received.len(), answered.len());
}
