use super::*;
use proptest::prelude::*;

use EventType as E;

const NOON: UnixMs = UnixMs(1_790_000_000_000);

fn event(kind: E, after_ms: i64, amount: Option<i64>) -> Event {
    Event {
        kind,
        order: Id::new("o1").unwrap(),
        id: String::new(),
        source: String::new(),
        at: NOON.plus_ms(after_ms),
        notify_at: None,
        read_at: None,
        version: None,
        store: None,
        customer: None,
        device: None,
        amount: amount.map(MinorUnits),
        currency: None,
        pickup_code: None,
        reason: None,
        details: None,
        flags: Vec::new(),
        shadow: false,
        row: None,
    }
}

fn facts(events: &[(E, i64, Option<i64>)]) -> Facts {
    let mut facts = Facts::default();
    for (number, (kind, after_ms, amount)) in events.iter().enumerate() {
        facts.record(&event(*kind, *after_ms, *amount), number as u64, "CNY");
    }
    facts
}

/// The entries of the named counters: name, seconds after noon, amount.
fn counted(facts: &Facts) -> Vec<(&'static str, i64, i64)> {
    let mut named: Vec<_> = facts
        .entries()
        .into_iter()
        .filter_map(|(at, counter, by)| {
            let (_, name) = Counter::NAMES.into_iter().find(|(known, _)| *known as u16 == counter)?;
            Some((name, (at.0 - NOON.0) / 1000, by))
        })
        .collect();
    named.sort_unstable();
    named
}

#[test]
fn an_order_is_counted_once_in_each_stage_at_the_time_it_reached_it() {
    let whole = facts(&[
        (E::Created, 0, Some(900)),
        (E::Paid, 5_000, Some(850)),
        (E::Accepted, 9_000, None),
        (E::Ready, 60_000, None),
        (E::PickedUp, 90_000, None),
    ]);
    let wanted = [
        ("accepted", 9, 1),
        ("created", 0, 1),
        ("paid", 5, 1),
        ("paid_amount", 5, 850),
        ("picked_up", 90, 1),
        ("ready", 60, 1),
    ];
    assert_eq!(counted(&whole), wanted);
    let durations: Vec<_> =
        whole.entries().into_iter().filter(|(_, counter, _)| *counter >= FIRST_DURATION_COUNTER).collect();
    assert_eq!(durations.len(), 4);
    let ready = FIRST_DURATION_COUNTER + 2 * DURATION_BUCKETS + duration_bucket(51_000);
    assert!(durations.contains(&(NOON.plus_ms(60_000), ready, 1)));
}

#[test]
fn a_skipped_stage_is_counted_with_the_next_one_and_adds_no_duration() {
    let skipped = facts(&[(E::Accepted, 9_000, Some(100))]);
    assert_eq!(counted(&skipped), [("accepted", 9, 1), ("created", 9, 1), ("paid", 9, 1), ("paid_amount", 9, 100)]);
    assert!(skipped.entries().iter().all(|(_, counter, _)| *counter < FIRST_DURATION_COUNTER));
}

#[test]
fn facts_after_the_end_are_not_counted_and_a_collected_order_does_not_end() {
    let refused = facts(&[(E::Paid, 0, Some(5)), (E::Refused, 2_000, None), (E::Accepted, 3_000, None)]);
    assert_eq!(counted(&refused), [("created", 0, 1), ("paid", 0, 1), ("paid_amount", 0, 5), ("refused", 2, 1)]);
    let collected = facts(&[(E::PickedUp, 1_000, None), (E::Cancelled, 2_000, None)]);
    assert!(!counted(&collected).iter().any(|(name, ..)| *name == "cancelled"));
    let both = facts(&[(E::Cancelled, 2_000, None), (E::Refused, 3_000, None)]);
    assert_eq!(counted(&both), [("cancelled", 2, 1)]);
    let expired = facts(&[(E::Created, 0, Some(5)), (E::Expired, 900_000, None), (E::Paid, 901_000, Some(5))]);
    assert_eq!(counted(&expired), [("created", 0, 1)], "a late payment is no sale");
}

