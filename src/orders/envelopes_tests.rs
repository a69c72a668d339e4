use bytes::Bytes;
use orderbell_consumers::TopicPartition;
use orderbell_protocol::UnixMs;
use proptest::prelude::*;

use super::super::record_type::LooksPaid;
use super::*;

const NOW: UnixMs = UnixMs(1_790_000_000_000);

fn record(value: &str) -> Record {
    Record {
        partition: TopicPartition::new("orders", 0),
        offset: 7,
        timestamp_ms: NOW.0,
        read_ms: NOW.0,
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: vec![],
    }
}

fn with_header(value: &str, name: &str, header: &'static str) -> Record {
    Record { headers: vec![(name.into(), Some(Bytes::from_static(header.as_bytes())))], ..record(value) }
}

/// Each event of a record as `type order store id`, or the code of its rejection.
fn events(mapping: &Mapping, record: &Record) -> Vec<String> {
    let parts = mapping.parts(record).unwrap_or_else(|| vec![record.clone()]);
    for part in &parts {
        assert!(mapping.parts(part).is_none(), "a part has parts: {part:?}");
        assert_eq!((&part.partition, part.offset), (&record.partition, record.offset));
    }
    let event = |part: &Record| match mapping.decode(part, NOW) {
        Ok(event) => {
            assert_eq!(mapping.order_of(part).as_deref(), Some(event.order.as_str()), "its queue");
            let store = event.store.map(|store| store.as_str().to_owned()).unwrap_or_default();
            format!("{} {} {store} {}", event.kind.name(), event.order.as_str(), event.id)
        }
        Err(reason) => reason.code.to_owned(),
    };
    parts.iter().map(event).collect()
}

const TWO: &str = r#"[{"type":"order.paid","id":"e1","order":"o1","store":"17","amount":5},
    {"type":"order.paid","id":"e2","order":"o2","store":"18","amount":7}]"#;

