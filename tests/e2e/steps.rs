//! kill -9 at each named step of the path, embedded and on Kafka: between reading and applying, before and after the batch, the ring, the
//! answers, a frame, an acknowledgement, an event that goes out and its mark.
//!
//! The same checks for each: everything that was acknowledged is there, every order rings, no notice has two positions and no position two
//! notices, every accepted order is taken with the code that the till received is logged, and what goes to the output topic has one id.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orderbell_client::{App, MailboxClient};
use orderbell_protocol::NoticeKind::{NewOrder, OrderAccepted};
use orderbell_protocol::client::{Input, Output, PersistedState, Timings};
use orderbell_protocol::frame::NoticeFrame;
use orderbell_protocol::{NoticeKind, Position};
use tokio::sync::mpsc;

use crate::chain::{Node, accepted, event, until};

const ORDERS: usize = 12;

/// What a till knows: a real one that comes back by itself.
#[derive(Default)]
struct Known {
    notices: Vec<NoticeFrame>,
    open: BTreeSet<String>,
    answered: BTreeMap<String, Option<orderbell_protocol::RejectionReason>>,
}

struct Till {
    known: Arc<Mutex<Known>>,
    say: mpsc::Sender<Input<'static>>,
}

impl Till {
    /// Accepts each order once, with an event id that stays the same.
    fn accepts(&self, order: &str) {
        let event = orderbell_protocol::ClientEvent { id: format!("accept-{order}"), ..accepted(order, "A17") };
        self.say.try_send(Input::Event(event)).unwrap();
    }
}

impl App for Till {
    fn on_output(&mut self, output: Output) -> ControlFlow<()> {
        let mut known = self.known.lock().unwrap();
        match output {
            Output::Notice(notice) => {
                if notice.notice.kind == NewOrder {
                    self.accepts(&notice.notice.order);
                }
                known.notices.push(notice);
            }
            Output::OpenOrders(orders) => {
                for order in orders {
                    if order.stage == orderbell_protocol::frame::OrderStage::Paid {
                        self.accepts(&order.order);
                    }
                    known.open.insert(order.order);
                }
            }
            Output::EventResult { id, rejected } => drop(known.answered.insert(id, rejected)),
            Output::Fault(code, why) => panic!("the till is at fault: {code} {why}"),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn persist(&mut self, _: &PersistedState) -> std::io::Result<()> {
        Ok(())
    }
}

fn names() -> BTreeSet<String> {
    (0..ORDERS).map(|n| format!("o{n}")).collect()
}

/// Pays an order until that is durable, whatever happens to the server meanwhile.
async fn pays(node: &Node, order: String) {
    let paid = event("order.paid", &order, serde_json::json!({"store": "1", "customer": "c1"}));
    if node.topic.is_some() {
        return node.happens(&[paid]).await;
    }
    until("it is posted", async || {
        let token = node.token("producer", "me");
        let posted = node.http.send("POST", "/v1/events", &token, "application/json", paid.to_string()).await;
        posted.is_ok_and(|answer| answer.status == 200)
    })
    .await;
}

/// All notices of the mailbox as a fresh device polls them.
async fn polled(node: &Node) -> Vec<(String, NoticeKind, Position, String)> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = node.polls("1", "checker", after, 0).await;
        let notices =
            page.notices.iter().map(|n| (n.notice.id.clone(), n.notice.kind, n.position, n.notice.order.clone()));
        all.extend(notices);
        if page.next_poll_ms > 0 {
            return all;
        }
        after = Some(page.position);
    }
}

