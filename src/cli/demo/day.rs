//! A day of the simulated chain, drawn from a seed: its cities and stores, when people order, and the orders before the demo began.
//!
//! The chain is in a time zone where it is shortly before noon, so that the wall shows the morning and the lunch peak follows. Pure: the
//! time is an argument.

use orderbell_protocol::{EventType, UnixMs};
use serde_json::Value;

use super::Dice;
use super::order_system::ProducedOrder;

/// Cities with stores, in the language of the country and in English.
pub(super) const CITIES: [&str; 12] = [
    "上海 Shanghai",
    "北京 Beijing",
    "广州 Guangzhou",
    "深圳 Shenzhen",
    "成都 Chengdu",
    "杭州 Hangzhou",
    "重庆 Chongqing",
    "武汉 Wuhan",
    "西安 Xi'an",
    "苏州 Suzhou",
    "南京 Nanjing",
    "长沙 Changsha",
];
const PLACES: [&str; 10] =
    ["Square", "Riverside", "West Gate", "Park", "Station", "Old Town", "Lakeside", "Campus", "Harbour", "Temple St"];

/// Names of meals.
pub(super) const MEALS: [&str; 6] = [
    "兰州牛肉面 Beef noodles",
    "宫保鸡丁饭 Kung pao chicken",
    "小笼包 Soup dumplings",
    "麻婆豆腐 Mapo tofu",
    "珍珠奶茶 Bubble tea",
    "鲜虾云吞面 Wonton noodles",
];

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
/// Orders of this time before the start get every event; older ones only the first and the last.
const RECENT_MS: i64 = 45 * MINUTE_MS;

/// IANA name of the time zone in which it is between eleven and twelve. The sign is that of POSIX: Etc/GMT-8 is ahead of UTC.
pub(super) fn zone(now: UnixMs) -> String {
    match now.0.rem_euclid(DAY_MS) / (60 * MINUTE_MS) - 11 {
        0 => String::from("Etc/GMT"),
        behind => format!("Etc/GMT{behind:+}"),
    }
}

/// The store directory, in the form that a chain exports: CSV with id, name and city.
pub(super) fn directory(stores: u16) -> String {
    let row = |n: usize| {
        let (place, round) = (PLACES[n / CITIES.len() % PLACES.len()], n / CITIES.len() / PLACES.len());
        let name = if round == 0 { place.to_owned() } else { format!("{place} {}", round + 1) };
        let city = CITIES[n % CITIES.len()];
        let short = city.split(' ').next().unwrap_or(city);
        format!("S{},{short} {name},{city}\n", n + 1)
    };
    format!("id,name,city\n{}", (0..usize::from(stores)).map(row).collect::<String>())
}

/// Share of the peak rate at an hour of the day: 1 at lunch, with smaller peaks at breakfast and dinner.
pub(super) fn busy(hour: f64) -> f64 {
    let peak = |at: f64, width: f64, height: f64| height * (-((hour - at) / width).powi(2)).exp();
    let night = 0.015 + peak(0.0, 1.5, 0.05) + peak(23.5, 1.5, 0.05);
    (night + peak(8.2, 0.9, 0.38) + peak(12.2, 1.1, 0.94) + peak(15.5, 1.4, 0.18) + peak(18.6, 1.3, 0.8)).min(1.0)
}

/// Milliseconds since midnight in the time zone that was chosen at `began`.
fn since_midnight_ms(began: UnixMs, now: UnixMs) -> i64 {
    let at_start = 11 * 60 * MINUTE_MS + began.0.rem_euclid(60 * MINUTE_MS);
    (at_start + now.0 - began.0).rem_euclid(DAY_MS)
}

/// Hour of the day in the time zone that was chosen at `began`.
pub(super) fn hour(began: UnixMs, now: UnixMs) -> f64 {
    since_midnight_ms(began, now) as f64 / (60 * MINUTE_MS) as f64
}

/// Draws a store; low numbers are drawn much more often than high ones.
pub(super) fn store(dice: &mut Dice, stores: u16) -> u64 {
    let all = u64::from(stores);
    1 + dice.between((0, all)).min(dice.between((0, all)))
}

