//! A fuzz target for each envelope: samples of it are changed behind the JSON parser and in front of it, and whatever comes out is read without a
//! panic, within bounds, twice the same, and so that no payment is lost quietly.
//!
//! The samples are the recipes of `examples/mappings`, and the records of `tests/fuzz/corpus`, one a line: a record that once failed is added there.
//! Run longer by `tests/fuzz.sh`.
//!
//! Refused: coverage from the compiler. It needs a nightly toolchain; a change of a sample reaches what random bytes do not.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue fails where it stands")]

mod json_tree;
mod mutation;
mod oracle;
mod rounds;
mod samples;

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use orderbell_consumers::Record;
use orderbell_orders::envelopes::{MAX_EVENTS_PER_RECORD, UNDATED_ROW, is_no_event};
use orderbell_orders::event_types::IGNORED;
use orderbell_orders::mapping::Decoded;
use orderbell_orders::order::{ApplyResult, LogNumber, Order, OrderPolicy};
use orderbell_orders::record_type::LooksPaid;
use orderbell_orders::{Mapping, json_text};
use orderbell_protocol::{Event, EventType};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use oracle::Oracle;
use samples::{NOW, Target};

/// Cases of a target in the tests: all targets together take some ten seconds.
const CASES: u32 = 1_000;
/// Longest id and source of an event, text of one line (200 characters of up to four bytes), and extra fields.
const MAX_ID_BYTES: usize = 1024;
const MAX_TEXT_BYTES: usize = 800;
const MAX_DETAILS_BYTES: usize = 8 * 1024;
/// A damaged byte becomes at most an escape of six, and each of 256 parts has up to 64 KiB of what stands beside its row.
const MAX_REPAIR_FACTOR: usize = 6;
const MAX_BESIDE_BYTES: usize = 64 * 1024;

fn length(bytes: &Option<Bytes>) -> usize {
    bytes.as_ref().map_or(0, Bytes::len)
}

/// The word for the result of a record.
type Outcome = &'static str;

/// What is true of the parts of any record.
fn check_parts(mapping: &Mapping, oracle: &Oracle, record: &Record) -> Result<Vec<Record>, TestCaseError> {
    let (Some(parts), again) = (mapping.parts(record), mapping.parts(record)) else {
        prop_assert!(oracle.items(record).is_none(), "an array of events is not taken apart");
        return Ok(vec![record.clone()]);
    };
    let values = |parts: &[Record]| parts.iter().map(|part| part.value.clone()).collect::<Vec<_>>();
    prop_assert_eq!(again.map(|again| values(&again)), Some(values(&parts)), "it is taken apart differently");
    prop_assert!((1..=MAX_EVENTS_PER_RECORD).contains(&parts.len()), "{} parts", parts.len());
    let total: usize = parts.iter().map(|part| length(&part.value)).sum();
    let most = length(&record.value) * MAX_REPAIR_FACTOR + parts.len() * MAX_BESIDE_BYTES;
    prop_assert!(total <= most, "{} bytes became {}", length(&record.value), total);
    for part in &parts {
        prop_assert!(mapping.parts(part).is_none(), "a part has parts");
        prop_assert_eq!((&part.partition, part.offset), (&record.partition, record.offset));
    }
    if let Some(items) = oracle.items(record) {
        prop_assert_eq!(items, parts.len(), "a part is missing");
    }
    Ok(parts)
}

fn check_event(mapping: &Mapping, record: &Record, event: &Event) -> Result<(), TestCaseError> {
    // An event about a store changes no order, whatever its queue.
    let is_queued = event.kind.is_about_a_store() || mapping.order_of(record).as_deref() == Some(event.order.as_str());
    prop_assert!(is_queued, "it is in the queue of {:?}", mapping.order_of(record));
    prop_assert!(event.id.len() <= MAX_ID_BYTES && event.source.len() <= MAX_ID_BYTES);
    let texts =
        [event.currency.as_deref(), event.reason.as_deref(), event.pickup_code.as_ref().map(|code| code.0.as_str())];
    prop_assert!(texts.iter().flatten().all(|text| text.len() <= MAX_TEXT_BYTES && !text.contains('\n')));
    prop_assert!(event.details.as_ref().is_none_or(|details| details.get().len() <= MAX_DETAILS_BYTES));
    prop_assert!(event.amount.is_none_or(|amount| amount.0 >= 0));
    let policy = OrderPolicy { retention_ms: 72 * 3_600_000, ..OrderPolicy::default() };
    let Ok((next, effects)) = Order::apply(None, event, NOW, &policy) else {
        return Err(TestCaseError::fail("the first event of an order is rejected"));
    };
    for notice in &effects.notices {
        prop_assert!(serde_json::from_str::<serde_json::Value>(notice.body.get()).is_ok_and(|body| body.is_object()));
    }
    match next {
        None => prop_assert!(effects.result == ApplyResult::Forgotten || event.kind.is_about_a_store()),
        Some(mut order) => {
            let changes = order.bin_changes(None, (record, LogNumber(0)), event, &effects, false, NOW);
            prop_assert!(
                event.kind != EventType::Paid || changes.iter().map(|change| change.by).sum::<i64>() == 1,
                "{:?}",
                changes
            );
            let stored = serde_json::to_vec(&order).unwrap();
            prop_assert!(serde_json::from_slice::<Order>(&stored).is_ok(), "its state cannot be read again");
        }
    }
    Ok(())
}

