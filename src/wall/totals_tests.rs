use super::*;
use jiff::tz::TimeZone;

/// 14:32:30 in Shanghai.
fn now() -> UnixMs {
    UnixMs("2026-11-21T06:32:30Z".parse::<Timestamp>().unwrap().as_millisecond())
}

fn counting() -> CountingRules {
    CountingRules { zone: TimeZone::get("Asia/Shanghai").unwrap(), ..CountingRules::default() }
}

/// Counts orders paid at a store a number of minutes ago.
fn paid(totals: &mut Totals, store: &str, ago: i64, orders: i64, commit: u64) {
    let at = now().plus_ms(-ago * MINUTE_MS);
    for (counter, by) in [(Counter::Paid, orders), (Counter::PaidAmount, orders * 100)] {
        let store = Id::new(store).ok();
        let change = CounterDelta {
            shadow: false,
            minute: minute(at),
            day: counting().day(at),
            store,
            counter: counter as u16,
            by,
        };
        totals.apply(&change, commit);
    }
}

fn names(csv: &str) -> WallNames {
    WallNames { config: WallConfig::default(), stores: StoreDirectory::parse(csv.as_bytes()).unwrap() }
}

fn document(totals: &mut Totals, names: &WallNames, kind: WallKind) -> Wall {
    let fresh = Freshness { at: now(), as_of: Some(now().plus_ms(-1_000)), stale: false };
    let reachability = WallReachability::default();
    let (config, counting) = (WallConfig::default(), counting());
    totals.document(
        &DocumentContext { now: now(), epoch: 9, fresh, counting: &counting, config: &config, names, reachability },
        kind,
    )
}

#[test]
fn today_is_compared_with_yesterday_at_the_same_time() {
    let mut totals = Totals::default();
    let day = 24 * 60;
    // 14:32:30 is half a minute into 14:32.
    for (ago, orders) in [(0, 3), (60, 10), (14 * 60, 2), (day, 8), (day - 1, 500), (day + 60, 40), (day + 15 * 60, 7)]
    {
        paid(&mut totals, "1", ago, orders, 5);
    }
    let wall = document(&mut totals, &names("id\n"), WallKind::Snapshot);
    assert_eq!(
        (wall.day.as_str(), wall.time_zone.as_str(), wall.seq, wall.epoch),
        ("2026-11-21", "Asia/Shanghai", 5, 9)
    );
    assert_eq!((wall.today.paid, wall.today.paid_amount), (15, 1500));
    assert_eq!(
        wall.yesterday_by_now.paid, 44,
        "orders paid until 14:32:30; 23:32 of the day before does not belong to yesterday"
    );
    let curves = wall.curves.unwrap();
    assert_eq!((curves.today.orders.len(), curves.yesterday.orders.len()), (14 * 60 + 33, 24 * 60));
    assert_eq!((curves.today.orders[14 * 60 + 32], curves.yesterday.orders[14 * 60 + 33]), (3, 500));
    assert_eq!(wall.recent, WallCurve { from: 14 * 60 + 28, orders: vec![0, 0, 0, 0, 3] });
    assert_eq!(wall.complete_through.unwrap().0 % MINUTE_MS, 0);
    assert!(document(&mut totals, &names("id\n"), WallKind::Update).curves.is_none());
}

#[test]
fn per_minute_covers_the_last_sixty_seconds_not_the_current_minute() {
    let mut totals = Totals::default();
    paid(&mut totals, "1", 0, 10, 1);
    paid(&mut totals, "1", 1, 20, 1);
    assert_eq!(
        document(&mut totals, &names("id\n"), WallKind::Update).per_minute,
        20,
        "ten, and half of the twenty a minute ago"
    );
}

#[test]
fn stores_and_cities_are_ranked_by_the_last_hour() {
    let mut totals = Totals::default();
    for (store, ago, orders) in [("1", 5, 4), ("2", 59, 9), ("3", 60, 1000), ("4", 1, 4), ("x", 2, 1)] {
        paid(&mut totals, store, ago, orders, 1);
    }
    let names = names("id,name,city\n1,One,A\n2,Two,A\n3,Three,B\n4,Four,B\n5,Five,C\n");
    let wall = document(&mut totals, &names, WallKind::Update);
    let ranks: Vec<_> = wall.stores.iter().map(|store| (store.id.as_str(), store.last_hour, store.today)).collect();
    assert_eq!(ranks, [("2", 9, 9), ("1", 4, 4), ("4", 4, 4), ("x", 1, 1)]);
    assert_eq!(wall.stores[0].name.as_deref(), Some("Two"));
    let cities: Vec<_> = wall.cities.iter().map(|city| (city.name.as_str(), city.last_hour, city.today)).collect();
    assert_eq!(cities, [("A", 13, 13), ("B", 4, 1004)]);
    assert_eq!(totals.unlisted(&names.stores), [Id::new("x").unwrap()]);
}