/// Events of yesterday and of today until `now`, a minute at a time. Today first, and newest first within each day, so that the wall fills
/// beginning with its recent end.
pub(super) fn before(now: UnixMs, rate: f64, stores: u16, seed: u64) -> impl Iterator<Item = Vec<Value>> {
    let today = now.0 - since_midnight_ms(now, now);
    let mut dice = Dice(seed ^ 0x005e_ed0f_0da7);
    let minutes = |from: i64, to: i64| (0..(to - from) / MINUTE_MS).rev().map(move |nth| from + nth * MINUTE_MS);
    let of_today = minutes(today, now.0 + MINUTE_MS).map(|at| (at, 1.0));
    let of_yesterday = minutes(today - DAY_MS, today).map(|at| (at, 0.89));
    let mut number = 0_u64;
    of_today.chain(of_yesterday).map(move |(at, share)| {
        let hour = ((at - today).rem_euclid(DAY_MS)) as f64 / (60 * MINUTE_MS) as f64;
        let wanted = busy(hour) * rate * 60.0 * share;
        let orders = (wanted + dice.between((0, 1000)) as f64 / 1000.0) as u64;
        let mut events = Vec::new();
        for _ in 0..orders {
            number += 1;
            let paid_at = at + dice.between((0, MINUTE_MS as u64)) as i64;
            if paid_at < now.0 {
                events.extend(order_events(&mut dice, number, paid_at, stores, now));
            }
        }
        events
    })
}

/// Events of one order of the past: all of them when it is recent, else the first and the last.
fn order_events(dice: &mut Dice, number: u64, paid_at: i64, stores: u16, now: UnixMs) -> Vec<Value> {
    let (order, store) = (format!("B{number}"), format!("S{}", store(dice, stores)));
    let amount = dice.between((900, 8_900));
    let order = ProducedOrder { order, store, customer: None, amount, meal: None };
    let event = |kind: EventType, at: i64| order.event(kind, UnixMs(at));
    let recent = paid_at > now.0 - RECENT_MS;
    let mut events = Vec::new();
    if recent {
        events.push(event(EventType::Created, paid_at - dice.between((4_000, 25_000)) as i64));
    }
    events.push(event(EventType::Paid, paid_at));
    if dice.once_in(40) && paid_at + 30_000 < now.0 {
        let ended = if dice.once_in(3) { EventType::Refused } else { EventType::Cancelled };
        events.push(event(ended, paid_at + 30_000));
        if !recent {
            events.reverse();
        }
        return events;
    }
    let steps = [
        (EventType::Accepted, (8_000, 60_000)),
        (EventType::Ready, (150_000, 420_000)),
        (EventType::PickedUp, (60_000, 240_000)),
    ];
    let mut at = paid_at;
    for (kind, length) in steps {
        at += dice.between(length) as i64;
        if (recent || kind == EventType::PickedUp) && at < now.0 {
            events.push(event(kind, at));
        }
    }
    // The end of an old order first: paid hours ago, it would be too old to notify its store, which is an alert.
    if !recent {
        events.reverse();
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shortly_before_noon_at_any_time_of_the_clock() {
        for utc in 0..24 {
            let now = UnixMs(1_790_035_200_000 + utc * 60 * MINUTE_MS + 17 * MINUTE_MS);
            let zone = jiff::tz::TimeZone::get(&zone(now)).unwrap();
            let there = zone.to_datetime(jiff::Timestamp::from_millisecond(now.0).unwrap());
            assert_eq!((there.hour(), there.minute()), (11, 17), "{utc}");
            assert!((hour(now, now) - 11.28).abs() < 0.01);
            assert!((hour(now, now.plus_ms(60 * MINUTE_MS)) - 12.28).abs() < 0.01, "noon comes");
        }
    }

    #[test]
    fn the_past_is_a_day_and_a_morning_and_depends_on_the_seed_alone() {
        let now = UnixMs(1_790_000_000_000);
        let all: Vec<Value> = before(now, 1.2, 300, 7).flatten().collect();
        let times: Vec<i64> = all.iter().map(|event| event["time"].as_i64().unwrap()).collect();
        let (oldest, newest) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!((34..37).contains(&((now.0 - oldest) / 3_600_000)) && *newest < now.0);
        let paid = all.iter().filter(|event| event["type"] == "order.paid").count();
        assert!((20_000..60_000).contains(&paid), "{paid}");
        assert!(all.iter().eq(before(now, 1.2, 300, 7).flatten().collect::<Vec<_>>().iter()));
    }

    #[test]
    fn every_store_has_a_unique_name_and_a_city() {
        let names = directory(300);
        let rows: std::collections::HashSet<&str> =
            names.lines().skip(1).map(|row| row.split(',').nth(1).unwrap()).collect();
        assert_eq!(rows.len(), 300);
        assert!(crate::wall::directory::StoreDirectory::parse(names.as_bytes()).is_ok());
    }
}
