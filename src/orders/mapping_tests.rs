use super::super::record_type::LooksPaid;
use super::*;
use bytes::Bytes;
use orderbell_consumers::TopicPartition;
use orderbell_protocol::event::{Flag, MinorUnits, PickupCode};
use serde_json::{Value, json};

pub(super) const NOW: UnixMs = UnixMs(1_790_000_000_000);

pub(super) fn record(key: Option<&str>, value: &str, headers: &[(&str, &str)]) -> Record {
    Record {
        partition: TopicPartition::new("orders", 0),
        offset: 0,
        timestamp_ms: NOW.0,
        read_ms: NOW.0,
        key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Some(Bytes::copy_from_slice(value.as_bytes()))))
            .collect(),
    }
}

pub(super) fn outcome(mapping: &Mapping, record: &Record) -> &'static str {
    mapping.decode(record, NOW).map_or_else(|reason| reason.code, |_| "decoded")
}

#[test]
fn binary_mode_cloudevents_are_decoded() {
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_type", "order.paid"),
        ("ce_id", "e1"),
        ("ce_source", "/shop"),
        ("ce_time", "2026-09-21T10:00:00Z"),
        ("content-type", "application/json"),
    ];
    let body =
        json!({"order": "o1", "store": 17, "customer": "c1", "amount": 1250, "items": [1], "phone": "123"}).to_string();
    let event = Mapping::default().decode(&record(Some("o1"), &body, &headers), NOW).unwrap();
    assert_eq!((event.kind, event.id.as_str(), event.source.as_str()), (EventType::Paid, "e1", "/shop"));
    assert_eq!((event.order.as_str(), event.store.unwrap().as_str()), ("o1", "17"));
    assert_eq!((event.amount, event.at, event.flags.len()), (Some(MinorUnits(1250)), UnixMs(1_789_984_800_000), 0));
    assert_eq!(event.details.unwrap().get(), "{\"items\":[1]}", "members that are not in extra_fields are dropped");
}

#[test]
fn structured_mode_cloudevents_are_decoded() {
    let body = json!({"specversion": "1.0", "type": "order.accepted", "id": "e2", "source": "s", "subject": "o2",
        "time": "2026-09-21T10:00:00Z", "data": {"store": "s1", "pickup_code": "A17"}});
    let event = Mapping::default().decode(&record(None, &body.to_string(), &[]), NOW).unwrap();
    assert_eq!((event.kind, event.order.as_str()), (EventType::Accepted, "o2"));
    assert_eq!(event.pickup_code, Some(PickupCode("A17".into())));
}

#[test]
fn plain_json_is_decoded_through_a_mapping() {
    let mapping: Mapping = toml::from_str(
        r#"
        type = "/event"
        order = "/trade/no"
        store = "/shop/id"
        time = "/at"
        time_zone = "Asia/Shanghai"
        amount = "/trade/total"
        amount_unit = "major"
        types = { PAY_SUCCESS = "order.paid" }
        "#,
    )
    .unwrap();
    let body = json!({"event": "PAY_SUCCESS", "trade": {"no": 900_123, "total": "12.5"}, "shop": {"id": "s1"}, "at": "2026-09-21 18:00:00"});
    let event = mapping.decode(&record(None, &body.to_string(), &[]), NOW).unwrap();
    assert_eq!((event.kind, event.order.as_str(), event.amount), (EventType::Paid, "900123", Some(MinorUnits(1250))));
    assert_eq!(event.at, UnixMs(1_789_984_800_000));
    assert!(event.id.starts_with("hash:"), "an event without an id has the hash of topic and value");
}

#[test]
fn a_paid_order_with_invalid_amount_and_time_is_decoded_with_flags() {
    let body = json!({"type": "order.paid", "order": "o1", "amount": -5, "time": "soon"}).to_string();
    let event = Mapping::default().decode(&record(None, &body, &[]), NOW).unwrap();
    assert_eq!(event.flags, [Flag::Clock, Flag::Amount]);
    assert_eq!((event.store, event.amount), (None, None));
}