/// What is true of any record of one event.
fn check_record(mapping: &Mapping, oracle: &Oracle, record: &Record) -> Result<Outcome, TestCaseError> {
    let decoded = mapping.explain(record, NOW);
    let prepared = mapping.prepare(record);
    let view = || (record, Some(&prepared));
    let again = mapping.explain(view(), NOW);
    prop_assert_eq!(format!("{decoded:?}"), format!("{again:?}"), "it is read differently");
    let looks = mapping.looks_paid(record);
    prop_assert_eq!(looks, mapping.looks_paid(view()));
    prop_assert_eq!(mapping.order_of(record), mapping.order_of(view()));
    let _neither_panics = (mapping.sounds_paid(view()), mapping.envelope_of(record));
    let payment = oracle.payment(record);
    let is_paid = payment.is_some();
    match decoded {
        Ok(Decoded { event, .. }) => {
            prop_assert!(!is_paid || event.kind == EventType::Paid, "a payment became {}", event.kind.name());
            if let Some(order) = payment.flatten() {
                prop_assert_eq!(event.order.as_str(), order, "a payment of another order");
            }
            check_event(mapping, record, &event)?;
            Ok(event.kind.name())
        }
        // A row of a snapshot is history by what it looks like.
        Err(reason) if reason.code == UNDATED_ROW => {
            prop_assert!(!is_paid || looks != LooksPaid::No, "a payment in a snapshot is in no bin");
            Ok(reason.code)
        }
        Err(reason) if is_no_event(&reason) => {
            prop_assert!(!is_paid && looks == LooksPaid::No, "{:?} is dropped: {}", looks, reason.message);
            Ok(reason.code)
        }
        Err(reason) if reason.code == IGNORED => {
            prop_assert!(!is_paid && mapping.ignored(record).is_some());
            Ok(reason.code)
        }
        Err(reason) => {
            let is_reported = matches!(looks, LooksPaid::Yes | LooksPaid::Unreadable);
            prop_assert!(!is_paid || is_reported, "a payment is rejected and looks like none: {}", reason.message);
            Ok(reason.code)
        }
    }
}

/// A target holds when its samples do, and every change of them. What becomes of the changed ones shows that they come behind the parser.
fn fuzz(name: &str) {
    let Target { mapping, records } = samples::target(name);
    let oracle = Oracle::of(name);
    let outcomes: Mutex<BTreeMap<Outcome, u32>> = Mutex::default();
    let check = |record: &Record| {
        for part in check_parts(&mapping, &oracle, record)? {
            *outcomes.lock().unwrap().entry(check_record(&mapping, &oracle, &part)?).or_default() += 1;
        }
        Ok(())
    };
    records
        .iter()
        .for_each(|record| check(record).unwrap_or_else(|error: TestCaseError| panic!("{error}\n{record:?}")));
    outcomes.lock().unwrap().clear();
    rounds::hold(CASES, &(any::<prop::sample::Index>(), mutation::mutations()), |(seed, mutation)| {
        let record = mutation.apply(seed.get(&records));
        check(&record).map_err(|error| TestCaseError::fail(format!("{error}\n{record:?}")))
    });
    let outcomes = outcomes.into_inner().unwrap();
    let (all, read) = (outcomes.values().sum::<u32>(), outcomes.get("order.paid").copied().unwrap_or_default());
    assert!(outcomes.len() >= 6 && read * 10 >= all, "the changes say little: {outcomes:?}");
}

macro_rules! targets {
    ($($function:ident = $name:literal;)+) => {
        $(#[test]
        fn $function() {
            fuzz($name);
        })+

        /// Names of the targets.
        const TARGETS: &[&str] = &[$($name),+];
    };
}

targets! {
    plain = "plain";
    none = "none";
    array = "array";
    schema_registry = "schema-registry";
    cloudevents = "cloudevents";
    cloudevents_binary = "cloudevents-binary";
    debezium = "debezium";
    debezium_flat = "debezium-flat";
    maxwell = "maxwell";
    canal = "canal";
    canal_without_its_name = "canal-auto";
    masstransit = "masstransit";
    masstransit_raw = "masstransit-raw";
    spring = "spring";
    shopify = "shopify";
    woocommerce = "woocommerce";
    square = "square";
    eleme = "eleme";
    form = "form";
}

#[test]
fn each_recipe_and_each_file_of_the_corpus_belongs_to_a_target() {
    for name in samples::recipes().iter().chain(&samples::corpora()) {
        assert!(TARGETS.contains(&name.as_str()), "{name} is the name of no target");
    }
}

/// The text below all envelopes: it is read twice alike, what was read stays as it is, and it does not grow without bounds.
#[test]
fn json_text_of_any_bytes() {
    let records: Vec<Record> = TARGETS.iter().flat_map(|name| samples::target(name).records).collect();
    rounds::hold(CASES, &(any::<prop::sample::Index>(), mutation::mutations()), |(seed, mutation)| {
        let record = mutation.apply(seed.get(&records));
        let value = record.value.as_deref().unwrap_or_default();
        let Ok(read) = json_text::read(value) else { return Ok(()) };
        prop_assert!(read.text.len() <= value.len() * MAX_REPAIR_FACTOR);
        let Some(canonical) = json_text::canonical(&read.text) else { return Ok(()) };
        let again = json_text::canonical(&canonical);
        prop_assert_eq!(again.as_ref(), Some(&canonical), "written again it differs");
        let whole =
            json_text::read(canonical.as_bytes()).map(|read| (read.text.starts_with(['{', '[']), read.is_repaired));
        prop_assert!(
            !canonical.starts_with(['{', '[']) || whole == Ok((true, false)),
            "it is damaged after its repair"
        );
        Ok(())
    });
}
