//! What order systems wrote, byte for byte, by kind of fault; and what must become of it, on Kafka, where each kind has a topic, and posted.

use orderbell_protocol::balance::Bin::{self, AfterEnd, AwaitsStore, Ignored, Notified, Rejected, Unreadable};

/// One record, or a post: the headers are those of Kafka.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) key: Option<&'static str>,
    pub(super) headers: Vec<(&'static str, &'static str)>,
    pub(super) value: Option<Vec<u8>>,
}

/// The records of one topic.
pub(super) struct Input {
    /// The kind of fault, by which its topic is called.
    pub(super) kind: &'static str,
    /// The mapping of its topic; empty where that of all is good enough.
    pub(super) mapping: &'static str,
    pub(super) records: Vec<Sent>,
    /// Who finds which notice: recipient, kind, order, body.
    pub(super) notices: Vec<String>,
    /// The bins of its topic, each with its reason and the number of records.
    pub(super) bins: Vec<(Bin, &'static str, u64)>,
    /// Dead letters that are no paid orders.
    pub(super) further_dead_letters: u64,
}

pub(super) fn is_dead_letter(bin: Bin) -> bool {
    [Bin::Rejected, Bin::Unreadable, Bin::RejectedLater].contains(&bin)
}

/// A record for each line, as `kcat -l` makes them.
fn lines(text: &[u8]) -> Vec<Sent> {
    text.split(|byte| *byte == b'\n').map(|line| Sent { value: Some(line.to_vec()), ..Sent::default() }).collect()
}

fn input(kind: &'static str, mapping: &'static str, text: impl AsRef<[u8]>) -> Input {
    let records = lines(text.as_ref());
    Input { kind, mapping, records, notices: Vec::new(), bins: Vec::new(), further_dead_letters: 0 }
}

impl Input {
    fn keyed(mut self, key: &'static str) -> Self {
        self.records.iter_mut().for_each(|record| record.key = Some(key));
        self
    }

    fn and(mut self, headers: &[(&'static str, &'static str)], value: Option<&[u8]>) -> Self {
        self.records.push(Sent { key: None, headers: headers.to_vec(), value: value.map(Into::into) });
        self
    }

    fn finds(mut self, who: &str, notice: &str, body: &str) -> Self {
        self.notices.push(format!("{who} {notice} {body}"));
        self
    }

    /// Store 17 is notified of these orders, each with this body.
    fn notifies_17(self, orders: &[&str], body: &str) -> Self {
        orders.iter().fold(self, |input, order| input.finds("store:17", &format!("new_order {order}"), body))
    }

    /// Records that cannot be taken: dead letters, or refused posts.
    pub(super) fn dead_letters(&self) -> u64 {
        let of_bins = self.bins.iter().filter(|(bin, ..)| is_dead_letter(*bin)).map(|(.., records)| records);
        of_bins.sum::<u64>() + self.further_dead_letters
    }

