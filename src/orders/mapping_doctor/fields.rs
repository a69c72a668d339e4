//! Findings about single members: stores, padded ids, times, amounts, codes and tables.

use std::collections::{BTreeMap, BTreeSet};

use super::super::event_time;
use super::super::mapping::KafkaKey;
use super::super::order::Unannounced;
use super::clocks::{clocks, zone_of};
use super::member_roles::{MemberRole, compact, proposal};
use super::member_stats::{Form, Member};
use super::proposal::{Change, NOWHERE, pointers_of};
use super::{Context, Finding, traffic};

/// Names of members that hold a code.
const CODE_NAMES: [&str; 4] = ["code", "eventcode", "typecode", "statuscode"];
/// A zone that nobody configured.
const UTC: &str = "UTC";

/// Paid orders that name no store, and events whose store is no id.
pub(super) fn store_missing(context: &Context<'_>) -> Option<Finding> {
    let numbers = &context.replayed.numbers;
    let at = context.mapping.store.as_str();
    let without = numbers.unannounced.get(Unannounced::NoStore.word());
    let no_ids =
        numbers.dead_letters.get("bad-id").filter(|dead_letters| dead_letters.message.starts_with(&format!("{at}: ")));
    let mut sentence = match (without, no_ids) {
        (Some(without), _) => {
            format!("{without} of {} paid orders name no store at {at}, and notify nobody", numbers.paid_orders)
        }
        (None, Some(dead_letters)) => format!("what is at {at} is no id of a store in {} events", dead_letters.count),
        (None, None) => return None,
    };
    let events = &context.sample.events;
    let keys: Vec<&String> = events.iter().filter_map(|event| event.key.as_ref()).collect();
    let distinct_keys = keys.iter().collect::<BTreeSet<_>>().len();
    let is_order = events.iter().any(|event| event.key.is_some() && event.key == event.order);
    let change = match proposal(MemberRole::Store, context.sample, &[at]) {
        Some(one) => {
            sentence.push_str(&format!("; {} looks like the store's id", one.pointer));
            Some(Change::new("store", one.pointer))
        }
        None if context.mapping.kafka_key == KafkaKey::Any
            && keys.len() == events.len()
            && distinct_keys * 2 <= keys.len()
            && !is_order =>
        {
            sentence.push_str("; the record's key looks like it");
            Some(Change::new("kafka_key", "store"))
        }
        None => None,
    };
    Some(Finding::improvement("no-store", sentence, change.into_iter().collect()))
}

/// Events of which none names a customer. No line: who is called user may be the cashier, and notices go to whomever it names.
pub(super) fn customer_missing(context: &Context<'_>) -> Option<Finding> {
    let at = context.mapping.customer.as_str();
    if context.sample.members.0.contains_key(at) || context.replayed.numbers.understood() == 0 {
        return None;
    }
    let one = proposal(MemberRole::Customer, context.sample, &[at])?;
    let sentence = format!(
        "no event names a customer at {at}: if {} is the customer, set customer to it, and customers are notified, too",
        one.pointer
    );
    Some(Finding::note("no-customer", sentence))
}

/// Ids with blanks or invisible characters around them.
pub(super) fn padded_ids(context: &Context<'_>) -> Option<Finding> {
    let (mut events, mut places) = (BTreeSet::new(), Vec::new());
    let keys = ["order", "store", "customer", "device", "id"];
    for pointer in keys.into_iter().flat_map(|key| pointers_of(context.mapping, key)) {
        let Some(member) = context.sample.members.0.get(&pointer) else { continue };
        let padded: Vec<usize> =
            member.values.iter().filter(|value| value.is_padded).map(|value| value.event).collect();
        if !padded.is_empty() {
            events.extend(padded);
            places.push(pointer);
        }
    }
    (!places.is_empty()).then(|| {
        let sentence = format!(
            "{} events have ids with blanks or invisible characters around them, at {}: these are removed, and the id is the same without them",
            events.len(),
            places.join(" and ")
        );
        Finding::note("padded-ids", sentence)
    })
}

