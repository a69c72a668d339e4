//! The loop of a connection against a scripted socket, in paused time.

mod frames;
mod script;

use std::sync::Arc;
use std::time::Duration;

use orderbell_ledger::DeliveryStep;
use orderbell_protocol::ReadError;
use tokio::task::JoinHandle;
use tokio::time::advance;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::task::TaskTracker;

use super::Connection;
use crate::hub::{POISON_AFTER, SUBSCRIBERS_PER_RECIPIENT_MAX};
use crate::net::CloseLabels;
use orderbell_lab::log_capture::LogCapture;
use script::{ScriptedServer, ScriptedSocket, at, store};

const HELLO: &str = r#"{"type":"hello","token":"store:17","device":"till-1"}"#;

struct Till {
    socket: ScriptedSocket,
    task: JoinHandle<()>,
}

impl Till {
    fn connect(server: &Arc<ScriptedServer>) -> Self {
        let socket = ScriptedSocket::new();
        let mut connection = Connection::open(server.clone(), socket.clone());
        let task = TaskTracker::new().spawn(async move { connection.run().await });
        Self { socket, task }
    }

    async fn hello(server: &Arc<ScriptedServer>) -> Self {
        let till = Self::connect(server);
        till.socket.say(HELLO);
        settle().await;
        till
    }

    /// What was sent, a word for each: the type of a frame, the seq of a notice, the code of a close.
    fn sent(&self) -> Vec<String> {
        let word = |message: &Message| match message {
            Message::Text(text) => {
                let frame: serde_json::Value = serde_json::from_str(text).unwrap();
                match frame["type"].as_str().unwrap() {
                    "notice" => frame["notice"]["id"].as_str().or(frame["id"].as_str()).unwrap().to_owned(),
                    kind => kind.to_owned(),
                }
            }
            Message::Close(Some(frame)) => u16::from(frame.code).to_string(),
            other => format!("{other:?}").split('(').next().unwrap().to_lowercase(),
        };
        self.socket.script().sent.iter().map(word).collect()
    }

    /// The attempt of each notice that was sent.
    fn attempts(&self) -> Vec<u64> {
        let script = self.socket.script();
        let texts = script.sent.iter().filter_map(|message| message.to_text().ok());
        let frames = texts.filter_map(|text| serde_json::from_str::<serde_json::Value>(text).ok());
        frames.filter_map(|frame| frame["attempt"].as_u64()).collect()
    }

    fn count(&self, word: &str) -> usize {
        self.sent().iter().filter(|sent| *sent == word).count()
    }

    fn last(&self) -> String {
        self.sent().last().cloned().unwrap_or_default()
    }

