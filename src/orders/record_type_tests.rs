use super::*;
use bytes::Bytes;
use orderbell_consumers::TopicPartition;
use orderbell_protocol::UnixMs;

const NOW: UnixMs = UnixMs(1_790_000_000_000);

fn record(value: impl AsRef<[u8]>, headers: &[(&str, &str)]) -> Record {
    let header = |(name, value): &(&str, &str)| ((*name).to_owned(), Some(Bytes::copy_from_slice(value.as_bytes())));
    Record {
        partition: TopicPartition::new("orders", 0),
        offset: 0,
        timestamp_ms: NOW.0,
        read_ms: NOW.0,
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_ref())),
        headers: headers.iter().map(header).collect(),
    }
}

fn mapping(text: &str) -> Mapping {
    toml::from_str(text).unwrap()
}

#[test]
fn a_record_that_only_mentions_a_payment_is_no_paid_order() {
    let mapping = mapping("types = { '2' = 'order.paid', PAID = 'order.paid' }");
    for other in [
        r#"{"type":"courier.moved","id":"e411","order":"o41","lat":31.2,"lon":121.4}"#,
        r#"{"type":"UNPAID","order":"o41"}"#,
        r#"{"type":"note","order":"o41","text":"order.paid soon"}"#,
        r#"{"specversion":"1.0","type":"shop.moved","subject":"o41","data":{"type":"PAID"}}"#,
        r#"{"specversion":"0.3","type":"UNPAID","data":{"type":"PAID"}}"#,
    ] {
        assert!(mapping.decode(&record(other, &[]), NOW).is_err(), "{other}");
        assert_eq!(mapping.looks_paid(&record(other, &[])), LooksPaid::No, "{other}");
    }
}