#[test]
fn refunds_are_counted_by_their_own_amount_and_time() {
    let paid = [(E::Paid, 0, Some(900)), (E::PickedUp, 60_000, None)];
    let refunded =
        facts(&[paid[0], paid[1], (E::Refunded, 86_400_000, Some(200)), (E::Refunded, 90_000_000, Some(100))]);
    let counts = counted(&refunded);
    assert!(counts.contains(&("refunded", 86_400, 1)), "an order is refunded once");
    assert!(counts.contains(&("refunded_amount", 86_400, 200)) && counts.contains(&("refunded_amount", 90_000, 100)));
    assert!(counts.contains(&("paid_amount", 0, 900)) && counts.contains(&("picked_up", 60, 1)));
    let alone = facts(&[(E::Refunded, 0, Some(200))]);
    assert_eq!(
        counted(&alone),
        [("refunded", 0, 1), ("refunded_amount", 0, 200)],
        "of an order whose state was expunged"
    );
    let twice = (0..40).fold(Facts::default(), |mut facts, _| {
        facts.record(&event(E::Refunded, 0, Some(200)), 7, "CNY");
        facts
    });
    assert_eq!(twice, {
        let mut once = Facts::default();
        once.record(&event(E::Refunded, 0, Some(200)), 7, "CNY");
        once
    });
}

#[test]
fn amounts_in_another_currency_are_counted_and_not_summed() {
    let mut facts = Facts::default();
    facts.record(&Event { currency: Some("USD".into()), ..event(E::Paid, 0, Some(900)) }, 1, "CNY");
    assert_eq!(counted(&facts), [("created", 0, 1), ("other_currency", 0, 1), ("paid", 0, 1)]);
    // An amount without a currency is in that of the order.
    facts.record(&event(E::Refunded, 5_000, Some(100)), 2, "CNY");
    assert!(counted(&facts).contains(&("other_currency", 5, 1)));
    let mut ours = Facts::default();
    ours.record(&Event { currency: Some("cny".into()), ..event(E::Paid, 0, Some(900)) }, 1, "CNY");
    assert!(counted(&ours).contains(&("paid_amount", 0, 900)), "currency codes are compared without case");
}

#[test]
fn an_implausible_amount_is_not_summed() {
    for garbage in [i64::MAX, MAX_AMOUNT + 1, -1] {
        let facts = facts(&[(E::Paid, 0, Some(garbage)), (E::Refunded, 1_000, Some(garbage))]);
        assert!(!counted(&facts).iter().any(|(name, ..)| name.ends_with("amount")), "{garbage}");
    }
}

#[test]
fn of_too_many_refunds_the_same_are_left_out_in_every_reading_order() {
    let record = |order: &mut dyn Iterator<Item = i64>| {
        order.fold(Facts::default(), |mut facts, nth| {
            facts.record(&event(E::Refunded, nth * 1000, Some(nth)), nth as u64, "CNY");
            facts
        })
    };
    assert_eq!(record(&mut (0..40)), record(&mut (0..40).rev()));
    assert_eq!(record(&mut (0..40)).refunds.len(), MAX_REFUNDS);
}

/// A refund with an older or equal version counts: the money was returned all the same.
#[test]
fn a_fact_counts_even_after_a_newer_version() {
    let rules = super::super::order::OrderPolicy { retention_ms: i64::MAX / 4, ..Default::default() };
    let versioned = |kind: E, version: u64, id: &str, after_ms: i64| Event {
        version: Some(version),
        id: id.into(),
        ..event(kind, after_ms, Some(100))
    };
    let [paid, refunded, collected] =
        [versioned(E::Paid, 1, "a", 0), versioned(E::Refunded, 3, "b", 9_000), versioned(E::PickedUp, 3, "c", 5_000)];
    let sums = |events: [&Event; 3]| {
        let order = events
            .into_iter()
            .fold(None, |order: Option<Order>, event| Order::apply(order.as_ref(), event, NOON, &rules).unwrap().0);
        counted(&order.unwrap().facts)
    };
    let straight = sums([&paid, &collected, &refunded]);
    assert!(straight.contains(&("refunded_amount", 9, 100)));
    assert_eq!(straight, sums([&paid, &refunded, &collected]));
    assert_eq!(straight, sums([&collected, &refunded, &paid]));
}

