//! How a record that was read gets its ticket and its place in the queue of its key: whole, or in parts.

use std::panic::AssertUnwindSafe;

use super::Poller;
use crate::key_queues::QueuedInput;
use crate::record::Record;
use crate::shard::shard_of;
use crate::tracker::{Cost, Offer, Ticket};
use crate::traits::{CheckpointStore, Handler, KeyHash, KeyInput, Part, Parts, Reason, Source};

/// What a record, or a part of one, costs with what was prepared of it.
fn cost<H: Handler>(handler: &H, part: &Record, key: Option<KeyHash>, prepared: Option<&H::Prepared>) -> Cost {
    // The order of a record without a key does not matter: it is spread by its place.
    let key = key.unwrap_or_else(|| KeyHash(part.fingerprint() ^ part.offset));
    Cost { key, bytes: part.bytes() + prepared.map_or(0, |prepared| handler.prepared_bytes(prepared)) }
}

/// What a record costs, part by part. Most have one, for which nothing is allocated.
enum Costs {
    One(Cost),
    Several(Vec<Cost>),
}

impl Costs {
    fn of<H: Handler>(handler: &H, record: &Record, parts: &Parts<H::Prepared>) -> Self {
        match parts {
            Parts::One { key, prepared } => Self::One(cost(handler, record, *key, prepared.as_ref())),
            Parts::Several(parts) if parts.is_empty() => Self::One(cost(handler, record, None, None)),
            Parts::Several(parts) => {
                let of_part = |part: &Part<_>| cost(handler, &part.record, part.key, part.prepared.as_ref());
                Self::Several(parts.iter().map(of_part).collect())
            }
        }
    }

    fn all(&self) -> &[Cost] {
        match self {
            Self::One(cost) => std::slice::from_ref(cost),
            Self::Several(costs) => costs,
        }
    }
}

impl<S: Source, H: Handler, C: CheckpointStore> Poller<S, H, C> {
    /// Takes a record. With a `rejection` it goes to the dead letters without reaching the handler.
    pub(super) fn record(&mut self, record: Record, rejection: Option<Reason>) {
        let handler = &*self.handler;
        let with_costs = |parts: Parts<H::Prepared>| (Costs::of(handler, &record, &parts), parts);
        let without_key = || with_costs(Parts::One { key: None, prepared: None });
        // What is rejected already has no key and no parts: they may have been in what was cut.
        let choose = || if rejection.is_none() { with_costs(handler.parts(&record)) } else { without_key() };
        let chosen = std::panic::catch_unwind(AssertUnwindSafe(choose));
        let key_panicked = chosen.is_err();
        let (costs, parts) = chosen.unwrap_or_else(|_| without_key());
        let Some(ticket) = self.ticket(&record, costs.all()) else { return };
        let prepared = match parts {
            Parts::Several(parts) if !parts.is_empty() => {
                for (Part { record, prepared, .. }, cost) in parts.into_iter().zip(costs.all()) {
                    self.enqueue(KeyInput::Record(record, prepared), ticket.of_part(*cost), None);
                }
                return;
            }
            Parts::Several(_) => None,
            Parts::One { prepared, .. } => prepared,
        };
        let key_panicked = key_panicked.then(|| {
            self.stats.panics.increment();
            let (partition, offset) = (&record.partition, record.offset);
            tracing::error!(%partition, offset, "the handler panicked while it chose a key; the record goes to the dead letters");
            let message = String::from("the handler panicked while it chose the record's key");
            Reason { code: "key-panicked", message }
        });
        self.enqueue(KeyInput::Record(record, prepared), ticket, rejection.or(key_panicked).map(Box::new));
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

    fn enqueue(&mut self, input: KeyInput<H::Task, H::Prepared>, ticket: Ticket, rejection: Option<Box<Reason>>) {
        let shard = shard_of(ticket.key, self.shards.len());
        self.to_send[shard].push((ticket.key, QueuedInput { input, ticket: Some(ticket), attempts: 0, rejection }));
    }
}