fn decoded(value: &str) -> Event {
    Mapping::default().decode(&record(None, value, &[]), NOW).unwrap()
}

#[test]
fn a_guest_is_nobody_and_guests_share_no_mailbox() {
    let guests = [
        r#""customer":"" "#,
        r#""customer":false"#,
        r#""customer":0"#,
        r#""customer":"0""#,
        r#""customer":"null""#,
        r#""device":"" "#,
    ];
    for guest in guests {
        let event = decoded(&format!(
            r#"{{"type":"order.paid","order":"o1","store":"17","amount":5,"time":1789984800,{guest}}}"#
        ));
        assert_eq!((event.customer, event.device, event.flags), (None, None, vec![]), "{guest}");
    }
    let mapping: Mapping = toml::from_str("nobody = ['guest', '-1']").unwrap();
    let customer = |id: &str| {
        let value = format!(r#"{{"type":"order.paid","order":"o1","customer":{id}}}"#);
        mapping.decode(&record(None, &value, &[]), NOW).unwrap().customer
    };
    assert_eq!((customer("-1"), customer("\"guest\"")), (None, None));
    assert_eq!(customer("0").unwrap().as_str(), "0", "the list replaces the default");
}

#[test]
fn a_bad_field_costs_itself_and_never_the_event() {
    let cases = [
        (r#""customer":1.5"#, Flag::Customer),
        (r#""customer":{"id":7}"#, Flag::Customer),
        (r#""customer":"a\nb""#, Flag::Customer),
        (r#""device":[1]"#, Flag::Device),
        (r#""device":true"#, Flag::Device),
        (r#""reason":{}"#, Flag::Text),
        (r#""reason":"sold\nout""#, Flag::Text),
        (r#""currency":[]"#, Flag::Text),
        (r#""amount":-5"#, Flag::Amount),
        (r#""time":"soon""#, Flag::Clock),
    ];
    for (member, flag) in cases {
        let time = if flag == Flag::Clock { "" } else { r#""time":1789984800,"# };
        let event = decoded(&format!(r#"{{"type":"order.accepted","order":"o1","store":"17",{time}{member}}}"#));
        assert_eq!(event.flags, [flag], "{member}");
        assert_eq!(event.store.unwrap().as_str(), "17");
    }
    let long = "x".repeat(201);
    let event = decoded(&json!({"type": "order.refused", "order": "o1", "time": NOW.0, "reason": long}).to_string());
    assert_eq!((event.reason.unwrap().len(), event.flags), (200, vec![Flag::Text]));
}

/// Regression: `code` of a payment was the code of the event's kind, and would have been shown to the customer.
#[test]
fn a_pickup_code_is_taken_from_events_that_accept_or_say_ready() {
    let mapping: Mapping = toml::from_str("pickup_code = '/code'").unwrap();
    let code = |kind: &str| {
        let value = json!({"type": kind, "order": "o1", "code": "PLC"}).to_string();
        mapping.decode(&record(None, &value, &[]), NOW).unwrap().pickup_code.map(|code| code.0)
    };
    for kind in EventType::ALL.into_iter().filter(|kind| !kind.is_about_a_store()) {
        let gives = matches!(kind, EventType::Accepted | EventType::Ready);
        assert_eq!(code(kind.name()).is_some(), gives, "{}", kind.name());
    }
}

/// Regression: the till showed the name of the database's table.
#[test]
fn extra_fields_beside_what_is_no_order_are_kept_only_when_asked_for() {
    let value = r#"{"table":"orders","type":"order.paid","data":{"id":72,"note":"no onions","table":"5"}}"#;
    let details = |mapping: &str| {
        let mapping: Mapping = toml::from_str(mapping).unwrap();
        let event = mapping.decode(&record(None, value, &[]), NOW).unwrap();
        event.details.map(|details| details.get().to_owned())
    };
    assert_eq!(details("order = '/data/id'"), None);
    assert_eq!(details("order = '/data/id'\nextra_fields = ['table']").as_deref(), Some(r#"{"table":"orders"}"#));
    let nested = r#"{"note":"no onions","table":"5"}"#;
    assert_eq!(details("order = '/data/id'\nextra_fields = ['/data/table', '/data/note']").as_deref(), Some(nested));
}

#[test]
fn versions_are_whole_numbers_or_texts_of_digits() {
    let version =
        |version: &str| decoded(&format!(r#"{{"type":"order.paid","order":"o1","version":{version}}}"#)).version;
    assert_eq!((version("7"), version("\"7\""), version("7.0")), (Some(7), Some(7), Some(7)));
    assert_eq!((version("-1"), version("\"v2\""), version("{}")), (None, None, None));
}

#[test]
fn the_shadow_mark_is_read_in_every_common_form() {
    let shadow = |mark: &str| {
        let value = format!(r#"{{"type":"order.paid","order":"o1","shadow":{mark}}}"#);
        Mapping::default().decode(&record(None, &value, &[]), NOW).map(|event| event.shadow).ok()
    };
    for mark in ["true", "\"true\"", "\"True\"", "\"TRUE\"", "1"] {
        assert_eq!(shadow(mark), Some(true), "{mark}");
    }
    for mark in ["false", "\"false\"", "\"False\"", "0", "null", "\"\""] {
        assert_eq!(shadow(mark), Some(false), "{mark}");
    }
    assert_eq!(shadow("\"maybe\""), None);
}

/// What is read of a paid order, whatever carries it.
fn paid(record: &Record) -> (EventType, String, Option<String>, Option<MinorUnits>) {
    let mapping = Mapping::default();
    let event = mapping.decode(record, NOW).unwrap();
    assert_eq!(mapping.order_of(record).as_deref(), Some(event.order.as_str()), "the queue's key is the order's id");
    (event.kind, event.order.to_string(), event.store.map(|store| store.to_string()), event.amount)
}

#[test]
fn data_in_base64_or_in_a_string_is_read() {
    let envelope = r#""specversion":"1.0","type":"order.paid","id":"e1","source":"/shop","subject":"o1""#;
    let expected = (EventType::Paid, "o1".to_owned(), Some("17".to_owned()), Some(MinorUnits(1250)));
    for data in [
        r#""data_base64":"eyJzdG9yZSI6IjE3IiwiYW1vdW50IjoxMjUwfQ==""#,
        r#""data":"{\"store\":\"17\",\"amount\":1250}""#,
        r#""data":{"store":"17","amount":1250},"data_base64":"!""#,
    ] {
        assert_eq!(paid(&record(None, &format!("{{{envelope},{data}}}"), &[])), expected, "{data}");
    }
    let bad = record(None, &format!("{{{envelope},\"data_base64\":\"!\"}}"), &[]);
    let reason = Mapping::default().decode(&bad, NOW).unwrap_err();
    assert_eq!(reason.message, "the data of the CloudEvent: data_base64 is not in base64");
    let avro = record(None, &format!("{{{envelope},\"data_base64\":\"AAAAAAwCBg==\"}}"), &[]);
    assert!(Mapping::default().decode(&avro, NOW).unwrap_err().message.ends_with("schema 12, not JSON"));
}

#[test]
fn a_binary_event_without_a_body_says_all_in_its_headers() {
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_type", "order.ready"),
        ("ce_id", "r"),
        ("ce_source", "/k"),
        ("ce_subject", "o14"),
    ];
    let expected = (EventType::Ready, "o14".to_owned(), None, None);
    let empty = record(None, "", &headers);
    assert_eq!(paid(&empty), expected);
    assert_eq!(paid(&Record { value: None, ..empty }), expected);
    assert_eq!(outcome(&Mapping::default(), &Record { value: None, ..record(None, "", &[]) }), "tombstone");
}

#[test]
fn headers_are_read_in_any_case_and_quoting() {
    let expected = (EventType::Paid, "o16".to_owned(), Some("17".to_owned()), Some(MinorUnits(500)));
    for prefix in ["ce_", "CE_", "ce-", "cloudEvents_", "cloudEvents:"] {
        for quote in ["", "\""] {
            let header = |name: &str, value: &str| (format!("{prefix}{name}"), format!("{quote}{value}{quote}"));
            let headers =
                [header("SpecVersion", "1.0"), header("Type", "order.paid"), header("ID", "2"), header("Source", "/s")];
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let record = record(None, r#"{"store":"17","order":"o16","amount":500}"#, &headers);
            assert_eq!(paid(&record), expected, "{headers:?}");
            assert_eq!(Mapping::default().decode(&record, NOW).unwrap().id, "2");
            assert_eq!(Mapping::default().looks_paid(&record), LooksPaid::Yes);
        }
    }
    let media = [("Content-Type", "\"application/CloudEvents+json\"")];
    let structured = record(None, r#"{"specversion":"1.0","type":"order.paid","subject":"o1"}"#, &media);
    assert_eq!(paid(&structured).1, "o1");
}

fn bytes(value: &[u8]) -> Record {
    Record { value: Some(Bytes::copy_from_slice(value)), ..record(None, "", &[]) }
}

#[test]
fn what_surrounds_the_json_of_a_record_is_removed() {
    let json = r#"{"type":"order.paid","order":"o2","store":"17","amount":500,"time":1789984800}"#;
    let in_string = serde_json::to_string(json).unwrap();
    for before in ["\0\0\0\0\x0c", ""] {
        for json in [json, &in_string] {
            let record = bytes(format!("{before}{json}").as_bytes());
            let event = Mapping::default().decode(&record, NOW).unwrap();
            assert_eq!((event.order.as_str(), event.flags.len()), ("o2", 0), "{before:?} {json}");
            assert_eq!(Mapping::default().order_of(&record).as_deref(), Some("o2"));
        }
    }
    let reason = Mapping::default().decode(&bytes(b"\0\0\0\0\x0c\x02\x06o1"), NOW).unwrap_err();
    assert_eq!(reason.code, "not-json");
    assert!(reason.message.ends_with("schema 12, not JSON"), "{}", reason.message);
}

#[test]
fn a_damaged_text_costs_its_characters_and_is_flagged() {
    let start = r#"{"type":"order.paid","order":"o23","store":"17","amount":500,"time":1789984800,"#;
    for before in ["\u{feff}", "\0\0\0\0\x0c\u{feff}"] {
        let record = bytes(format!("{before}{start}\"note\":\"x\"}}").as_bytes());
        let event = Mapping::default().decode(&record, NOW).unwrap();
        assert_eq!((event.order.as_str(), &event.flags[..]), ("o23", &[Flag::Text][..]), "{before:?}");
        assert_eq!(Mapping::default().order_of(&record).as_deref(), Some("o23"));
    }
    for damage in [
        &b"\"note\":\"no onions \\ud83d\"}"[..],
        b"\"note\":\"no\tonions\"}",
        b"\"rate\":NaN}",
        b"\"rate\":1e400}",
        b"\"note\":\"x\"}\0",
        b"\"note\":\"\xb1\xb8\xd7\xa2\"}",
    ] {
        let record = bytes(&[start.as_bytes(), damage].concat());
        let event = Mapping::default().decode(&record, NOW).unwrap();
        assert_eq!((event.order.as_str(), &event.flags[..]), ("o23", &[Flag::Text][..]), "{damage:?}");
        if let Some(details) = event.details {
            serde_json::from_str::<Value>(details.get()).unwrap();
        }
    }
    // Two ids may be equal only because their characters were lost.
    let lost = |member: &str| {
        let value = [b"{\"type\":\"order.paid\",\"order\":\"o1\",\"", member.as_bytes(), b"\":\"\xb1\xb8\"}"].concat();
        Mapping::default().decode(&bytes(&value), NOW)
    };
    assert_eq!(lost("order").unwrap_err().code, "bad-order");
    assert_eq!(lost("store").unwrap_err().code, "bad-id");
    assert_eq!(lost("customer").unwrap().customer, None);
    assert!(lost("id").unwrap().id.starts_with("hash:"));
}

#[test]
fn an_array_of_no_events_is_named() {
    let reason = Mapping::default().decode(&record(None, r#"[{"type":"order.paid"},7]"#, &[]), NOW).unwrap_err();
    assert_eq!(reason.message, "the value is an array of 2 items, which are no events");
}

#[test]
fn a_record_that_cannot_be_decoded_is_rejected_with_a_reason() {
    let mapping = Mapping::default();
    let plain = |value: &str| outcome(&mapping, &record(None, value, &[]));
    assert_eq!(plain(""), "not-json");
    assert_eq!(plain("{"), "not-json");
    assert_eq!(plain("\u{0}"), "not-json");
    assert_eq!(plain("{\"amount\":+1}"), "not-json");
    assert_eq!(plain(&"[".repeat(200)), "not-json", "deeper than the parser's recursion limit");
    assert_eq!(plain(&format!("\"{}\"", "x".repeat(MAX_VALUE_BYTES))), "too-long");
    assert_eq!(plain("{}"), "no-type");
    assert_eq!(plain("[]"), "no-event");
    assert_eq!(plain("{\"type\":\"order.eaten\",\"order\":\"1\"}"), "unknown-type");
    assert_eq!(plain("{\"type\":\"order.paid\"}"), "no-order");
    assert_eq!(plain("{\"type\":\"order.paid\",\"order\":\"\"}"), "no-order");
    assert_eq!(plain(&format!("{{\"type\":\"order.paid\",\"order\":\"{}\"}}", "x".repeat(129))), "bad-order");
    assert_eq!(plain("{\"type\":\"order.paid\",\"order\":\"1\",\"store\":\"a\\nb\"}"), "bad-id");
    assert_eq!(plain("{\"type\":\"order.paid\",\"order\":\"1\",\"shadow\":\"maybe\"}"), "bad-shadow");
    assert_eq!(plain("{\"specversion\":\"0.3\",\"type\":\"order.paid\",\"subject\":\"1\"}"), "bad-envelope");
    let batch = record(None, "{}", &[("content-type", "application/cloudevents-batch+json")]);
    assert_eq!(outcome(&mapping, &batch), "batch");
    assert_eq!(outcome(&mapping, &Record { value: None, ..record(None, "", &[]) }), "tombstone");
    assert_eq!(outcome(&mapping, &record(None, "{\"type\":\"order.paid\",\"order\":\"1\"}", &[])), "decoded");
}

#[test]
fn extra_fields_reach_the_store_as_the_producer_wrote_them() {
    let value = r#"{"type":"order.paid","order":"o37","items":[ {"name": "rice, 2 x", "price": 12.50, "sku": 123456789012345678901234567890} ]}"#;
    let event = Mapping::default().decode(&record(None, value, &[]), NOW).unwrap();
    let expected = r#"{"items":[{"name":"rice, 2 x","price":12.50,"sku":123456789012345678901234567890}]}"#;
    assert_eq!(event.details.unwrap().get(), expected);
}

#[test]
fn one_pointer_for_id_and_order_is_remarked() {
    let mapping: Mapping = toml::from_str("order = '/id'\n[topics.payments]\nid = '/no'\norder = '/no'").unwrap();
    let remarks = mapping.remarks();
    assert_eq!(remarks.len(), 2, "{remarks:?}");
    assert!(remarks[0].starts_with("mapping: id and order are one pointer, /id."), "{remarks:?}");
    assert!(remarks[1].starts_with("mapping.topics.payments: id and order are one pointer, /no."), "{remarks:?}");
    assert!(Mapping::default().remarks().is_empty());
}

#[test]
fn what_is_flagged_is_explained_by_field() {
    let value = r#"{"type":"order.paid","order":"o1","customer":1.5,"amount":"1,250.00","time":"2026-09-21"}"#;
    let Decoded { event, remarks, .. } = Mapping::default().explain(&record(None, value, &[]), NOW).unwrap();
    assert_eq!(event.flags, [Flag::Customer, Flag::Clock, Flag::Amount]);
    let expected = [
        ("/customer", "the value is no id"),
        ("/time", "the time is a date without a time of day"),
        ("/amount", "the amount has a comma, which may separate thousands or decimals"),
    ];
    assert_eq!(remarks, expected.map(|(field, why)| Remark { field: field.to_owned(), why }));
}

#[test]
fn a_topic_may_have_a_mapping_of_its_own() {
    let text = "types = { PAID = 'order.paid' }\n[topics.payments]\norder = '/trade'\ntypes = { OK = 'order.paid' }";
    let mapping: Mapping = toml::from_str(text).unwrap();
    let theirs =
        Record { partition: TopicPartition::new("payments", 0), ..record(None, r#"{"type":"OK","trade":"o1"}"#, &[]) };
    assert_eq!(mapping.decode(&theirs, NOW).unwrap().order.as_str(), "o1");
    assert_eq!(mapping.order_of(&theirs).as_deref(), Some("o1"));
    assert_eq!(mapping.looks_paid(&theirs), LooksPaid::Yes);
    let ours = record(None, r#"{"type":"PAID","order":"o1"}"#, &[]);
    assert_eq!(mapping.decode(&ours, NOW).unwrap().order.as_str(), "o1");
    assert_eq!(outcome(&mapping, &Record { partition: TopicPartition::new("payments", 0), ..ours }), "unknown-type");
}

#[test]
fn major_units_and_local_times_are_decoded() {
    let mapping: Mapping =
        toml::from_str("amount_unit = 'major'\ntime = '/paid_at'\ntime_zone = 'Asia/Shanghai'").unwrap();
    let value = r#"{"type":"order.paid","order":"o1","amount":"12.50","paid_at":"2026-09-21 18:00:00"}"#;
    let event = mapping.decode(&record(None, value, &[]), NOW).unwrap();
    assert_eq!((event.amount, event.at), (Some(MinorUnits(1250)), UnixMs(1_789_984_800_000)));
    assert_eq!(event.flags, []);
}

/// Regression: without a source, the versions and ids of two topics were compared.
#[test]
fn two_topics_without_sources_are_two_sources() {
    let value = r#"{"type":"order.paid","order":"o1","id":"1"}"#;
    let mapping = Mapping::default();
    let source = |topic: &str, headers: &[(&str, &str)]| {
        let record = Record { partition: TopicPartition::new(topic, 0), ..record(None, value, headers) };
        mapping.decode(&record, NOW).unwrap().source
    };
    assert_ne!(source("orders", &[]), source("payments", &[]));
    // A replayed dead letter keeps its original topic, whether that is named in a header or in the media type.
    assert_eq!(source("out", &[("kafka_dlt-original-topic", "payments")]), source("payments", &[]));
    assert_eq!(source("out", &[("content-type", "application/json; topic=payments")]), source("payments", &[]));
}

#[test]
fn a_replayed_dead_letter_is_decoded_by_the_mapping_of_its_topic() {
    let mapping: Mapping = toml::from_str("[topics.payments]\norder = '/trade'").unwrap();
    let headers = [("kafka_dlt-original-topic", "payments")];
    let again = record(None, r#"{"type":"order.paid","trade":"o1"}"#, &headers);
    assert_eq!(mapping.decode(&again, NOW).unwrap().order.as_str(), "o1");
    assert_eq!(mapping.order_of(&again).as_deref(), Some("o1"));
}
