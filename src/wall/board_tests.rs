use super::*;
use jiff::tz::TimeZone;

/// 14:32:30 in Shanghai.
fn now() -> UnixMs {
    UnixMs("2026-11-21T06:32:30Z".parse::<Timestamp>().unwrap().as_millisecond())
}

fn counting() -> Counting {
    Counting { zone: TimeZone::get("Asia/Shanghai").unwrap(), ..Counting::default() }
}

/// Some orders were paid at a store, so many minutes ago.
fn paid(numbers: &mut Numbers, store: &str, ago: i64, orders: i64, commit: u64) {
    let at = now().plus_ms(-ago * MINUTE_MS);
    for (cell, by) in [(Cell::Paid, orders), (Cell::PaidAmount, orders * 100)] {
        let store = Id::new(store).ok();
        let change = Tally { shadow: false, minute: minute(at), day: counting().day(at), store, cell: cell as u16, by };
        numbers.counted(&change, commit);
    }
}

fn names(csv: &str) -> WallNames {
    WallNames { config: WallConfig::default(), stores: Directory::parse(csv.as_bytes()).unwrap() }
}

fn document(numbers: &mut Numbers, names: &WallNames, kind: WallKind) -> Wall {
    let fresh = Freshness { at: now(), as_of: Some(now().plus_ms(-1_000)), stale: false };
    let reach = WallReach::default();
    let (config, counting) = (WallConfig::default(), counting());
    numbers.at(&At { now: now(), epoch: 9, fresh, counting: &counting, config: &config, names, reach }, kind)
}

#[test]
fn today_is_compared_with_yesterday_at_the_same_time() {
    let mut numbers = Numbers::default();
    let day = 24 * 60;
    // 14:32:30 is half a minute into 14:32.
    for (ago, orders) in [(0, 3), (60, 10), (14 * 60, 2), (day, 8), (day - 1, 500), (day + 60, 40), (day + 15 * 60, 7)]
    {
        paid(&mut numbers, "1", ago, orders, 5);
    }
    let wall = document(&mut numbers, &names("id\n"), WallKind::Snapshot);
    assert_eq!(
        (wall.day.as_str(), wall.time_zone.as_str(), wall.seq, wall.epoch),
        ("2026-11-21", "Asia/Shanghai", 5, 9)
    );
    assert_eq!((wall.today.paid, wall.today.paid_amount), (15, 1500));
    assert_eq!(
        wall.yesterday_by_now.paid, 44,
        "what was paid until 14:32:30; 23:32 of the day before is not of yesterday"
    );
    let curves = wall.curves.unwrap();
    assert_eq!((curves.today.orders.len(), curves.yesterday.orders.len()), (14 * 60 + 33, 24 * 60));
    assert_eq!((curves.today.orders[14 * 60 + 32], curves.yesterday.orders[14 * 60 + 33]), (3, 500));
    assert_eq!(wall.tail, WallCurve { from: 14 * 60 + 28, orders: vec![0, 0, 0, 0, 3] });
    assert_eq!(wall.complete_through.unwrap().0 % MINUTE_MS, 0);
    assert!(document(&mut numbers, &names("id\n"), WallKind::Now).curves.is_none());
}

#[test]
fn the_last_sixty_seconds_are_not_those_since_the_minute_began() {
    let mut numbers = Numbers::default();
    paid(&mut numbers, "1", 0, 10, 1);
    paid(&mut numbers, "1", 1, 20, 1);
    assert_eq!(document(&mut numbers, &names("id\n"), WallKind::Now).per_minute, 20, "ten, and half of twenty");
}

#[test]
fn stores_and_cities_are_ranked_by_the_last_hour() {
    let mut numbers = Numbers::default();
    for (store, ago, orders) in [("1", 5, 4), ("2", 59, 9), ("3", 60, 1000), ("4", 1, 4), ("x", 2, 1)] {
        paid(&mut numbers, store, ago, orders, 1);
    }
    let names = names("id,name,city\n1,One,A\n2,Two,A\n3,Three,B\n4,Four,B\n5,Five,C\n");
    let wall = document(&mut numbers, &names, WallKind::Now);
    let ranks: Vec<_> = wall.stores.iter().map(|store| (store.id.as_str(), store.last_hour, store.today)).collect();
    assert_eq!(ranks, [("2", 9, 9), ("1", 4, 4), ("4", 4, 4), ("x", 1, 1)]);
    assert_eq!(wall.stores[0].name.as_deref(), Some("Two"));
    let cities: Vec<_> = wall.cities.iter().map(|city| (city.name.as_str(), city.last_hour, city.today)).collect();
    assert_eq!(cities, [("A", 13, 13), ("B", 4, 1004)]);
    assert_eq!(numbers.unnamed(&names.stores), [Id::new("x").unwrap()]);
}

