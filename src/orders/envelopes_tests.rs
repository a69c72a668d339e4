use bytes::Bytes;
use orderbell_consumers::TopicPartition;
use orderbell_protocol::UnixMs;
use orderbell_protocol::event::Flag;
use proptest::prelude::*;

use super::super::record_type::LooksPaid;
use super::wall_times::WALL_TIMES;
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
        headers: Default::default(),
    }
}

fn with_header(value: &str, name: &str, header: &'static str) -> Record {
    Record { headers: vec![(name.into(), Some(Bytes::from_static(header.as_bytes())))].into(), ..record(value) }
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

/// The bug: each of up to 256 parts had a copy of up to 1,000 headers, and a poll takes up to 1,024 records.
#[test]
fn the_parts_of_a_record_share_its_headers() {
    let address = |record: &Record| record.headers.as_ptr();
    let record = with_header(TWO, "content-type", "application/json");
    let parts = Mapping::default().parts(&record).unwrap();
    assert_eq!([address(&parts[0]), address(&parts[1])], [address(&record); 2]);
    let batch = with_header(TWO, "content-type", "application/cloudevents-batch+json");
    let parts = Mapping::default().parts(&batch).unwrap();
    assert_eq!(address(&parts[0]), address(&parts[1]), "also where they are not those of the record");
    assert_ne!(address(&parts[0]), address(&batch));
}

#[test]
fn the_data_of_a_binary_cloudevent_is_never_taken_apart() {
    let mut binary = with_header(TWO, "ce_specversion", "1.0");
    binary.headers.push(("ce_type".into(), Some(Bytes::from_static(b"order.paid"))));
    assert!(Mapping::default().parts(&binary).is_none());
}

#[test]
fn a_record_of_too_many_events_is_one_dead_letter_that_says_so() {
    let item = |order: usize| format!(r#"{{"type":"order.paid","order":"o{order}"}}"#);
    let array = |count: usize| format!("[{}]", (0..count).map(item).collect::<Vec<_>>().join(","));
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
    let nested = format!("[{rows},{}]", rows.replace("\"id\":12", "\"id\":13"));
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

/// Regression: a payment whose order was missing, and whose data was an empty array or had members of a transaction of Debezium, was dropped as no
/// event: in no bin, and nothing was red.
#[test]
fn what_may_be_a_payment_is_rejected_whatever_its_data_resembles() {
    let binary = |value: &str| {
        let mut record = with_header(value, "ce_specversion", "1.0");
        record.headers.push(("ce_type".into(), Some(Bytes::from_static(b"order.paid"))));
        record
    };
    let transaction = r#""status":"END","ts_ms":1789984800000"#;
    for (record, code, looks) in [
        (binary("[]"), "no-order", LooksPaid::Yes),
        (record(r#"{"specversion":"1.0","type":"order.paid","data":[]}"#), "no-order", LooksPaid::Yes),
        (record(&format!(r#"{{"type":"order.paid",{transaction}}}"#)), "no-order", LooksPaid::Yes),
        (record(r#"{"type":"order.accepted","isDdl":true}"#), "no-order", LooksPaid::Later),
        (record(&format!(r#"{{"order":"o1",{transaction}}}"#)), "no-type", LooksPaid::Unreadable),
    ] {
        assert_eq!(events(&Mapping::default(), &record), [code], "{record:?}");
        assert_eq!(Mapping::default().looks_paid(&record), looks, "{record:?}");
    }
    let spring = with_header("[]", "eventType", "order.paid");
    assert_eq!(events(&toml::from_str("envelope = 'spring'").unwrap(), &spring), [NO_EVENT], "nothing was paid");
}

/// Regression: where the record's key is the order, the keys of heartbeats made each of them a dead letter that may be a paid order.
#[test]
fn the_key_alone_makes_no_heartbeat_an_order() {
    for key in ["{\"serverName\":\"shop\"}", "{\"schema\":{},\"payload\":{}}", "17"] {
        for kafka_key in ["order", "store"] {
            let mapping: Mapping = toml::from_str(&format!("kafka_key = '{kafka_key}'")).unwrap();
            let heartbeat =
                Record { key: Some(Bytes::from_static(key.as_bytes())), ..record(r#"{"ts_ms":1789984800000}"#) };
            assert_eq!(events(&mapping, &heartbeat), [NO_EVENT], "{key}");
            let nameless = Record { value: Some(Bytes::from_static(br#"{"sum":5}"#)), ..heartbeat };
            assert_eq!(events(&mapping, &nameless), ["no-type"], "{key}");
        }
    }
}

/// Regression: the balance counted two equal events of one record as one record, and `reconcile` as two: it reported a difference for ever.
#[test]
fn equal_events_of_one_record_are_one() {
    let paid = r#"{"type":"order.paid","order":"o1","store":"17"}"#;
    let once = events(&Mapping::default(), &record(&format!("[{paid}]")));
    assert_eq!(events(&Mapping::default(), &record(&format!("[{paid}, {paid}]"))), once);
    let row = r#"{"order_no":"o1","shop":"17","status":"2"}"#;
    let rows = |more: &str| format!(r#"{{"data":[{row},{row}],{more}"type":"UPDATE","isDdl":false}}"#);
    assert_eq!(events(&canal(), &record(&rows(""))).len(), 1);
    assert_eq!(events(&canal(), &record(&rows("\"id\":12,"))).len(), 2, "each has an id of its own");
}

/// Regression: an item that was an array in a string became a part that had parts, so its dead letter came back as other events than it was.
#[test]
fn an_array_with_several_events_in_a_string_is_not_taken_apart() {
    let rows = r#"{"isDdl":false,"data":[{"order_no":"o1"},{"order_no":"o2"}]}"#;
    for several in [TWO, rows] {
        let array = record(&serde_json::to_string(&[several]).unwrap());
        assert!(Mapping::default().parts(&array).is_none(), "{array:?}");
        assert_eq!(Mapping::default().looks_paid(&array), LooksPaid::Unreadable, "an operator is alerted");
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
    for value in [deleted, flat] {
        assert_eq!(events(&plain, &record(value)), [NO_EVENT], "{value}");
    }
    assert_eq!(events(&plain, &record(read)), [UNDATED_ROW]);
    assert_eq!(plain.looks_paid(&record(read)), LooksPaid::Yes, "it is in the balance");
    let by_the_change = named("debezium", "time = '/__source_ts_ms'");
    assert_eq!(events(&by_the_change, &record(read)), [UNDATED_ROW], "the time of the snapshot is not that of the row");
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

/// The bug: changes of MongoDB without the document, and rows of canal that stand in no array, were dropped as no event: in no bin, and nothing was red.
#[test]
fn a_change_without_what_was_changed_may_be_a_payment() {
    let source = r#""source":{"ts_ms":1789984800000}"#;
    for (envelope, value) in [
        ("debezium", format!(r#"{{"op":"u","after":null,"updateDescription":{{"updatedFields":"{{}}"}},{source}}}"#)),
        ("debezium", format!(r#"{{"op":"u","patch":"{{}}",{source}}}"#)),
        ("debezium", format!(r#"{{"op":"c","before":null,"after":null,{source}}}"#)),
        ("canal", r#"{"data":{"no":"o1","status":2},"isDdl":false,"type":"UPDATE"}"#.to_owned()),
        ("canal", r#"{"data":"[{\"no\":\"o1\",\"status\":2}]","isDdl":false,"type":"UPDATE"}"#.to_owned()),
    ] {
        let (mapping, record) = (named(envelope, ""), record(&value));
        assert_eq!(events(&mapping, &record), ["bad-envelope"], "{value}");
        assert_eq!(mapping.looks_paid(&record), LooksPaid::Unreadable, "{value}");
    }
    for none in ["null", "[]", " [ ] "] {
        let value = format!(r#"{{"data":{none},"isDdl":false,"type":"QUERY"}}"#);
        assert_eq!(events(&named("canal", ""), &record(&value)), [NO_EVENT], "{value}");
    }
}

/// Regression: the record of a snapshot is new, and its row is old. One row in 150 was taken for the time of a clock in another zone, and an order
/// of hours ago notified its store.
#[test]
fn a_row_of_a_snapshot_is_as_old_as_it_says() {
    let hour_s = 3600;
    let at = |behind_s: i64| NOW.0 / 1000 - behind_s;
    let debezium = |op: &str, snapshot: &str, behind_s: i64| {
        let row = format!(r#"{{"no":"o1","status":2,"paid":{}}}"#, at(behind_s));
        let value = format!(r#"{{"op":"{op}","after":{row},"source":{{"ts_ms":{},"snapshot":{snapshot}}}}}"#, NOW.0);
        named("debezium", "time = '/paid'").decode(&record(&value), NOW)
    };
    let seen = |op: &str, snapshot: &str| {
        let event = debezium(op, snapshot, 5 * hour_s).unwrap();
        assert_eq!(event.at.0, at(5 * hour_s) * 1000);
        (event.row, event.notify_at.is_some(), event.flags.contains(&Flag::Clock))
    };
    let old = (Some(RowChange::Snapshot), false, false);
    for (op, snapshot) in [
        ("r", "\"true\""),
        ("r", "\"incremental\""),
        ("r", "null"),
        ("c", "\"last\""),
        ("c", "\"first\""),
        ("c", "true"),
    ] {
        assert_eq!((op, snapshot, seen(op, snapshot)), (op, snapshot, old));
    }
    for snapshot in ["\"false\"", "false", "null"] {
        assert_eq!((snapshot, seen("c", snapshot)), (snapshot, (None, true, true)), "whole half hours behind");
    }
    let flat = |more: &str| {
        let row = format!(r#"{{"no":"o1","status":2,"paid":{},"__op":"c"{more}}}"#, at(5 * hour_s));
        named("debezium", "time = '/paid'").decode(&record(&row), NOW).unwrap().row
    };
    assert_eq!(flat(r#","__source_snapshot":"true""#), Some(RowChange::Snapshot));
    assert_eq!(flat(r#","__snapshot":"false""#), None);
    let bootstrap = |row: &str| {
        let value = format!(r#"{{"database":"d","table":"t","type":"bootstrap-insert","ts":1790000000,"data":{row}}}"#);
        named("maxwell", "time = '/paid'")
            .decode(&record(&value), NOW)
            .map(|event| event.row)
            .map_err(|reason| reason.code)
    };
    assert_eq!(bootstrap(r#"{"no":"o1","status":2,"paid":"2026-09-21 09:13:20"}"#), Ok(Some(RowChange::Snapshot)));
    // A time that is not usable would make it as young as its record.
    for unusable in ["\"yesterday\"", "\"2026-09-21\"", "0", &(at(-8 * hour_s)).to_string(), "null"] {
        let row = format!(r#"{{"no":"o1","status":2,"paid":{unusable}}}"#);
        assert_eq!((unusable, bootstrap(&row)), (unusable, Err(UNDATED_ROW)));
    }
    assert_eq!(debezium("c", "\"false\"", -8 * hour_s).unwrap().at, NOW, "an order is announced");
    assert_eq!(debezium("r", "\"true\"", -8 * hour_s).unwrap_err().code, UNDATED_ROW);
}

/// The bug: the text of `ts` went into the row as it was, so it could name another order, or make the row no JSON.
#[test]
fn the_time_of_a_maxwell_message_is_a_number_or_nothing() {
    let row = r#"{"no":"o1","shop":7,"status":2}"#;
    for ts in [r#""undefined""#, r#""5,\"no\":\"o2\",\"a\":1""#, "-5", "1e9", "99999999999999", "null", "true"] {
        let value = format!(r#"{{"database":"d","table":"t","type":"insert","ts":{ts},"data":{row}}}"#);
        let event = named("maxwell", "").decode(&record(&value), NOW).unwrap();
        assert_eq!((ts, event.kind.name(), event.order.as_str()), (ts, "order.paid", "o1"));
    }
}

/// Each update of a paid row is an event of a paid order with an id of its own.
#[test]
fn an_update_says_whether_the_row_was_paid_before() {
    let more = "amount = '/sum'\ncustomer = '/user'\ntypes = { '2' = 'order.paid', '3' = 'order.paid', '9' = 'order.refunded' }";
    let mapping = |envelope: &str| -> Mapping {
        toml::from_str(&format!("envelope = '{envelope}'\ntype = '/status'\norder = '/no'\n{more}")).unwrap()
    };
    let row = r#"{"no":"o1","status":2,"sum":500,"user":7,"note":"no onions"}"#;
    let change = |envelope: &str, value: String| mapping(envelope).decode(&record(&value), NOW).unwrap().row;
    let debezium = |before: &str| {
        change("debezium", format!(r#"{{"op":"u","before":{before},"after":{row},"source":{{"ts_ms":{}}}}}"#, NOW.0))
    };
    let maxwell = |old: &str| {
        let value = format!(r#"{{"database":"d","table":"t","type":"update","ts":1790000000,"data":{row}{old}}}"#);
        change("maxwell", value)
    };
    let canal = |old: &str| {
        let value = format!(r#"{{"type":"UPDATE","isDdl":false,"es":{},"data":[{row}],"old":{old}}}"#, NOW.0);
        change("canal", value)
    };
    let (same, unknown) = (Some(RowChange::Unchanged), Some(RowChange::Updated));
    assert_eq!(debezium(r#"{"no":"o1","status":2,"sum":500,"user":7,"note":"-"}"#), same);
    assert_eq!(debezium(r#"{"no":"o1","status":3,"sum":500,"user":7}"#), same, "another status of a paid order");
    assert_eq!(debezium(r#"{"no":"o1","status":2,"sum":480,"user":7}"#), unknown, "another amount is looked at");
    assert_eq!(debezium(r#"{"no":"o1","status":2,"sum":500,"user":8}"#), unknown);
    assert_eq!(debezium(r#"{"no":"o1","status":0,"sum":500,"user":7}"#), None, "it is paid now");
    assert_eq!(debezium(r#"{"no":"o1","status":9,"sum":500,"user":7}"#), None, "it is paid once more");
    assert_eq!(debezium(r#"{"no":"o1"}"#), unknown, "no more than the key");
    assert_eq!(debezium(r#"{"no":"o1","status":null,"sum":null}"#), unknown, "no more than the key");
    assert_eq!(debezium("null"), unknown);
    assert_eq!(debezium(r#""{\"no\":\"o1\",\"status\":2,\"sum\":500,\"user\":7}""#), same, "in a string");
    assert_eq!(maxwell(r#","old":{"note":"-"}"#), same);
    assert_eq!(maxwell(r#","old":{"status":0}"#), None);
    assert_eq!(maxwell(r#","old":{"status":null}"#), None);
    assert_eq!(maxwell(r#","old":{"sum":480}"#), unknown);
    assert_eq!(maxwell(r#","old":{"user":null}"#), unknown);
    assert_eq!(maxwell(""), unknown);
    assert_eq!(canal(r#"[{"note":"-"}]"#), same);
    assert_eq!(canal(r#"[{"status":"0"}]"#), None);
    assert_eq!(canal("null"), unknown);
    let by_op: Mapping =
        toml::from_str("envelope = 'maxwell'\ntype = '/__op'\norder = '/no'\ntypes = { u = 'order.paid' }").unwrap();
    let value =
        format!(r#"{{"database":"d","table":"t","type":"update","ts":1790000000,"data":{row},"old":{{"note":"-"}}}}"#);
    assert_eq!(by_op.decode(&record(&value), NOW).unwrap().row, unknown, "every update is called paid");
}

/// Regression: a `DATETIME` is a number of a local time. Each order was eight hours ahead, and its time was not used.
#[test]
fn a_number_of_a_column_without_a_zone_is_read_in_the_zone_of_the_mapping() {
    let hour_ms = 3_600_000;
    let zoned = named("debezium", "time = '/paid'\ntime_zone = 'Asia/Shanghai'");
    let local = named("debezium", "time = '/paid'\ntime_zone = 'Asia/Shanghai'\ntime_numbers = 'local'");
    let schema = |name: &str| {
        let paid = format!(r#"{{"type":"int64","field":"paid"{name}}}"#);
        format!(r#"{{"type":"struct","fields":[{{"type":"struct","field":"after","fields":[{paid}]}}]}}"#)
    };
    let behind_ms = |mapping: &Mapping, schema: &str, paid_ms: i64| {
        let row = format!(r#"{{"no":"o1","status":2,"paid":{paid_ms}}}"#);
        let payload = format!(r#"{{"op":"c","after":{row},"source":{{"ts_ms":{}}}}}"#, NOW.0);
        let value = if schema.is_empty() { payload } else { format!(r#"{{"schema":{schema},"payload":{payload}}}"#) };
        let event = mapping.decode(&record(&value), NOW).unwrap();
        assert!(!event.flags.contains(&Flag::Clock));
        NOW.0 - event.at.0
    };
    let wall_ms = NOW.0 + 8 * hour_ms - 1000;
    for name in WALL_TIMES {
        assert_eq!(behind_ms(&zoned, &schema(&format!(r#","name":"{name}""#)), wall_ms), 1000, "{name}");
    }
    assert_eq!(behind_ms(&zoned, &schema(""), NOW.0 - 1000), 1000, "a number of milliseconds since 1970");
    assert_eq!(behind_ms(&zoned, "", NOW.0 - 1000), 1000, "nothing says that it is a local time");
    assert_eq!(behind_ms(&local, "", wall_ms), 1000, "as the mapping says");
    assert_eq!(behind_ms(&local, &schema(""), wall_ms), 1000, "as the mapping says");
    let flat = format!(r#"{{"no":"o1","status":2,"paid":{wall_ms},"__op":"c"}}"#);
    assert_eq!(local.decode(&record(&flat), NOW).unwrap().at.0, NOW.0 - 1000);
    let of_the_change = named("debezium", "time_zone = 'Asia/Shanghai'\ntime_numbers = 'local'");
    let (_, [_, paid]) = CHANGES[0];
    assert_eq!(of_the_change.decode(&record(paid), NOW).unwrap().at.0, 1_789_984_800_000, "that of the change is UTC");
    let unset = named("debezium", "time = '/paid'");
    let event = unset.explain(&record(&flat), NOW).unwrap();
    assert_eq!(
        (event.event.at, event.clock_offset_ms),
        (NOW, Some(8 * hour_ms - 1000)),
        "it rings, and the alert says why"
    );
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
        let rows = (0..rows).map(|id| format!("{{\"id\":{id}}}")).collect::<Vec<_>>().join(",");
        format!("{{\"isDdl\":false,\"pad\":\"{}\",\"data\":[{rows}]}}", "x".repeat(beside))
    };
    let parts = |value: &str| mapping.parts(&record(value)).map(|parts| parts.len());
    assert_eq!(parts(&canal(256, 100)), Some(256));
    assert_eq!(parts(&canal(257, 100)), None);
    assert_eq!(parts(&canal(2, 70_000)), None);
    assert_eq!(events(&mapping, &record(&canal(2, 70_000))), ["too-long"]);
    let items = parts(&format!("[{},{}]", canal(200, 100), canal(200, 101)));
    assert_eq!(items, Some(201), "the second is a dead letter of its own");
    let headers = vec![("h".repeat(20_000), None)];
    let with_headers = Record { headers: headers.into(), ..record(&canal(256, 100)) };
    assert!(mapping.parts(&with_headers).is_none(), "each part has the headers, too");
}
