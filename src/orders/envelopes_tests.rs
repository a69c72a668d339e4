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
        r#"{"data":null,"database":"shop","table":"orders","type":"ALTER","isDdl":true,"sql":"alter orders add x2"}"#,
        r#"{"data":null,"database":"shop","table":"orders","type":"QUERY","isDdl":false}"#,
        r#"{"ts_ms":1789984800000}"#,
        r#"{"schema":{},"payload":{"ts_ms":1789984800000}}"#,
        r#"{"source":{"db":"shop"},"databaseName":"shop","ddl":"alter orders add x2","ts_ms":1}"#,
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

fn named(envelope: &str, more: &str) -> Mapping {
    let text = format!(
        "envelope = '{envelope}'\ntype = '/status'\norder = '/no'\nstore = '/shop'\ntypes = {{ '2' = 'order.paid' }}\n{more}"
    );
    toml::from_str(&text).unwrap()
}

/// The changes of one row as each of the three writes them: created, and paid.
const CHANGES: [(&str, [&str; 2]); 4] = [
    (
        "debezium",
        [
            r#"{"op":"c","before":null,"after":{"id":1,"no":"o1","shop":7,"status":0},"source":{"ts_ms":1789984800000,"pos":4},"ts_ms":9}"#,
            r#"{"op":"u","before":{"no":"o1"},"after":{"id":1,"no":"o1","shop":7,"status":2},"source":{"ts_ms":1789984800000,"pos":5},"ts_ms":9}"#,
        ],
    ),
    (
        "debezium",
        [
            r#"{"schema":{},"payload":{"op":"c","after":{"id":1,"no":"o1","shop":7,"status":0},"source":{"ts_ms":1789984800000,"pos":4}}}"#,
            r#"{"schema":{},"payload":{"op":"u","after":"{\"id\":1,\"no\":\"o1\",\"shop\":7,\"status\":2}","source":{"ts_ms":1789984800000}}}"#,
        ],
    ),
    (
        "maxwell",
        [
            r#"{"database":"d","table":"t","type":"insert","ts":1789984800,"xid":1,"data":{"id":1,"no":"o1","shop":7,"status":0}}"#,
            r#"{"database":"d","table":"t","type":"update","ts":1789984800,"xid":2,"data":{"id":1,"no":"o1","shop":7,"status":2},"old":{"status":0}}"#,
        ],
    ),
    (
        "canal",
        [
            r#"{"database":"d","table":"t","type":"INSERT","isDdl":false,"es":1789984800000,"data":[{"id":1,"no":"o1","shop":7,"status":0}]}"#,
            r#"{"database":"d","table":"t","type":"UPDATE","isDdl":false,"es":1789984800000,"data":[{"id":1,"no":"o1","shop":7,"status":2}]}"#,
        ],
    ),
];

#[test]
fn pointers_of_a_named_envelope_lead_into_the_row() {
    for (name, [created, paid]) in CHANGES {
        let mapping = named(name, "");
        assert_eq!(events(&mapping, &record(created)), ["unknown-type"], "{name}");
        let event = mapping.decode(&record(paid), NOW).unwrap();
        assert_eq!(
            (event.order.as_str(), event.at),
            ("o1", UnixMs(1_789_984_800_000)),
            "{name}: the time of the change"
        );
        assert!(event.id.starts_with("row:"), "{name}: the row's id is not the event's: {}", event.id);
        assert_eq!(events(&mapping, &record(paid)).len(), 1);
        let ops: Mapping = toml::from_str(&format!(
            "envelope = '{name}'\ntype = '/__op'\norder = '/no'\ntypes = {{ c = 'order.created', u = 'order.paid' }}"
        ))
        .unwrap();
        let kinds = [created, paid].map(|value| ops.decode(&record(value), NOW).unwrap().kind.name());
        assert_eq!(kinds, ["order.created", "order.paid"], "{name}");
    }
}