#[test]
fn the_funnel_tells_the_median_time_between_stages() {
    let mut numbers = Numbers::default();
    let at = now().plus_ms(-3 * MINUTE_MS);
    let mut count = |cell: u16, by: i64| {
        let change = Tally { shadow: false, minute: minute(at), day: counting().day(at), store: None, cell, by };
        numbers.counted(&change, 1);
    };
    count(Cell::Paid as u16, 5);
    count(Cell::Accepted as u16, 3);
    // Paid to accepted: eight seconds, eight, and four minutes.
    count(SPANS_FROM + SPANS + 12, 2);
    count(SPANS_FROM + SPANS + 31, 1);
    let funnel = document(&mut numbers, &names("id\n"), WallKind::Now).funnel;
    let stages: Vec<_> = funnel.stages.iter().map(|stage| (stage.stage.as_str(), stage.orders)).collect();
    assert_eq!(stages, [("created", 0), ("paid", 5), ("accepted", 3), ("ready", 0), ("picked_up", 0)]);
    assert_eq!(funnel.stages[1].median_ms, None);
    assert!((8_000..10_000).contains(&funnel.stages[2].median_ms.unwrap()));
}

#[test]
fn what_nobody_looks_at_any_more_is_let_go() {
    let mut numbers = Numbers::default();
    for ago in [0, 61, 24 * 60, 3 * 24 * 60, 9 * 24 * 60] {
        paid(&mut numbers, "1", ago, 1, 1);
    }
    paid(&mut numbers, "gone", 3 * 24 * 60, 1, 1);
    numbers.prune(now(), counting().day(now()));
    assert_eq!((numbers.minutes.len(), numbers.stores.len()), (4, 1));
    let store = &numbers.stores[&Id::new("1").unwrap()];
    assert_eq!((store.minutes.len(), store.days.len()), (1, 2));
}

#[test]
fn a_clock_that_is_ahead_makes_no_busy_hour() {
    let mut numbers = Numbers::default();
    paid(&mut numbers, "1", -5, 100, 1);
    paid(&mut numbers, "2", 5, 1, 1);
    let wall = document(&mut numbers, &names("id\n"), WallKind::Now);
    assert_eq!(wall.stores.iter().map(|store| store.id.as_str()).collect::<Vec<_>>(), ["2"]);
}

/// On a day of 25 hours yesterday ends where today begins.
#[test]
fn the_hour_that_comes_twice_is_of_one_day() {
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    let counting = Counting { zone, ..Counting::default() };
    let at = |text: &str| UnixMs(text.parse::<Timestamp>().unwrap().as_millisecond());
    let mut numbers = Numbers::default();
    for (when, orders) in [("2026-10-23T22:10:00Z", 1), ("2026-10-24T21:50:00Z", 2), ("2026-10-24T22:10:00Z", 40)] {
        let (cell, at) = (Cell::Paid as u16, at(when));
        let change = Tally { shadow: false, minute: minute(at), day: counting.day(at), store: None, cell, by: orders };
        numbers.counted(&change, 1);
    }
    // 23:55 of the day that had 25 hours.
    let now = at("2026-10-25T22:55:00Z");
    let fresh = Freshness { at: now, as_of: None, stale: false };
    let (config, names) = (WallConfig::default(), names("id\n"));
    let at =
        At { now, epoch: 1, fresh, counting: &counting, config: &config, names: &names, reach: WallReach::default() };
    let wall = numbers.at(&at, WallKind::Snapshot);
    assert_eq!((wall.today.paid, wall.yesterday_by_now.paid), (40, 3));
    assert_eq!(wall.curves.unwrap().yesterday.orders.len(), 24 * 60);
}