#[test]
fn an_array_of_events_is_as_many_events() {
    let mapping = Mapping::default();
    let both = ["order.paid o1 17 e1", "order.paid o2 18 e2"];
    assert_eq!(events(&mapping, &record(TWO)), both);
    assert_eq!(events(&mapping, &record(&format!("\u{feff} {TWO}"))), both, "behind a byte order mark");
    let in_a_string = serde_json::to_string(TWO).unwrap();
    assert_eq!(events(&mapping, &record(&in_a_string)), both, "in a string");
    let strings: Vec<String> =
        serde_json::from_str::<Vec<&RawValue>>(TWO).unwrap().iter().map(|item| item.get().into()).collect();
    assert_eq!(events(&mapping, &record(&serde_json::to_string(&strings).unwrap())), both, "of strings");
    assert_eq!(
        events(&mapping, &record(r#"[{"type":"order.paid","order":"o1","store":"17"},{"type":"x"}]"#))[1],
        "unknown-type"
    );
    assert_eq!(events(&mapping, &record("[]")), ["no-event"]);
    assert_eq!(events(&mapping, &record("[1,2]")), ["no-type"], "one dead letter");
    let none: Mapping = toml::from_str("envelope = 'none'\ntype = '/0/type'\norder = '/0/order'\nid='/0/id'").unwrap();
    assert_eq!(events(&none, &record(TWO)), ["order.paid o1  e1"], "pointers lead into the array");
}

/// Regression: equal rows of two records, and rows of one record, had one id or none.
#[test]
fn an_event_without_an_id_has_the_same_one_whenever_its_part_comes_again() {
    let mapping = Mapping::default();
    let value = r#"[{"type":"order.refunded","order":"o1"},{"type":"order.refunded","order":"o2"}]"#;
    let parts = mapping.parts(&record(value)).unwrap();
    let id = |part: &Record| mapping.decode(part, NOW).unwrap().id;
    assert_ne!(id(&parts[0]), id(&parts[1]));
    // A dead letter holds the part alone, at another offset of the same topic when it is replayed.
    let replayed = Record { offset: 99, ..parts[1].clone() };
    assert_eq!(id(&replayed), id(&parts[1]));
}

#[test]
fn a_batch_of_cloudevents_is_as_many_events() {
    let batch = r#"[{"specversion":"1.0","type":"order.paid","id":"e1","source":"s","data":{"order":"o1","store":"17"}},
        {"specversion":"1.0","type":"order.paid","id":"e2","source":"s","data":{"order":"o2","store":"18"}}]"#;
    let both = ["order.paid o1 17 e1", "order.paid o2 18 e2"];
    assert_eq!(events(&Mapping::default(), &record(batch)), both);
    let batch = with_header(batch, "Content-Type", "application/CloudEvents-Batch+json; charset=utf-8");
    assert_eq!(events(&Mapping::default(), &batch), both);
}

#[test]
fn the_data_of_a_binary_cloudevent_is_never_taken_apart() {
    let mut binary = with_header(TWO, "ce_specversion", "1.0");
    binary.headers.push(("ce_type".into(), Some(Bytes::from_static(b"order.paid"))));
    assert!(Mapping::default().parts(&binary).is_none());
}

#[test]
fn a_record_of_too_many_events_is_one_dead_letter_that_says_so() {
    let array = |count: usize| format!("[{}]", vec![r#"{"type":"order.paid","order":"o"}"#; count].join(","));
    let mapping = Mapping::default();
    assert_eq!(events(&mapping, &record(&array(MAX_EVENTS_PER_RECORD))).len(), MAX_EVENTS_PER_RECORD);
    let many = record(&array(MAX_EVENTS_PER_RECORD + 1));
    assert!(mapping.parts(&many).is_none());
    let reason = mapping.decode(&many, NOW).unwrap_err();
    assert_eq!(
        (reason.code, reason.message.as_str()),
        ("too-many-events", "the record holds 257 events: at most 256 are read")
    );
    assert_eq!(mapping.looks_paid(&many), LooksPaid::Unreadable, "an operator is alerted");
    let rows = format!(r#"{{"data":{},"isDdl":false,"type":"UPDATE"}}"#, array(MAX_EVENTS_PER_RECORD + 1));
    assert_eq!(events(&canal(), &record(&rows)), ["too-many-events"]);
}

fn canal() -> Mapping {
    toml::from_str(
        "type = '/data/0/status'\norder = '/data/0/order_no'\nstore = '/data/0/shop'\ntypes = { '2' = 'order.paid', '9' = 'order.refunded' }",
    )
    .unwrap()
}

#[test]
fn each_row_of_a_canal_message_is_an_event() {
    let rows = r#"{"data":[{"order_no":"o171","shop":"17","status":"2"},{"order_no":"o172","shop":"18","status":"2"}],
        "old":[{"status":"1"},{"status":"0"}],"id":12,"database":"shop","table":"orders","type":"UPDATE","isDdl":false,
        "mysqlType":{"status":"int"},"es":1789984800000}"#;
    assert_eq!(events(&canal(), &record(rows)), ["order.paid o171 17 12:0", "order.paid o172 18 12:1"]);
    let parts = canal().parts(&record(rows)).unwrap();
    let value = String::from_utf8(parts[1].value.clone().unwrap().to_vec()).unwrap();
    let expected = r#"{"data":[{"order_no":"o172","shop":"18","status":"2"}],"database":"shop","es":1789984800000,"id":"12:1","isDdl":false,"old":[{"status":"0"}],"table":"orders","type":"UPDATE"}"#;
    assert_eq!(value, expected);
    let nested = format!("[{rows},{rows}]");
    assert_eq!(events(&canal(), &record(&nested)).len(), 4, "in an array");
    let without_id = rows.replace("\"id\":12,", "");
    let ids: Vec<_> = events(&canal(), &record(&without_id))
        .iter()
        .map(|event| event.rsplit_once(' ').unwrap().1.to_owned())
        .collect();
    assert!(ids[0] != ids[1] && ids[0].starts_with("hash:"), "{ids:?}");
}

#[test]
fn what_is_plainly_no_order_is_no_event() {
    let plain: Mapping = toml::from_str("type = '/after/status'\norder = '/after/no'").unwrap();
    for value in [
        r#"{"data":null,"database":"shop","table":"orders","type":"ALTER","isDdl":true,"sql":"ALTER TABLE orders ADD x2 INT"}"#,
        r#"{"data":null,"database":"shop","table":"orders","type":"QUERY","isDdl":false}"#,
        r#"{"ts_ms":1789984800000}"#,
        r#"{"schema":{},"payload":{"ts_ms":1789984800000}}"#,
        r#"{"source":{"db":"shop"},"databaseName":"shop","ddl":"ALTER TABLE orders ADD x2 INT","ts_ms":1}"#,
        r#"{"schema":{},"payload":{"databaseName":"shop","schemaName":null,"ddl":"x","tableChanges":[]}}"#,
        r#"{"status":"BEGIN","id":"571","event_count":null,"ts_ms":1789984800000}"#,
        r#"{"op":"t","source":{},"ts_ms":1789984800000}"#,
        r#"{"type":"table-alter","database":"shop","table":"orders","old":{},"def":{}}"#,
        r#"{"type":"bootstrap-start","database":"shop","table":"orders","ts":1789984800,"data":{}}"#,
    ] {
        for mapping in [&plain, &Mapping::default(), &canal()] {
            assert_eq!(events(mapping, &record(value)), [NO_EVENT], "{value}");
        }
    }
    // Nearly the same, and perhaps an order.
    for value in
        [r#"{"ts_ms":1,"no":"o1"}"#, r#"{"status":"BEGIN","no":"o1"}"#, r#"{"type":"table-ready","table":"7"}"#, "{}"]
    {
        assert_ne!(events(&Mapping::default(), &record(value)), [NO_EVENT], "{value}");
    }
}

proptest! {
    /// Every item is one event, whatever stands in it, and what is put together again is the array.
    #[test]
    fn parts_hold_what_the_items_of_an_array_hold(texts in prop::collection::vec("\\PC{0,12}", 1..20)) {
        let items: Vec<String> =
            texts.iter().enumerate().map(|(n, text)| serde_json::json!({"order": n, "note": text}).to_string()).collect();
        let record = record(&format!("[{}]", items.join(" , ")));
        let parts = Mapping::default().parts(&record).unwrap();
        let values: Vec<_> = parts.iter().map(|part| part.value.clone().unwrap()).collect();
        prop_assert_eq!(values, items);
    }

    #[test]
    fn any_bytes_have_parts_or_none(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let record = Record { value: Some(Bytes::from(bytes)), ..record("") };
        for part in Mapping::default().parts(&record).unwrap_or_default() {
            prop_assert!(Mapping::default().parts(&part).is_none());
        }
    }
}
