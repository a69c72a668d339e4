//! Paid orders of which no store is notified: each is a line in the log, and those that only wait for their store are known one by one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use orderbell_consumers::{Record, TopicPartition};
use orderbell_ledger::OrderKey;
use orderbell_orders::order::Unannounced;
use orderbell_protocol::UnixMs;

/// How long a paid order may wait for the event that names its store: two topics are rarely further apart. Operators are alerted within 30
/// seconds of the payment.
const STORE_MAX_WAIT_MS: i64 = 20_000;
/// Orders without a store that are remembered one by one; more are told of at once. Each takes about 200 bytes.
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

/// Paid orders whose store may still be named. The balance counts them from the beginning, and this says of how many nobody need be told yet.
/// Load-test traffic is left out: nobody waits for it.
#[derive(Debug, Default)]
pub struct UnannouncedOrders(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Orders without a store: since when and by which record, or `None` once they have waited for too long.
    waiting: HashMap<OrderKey, Option<(UnixMs, Place)>>,
}

impl UnannouncedOrders {
    /// Takes in why no store is notified of an order, after the event of this record was applied to it; `None` when one is, or none needs to be.
    pub fn record(&self, order: &OrderKey, reason: Option<Unannounced>, place: Place, now: UnixMs) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            _ if order.shadow => {}
            Some(Unannounced::NoStore) => inner.wait(order, place, now),
            Some(reason) => log(reason, &place),
            None => inner.forget(order),
        }
    }

    /// An order is not known any more.
    pub fn forget(&self, order: &OrderKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).forget(order);
    }

    /// How many orders of each topic wait for their store, and not for too long.
    pub fn waiting(&self, now: UnixMs) -> BTreeMap<String, u64> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.give_up(now);
        let mut waiting = BTreeMap::new();
        for (_, Place(part, _)) in inner.waiting.values().flatten() {
            *waiting.entry(part.topic.to_string()).or_default() += 1;
        }
        waiting
    }
}

impl Inner {
    fn forget(&mut self, order: &OrderKey) {
        self.waiting.remove(order);
    }

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

    fn give_up(&mut self, now: UnixMs) {
        let is_over = |(since, _): &mut (UnixMs, Place)| since.plus_ms(STORE_MAX_WAIT_MS) <= now;
        let given_up = self.waiting.values_mut().filter_map(|waits| Some(waits.take_if(is_over)?.1));
        given_up.for_each(|place| log(Unannounced::NoStore, &place));
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

    fn waiting(orders: &UnannouncedOrders, after_ms: i64) -> u64 {
        orders.waiting(NOW.plus_ms(after_ms)).get("orders").copied().unwrap_or_default()
    }

    #[test]
    fn an_order_without_a_store_waits_for_a_time_and_once() {
        let orders = UnannouncedOrders::default();
        let waits = |id: &str, after_ms: i64| {
            orders.record(&key(id), Some(Unannounced::NoStore), place(), NOW.plus_ms(after_ms))
        };
        waits("o1", 0);
        waits("o2", 0);
        waits("o1", 10_000);
        orders.record(&key("o2"), None, place(), NOW.plus_ms(10_000));
        orders.record(&OrderKey { shadow: true, ..key("o3") }, Some(Unannounced::NoStore), place(), NOW);
        assert_eq!(waiting(&orders, 19_999), 1);
        assert_eq!(waiting(&orders, 20_000), 0, "its store is late");
        waits("o1", 25_000);
        assert_eq!(waiting(&orders, 25_000), 0, "another event of it");
    }

    #[test]
    fn more_orders_without_a_store_than_are_remembered_do_not_wait() {
        let orders = UnannouncedOrders::default();
        (0..MAX_WAITING + 3)
            .for_each(|at| orders.record(&key(&at.to_string()), Some(Unannounced::NoStore), place(), NOW));
        assert_eq!(waiting(&orders, 0), MAX_WAITING as u64);
    }
}
