//! Batches and the detection of records out of order. What follows from sequences of operations is in `tests/dispatch.rs`, where each is a
//! correct program: it never makes a violation.

use std::time::Duration;

use super::{KeyQueues, QueuedInput};
use crate::tracker::Ticket;
use crate::traits::{KeyHash, KeyInput};

const KEY: KeyHash = KeyHash(7);
const NOW: Duration = Duration::ZERO;

fn ticket(slot: u32, epoch: u32, sequence: u64) -> Ticket {
    Ticket { slot, epoch, sequence, key: KEY, bytes: 1 }
}

fn queued(ticket: Ticket, attempts: u32) -> QueuedInput<()> {
    QueuedInput { input: KeyInput::Task(()), ticket: Some(ticket), attempts, rejection: None }
}

fn sequences(batch: &[QueuedInput<()>]) -> Vec<u64> {
    batch.iter().filter_map(|queued| queued.ticket).map(|ticket| ticket.sequence).collect()
}

/// The violations that are counted when these records of one key start one after another.
fn violations_of(tickets: &[Ticket]) -> u64 {
    let mut queues = KeyQueues::new(64);
    for one in tickets {
        queues.push(KEY, queued(*one, 0));
    }
    assert_eq!(queues.next_batch(NOW).map(|(_, batch)| batch.len()), Some(tickets.len()));
    queues.take_violations()
}

#[test]
fn a_batch_holds_the_records_that_wait_up_to_its_bound() {
    let mut queues = KeyQueues::new(3);
    for sequence in 0..5 {
        queues.push(KEY, queued(ticket(0, 1, sequence), 0));
    }
    let first = queues.next_batch(NOW).map(|(_, batch)| sequences(&batch));
    assert_eq!(first, Some(vec![0, 1, 2]));
    queues.finish(KEY, Vec::new());
    let second = queues.next_batch(NOW).map(|(_, batch)| sequences(&batch));
    assert_eq!(second, Some(vec![3, 4]));
}

#[test]
fn a_record_that_was_tried_before_goes_alone() {
    let mut queues = KeyQueues::new(3);
    queues.push(KEY, queued(ticket(0, 1, 0), 1));
    queues.push(KEY, queued(ticket(0, 1, 1), 0));
    assert_eq!(queues.next_batch(NOW).map(|(_, batch)| sequences(&batch)), Some(vec![0]));
}

#[test]
fn a_record_that_starts_behind_a_newer_one_of_its_partition_is_a_violation() {
    assert_eq!(violations_of(&[ticket(0, 1, 5), ticket(0, 1, 4)]), 1);
    assert_eq!(violations_of(&[ticket(0, 1, 5), ticket(0, 1, 4), ticket(0, 1, 3)]), 2, "each is counted");
    assert_eq!(violations_of(&[ticket(0, 1, 4), ticket(0, 1, 5)]), 0);
    assert_eq!(violations_of(&[ticket(0, 1, 5), ticket(0, 1, 5)]), 0, "a record that starts again is in order");
    assert_eq!(violations_of(&[ticket(0, 1, 5), ticket(1, 1, 4)]), 0, "two partitions have no order between them");
    assert_eq!(violations_of(&[ticket(0, 1, 5), ticket(0, 2, 4)]), 0, "an epoch counts from its own beginning");
}
