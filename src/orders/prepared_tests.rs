use super::super::event_effects::NoEffect;
use super::super::event_types::IGNORED;
use super::super::prepared::PreparedRecord;
use super::tests::{NOW, record};
use super::*;
use orderbell_consumers::{KeyHash, Parts};

const PLAIN: &str = r#"{"id": "e1", "order": "o1", "store": 17, "amount": 12.50, "type": "order.paid"}"#;

/// How often `read` repairs and parses a text.
fn texts_read<T>(read: impl FnOnce() -> T) -> (T, (u32, u32)) {
    use crate::json_text::TEXTS_REPAIRED;
    use crate::members::TEXTS_PARSED;
    let before = (TEXTS_REPAIRED.get(), TEXTS_PARSED.get());
    let read = read();
    (read, (TEXTS_REPAIRED.get() - before.0, TEXTS_PARSED.get() - before.1))
}

/// What the poll thread does: the parts of a record, and what each reading found.
fn on_poll_thread(mapping: &Mapping, record: &Record) -> Vec<(Record, Option<PreparedRecord>)> {
    let is_order = |order: &str| {
        assert!(order == "o1" || order == "o2" || order == "7" || order == "17", "{order}");
        KeyHash(1)
    };
    match mapping.prepared_parts(record, is_order) {
        Parts::One { prepared, .. } => vec![(record.clone(), prepared)],
        Parts::Several(parts) => parts.into_iter().map(|part| (part.record, part.prepared)).collect(),
    }
}

/// What a shard does, and what follows from a record that becomes no event.
fn on_shard(mapping: &Mapping, record: &Record, prepared: &PreparedRecord) -> &'static str {
    let view = || (record, Some(prepared));
    match mapping.read(view(), NOW) {
        Ok(_) => "decoded",
        Err(NoEffect::Dropped(reason, _)) if reason.code == IGNORED => {
            assert!(mapping.ignored(view()).is_some());
            IGNORED
        }
        Err(NoEffect::Dropped(reason, _)) => reason.code,
        Err(NoEffect::Rejected(reason)) => {
            let _bin = (mapping.bin_of_dead_letter(view(), reason.code), mapping.sounds_paid(view()));
            reason.code
        }
    }
}

/// What the mapping says, the value, how many texts are repaired and parsed, and what becomes of each event.
type Case<'c> = (&'c str, String, (u32, u32), &'c [&'c str]);