/// A connector that starts again sends changes again, with another time of sending.
#[test]
fn a_change_that_is_sent_again_is_the_same_event() {
    let id = |name: &str, value: &str| named(name, "").decode(&record(value), NOW).unwrap().id;
    let (_, [_, debezium]) = CHANGES[0];
    assert_eq!(id("debezium", debezium), id("debezium", &debezium.replace("\"ts_ms\":9}", "\"ts_ms\":10}")));
    assert_ne!(id("debezium", debezium), id("debezium", &debezium.replace("\"pos\":5", "\"pos\":6")));
    let (_, [_, canal]) = CHANGES[3];
    assert_eq!(id("canal", canal), id("canal", &canal.replace("\"isDdl\"", "\"id\":9,\"ts\":5,\"isDdl\"")));
}

#[test]
fn deletions_and_snapshots_notify_only_where_the_mapping_means_them() {
    let deleted = r#"{"op":"d","before":{"no":"o1","status":2},"after":null,"source":{"ts_ms":1789984800000}}"#;
    let flat = r#"{"no":"o1","status":2,"__op":"d","__deleted":"true"}"#;
    let read = r#"{"op":"r","after":{"no":"o1","status":2,"paid":1789984700},"source":{"ts_ms":1789984800000}}"#;
    let plain = named("debezium", "");
    for value in [deleted, flat, read] {
        assert_eq!(events(&plain, &record(value)), [NO_EVENT], "{value}");
    }
    let timed = named("debezium", "time = '/paid'");
    assert_eq!(timed.decode(&record(read), NOW).unwrap().at, UnixMs(1_789_984_700_000), "as old as the row says");
    let by_op: Mapping =
        toml::from_str("envelope = 'debezium'\ntype = '/__op'\norder = '/no'\ntypes = { d = 'order.cancelled' }")
            .unwrap();
    for value in [deleted, flat] {
        assert_eq!(by_op.decode(&record(value), NOW).unwrap().kind.name(), "order.cancelled");
    }
    assert_eq!(events(&plain, &record(r#"{"schema":null,"payload":null}"#)), [NO_EVENT], "a tombstone");
}

#[test]
fn what_is_not_in_the_named_envelope_is_rejected_and_may_be_a_paid_order() {
    let plain = record(r#"{"type":"order.paid","order":"o1","store":"17"}"#);
    for name in ["cloudevents", "debezium", "maxwell", "canal", "masstransit"] {
        let mapping = named(name, "");
        assert_eq!(events(&mapping, &plain), ["bad-envelope"], "{name}");
        assert_eq!(mapping.looks_paid(&plain), LooksPaid::Unreadable, "{name}");
        assert_eq!(events(&mapping, &record("{\"op\":")), ["not-json"], "{name}");
        assert_eq!(events(&mapping, &Record { value: None, ..record("") }), ["tombstone"], "{name}");
    }
}

#[test]
fn a_message_of_masstransit_has_the_first_type_that_is_known() {
    let mapping: Mapping = toml::from_str(
        "envelope = 'masstransit'\norder = '/no'\ntypes = { 'Shop:IPaid' = 'order.paid', 'Shop:Moved' = 'ignore' }",
    )
    .unwrap();
    let message = |types: &str| {
        let value = format!(
            r#"{{"messageId":"m1","messageType":{types},"message":{{"no":"o1"}},"sentTime":"2026-09-21T10:00:00Z"}}"#
        );
        events(&mapping, &record(&value)).remove(0)
    };
    assert_eq!(message(r#"["urn:message:Shop:Paid","urn:message:Shop:IPaid"]"#), "order.paid o1  m1");
    assert_eq!(message(r#""urn:message:Shop:IPaid""#), "order.paid o1  m1");
    assert_eq!(message(r#"["urn:message:Shop:Base","urn:message:Shop:Moved"]"#), "ignored");
    assert_eq!(message(r#"["urn:message:Shop:Other"]"#), "unknown-type");
}

#[test]
fn the_headers_of_a_spring_message_are_its_attributes() {
    let mapping: Mapping =
        toml::from_str("envelope = 'spring'\ntypes = { OrderPaid = 'order.paid', '*' = 'ignore' }").unwrap();
    let message = |value: &str, headers: &[(&str, &'static str)]| {
        let header =
            |(name, value): &(&str, &'static str)| ((*name).to_owned(), Some(Bytes::from_static(value.as_bytes())));
        events(&mapping, &Record { headers: headers.iter().map(header).collect(), ..record(value) })
    };
    let one = r#"{"order":"o1","store":"17"}"#;
    let class = ("__TypeId__", "com.shop.Events$OrderPaid");
    assert_eq!(message(one, &[class, ("id", "\"m1\"")]), ["order.paid o1 17 m1"]);
    assert_eq!(
        message(one, &[class, ("EventType", "\"order.paid\"")])[0][..16],
        *"order.paid o1 17",
        "an application's own goes first"
    );
    assert_eq!(message(one, &[("__TypeId__", "com.shop.CourierMoved")]), ["ignored"]);
    assert_eq!(
        message(r#"{"type":"order.paid","order":"o1","id":"e1"}"#, &[]),
        ["order.paid o1  e1"],
        "a type in the body"
    );
    let two = message(&format!("[{one},{}]", one.replace("o1", "o2")), &[class, ("id", "m1")]);
    assert!(two[0].starts_with("order.paid o1 17 hash:") && two[1].starts_with("order.paid o2 17 hash:"), "{two:?}");
}

#[test]
fn one_pointer_for_id_and_order_is_a_remark_only_where_the_pointer_to_the_id_counts() {
    let remarks = |name: &str| {
        let mapping: Mapping = toml::from_str(&format!("envelope = '{name}'\norder = '/id'")).unwrap();
        mapping.remarks().len()
    };
    assert_eq!((remarks("auto"), remarks("masstransit"), remarks("debezium"), remarks("canal")), (1, 1, 0, 0));
}

#[test]
fn what_a_record_is_in_is_said() {
    let said = |mapping: &Mapping, value: &str| mapping.envelope_of(&record(value)).unwrap_or_default();
    let auto = Mapping::default();
    for (name, [_, paid]) in CHANGES {
        assert!(said(&auto, paid).contains(&format!("\"{name}\" lets pointers lead into")), "{}", said(&auto, paid));
        assert!(said(&named(name, ""), paid).starts_with(&format!("\"{name}\": pointers lead into ")), "{name}");
        assert!(said(&named(name, ""), paid).contains(" /no "), "{name}");
    }
    assert_eq!(said(&auto, r#"{"type":"order.paid"}"#), "");
    assert!(said(&auto, r#"{"messageType":["urn:message:A"],"message":{}}"#).contains("\"masstransit\""));
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

/// Regression: one message of canal with many rows and much beside them became gigabytes, on the thread that reads all topics.
#[test]
fn a_message_whose_parts_would_be_far_longer_than_itself_is_not_taken_apart() {
    let mapping = Mapping::default();
    let canal = |rows: usize, beside: usize| {
        let rows = vec!["{\"id\":1}"; rows].join(",");
        format!("{{\"isDdl\":false,\"pad\":\"{}\",\"data\":[{rows}]}}", "x".repeat(beside))
    };
    let parts = |value: &str| mapping.parts(&record(value)).map(|parts| parts.len());
    assert_eq!(parts(&canal(256, 100)), Some(256));
    assert_eq!(parts(&canal(257, 100)), None);
    assert_eq!(parts(&canal(2, 70_000)), None);
    assert_eq!(events(&mapping, &record(&canal(2, 70_000))), ["too-long"]);
    let item = canal(200, 100);
    let items = parts(&format!("[{item},{item}]"));
    assert_eq!(items, Some(201), "the second is a dead letter of its own");
    let headers = vec![("h".repeat(20_000), None)];
    let with_headers = Record { headers, ..record(&canal(256, 100)) };
    assert!(mapping.parts(&with_headers).is_none(), "each part has the headers, too");
}
