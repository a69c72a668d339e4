//! Held fsyncs: what is not durable notifies nobody, is answered to nobody and stored nowhere. A kill -9 cannot show it, since the page cache
//! survives it; strace holds every fsync of the process instead.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orderbell_lab::Process;

use crate::chain::{Node, soon};

/// An fsync that is held is held for this long.
const HOLD: Duration = Duration::from_secs(3);

/// Holds every fsync of a process for [`HOLD`], as a disk that thinks.
fn hold_fsyncs(node: &Node) -> Process {
    let pid = node.process.pid().to_string();
    let inject = format!("inject=fdatasync,fsync:delay_enter={}", HOLD.as_micros());
    let args = ["-f", "-p", &pid, "-e", "trace=fdatasync,fsync", "-e", &inject, "-o", "/dev/null"];
    let strace = Process::start(Path::new("strace"), &args, &[]);
    strace.err.wait_for("attached", |line| line.contains("attached").then_some(()));
    strace
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_an_fsync_is_held_nothing_is_notified_and_nothing_answered() {
    let node = Arc::new(Node::embedded());
    let mut till = node.till("1", "a").await;
    node.pays("before", "1").await;
    let first = till.notice().await;
    till.acks(&first).await;
    let mut strace = tokio::task::block_in_place(|| hold_fsyncs(&node));
    let began = Instant::now();
    let posting = {
        let node = node.clone();
        tokio::spawn(async move {
            node.pays("held", "1").await;
            began.elapsed()
        })
    };
    let showing = {
        let node = node.clone();
        tokio::spawn(async move {
            while soon("a look at the wall", crate::wall::look(&node)).await.today.paid < 2 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            began.elapsed()
        })
    };
    // A poll meanwhile reads only what is durable.
    let page = node.polls("1", "looker", Some(first.position), 0).await;
    assert!(page.notices.is_empty() && page.head == first.position);
    let notice = soon("the order", till.notice()).await;
    let rung = began.elapsed();
    let logged = posting.await.unwrap();
    assert_eq!(notice.notice.order, "held");
    assert!(logged >= HOLD, "answered after {logged:?}, before its fsync returned");
    // Two batches, one after the other: the event, then its notice.
    assert!(rung >= HOLD * 2, "rung after {rung:?}, before its fsync returned");
    let shown = showing.await.unwrap();
    // The same batch: it rings when its fsync has returned, and not a moment earlier is it on the wall.
    assert!(shown + HOLD / 2 >= rung, "shown on the wall after {shown:?}, rung after {rung:?}");
    strace.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_an_fsync_is_held_no_event_of_a_till_is_answered() {
    let node = Node::embedded();
    let mut till = node.till("1", "a").await;
    node.pays("o1", "1").await;
    till.hears(orderbell_protocol::NoticeKind::NewOrder, "o1").await;
    let mut strace = tokio::task::block_in_place(|| hold_fsyncs(&node));
    let began = Instant::now();
    till.accepts("o1", "A17").await;
    let answered = began.elapsed();
    assert!(answered >= HOLD, "answered after {answered:?}, before its fsync returned");
    strace.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_an_fsync_is_held_no_offset_is_stored() {
    let node = crate::kafka::node().await;
    let mut till = node.till("1", "a").await;
    let mut strace = tokio::task::block_in_place(|| hold_fsyncs(&node));
    let began = Instant::now();
    node.pays("held", "1").await;
    let topic = node.topic.as_ref().unwrap();
    while topic.committed(4) == 0 {
        assert!(began.elapsed() < orderbell_lab::patience(), "the offset is never stored");
    }
    let stored = began.elapsed();
    let notice = soon("the order", till.notice()).await;
    assert_eq!(notice.notice.order, "held");
    // Two batches, one after the other: the notice's, and a later one with the checkpoint. Only then is the offset stored.
    assert!(stored >= HOLD * 2, "stored after {stored:?}, before the checkpoint was durable");
    strace.kill();
}