/// Decision 0045 has these figures.
#[test]
fn each_text_of_a_record_is_read_once_on_the_poll_thread_and_never_on_its_shard() {
    let event = |data: &str| {
        format!(r#"{{"specversion": "1.0", "type": "order.paid", "id": "e1", "source": "s", "subject": "o1", {data}}}"#)
    };
    let quoted = serde_json::to_string(PLAIN).unwrap();
    let into_text = "order = '/order/id'\ntypes = { gone = 'ignore' }";
    let decoded = ["decoded"];
    let cases: [Case; 10] = [
        ("", PLAIN.into(), (1, 1), &decoded),
        ("", quoted.clone(), (1, 1), &decoded),
        ("", event(&format!("\"data\": {PLAIN}")), (1, 2), &decoded),
        ("", event(&format!("\"data\": {quoted}")), (2, 2), &decoded),
        ("", event(r#""data_base64": "eyJzdG9yZSI6IjE3IiwiYW1vdW50IjoxMjUwfQ==""#), (2, 2), &decoded),
        ("", event(r#""data": {"store": 17}"#), (1, 2), &decoded),
        ("", format!("[{PLAIN},{}]", PLAIN.replace("o1", "o2")), (3, 2), &["decoded", "decoded"]),
        (into_text, r#"{"type": "order.paid", "order": "{\"id\": 7}"}"#.into(), (2, 2), &decoded),
        (into_text, r#"{"type": "gone", "order": {"id": 7}}"#.into(), (1, 1), &[IGNORED]),
        ("", r#"{"type": "order.paid", "store": 17}"#.into(), (1, 1), &["no-order"]),
    ];
    for (keys, value, texts, becomes) in cases {
        let (mapping, record): (Mapping, _) = (toml::from_str(keys).unwrap(), record(Some("o1"), &value, &[]));
        let (parts, read) = texts_read(|| on_poll_thread(&mapping, &record));
        assert_eq!(read, texts, "{value}");
        let handle = |(part, read): &(Record, Option<PreparedRecord>)| on_shard(&mapping, part, read.as_ref().unwrap());
        let (became, read) = texts_read(|| parts.iter().map(handle).collect::<Vec<_>>());
        assert_eq!((&became[..], read), (becomes, (0, 0)), "{value}");
    }
}

/// It may be a message about a table, which is no event and no dead letter.
#[test]
fn a_record_of_an_unknown_type_is_looked_at_once_more_for_what_it_is() {
    let (mapping, record) = (Mapping::default(), record(None, r#"{"type": "order.eaten", "order": "o1"}"#, &[]));
    let prepared = mapping.prepare(&record);
    let (became, read) = texts_read(|| on_shard(&mapping, &record, &prepared));
    assert_eq!((became, read), ("unknown-type", (0, 1)));
}

#[test]
fn a_record_whose_key_is_its_order_is_read_on_its_shard_alone() {
    let mapping: Mapping = toml::from_str("kafka_key = 'order'").unwrap();
    let record = record(Some("o1"), PLAIN, &[]);
    let (parts, read) = texts_read(|| on_poll_thread(&mapping, &record));
    assert!(matches!(&parts[..], [(_, None)]));
    assert_eq!(read, (0, 0));
    let (became, read) = texts_read(|| on_shard(&mapping, &record, &mapping.prepare(&record)));
    assert_eq!((became, read), ("decoded", (1, 1)));
}

#[test]
fn what_was_read_explains_as_the_record_does() {
    let damaged = "{\"type\":\"order.paid\",\"order\":\"o1\",\"note\":\"x\ty\"}";
    let wrong = r#"{"specversion":"1.0","type":"order.paid","id":"e1","source":"s","data":"{\"order\":}"}"#;
    let dated = r#"{"op":"c","after":{"id":7,"status":"paid"},"source":{"ts_ms":1789999999000}}"#;
    let debezium = "envelope = 'debezium'\norder = '/id'\ntype = '/status'\nstore = '/__headers/shop'\ntypes = { paid = 'order.paid' }";
    let cases = [("", PLAIN), ("", damaged), ("", wrong), ("", "{"), ("", "7"), (debezium, dated), (debezium, PLAIN)];
    for (keys, value) in cases {
        let mapping: Mapping = toml::from_str(keys).unwrap();
        let record = record(None, value, &[("Shop", "17")]);
        let prepared = mapping.prepare(&record);
        let explained = |decoded: Result<Decoded, Reason>| format!("{decoded:?}");
        let again = explained(mapping.explain((&record, Some(&prepared)), NOW));
        assert_eq!(again, explained(mapping.explain(&record, NOW)), "{value}");
        assert_eq!(
            again,
            explained(mapping.explain((&record, Some(&prepared.clone())), NOW)),
            "as often as it is tried"
        );
    }
}

/// A mapping that is loaded anew has other pointers: what stands at the places of the earlier one is something else.
#[test]
fn what_another_mapping_read_is_not_used() {
    let record = record(None, r#"{"type":"order.paid","order":"o1","number":"o2"}"#, &[]);
    let (one, other): (Mapping, Mapping) = (Mapping::default(), toml::from_str("order = '/number'").unwrap());
    let prepared = one.prepare(&record);
    let order = |mapping: &Mapping| mapping.decode((&record, Some(&prepared)), NOW).unwrap().order.to_string();
    assert_eq!((order(&one), order(&other)), ("o1".into(), "o2".into()));
    assert_eq!(other.order_of((&record, Some(&prepared))).as_deref(), Some("o2"));
    let changed = Mapping { order: other.order.clone(), ..one.clone() };
    assert_eq!(order(&changed), "o2", "a copy, whose keys may have been changed, reads again");
}

#[test]
fn what_is_kept_is_counted_and_shares_undamaged_text_with_its_record() {
    let mapping = Mapping::default();
    let kept = |value: &str| mapping.prepare(&record(None, value, &[])).bytes();
    let note = "x".repeat(10_000);
    let value = |end: &str| format!(r#"{{"type":"order.paid","order":"o1","note":"{note}{end}"}}"#);
    assert!(kept(&value("")) < 1_000, "{}", kept(&value("")));
    assert!(kept(&value("\t")) > 10_000, "a repaired text is a copy");
    assert!(kept(&serde_json::to_string(&value("")).unwrap()) > 10_000, "so is JSON in a string");
    let structured =
        format!(r#"{{"specversion":"1.0","type":"order.paid","id":"e1","source":"s","data":{}}}"#, value(""));
    assert!(kept(&structured) < 1_000);
}
