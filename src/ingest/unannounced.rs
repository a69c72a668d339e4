//! Paid orders of which no store is notified: each is a line in the log, of those that wait for their store when they have waited for too long. The
//! balance counts them all from the beginning.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use orderbell_consumers::{Record, TopicPartition};
use orderbell_ledger::OrderKey;
use orderbell_orders::order::Unannounced;
use orderbell_protocol::UnixMs;
use orderbell_protocol::balance::STORE_MAX_WAIT_MS;

/// Orders without a store that are remembered one by one; more are logged at once. Each takes about 200 bytes.
const MAX_WAITING: usize = 4_096;

/// Partition and offset of a record: an operator finds the order by them.
#[derive(Clone, Debug)]
pub struct Place(TopicPartition, u64);

impl Place {
    /// The place of this record.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self(record.partition.clone(), record.offset)
    }
}

/// Paid orders whose store may still be named. Load-test traffic is left out: nobody waits for it.
#[derive(Debug, Default)]
pub struct UnannouncedOrders(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Orders without a store: since when and by which record, or `None` once they have waited for too long.
    waiting: HashMap<OrderKey, Option<(UnixMs, Place)>>,
}

impl UnannouncedOrders {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in that the event of this record was applied to an order: whether it waits for its store since then or still, and why no store is
    /// notified of it otherwise, if that raises an alert.
    pub fn record(&self, order: &OrderKey, awaits_store: bool, reason: Option<Unannounced>, place: Place, now: UnixMs) {
        if order.shadow {
            return;
        }
        if let Some(reason) = reason.filter(|reason| *reason != Unannounced::NoStore) {
            log(reason, &place);
        }
        if awaits_store { self.lock().wait(order, place, now) } else { self.forget(order) }
    }

    /// An order is not known any more.
    pub fn forget(&self, order: &OrderKey) {
        self.lock().waiting.remove(order);
    }

    /// Logs the orders that have waited for their store for too long by now.
    pub fn log_overdue(&self, now: UnixMs) {
        let overdue = self.lock().overdue(now);
        overdue.iter().for_each(|place| log(Unannounced::NoStore, place));
    }
}

impl Inner {
    fn wait(&mut self, order: &OrderKey, place: Place, now: UnixMs) {
        if self.waiting.contains_key(order) {
            return;
        }
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.retain(|_, since| since.is_some());
        }
        if self.waiting.len() < MAX_WAITING {
            self.waiting.insert(order.clone(), Some((now, place)));
        } else {
            log(Unannounced::NoStore, &place);
        }
    }

    /// Takes the places of those that have waited for too long.
    fn overdue(&mut self, now: UnixMs) -> Vec<Place> {
        // One that came much later than now waits by a clock that was set back.
        let is_over = |(since, _): &mut (UnixMs, Place)| {
            since.plus_ms(STORE_MAX_WAIT_MS) <= now || *since >= now.plus_ms(STORE_MAX_WAIT_MS)
        };
        self.waiting.values_mut().filter_map(|waits| Some(waits.take_if(is_over)?.1)).collect()
    }
}

fn log(reason: Unannounced, Place(part, offset): &Place) {
    tracing::error!(%part, offset, reason = reason.word(), "no store is notified of a paid order");
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_protocol::Id;

    const NOW: UnixMs = UnixMs(1_790_000_000_000);

    fn key(id: &str) -> OrderKey {
        OrderKey { shadow: false, id: Id::new(id).unwrap() }
    }

    fn place() -> Place {
        Place(TopicPartition::new("orders", 0), 7)
    }

    /// How many have waited for too long since the last time.
    fn overdue(orders: &UnannouncedOrders, after_ms: i64) -> usize {
        orders.lock().overdue(NOW.plus_ms(after_ms)).len()
    }

    fn waits(orders: &UnannouncedOrders, id: &str, after_ms: i64) {
        orders.record(&key(id), true, Some(Unannounced::NoStore), place(), NOW.plus_ms(after_ms));
    }

    #[test]
    fn an_order_without_a_store_waits_for_a_time_and_once() {
        let orders = UnannouncedOrders::default();
        ["o1", "o2"].iter().for_each(|id| waits(&orders, id, 0));
        waits(&orders, "o1", 10_000);
        orders.record(&key("o2"), false, None, place(), NOW.plus_ms(10_000));
        orders.record(&OrderKey { shadow: true, ..key("o3") }, true, Some(Unannounced::NoStore), place(), NOW);
        assert_eq!((overdue(&orders, 19_999), overdue(&orders, 20_000)), (0, 1), "its store is late");
        waits(&orders, "o1", 25_000);
        assert_eq!(overdue(&orders, 50_000), 0, "another event of it");
        waits(&orders, "o4", 0);
        assert_eq!((overdue(&orders, -19_999), overdue(&orders, -3_600_000)), (0, 1), "the clock was set back");
    }

    /// Regression: an order went on waiting whose store was named by an event with another reason to tell of it.
    #[test]
    fn an_order_waits_no_longer_than_its_store_is_missing() {
        let orders = UnannouncedOrders::default();
        ["o1", "o2", "o3"].iter().for_each(|id| waits(&orders, id, 0));
        orders.record(&key("o1"), false, Some(Unannounced::SecondPayment), place(), NOW);
        orders.record(&key("o2"), false, Some(Unannounced::TooOld), place(), NOW);
        orders.record(&key("o3"), true, Some(Unannounced::SecondPayment), place(), NOW.plus_ms(10_000));
        assert_eq!(overdue(&orders, 20_000), 1, "a second payment that names no store either");
    }

    #[test]
    fn more_orders_without_a_store_than_are_remembered_do_not_wait() {
        let orders = UnannouncedOrders::default();
        (0..MAX_WAITING + 3).for_each(|at| waits(&orders, &at.to_string(), 0));
        assert_eq!(overdue(&orders, 20_000), MAX_WAITING);
    }
}