#[test]
fn days_begin_at_the_chains_own_midnight() {
    let shanghai = CountingRules { zone: TimeZone::get("Asia/Shanghai").unwrap(), ..CountingRules::default() };
    let evening = UnixMs("2026-11-21T15:59:59Z".parse::<Timestamp>().unwrap().as_millisecond());
    let (utc, theirs) = (CountingRules::default().day(evening), shanghai.day(evening));
    assert_eq!((utc, theirs), (20_778, 20_778));
    let midnight = evening.plus_ms(1_000);
    assert_eq!((CountingRules::default().day(midnight), shanghai.day(midnight)), (20_778, 20_779));
}

#[test]
fn a_duration_is_known_to_within_a_fifth() {
    for seconds in [1_i64, 2, 7, 45, 600, 3_600, 40_000] {
        let shown = duration_bucket_ms(duration_bucket(seconds * 1000)) / 1000.0;
        assert!((shown / seconds as f64 - 1.0).abs() < 0.2, "{seconds} s are shown as {shown} s");
    }
    assert_eq!((duration_bucket(-5_000), duration_bucket(i64::MAX)), (0, DURATION_BUCKETS - 1));
}

fn kind() -> impl Strategy<Value = E> {
    prop::sample::select(vec![
        E::Created,
        E::Paid,
        E::Accepted,
        E::Ready,
        E::PickedUp,
        E::Refused,
        E::Cancelled,
        E::Refunded,
        E::Expired,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Applied repeatedly and in any order, the facts give the sums of applying each once, in order.
    #[test]
    fn sums_do_not_depend_on_the_reading_order(
        facts_of in prop::collection::vec((kind(), 0..600_i64, prop::option::of(1..50_i64)), 1..9),
        deliveries in prop::collection::vec((0..9_usize, any::<bool>()), 0..40),
    ) {
        let counting = CountingRules::default();
        let store = Id::new("s1").unwrap();
        let record = |facts: &mut Facts, nth: usize| {
            let (kind, after_s, amount) = &facts_of[nth];
            facts.record(&event(*kind, *after_s * 1000, *amount), nth as u64, "CNY");
        };
        let mut sums = std::collections::BTreeMap::<(u64, Option<Id>, u16), i64>::new();
        let (mut facts, mut known) = (Facts::default(), None::<Id>);
        let in_the_end = (0..facts_of.len()).map(|nth| (nth, true));
        for (nth, names_store) in deliveries.iter().map(|(nth, names)| (nth % facts_of.len(), *names)).chain(in_the_end) {
            let (before, before_store) = (facts.clone(), known.clone());
            record(&mut facts, nth);
            if names_store { known = Some(store.clone()); }
            for change in changes(Some((&before, before_store.as_ref())), (&facts, known.as_ref()), false, &counting) {
                *sums.entry((change.minute, change.store, change.counter)).or_default() += change.by;
            }
        }
        sums.retain(|_, sum| *sum != 0);
        let mut straight = Facts::default();
        (0..facts_of.len()).for_each(|nth| record(&mut straight, nth));
        let mut wanted = std::collections::BTreeMap::new();
        for change in changes(None, (&straight, Some(&store)), false, &counting) {
            *wanted.entry((change.minute, change.store, change.counter)).or_default() += change.by;
        }
        prop_assert_eq!(sums, wanted);
    }
}