    fn ends_in(mut self, bin: Bin, reason: &'static str, records: u64) -> Self {
        self.bins.push((bin, reason, records));
        self
    }
}

/// Bodies of notices of events without a time.
const AMOUNT_500: &str = r#"{"amount":500,"flags":["clock"]}"#;
const AMOUNT_1250: &str = r#"{"amount":1250,"flags":["clock"]}"#;

pub(super) fn all(now_ms: i64) -> Vec<Input> {
    [identity(), stores(), members(), envelopes(), bytes(), ids(), times(now_ms), amounts(), configured()]
        .into_iter()
        .flatten()
        .collect()
}

/// Two orders or two events that look like one.
fn identity() -> Vec<Input> {
    vec![
        input(
            "id-is-the-order",
            "order = '/id'\nstore = '/shop'",
            r#"{"type":"order.created","id":900123,"shop":"17","amount":1250}
{"type":"order.paid","id":900123,"shop":"17","amount":1250}"#,
        )
        .notifies_17(&["900123"], AMOUNT_1250)
        .ends_in(Notified, "", 1),
        input(
            "empty-id",
            "",
            r#"{"type":"order.created","id":"","order":"o2","store":"17","amount":1250}
{"type":"order.paid","id":"","order":"o2","store":"17","amount":1250}"#,
        )
        .notifies_17(&["o2"], AMOUNT_1250)
        .ends_in(Notified, "", 1),
        input(
            "order-renamed",
            "",
            r#"{"type":"order.paid","id":"e31","orderID":"o31","store":"17","amount":500}
{"type":"order.paid","id":"e32","orderID":"o32","store":"17","amount":700}"#,
        )
        .keyed("17")
        .ends_in(Rejected, "no-order", 2),
        input(
            "subject-is-the-store",
            "",
            r#"{"specversion":"1.0","type":"order.paid","id":"e41","source":"/pos","subject":"17","data":{"orderId":"o41","store":"17","amount":500}}
{"specversion":"1.0","type":"order.paid","id":"e42","source":"/pos","subject":"17","data":{"orderId":"o42","store":"17","amount":700}}"#,
        )
        .ends_in(Rejected, "no-order", 2),
        // What was notified of the first order is over when somebody looks.
        input(
            "number-begins-again",
            "",
            r#"{"type":"order.paid","id":"a1","order":"0001","store":"17","amount":500}
{"type":"order.accepted","id":"a2","order":"0001","store":"17","code":"A1"}
{"type":"order.ready","id":"a3","order":"0001","store":"17"}
{"type":"order.picked_up","id":"a4","order":"0001","store":"17"}
{"type":"order.paid","id":"b1","order":"0001","store":"17","amount":700}"#,
        )
        .ends_in(Notified, "", 1)
        .ends_in(AfterEnd, "", 1),
        input(
            "words-for-nothing",
            "",
            r#"{"type":"order.paid","id":"e61","order":"undefined","store":"17","amount":500}
{"type":"order.paid","id":"e62","order":"undefined","store":"17","amount":700}"#,
        )
        .ends_in(Rejected, "no-order", 2),
    ]
}

fn stores() -> Vec<Input> {
    vec![
        input("store-renamed", "", r#"{"type":"order.paid","id":"e71","order":"o71","shop_id":"17","amount":500}"#)
            .ends_in(AwaitsStore, "", 1),
        input(
            "customer-changes",
            "",
            r#"{"type":"order.created","id":"e291","order":"o29","store":"17","customer":"open-77","amount":500}
{"type":"order.paid","id":"e292","order":"o29","store":"17","customer":"member-9","amount":500}"#,
        )
        .notifies_17(&["o29"], r#"{"amount":500,"flags":["clock","customer"]}"#)
        .ends_in(Notified, "", 1),
        input(
            "store-changes",
            "",
            r#"{"type":"order.created","id":"e301","order":"o30","store":"17","amount":500}
{"type":"order.paid","id":"e302","order":"o30","store":"18","amount":500}"#,
        )
        .finds("store:18", "new_order o30", AMOUNT_500)
        .ends_in(Notified, "", 1),
    ]
}

/// Members that mean something else.
fn members() -> Vec<Input> {
    vec![
        input(
            "schema-version",
            "",
            r#"{"type":"order.paid","id":"e91","order":"o91","store":"17","amount":500,"version":1}
{"type":"order.cancelled","id":"e92","order":"o91","store":"17","version":1}"#,
        )
        .finds("store:17", "cancelled o91", r#"{"cancels":"1071e959d6d4f76b4cea08f7"}"#)
        .ends_in(Notified, "", 1),
        input(
            "code-of-the-event",
            "type = '/fullCode'\norder = '/orderId'\nstore = '/merchantId'\n\
             types = { PLACED = 'order.paid', CONFIRMED = 'order.accepted', CANCELLED = 'order.cancelled' }",
            r#"[{"id":"e101","code":"PLC","fullCode":"PLACED","orderId":"o101","merchantId":"m-17"},{"id":"e102","code":"CFM","fullCode":"CONFIRMED","orderId":"o101","merchantId":"m-17"}]"#,
        )
        .finds("store:m-17", "new_order o101", r#"{"flags":["clock","amount"]}"#)
        .finds("store:m-17", "order_accepted o101", "{}")
        .ends_in(Notified, "", 1),
        input(
            "table-of-the-database",
            "type = '/data/status'\norder = '/data/id'\nid = '/xid'\nstore = '/data/shop_id'\namount = '/data/total'\n\
             amount_unit = 'major'\ntypes = { PAID = 'order.paid' }",
            r#"{"database":"shop","table":"orders","type":"update","xid":8812,"data":{"id":72,"shop_id":17,"status":"PAID","total":12.50},"old":{"status":"NEW"}}"#,
        )
        .notifies_17(&["72"], AMOUNT_1250)
        .ends_in(Notified, "", 1),
    ]
}

const ROWS: &str = "type = '/data/0/status'\norder = '/data/0/order_no'\nid = '/none'\nstore = '/data/0/shop'\n\
                    amount = '/data/0/total'\namount_unit = 'major'\ntypes = { 2 = 'order.paid' }";

fn envelopes() -> Vec<Input> {
    let headers_only = |id| {
        [
            ("ce_specversion", "1.0"),
            ("ce_type", "order.ready"),
            ("ce_id", id),
            ("ce_source", "/kitchen"),
            ("ce_subject", "o14"),
        ]
    };
    vec![
        input(
            "data-base64",
            "",
            r#"{"specversion":"1.0","type":"order.paid","id":"e121","source":"/shop","subject":"o121","datacontenttype":"application/json","data_base64":"eyJzdG9yZSI6IjE3IiwiYW1vdW50IjoxMjUwfQ=="}"#,
        )
        .notifies_17(&["o121"], AMOUNT_1250)
        .ends_in(Notified, "", 1),
        input(
            "data-is-a-string",
            "",
            r#"{"specversion":"1.0","type":"order.paid","id":"e131","source":"/shop","subject":"o131","datacontenttype":"application/json","data":"{\"store\":\"17\",\"amount\":1250}"}"#,
        )
        .notifies_17(&["o131"], AMOUNT_1250)
        .ends_in(Notified, "", 1),
        input(
            "headers-only",
            "",
            r#"{"type":"order.paid","id":"p","order":"o14","store":"17","customer":"c14","amount":500}
{"type":"order.accepted","id":"q","order":"o14","store":"17","code":"A7"}"#,
        )
        .and(&headers_only("r-Z"), None)
        .and(&headers_only("r"), Some(b""))
        .notifies_17(&["o14"], AMOUNT_500)
        .finds("store:17", "order_accepted o14", "{}")
        .finds("customer:c14", "ready o14", r#"{"store":"17"}"#)
        .ends_in(Notified, "", 1),
        header_names(),
        input(
            "several-rows",
            ROWS,
            r#"{"data":[{"order_no":"o171","shop":"17","status":"2","total":"12.50"},{"order_no":"o172","shop":"18","status":"2","total":"9.00"}],"database":"shop","table":"orders","type":"UPDATE","isDdl":false}"#,
        )
        .notifies_17(&["o171"], AMOUNT_1250)
        .finds("store:18", "new_order o172", r#"{"amount":900,"flags":["clock"]}"#)
        .ends_in(Notified, "", 2),
        input(
            "no-row",
            ROWS,
            r#"{"data":null,"database":"shop","table":"orders","type":"ALTER","isDdl":true,"sql":"alter table orders add column x2 INT"}"#,
        ),
        input(
            "array-in-a-record",
            "",
            r#"[{"type":"order.paid","id":"e191","order":"o191","store":"17","amount":500},{"type":"order.paid","id":"e192","order":"o192","store":"17","amount":700}]"#,
        )
        .notifies_17(&["o191"], AMOUNT_500)
        .notifies_17(&["o192"], r#"{"amount":700,"flags":["clock"]}"#)
        .ends_in(Notified, "", 2),
    ]
}

/// The first says its type in a header of its own: no mapping names it, so it is reported.
fn header_names() -> Input {
    let of = |order: &str| format!(r#"{{"store":"17","order":"{order}","amount":500}}"#);
    let mut input = input("header-names", "", r#"{"order":"o161","store":"17","amount":500}"#);
    input.records[0].headers = vec![("eventType", "order.paid")];
    input
        .and(
            &[("CE_SpecVersion", "1.0"), ("CE_Type", "order.paid"), ("CE_ID", "2"), ("CE_Source", "/s")],
            Some(of("o162").as_bytes()),
        )
        .and(
            &[
                ("ce_specversion", "\"1.0\""),
                ("ce_type", "\"order.paid\""),
                ("ce_id", "\"3\""),
                ("ce_source", "\"/s\""),
            ],
            Some(of("o163").as_bytes()),
        )
        .and(
            &[
                ("cloudEvents_specversion", "1.0"),
                ("cloudEvents_type", "order.paid"),
                ("cloudEvents_id", "4"),
                ("cloudEvents_source", "/s"),
            ],
            Some(of("o164").as_bytes()),
        )
        .notifies_17(&["o162", "o163", "o164"], AMOUNT_500)
        .ends_in(Notified, "", 3)
        .ends_in(Unreadable, "no-type", 1)
}

fn bytes() -> Vec<Input> {
    let repaired = r#"{"amount":500,"flags":["text","clock"]}"#;
    let utf16 = r#"{"type":"order.paid","id":"e237","order":"o247","store":"17","amount":500,"note":"x"}"#;
    let utf16 = [0xfeff].into_iter().chain(utf16.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let mut other_encodings = input(
        "other-encodings",
        "",
        b"{\"type\":\"order.paid\",\"id\":\"e236\",\"order\":\"o246\",\"store\":\"17\",\"amount\":500,\"note\":\"\xc4\xcf\xbe\xa9\"}",
    );
    other_encodings.records.push(Sent { value: Some(utf16), ..Sent::default() });
    vec![
        input(
            "byte-order-mark",
            "",
            b"\xef\xbb\xbf{\"type\":\"order.paid\",\"id\":\"e20\",\"order\":\"o20\",\"store\":\"17\",\"amount\":500}",
        )
        .notifies_17(&["o20"], repaired)
        .ends_in(Notified, "", 1),
        input(
            "schema-framing",
            "",
            b"\0\0\0\0\x0c{\"type\":\"order.paid\",\"id\":\"e21\",\"order\":\"o21\",\"store\":\"17\",\"amount\":500}",
        )
        .notifies_17(&["o21"], AMOUNT_500)
        .ends_in(Notified, "", 1),
        input(
            "json-in-a-string",
            "",
            r#""{\"type\":\"order.paid\",\"id\":\"e22\",\"order\":\"o22\",\"store\":\"17\",\"amount\":500}""#,
        )
        .notifies_17(&["o22"], AMOUNT_500)
        .ends_in(Notified, "", 1),
        input(
            "damaged-text",
            "",
            b"{\"type\":\"order.paid\",\"id\":\"e231\",\"order\":\"o231\",\"store\":\"17\",\"amount\":500,\"note\":\"no onions \\ud83d\"}
{\"type\":\"order.paid\",\"id\":\"e232\",\"order\":\"o232\",\"store\":\"17\",\"amount\":500,\"note\":\"no\tonions\"}
{\"type\":\"order.paid\",\"id\":\"e233\",\"order\":\"o233\",\"store\":\"17\",\"amount\":500,\"rate\":NaN}
{\"type\":\"order.paid\",\"id\":\"e234\",\"order\":\"o234\",\"store\":\"17\",\"amount\":500,\"rate\":1e400}
{\"type\":\"order.paid\",\"id\":\"e235\",\"order\":\"o235\",\"store\":\"17\",\"amount\":500,\"note\":\"x\"}\0",
        )
        .notifies_17(&["o231"], "{\"amount\":500,\"details\":{\"note\":\"no onions \u{fffd}\"},\"flags\":[\"text\",\"clock\"]}")
        .notifies_17(&["o232"], r#"{"amount":500,"details":{"note":"no\tonions"},"flags":["text","clock"]}"#)
        .notifies_17(&["o233", "o234"], repaired)
        .notifies_17(&["o235"], r#"{"amount":500,"details":{"note":"x"},"flags":["text","clock"]}"#)
        .ends_in(Notified, "", 5),
        other_encodings
            .notifies_17(&["o246"], "{\"amount\":500,\"details\":{\"note\":\"\u{fffd}\u{3fe}\u{fffd}\"},\"flags\":[\"text\",\"clock\"]}")
            .ends_in(Notified, "", 1)
            .ends_in(Unreadable, "not-json", 1),
    ]
}

fn ids() -> Vec<Input> {
    vec![
        input(
            "padded-ids",
            "",
            r#"{"type":"order.paid","id":"e251","order":"o251     ","store":"17  ","amount":500}
{"type":"order.paid","id":"e252","order":"o252","store":"17\ufeff","amount":500}
{"type":"order.paid","id":"e253","order":"o253","store":"\u200b17","amount":500}"#,
        )
        .notifies_17(&["o251", "o252", "o253"], AMOUNT_500)
        .ends_in(Notified, "", 3),
        input(
            "key-in-quotes",
            "kafka_key = 'order'",
            r#"{"type":"order.paid","id":"e26","order":"o26","store":"17","amount":500}"#,
        )
        .keyed("\"o26\"")
        .notifies_17(&["o26"], AMOUNT_500)
        .ends_in(Notified, "", 1),
        input("id-with-a-point", "", r#"{"type":"order.paid","id":"e27","order":12345.0,"store":17.0,"amount":500}"#)
            .notifies_17(&["12345"], AMOUNT_500)
            .ends_in(Notified, "", 1),
        input(
            "guest",
            "",
            r#"{"type":"order.paid","id":"e281","order":"o281","store":"17","customer":"","amount":500}
{"type":"order.paid","id":"e282","order":"o282","store":"17","customer":false,"amount":500}
{"type":"order.paid","id":"e283","order":"o283","store":"17","device":"","amount":500}
{"type":"order.paid","id":"e284","order":"o284","store":"17","customer":0,"amount":500}
{"type":"order.paid","id":"e285","order":"o285","store":"17","customer":0,"amount":500}"#,
        )
        .notifies_17(&["o281", "o282", "o283", "o284", "o285"], AMOUNT_500)
        .ends_in(Notified, "", 5),
    ]
}

/// One moment in seven forms, a clock that is hours behind or ahead, and a date alone.
fn times(now_ms: i64) -> Vec<Input> {
    let (now, at) = (now_ms / 1_000, jiff::Timestamp::from_millisecond(now_ms).unwrap());
    let written = |form: &str| at.strftime(form).to_string();
    let paid = |order: &str, time: &str| {
        format!(r#"{{"type":"order.paid","id":"{order}","order":"{order}","store":"17","amount":500,"time":{time}}}"#)
    };
    let forms = [
        format!("\"{now}000\""),
        format!("\"{now}\""),
        format!("{now}.123"),
        written("[%-Y,%-m,%-d,%-H,%-M,%-S]"),
        written("\"%Y%m%d%H%M%S\""),
        written("\"%a, %d %b %Y %H:%M:%S GMT\""),
        written("{\"$date\":\"%Y-%m-%dT%H:%M:%SZ\"}"),
    ];
    let orders: Vec<String> = (1..=forms.len()).map(|n| format!("o31-{n}")).collect();
    let orders: Vec<&str> = orders.iter().map(String::as_str).collect();
    let of_forms: Vec<String> = orders.iter().zip(&forms).map(|(order, time)| paid(order, time)).collect();
    let behind: Vec<String> = (1..=20).map(|n| format!("o32-w{n}")).collect();
    let late: Vec<String> = behind.iter().map(|order| paid(order, &(now - 5 * 3_600).to_string())).collect();
    let off = format!("[{}]\n{}", late.join(","), paid("o32-e", &(now + 8 * 3_600).to_string()));
    let off_orders: Vec<&str> = behind.iter().map(String::as_str).chain(["o32-e"]).collect();
    let flagged = r#"{"amount":500,"flags":["clock"]}"#;
    vec![
        input("times", "", of_forms.join("\n")).notifies_17(&orders, r#"{"amount":500}"#).ends_in(Notified, "", 7),
        input("clock-off", "", off).notifies_17(&off_orders, flagged).ends_in(Notified, "", 21),
        input("date-only", "", paid("o33", &written("\"%Y-%m-%d\"")))
            .notifies_17(&["o33"], flagged)
            .ends_in(Notified, "", 1),
    ]
}

fn amounts() -> Vec<Input> {
    let no_amount = r#"{"flags":["clock","amount"]}"#;
    let items = r#"{"items":[{"name":"rice","price":12.50,"sku":123456789012345678901234567890}]}"#;
    vec![
        input(
            "amounts-major",
            "amount_unit = 'major'",
            r#"{"type":"order.paid","id":"a1","order":"o1","store":"17","amount":"12.5000"}
{"type":"order.paid","id":"a2","order":"o2m","store":"17","amount":"1,250.00"}
{"type":"order.paid","id":"a3","order":"o3","store":"17","amount":"BMQ="}
{"type":"order.paid","id":"a4","order":"o4","store":"17","amount":"12,50"}
{"type":"order.paid","id":"a5","order":"o5","store":"17","amount":0.30000000000000004}
{"type":"order.paid","id":"a6","order":"o6","store":"17","amount":" 12.50"}"#,
        )
        .notifies_17(&["o1", "o6"], AMOUNT_1250)
        .notifies_17(&["o2m", "o3", "o4", "o5"], no_amount)
        .ends_in(Notified, "", 6),
        input(
            "amounts-minor",
            "",
            r#"{"type":"order.paid","id":"e351","order":"o351","store":"17","amount":1250.0}
{"type":"order.paid","id":"e352","order":"o352","store":"17","amount":" 1250"}"#,
        )
        .notifies_17(&["o351", "o352"], AMOUNT_1250)
        .ends_in(Notified, "", 2),
        input(
            "yen",
            "amount_unit = 'major'",
            r#"{"type":"order.paid","id":"e36","order":"o36","store":"17","amount":1250,"currency":"JPY"}"#,
        )
        .notifies_17(&["o36"], r#"{"amount":1250,"currency":"JPY","flags":["clock"]}"#)
        .ends_in(Notified, "", 1),
        input(
            "numbers-in-details",
            "",
            r#"{"type":"order.paid","id":"e37","order":"o37","store":"17","amount":500,"items":[{"name":"rice","price":12.50,"sku":123456789012345678901234567890}]}"#,
        )
        .notifies_17(&["o37"], &format!(r#"{{"amount":500,"details":{items},"flags":["clock"]}}"#))
        .ends_in(Notified, "", 1),
    ]
}

/// What only the configuration can say.
fn configured() -> Vec<Input> {
    vec![
        input(
            "topic-of-its-own",
            "order = '/order_no'\nstore = '/shop'\ntypes = { SUCCESS = 'order.paid' }",
            r#"{"type":"SUCCESS","id":"e39","order_no":"o39","shop":"17","amount":500}"#,
        )
        .notifies_17(&["o39"], AMOUNT_500)
        .ends_in(Notified, "", 1),
        input(
            "not-ours",
            "types = { 'order.item_scanned' = 'ignore' }",
            r#"{"type":"order.item_scanned","id":"e40","order":"o40","note":"order.paid soon"}"#,
        )
        .ends_in(Ignored, "", 1),
        Input {
            further_dead_letters: 2,
            ..input(
                "not-a-payment",
                "types = { 2 = 'order.paid', PAID = 'order.paid' }",
                r#"{"type":"courier.moved","id":"e411","order":"o41","lat":31.2,"lon":121.4}
{"type":"UNPAID","id":"e412","order":"o41"}"#,
            )
        },
    ]
}
