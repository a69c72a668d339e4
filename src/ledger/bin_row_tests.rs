use orderbell_protocol::balance::Bin;
use proptest::prelude::*;

use super::*;

const NOW: UnixMs = UnixMs(1_790_000_000_000);
/// After so long an order raises the alert.
const ALERTED_AFTER_MS: i64 = STORE_MAX_WAIT_MS + 1_000;

fn delta(by: i64, came_ms: Option<i64>) -> BinDelta {
    let key = BinKey { shadow: false, topic: "orders".into(), bin: Bin::AwaitsStore, reason: String::new() };
    BinDelta { key, by, place: RecordPlace { partition: 3, offset: 9 }, waits_since: came_ms.map(|ms| NOW.plus_ms(ms)) }
}

/// The bin `awaits_store`, with the time that passes.
struct Waiting(BinRow);

impl Waiting {
    fn new() -> Self {
        Self(BinRow::empty(NOW))
    }

    fn comes(&mut self, at_ms: i64) {
        self.0.change(&delta(1, Some(at_ms)), 0, NOW.plus_ms(at_ms));
    }

    fn leaves(&mut self, came_ms: i64, at_ms: i64) {
        self.0.change(&delta(-1, Some(came_ms)), 0, NOW.plus_ms(at_ms));
    }

    fn acknowledged(&mut self, at_ms: i64) {
        let now = NOW.plus_ms(at_ms);
        let (seen, alerted_until) = (self.0.alerted(now), self.0.alerted_until(now));
        self.0.acknowledge(seen, alerted_until);
    }

    /// How many orders nobody looked after, of those that raise the alert.
    fn open(&self, at_ms: i64) -> u64 {
        self.0.count(delta(1, None).key, NOW.plus_ms(at_ms)).open()
    }
}

#[test]
fn a_row_survives_storing() {
    let mut waiting = Waiting::new();
    (0..3).for_each(|second| waiting.comes(second * 1_000));
    waiting.acknowledged(ALERTED_AFTER_MS);
    let row = waiting.0.encode();
    assert_eq!(BinRow::decode(&row), Some(waiting.0));
    for damaged in [&row[1..], &row[..row.len() - 1], &row[..FIXED_BYTES - 1], b""] {
        assert_eq!(BinRow::decode(damaged), None);
    }
}

#[test]
fn an_order_whose_store_may_still_be_named_is_neither_alerted_nor_acknowledged() {
    let mut waiting = Waiting::new();
    waiting.comes(0);
    assert_eq!((waiting.open(0), waiting.open(STORE_MAX_WAIT_MS - 1), waiting.open(ALERTED_AFTER_MS)), (0, 0, 1));
    waiting.comes(15_000);
    waiting.acknowledged(ALERTED_AFTER_MS);
    assert_eq!((waiting.open(ALERTED_AFTER_MS), waiting.open(15_000 + ALERTED_AFTER_MS)), (0, 1));
}

/// Regression: whatever left was taken for one that somebody had looked after, so the alert of another ended by itself.
#[test]
fn an_order_that_leaves_takes_its_own_acknowledgement_with_it_and_no_other() {
    let mut waiting = Waiting::new();
    (0..3).for_each(|_| waiting.comes(0));
    waiting.acknowledged(ALERTED_AFTER_MS);
    (0..2).for_each(|_| waiting.comes(ALERTED_AFTER_MS));
    let later = 2 * ALERTED_AFTER_MS;
    assert_eq!(waiting.open(later), 2);
    // One that somebody had looked after gets its store: the two stay open.
    waiting.leaves(0, later);
    assert_eq!(waiting.open(later), 2);
    // One of the two gets its store, after its 20 seconds: the other stays open, and the two that were looked after stay so.
    waiting.leaves(ALERTED_AFTER_MS, later);
    assert_eq!(waiting.open(later), 1);
    waiting.leaves(ALERTED_AFTER_MS, later);
    assert_eq!((waiting.open(later), waiting.0.records), (0, 2));
}

#[test]
fn what_came_before_an_acknowledgement_and_was_stored_after_it_stays_open() {
    let mut waiting = Waiting::new();
    waiting.comes(0);
    waiting.acknowledged(ALERTED_AFTER_MS);
    waiting.0.change(&delta(1, Some(0)), 0, NOW.plus_ms(ALERTED_AFTER_MS));
    assert_eq!(waiting.open(ALERTED_AFTER_MS), 1);
    // Nothing says which of the two it was.
    waiting.leaves(0, ALERTED_AFTER_MS);
    assert_eq!(waiting.open(ALERTED_AFTER_MS), 1);
    waiting.acknowledged(ALERTED_AFTER_MS);
    assert_eq!(waiting.open(ALERTED_AFTER_MS), 0);
}

#[test]
fn a_row_stays_short_whatever_the_clocks_say() {
    let mut waiting = Waiting::new();
    (0..1_000).for_each(|at| waiting.0.change(&delta(1, Some(at * 1_000)), 0, NOW));
    assert!(waiting.0.waits.by_second.len() <= SECONDS_MAX);
    assert_eq!((waiting.0.records, waiting.open(2_000_000)), (1_000, 1_000));
    waiting.acknowledged(2_000_000);
    assert_eq!(waiting.open(2_000_000), 0);
}

