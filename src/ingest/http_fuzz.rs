//! Fuzz target of the bodies of `POST /v1/events`: samples of the recipes are changed, posted in each form with any headers, and what is accepted
//! is what the stream gives back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;
use orderbell_consumers::{Header, Record, TopicPartition};
use orderbell_ledger::NewEvent;
use orderbell_orders::envelopes::EnvelopeName;
use orderbell_orders::{Mapping, json_text};
use orderbell_protocol::UnixMs;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestCaseError;

use super::http_events::{MAX_EVENTS, PostedEvent, id_hash, parse, record_headers};
use super::rounds;

#[path = "../../tests/fuzz/json_tree.rs"]
mod json_tree;
#[path = "../../tests/fuzz/mutation.rs"]
mod mutation;

const NOW: UnixMs = UnixMs(1_790_000_000_000);
/// Takes some seconds.
const CASES: u32 = 2_000;
/// A damaged byte becomes at most an escape of six, and headers and a media type of a KiB each are added.
const MAX_REPAIR_FACTOR: usize = 6;
const MAX_ADDED_BYTES: usize = 16 * 1024;

const MEDIA: [&str; 9] = [
    "application/json",
    "",
    "application/vnd.masstransit+json",
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
    "application/x-ndjson",
    "application/x-www-form-urlencoded",
    "application/json; topic=orders",
    "text/plain",
];

/// Headers that some form or recipe reads, and others.
const HEADERS: [(&str, &str); 14] = [
    ("ce-specversion", "1.0"),
    ("ce-type", "order.paid"),
    ("ce-id", "e%201"),
    ("ce-source", "/s"),
    ("CE-Subject", "o-1"),
    ("ce-time", "yesterday"),
    ("x-shopify-topic", "orders/paid"),
    ("X-Shopify-Webhook-Id", "\"w-1\""),
    ("x-shopify-shop-domain", "shop-17"),
    ("x-wc-webhook-source", "https://shop/"),
    ("mt-messagetype", "urn:message:Shop.Contracts:OrderPaid"),
    ("messageid", ""),
    ("__typeid__", "OrderPaid"),
    ("id", "m-1"),
];

/// A recipe: its mapping, the headers of its samples, and these.
#[derive(Default)]
struct Recipe {
    mapping: Mapping,
    headers: Vec<(String, String)>,
    records: Vec<Record>,
}

/// The recipes that have samples of lines.
fn recipes() -> Vec<Recipe> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mappings");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let recipe = |path: &PathBuf| {
        let samples = std::fs::read(path.with_extension("jsonl")).ok()?;
        let text = std::fs::read_to_string(path).unwrap();
        let header = |word: &str| {
            let (name, value) = word.split(" --").next()?.trim().split_once('=')?;
            Some((name.to_owned(), value.trim_matches('"').to_owned()))
        };
        let words = text.lines().filter(|line| line.starts_with('#')).flat_map(|line| line.split(" --header ").skip(1));
        let lines = samples.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        Some(Recipe {
            mapping: text.parse::<toml::Table>().unwrap().remove("mapping")?.try_into().unwrap(),
            headers: words.filter_map(header).map(|(name, value)| (name.replace("ce_", "ce-"), value)).collect(),
            records: lines.map(|line| record(line, Vec::new())).collect(),
        })
    };
    files.iter().filter(|path| path.extension().is_some_and(|ending| ending == "toml")).filter_map(recipe).collect()
}

/// The record of a posted event, as the embedded stream gives it back.
fn record(value: &[u8], headers: Vec<Header>) -> Record {
    Record {
        partition: TopicPartition::new(orderbell_ledger::embedded_log::TOPIC, 0),
        offset: 7,
        timestamp_ms: NOW.0,
        read_ms: NOW.0,
        key: None,
        value: Some(Bytes::copy_from_slice(value)),
        headers: headers.into(),
    }
}