    fn ack(&self, seq: usize) {
        self.socket.say(&format!(r#"{{"type":"ack","position":"{}"}}"#, at(seq)));
    }
}

/// Lets the connections do everything that they can do now.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Lets time pass in steps in which the connections run.
async fn pass(time: Duration) {
    let step = Duration::from_millis(100);
    for _ in 0..time.as_millis() / step.as_millis() {
        advance(step).await;
        tokio::task::yield_now().await;
    }
    settle().await;
}

fn closed(server: &ScriptedServer, reason: &'static str) -> u64 {
    server.stats.sockets_closed.get_or_create(&CloseLabels { reason }).get()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_while_a_flush_is_pending_and_a_stalled_reader_makes_no_queue_grow() {
    let server = ScriptedServer::new();
    server.notify(200);
    let till = Till::connect(&server);
    till.socket.change(|script| script.flushes = 0);
    till.socket.say(HELLO);
    settle().await;
    assert_eq!((server.reads(), till.sent()), (0, vec!["welcome".to_owned()]), "the welcome is not flushed");
    till.socket.change(|script| script.flushes = 1);
    settle().await;
    assert_eq!((server.reads(), till.sent().len()), (1, 33), "one page, and its flush is pending");
    for _ in 0..1_000 {
        server.notify(1);
        settle().await;
    }
    till.ack(10);
    // Long enough for a redelivery to be due, and too short for a heartbeat.
    pass(Duration::from_secs(20)).await;
    assert_eq!((server.reads(), till.sent().len()), (1, 33), "a stalled reader");
    till.socket.change(|script| script.flushes = 1);
    settle().await;
    // The page that was asked for before the redelivery starts at the wrong place: it is read, dropped, and read again.
    assert_eq!((server.reads(), till.sent().len()), (3, 65), "one page sent for one flush");
    till.socket.change(|script| script.flushes = usize::MAX);
    settle().await;
    assert_eq!(till.last(), "n74", "64 notices after the one that was acknowledged, in flight together");
}

#[tokio::test(start_paused = true)]
async fn no_notice_is_sent_before_it_is_durable_that_the_device_is_connected() {
    let server = ScriptedServer::new();
    let durable = &server.mailbox.connected_durable;
    durable.forget_permits(usize::MAX);
    server.notify(2);
    let till = Till::hello(&server).await;
    server.notify(1);
    pass(Duration::from_secs(1)).await;
    assert_eq!(till.sent(), ["welcome"], "the welcome does not wait");
    durable.add_permits(1);
    settle().await;
    assert_eq!(till.sent(), ["welcome", "n1", "n2", "n3"]);
    server.notify(1);
    settle().await;
    assert_eq!(till.last(), "n4", "once a connection");
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_the_device_was_sent_by_a_poll_is_pushed_as_a_repeat() {
    let server = ScriptedServer::new();
    let till = Till::hello(&server).await;
    server.hub.sent_by_poll(&store(), &orderbell_protocol::Id::new("till-1").unwrap(), 2);
    server.notify(3);
    settle().await;
    assert_eq!(till.sent(), ["welcome", "n1", "n2", "n3"]);
    assert_eq!(till.attempts(), [2, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_replaced_connection_sends_what_is_in_flight_then_4003_and_nothing_after() {
    let server = ScriptedServer::new();
    server.notify(3);
    let old = Till::hello(&server).await;
    assert_eq!(old.sent(), ["welcome", "n1", "n2", "n3"]);
    old.socket.change(|script| script.flushes = 0);
    server.notify(1);
    settle().await;
    let new = Till::hello(&server).await;
    server.notify(1);
    settle().await;
    assert_eq!(old.last(), "n4", "its flush is pending");
    old.socket.change(|script| script.flushes = usize::MAX);
    settle().await;
    assert_eq!(old.sent(), ["welcome", "n1", "n2", "n3", "n4", "4003"]);
    assert_eq!(new.sent(), ["welcome", "n1", "n2", "n3", "n4", "n5"]);
    assert!(old.task.is_finished() && !new.task.is_finished());
    assert_eq!((closed(&server, "replaced"), server.hub.sessions()), (1, 1));
}

/// The bug: a replaced connection whose flush was blocked went on to acknowledge for its device.
#[tokio::test(start_paused = true)]
async fn a_replaced_connection_is_not_listened_to_while_its_flush_is_blocked() {
    let server = ScriptedServer::new();
    server.notify(1);
    let old = Till::hello(&server).await;
    old.socket.change(|script| script.flushes = 0);
    server.notify(1);
    settle().await;
    let new = Till::hello(&server).await;
    assert_eq!((old.last().as_str(), new.last().as_str()), ("n2", "n2"));
    old.ack(2);
    settle().await;
    assert_eq!(old.last(), "4003");
    let acked = |step: &DeliveryStep| matches!(step, DeliveryStep::Acked(_));
    assert!(!server.mailbox.steps.lock().unwrap().iter().any(acked));
    new.ack(2);
    settle().await;
    assert!(server.mailbox.steps.lock().unwrap().iter().any(acked));
}

#[tokio::test(start_paused = true)]
async fn two_tills_with_one_device_id_are_slowed_down_and_one_of_them_is_served() {
    let log = LogCapture::at(tracing::Level::INFO);
    let server = ScriptedServer::new();
    let mut tills = vec![Till::hello(&server).await];
    // Each comes back as soon as it is replaced.
    for _ in 0..5 {
        tills.push(Till::hello(&server).await);
        assert_eq!(tills[tills.len() - 2].last(), "4003");
    }
    let newcomer = Till::hello(&server).await;
    pass(Duration::from_millis(900)).await;
    server.notify(1);
    settle().await;
    assert_eq!((newcomer.sent(), tills[5].last().as_str()), (vec![], "n1"), "the one that is there is served");
    pass(Duration::from_millis(200)).await;
    assert_eq!((newcomer.sent(), tills[5].last()), (vec!["welcome".into(), "n1".into()], "4003".into()));
    let line = log.line("two installations use one device id and replace each other's connection");
    assert_eq!(line["span"]["device"], "till-1");
    let listed = server.stats.rejections.list();
    assert_eq!(
        (listed[0].reason.as_str(), listed[0].count, listed[0].store.as_deref()),
        ("device-shared", 1, Some("17"))
    );
    // The next one waits for longer, and not when the other leaves.
    let next = Till::hello(&server).await;
    pass(Duration::from_millis(1_500)).await;
    assert_eq!(next.sent(), [""; 0]);
    newcomer.socket.say(r#"{"type":"bye"}"#);
    pass(Duration::from_millis(600)).await;
    assert_eq!(next.sent(), ["welcome", "n1"]);
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_waits_ends_with_the_drain_and_counts_towards_the_limit() {
    let server = ScriptedServer::new();
    let mut tills = vec![Till::hello(&server).await];
    for _ in 0..5 {
        tills.push(Till::hello(&server).await);
    }
    let mut waiting = Vec::new();
    for _ in 0..SUBSCRIBERS_PER_RECIPIENT_MAX {
        waiting.push(Till::hello(&server).await);
    }
    assert!(waiting.iter().all(|till| till.sent().is_empty()));
    assert_eq!(Till::hello(&server).await.sent(), ["4004"]);
    server.drain.cancel();
    pass(Duration::from_millis(2_100)).await;
    assert!(waiting.iter().all(|till| till.last() == "1012"));
}

#[tokio::test(start_paused = true)]
async fn a_till_that_replaces_its_own_dead_connection_is_not_shared() {
    let server = ScriptedServer::new();
    for _ in 0..20 {
        let till = Till::hello(&server).await;
        assert_eq!(till.sent(), ["welcome"]);
        till.socket.change(|script| script.answers_close = false);
    }
    pass(Duration::from_secs(3)).await;
    assert!(server.hub.shared_devices(crate::clock::wall_clock()).is_empty());
}

/// The bug: a stranger with a token of the store and a useless position threw its tills out, one after another.
#[tokio::test(start_paused = true)]
async fn a_hello_that_is_turned_away_replaces_nobody() {
    let server = ScriptedServer::new();
    let till = Till::hello(&server).await;
    *server.mailbox.error.lock().unwrap() = Some(ReadError::EpochChanged);
    let stranger = Till::connect(&server);
    stranger.socket.say(&HELLO.replace('}', r#","position":"9.7.0000"}"#));
    settle().await;
    assert_eq!((stranger.last().as_str(), till.sent()), ("4200", vec!["welcome".to_owned()]));
    *server.mailbox.error.lock().unwrap() = None;
    server.refuses_hellos.store(true, std::sync::atomic::Ordering::Relaxed);
    let too_often = Till::hello(&server).await;
    assert_eq!((too_often.last().as_str(), till.sent()), ("4102", vec!["welcome".to_owned()]));
    server.notify(1);
    settle().await;
    assert_eq!(till.sent(), ["welcome", "n1"]);
}

/// The hello of another installation that has chosen the same name, with a token of its own.
async fn namesake(server: &Arc<ScriptedServer>) -> Till {
    let till = Till::connect(server);
    till.socket.say(&HELLO.replace("store:17", "store:17,,other"));
    settle().await;
    till
}

/// The bug: two installations that had chosen one name replaced each other, and neither was served for minutes.
#[tokio::test(start_paused = true)]
async fn a_namesake_with_another_token_is_turned_away_while_the_till_is_there() {
    let server = ScriptedServer::new();
    let till = Till::hello(&server).await;
    let newcomer = namesake(&server).await;
    assert_eq!((till.sent(), newcomer.sent()), (vec!["welcome".into(), "ping".into()], vec![]));
    till.socket.change(|script| script.incoming.push_back(Message::Pong(Default::default())));
    pass(Duration::from_millis(4_900)).await;
    assert_eq!(newcomer.sent(), [""; 0]);
    pass(Duration::from_millis(200)).await;
    assert_eq!(newcomer.sent(), ["4003"]);
    server.notify(1);
    settle().await;
    assert_eq!(till.last(), "n1");
    let listed = server.stats.rejections.list();
    assert_eq!((listed.len(), listed[0].reason.as_str(), listed[0].count), (1, "device-in-use", 1));
    assert_eq!(server.hub.shared_devices(crate::clock::wall_clock()).len(), 1, "operators are alerted");
    // With the same token it is the same till, and with the device in the token its issuer says whose it is. Both wait for a second, as the device
    // is shared, and not for an answer.
    let back = Till::hello(&server).await;
    pass(Duration::from_millis(1_100)).await;
    assert_eq!((till.last().as_str(), back.sent()), ("4003", vec!["welcome".into(), "n1".into()]));
    let named = Till::connect(&server);
    named.socket.say(&HELLO.replace("store:17", "store:17,till-1"));
    pass(Duration::from_millis(2_100)).await;
    assert_eq!((back.last().as_str(), named.sent()), ("4003", vec!["welcome".into(), "n1".into()]));
    *server.bound.lock().unwrap() = Some("till-1");
    assert_eq!((namesake(&server).await.sent(), named.last().as_str()), (vec!["4001".to_owned()], "n1"));
}

/// The bug: the first sign of life turned a newcomer away, also when that was the goodbye of the old connection.
#[tokio::test(start_paused = true)]
async fn a_newcomer_with_another_token_is_served_when_the_old_connection_leaves() {
    let server = ScriptedServer::new();
    let old = Till::hello(&server).await;
    let newcomer = namesake(&server).await;
    old.socket.change(|script| script.incoming.push_back(Message::Pong(Default::default())));
    pass(Duration::from_millis(1_900)).await;
    assert_eq!((newcomer.sent(), old.last().as_str()), (vec![], "ping"));
    old.socket.say(r#"{"type":"bye"}"#);
    pass(Duration::from_millis(1_200)).await;
    assert_eq!((newcomer.sent(), old.last().as_str()), (vec!["welcome".to_owned()], "1000"));
    // Its goodbye is no answer, although its connection is still open.
    for goodbye in [Message::text(r#"{"type":"bye"}"#), Message::Close(None)] {
        let server = ScriptedServer::new();
        let old = Till::hello(&server).await;
        let newcomer = namesake(&server).await;
        pass(Duration::from_millis(4_000)).await;
        old.socket.change(|script| {
            script.answers_close = false;
            script.incoming.push_back(goodbye);
        });
        pass(Duration::from_millis(1_100)).await;
        assert_eq!((newcomer.sent(), old.task.is_finished()), (vec!["welcome".to_owned()], false));
    }
    assert!(server.hub.shared_devices(crate::clock::wall_clock()).is_empty());
}

/// The bug: a till that came back while a namesake waited for an answer of its old connection was thrown out.
#[tokio::test(start_paused = true)]
async fn a_till_that_comes_back_while_a_namesake_waits_stays() {
    let server = ScriptedServer::new();
    let dead = Till::hello(&server).await;
    dead.socket.change(|script| script.answers_close = false);
    let newcomer = namesake(&server).await;
    pass(Duration::from_secs(1)).await;
    let back = Till::hello(&server).await;
    assert_eq!((dead.last().as_str(), back.sent()), ("4003", vec!["welcome".to_owned()]));
    pass(Duration::from_millis(4_200)).await;
    assert_eq!((newcomer.sent(), back.sent()), (vec!["4003".to_owned()], vec!["welcome".to_owned()]));
}

/// The bug: a hello that was on its way when a token that names the device polled got a session.
#[tokio::test(start_paused = true)]
async fn a_hello_gets_no_session_of_a_device_that_became_bound_while_it_was_looked_at() {
    for looks in 1..=3 {
        let server = ScriptedServer::new();
        server.bound_at_look.store(looks, std::sync::atomic::Ordering::Relaxed);
        let till = Till::hello(&server).await;
        assert_eq!((till.sent(), server.hub.sessions()), (vec!["4001".to_owned()], 0), "{looks}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_till_with_a_new_token_is_served_behind_its_own_dead_connection() {
    let server = ScriptedServer::new();
    let dead = Till::hello(&server).await;
    let back = namesake(&server).await;
    pass(Duration::from_millis(4_900)).await;
    assert_eq!(back.sent(), [""; 0]);
    pass(Duration::from_millis(200)).await;
    assert_eq!((back.sent(), dead.last().as_str()), (vec!["welcome".to_owned()], "4003"));
    // Where the connection ends meanwhile, it does not wait as long.
    let next = Till::hello(&server).await;
    back.socket.say(r#"{"type":"bye"}"#);
    pass(Duration::from_millis(1_100)).await;
    assert_eq!(next.sent(), ["welcome"]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_sends_goaway_then_1012_and_nothing_after() {
    let server = ScriptedServer::new();
    let till = Till::hello(&server).await;
    till.socket.change(|script| script.answers_close = false);
    server.notify(1);
    server.drain.cancel();
    // Within `drain_spread`.
    pass(Duration::from_secs(2)).await;
    server.notify(5);
    till.ack(1);
    pass(Duration::from_secs(1)).await;
    assert_eq!(till.sent(), ["welcome", "n1", "goaway", "1012"]);
    pass(Duration::from_secs(2)).await;
    assert!(till.task.is_finished());
    assert_eq!(closed(&server, "restart"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_pings_postpones_neither_the_hello_timeout_nor_the_drain() {
    let server = ScriptedServer::new();
    let silent = Till::connect(&server);
    silent.socket.change(|script| script.flood = Some(Message::Ping(Default::default())));
    pass(Duration::from_millis(4_900)).await;
    assert_eq!(silent.sent(), [""; 0]);
    pass(Duration::from_millis(200)).await;
    assert_eq!(silent.sent(), ["3008"]);
    let till = Till::hello(&server).await;
    till.socket.change(|script| script.flood = Some(Message::Pong(Default::default())));
    server.drain.cancel();
    pass(Duration::from_millis(2_100)).await;
    assert_eq!(till.sent(), ["welcome", "goaway", "1012"]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_pings_postpones_neither_heartbeats_nor_the_ack_timeout_nor_a_replacement() {
    let server = ScriptedServer::new();
    server.notify(1);
    let till = Till::hello(&server).await;
    till.socket.change(|script| script.flood = Some(Message::Ping(Default::default())));
    pass(Duration::from_millis(10_200)).await;
    assert_eq!(till.sent(), ["welcome", "n1", "n1"], "sent again after the ack timeout");
    pass(Duration::from_secs(20)).await;
    assert_eq!((till.count("n1"), till.count("heartbeat"), till.count("ping")), (4, 1, 1));
    pass(Duration::from_secs(10)).await;
    assert_eq!((till.last().as_str(), closed(&server, "ack-timeout")), ("4103", 1));
    let old = Till::hello(&server).await;
    old.socket.change(|script| script.flood = Some(Message::Ping(Default::default())));
    settle().await;
    let _new = Till::hello(&server).await;
    assert_eq!(old.last(), "4003");
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_text_frames_below_the_limit_postpones_no_ack_timeout() {
    let server = ScriptedServer::new();
    server.notify(1);
    let till = Till::hello(&server).await;
    let displayed = format!(r#"{{"type":"displayed","position":"{}"}}"#, at(1));
    for _ in 0..401 {
        (0..15).for_each(|_| till.socket.say(&displayed));
        pass(Duration::from_millis(100)).await;
    }
    assert_eq!((till.count("n1"), till.count("heartbeat"), till.last().as_str()), (4, 1, "4103"));
}

#[tokio::test(start_paused = true)]
async fn the_idle_timeout_counts_from_the_end_of_a_flood() {
    let server = ScriptedServer::new();
    let till = Till::hello(&server).await;
    till.socket.change(|script| script.flood = Some(Message::Ping(Default::default())));
    pass(Duration::from_secs(100)).await;
    till.socket.change(|script| script.flood = None);
    pass(Duration::from_millis(69_800)).await;
    assert_eq!(till.last(), "ping", "heartbeats go on");
    pass(Duration::from_millis(300)).await;
    assert_eq!((till.last().as_str(), closed(&server, "timeout")), ("3008", 1));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_answer_a_close_is_left_after_two_seconds() {
    for flood in [None, Some(Message::Ping(Default::default()))] {
        let server = ScriptedServer::new();
        let till = Till::hello(&server).await;
        till.socket.change(|script| (script.answers_close, script.flood) = (false, flood));
        till.socket.say(r#"{"type":"bye"}"#);
        pass(Duration::from_millis(1_900)).await;
        assert_eq!((till.sent(), till.task.is_finished()), (vec!["welcome".into(), "1000".into()], false));
        pass(Duration::from_millis(200)).await;
        assert!(till.task.is_finished());
    }
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_cannot_be_read_closes_1011_and_the_log_names_the_till() {
    let log = LogCapture::at(tracing::Level::INFO);
    let server = ScriptedServer::new();
    let till = Till::hello(&server).await;
    *server.mailbox.error.lock().unwrap() = Some(ReadError::Unavailable);
    server.notify(1);
    settle().await;
    assert_eq!((till.sent(), till.task.is_finished()), (vec!["welcome".into(), "1011".into()], true));
    let line = log.line("cannot read a mailbox");
    assert_eq!(
        line["span"],
        serde_json::json!({"name":"connection","connection":1,"recipient":"store:17","device":"till-1"})
    );
}

#[tokio::test(start_paused = true)]
async fn lines_about_a_nack_and_a_poison_notice_name_store_and_device() {
    // Errors only: the span must exist whenever its lines do.
    let log = LogCapture::at(tracing::Level::ERROR);
    let server = ScriptedServer::new();
    server.notify(2);
    for _ in 1..POISON_AFTER {
        assert!(!server.hub.record_ack_timeout(&store(), &orderbell_protocol::Id::new("till-1").unwrap(), at(2)));
    }
    let _other = Till::connect(&server);
    let till = Till::hello(&server).await;
    till.socket.say(&format!(r#"{{"type":"nack","position":"{}","reason":"no-printer"}}"#, at(1)));
    pass(Duration::from_secs(41)).await;
    assert_eq!(till.last(), "4103");
    let named = serde_json::json!({"name":"connection","connection":2,"recipient":"store:17","device":"till-1"});
    let nack = log.line("a client cannot use a notice");
    assert_eq!((&nack["span"], &nack["fields"]["reason"]), (&named, &"no-printer".into()));
    let poison = log.line("several connections of a device got no acknowledgement for a notice: it is skipped");
    assert_eq!((&poison["span"], &poison["fields"]["position"]), (&named, &at(2).to_string().into()));
    assert_eq!(log.text().lines().count(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_log_says_that_a_customer_is_one_and_not_who() {
    let log = LogCapture::at(tracing::Level::TRACE);
    let server = ScriptedServer::new();
    server.notify(1);
    let phone = Till::connect(&server);
    phone.socket.say(r#"{"type":"hello","token":"customer:+4915112345","device":"phone-of-ann"}"#);
    settle().await;
    phone.socket.say(&format!(r#"{{"type":"nack","position":"{}","reason":"other"}}"#, at(1)));
    settle().await;
    let line = log.line("a client cannot use a notice");
    assert_eq!(line["span"], serde_json::json!({"name":"connection","connection":1,"recipient":"customer"}));
    assert!(!log.text().contains("4915112345") && !log.text().contains("phone-of"), "{}", log.text());
}
