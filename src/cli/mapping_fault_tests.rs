//! The faults of order systems, with the bytes that such systems sent: each is a test named after its kind. `POST /v1/events`, Kafka and `mapping try` read
//! with one mapping, so what is said here is what happens there; what only HTTP or Kafka shows is tested beside them.

use super::*;

const NOW: UnixMs = UnixMs(1_790_000_000_000);

/// What is said of each event of these records, in their order, and of all.
fn tried_with_key(config: &str, key: Option<&str>, records: &[&[u8]]) -> (Vec<String>, String) {
    let mapping: Mapping = toml::from_str(config).unwrap();
    let policy = OrderPolicy { retention_ms: 86_400_000, ..OrderPolicy::default() };
    let mut history = History::new(&mapping, &policy, NOW);
    let record = |(at, value): (usize, &&[u8])| Record {
        partition: TopicPartition::new(SAMPLE_TOPIC, 0),
        offset: at as u64,
        timestamp_ms: NOW.0 - (records.len() - 1 - at) as i64,
        read_ms: 0,
        key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::copy_from_slice(value)),
        headers: Default::default(),
    };
    let said: Vec<_> = records.iter().enumerate().map(record).flat_map(|record| history.add_all(&record)).collect();
    let of_events = said.into_iter().filter(|said| !said.starts_with("envelope: ")).collect();
    (of_events, history.summary().0)
}

fn tried(config: &str, records: &[&str]) -> Vec<String> {
    tried_with_key(config, None, &records.iter().map(|text| text.as_bytes()).collect::<Vec<_>>()).0
}

#[track_caller]
fn says(text: &str, wanted: &[&str]) {
    wanted.iter().for_each(|wanted| assert!(text.contains(wanted), "{wanted} is not in:\n{text}"));
}

/// The store hears of each of these orders, with this amount.
#[track_caller]
fn rings(said: &[String], store: &str, orders: &[&str], amount: &str) {
    assert_eq!(said.len(), orders.len(), "{said:?}");
    for (text, order) in said.iter().zip(orders) {
        let notice = format!("store:{store} is notified: new_order {{{amount}");
        says(text, &[&format!("\"order\": \"{order}\""), &notice]);
    }
}

/// Nobody hears of it, and an alert says why.
#[track_caller]
fn is_refused(said: &[String], why: &str, alert: &str) {
    said.iter().for_each(|text| says(text, &[&format!("rejected: {why}"), alert]));
}

const IT_IS_PAID: &str = "notifies nobody: it becomes a dead letter, and an alert: it is a paid order";
const IT_MAY_BE: &str = "notifies nobody: it becomes a dead letter, and an alert: it may be a paid order";

#[test]
fn the_id_is_the_orders() {
    let said = tried(
        "order = '/id'\nstore = '/shop'",
        &[
            r#"{"type":"order.created","id":900123,"shop":"17","amount":1250}"#,
            r#"{"type":"order.paid","id":900123,"shop":"17","amount":1250}"#,
        ],
    );
    rings(&said[1..], "17", &["900123"], "\"amount\":1250");
}