#[test]
fn the_funnel_has_the_median_time_between_stages() {
    let mut totals = Totals::default();
    let at = now().plus_ms(-3 * MINUTE_MS);
    let mut count = |counter: u16, by: i64| {
        let change =
            CounterDelta { shadow: false, minute: minute(at), day: counting().day(at), store: None, counter, by };
        totals.apply(&change, 1);
    };
    count(Counter::Paid as u16, 5);
    count(Counter::Accepted as u16, 3);
    // Paid to accepted: eight seconds, eight, and four minutes.
    count(FIRST_DURATION_COUNTER + DURATION_BUCKETS + 12, 2);
    count(FIRST_DURATION_COUNTER + DURATION_BUCKETS + 31, 1);
    let funnel = document(&mut totals, &names("id\n"), WallKind::Update).funnel;
    let stages: Vec<_> = funnel.stages.iter().map(|stage| (stage.stage.as_str(), stage.orders)).collect();
    assert_eq!(stages, [("created", 0), ("paid", 5), ("accepted", 3), ("ready", 0), ("picked_up", 0)]);
    assert_eq!(funnel.stages[1].median_ms, None);
    assert!((8_000..10_000).contains(&funnel.stages[2].median_ms.unwrap()));
}

#[test]
fn minutes_and_days_that_are_not_shown_any_more_are_pruned() {
    let mut totals = Totals::default();
    for ago in [0, 61, 24 * 60, 3 * 24 * 60, 9 * 24 * 60] {
        paid(&mut totals, "1", ago, 1, 1);
    }
    paid(&mut totals, "gone", 3 * 24 * 60, 1, 1);
    totals.prune(now(), counting().day(now()));
    assert_eq!((totals.minutes.len(), totals.stores.len()), (4, 1));
    let store = &totals.stores[&Id::new("1").unwrap()];
    assert_eq!((store.minutes.len(), store.days.len()), (1, 2));
}

#[test]
fn orders_stamped_in_the_future_are_not_ranked() {
    let mut totals = Totals::default();
    paid(&mut totals, "1", -5, 100, 1);
    paid(&mut totals, "2", 5, 1, 1);
    let wall = document(&mut totals, &names("id\n"), WallKind::Update);
    assert_eq!(wall.stores.iter().map(|store| store.id.as_str()).collect::<Vec<_>>(), ["2"]);
}

/// On a day of 25 hours yesterday ends where today begins.
#[test]
fn a_repeated_hour_belongs_to_one_day() {
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    let counting = CountingRules { zone, ..CountingRules::default() };
    let at = |text: &str| UnixMs(text.parse::<Timestamp>().unwrap().as_millisecond());
    let mut totals = Totals::default();
    for (when, orders) in [("2026-10-23T22:10:00Z", 1), ("2026-10-24T21:50:00Z", 2), ("2026-10-24T22:10:00Z", 40)] {
        let (counter, at) = (Counter::Paid as u16, at(when));
        let change =
            CounterDelta { shadow: false, minute: minute(at), day: counting.day(at), store: None, counter, by: orders };
        totals.apply(&change, 1);
    }
    // 23:55 of the day with 25 hours.
    let now = at("2026-10-25T22:55:00Z");
    let fresh = Freshness { at: now, as_of: None, stale: false };
    let (config, names) = (WallConfig::default(), names("id\n"));
    let context = DocumentContext {
        now,
        epoch: 1,
        fresh,
        counting: &counting,
        config: &config,
        names: &names,
        reachability: WallReachability::default(),
    };
    let wall = totals.document(&context, WallKind::Snapshot);
    assert_eq!((wall.today.paid, wall.yesterday_by_now.paid), (40, 3));
    assert_eq!(wall.curves.unwrap().yesterday.orders.len(), 24 * 60);
}

#[test]
fn the_reference_says_how_many_stores_and_cities_are_listed() {
    assert_eq!(STORES_SHOWN_MAX, CITIES_SHOWN_MAX);
    let reference = include_str!("../../protocol/README.md");
    assert!(reference.contains(&format!("the busiest, at most {STORES_SHOWN_MAX} of each")));
}
