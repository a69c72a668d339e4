//! Sockets that behave badly, and servers that stop.

use orderbell::client::{Heard, Socket};
use orderbell_protocol::{NoticeKind::NewOrder, Position, ServerFrame};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::chain::{Bell, event, soon};

#[tokio::test]
async fn the_same_device_replaces_its_older_connection() {
    let bell = Bell::embedded();
    let mut old = bell.till("1", "a").await;
    let mut new = bell.till("1", "a").await;
    assert_eq!(old.closed().await, Some((4003, "replaced".into())));
    bell.pays("o1", "1").await;
    new.hears(NewOrder, "o1").await;
}

#[tokio::test]
async fn frames_that_cannot_be_understood_are_answered_with_their_code() {
    let bell = Bell::embedded();
    let token = bell.token("store", "1");
    let hello =
        |token: &str, more: &str| format!("{{\"type\":\"hello\",\"device\":\"d\",\"token\":\"{token}\"{more}}}");
    let cases: [(Vec<Message>, u16); 10] = [
        (vec![Message::text("{")], 4001),
        (vec![Message::text("{\"type\":\"shout\"}")], 4001),
        (vec![Message::text("{\"type\":\"ack\",\"position\":\"1.1.0000\"}")], 4001),
        (vec![Message::binary(vec![1, 2, 3])], 1003),
        (vec![Message::text("x".repeat(17_000))], 1009),
        (vec![Message::text(hello("forged.token.here", ""))], 3000),
        (vec![Message::text(hello(&bell.token("producer", "p"), ""))], 3000),
        (vec![Message::text(hello(&token, ",\"position\":\"far away\""))], 4200),
        (vec![Message::text(hello(&token, ",\"position\":\"1.5.0000\""))], 4200),
        (vec![Message::text("{\"type\":\"bye\"}")], 1000),
    ];
    for (messages, code) in cases {
        let mut socket = Socket::open(bell.public).await.unwrap();
        for message in messages.clone() {
            socket.send(message).await.unwrap();
        }
        match soon("a close", socket.next()).await.unwrap() {
            Heard::Closed(Some((found, _))) => assert_eq!(found, code, "{messages:?}"),
            other => panic!("{messages:?}: {other:?}"),
        }
    }
    let mut till = bell.till("1", "a").await;
    till.socket.say("{\"type\":\"ack\",\"position\":\"1.1.0000\"}").await.unwrap();
    assert_eq!(till.closed().await.map(|(code, _)| code), Some(4200), "an ack of another epoch");
    let mut till = bell.till("1", "b").await;
    let beyond = Position { seq: till.position.seq + 5, ..till.position };
    till.socket.ack(beyond).await.unwrap();
    assert_eq!(till.closed().await.map(|(code, _)| code), Some(4001), "an ack of what was never sent");
}

#[tokio::test]
async fn who_connects_and_says_nothing_is_closed() {
    let bell = Bell::embedded();
    let mut silent = Socket::open(bell.public).await.unwrap();
    let Heard::Closed(Some((code, _))) = soon("a close", silent.next()).await.unwrap() else { panic!("another end") };
    assert_eq!(code, 3008);
}

scenarios! {
    a_reader_that_stalls_costs_no_memory_and_holds_up_nobody,
}

async fn a_reader_that_stalls_costs_no_memory_and_holds_up_nobody(bell: Bell) {
    const WAITING: usize = 100_000;
    let mut stalled = Socket::hello(bell.public, &bell.token("store", "1"), "stalled", None).await.unwrap();
    let Heard::Frame(ServerFrame::Welcome { position, .. }) = soon("a welcome", stalled.next()).await.unwrap() else {
        panic!("no welcome")
    };
    let mut quick = bell.till("2", "quick").await;
    for batch in 0..WAITING / 1000 {
        let paid = |n| {
            event("order.paid", &format!("o{batch}-{n}"), json!({"store": "1", "amount": n, "note": "x".repeat(100)}))
        };
        let events: Vec<_> = (0..1000).map(paid).collect();
        bell.happens(&events).await;
        if batch % 10 == 0 {
            let order = format!("q{batch}");
            bell.pays(&order, "2").await;
            quick.hears(NewOrder, &order).await;
        }
    }
    // For a reader that does not acknowledge, no more than a window is ever taken out of its mailbox, sent again a few times: what waits,
    // waits on disk. (10 are the quick one's.)
    let pushed = bell.metric("orderbell_notices_pushed_total").await;
    assert!(pushed <= 10 + 64 * 4, "{pushed} notices were read for a reader that does not read");
    // It wakes up and reads everything, in order.
    let mut chain = position;
    let mut heard = 0;
    while heard < WAITING {
        match soon("the next notice", stalled.next()).await.unwrap() {
            Heard::Notice(notice) if notice.attempt > 1 && notice.position.seq <= chain.seq => {}
            Heard::Notice(notice) => {
                assert_eq!(notice.after, chain);
                chain = notice.position;
                heard += 1;
                if heard % 16 == 0 || heard == WAITING {
                    // On a slow machine it was given up as deaf meanwhile: then the next look says so, and it comes back.
                    let _closed = stalled.ack(chain).await;
                }
            }
            Heard::Frame(_) => {}
            Heard::Closed(why) => {
                // It was silent for longer than a living client is: it comes back where it stood, as every client does.
                assert!(why.is_none_or(|(code, _)| code == 3008 || code == 4103), "closed for another reason");
                stalled = Socket::hello(bell.public, &bell.token("store", "1"), "stalled", Some(chain)).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn sigterm_under_load_sends_everybody_away_and_loses_nothing() {
    let mut bell = Bell::embedded();
    let mut tills = Vec::new();
    for n in 0..20 {
        tills.push(bell.till("1", &format!("t{n}")).await);
    }
    let events: Vec<_> = (0..500).map(|n| event("order.paid", &format!("o{n}"), json!({"store": "1"}))).collect();
    bell.posts(&events).await;
    bell.process.signal("TERM");
    let mut retries = std::collections::HashSet::new();
    for till in &mut tills {
        let mut left = None;
        loop {
            match soon("the leave", till.socket.next()).await.unwrap() {
                Heard::Frame(ServerFrame::Leave { retry_ms }) => left = Some(retry_ms),
                Heard::Closed(why) => {
                    assert_eq!(why.map(|(code, _)| code), Some(1012));
                    break;
                }
                Heard::Frame(_) | Heard::Notice(_) => {}
            }
        }
        retries.insert(left.expect("a leave before the end"));
    }
    assert!(retries.len() > 10, "they are sent back at moments of their own: {retries:?}");
    assert!(bell.process.ends().success(), "{}", bell.process.err.text());
    assert!(bell.process.err.text().contains("clean=true"), "{}", bell.process.err.text());
    bell.restart();
    let mut till = bell.till("1", "new").await;
    for _ in 0..500 {
        let notice = till.notice().await;
        till.acks(&notice).await;
    }
}