#[test]
fn the_id_is_empty_in_every_event() {
    for id in ["\"\"", "0", "\"undefined\""] {
        let event =
            |kind: &str| format!(r#"{{"type":"order.{kind}","id":{id},"order":"o2","store":"17","amount":1250}}"#);
        let said = tried("", &[&event("created"), &event("paid")]);
        rings(&said[1..], "17", &["o2"], "\"amount\":1250");
    }
}

#[test]
fn the_order_is_called_otherwise_and_the_key_is_the_store() {
    let records: [&[u8]; 2] = [
        br#"{"type":"order.paid","id":"e31","orderID":"o31","store":"17","amount":500}"#,
        br#"{"type":"order.paid","id":"e32","orderID":"o32","store":"17","amount":700}"#,
    ];
    is_refused(&tried_with_key("", Some("17"), &records).0, "no-order: the event names no order", IT_IS_PAID);
    let (said, _) = tried_with_key("kafka_key = 'any'\norder = '/orderID'", Some("17"), &records);
    rings(&said[..1], "17", &["o31"], "\"amount\":500");
    rings(&said[1..], "17", &["o32"], "\"amount\":700");
}

#[test]
fn the_subject_is_the_store() {
    let event = |id: u32| {
        format!(
            r#"{{"specversion":"1.0","type":"order.paid","id":"e{id}","source":"/pos","subject":"17","data":{{"orderId":"o{id}","store":"17","amount":500}}}}"#
        )
    };
    is_refused(&tried("", &[&event(41), &event(42)]), "no-order", IT_IS_PAID);
}

#[test]
fn a_number_begins_again() {
    let records: [&[u8]; 5] = [
        br#"{"type":"order.paid","id":"a1","order":"0001","store":"17","amount":500}"#,
        br#"{"type":"order.accepted","id":"a2","order":"0001","store":"17","code":"A1"}"#,
        br#"{"type":"order.ready","id":"a3","order":"0001","store":"17"}"#,
        br#"{"type":"order.picked_up","id":"a4","order":"0001","store":"17"}"#,
        br#"{"type":"order.paid","id":"b1","order":"0001","store":"17","amount":700}"#,
    ];
    let (said, summary) = tried_with_key("", None, &records);
    says(&said[4], &["notifies nobody, and an alert"]);
    says(&summary, &["1 payments may be of other orders that have the same id"]);
}

#[test]
fn words_for_nothing_are_no_order() {
    for word in ["undefined", "null", "none", "NaN", ""] {
        let event =
            |id: u32| format!(r#"{{"type":"order.paid","id":"e{id}","order":"{word}","store":"17","amount":500}}"#);
        is_refused(&tried("", &[&event(61), &event(62)]), "no-order", IT_IS_PAID);
    }
}

#[test]
fn the_store_is_called_otherwise() {
    let event = br#"{"type":"order.paid","id":"e71","order":"o71","shop_id":"17","amount":500}"#;
    let (said, summary) = tried_with_key("", None, &[event]);
    says(&said[0], &["notifies nobody: no store at /store"]);
    says(&summary, &["1 orders are paid, and no store is notified of them"]);
}

#[test]
fn the_version_is_the_schemas() {
    let said = tried(
        "",
        &[
            r#"{"type":"order.paid","id":"e91","order":"o91","store":"17","amount":500,"version":1}"#,
            r#"{"type":"order.cancelled","id":"e92","order":"o91","store":"17","version":1}"#,
        ],
    );
    says(&said[1], &["store:17 is notified: cancelled"]);
}

#[test]
fn the_code_is_the_event_kinds() {
    let config = "type = '/fullCode'\norder = '/orderId'\nstore = '/merchantId'\npickup_code = '/code'\n\
                  types = { PLACED = 'order.paid', CONFIRMED = 'order.accepted' }";
    let batch = r#"[{"id":"e101","code":"PLC","fullCode":"PLACED","orderId":"o101","merchantId":"m-17"},{"id":"e102","code":"CFM","fullCode":"CONFIRMED","orderId":"o101","merchantId":"m-17"}]"#;
    let said = tried(config, &[batch]);
    says(&said[0], &["store:m-17 is notified: new_order", "\"pickup_code\": null"]);
    says(&said[1], &["\"pickup_code\": \"CFM\""]);
    // Nobody said that the member is one.
    assert!(tried(&config.replace("pickup_code = '/code'\n", ""), &[batch]).iter().all(|said| !said.contains("CFM")));
}

#[test]
fn the_table_is_the_databases() {
    let config = "type = '/data/status'\norder = '/data/id'\nid = '/xid'\nstore = '/data/shop_id'\namount = '/data/total'\n\
                  amount_unit = 'major'\ntypes = { PAID = 'order.paid' }";
    let said = tried(
        config,
        &[
            r#"{"database":"shop","table":"orders","type":"update","xid":8812,"data":{"id":72,"shop_id":17,"status":"PAID","total":12.50},"old":{"status":"NEW"}}"#,
        ],
    );
    rings(&said, "17", &["72"], "\"amount\":1250");
    says(&said[0], &["\"details\": null"]);
}

#[test]
fn the_data_is_in_base64_or_in_a_string() {
    let data = r#""data_base64":"eyJzdG9yZSI6IjE3IiwiYW1vdW50IjoxMjUwfQ==""#;
    let text = r#""data":"{\"store\":\"17\",\"amount\":1250}""#;
    for data in [data, text] {
        let event = format!(
            r#"{{"specversion":"1.0","type":"order.paid","id":"e1","source":"/shop","subject":"o121","datacontenttype":"application/json",{data}}}"#
        );
        rings(&tried("", &[&event]), "17", &["o121"], "\"amount\":1250");
    }
}

const ROWS: &str = "type = '/data/0/status'\norder = '/data/0/order_no'\nid = '/none'\nstore = '/data/0/shop'\namount = '/data/0/total'\n\
                    amount_unit = 'major'\ntypes = { 2 = 'order.paid' }";

#[test]
fn a_record_has_several_rows() {
    let said = tried(
        ROWS,
        &[
            r#"{"data":[{"order_no":"o171","shop":"17","status":"2","total":"12.50"},{"order_no":"o172","shop":"18","status":"2","total":"9.00"}],"database":"shop","table":"orders","type":"UPDATE","isDdl":false}"#,
        ],
    );
    rings(&said[..1], "17", &["o171"], "\"amount\":1250");
    rings(&said[1..], "18", &["o172"], "\"amount\":900");
}

#[test]
fn a_record_is_about_the_table_itself() {
    let change = br#"{"data":null,"database":"shop","table":"orders","type":"ALTER","isDdl":true,"sql":"alter table orders add column x2 int"}"#;
    assert_eq!(tried_with_key(ROWS, None, &[change]).1, "of the records, 1 are ignored");
}

#[test]
fn a_record_is_an_array_of_events() {
    let said = tried(
        "",
        &[
            r#"[{"type":"order.paid","id":"e191","order":"o191","store":"17","amount":500},{"type":"order.paid","id":"e192","order":"o192","store":"17","amount":500}]"#,
        ],
    );
    rings(&said, "17", &["o191", "o192"], "\"amount\":500");
}

#[test]
fn something_stands_around_the_json() {
    let event = br#"{"type":"order.paid","id":"e20","order":"o20","store":"17","amount":500}"#;
    let in_a_string = serde_json::to_vec(std::str::from_utf8(event).unwrap()).unwrap();
    let around = |before: &[u8], after: &[u8]| [before, event, after].concat();
    for record in [around(b"\xef\xbb\xbf", b""), around(b"\0\0\0\0\x0c", b""), around(b"", b"\0"), in_a_string] {
        let (said, _) = tried_with_key("", None, &[&record]);
        rings(&said, "17", &["o20"], "\"amount\":500");
    }
}

#[test]
fn a_text_is_damaged_or_in_another_encoding() {
    let with = |member: &[u8]| {
        [br#"{"type":"order.paid","id":"e1","order":"o23","store":"17","amount":500,"#, member, b"}"].concat()
    };
    let half_a_pair: &[u8] = br#""note":"no onions \ud83d""#;
    for member in
        [half_a_pair, b"\"note\":\"no\tonions\"", b"\"rate\":NaN", b"\"rate\":1e400", b"\"note\":\"\xc4\xcf\xbe\xa9\""]
    {
        let (said, _) = tried_with_key("", None, &[&with(member)]);
        rings(&said, "17", &["o23"], "\"amount\":500");
        says(&said[0], &["the JSON was damaged and was repaired", "\"flags\":[\"text\""]);
    }
    let utf16: Vec<u8> = "\u{feff}{\"type\":\"order.paid\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    is_refused(&tried_with_key("", None, &[&utf16]).0, "not-json: the value is UTF-16, not UTF-8", IT_MAY_BE);
    let avro = b"\0\0\0\0\x0c\x02\x06o21\x04";
    is_refused(&tried_with_key("", None, &[avro]).0, "not-json: ", IT_MAY_BE);
    says(&tried_with_key("", None, &[avro]).0[0], &["schema 12"]);
}

#[test]
fn ids_are_padded() {
    let event = |order: &str, store: &str| {
        format!(r#"{{"type":"order.paid","id":"e1","order":"{order}","store":"{store}","amount":500}}"#)
    };
    let said = tried("", &[&event("o251     ", "17  "), &event("o252", "17\\ufeff"), &event("o253", "\\u200b17")]);
    rings(&said, "17", &["o251", "o252", "o253"], "\"amount\":500");
}

#[test]
fn the_key_is_in_json_quotes() {
    let event = br#"{"type":"order.paid","id":"e26","order":"o26","store":"17","amount":500}"#;
    rings(&tried_with_key("kafka_key = 'order'", Some("\"o26\""), &[event]).0, "17", &["o26"], "\"amount\":500");
}

#[test]
fn an_id_has_a_point() {
    let event = r#"{"type":"order.paid","id":"e27","order":12345.0,"store":17.0,"amount":500}"#;
    rings(&tried("", &[event]), "17", &["12345"], "\"amount\":500");
}

#[test]
fn guests_are_nobody() {
    for (at, guest) in
        ["\"customer\":\"\"", "\"customer\":false", "\"device\":\"\"", "\"customer\":0"].iter().enumerate()
    {
        let event =
            format!(r#"{{"type":"order.paid","id":"e{at}","order":"o28{at}","store":"17","amount":500,{guest}}}"#);
        let said = tried("", &[&event]);
        rings(&said, "17", &[&format!("o28{at}")], "\"amount\":500");
        says(&said[0], &["\"customer\": null", "\"device\": null"]);
    }
}

#[test]
fn the_customer_changes() {
    let event = |kind: &str, customer: &str| {
        format!(
            r#"{{"type":"order.{kind}","id":"e29","order":"o29","store":"17","customer":"{customer}","amount":500}}"#
        )
    };
    let said = tried("", &[&event("created", "open-77"), &event("paid", "member-9")]);
    rings(&said[1..], "17", &["o29"], "\"amount\":500");
    says(&said[1], &["the order has another customer, whom it keeps"]);
}

#[test]
fn the_store_changes_before_the_payment() {
    let event = |kind: &str, store: u32| {
        format!(r#"{{"type":"order.{kind}","id":"e30-{store}","order":"o30","store":"{store}","amount":500}}"#)
    };
    rings(&tried("", &[&event("created", 17), &event("paid", 18)])[1..], "18", &["o30"], "\"amount\":500");
    let lines = tried("", &[&event("paid", 17), &event("paid", 18)]);
    is_refused(&lines[1..], "store-mismatch", IT_IS_PAID);
}

#[test]
fn times_are_written_in_many_ways() {
    let at = jiff::Timestamp::from_millisecond(NOW.0).unwrap();
    let local = |form: &str| at.strftime(form).to_string();
    let forms = [
        format!("\"{}\"", NOW.0),
        format!("\"{}\"", NOW.0 / 1000),
        format!("{}.000", NOW.0 / 1000),
        local("[%Y,%-m,%-d,%-H,%-M,%-S]"),
        local("\"%Y%m%d%H%M%S\""),
        local("\"%a, %d %b %Y %H:%M:%S GMT\""),
        local("{\"$date\":\"%Y-%m-%dT%H:%M:%SZ\"}"),
    ];
    for form in forms {
        let event =
            format!(r#"{{"type":"order.paid","id":"t","order":"o31","store":"17","amount":500,"time":{form}}}"#);
        let said = tried("", &[&event]);
        says(&said[0], &[&format!("\"at\": \"{at}\""), "store:17 is notified: new_order {\"amount\":500}"]);
    }
}

#[test]
fn a_clock_is_off_or_the_time_is_a_date() {
    let event = |time: &str| {
        format!(r#"{{"type":"order.paid","id":"t","order":"o32","store":"17","amount":500,"time":{time}}}"#)
    };
    let hours = |hours: i64| (NOW.0 + hours * 3_600_000).to_string();
    for (time, why) in [
        (hours(-5), "its clock is in another zone"),
        (hours(8), "that clock is off"),
        ("\"2026-09-21\"".into(), "is a date"),
    ] {
        let said = tried("", &[&event(&time)]);
        rings(&said, "17", &["o32"], "\"amount\":500,\"flags\":[\"clock\"]");
        says(&said[0], &["\n/time: ", why]);
    }
}

/// What is read as 12.50, and what the store gets without an amount, with the reason.
#[test]
fn amounts_are_written_in_many_ways() {
    let event =
        |amount: &str| format!(r#"{{"type":"order.paid","id":"a","order":"o34","store":"17","amount":{amount}}}"#);
    for (unit, amount) in
        [("major", "\"12.5000\""), ("major", "\" 12.50\""), ("minor", "1250.0"), ("minor", "\" 1250\"")]
    {
        rings(&tried(&format!("amount_unit = '{unit}'"), &[&event(amount)]), "17", &["o34"], "\"amount\":1250");
    }
    let yen = tried("amount_unit = 'major'", &[&event("1250,\"currency\":\"JPY\"")]);
    rings(&yen, "17", &["o34"], "\"amount\":1250");
    for (amount, why) in [
        ("\"1,250.00\"", "a comma"),
        ("\"BMQ=\"", "base64"),
        ("\"12,50\"", "a comma"),
        ("0.30000000000000004", "more decimals"),
    ] {
        let said = tried("amount_unit = 'major'", &[&event(amount)]);
        rings(&said, "17", &["o34"], "\"flags\":[\"clock\",\"amount\"]");
        says(&said[0], &["\n/amount: ", why]);
    }
}

/// Regression: the notice had the digits of the producer, but the event above it was shown with 12.5 and 1.2345678901234568e29.
#[test]
fn numbers_in_details_are_the_producers() {
    let event = r#"{"type":"order.paid","id":"e37","order":"o37","store":"17","amount":500,"items":[{"name":"rice","price":12.50,"sku":123456789012345678901234567890}]}"#;
    let said = tried("", &[event]);
    assert_eq!(said[0].matches("12.50,\"sku\":123456789012345678901234567890").count(), 2, "{}", said[0]);
}

#[test]
fn events_are_not_ours_or_no_payments() {
    let scanned = br#"{"type":"order.item_scanned","id":"e40","order":"o40","note":"order.paid soon"}"#;
    let (said, summary) = tried_with_key("types = { 'order.item_scanned' = 'ignore' }", None, &[scanned]);
    assert_eq!(summary, "of the records, 1 are ignored", "{said:?}");
    let no_payments = [
        r#"{"type":"courier.moved","id":"e411","order":"o41","lat":31.2,"lon":121.4}"#,
        r#"{"type":"UNPAID","id":"e412","order":"o41"}"#,
    ];
    let said = tried("types = { 2 = 'order.paid', PAID = 'order.paid' }", &no_payments);
    assert!(said.iter().all(|text| text.ends_with("notifies nobody: it becomes a dead letter")), "no alert: {said:?}");
}