#[test]
fn a_paid_order_that_is_rejected_is_known_by_its_type_wherever_that_is() {
    let mapping = mapping("order = '/no'\ntypes = { PAID = 'order.paid' }");
    let binary = [("ce_specversion", "1.0"), ("CE_Type", "\"PAID\"")];
    for (value, headers) in [
        (r#"{"type":"PAID"}"#, &[][..]),
        (r#"{"type":" order.paid ","no":{}}"#, &[]),
        (r#"{"specversion":"1.0","type":"PAID","data":{}}"#, &[]),
        (r#"{"specversion":"1.0","type":"PAID","data_base64":"?"}"#, &[]),
        (r#"{"specversion":"2.0","type":"PAID","data":{}}"#, &[]),
        ("{}", &binary),
        ("no JSON", &binary),
    ] {
        let record = record(value, headers);
        assert!(mapping.decode(&record, NOW).is_err(), "{value}");
        assert_eq!(mapping.looks_paid(&record), LooksPaid::Yes, "{value}");
    }
}

/// The bug: where other events of a topic were understood, a payment in an envelope that the mapping does not know, or with members in another case, had
/// no type and named nothing where the mapping looks. It became a dead letter that no alert reported.
#[test]
fn a_payment_in_something_unknown_may_be_a_paid_order() {
    let event = r#"{"type":"order.paid","id":"e1","order":"o1","store":"17"}"#;
    for value in [
        format!(r#"{{"events":[{event}]}}"#),
        format!(r#"{{"payload":{}}}"#, serde_json::to_string(event).unwrap()),
        format!(r#"{{"op":"c","before":null,"after":{event},"source":{{"db":"shop"}}}}"#),
        r#"{"Type":"order.paid","Id":"e1","Order":"o1","Store":"17"}"#.to_owned(),
    ] {
        let record = record(&value, &[]);
        assert_eq!(Mapping::default().decode(&record, NOW).unwrap_err().code, "no-type", "{value}");
        assert_eq!(Mapping::default().looks_paid(&record), LooksPaid::Unreadable, "{value}");
    }
    let mapping = mapping("types = { PAID = 'order.paid' }");
    for other in
        [r#"{"note":"order.paid soon"}"#, r#"{"invoice":{"state":"PAID"}}"#, r#"{"data":["order.paid.failed"]}"#]
    {
        assert_eq!(mapping.looks_paid(&record(other, &[])), LooksPaid::No, "{other}");
    }
}

/// The bug: a producer that changed the version of its types had its payments in the dead letters, and no alert for the first 200.
#[test]
fn a_payment_of_another_version_may_be_a_paid_order() {
    for kind in ["order.paid.v2", "com.shop.order.paid", "com.shop.order.paid.v1"] {
        let record = record(format!(r#"{{"type":"{kind}","order":"o1","store":"17"}}"#), &[]);
        assert_eq!(Mapping::default().decode(&record, NOW).unwrap_err().code, "unknown-type", "{kind}");
        assert_eq!(Mapping::default().looks_paid(&record), LooksPaid::Yes, "{kind}");
    }
    let failed = record(r#"{"type":"order.paid.failed","order":"o1"}"#, &[]);
    assert_eq!(Mapping::default().looks_paid(&failed), LooksPaid::No);
}

/// The bug: the same with the chain's own name of a payment.
#[test]
fn a_payment_by_the_chains_own_name_in_something_unknown_may_be_a_paid_order() {
    let mapping = mapping("types = { 'trade.paid' = 'order.paid', 'trade.new' = 'order.created', 3 = 'order.paid' }");
    let event = r#"{"type":"trade.paid","id":"e1","order":"o1","store":"17"}"#;
    for value in [
        format!(r#"{{"events":[{event}]}}"#),
        format!(r#"{{"payload":{}}}"#, serde_json::to_string(event).unwrap()),
        format!(r#"{{"op":"c","before":null,"after":{event},"source":{{"db":"shop"}}}}"#),
        r#"{"Type":"trade.paid","Id":"e1","Order":"o1","Store":"17"}"#.to_owned(),
        r#"{"row":{"TYPE":3}}"#.to_owned(),
        r#"{"row":{"type":"Trade.Paid"}}"#.to_owned(),
    ] {
        assert_eq!(mapping.looks_paid(&record(&value, &[])), LooksPaid::Unreadable, "{value}");
    }
    for other in
        [r#"{"row":{"type":"trade.new"}}"#, r#"{"row":{"note":"trade.paid"}}"#, r#"{"row":{"type":["trade.paid"]}}"#]
    {
        assert_eq!(mapping.looks_paid(&record(other, &[])), LooksPaid::No, "{other}");
    }
    let escaped: Mapping = toml::from_str("type = '/order~1type'\ntypes = { 'trade.paid' = 'order.paid' }").unwrap();
    let value = r#"{"row":{"order/type":"trade.paid"}}"#;
    assert_eq!(escaped.looks_paid(&record(value, &[])), LooksPaid::Unreadable);
}

/// The bug: where other events of a topic were understood, payments whose type was written in another case became dead letters that no alert reported,
/// or were ignored with all that is foreign.
#[test]
fn a_payment_in_another_spelling_is_no_foreign_type() {
    for (types, name) in [
        ("types = { PAID = 'order.paid', NEW = 'order.created' }", "Paid"),
        ("types = { PAID = 'order.paid', '*' = 'ignore' }", "paid"),
        ("types = { '*' = 'ignore' }", "ORDER_PAID"),
        ("", "OrderPaid"),
    ] {
        let (mapping, record) =
            (mapping(types), record(format!(r#"{{"type":"{name}","order":"o1","store":"17"}}"#), &[]));
        let reason = mapping.decode(&record, NOW).unwrap_err();
        assert_eq!(
            (reason.code, mapping.looks_paid(&record), mapping.ignored(&record)),
            ("unknown-type", LooksPaid::Yes, None),
            "{name}"
        );
        assert!(reason.message.contains("is another spelling of one that is order.paid"), "{}", reason.message);
    }
}

/// Regression: an order whose first event is that it is accepted notifies its store, and was lost quietly.
#[test]
fn an_event_that_may_be_the_first_of_its_order_may_be_a_paid_one() {
    let mapping = mapping("types = { TAKEN = 'order.accepted' }");
    let looks = |kind: &str| mapping.looks_paid(&record(format!(r#"{{"type":"{kind}","order":{{}}}}"#), &[]));
    assert_eq!(
        (looks("TAKEN"), looks("order.ready"), looks("order.paid")),
        (LooksPaid::Later, LooksPaid::Later, LooksPaid::Yes)
    );
    for other in ["order.created", "order.picked_up", "order.cancelled", "courier.moved"] {
        assert_eq!(looks(other), LooksPaid::No, "{other}");
    }
}

/// Regression: without its version, the type in the headers of a binary CloudEvent was not looked at.
#[test]
fn a_type_in_a_header_counts_without_the_version_of_the_envelope() {
    let header = [("ce_type", "order.paid")];
    let value = |value: &str, headers: &[(&str, &str)]| Mapping::default().looks_paid(&record(value, headers));
    assert_eq!(value(r#"{"amount":500}"#, &header), LooksPaid::Yes);
    assert_eq!(value(r#"{"type":"NEW","amount":500}"#, &header), LooksPaid::Yes, "the type of something else");
    assert_eq!(value(r#"{"amount":500}"#, &[]), LooksPaid::No);
}

#[test]
fn the_type_of_a_payment_sounds_like_one() {
    let sounds = |kind: &str| Mapping::default().sounds_paid(&record(format!(r#"{{"type":"{kind}"}}"#), &[]));
    ["OrderPaid", "PAY_SUCCESS", "trade.payment.completed", "订单支付成功"]
        .iter()
        .for_each(|kind| assert!(sounds(kind), "{kind}"));
    ["courier.moved", "2", "order.done", "UNPAID", ""].iter().for_each(|kind| assert!(!sounds(kind), "{kind}"));
}

#[test]
fn a_record_whose_type_cannot_be_read_may_be_a_paid_order() {
    let utf16: Vec<u8> = "\u{feff}{\"type\":\"x\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let long = format!("{{\"type\":\"x\",\"note\":\"{}\"}}", "n".repeat(70_000));
    let mapping = Mapping::default();
    for unreadable in [&utf16[..], long.as_bytes(), b"type=x", b"\0\0\0\0\x0c\x02\x06o1", b"[{\"type\":\"x\"}]"] {
        assert!(mapping.decode(&record(unreadable, &[]), NOW).is_err());
        assert_eq!(mapping.looks_paid(&record(unreadable, &[])), LooksPaid::Unreadable);
    }
    for (nameless, expected) in [
        (r#"{"event":"x","order":"o1"}"#, LooksPaid::Unreadable),
        (r#"{"event":"x","order":{"id":1}}"#, LooksPaid::Unreadable),
        (r#"{"event":"x","store":17}"#, LooksPaid::Unreadable),
        (r#"{"type":"","order":"o1"}"#, LooksPaid::Unreadable),
        (r#"{"type":" undefined ","store":17}"#, LooksPaid::Unreadable),
        (r#"{"type":"","table":"orders"}"#, LooksPaid::No),
        (r#"{"data":null,"table":"orders","sql":"alter orders add order.paid INT"}"#, LooksPaid::No),
        ("null", LooksPaid::No),
    ] {
        assert_eq!(mapping.looks_paid(&record(nameless, &[])), expected, "{nameless}");
    }
    assert_eq!(mapping.looks_paid(&Record { value: None, ..record("", &[]) }), LooksPaid::No, "a tombstone");
    // The version of a CloudEvent was left out: its headers say that it is no tombstone.
    let headers_alone = Record { value: None, ..record("", &[("ce_type", "order.paid")]) };
    assert_eq!(Mapping::default().decode(&headers_alone, NOW).unwrap_err().code, "not-json");
    assert_eq!(Mapping::default().looks_paid(&headers_alone), LooksPaid::Yes);
}

#[test]
fn foreign_types_are_ignored_where_the_configuration_says_so() {
    let outcome = |text: &str, kind: &str| {
        let record = record(format!(r#"{{"type":"{kind}","id":"e1","order":"o1"}}"#), &[]);
        let mapping = mapping(text);
        let code = mapping.decode(&record, NOW).map_or_else(|reason| reason.code, |event| event.kind.name());
        (code, mapping.ignored(&record).map(|ignored| ignored.kind))
    };
    let one = "types = { 'payment.settled' = 'ignore', PAID = 'order.paid' }";
    assert_eq!(outcome(one, "payment.settled"), ("ignored", Some("payment.settled".into())));
    assert_eq!(outcome(one, "courier.moved"), ("unknown-type", None));
    assert_eq!(outcome(one, "PAID"), ("order.paid", None));
    let rest = "types = { '*' = 'ignore', PAID = 'order.paid', 'order.created' = 'ignore' }";
    assert_eq!(outcome(rest, "courier.moved"), ("ignored", Some("courier.moved".into())));
    assert_eq!(outcome(rest, "PAID"), ("order.paid", None));
    assert_eq!(outcome(rest, "order.ready"), ("order.ready", None), "Orderbell's own types are never foreign");
    assert_eq!(outcome(rest, "order.created"), ("ignored", Some("order.created".into())), "unless they are listed");
    let topic = "[topics.payments]\ntypes = { '*' = 'ignore' }";
    assert_eq!(outcome(topic, "courier.moved"), ("unknown-type", None), "another topic");
}

#[test]
fn an_ignored_event_needs_no_order_and_has_the_id_of_its_producer() {
    let mapping = mapping("types = { '*' = 'ignore' }");
    let ignored = |value: &str| mapping.ignored(&record(value, &[])).unwrap();
    assert_eq!(ignored(r#"{"type":"courier.moved","id":7}"#).id, "7");
    assert!(ignored(r#"{"type":"courier.moved"}"#).id.starts_with("hash:"));
    let envelope = r#"{"specversion":"1.0","type":"courier.moved","id":"c1","data":null}"#;
    assert_eq!(ignored(envelope), IgnoredEvent { kind: "courier.moved".into(), id: "c1".into() });
}
