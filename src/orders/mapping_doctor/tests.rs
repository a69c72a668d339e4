use bytes::Bytes;
use orderbell_consumers::TopicPartition;

use super::*;

const NOW: UnixMs = UnixMs(1_790_000_000_000);
const HOUR_MS: i64 = 3_600_000;

fn sample_record(value: &str, timestamp_ms: i64) -> Record {
    Record {
        partition: TopicPartition::new("orders", 0),
        offset: 0,
        timestamp_ms,
        read_ms: 0,
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Default::default(),
    }
}

fn examined(config: &str, records: &[Record]) -> MappingReport {
    let mapping: Mapping = toml::from_str(config).unwrap();
    let policy = OrderPolicy { retention_ms: 24 * HOUR_MS, ..OrderPolicy::default() };
    examine(records, &mapping, &policy, NOW)
}

/// What is said of the lines of a file.
fn of_lines(config: &str, lines: &[&str]) -> MappingReport {
    let records: Vec<Record> = lines.iter().map(|line| sample_record(line, 0)).collect();
    examined(config, &records)
}

#[track_caller]
fn sentence_of<'r>(report: &'r MappingReport, code: &str) -> &'r str {
    let found = report.findings.iter().find(|finding| finding.code == code);
    &found.unwrap_or_else(|| panic!("{code} was not found:\n{report}")).sentence
}

#[track_caller]
fn lines_of<'r>(report: &'r MappingReport, code: &str) -> &'r [String] {
    let _there = sentence_of(report, code);
    report.findings.iter().find(|finding| finding.code == code).map_or(&[], |finding| finding.lines.as_slice())
}

fn has(report: &MappingReport, code: &str) -> bool {
    report.findings.iter().any(|finding| finding.code == code)
}

