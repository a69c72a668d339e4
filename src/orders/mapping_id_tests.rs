//! Which order and which store a record names: members, keys and subjects, and that the queue is that of the order.

use super::super::fields::MAX_EVENT_ID_BYTES;
use super::tests::{NOW, outcome, record};
use super::*;
use orderbell_consumers::TopicPartition;
use proptest::prelude::*;
use serde_json::{Value, json};

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
    assert_eq!((plain("\"12345.0\""), plain("\"007.0\"")), ("12345".into(), "007".into()), "a text as well");
    for other in ["1.50", "2024.10", "v1.0", "17.", "1e3"] {
        assert_eq!(plain(&format!("\"{other}\"")), other, "a text that is no whole number is what it is");
    }
}

/// Regression: a CSV export wrote `"17.0"`, which was another store than 17: the order counted as notified, and no till was.
#[test]
fn ids_that_are_texts_of_whole_numbers_are_those_numbers_wherever_they_stand() {
    let ids = |config: &str, key: &str, members: &str| {
        let mapping: Mapping = toml::from_str(config).unwrap();
        let record =
            record(Some(key), &format!(r#"{{"type":"order.paid","id":"e1",{members}}}"#), &[("shop", "\"17.0\"")]);
        let event = mapping.decode(&record, NOW).map_err(|reason| reason.code)?;
        assert_eq!(mapping.order_of(&record).as_deref(), Some(event.order.as_str()), "its queue");
        let text = |id: Option<Id>| id.map_or(String::new(), |id| id.to_string());
        Ok::<_, &str>(format!("{} {} {} {}", event.order, text(event.store), text(event.customer), text(event.device)))
    };
    let members = r#""order":"5.0","store":"17.00","customer":"8.0","device":"1.0""#;
    assert_eq!(ids("", "k", members).unwrap(), "5 17 8 1");
    assert_eq!(ids("kafka_key = 'order'", "5.0", members).unwrap(), "5 17 8 1");
    assert_eq!(ids("kafka_key = 'order'", "\"5.0\"", r#""store":17"#).unwrap(), "5 17  ");
    assert_eq!(ids("kafka_key = 'order'", "5", r#""order":5.0"#).unwrap(), "5   ");
    assert_eq!(ids("kafka_key = 'store'", "17.0", r#""order":"o1""#).unwrap(), "o1 17  ");
    assert_eq!(ids("kafka_key = 'order'", "5.5", members), Err("key-mismatch"));
    assert_eq!(ids("store = '/__headers/Shop'", "k", members).unwrap(), "5 17 8 1");
    assert_eq!(ids("order = ['/store', '/order']", "k", members).unwrap(), "17:5 17 8 1");
    let nobody = "nobody = ['8.0', '9']\nno_store = ['17', '3.0']";
    assert_eq!(ids(nobody, "k", members).unwrap(), "5   1", "those of the configuration are read alike");
    let of_event = |id: &str| {
        let value = format!(r#"{{"type":"order.paid","id":{id},"order":"o1"}}"#);
        Mapping::default().decode(&record(None, &value, &[]), NOW).unwrap().id
    };
    assert_eq!((of_event("\"7.0\""), of_event("7.0")), ("7.0".into(), "7.0".into()), "compared as they were written");
}

/// Regression: of a store that is written with a point the zeros were left of the subject, so all its orders were the order `shops/17.0`.
#[test]
fn a_subject_that_is_a_store_with_a_point_is_no_order() {
    let order = |subject: &str, store: &str| {
        let data = format!(r#"{{"store":{store}}}"#);
        let value = format!(
            r#"{{"specversion":"1.0","type":"order.paid","id":"e1","source":"/s","subject":"{subject}","data":{data}}}"#
        );
        outcome(&Mapping::default(), &record(None, &value, &[]))
    };
    for store in ["17.0", "\"17.0\"", "17"] {
        for subject in ["shops/17.0", "17.0", "17", "shops/17.00/new"] {
            assert_eq!(order(subject, store), "no-order", "{subject} of {store}");
        }
    }
    assert_ne!(order("shops/17.01", "17"), "no-order");
    assert_ne!(order("5.0", "17"), "no-order");
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
    let words = ["\"undefined\"", "\"null\"", "\"None\"", "\" NaN \"", "\"\"", "false", "null"];
    let zeros = ["0", "0.0", "-0.0", "\"0\"", "\"0.0\"", "\"-0.0\""];
    let no_ids = ["\"N/A\"", "\"-\"", "\"-1\"", "-1", "-1.0", "\"00000000-0000-0000-0000-000000000000\""];
    for nothing in words.into_iter().chain(zeros).chain(no_ids) {
        let value = format!("{{\"type\":\"order.paid\",\"order\":{nothing}}}");
        assert_eq!(outcome(&mapping, &record(None, &value, &[])), "no-order", "{nothing}");
    }
    for nothing in zeros.into_iter().chain(["\"undefined\"", "-1", "\"00000000-0000-0000-0000-000000000000\""]) {
        let value = format!("{{\"type\":\"order.paid\",\"order\":\"o1\",\"store\":{nothing}}}");
        assert_eq!(mapping.decode(&record(None, &value, &[]), NOW).unwrap().store, None, "{nothing}");
    }
}

/// A status of -1 is a type like any other.
#[test]
fn what_stands_for_no_id_may_be_a_type() {
    let mapping: Mapping = toml::from_str("types = { '-1' = 'order.cancelled' }").unwrap();
    let value = r#"{"type":-1,"order":"o1","store":"17"}"#;
    assert_eq!(mapping.decode(&record(None, value, &[]), NOW).unwrap().kind, EventType::Cancelled);
}

#[test]
fn a_key_in_json_quotes_is_the_order_in_them() {
    let mapping = Mapping { kafka_key: KafkaKey::Order, ..Mapping::default() };
    let record = record(Some("\"o26\""), r#"{"type":"order.paid","order":"o26"}"#, &[]);
    assert_eq!(mapping.decode(&record, NOW).unwrap().order.as_str(), "o26");
    assert_eq!(mapping.order_of(&record).as_deref(), Some("o26"));
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
        "-0.0",
        "\"0\"",
        "\"0.0\"",
        "\"-0.0\"",
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
fn a_record_whose_key_contradicts_its_body_is_rejected() {
    let body = "{\"type\":\"order.paid\",\"order\":\"o1\",\"store\":\"s1\"}";
    let with = |kafka_key| Mapping { kafka_key, ..Mapping::default() };
    assert_eq!(outcome(&with(KafkaKey::Order), &record(Some("o1"), body, &[])), "decoded");
    assert_eq!(outcome(&with(KafkaKey::Order), &record(Some("o2"), body, &[])), "key-mismatch");
    assert_eq!(outcome(&with(KafkaKey::Store), &record(Some("s2"), body, &[])), "key-mismatch");
    assert_eq!(outcome(&with(KafkaKey::Any), &record(Some("s2"), body, &[])), "decoded");
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
    for zero in ["0", "0.0", "-0.0"] {
        assert_eq!(outcome(&by_key, &record(Some(zero), r#"{"type":"order.paid","store":"17"}"#, &[])), "no-order");
        let subject = json!({"specversion": "1.0", "type": "order.paid", "id": "e", "source": "s", "subject": zero, "data": {"store": "17"}});
        assert_eq!(outcome(&Mapping::default(), &record(None, &subject.to_string(), &[])), "no-order", "{zero}");
    }
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
    let known = own.clone().with_own_topic("orderbell.events");
    let kept = &known.topics["orderbell.events"];
    assert_eq!(kept.kafka_key, KafkaKey::Order, "what the configuration says of that topic stays");
}

/// The bug: a header chose the mapping of another topic, or passed for Orderbell's own events, in any topic: another store was notified.
#[test]
fn headers_of_replayed_and_own_events_count_in_the_topic_that_orderbell_writes_alone() {
    let text = "kafka_key = 'order'\nstore = '/shop'\n[topics.payments]\nstore = '/store'";
    let mapping = toml::from_str::<Mapping>(text).unwrap().with_own_topic("orderbell.events");
    let read = |topic: &str, key: &str, body: &str, header: (&str, &str)| {
        let record = Record { partition: TopicPartition::new(topic, 0), ..record(Some(key), body, &[header]) };
        let decoded = mapping.decode(&record, NOW).map(|event| (event.store.unwrap().to_string(), event.source));
        decoded.map_err(|reason| reason.code)
    };
    let body = r#"{"type":"order.paid","id":"e","order":"o1","shop":"18","store":"17"}"#;
    let replayed = ("kafka_dlt-original-topic", "payments");
    assert_eq!(read("orders", "o1", body, replayed), Ok(("18".into(), "orders".into())));
    assert_eq!(read("payments", "o1", body, replayed), Ok(("17".into(), "payments".into())));
    assert_eq!(read("orderbell.events", "o1", body, replayed), Ok(("17".into(), "payments".into())));
    let media = ("content-type", "application/json; topic=payments");
    assert_eq!(read("orders", "o1", body, media), Ok(("18".into(), "orders".into())));
    assert_eq!(read("orderbell.events", "o1", body, media), Ok(("17".into(), "payments".into())));
    let own = r#"{"specversion":"1.0","type":"order.paid","source":"s","id":"e","subject":"o1","data":{"order":"o1","shop":"18","store":"17"}}"#;
    let marked = ("content-type", OWN_EVENT_MEDIA_TYPE);
    assert_eq!(read("orders", "wrong", own, marked), Err("key-mismatch"));
    assert_eq!(read("orders", "o1", own, marked), Ok(("18".into(), "s".into())));
    assert_eq!(read("orderbell.events", "wrong", own, marked), Ok(("17".into(), "s".into())));
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
    let hint = ", and its subject may be something else: set order to the pointer of the order, or subject = \"order\"";
    assert_eq!(decode("", "17"), format!("the event names no order at /order{hint}"));
    assert_eq!(decode("subject = 'order'", "17"), "the event names no order at /order");
    assert_eq!(decode("subject = 'any'", "o41"), "the event names no order at /order");
    let renamed = format!("the event names no order at /orderNo{hint}");
    assert_eq!(decode("order = '/orderNo'", "o41"), renamed, "a mapping that says where the order is means it");
    assert_eq!(decode("order = '/orderNo'\nsubject = 'order'", "o41"), "o41");
    // An order of Orderbell's own events may be called like its store.
    let own = json!({"specversion": "1.0", "type": "order.ready", "id": "1", "subject": "17", "data": {"store": "17"}});
    let record = record(None, &own.to_string(), &[("content-type", OWN_EVENT_MEDIA_TYPE)]);
    assert_eq!(Mapping::default().decode(&record, NOW).unwrap().order.as_str(), "17");
    assert_eq!(Mapping::default().order_of(&record).as_deref(), Some("17"));
}

/// Regression: any subject that was not exactly the store was the order: `shops/17` made all orders of a store one, a city those of a city.
#[test]
fn a_subject_that_may_be_something_else_is_no_order_unasked() {
    let order = |subject: &str, data: &str| {
        let body = format!(
            r#"{{"specversion":"1.0","type":"order.paid.v1","id":"e1","source":"/pos/2","subject":"{subject}","data":{data}}}"#
        );
        let mapping: Mapping = toml::from_str("types = { 'order.paid.v1' = 'order.paid' }").unwrap();
        let record = record(None, &body, &[]);
        let decoded = mapping.decode(&record, NOW);
        decoded.iter().for_each(|event| assert_eq!(mapping.order_of(&record).as_deref(), Some(event.order.as_str())));
        decoded.map_or_else(|reason| reason.code.to_owned(), |event| event.order.to_string())
    };
    let data = r#"{"store":"17","amount":1250,"customer":"c5","city":"Shanghai","items":[{"sku":"4"}],"time":1790000000,"test":false}"#;
    for subject in ["o41", "orders/41", "17-0041", "shops/17/orders/41", "A234-1234-1234"] {
        assert_eq!(order(subject, data), subject);
    }
    assert_eq!((order("o41", "null"), order("o41", "{}")), ("o41".into(), "o41".into()), "a body says nothing else");
    for other in [
        "shops/17",
        "store-17",
        "store17",
        "17",
        "/17/",
        "Shanghai",
        "order.paid",
        "order.paid.v1",
        "/pos/2",
        "c5",
        "store/17/customer/c5",
    ] {
        assert_eq!(order(other, data), "no-order", "{other}");
    }
    for may_be_the_order in ["orderId", "id", "number", "no"] {
        let data = format!(r#"{{"store":"17","{may_be_the_order}":"0041"}}"#);
        assert_eq!(order("5", &data), "no-order", "the subject may be a customer: {data}");
        assert_eq!(order("5", &format!(r#"{{"store":"17","trade":[{data}]}}"#)), "no-order");
    }
}

/// Regression: 0 was a store like any other, whose mailbox no till reads: its orders notified nobody, and nothing was red.
#[test]
fn zero_is_no_store_unless_the_configuration_says_otherwise() {
    let store = |config: &str, store: &str| {
        let mapping: Mapping = toml::from_str(config).unwrap();
        let event = mapping
            .decode(&record(Some("0"), &format!(r#"{{"type":"order.paid","order":"o1","store":{store}}}"#), &[]), NOW);
        event.unwrap().store.map(|store| store.to_string())
    };
    assert_eq!(
        (store("", "0"), store("", "\"-0.0\""), store("", "0.0"), store("", "\"00\"")),
        (None, None, None, Some("00".into()))
    );
    assert_eq!(store("kafka_key = 'store'", "null"), None);
    assert_eq!((store("no_store = []", "0"), store("no_store = ['0', 'none']", "\"none\"")), (Some("0".into()), None));
    // What a till of store 0 sends, where there is one.
    let own = json!({"specversion": "1.0", "type": "order.ready", "id": "1", "subject": "o1", "data": {"store": "0"}});
    let record = record(None, &own.to_string(), &[("content-type", OWN_EVENT_MEDIA_TYPE)]);
    assert_eq!(Mapping::default().decode(&record, NOW).unwrap().store.unwrap().as_str(), "0");
}

#[test]
fn the_kafka_key_is_the_order_without_parsing_where_it_is_checked() {
    let mapping = Mapping { kafka_key: KafkaKey::Order, ..Mapping::default() };
    assert_eq!(mapping.order_of(&record(Some("o1"), "not JSON", &[])).as_deref(), Some("o1"));
    assert_eq!(mapping.order_of(&record(None, r#"{"order":"o2"}"#, &[])).as_deref(), Some("o2"));
    assert_eq!(outcome(&mapping, &record(Some("o1"), r#"{"type":"order.paid","order":"o2"}"#, &[])), "key-mismatch");
}

/// A producer that sends no key, or bytes, contradicts nothing: a rejection would cost the notice.
#[test]
fn a_record_whose_key_says_nothing_is_read_by_its_body() {
    let value = r#"{"type":"order.paid","order":"o1","store":"17"}"#;
    for kafka_key in [KafkaKey::Order, KafkaKey::Store] {
        let mapping = Mapping { kafka_key, ..Mapping::default() };
        for key in [None, Some(&b""[..]), Some(b"\xff\xfe"), Some(b"null")] {
            let record = Record { key: key.map(bytes::Bytes::from_static), ..record(None, value, &[]) };
            let event = mapping.decode(&record, NOW).unwrap();
            assert_eq!((event.order.as_str(), event.store.unwrap().as_str()), ("o1", "17"), "{key:?}");
            assert_eq!(mapping.order_of(&record).as_deref(), Some("o1"), "{key:?}");
        }
        assert_eq!(outcome(&mapping, &record(Some("o2"), value, &[])), "key-mismatch");
    }
}

/// Whether a subject that is not the store counts. The rule for what may be something else has tests of its own.
fn is_subject_allowed(
    mapping: &Mapping,
    envelope: &Envelope,
    data: &Value,
    subject: &str,
    store: Option<&str>,
) -> bool {
    match mapping.subject {
        Subject::Order => true,
        Subject::Any => false,
        Subject::Auto => {
            mapping.order.0 == ["/order"] && subject::is_order(mapping, envelope, &data.to_string(), subject, store)
        }
    }
}

/// The id that a trimmed text is.
fn id_of_text(text: String) -> Option<String> {
    match text.split_once('.') {
        Some((whole, "0" | "00")) if whole.parse::<u32>().is_ok() => Some(whole.to_owned()),
        _ => (!text.is_empty() && text != "undefined").then_some(text),
    }
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
    if json.as_array().is_some_and(Vec::is_empty) && header("ce_specversion").is_none() {
        return None;
    }
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
    let subject = subject.map(|text| text.trim().to_owned()).and_then(id_of_text);
    let id_at = |pointer: &str| match data.pointer(pointer) {
        None | Some(Value::Null | Value::Bool(false)) => Ok(None),
        Some(Value::String(text)) => Ok(id_of_text(text.trim().to_owned())),
        Some(Value::Number(number)) => match number.to_string() {
            text if text.ends_with(".0") => Ok(Some(text.trim_end_matches(".0").to_owned())),
            text if text.contains('.') => Err(()),
            text => Ok(Some(text)),
        },
        Some(_) => Err(()),
    };
    let key = |what: KafkaKey| key_text(record).filter(|_| mapping.kafka_key == what);
    let is_store = |id: &String| id != "0";
    let store_at =
        || Ok::<_, ()>(id_at(&mapping.store)?.filter(is_store).or_else(|| key(KafkaKey::Store).filter(is_store)));
    let name = |in_headers: &str, member: &str| {
        header(in_headers).map(str::to_owned).or_else(|| json.get(member).and_then(text))
    };
    let envelope =
        Envelope { kind: name("ce_type", "type"), source: name("ce_source", "source"), ..Envelope::default() };
    let is_allowed = |subject: &str, store| is_subject_allowed(mapping, &envelope, &data, subject, store);
    let order = match &mapping.order.0[..] {
        [pointer] => {
            let order = id_at(pointer).ok()?.filter(|order| order != "0");
            let store = store_at().ok().flatten();
            let is_order = |subject: &String| {
                subject != "0" && Some(subject) != store.as_ref() && is_allowed(subject, store.as_deref())
            };
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
    order.or_else(|| store_at().ok()?.or(subject))
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
        "\"17.00\"",
        "\"0.0\"",
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
    let word = prop::sample::select(vec![
        "o1",
        "17",
        "17.0",
        "0.0",
        "2024.10",
        "a b",
        "",
        "undefined",
        "NULL",
        "0",
        "\u{200b}",
    ]);
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
            vec![], vec![("content-type", "application/cloudevents+json")], vec![("ce_specversion", "1.0"), ("ce_subject", "s1")],
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
        order in any_id(), store in any_id(), key in prop::option::of("[ \"o1.0]{0,4}"), kafka_key in prop::sample::select(vec![KafkaKey::Any, KafkaKey::Order, KafkaKey::Store]),
        composed in any::<bool>(), envelope in any::<bool>(),
    ) {
        let pointers = if composed { vec!["/store", "/order"] } else { vec!["/order"] };
        let order_pointers = OrderIdPointers(pointers.into_iter().map(str::to_owned).collect());
        let mapping = Mapping { order: order_pointers, kafka_key, ..Mapping::default() };
        let data = format!(r#"{{"type":"order.paid","order":{order},"store":{store}}}"#);
        let value = if envelope { format!(r#"{{"specversion":"1.0","type":"order.paid","subject":" s1 ","data":{data}}}"#) } else { data };
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
