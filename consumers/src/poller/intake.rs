//! How a record that was read gets its ticket and its place in the queue of its key: whole, or in parts.

use std::panic::AssertUnwindSafe;

use super::Poller;
use crate::key_queues::QueuedInput;
use crate::record::Record;
use crate::shard::shard_of;
use crate::tracker::{Cost, Offer, Ticket};
use crate::traits::{CheckpointStore, Handler, KeyHash, KeyInput, Parts, Reason, Source};

fn cost(part: &Record, key: Option<KeyHash>) -> Cost {
    // The order of a record without a key does not matter: it is spread by its place.
    Cost { key: key.unwrap_or_else(|| KeyHash(part.fingerprint() ^ part.offset)), bytes: part.bytes() }
}

impl<S: Source, H: Handler, C: CheckpointStore> Poller<S, H, C> {
    /// Takes a record. With a `rejection` it goes to the dead letters without reaching the handler.
    pub(super) fn record(&mut self, record: Record, rejection: Option<Reason>) {
        let handler = &self.handler;
        // What is rejected already has no key and no parts: they may have been in what was cut.
        let parts = || if rejection.is_none() { handler.parts(&record) } else { Parts::One(None) };
        let parts = std::panic::catch_unwind(AssertUnwindSafe(parts));
        let key_panicked = parts.is_err();
        let key = match parts {
            Ok(Parts::Several(parts)) if !parts.is_empty() => return self.several(&record, parts),
            Ok(Parts::One(key)) => key,
            Ok(Parts::Several(_)) | Err(_) => None,
        };
        let Some(ticket) = self.ticket(&record, &[cost(&record, key)]) else { return };
        let key_panicked = key_panicked.then(|| {
            self.stats.panics.increment();
            let (partition, offset) = (&record.partition, record.offset);
            tracing::error!(%partition, offset, "the handler panicked while it chose a key; the record goes to the dead letters");
            let message = String::from("the handler panicked while it chose the record's key");
            Reason { code: "key-panicked", message }
        });
        self.enqueue(record, ticket, rejection.or(key_panicked).map(Box::new));
    }

    /// Takes the parts of a record, each for its own queue.
    fn several(&mut self, record: &Record, parts: Vec<(Record, Option<KeyHash>)>) {
        let costs: Vec<Cost> = parts.iter().map(|(part, key)| cost(part, *key)).collect();
        let Some(ticket) = self.ticket(record, &costs) else { return };
        for ((part, _), cost) in parts.into_iter().zip(costs) {
            self.enqueue(part, ticket.of_part(cost), None);
        }
    }

    /// The ticket of a record that is taken, for its first part; `None` when it is not taken.
    fn ticket(&mut self, record: &Record, parts: &[Cost]) -> Option<Ticket> {
        match self.tracker.offer(record, parts) {
            Offer::Ignore | Offer::Verified => None,
            Offer::Mismatch => {
                self.restart_recreated(&record.partition);
                None
            }
            Offer::Take(ticket) => Some(ticket),
            Offer::Unverified(ticket) => {
                tracing::info!(partition = %record.partition, "the record below the checkpoint has expired, which is normal");
                Some(ticket)
            }
        }
    }

    fn enqueue(&mut self, record: Record, ticket: Ticket, rejection: Option<Box<Reason>>) {
        let shard = shard_of(ticket.key, self.shards.len());
        let input = KeyInput::Record(record);
        self.to_send[shard].push((ticket.key, QueuedInput { input, ticket: Some(ticket), attempts: 0, rejection }));
    }
}