async fn dies_at(mut node: Node, step: &str, nth: usize) {
    node.die_at = format!("{step}@{nth}");
    node.stays_at_one_address();
    let known = Arc::new(Mutex::new(Known::default()));
    let (say, said) = mpsc::channel(256);
    let quick = Duration::from_millis(50);
    let timings = Timings { retry_min: quick, retry_max: quick * 4, poll_min: quick, ..Timings::default() };
    let device = MailboxClient::new(node.public, &node.token("store", "1"), "a", PersistedState::default(), timings, 1);
    let mut app = Till { known: known.clone(), say };
    let till = tokio::spawn(async move { device.run(&mut app, said).await });
    // The server is started again by somebody who watches it, without the fault.
    let watched = async |node: &mut Node| {
        let mut process =
            std::mem::replace(&mut node.process, orderbell_lab::Process::start("true".as_ref(), &[], &[]));
        let ended = tokio::task::spawn_blocking(move || process.ends()).await.unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "it did not die at {step}");
        node.die_at.clear();
        node.restart();
    };
    for n in 0..ORDERS {
        // Somebody watches over the server while it is paid: the same event, as often as it takes.
        while tokio::time::timeout(Duration::from_secs(1), pays(&node, format!("o{n}"))).await.is_err() {
            if node.process.is_gone() {
                watched(&mut node).await;
            }
        }
    }
    if !node.die_at.is_empty() {
        watched(&mut node).await;
    }
    let taken = |known: &Known| -> BTreeSet<String> {
        known.notices.iter().filter(|n| n.notice.kind == OrderAccepted).map(|n| n.notice.order.clone()).collect()
    };
    until("every order rang, was accepted and is taken", async || {
        let known = known.lock().unwrap();
        known.answered.len() == ORDERS && taken(&known) == names()
    })
    .await;
    till.abort();
    let known = std::mem::take(&mut *known.lock().unwrap());
    assert!(known.answered.values().all(Option::is_none), "refused: {:?}", known.answered);
    let rang: BTreeSet<String> =
        known.notices.iter().filter(|n| n.notice.kind == NewOrder).map(|n| n.notice.order.clone()).collect();
    assert_eq!(rang.union(&known.open).cloned().collect::<BTreeSet<_>>(), names(), "an order did not ring");
    let mailbox = polled(&node).await;
    let kept: BTreeSet<String> =
        mailbox.iter().filter(|(_, kind, ..)| *kind == NewOrder).map(|(.., order)| order.clone()).collect();
    assert_eq!(kept, names(), "a notice is gone from the mailbox");
    assert!(mailbox.iter().all(|(_, _, position, _)| position.epoch == mailbox[0].2.epoch), "a kill changes no epoch");
    let positions: BTreeMap<String, &String> = mailbox.iter().map(|(id, _, at, _)| (at.to_string(), id)).collect();
    let ids: BTreeMap<&String, String> = mailbox.iter().map(|(id, _, at, _)| (id, at.to_string())).collect();
    assert_eq!((positions.len(), ids.len()), (mailbox.len(), mailbox.len()), "two of one: {mailbox:?}");
    for received in &known.notices {
        let at = received.position.to_string();
        assert_eq!(
            ids.get(&received.notice.id),
            Some(&at),
            "a notice that was received is gone, or has another position"
        );
        assert_eq!(
            positions.get(&at).copied(),
            Some(&received.notice.id),
            "a position that was received has another notice"
        );
    }
    if let Some(topic) = &node.topic {
        is_published_once(topic).await;
    }
}

/// Each order was reported as accepted by one event of our own topic.
async fn is_published_once(topic: &crate::kafka::Topic) {
    let published = topic.values(&format!("{}.events", topic.name)).await;
    let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in published.iter().filter(|event| event["type"] == "order.accepted") {
        let order = event["subject"].as_str().unwrap_or_default().to_owned();
        ids.entry(order).or_default().insert(event["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.keys().cloned().collect::<BTreeSet<_>>(), names(), "what was logged was not published");
    assert!(ids.values().all(|ids| ids.len() == 1), "one event under several ids: {ids:?}");
}

macro_rules! steps {
    ($node:expr; $($name:ident $step:literal $nth:literal),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            super::dies_at($node, $step, $nth).await;
        })*
    };
}

/// How often a step is reached at least, however slow the machine: turns and events are one for each order, posts are waited for one by one;
/// what else may be done for many at once.
mod embedded {
    steps! { crate::chain::Node::embedded();
        before_applying "read" 4,
        before_the_commit "applied" 4,
        before_the_batch "batch" 7,
        before_anybody_is_notified "durable" 7,
        before_the_answers "notified" 1,
        between_the_answers "answered" 9,
        before_a_frame "send" 1,
        behind_a_frame "sent" 2,
        at_an_acknowledgement "ack" 1,
    }
}

mod on_kafka {
    steps! { crate::kafka::node().await;
        before_applying "read" 4,
        before_the_commit "applied" 4,
        before_the_batch "batch" 2,
        before_anybody_is_notified "durable" 2,
        before_the_answers "notified" 1,
        between_the_answers "answered" 9,
        before_a_frame "send" 1,
        at_an_acknowledgement "ack" 1,
        before_an_event_goes_out "publish" 3,
        before_its_mark "published" 1,
        behind_its_mark "marked" 1,
    }
}