/// What is accepted is read back as the event that the producer's answer names.
fn check_event(mapping: &Mapping, id: &str, event: &NewEvent, body_bytes: usize) -> Result<(), TestCaseError> {
    let text = std::str::from_utf8(&event.value).map_err(|_| TestCaseError::fail("what is stored is no text"))?;
    let whole = json_text::read(text.as_bytes()).map_err(TestCaseError::fail)?;
    prop_assert!(!text.starts_with('{') || !whole.is_repaired, "what is stored is damaged");
    prop_assert!(
        text.len() <= body_bytes * MAX_REPAIR_FACTOR + MAX_ADDED_BYTES,
        "{} bytes became {}",
        body_bytes,
        text.len()
    );
    let record = record(&event.value, record_headers(&event.content_type, &event.headers));
    prop_assert!(mapping.parts(&record).is_none(), "it is several events");
    let read = mapping.decode(&record, NOW).map_err(|reason| TestCaseError::fail(format!("it is lost: {reason:?}")))?;
    prop_assert_eq!(read.id.as_str(), id);
    prop_assert_eq!(read.order.as_str().as_bytes(), &event.key[..]);
    prop_assert_eq!(id_hash(read.shadow, &read.source, &read.id, read.kind), event.id_hash);
    Ok(())
}

/// What is posted.
#[derive(Debug)]
struct Body {
    media: &'static str,
    headers: Vec<(String, String)>,
    bytes: Vec<u8>,
}

fn check_body(mapping: &Mapping, body: &Body, outcomes: &Mutex<BTreeMap<u16, u32>>) -> Result<(), TestCaseError> {
    let post = || parse(mapping, body.media, &body.headers, &body.bytes, NOW);
    let (posted, again) = (post(), post());
    prop_assert_eq!(format!("{posted:?}"), format!("{again:?}"), "it is read differently");
    let count = |status| *outcomes.lock().unwrap().entry(status).or_default() += 1;
    let events = match posted {
        Ok(events) => events,
        Err(problem) => {
            prop_assert!(matches!(problem.status, 400 | 415 | 422), "{problem:?}");
            count(problem.status);
            return Ok(());
        }
    };
    prop_assert!((1..=MAX_EVENTS).contains(&events.len()));
    for event in &events {
        if let PostedEvent::New(id, event) = event {
            check_event(mapping, id, event, body.bytes.len())
                .map_err(|error| TestCaseError::fail(format!("{error}\n{event:?}")))?;
            count(200);
        }
    }
    Ok(())
}

#[test]
fn http_bodies() {
    let recipes = recipes();
    let outcomes: Mutex<BTreeMap<u16, u32>> = Mutex::default();
    let seldom = |strategy: BoxedStrategy<&'static str>| prop::option::weighted(0.1, strategy);
    let headers = prop::collection::vec(select(&HEADERS[..]), 0..3);
    let case = (
        any::<Index>(),
        prop::option::weighted(0.1, any::<Index>()),
        prop::collection::vec((any::<Index>(), mutation::mutations()), 1..3),
        seldom(select(&MEDIA[..]).boxed()),
        prop_oneof![3 => Just(Vec::new()), 1 => headers],
    );
    rounds::hold(CASES, &case, |(recipe, other, records, media, more)| {
        let recipe = recipe.get(&recipes);
        let mapping = other.map_or(&recipe.mapping, |other| &other.get(&recipes).mapping);
        let values: Vec<Bytes> =
            records.iter().filter_map(|(seed, mutation)| mutation.apply(seed.get(&recipe.records)).value).collect();
        let usual = match mapping.envelope {
            EnvelopeName::Form => "application/x-www-form-urlencoded",
            _ if values.len() > 1 => "application/x-ndjson",
            _ => "application/json",
        };
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let headers = recipe.headers.iter().cloned().chain(more).collect();
        let body = Body { media: media.unwrap_or(usual), headers, bytes: values.join(&b'\n') };
        check_body(mapping, &body, &outcomes).map_err(|error| TestCaseError::fail(format!("{error}\n{body:?}")))
    });
    let outcomes = outcomes.into_inner().unwrap();
    assert!(outcomes.len() == 4 && outcomes[&200] >= CASES / 4, "the changes say little: {outcomes:?}");
}