/// The bug: orders of the last 20 seconds before a clock was set back raised the alert only when it had come as far again.
#[test]
fn an_order_waits_no_longer_because_a_clock_was_set_back() {
    const HOUR: i64 = 3_600_000;
    let mut waiting = Waiting::new();
    waiting.comes(0);
    assert_eq!((waiting.open(0), waiting.open(-2_000)), (0, 0), "a clock that is kept right");
    assert_eq!((waiting.open(-30_000), waiting.open(-HOUR)), (1, 1));
    // Those of the clock as it is now have their 20 seconds.
    waiting.comes(-HOUR);
    assert_eq!((waiting.open(-HOUR), waiting.open(-HOUR + ALERTED_AFTER_MS)), (1, 2));
    waiting.acknowledged(-HOUR);
    assert_eq!((waiting.open(-HOUR), waiting.open(-HOUR + ALERTED_AFTER_MS)), (0, 1), "the other is still open");
    waiting.leaves(-HOUR, -HOUR + 1_000);
    waiting.leaves(0, -HOUR + 1_000);
    assert_eq!((waiting.open(-HOUR + ALERTED_AFTER_MS), waiting.open(ALERTED_AFTER_MS)), (0, 0));
    // Somebody looks after one before anything changes.
    let mut looked_after = Waiting::new();
    looked_after.comes(0);
    looked_after.acknowledged(-HOUR);
    assert_eq!((looked_after.open(-HOUR), looked_after.open(ALERTED_AFTER_MS)), (0, 0));
    looked_after.comes(-HOUR);
    assert_eq!(looked_after.open(-HOUR + ALERTED_AFTER_MS), 1);
}

#[test]
fn a_bin_is_open_since_the_first_record_that_nobody_looked_after() {
    let mut row = BinRow::empty(NOW);
    row.change(&delta(1, None), 0, NOW);
    row.change(&delta(1, None), 0, NOW.plus_ms(1));
    let since = |row: &BinRow| row.count(delta(1, None).key, NOW).since;
    assert_eq!(since(&row), Some(NOW));
    row.acknowledge(2, 0);
    assert_eq!(since(&row), None);
    row.change(&delta(1, None), 0, NOW.plus_ms(2));
    assert_eq!(since(&row), Some(NOW.plus_ms(2)));
    row.change(&delta(2, None), 2, NOW.plus_ms(3));
    assert_eq!((row.open(), since(&row)), (1, Some(NOW.plus_ms(2))), "two were looked after before they were counted");
    let mut waiting = Waiting::new();
    waiting.comes(0);
    waiting.comes(5_000);
    waiting.leaves(0, 6_000);
    assert_eq!(since(&waiting.0), Some(NOW.plus_ms(5_000)), "the one that is left");
}

/// An alert about the balance ends when somebody acknowledges it.
#[test]
fn what_nobody_looked_after_stays_open_for_ever() {
    const DAY_MS: i64 = 86_400_000;
    for bin in Bin::ALL.into_iter().filter(|bin| bin.needs_a_person()) {
        let mut delta = delta(1, (bin == Bin::AwaitsStore).then_some(0));
        delta.key.bin = bin;
        let mut row = BinRow::empty(NOW);
        row.change(&delta, 0, NOW);
        let count = |row: &BinRow, days: i64| row.count(delta.key.clone(), NOW.plus_ms(days * DAY_MS));
        for days in [1, 30, 365] {
            let restarted = BinRow::decode(&row.encode()).unwrap();
            assert_eq!((count(&restarted, days).open(), count(&restarted, days).since), (1, Some(NOW)), "{bin:?}");
        }
        let now = NOW.plus_ms(366 * DAY_MS);
        row.acknowledge(row.alerted(now), row.alerted_until(now));
        assert_eq!((count(&row, 366).open(), count(&row, 700).open()), (0, 0), "{bin:?}");
    }
}

proptest! {
    /// Orders come, leave and are looked after in any order: open are exactly those that raised the alert and that nobody looked after.
    #[test]
    fn open_are_the_orders_that_nobody_looked_after(steps in prop::collection::vec((0..3_u8, 0..8_usize, 0..15_000_i64), 1..60)) {
        let mut waiting = Waiting::new();
        let mut orders: Vec<(i64, bool)> = Vec::new();
        let mut at = 0;
        for (what, which, passes) in steps {
            at += passes;
            let is_alerted = |came: i64| second(NOW.plus_ms(came)) <= alerted_until(NOW.plus_ms(at));
            match what {
                0 => {
                    waiting.comes(at);
                    orders.push((at, false));
                }
                1 if which < orders.len() => {
                    let (came, _) = orders.remove(which);
                    waiting.leaves(came, at);
                }
                _ => {
                    waiting.acknowledged(at);
                    orders.iter_mut().filter(|order| is_alerted(order.0)).for_each(|order| order.1 = true);
                }
            }
            let open = orders.iter().filter(|(came, looked_after)| is_alerted(*came) && !looked_after).count();
            prop_assert_eq!((waiting.open(at), waiting.0.records), (open as u64, orders.len() as i64));
        }
    }
}
