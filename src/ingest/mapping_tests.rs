use super::*;
use bytes::Bytes;
use orderbell_consumers::Part;
use serde_json::json;

const NOW: UnixMs = UnixMs(1_790_000_000_000);

fn record(key: Option<&str>, value: &str, headers: &[(&str, &str)]) -> Record {
    Record {
        part: Part::new("orders", 0),
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

fn code(mapping: &Mapping, record: &Record) -> &'static str {
    mapping.decode(record, NOW).map_or_else(|reason| reason.code, |_| "understood")
}

#[test]
fn the_binary_mode_of_cloudevents_is_understood() {
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
    assert_eq!(event.details.unwrap().get(), "{\"items\":[1]}", "what is not allowed stays behind");
}

#[test]
fn the_structured_mode_of_cloudevents_is_understood() {
    let body = json!({"specversion": "1.0", "type": "order.accepted", "id": "e2", "source": "s", "subject": "o2",
        "time": "2026-09-21T10:00:00Z", "data": {"store": "s1", "code": "A17"}});
    let event = Mapping::default().decode(&record(None, &body.to_string(), &[]), NOW).unwrap();
    assert_eq!((event.kind, event.order.as_str()), (EventType::Accepted, "o2"));
    assert_eq!(event.code, Some(PickupCode("A17".into())));
}

#[test]
fn plain_json_is_understood_through_a_mapping() {
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
fn an_order_that_can_be_rung_is_rung() {
    let body = json!({"type": "order.paid", "order": "o1", "amount": -5, "time": "soon"}).to_string();
    let event = Mapping::default().decode(&record(None, &body, &[]), NOW).unwrap();
    assert_eq!(event.flags, [Flag::Clock, Flag::Amount]);
    assert_eq!((event.store, event.amount), (None, None));
}

#[test]
fn what_cannot_be_understood_says_why() {
    let mapping = Mapping::default();
    let plain = |value: &str| code(&mapping, &record(None, value, &[]));
    assert_eq!(plain(""), "not-json");
    assert_eq!(plain("{"), "not-json");
    assert_eq!(plain("\u{0}"), "not-json");
    assert_eq!(plain("{\"amount\":NaN}"), "not-json");
    assert_eq!(plain(&"[".repeat(200)), "not-json", "deeper than the parser goes");
    assert_eq!(plain(&format!("\"{}\"", "x".repeat(VALUE_BYTES_MAX))), "too-long");
    assert_eq!(plain("{}"), "no-type");
    assert_eq!(plain("[]"), "no-type");
    assert_eq!(plain("{\"type\":\"order.eaten\",\"order\":\"1\"}"), "unknown-type");
    assert_eq!(plain("{\"type\":\"order.paid\"}"), "no-order");
    assert_eq!(plain("{\"type\":\"order.paid\",\"order\":\"\"}"), "bad-order");
    assert_eq!(plain("{\"type\":\"order.paid\",\"order\":\"1\",\"store\":\"a\\nb\"}"), "bad-id");
    assert_eq!(plain("{\"type\":\"order.paid\",\"order\":\"1\",\"shadow\":\"maybe\"}"), "bad-shadow");
    assert_eq!(plain("{\"specversion\":\"0.3\",\"type\":\"order.paid\",\"subject\":\"1\"}"), "bad-envelope");
    let batch = record(None, "[]", &[("content-type", "application/cloudevents-batch+json")]);
    assert_eq!(code(&mapping, &batch), "batch");
    assert_eq!(code(&mapping, &Record { value: None, ..record(None, "", &[]) }), "tombstone");
    assert_eq!(code(&mapping, &record(None, "{\"type\":\"order.paid\",\"order\":\"1\"}", &[])), "understood");
}

#[test]
fn a_number_that_lost_its_digits_is_no_id() {
    let mapping = Mapping::default();
    let plain =
        |order: &str| code(&mapping, &record(None, &format!("{{\"type\":\"order.paid\",\"order\":{order}}}"), &[]));
    assert_eq!(plain("18446744073709551615"), "understood");
    assert_eq!(plain("123456789012345678901234"), "bad-id");
    assert_eq!(plain("1.5"), "bad-id");
    assert_eq!(plain("[1]"), "bad-id");
    assert_eq!(plain("\"123456789012345678901234\""), "understood");
}

#[test]
fn a_key_that_contradicts_its_body_is_refused() {
    let body = "{\"type\":\"order.paid\",\"order\":\"o1\",\"store\":\"s1\"}";
    let with = |kafka_key| Mapping { kafka_key, ..Mapping::default() };
    assert_eq!(code(&with(KafkaKey::Order), &record(Some("o1"), body, &[])), "understood");
    assert_eq!(code(&with(KafkaKey::Order), &record(Some("o2"), body, &[])), "key-mismatch");
    assert_eq!(code(&with(KafkaKey::Store), &record(Some("s2"), body, &[])), "key-mismatch");
    assert_eq!(code(&with(KafkaKey::Any), &record(Some("s2"), body, &[])), "understood");
}

#[test]
fn amounts_never_pass_through_floating_point() {
    let major = |value: Value| minor_units(&value, AmountUnit::Major).map(|minor| minor.0);
    assert_eq!(major(json!("12.50")), Some(1250));
    assert_eq!(major(json!(12.5)), Some(1250));
    assert_eq!(major(json!("0.07")), Some(7));
    assert_eq!(major(json!("1.005")), None);
    assert_eq!(major(json!("-1")), None);
    assert_eq!(major(json!("99999999999999999999")), None);
    assert_eq!(minor_units(&json!(12.5), AmountUnit::Minor), None);
}

#[test]
fn an_order_id_is_composed_of_several_members_without_two_orders_sharing_one() {
    let mapping: Mapping = toml::from_str("order = ['/shop/id', '/no']").unwrap();
    let order = |shop: &str, no: &str| {
        let value = json!({"type": "order.paid", "shop": {"id": shop}, "no": no}).to_string();
        let record = record(Some("key"), &value, &[]);
        let event = mapping.decode(&record, NOW).unwrap();
        assert_eq!(mapping.order_of(&record).as_deref(), Some(event.order.as_str()), "one choice of key");
        event.order.as_str().to_owned()
    };
    assert_eq!(order("17", "4711"), "17:4711");
    assert_ne!(order("a:b", "c"), order("a", "b:c"));
    assert_ne!(order("a~1b", "c"), order("a:b", "c"));
    // A part that is missing has no substitute.
    let half = record(Some("17:4711"), r#"{"type":"order.paid","no":4711}"#, &[]);
    assert_eq!(code(&mapping, &half), "no-order");
    assert!(toml::from_str::<Mapping>("order = []").is_err());
    // Orders whose number is blank must not become one.
    for blank in ["", " ", " 7"] {
        let value = json!({"type": "order.paid", "shop": {"id": "17"}, "no": blank}).to_string();
        assert_eq!(code(&mapping, &record(None, &value, &[])), "bad-order", "{blank:?}");
    }
}

#[test]
fn each_topic_may_call_things_its_own_way() {
    let text = "types = { PAID = 'order.paid' }\n[topics.payments]\norder = '/trade'\ntypes = { OK = 'order.paid' }";
    let mapping: Mapping = toml::from_str(text).unwrap();
    let theirs = Record { part: Part::new("payments", 0), ..record(None, r#"{"type":"OK","trade":"o1"}"#, &[]) };
    assert_eq!(mapping.decode(&theirs, NOW).unwrap().order.as_str(), "o1");
    assert_eq!(mapping.order_of(&theirs).as_deref(), Some("o1"));
    assert!(mapping.looks_paid(&theirs));
    let ours = record(None, r#"{"type":"PAID","order":"o1"}"#, &[]);
    assert_eq!(mapping.decode(&ours, NOW).unwrap().order.as_str(), "o1");
    assert_eq!(code(&mapping, &Record { part: Part::new("payments", 0), ..ours }), "unknown-type");
}

#[test]
fn amounts_and_times_are_taken_as_a_chain_writes_them() {
    let mapping: Mapping =
        toml::from_str("amount_unit = 'major'\ntime = '/paid_at'\ntime_zone = 'Asia/Shanghai'").unwrap();
    let value = r#"{"type":"order.paid","order":"o1","amount":"12.50","paid_at":"2026-09-21 18:00:00"}"#;
    let event = mapping.decode(&record(None, value, &[]), NOW).unwrap();
    assert_eq!((event.amount, event.at), (Some(MinorUnits(1250)), UnixMs(1_789_984_800_000)));
    assert_eq!(event.flags, []);
}

/// The bug: without a source, the versions and ids of two topics were compared.
#[test]
fn two_topics_that_name_no_source_are_two_sources() {
    let value = r#"{"type":"order.paid","order":"o1","id":"1"}"#;
    let mapping = Mapping::default();
    let source = |topic: &str, headers: &[(&str, &str)]| {
        let record = Record { part: Part::new(topic, 0), ..record(None, value, headers) };
        mapping.decode(&record, NOW).unwrap().source
    };
    assert_ne!(source("orders", &[]), source("payments", &[]));
    // A dead letter that is sent again is still of its topic, whichever way it comes.
    assert_eq!(source("out", &[("kafka_dlt-original-topic", "payments")]), source("payments", &[]));
    assert_eq!(source("out", &[("content-type", "application/json; topic=payments")]), source("payments", &[]));
}

#[test]
fn a_letter_that_is_sent_again_is_understood_by_the_mapping_of_its_topic() {
    let mapping: Mapping = toml::from_str("[topics.payments]\norder = '/trade'").unwrap();
    let headers = [("kafka_dlt-original-topic", "payments")];
    let again = record(None, r#"{"type":"order.paid","trade":"o1"}"#, &headers);
    assert_eq!(mapping.decode(&again, NOW).unwrap().order.as_str(), "o1");
    assert_eq!(mapping.order_of(&again).as_deref(), Some("o1"));
}
