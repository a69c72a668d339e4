use super::super::fields::MAX_EVENT_ID_BYTES;
use super::super::record_type::LooksPaid;
use super::*;
use bytes::Bytes;
use orderbell_consumers::TopicPartition;
use orderbell_protocol::event::{Flag, MinorUnits, PickupCode};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: UnixMs = UnixMs(1_790_000_000_000);

fn record(key: Option<&str>, value: &str, headers: &[(&str, &str)]) -> Record {
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

fn outcome(mapping: &Mapping, record: &Record) -> &'static str {
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
    for mark in ["true", "\"true\"", "1"] {
        assert_eq!(shadow(mark), Some(true), "{mark}");
    }
    for mark in ["false", "\"false\"", "0", "null", "\"\""] {
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
    for before in ["\u{feff}", "\0\0\0\0\x0c", ""] {
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
fn an_array_is_named() {
    let reason = Mapping::default().decode(&record(None, r#"[{"type":"order.paid"},{}]"#, &[]), NOW).unwrap_err();
    assert_eq!(reason.message, "the value is an array of 2 events: a record holds one");
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
    assert_eq!(plain("[]"), "no-type");
    assert_eq!(plain("{\"type\":\"order.eaten\",\"order\":\"1\"}"), "unknown-type");
    assert_eq!(plain("{\"type\":\"order.paid\"}"), "no-order");
    assert_eq!(plain("{\"type\":\"order.paid\",\"order\":\"\"}"), "no-order");
    assert_eq!(plain(&format!("{{\"type\":\"order.paid\",\"order\":\"{}\"}}", "x".repeat(129))), "bad-order");
    assert_eq!(plain("{\"type\":\"order.paid\",\"order\":\"1\",\"store\":\"a\\nb\"}"), "bad-id");
    assert_eq!(plain("{\"type\":\"order.paid\",\"order\":\"1\",\"shadow\":\"maybe\"}"), "bad-shadow");
    assert_eq!(plain("{\"specversion\":\"0.3\",\"type\":\"order.paid\",\"subject\":\"1\"}"), "bad-envelope");
    let batch = record(None, "[]", &[("content-type", "application/cloudevents-batch+json")]);
    assert_eq!(outcome(&mapping, &batch), "batch");
    assert_eq!(outcome(&mapping, &Record { value: None, ..record(None, "", &[]) }), "tombstone");
    assert_eq!(outcome(&mapping, &record(None, "{\"type\":\"order.paid\",\"order\":\"1\"}", &[])), "decoded");
}

#[test]
fn numbers_are_ids_when_they_are_whole_and_no_digit_is_lost() {
    let mapping = Mapping::default();
    let plain = |order: &str| {
        let value = format!("{{\"type\":\"order.paid\",\"order\":{order}}}");
        mapping
            .decode(&record(None, &value, &[]), NOW)
            .map_or_else(|reason| reason.code.into(), |event| event.order.to_string())
    };
    assert_eq!(plain("18446744073709551615"), "18446744073709551615");
    assert_eq!(plain("123456789012345678901234"), "123456789012345678901234");
    assert_eq!((plain("12345.0"), plain("12345.000")), ("12345".into(), "12345".into()));
    for refused in ["1.5", "1e3", "1.0e3", "[1]", "{}", "true"] {
        assert_eq!(plain(refused), "bad-id", "{refused}");
    }
    assert_eq!(plain("\"12345.0\""), "12345.0", "a text is what it is");
}

#[test]
fn padded_ids_are_the_ids_that_a_person_sees() {
    for padded in ["17  ", "17\u{feff}", "\u{200b}17", " 17\u{0}", "\u{ad}17\t"] {
        let value =
            json!({"type": "order.paid", "order": padded, "store": padded, "customer": padded, "device": padded});
        let event = Mapping::default().decode(&record(None, &value.to_string(), &[]), NOW).unwrap();
        let ids = [Some(event.order), event.store, event.customer, event.device];
        assert!(ids.iter().all(|id| id.as_ref().is_some_and(|id| id.as_str() == "17")), "{padded:?}: {ids:?}");
    }
}

#[test]
fn a_word_for_nothing_is_no_order_and_no_store() {
    let mapping = Mapping::default();
    for nothing in ["\"undefined\"", "\"null\"", "\"None\"", "\" NaN \"", "\"\"", "false", "null", "0", "\"0\""] {
        let value = format!("{{\"type\":\"order.paid\",\"order\":{nothing}}}");
        assert_eq!(outcome(&mapping, &record(None, &value, &[])), "no-order", "{nothing}");
    }
    let value = r#"{"type":"order.paid","order":"o1","store":"undefined"}"#;
    assert_eq!(mapping.decode(&record(None, value, &[]), NOW).unwrap().store, None);
}

#[test]
fn a_key_in_json_quotes_is_the_order_in_them() {
    let mapping = Mapping { kafka_key: KafkaKey::Order, ..Mapping::default() };
    let record = record(Some("\"o26\""), r#"{"type":"order.paid","order":"o26"}"#, &[]);
    assert_eq!(mapping.decode(&record, NOW).unwrap().order.as_str(), "o26");
    assert_eq!(mapping.order_of(&record).as_deref(), Some("o26"));
}

#[test]
fn extra_fields_reach_the_store_as_the_producer_wrote_them() {
    let value = r#"{"type":"order.paid","order":"o37","items":[ {"name": "rice, 2 x", "price": 12.50, "sku": 123456789012345678901234567890} ]}"#;
    let event = Mapping::default().decode(&record(None, value, &[]), NOW).unwrap();
    let expected = r#"{"items":[{"name":"rice, 2 x","price":12.50,"sku":123456789012345678901234567890}]}"#;
    assert_eq!(event.details.unwrap().get(), expected);
}

#[test]
fn an_empty_zero_or_invented_event_id_is_no_id() {
    let mapping = Mapping::default();
    let id = |id: &str, n: u32| {
        let value = format!(r#"{{"type":"order.paid","order":"o1","id":{id},"amount":{n}}}"#);
        mapping.decode(&record(None, &value, &[]), NOW).unwrap().id
    };
    for nothing in [
        "\"\"",
        "0",
        "0.0",
        "\"0\"",
        "\"undefined\"",
        "\"NULL\"",
        "\"None\"",
        "\"nil\"",
        "\"NaN\"",
        "null",
        "false",
        "{}",
    ] {
        assert!(id(nothing, 1).starts_with("hash:"), "{nothing}");
        assert_ne!(id(nothing, 1), id(nothing, 2), "two events without an id are two events: {nothing}");
        assert_eq!(id(nothing, 1), id(nothing, 1), "a repeated one is one event: {nothing}");
    }
    assert_eq!((id("7", 1), id("\"e1\"", 1)), ("7".into(), "e1".into()));
    let envelope = |id: &str| {
        let body =
            json!({"specversion": "1.0", "type": "order.paid", "id": id, "subject": "o1", "data": {"id": "inner"}});
        mapping.decode(&record(None, &body.to_string(), &[]), NOW).unwrap().id
    };
    assert_eq!((envelope("e1"), envelope("undefined")), ("e1".into(), "inner".into()));
    // A till may count its events from 0.
    let own = [("content-type", OWN_EVENT_MEDIA_TYPE)];
    let body = json!({"specversion": "1.0", "type": "order.paid", "id": "0", "subject": "o1", "data": {}}).to_string();
    assert_eq!(mapping.decode(&record(None, &body, &own), NOW).unwrap().id, "0");
}

/// Regression: ids were cut at 200 characters, so two events whose ids begin alike were one.
#[test]
fn event_ids_are_compared_whole_and_too_long_ones_are_rejected() {
    let mapping = Mapping::default();
    let with = |member: &str, text: &str| {
        record(None, &json!({"type": "order.paid", "order": "o1", member: text}).to_string(), &[])
    };
    let long = "x".repeat(MAX_EVENT_ID_BYTES);
    assert_eq!(mapping.decode(&with("id", &long), NOW).unwrap().id, long);
    assert_eq!(mapping.decode(&with("source", &long), NOW).unwrap().source, long);
    for member in ["id", "source"] {
        let reason = mapping.decode(&with(member, &format!("{long}x")), NOW).unwrap_err();
        assert_eq!((reason.code, reason.message), ("bad-id", format!("the event's {member} has more than 1024 bytes")));
    }
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
fn a_record_whose_key_contradicts_its_body_is_rejected() {
    let body = "{\"type\":\"order.paid\",\"order\":\"o1\",\"store\":\"s1\"}";
    let with = |kafka_key| Mapping { kafka_key, ..Mapping::default() };
    assert_eq!(outcome(&with(KafkaKey::Order), &record(Some("o1"), body, &[])), "decoded");
    assert_eq!(outcome(&with(KafkaKey::Order), &record(Some("o2"), body, &[])), "key-mismatch");
    assert_eq!(outcome(&with(KafkaKey::Store), &record(Some("s2"), body, &[])), "key-mismatch");
    assert_eq!(outcome(&with(KafkaKey::Any), &record(Some("s2"), body, &[])), "decoded");
}

#[test]
fn what_is_flagged_is_explained_by_field() {
    let value = r#"{"type":"order.paid","order":"o1","customer":1.5,"amount":"1,250.00","time":"2026-09-21"}"#;
    let (event, remarks) = Mapping::default().explain(&record(None, value, &[]), NOW).unwrap();
    assert_eq!(event.flags, [Flag::Customer, Flag::Clock, Flag::Amount]);
    let expected = [
        ("/customer", "the value is no id"),
        ("/time", "the time is a date without a time of day"),
        ("/amount", "the amount has a comma, which may separate thousands or decimals"),
    ];
    assert_eq!(remarks, expected.map(|(field, why)| Remark { field: field.to_owned(), why }));
}

#[test]
fn a_composed_order_id_is_unique() {
    let mapping: Mapping = toml::from_str("order = ['/shop/id', '/no']").unwrap();
    let order = |shop: &str, no: &str| {
        let value = json!({"type": "order.paid", "shop": {"id": shop}, "no": no}).to_string();
        let record = record(Some("key"), &value, &[]);
        let event = mapping.decode(&record, NOW).unwrap();
        assert_eq!(
            mapping.order_of(&record).as_deref(),
            Some(event.order.as_str()),
            "the queue's key is the order's id"
        );
        event.order.as_str().to_owned()
    };
    assert_eq!(order("17", "4711"), "17:4711");
    assert_ne!(order("a:b", "c"), order("a", "b:c"));
    assert_ne!(order("a~1b", "c"), order("a:b", "c"));
    // A missing part has no substitute.
    let half = record(Some("17:4711"), r#"{"type":"order.paid","no":4711}"#, &[]);
    assert_eq!(outcome(&mapping, &half), "no-order");
    assert!(toml::from_str::<Mapping>("order = []").is_err());
    // Orders with a blank number must not share an id.
    for blank in ["", " ", "undefined"] {
        let value = json!({"type": "order.paid", "shop": {"id": "17"}, "no": blank}).to_string();
        assert_eq!(outcome(&mapping, &record(None, &value, &[])), "no-order", "{blank:?}");
    }
    assert_eq!(order(" 17", "4711 "), "17:4711");
}

/// Regression: an order numbered 0 was all orders that have no number, where the id is composed or comes from the key or the subject.
#[test]
fn zero_is_no_order_wherever_it_comes_from() {
    let composed: Mapping = toml::from_str("order = ['/shop', '/no']").unwrap();
    assert_eq!(outcome(&composed, &record(None, r#"{"type":"order.paid","shop":"17","no":0}"#, &[])), "no-order");
    let by_key = Mapping { kafka_key: KafkaKey::Order, ..Mapping::default() };
    assert_eq!(outcome(&by_key, &record(Some("0"), r#"{"type":"order.paid","store":"17"}"#, &[])), "no-order");
    let subject =
        r#"{"specversion":"1.0","type":"order.paid","id":"e","source":"s","subject":"0","data":{"store":"17"}}"#;
    assert_eq!(outcome(&Mapping::default(), &record(None, subject, &[])), "no-order");
}

/// Regression: a subject that nobody had called the order went before the key that the configuration calls so.
#[test]
fn a_configured_key_goes_before_a_guessed_subject() {
    let body = r#"{"specversion":"1.0","type":"order.paid","id":"e","source":"s","subject":"customer-5","data":{"store":"17"}}"#;
    let order = |subject| {
        let mapping = Mapping { kafka_key: KafkaKey::Order, subject, ..Mapping::default() };
        mapping
            .decode(&record(Some("o1"), body, &[]), NOW)
            .map_or_else(|reason| reason.code.into(), |event| event.order.to_string())
    };
    assert_eq!((order(Subject::Auto), order(Subject::Order)), ("o1".to_owned(), "key-mismatch".to_owned()));
}

/// Regression: where the key is the store, a subject that is the same store was the order.
#[test]
fn a_subject_that_is_the_store_of_the_key_is_no_order() {
    let body =
        r#"{"specversion":"1.0","type":"order.paid","id":"e","source":"s","subject":"17","data":{"orderNo":"a"}}"#;
    let mapping = Mapping { kafka_key: KafkaKey::Store, ..Mapping::default() };
    assert_eq!(outcome(&mapping, &record(Some("17"), body, &[])), "no-order");
}

/// Regression: an event posted by HTTP is stored with its order as key, which was read back as the store.
#[test]
fn keys_that_orderbell_wrote_are_orders_whatever_the_chains_keys_are() {
    let mapping = Mapping { kafka_key: KafkaKey::Store, ..Mapping::default() }.with_own_topic("orderbell.events");
    let store = |topic: &str, body: &str| {
        let record = Record { partition: TopicPartition::new(topic, 0), ..record(Some("o1"), body, &[]) };
        assert_eq!(mapping.order_of(&record).as_deref(), Some("o1"));
        mapping
            .decode(&record, NOW)
            .map(|event| event.store.map(|store| store.to_string()))
            .map_err(|reason| reason.code)
    };
    let (without, with) =
        (r#"{"type":"order.paid","order":"o1"}"#, r#"{"type":"order.paid","order":"o1","store":"17"}"#);
    assert_eq!(
        (store("orderbell.events", without), store("orderbell.events", with)),
        (Ok(None), Ok(Some("17".into())))
    );
    assert_eq!((store("orders", without), store("orders", with)), (Ok(Some("o1".into())), Err("key-mismatch")));
    let own: Mapping = toml::from_str("kafka_key = 'store'\n[topics.'orderbell.events']\nkafka_key = 'order'").unwrap();
    assert_eq!(own.clone().with_own_topic("orderbell.events"), own, "what the configuration says of that topic stays");
}

#[test]
fn a_load_test_mark_is_read_in_any_case() {
    let shadow = |mark: &str| decoded(&format!(r#"{{"type":"order.paid","order":"o1","shadow":{mark}}}"#)).shadow;
    assert!([r#""True""#, r#""TRUE""#, "1", "true"].into_iter().all(shadow));
    assert!(![r#""False""#, r#""FALSE""#, "0", "false"].into_iter().any(shadow));
}

/// Regression: the member of the order was called otherwise and the record's key was the store: every order after the first was stale.
#[test]
fn a_key_is_an_order_only_where_the_configuration_says_so() {
    let paid = r#"{"type":"order.paid","id":"e31","orderID":"o31","store":"17"}"#;
    let decode = |kafka_key, key: &str| {
        let mapping = Mapping { kafka_key, ..Mapping::default() };
        mapping.decode(&record(Some(key), paid, &[]), NOW).map(|event| event.order.to_string())
    };
    let reason = decode(KafkaKey::Any, "17").unwrap_err();
    assert_eq!((reason.code, &reason.message[..]), ("no-order", "the event names no order at /order"));
    assert_eq!(decode(KafkaKey::Store, "17").unwrap_err().code, "no-order");
    assert_eq!(decode(KafkaKey::Order, "o31").unwrap(), "o31");
}

#[test]
fn a_key_is_a_store_only_where_the_configuration_says_so() {
    let store = |kafka_key| {
        let mapping = Mapping { kafka_key, ..Mapping::default() };
        let record = record(Some("17"), r#"{"type":"order.paid","order":"o1"}"#, &[]);
        mapping.decode(&record, NOW).map(|event| event.store.map(|store| store.to_string()))
    };
    assert_eq!(store(KafkaKey::Any).unwrap(), None);
    assert_eq!(store(KafkaKey::Store).unwrap().as_deref(), Some("17"));
}

/// Regression: the subject of every event was the store, so all orders of a store were one.
#[test]
fn a_subject_that_is_the_store_is_no_order() {
    let decode = |mapping: &str, subject: &str| {
        let body = json!({"specversion": "1.0", "type": "order.paid", "id": "e41", "source": "/pos", "subject": subject,
            "data": {"orderId": "o41", "store": "17"}});
        let mapping: Mapping = toml::from_str(mapping).unwrap();
        let decoded = mapping.decode(&record(None, &body.to_string(), &[]), NOW);
        decoded.map_or_else(|reason| reason.message, |event| event.order.to_string())
    };
    assert_eq!(decode("", "17"), "the event names no order at /order");
    assert_eq!(decode("", "o41"), "o41");
    assert_eq!(decode("subject = 'any'", "o41"), "the event names no order at /order");
    let renamed = "the event names no order at /orderNo";
    assert_eq!(decode("order = '/orderNo'", "o41"), renamed, "a mapping that says where the order is means it");
    assert_eq!(decode("order = '/orderNo'\nsubject = 'order'", "o41"), "o41");
    // An order of Orderbell's own events may be called like its store.
    let own = json!({"specversion": "1.0", "type": "order.ready", "id": "1", "subject": "17", "data": {"store": "17"}});
    let record = record(None, &own.to_string(), &[("content-type", OWN_EVENT_MEDIA_TYPE)]);
    assert_eq!(Mapping::default().decode(&record, NOW).unwrap().order.as_str(), "17");
    assert_eq!(Mapping::default().order_of(&record).as_deref(), Some("17"));
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

#[test]
fn the_kafka_key_is_the_order_without_parsing_where_it_is_checked() {
    let mapping = Mapping { kafka_key: KafkaKey::Order, ..Mapping::default() };
    assert_eq!(mapping.order_of(&record(Some("o1"), "not JSON", &[])).as_deref(), Some("o1"));
    assert_eq!(mapping.order_of(&record(None, r#"{"order":"o2"}"#, &[])).as_deref(), Some("o2"));
    assert_eq!(outcome(&mapping, &record(Some("o1"), r#"{"type":"order.paid","order":"o2"}"#, &[])), "key-mismatch");
}

/// The id that decoding would find, from a built JSON value: a model that shares no code with the reader of members.
fn order_by_value(mapping: &Mapping, record: &Record) -> Option<String> {
    let json: Value = serde_json::from_slice(record.value.as_ref()?).ok()?;
    let header = |name: &str| record.header(name).and_then(|text| std::str::from_utf8(text).ok());
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let specversion = json.get("specversion").filter(|version| !version.is_null());
    let is_cloud_event = |media: &str| media.starts_with("application/cloudevents");
    let (subject, data) = if let Some(version) = header("ce_specversion") {
        version.starts_with("1.").then_some(())?;
        (header("ce_subject").map(str::to_owned), json.clone())
    } else if header("content-type").is_some_and(|media| media.contains("batch")) {
        return None;
    } else if header("content-type").is_some_and(is_cloud_event) || specversion.is_some() {
        specversion.and_then(text)?.starts_with("1.").then_some(())?;
        (json.get("subject").and_then(text), json.get("data").cloned().unwrap_or_default())
    } else {
        (None, json.clone())
    };
    let is_id = |text: String| (!text.is_empty() && text != "undefined").then_some(text);
    let subject = subject.map(|text| text.trim().to_owned()).and_then(is_id);
    let id_at = |pointer: &str| match data.pointer(pointer) {
        None | Some(Value::Null | Value::Bool(false)) => Ok(None),
        Some(Value::String(text)) => Ok(is_id(text.trim().to_owned())),
        Some(Value::Number(number)) => match number.to_string() {
            text if text.ends_with(".0") => Ok(Some(text.trim_end_matches(".0").to_owned())),
            text if text.contains('.') => Err(()),
            text => Ok(Some(text)),
        },
        Some(_) => Err(()),
    };
    let key = |what: KafkaKey| key_text(record).filter(|_| mapping.kafka_key == what);
    let subject_is_order = mapping.subject == Subject::Order || mapping.order.0 == ["/order"];
    let order = match &mapping.order.0[..] {
        [pointer] => {
            let order = id_at(pointer).ok()?.filter(|order| order != "0");
            let store = id_at(&mapping.store).ok().and_then(|store| store.or(key(KafkaKey::Store)));
            let is_order = |subject: &String| subject_is_order && subject != "0" && Some(subject) != store.as_ref();
            let subject = subject.clone().filter(is_order);
            let key = key(KafkaKey::Order).filter(|key| key != "0");
            order.or(if mapping.subject == Subject::Order { subject.or(key) } else { key.or(subject) })
        }
        pointers => {
            let parts: Result<Vec<_>, ()> = pointers
                .iter()
                .map(|pointer| Ok(id_at(pointer)?.filter(|id| id != "0")))
                .take_while(|id| *id != Ok(None))
                .collect();
            let parts: Vec<String> =
                parts.ok()?.into_iter().flatten().map(|id| id.replace('~', "~0").replace(':', "~1")).collect();
            (parts.len() == pointers.len()).then(|| parts.join(":"))
        }
    };
    order.or_else(|| id_at(&mapping.store).ok()?.or(key(KafkaKey::Store)).or(subject))
}

/// JSON text with the same member several times, and pointers into objects and arrays.
fn any_json() -> impl Strategy<Value = String> {
    let name =
        prop::sample::select(vec!["order", "store", "data", "subject", "specversion", "a/b", "0", "\\u006frder"]);
    let leaf = prop::sample::select(vec![
        "null",
        "true",
        "1",
        "-7",
        "1.5",
        "7.0",
        "0",
        "false",
        "\"x\"",
        "\"\"",
        "\" undefined\"",
        "\" y\"",
        "\"1.0\"",
        "\"a:~\"",
        "\"\\n\"",
        "[]",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(4, 40, 5, move |inner| {
        let member = (name.clone(), inner.clone()).prop_map(|(name, value)| format!("\"{name}\": {value}"));
        prop_oneof![
            prop::collection::vec(member, 0..6).prop_map(|members| format!("{{{}}}", members.join(", "))),
            prop::collection::vec(inner, 0..3).prop_map(|items| format!("[{}]", items.join(", "))),
        ]
    })
}

/// JSON of an id as producers write it: padded, with a point, or a word for nothing.
fn any_id() -> impl Strategy<Value = String> {
    let pad = || prop::sample::select(vec!["", " ", "\u{feff}", "\u{200b}", "\\u0000", "\\t"]);
    let word = prop::sample::select(vec!["o1", "17", "a b", "", "undefined", "NULL", "0", "\u{200b}"]);
    let text = (pad(), word, pad()).prop_map(|(before, word, after)| format!("\"{before}{word}{after}\""));
    prop_oneof![
        text,
        prop::sample::select(vec!["12345.0", "17", "0", "1e3", "1.5", "null", "false", "true", "{}"])
            .prop_map(str::to_owned)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    /// The queue of a record is that of the order which decoding finds, or two records of one order could be processed at the same time.
    #[test]
    fn the_pulled_order_is_the_decoded_one(
        json in any_json(),
        order in prop::collection::vec(prop::sample::select(vec!["/order", "/data/order", "/a~1b", "/order/0", "/0/store", "", "order", "/order/01"]), 1..3),
        headers in prop::sample::select(vec![
            vec![], vec![("content-type", "application/cloudevents+json")], vec![("ce_specversion", "1.0"), ("ce_subject", "s")],
            vec![("ce_specversion", "0.3")], vec![("content-type", "application/cloudevents-batch+json")],
        ]),
        key in prop::sample::select(vec![None, Some("k")]),
        subject in prop::sample::select(vec![Subject::Auto, Subject::Order]),
        kafka_key in prop::sample::select(vec![KafkaKey::Any, KafkaKey::Store]),
    ) {
        let order = OrderIdPointers(order.into_iter().map(str::to_owned).collect());
        let mapping = Mapping { order, subject, kafka_key, ..Mapping::default() };
        let record = record(key, &json, &headers);
        prop_assert_eq!(mapping.order_of(&record), order_by_value(&mapping, &record));
    }

    /// The same for whole events, with ids as producers pad them.
    #[test]
    fn the_queue_of_an_event_is_that_of_its_order(
        order in any_id(), store in any_id(), key in prop::option::of("[ \"o1]{0,4}"), kafka_key in prop::sample::select(vec![KafkaKey::Any, KafkaKey::Order, KafkaKey::Store]),
        composed in any::<bool>(), envelope in any::<bool>(),
    ) {
        let pointers = if composed { vec!["/store", "/order"] } else { vec!["/order"] };
        let order_pointers = OrderIdPointers(pointers.into_iter().map(str::to_owned).collect());
        let mapping = Mapping { order: order_pointers, kafka_key, ..Mapping::default() };
        let data = format!(r#"{{"type":"order.paid","order":{order},"store":{store}}}"#);
        let value = if envelope { format!(r#"{{"specversion":"1.0","type":"order.paid","subject":" s ","data":{data}}}"#) } else { data };
        let record = record(key.as_deref(), &value, &[]);
        if let Ok(event) = mapping.decode(&record, NOW) {
            let queue = mapping.order_of(&record);
            prop_assert_eq!(queue.as_deref(), Some(event.order.as_str()));
            for id in [Some(&event.order), event.store.as_ref()].into_iter().flatten() {
                prop_assert_eq!(&Id::parse(id.as_str()).unwrap(), id, "what was read is normal");
            }
        }
    }
}