/// Producers whose clock is off.
pub(super) fn clocks_off(context: &Context<'_>) -> Option<Finding> {
    let rows = clocks(context.sample, context.mapping);
    let sentences: Vec<String> = rows.iter().map(super::ClockRow::sentence).collect();
    let largest = rows.iter().max_by_key(|row| row.events)?;
    let is_utc = pointers_of(context.mapping, "time_zone") == [UTC];
    let zone = zone_of(largest.offset_ms).filter(|_| largest.is_local && is_utc);
    let what = if zone.is_some() {
        "its times are local ones: name the zone of the place"
    } else {
        "set that clock, or let the producer write UTC"
    };
    let numbers = context.sample.events.iter().any(|event| event.may_be_local && !event.has_local_numbers);
    let numbers = zone.as_ref().filter(|_| numbers).map(|_| Change::new("time_numbers", "local"));
    let change = zone.map(|zone| Change::new("time_zone", zone)).into_iter().chain(numbers);
    let sentence = format!("{}; {what}", sentences.join("; "));
    Some(Finding::improvement("clock-off", sentence, change.collect()))
}

/// Flags of one field: sentences with their numbers, and how many events.
fn flags_of(context: &Context<'_>, pointer: &str) -> (Vec<(&'static str, u64)>, u64) {
    let flags = context.replayed.flags.iter().filter(|((at, _), _)| at == pointer);
    let all: Vec<(&'static str, u64)> = flags.map(|((_, why), count)| (*why, *count)).collect();
    let count = all.iter().map(|(_, count)| count).sum();
    (all, count)
}

fn listed(flags: &[(&'static str, u64)]) -> String {
    flags.iter().map(|(why, count)| format!("{why} ({count})")).collect::<Vec<_>>().join("; ")
}

/// Times that cannot be used for another reason than the clock.
pub(super) fn time_unusable(context: &Context<'_>) -> Option<Finding> {
    let at = context.mapping.time.as_str();
    let (flags, _) = flags_of(context, at);
    // What the clock explains is said of the clock.
    let of_clock = |why: &str| why.contains("its clock is in another zone") || why.contains("that clock is off");
    let flags: Vec<_> = flags.into_iter().filter(|(why, _)| !of_clock(why)).collect();
    let count: u64 = flags.iter().map(|(_, count)| count).sum();
    if count == 0 {
        return None;
    }
    let decoded = context.replayed.numbers.notifying + context.replayed.numbers.silent;
    let mut sentence = format!(
        "{count} of {decoded} events have no usable time at {at}, and are taken to be as old as their record: {}",
        listed(&flags)
    );
    let change = proposal(MemberRole::Time, context.sample, &[at]).map(|one| {
        sentence.push_str(&format!("; {} looks like the time", one.pointer));
        Change::new("time", one.pointer)
    });
    Some(Finding::improvement("no-time", sentence, change.into_iter().collect()))
}

/// Local times of a file, whose records have no time to compare them with.
pub(super) fn local_times(context: &Context<'_>) -> Option<Finding> {
    let events = &context.sample.events;
    if events.iter().any(|event| event.recorded_ms > 0) || pointers_of(context.mapping, "time_zone") != [UTC] {
        return None;
    }
    let times = || events.iter().filter_map(|event| Some((event.time.as_deref()?, event.has_local_numbers)));
    let (local, all) =
        (times().filter(|(json, numbers)| event_time::is_local(json, *numbers)).count(), times().count());
    (local * 2 > all).then(|| {
        let sentence = format!(
            "{local} of {all} events have a local time, which is read as UTC: name the zone of the place, such as time_zone = \"Asia/Shanghai\""
        );
        Finding::note("local-time", sentence)
    })
}

/// Amounts that cannot be read.
pub(super) fn amount_unread(context: &Context<'_>) -> Option<Finding> {
    let at = context.mapping.amount.as_str();
    let (flags, count) = flags_of(context, at);
    if count == 0 {
        return None;
    }
    let mut sentence = format!("{count} events have no amount that can be read at {at}: {}", listed(&flags));
    let with_amount = context.sample.members.0.get(at).map_or(0, Member::count) as u64;
    let of = |part: &str| flags.iter().filter(|(why, _)| why.contains(part)).map(|(_, count)| count).sum::<u64>();
    let mut changes = Vec::new();
    if of("fraction of the currency's smallest unit") > 0 {
        changes.push(Change::new("amount_unit", "major"));
    } else if of("amount_format") * 2 >= with_amount.max(1) {
        changes.push(Change::new("amount_format", "base64"));
    } else if of("no amount") > with_amount
        && let Some(one) = proposal(MemberRole::Amount, context.sample, &[at])
    {
        sentence.push_str(&format!("; {} looks like the amount", one.pointer));
        changes.push(Change::new("amount", one.pointer));
        let is_in_base64 = one.member.mostly(|value| value.form == Form::Word);
        if is_in_base64 {
            changes.push(Change::new("amount_format", "base64"));
        }
        if is_in_base64 || one.member.mostly(|value| value.form == Form::Decimal) {
            changes.push(Change::new("amount_unit", "major"));
        }
    }
    Some(Finding::improvement("no-amount", sentence, changes))
}

/// Codes that go with the type of the event.
pub(super) fn code_of_type(context: &Context<'_>) -> Option<Finding> {
    let (mapping, sample) = (context.mapping, context.sample);
    let is_code = |pointer: &str| {
        let name = compact(pointer.rsplit('/').next().unwrap_or_default());
        pointer != mapping.r#type && (pointer == mapping.pickup_code || CODE_NAMES.contains(&name.as_str()))
    };
    let goes_with_type = |member: &Member| {
        let (mut of_types, mut values) = (BTreeMap::<&str, BTreeSet<u64>>::new(), BTreeSet::new());
        for value in &member.values {
            let Some(kind) = sample.events.get(value.event).and_then(|event| event.kind.as_deref()) else { continue };
            of_types.entry(kind).or_default().insert(value.hash);
            values.insert(value.hash);
        }
        // A pickup code has digits, and the next order another one.
        let is_one_each = of_types.values().all(|values| values.len() == 1) && values.len() == of_types.len();
        is_one_each && of_types.len() > 1 && !member.shape().contains('9')
    };
    let (pointer, _) = sample.members.0.iter().find(|(at, member)| is_code(at) && goes_with_type(member))?;
    let sentence = format!("{pointer} goes with the type of the event, one code for each: it is no pickup code");
    let changes = if *pointer == mapping.pickup_code { vec![Change::new("pickup_code", NOWHERE)] } else { Vec::new() };
    Some(Finding::fix("code-of-type", sentence, changes))
}

/// A `table` beside a database.
pub(super) fn table_of_database(context: &Context<'_>) -> Option<Finding> {
    const AT_TOP: &str = "/table";
    let members = &context.sample.members.0;
    let has_database = ["/database", "/db", "/schema"].iter().any(|at| members.contains_key(*at));
    let member = members.get(AT_TOP).filter(|_| has_database)?;
    let is_kept = context.mapping.compiled().extra_fields.iter().any(|field| field.pointer == AT_TOP);
    let sentence = format!(
        "{AT_TOP} stands beside a database in {} events: it is the database's table, and none at which a customer sits{}",
        member.count(),
        if is_kept { ", and tills show it" } else { "; it is not kept" }
    );
    let mut kept = context.mapping.extra_fields.clone();
    kept.retain(|name| name != "table" && name != AT_TOP);
    // An envelope that is named lets nothing beside the row be kept.
    let needs_line = is_kept && traffic::unnamed_envelope(context).is_none();
    let changes = if needs_line { vec![Change::new("extra_fields", kept)] } else { Vec::new() };
    Some(Finding::fix("database-table", sentence, changes))
}