#[test]
fn an_event_id_that_is_the_order_is_named() {
    let lines = [
        r#"{"type":"order.created","id":900123,"shop":"17","amount":1250}"#,
        r#"{"type":"order.paid","id":900123,"shop":"17","amount":1250}"#,
    ];
    let report = of_lines("order = '/id'\nstore = '/shop'", &lines);
    assert_eq!(
        sentence_of(&report, "id-is-order"),
        "the event id at /id is the order's in 2 of 2 events: two events of one type about one order, such as two refunds, have one id: \
         the second is a duplicate or a dead letter (event-conflict)"
    );
    assert_eq!(lines_of(&report, "id-is-order"), [r#"id = "/none""#]);
    let pointed = lines.map(|line| line.replace("900123", "900123.0"));
    let report = of_lines("order = '/id'\nstore = '/shop'", &[&pointed[0], &pointed[1]]);
    assert_eq!(lines_of(&report, "id-is-order"), [r#"id = "/none""#], "a number with a point");
    let with_own = lines.map(|line| line.replace("\"type\"", "\"msg_id\":\"MM\",\"type\""));
    let with_own = [with_own[0].replace("MM", "a1"), with_own[1].replace("MM", "a2")];
    let report = of_lines("order = '/id'\nstore = '/shop'", &with_own.each_ref().map(String::as_str));
    assert_eq!(lines_of(&report, "id-is-order"), [r#"id = "/msg_id""#]);
    let report =
        of_lines("store = '/shop'", &[r#"{"type":"order.paid","id":"e1","order":"o1","shop":"17","amount":1}"#]);
    assert!(!has(&report, "id-is-order"), "{report}");
}

#[test]
fn events_without_an_id_and_a_customer_name_the_members_that_may_be_them() {
    let event = |n: u32| {
        format!(r#"{{"type":"order.paid","msg_id":"m{n}","order":"o{n}","store":"17","amount":5,"openid":"x{n}"}}"#)
    };
    let report = of_lines("", &[&event(1), &event(2)]);
    assert_eq!(
        sentence_of(&report, "no-id"),
        "2 of 2 events have no id of their own at /id, and are told apart by their content; /msg_id looks like it"
    );
    assert_eq!(lines_of(&report, "no-id"), [r#"id = "/msg_id""#]);
    assert_eq!(
        sentence_of(&report, "no-customer"),
        "no event names a customer at /customer: if /openid is the customer, set customer to it, and customers are notified, too"
    );
    assert!(lines_of(&report, "no-customer").is_empty(), "a person knows who it is");
    let report = of_lines("id = '/none'\ncustomer = '/openid'", &[&event(1), &event(2)]);
    assert!(!has(&report, "no-id") && !has(&report, "no-customer"));
}

#[test]
fn a_renamed_order_is_found_and_keys_that_are_stores_are_named() {
    let lines = [
        r#"{"type":"order.paid","id":"e31","orderID":"o31","store":"17","amount":500}"#,
        r#"{"type":"order.paid","id":"e32","orderID":"o32","store":"17","amount":700}"#,
    ];
    let with_key = |line: &&str| Record { key: Some(Bytes::from_static(b"17")), ..sample_record(line, 0) };
    let records: Vec<Record> = lines.iter().map(with_key).collect();
    let report = examined("", &records);
    assert_eq!(
        sentence_of(&report, "no-order"),
        "2 of 2 events about orders name no order at /order; /orderID looks like the order's id"
    );
    assert_eq!(lines_of(&report, "no-order"), [r#"order = "/orderID""#]);
    assert_eq!(sentence_of(&report, "key"), "the record's key is the store in 2 of 2 records");
    assert!(!report.is_good());
    let with_lines = report.numbers_with_proposed.as_ref().unwrap();
    assert_eq!((report.numbers.announced_orders, with_lines.announced_orders, with_lines.rejected()), (0, 2, 0));
    let report = examined("order = '/orderID'\nkafka_key = 'order'", &records);
    assert_eq!(
        sentence_of(&report, "key"),
        "the record's key is the store in 2 of 2 records, and kafka_key says something else"
    );
    assert_eq!(lines_of(&report, "key"), [r#"kafka_key = "store""#]);
}

#[test]
fn a_subject_that_is_the_store_is_named() {
    let event = |number: u32| {
        format!(
            r#"{{"specversion":"1.0","type":"order.paid","id":"e4{number}","source":"/pos","subject":"17","data":{{"orderId":"o4{number}","store":"17","amount":500}}}}"#
        )
    };
    let report = of_lines("", &[&event(1), &event(2)]);
    assert_eq!(
        sentence_of(&report, "subject-is-store"),
        "the subject is the store, and not the order, in 2 of 2 CloudEvents"
    );
    assert_eq!(lines_of(&report, "no-order"), [r#"order = "/orderId""#]);
    assert_eq!(report.envelopes.get("CloudEvents in structured mode"), Some(&2));
    assert_eq!(report.numbers_with_proposed.unwrap().announced_orders, 2);
}

#[test]
fn a_key_that_may_be_the_order_is_proposed_where_no_member_is() {
    let record = |number: u32| Record {
        key: Some(Bytes::from(format!("o{number}"))),
        ..sample_record(r#"{"type":"order.paid","store":"17","amount":500}"#, 0)
    };
    let report = examined("", &[record(1), record(2), record(3)]);
    assert_eq!(lines_of(&report, "no-order"), [r#"kafka_key = "order""#]);
    assert_eq!(sentence_of(&report, "key"), "the record's key is the order in 3 of 3 records");
}

#[test]
fn a_renamed_store_is_found() {
    let report = of_lines("", &[r#"{"type":"order.paid","id":"e71","order":"o71","shop_id":"17","amount":500}"#]);
    assert_eq!(
        sentence_of(&report, "no-store"),
        "1 of 1 paid orders name no store at /store, and notify nobody; /shop_id looks like the store's id"
    );
    assert_eq!(lines_of(&report, "no-store"), [r#"store = "/shop_id""#]);
    assert_eq!(report.numbers.unannounced, BTreeMap::from([("no_store", 1)]));
    assert_eq!(report.numbers_with_proposed.unwrap().announced_orders, 1);
}

#[test]
fn a_version_that_never_changes_is_that_of_the_schema() {
    let event = |kind: &str, id: u32, version: u32| {
        format!(r#"{{"type":"order.{kind}","id":"e{id}","order":"o91","store":"17","amount":5,"version":{version}}}"#)
    };
    let report = of_lines("", &[&event("paid", 1, 1), &event("cancelled", 2, 1)]);
    assert_eq!(
        sentence_of(&report, "schema-version"),
        "the version at /version never changes, in 2 events: it numbers the schema, and not the states of an order"
    );
    assert_eq!(lines_of(&report, "schema-version"), [r#"version = "/none""#]);
    assert!(!has(&of_lines("", &[&event("paid", 1, 1), &event("cancelled", 2, 2)]), "schema-version"));
    assert!(!has(&of_lines("", &[&event("paid", 1, 1)]), "schema-version"), "one event says nothing");
}

#[test]
fn the_code_of_a_type_is_no_pickup_code() {
    let array = r#"[{"id":"e101","code":"PLC","fullCode":"PLACED","orderId":"o101","merchantId":"m-17"},{"id":"e102","code":"CFM","fullCode":"CONFIRMED","orderId":"o101","merchantId":"m-17"}]"#;
    let config = "type = '/fullCode'\norder = '/orderId'\nstore = '/merchantId'\n\
                  types = { PLACED = 'order.paid', CONFIRMED = 'order.accepted' }";
    let report = of_lines(config, &[array]);
    let sentence = "/code goes with the type of the event, one code for each: it is no pickup code";
    assert_eq!(sentence_of(&report, "code-of-type"), sentence);
    assert!(lines_of(&report, "code-of-type").is_empty(), "the mapping does not use it");
    assert_eq!(
        sentence_of(&report, "several-events"),
        "1 of 1 records hold several rows or events, 2 in all: each is an event of its own"
    );
    let report = of_lines(&format!("pickup_code = '/code'\n{config}"), &[array]);
    assert_eq!(sentence_of(&report, "code-of-type"), sentence);
    assert_eq!(lines_of(&report, "code-of-type"), [r#"pickup_code = "/none""#]);
}

#[test]
fn the_table_of_a_database_is_none_at_which_a_customer_sits() {
    let row = r#"{"database":"shop","table":"orders","type":"update","xid":8812,"data":{"id":72,"shop_id":17,"status":"PAID","total":12.50},"old":{"status":"NEW"}}"#;
    let config = "type = '/data/status'\norder = '/data/id'\nid = '/xid'\nstore = '/data/shop_id'\namount = '/data/total'\n\
                  amount_unit = 'major'\ntypes = { PAID = 'order.paid' }";
    let report = of_lines(config, &[row]);
    let sentence = "/table stands beside a database in 1 events: it is the database's table, and none at which a customer sits; it is not kept";
    assert_eq!(sentence_of(&report, "database-table"), sentence);
    let lines = [
        "envelope = \"maxwell\"",
        "type = \"/status\"",
        "order = \"/id\"",
        "store = \"/shop_id\"",
        "amount = \"/total\"",
    ];
    assert_eq!(lines_of(&report, "envelope"), lines);
    assert_eq!(report.numbers_with_proposed.unwrap().announced_orders, 1);
    let row =
        r#"{"database":"shop","table":"orders","type":"order.paid","id":"e1","order":"o1","store":"17","amount":5}"#;
    let report = of_lines("extra_fields = ['table', 'note']", &[row]);
    assert!(sentence_of(&report, "database-table").ends_with(", and tills show it"));
    assert_eq!(lines_of(&report, "database-table"), [r#"extra_fields = ["note"]"#]);
}

#[test]
fn several_rows_in_a_record_are_counted_and_their_envelope_named() {
    let rows = r#"{"data":[{"order_no":"o171","shop":"17","status":"2","total":"12.50"},{"order_no":"o172","shop":"18","status":"2","total":"9.00"}],"database":"shop","table":"orders","type":"UPDATE","isDdl":false}"#;
    let config = "type = '/data/0/status'\norder = '/data/0/order_no'\nid = '/none'\nstore = '/data/0/shop'\namount = '/data/0/total'\n\
                  amount_unit = 'major'\ntypes = { '2' = 'order.paid' }";
    let report = of_lines(config, &[rows]);
    assert_eq!(
        sentence_of(&report, "several-events"),
        "1 of 1 records hold several rows or events, 2 in all: each is an event of its own"
    );
    assert_eq!(
        sentence_of(&report, "envelope"),
        "2 of 2 records are in this envelope, \"canal\": named, it lets pointers lead into what it holds"
    );
    let lines = [
        "envelope = \"canal\"",
        "type = \"/status\"",
        "order = \"/order_no\"",
        "store = \"/shop\"",
        "amount = \"/total\"",
    ];
    assert_eq!(lines_of(&report, "envelope"), lines);
    assert_eq!((report.numbers.announced_orders, report.numbers_with_proposed.unwrap().announced_orders), (2, 2));
}

/// Nothing is configured yet: each line is found once those before it are understood.
#[test]
fn a_mapping_is_proposed_where_there_is_none() {
    let row = |number: u32, status: &str| {
        format!(
            r#"{{"data":[{{"order_no":"o{number}","shop_id":"17","status":"{status}","total":"12.50"}}],"database":"shop","table":"orders","type":"UPDATE","isDdl":false}}"#
        )
    };
    let report = of_lines("", &[&row(1, "PAID"), &row(2, "PAID"), &row(1, "AUDITED")]);
    let lines = [
        r#"envelope = "canal""#,
        r#"type = "/status""#,
        r#"types = { "AUDITED" = "ignore", "PAID" = "order.paid" }"#,
        r#"order = "/order_no""#,
        r#"store = "/shop_id""#,
        r#"amount = "/total""#,
        r#"amount_unit = "major""#,
    ];
    for line in lines {
        assert!(report.proposed.iter().any(|known| known == line), "{line} is not in\n{report}");
    }
    let (now, then) = (&report.numbers, report.numbers_with_proposed.as_ref().unwrap());
    assert_eq!((now.announced_orders, then.announced_orders, then.ignored, then.rejected()), (0, 2, 1, 0));
    let mapping: Mapping = toml::from_str(&report.proposed.join("\n")).unwrap();
    assert_eq!(mapping.store, "/shop_id", "the lines are TOML");
}

#[test]
fn padded_ids_are_named_and_need_no_line() {
    let lines = [
        r#"{"type":"order.paid","id":"e251","order":"o251     ","store":"17  ","amount":500}"#,
        r#"{"type":"order.paid","id":"e252","order":"o252","store":"17\ufeff","amount":500}"#,
        r#"{"type":"order.paid","id":"e253","order":"o253","store":"\u200b17","amount":500}"#,
    ];
    let report = of_lines("", &lines);
    assert_eq!(
        sentence_of(&report, "padded-ids"),
        "3 events have ids with blanks or invisible characters around them, at /order and /store: these are removed, and the id is the same \
         without them"
    );
    assert!(lines_of(&report, "padded-ids").is_empty() && report.is_good());
}

#[test]
fn clocks_that_are_off_are_named_with_their_offset() {
    let paid = |number: i64, off_ms: i64| {
        let recorded_ms = NOW.0 - HOUR_MS + number * 1_000;
        let seconds = (recorded_ms + off_ms) / 1_000;
        let value = format!(
            r#"{{"type":"order.paid","id":"w{number}","order":"o{number}","store":"17","amount":500,"time":{seconds}}}"#
        );
        sample_record(&value, recorded_ms)
    };
    let mut records: Vec<Record> = (0..20).map(|number| paid(number, -5 * HOUR_MS)).collect();
    records.push(paid(20, 8 * HOUR_MS));
    let report = examined("", &records);
    assert_eq!(
        sentence_of(&report, "clock-off"),
        "the clock of orders is 5 h behind its records in 20 of 21 events; the clock of orders is 8 h ahead of its records in 1 of 21 events; set \
         that clock, or let the producer write UTC"
    );
    assert!(lines_of(&report, "clock-off").is_empty(), "no key moves a clock");
    assert_eq!(report.clocks.len(), 2);
    let late: Vec<Record> = (0..20).map(|number| paid(number, -number * number * 100_000)).collect();
    assert!(!has(&examined("", &late), "clock-off"), "events that are published late");
}

#[test]
fn local_times_get_their_zone() {
    let paid = |number: u32| {
        let value = format!(
            r#"{{"type":"order.paid","id":"w{number}","order":"o{number}","store":"17","amount":500,"time":"2026-09-21 18:00:0{number}"}}"#
        );
        sample_record(&value, 1_789_984_800_000 + i64::from(number) * 1_000)
    };
    let report = examined("", &[paid(1), paid(2), paid(3)]);
    assert!(
        sentence_of(&report, "clock-off")
            .starts_with("the clock of orders is 8 h ahead of its records in 3 of 3 events")
    );
    assert_eq!(lines_of(&report, "clock-off"), [r#"time_zone = "Asia/Shanghai""#]);
}

/// Regression: Debezium's numbers of a `DATETIME` are local times, and a clock was named that cannot be set.
#[test]
fn numbers_of_columns_without_a_zone_get_the_zone_of_their_place() {
    const HOUR_MS: i64 = 3_600_000;
    let row = |number: i64, op: &str, ahead_ms: i64| {
        let at_ms = 1_789_984_800_000 + number * 1_000;
        let after = format!(r#"{{"no":"o{number}","shop":7,"status":2,"paid":{}}}"#, at_ms + ahead_ms);
        sample_record(&format!(r#"{{"op":"{op}","before":null,"after":{after},"source":{{"ts_ms":{at_ms}}}}}"#), at_ms)
    };
    let keys = "envelope = 'debezium'\ntype = '/status'\norder = '/no'\nstore = '/shop'\ntime = '/paid'\ntypes = { '2' = 'order.paid' }\n";
    let changes: Vec<Record> = (1..5).map(|number| row(number, "c", 8 * HOUR_MS)).collect();
    let report = examined(keys, &changes);
    let lines = lines_of(&report, "clock-off");
    assert_eq!(lines, [r#"time_zone = "Asia/Shanghai""#, r#"time_numbers = "local""#]);
    assert!(!has(&examined(&format!("{keys}{}", lines.join("\n")), &changes), "clock-off"));
    let snapshot: Vec<Record> = (1..5).map(|number| row(number, "r", -5 * HOUR_MS)).collect();
    assert!(!has(&examined(keys, &snapshot), "clock-off"), "old rows are no clock");
}

/// Regression: flattened without their operation, the rows of a snapshot look like updates of this moment, and nobody said so.
#[test]
fn rows_that_do_not_say_what_happened_to_them_are_named() {
    let said = |envelope: &str, beside: &str| {
        let row = format!(r#"{{"no":"o1","shop":7,"status":2,"__deleted":"false"{beside}}}"#);
        let keys = format!(
            "envelope = '{envelope}'\ntype = '/status'\norder = '/no'\nstore = '/shop'\ntypes = {{ '2' = 'order.paid' }}"
        );
        has(&of_lines(&keys, &[&row]), "flattened-without-op")
    };
    assert!(said("debezium", ""));
    assert!(said("debezium", r#","__source_ts_ms":1789984800000"#));
    assert!(said("auto", ""), "the envelope is proposed, and then it is seen");
    for beside in [r#","__op":"c""#, r#","__source_snapshot":"false""#] {
        assert!(!said("debezium", beside), "{beside}");
    }
}

#[test]
fn forms_are_named_and_types_in_headers_are_found_by_their_pointer() {
    let form = "order=o1&store=17&amount=500&type=order.paid&id=e1&time=1789984800";
    let report = of_lines("", &[form]);
    assert_eq!(report.envelopes.keys().copied().collect::<Vec<_>>(), ["forms"]);
    assert_eq!(lines_of(&report, "envelope"), ["envelope = \"form\""]);
    let mut record = sample_record(r#"{"id":7,"store":"17","amount":500}"#, 1_789_984_800_000);
    record.headers.push(("X-Topic".into(), Some("paid".into())));
    let report = examined(
        "order = '/id'\nid = '/none'\ntype = '/__headers/x-topic'\ntypes = { paid = 'order.paid' }",
        &[record],
    );
    assert!(!has(&report, "type-elsewhere") && !has(&report, "no-type") && report.is_good(), "{report}");
}

#[test]
fn a_date_is_no_time_of_an_event_and_a_better_member_is_proposed() {
    let date = r#"{"type":"order.paid","id":"e33","order":"o33","store":"17","amount":500,"time":"2026-09-21"}"#;
    let report = of_lines("", &[date]);
    assert_eq!(
        sentence_of(&report, "no-time"),
        "1 of 1 events have no usable time at /time, and are taken to be as old as their record: the time is a date without a time of day (1)"
    );
    assert!(lines_of(&report, "no-time").is_empty());
    let both = date.replace("\"time\"", "\"paid_at\":\"2026-09-21T10:00:00Z\",\"time\"");
    assert_eq!(lines_of(&of_lines("", &[&both]), "no-time"), [r#"time = "/paid_at""#]);
}

#[test]
fn local_times_of_a_file_are_named_without_a_zone() {
    let paid = r#"{"type":"order.paid","id":"e1","order":"o1","store":"17","amount":5,"time":"2026-09-21 18:00:00"}"#;
    let report = of_lines("", &[paid]);
    assert_eq!(
        sentence_of(&report, "local-time"),
        "1 of 1 events have a local time, which is read as UTC: name the zone of the place, such as time_zone = \"Asia/Shanghai\""
    );
    assert!(!has(&of_lines("time_zone = 'Asia/Shanghai'", &[paid]), "local-time"));
    assert!(!has(&of_lines("", &[&paid.replace("18:00:00", "18:00:00Z")]), "local-time"));
}

/// Regression: a store that is an object was rejected with the order's line as without it, so neither line was proposed.
#[test]
fn an_order_and_a_store_are_found_where_each_alone_changes_no_number() {
    let paid = r#"{"type":"order.paid","id":"e1","orderNumber":"J-1","store":{"id":17},"amount":5}"#;
    let report = of_lines("", &[paid]);
    assert_eq!(lines_of(&report, "no-order"), [r#"order = "/orderNumber""#]);
    assert_eq!(
        sentence_of(&report, "no-store"),
        "what is at /store is no id of a store in 1 events; /store/id looks like the store's id"
    );
    assert_eq!(lines_of(&report, "no-store"), [r#"store = "/store/id""#]);
    assert_eq!(report.numbers_with_proposed.unwrap().announced_orders, 1);
}

#[test]
fn a_member_whose_words_are_stages_is_the_type_whatever_its_name() {
    let event =
        |kind: &str| format!(r#"{{"was":"{kind}","id":"{}","order":"o1","store":"17","amount":5}}"#, kind.len());
    let report = of_lines("", &[&event("CREATED"), &event("PAY_SUCCESS"), &event("ACCEPTED")]);
    assert_eq!(lines_of(&report, "type-elsewhere"), [r#"type = "/was""#]);
    assert_eq!(report.numbers_with_proposed.unwrap().announced_orders, 1);
    let report = of_lines("", &[&event("A1"), &event("A2")]);
    assert_eq!(
        sentence_of(&report, "no-type"),
        "2 of 2 events have no type at /type, and no member looks like one: let the producer write it, as a member or as a header"
    );
}

/// Regression: what a change of a row was, `u`, was taken for the type, and ignoring it was proposed.
#[test]
fn a_status_that_is_a_number_is_the_type_and_is_listed_by_a_person() {
    let row = r#"{"data":[{"order_no":"G-1","shop":"17","status":"2"}],"database":"shop","table":"orders","type":"UPDATE","isDdl":false}"#;
    let report = of_lines("", &[row]);
    assert_eq!(report.proposed, [r#"envelope = "canal""#, r#"type = "/status""#]);
    let report = of_lines("types = { 2 = 'order.paid' }", &[row]);
    let lines = [r#"envelope = "canal""#, r#"type = "/status""#, r#"order = "/order_no""#, r#"store = "/shop""#];
    assert_eq!(report.proposed, lines, "{report}");
}

#[test]
fn amounts_that_are_not_read_say_why() {
    let amounts = [r#""12.5000""#, r#""1,250.00""#, r#""BMQ=""#, r#""12,50""#, "0.30000000000000004", r#"" 12.50""#];
    let event = |(at, amount): (usize, &str)| {
        format!(r#"{{"type":"order.paid","id":"a{at}","order":"o{at}","store":"17","amount":{amount}}}"#)
    };
    let lines: Vec<String> = amounts.into_iter().enumerate().map(event).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let report = of_lines("amount_unit = 'major'", &lines);
    let sentence = sentence_of(&report, "no-amount");
    assert!(sentence.starts_with("4 events have no amount that can be read at /amount: "), "{sentence}");
    assert!(sentence.contains("the amount has a comma, which may separate thousands or decimals (2)"), "{sentence}");
    assert!(sentence.contains("set amount_format to \"base64\" (1)"), "{sentence}");
    assert!(lines_of(&report, "no-amount").is_empty());
    assert_eq!(lines_of(&of_lines("", &lines), "no-amount"), [r#"amount_unit = "major""#]);
    let base64 = r#"{"type":"order.paid","id":"a1","order":"o1","store":"17","amount":"BMQ="}"#;
    assert_eq!(lines_of(&of_lines("amount_unit = 'major'", &[base64]), "no-amount"), [r#"amount_format = "base64""#]);
    let lines = [r#"amount = "/total""#, r#"amount_format = "base64""#, r#"amount_unit = "major""#];
    assert_eq!(lines_of(&of_lines("", &[&base64.replace("amount", "total")]), "no-amount"), lines);
}

#[test]
fn types_that_are_not_listed_get_a_rule_where_their_name_says_one() {
    let scanned = r#"{"type":"order.item_scanned","id":"e40","order":"o40","note":"order.paid soon"}"#;
    let paid = r#"{"type":"order.paid","id":"e41","order":"o41","store":"17","amount":500}"#;
    let report = of_lines("", &[scanned, paid]);
    assert_eq!(
        sentence_of(&report, "unknown-types"),
        "1 events have types that the mapping does not list (order.item_scanned): dead letters; be sure that these are none of an order's stages \
         before you ignore them: order.item_scanned"
    );
    assert_eq!(lines_of(&report, "unknown-types"), [r#"types = { "order.item_scanned" = "ignore" }"#]);
    assert!(
        lines_of(&of_lines("", &[scanned]), "unknown-types").is_empty(),
        "where nothing is a payment, it may be one"
    );
    let report = of_lines("types = { 'order.item_scanned' = 'ignore' }", &[scanned]);
    assert!(!has(&report, "unknown-types") && report.is_good());
    let row =
        TypeRow { name: "order.item_scanned".into(), events: 1, becomes: Some("ignore"), notifying: 0, rejected: 0 };
    assert_eq!((report.types, report.numbers.ignored), (vec![row], 1));
    let report = of_lines("types = { A = 'order.paid' }", &[r#"{"type":"2","order":"o1"}"#]);
    assert!(lines_of(&report, "unknown-types").is_empty(), "a number says nothing of a stage");
    let say = "list them yourself, such as types = { \"TYPE\" = \"order.paid\" } for the one that means paid, and examine the records again";
    assert!(sentence_of(&report, "unknown-types").ends_with(say), "{report}");
}

#[test]
fn payments_that_every_other_type_ignores_are_named() {
    let paid = r#"{"type":"PAY_SUCCESS","id":"e1","order":"o1","store":"17","amount":5}"#;
    let report = of_lines("types = { '*' = 'ignore' }", &[paid]);
    assert_eq!(
        sentence_of(&report, "ignored-stage"),
        "\"*\" ignores 1 events of types whose names say a stage of an order: PAY_SUCCESS (order.paid); list those that are one"
    );
    assert_eq!(lines_of(&report, "ignored-stage"), [r#"types = { "*" = "ignore", "PAY_SUCCESS" = "order.paid" }"#]);
    assert!(!has(&report, "no-payment"), "with the proposed line it is one");
    let other = r#"{"type":"order.paid","id":"e2","order":"o1","store":"17","amount":5}"#;
    let report = of_lines("types = { '*' = 'ignore' }", &[other, paid]);
    assert!(lines_of(&report, "ignored-stage").is_empty(), "it may be meant");
    let report = of_lines("types = { PAY_SUCCESS = 'ignore' }", &[paid]);
    assert!(!has(&report, "ignored-stage"), "somebody named it");
    assert_eq!(
        sentence_of(&report, "no-payment"),
        "no event of the sample is a payment: it does not show that stores are notified"
    );
}

#[test]
fn the_name_of_a_type_says_a_stage_or_nothing() {
    use orderbell_protocol::EventType as E;
    use type_words::{Meaning, meaning};
    let stages = [
        ("PAY_SUCCESS", E::Paid),
        ("orderPaid", E::Paid),
        ("payment.completed", E::Paid),
        ("payment_refunded", E::Refunded),
        ("ORDER_PLACED", E::Created),
        ("order.confirmed", E::Accepted),
        ("order_picked_up", E::PickedUp),
        ("OrderCancelledByCustomer", E::Cancelled),
        ("订单已支付", E::Paid),
    ];
    stages.iter().for_each(|(name, kind)| assert_eq!(meaning(name), Meaning::Stage(*kind), "{name}"));
    for unclear in
        ["2", "u", "UPDATE", "SUCCESS", "payment_failed", "UNPAID", "refund_requested", "payment.cancelled", "等待"]
    {
        assert_eq!(meaning(unclear), Meaning::Unclear, "{unclear}");
    }
    assert_eq!(meaning("courier.moved"), Meaning::Other);
}

#[test]
fn statistics_alone_make_a_hint_and_no_line() {
    let kinds = ["created", "paid", "accepted"];
    let event = |at: usize| {
        let (order, store) = (at / 3, at / 3 % 2);
        let kind = kinds[at % 3];
        format!(r#"{{"type":"order.{kind}","id":"e{at}","order":"o{order}","x":"x{store}","amount":5}}"#)
    };
    let lines: Vec<String> = (0..60).map(event).collect();
    let report = of_lines("", &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let row = report.members.iter().find(|row| row.role == "store").unwrap();
    assert_eq!((row.pointer.as_str(), row.is_named, row.distinct), ("/x", false, 2));
    assert!(lines_of(&report, "no-store").is_empty(), "{report}");
}

#[test]
fn a_payment_of_another_order_with_the_same_number_is_named() {
    let paid = |id: &str, store: u32, amount: u32| {
        format!(r#"{{"type":"order.paid","id":"{id}","order":"0001","store":"{store}","amount":{amount}}}"#)
    };
    let report = of_lines("", &[&paid("a", 17, 500), &paid("b", 17, 700)]);
    assert!(sentence_of(&report, "order-again").starts_with("1 payments are of orders that were paid or over"));
    assert!(lines_of(&report, "order-again").is_empty(), "the store does not tell them apart");
}

#[test]
fn the_mapping_of_the_topic_is_examined_and_its_section_named() {
    let record = sample_record(r#"{"type":"order.paid","id":"e1","no":"o1","shop_id":"17","amount":5}"#, 0);
    let report = examined("[topics.orders]\norder = '/no'", &[record]);
    assert_eq!(report.section, "[mapping.topics.\"orders\"]");
    assert_eq!(report.proposed, [r#"store = "/shop_id""#]);
}

/// What a customer is called, owes or wrote is in no line of the report, wherever a producer puts it.
#[test]
fn the_report_quotes_no_value() {
    let secrets = ["13800001111", "openid-Zq8", "K7Q9", "987654", "no onions", "Zhang San"];
    let event = r#"{"type":"order.paid","id":"e1","order":"o-13800001111","store":"17","customer":"openid-Zq8","pickup_code":"K7Q9",
        "amount":987654,"note":"no onions","name":"Zhang San","byPhone":{"13800001111":"x"},"code":"K7Q9","user":"Zhang San"}"#;
    let as_type = r#"{"type":"13800001111","id":"e2"}"#;
    let named = r#"{"type":"Zhang San","id":"e3","source":"13800001111"}"#;
    let event = event.replace('\n', " ");
    let report = of_lines("", &[&event, as_type, named]);
    let json = serde_json::to_string(&report).unwrap();
    for secret in secrets {
        assert!(!report.to_string().contains(secret), "{secret}:\n{report}");
        assert!(!json.contains(secret), "{secret}: {json}");
    }
    assert!(report.to_string().contains("as a-99999999999"), "a shape says enough:\n{report}");
}
