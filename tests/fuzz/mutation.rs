//! Changes of a record that its envelope survives: so that what lies behind the JSON parser is reached. Then damage of its bytes and headers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use orderbell_consumers::Record;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::json_tree::Node;

/// Names of members that mean something in some envelope, or to some mapping.
const NAMES: [&str; 54] = [
    "type",
    "id",
    "source",
    "subject",
    "time",
    "specversion",
    "data",
    "data_base64",
    "shadow",
    "datacontenttype",
    "op",
    "before",
    "after",
    "payload",
    "schema",
    "ts_ms",
    "db",
    "table",
    "status",
    "ddl",
    "databaseName",
    "__op",
    "__deleted",
    "__db",
    "__table",
    "__source_ts_ms",
    "__ts_ms",
    "isDdl",
    "old",
    "database",
    "es",
    "ts",
    "sql",
    "mysqlType",
    "messageType",
    "message",
    "messageId",
    "sentTime",
    "order",
    "order_id",
    "order_no",
    "orderId",
    "orderNumber",
    "store",
    "shop",
    "shop_id",
    "customer",
    "device",
    "amount",
    "total",
    "currency",
    "items",
    "number",
    "at",
];

/// Values that programs write, and some that only mistakes do.
const VALUES: [&str; 68] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1",
    "2",
    "17",
    "17.0",
    "0.1",
    "1e3",
    "1E400",
    "-1e-400",
    "NaN",
    "-Infinity",
    "18446744073709551616",
    "123456789012345678901234567890.5",
    "00",
    "1.",
    "+1",
    "\"\"",
    "\"0\"",
    "\" \"",
    "\"undefined\"",
    "\"null\"",
    "\"17\"",
    "\" 17\t\"",
    "\"\u{feff}17\"",
    "\"o1\"",
    "\"PAID\"",
    "\"paid\"",
    "\"order.paid\"",
    "\"order.accepted\"",
    "\"order.created\"",
    "\"order.eaten\"",
    "\"store.online\"",
    "\"com.shop.order.paid.v1\"",
    "\"1.0\"",
    "\"1.1\"",
    "\"0.3\"",
    "\"c\"",
    "\"u\"",
    "\"d\"",
    "\"r\"",
    "\"t\"",
    "\"INSERT\"",
    "\"UPDATE\"",
    "\"ALTER\"",
    "\"update\"",
    "\"bootstrap-insert\"",
    "\"bootstrap-start\"",
    "\"BEGIN\"",
    "\"x \\ud83d\"",
    "\"a\u{1}b\u{0}c\td\"",
    "\"it\\'s \\d\\u12\"",
    "\"\u{fffd}\"",
    "{}",
    "[]",
    "[[]]",
    "[{}]",
    "{\"\":null}",
    "\"2026-09-21T10:00:00Z\"",
    "\"2026-09-21\"",
    "1789984800000",
    "[2026,9,21,18,0]",
    "{\"$date\":1789984800000}",
    "\"BMQ=\"",
    "\"/Date(1789984800000+0800)/\"",
];

/// A change of the JSON.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Put(Index, String),
    Copy {
        from: Index,
        to: Index,
    },
    Swap(Index, Index),
    Delete(Index, Index),
    /// A member or item once more, as it is.
    Repeat(Index, Index),
    Rename(Index, Index, &'static str),
    Add(Index, &'static str, String),
    Nest(Index, u8, bool),
    /// The JSON of a node in a string.
    Quote(Index),
}

/// What stands around the JSON.
#[derive(Clone, Debug)]
pub(crate) enum Around {
    Nothing,
    ByteOrderMark,
    Blanks,
    Nuls,
    InAString,
    InAnArray(u16),
    /// In the payload of Kafka Connect.
    WithSchema,
    Confluent,
    Apicurio,
    Glue,
    Compressed,
    Base64,
    Utf16,
}

/// A change of the bytes.
#[derive(Clone, Debug)]
pub(crate) enum Damage {
    CutOff(Index),
    Set(Index, u8),
    Insert(Index, &'static [u8]),
    Double(Index, Index),
}

/// A change of what is beside the value.
#[derive(Clone, Debug)]
pub(crate) enum Beside {
    Header(&'static str, Option<&'static [u8]>),
    NoHeaders,
    Key(&'static [u8]),
    NoValue,
    TimeStamp(i64),
}

/// All changes of one record.
#[derive(Clone, Debug)]
pub(crate) struct Mutation {
    edits: Vec<Edit>,
    around: Around,
    damage: Vec<Damage>,
    beside: Vec<Beside>,
}

fn values() -> impl Strategy<Value = String> {
    let long = prop_oneof![
        6 => (1..1200_usize).prop_map(|length| format!("\"{}\"", "x".repeat(length))),
        3 => (1..500_usize).prop_map(|length| "9".repeat(length)),
        1 => Just(format!("\"{}\"", "x".repeat(70_000))),
    ];
    prop_oneof![
        20 => select(&VALUES[..]).prop_map(String::from),
        2 => long,
        2 => "\\PC{0,8}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        2 => any::<i64>().prop_map(|number| number.to_string()),
        1 => any::<f64>().prop_map(|number| format!("{number:e}")),
    ]
}

fn edits() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let names = || select(&NAMES[..]);
    prop_oneof![
        6 => (at(), values()).prop_map(|(at, json)| Edit::Put(at, json)),
        2 => (at(), at()).prop_map(|(from, to)| Edit::Copy { from, to }),
        2 => (at(), at()).prop_map(|(one, other)| Edit::Swap(one, other)),
        2 => (at(), at()).prop_map(|(inside, at)| Edit::Delete(inside, at)),
        2 => (at(), at()).prop_map(|(inside, at)| Edit::Repeat(inside, at)),
        2 => (at(), at(), names()).prop_map(|(inside, at, name)| Edit::Rename(inside, at, name)),
        4 => (at(), names(), values()).prop_map(|(inside, name, json)| Edit::Add(inside, name, json)),
        1 => (at(), prop_oneof![4 => 0..4_u8, 1 => 90..120_u8], any::<bool>()).prop_map(|(at, depth, array)| Edit::Nest(at, depth, array)),
        1 => at().prop_map(Edit::Quote),
    ]
}

fn around() -> impl Strategy<Value = Around> {
    use Around as A;
    let counts = prop_oneof![8 => 0..4_u16, 1 => 255..258_u16];
    prop_oneof![
        16 => Just(A::Nothing),
        2 => counts.prop_map(A::InAnArray),
        5 => select(vec![
            A::ByteOrderMark, A::Blanks, A::Nuls, A::InAString, A::WithSchema, A::Confluent, A::Apicurio, A::Glue, A::Base64,
        ]),
        1 => select(vec![A::Compressed, A::Utf16]),
    ]
}

fn damage() -> impl Strategy<Value = Damage> {
    let pieces: [&[u8]; 10] =
        [b"\0", b"\xff", b"\xed\xa0\x80", b"\\", b"\\u", b"\"", b"{", b"]", b",\"type\":\"order.paid\",", b"isDdl"];
    prop_oneof![
        any::<Index>().prop_map(Damage::CutOff),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (any::<Index>(), select(pieces.to_vec())).prop_map(|(at, piece)| Damage::Insert(at, piece)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Double(from, to)),
    ]
}

fn beside() -> impl Strategy<Value = Beside> {
    let names = vec![
        "ce_specversion",
        "ce_type",
        "CE-id",
        "ce_time",
        "ce_subject",
        "ce_shadow",
        "cloudEvents:source",
        "content-type",
        "Content-Type",
        "eventType",
        "__TypeId__",
        "id",
        "timestamp",
        "kafka_dlt-original-topic",
        "traceparent",
    ];
    let values: Vec<Option<&'static [u8]>> = vec![
        None,
        Some(b""),
        Some(b"1.0"),
        Some(b"\"1.0\""),
        Some(b"0.3"),
        Some(b"order.paid"),
        Some(b"PAID"),
        Some(b"com.shop.OrderPaid"),
        Some(b"1789984800000"),
        Some(b"true"),
        Some(b"\xff\xfe"),
        Some(b"undefined"),
        Some(b"o1"),
        Some(b"application/json"),
        Some(b"application/cloudevents+json"),
        Some(b"application/cloudevents-batch+json"),
        Some(b"application/cloudevents+json; profile=orderbell"),
        Some(b"application/json; topic=orders"),
    ];
    prop_oneof![
        8 => (select(names), select(values)).prop_map(|(name, value)| Beside::Header(name, value)),
        1 => Just(Beside::NoHeaders),
        1 => select(vec![&b"o1"[..], b"\"o1\"", b"0", b"\xff"]).prop_map(Beside::Key),
        1 => Just(Beside::NoValue),
        1 => select(vec![0, -1, i64::MAX, i64::MIN, 1_789_000_000_000]).prop_map(Beside::TimeStamp),
    ]
}

pub(crate) fn mutations() -> impl Strategy<Value = Mutation> {
    let some = |most: usize| prop_oneof![4 => Just(0..=0_usize), 1 => Just(1..=most)];
    let few = some(2).prop_flat_map(|count| prop::collection::vec(damage(), count));
    let beside = some(3).prop_flat_map(|count| prop::collection::vec(beside(), count));
    (prop::collection::vec(edits(), 0..6), around(), few, beside).prop_map(|(edits, around, damage, beside)| Mutation {
        edits,
        around,
        damage,
        beside,
    })
}

fn at(index: &Index, root: &Node) -> usize {
    index.index(root.count())
}

fn edit(root: &mut Node, edit: &Edit) {
    match edit {
        Edit::Put(index, json) => {
            let number = at(index, root);
            root.nth_mut(number).into_iter().for_each(|node| *node = Node::Scalar(json.clone()));
        }
        Edit::Copy { from, to } => {
            let (from, to) = (root.nth(at(from, root)).cloned(), at(to, root));
            if let (Some(copy), Some(node)) = (from, root.nth_mut(to)) {
                *node = copy;
            }
        }
        Edit::Swap(one, other) => {
            let (one, other) = (at(one, root), at(other, root));
            let (Some(first), Some(second)) = (root.nth(one).cloned(), root.nth(other).cloned()) else { return };
            root.nth_mut(one).into_iter().for_each(|node| *node = second.clone());
            // The first may have been around the second, which is gone then.
            root.nth_mut(other).into_iter().for_each(|node| *node = first.clone());
        }
        Edit::Delete(inside, index) => {
            let number = at(inside, root);
            match root.nth_mut(number) {
                Some(Node::Array(items)) if !items.is_empty() => drop(items.remove(index.index(items.len()))),
                Some(Node::Object(members)) if !members.is_empty() => drop(members.remove(index.index(members.len()))),
                _ => {}
            }
        }
        Edit::Repeat(inside, index) => {
            let number = at(inside, root);
            match root.nth_mut(number) {
                Some(Node::Array(items)) if !items.is_empty() => items.push(items[index.index(items.len())].clone()),
                Some(Node::Object(members)) if !members.is_empty() => {
                    members.push(members[index.index(members.len())].clone())
                }
                _ => {}
            }
        }
        Edit::Rename(inside, index, name) => {
            let number = at(inside, root);
            if let Some(Node::Object(members)) = root.nth_mut(number).filter(|node| node.count() > 1) {
                let index = index.index(members.len());
                members[index].0 = (*name).to_owned();
            }
        }
        Edit::Add(inside, name, json) => {
            let number = at(inside, root);
            match root.nth_mut(number) {
                Some(Node::Array(items)) => items.push(Node::Scalar(json.clone())),
                Some(Node::Object(members)) => members.push(((*name).to_owned(), Node::Scalar(json.clone()))),
                _ => {}
            }
        }
        Edit::Nest(index, depth, is_array) => {
            let number = at(index, root);
            let Some(node) = root.nth_mut(number) else { return };
            let (open, close) = if *is_array { ("[", "]") } else { ("{\"a\":", "}") };
            let depth = usize::from(*depth);
            *node = Node::Scalar(format!("{}{node}{}", open.repeat(depth), close.repeat(depth)));
        }
        Edit::Quote(index) => {
            let number = at(index, root);
            root.nth_mut(number)
                .into_iter()
                .for_each(|node| *node = Node::Scalar(serde_json::to_string(&node.to_string()).unwrap()));
        }
    }
}

fn surround(around: &Around, value: &[u8]) -> Vec<u8> {
    let text = || String::from_utf8_lossy(value).into_owned();
    match around {
        Around::Nothing => value.to_vec(),
        Around::ByteOrderMark => [b"\xef\xbb\xbf", value].concat(),
        Around::Blanks => [b" \r\n\t", value, b"\n\n"].concat(),
        Around::Nuls => [value, b"\0\0\0"].concat(),
        Around::InAString => serde_json::to_vec(&text()).unwrap(),
        // Objects differ from each other: equal items are one event.
        Around::InAnArray(count) => {
            let text = text();
            let item =
                |at: u16| text.strip_prefix('{').map_or_else(|| text.clone(), |rest| format!("{{\"copy\":{at},{rest}"));
            let items: Vec<String> = (0..*count).map(item).collect();
            format!("[{}]", items.join(",")).into_bytes()
        }
        Around::WithSchema => format!("{{\"schema\":{{\"type\":\"struct\"}},\"payload\":{}}}", text()).into_bytes(),
        Around::Confluent => [b"\0\0\0\0\x0c", value].concat(),
        Around::Apicurio => [b"\0\0\0\0\0\0\0\0\x0c", value].concat(),
        Around::Glue => [b"\x03\0abcdefghijklmnop", value].concat(),
        Around::Compressed => [b"\x03\x05abcdefghijklmnop", value].concat(),
        Around::Base64 => {
            let data = STANDARD.encode(value);
            format!("{{\"specversion\":\"1.0\",\"type\":\"order.paid\",\"id\":\"e1\",\"source\":\"/s\",\"data_base64\":\"{data}\"}}").into_bytes()
        }
        Around::Utf16 => text().encode_utf16().flat_map(u16::to_le_bytes).collect(),
    }
}

fn damage_bytes(value: &mut Vec<u8>, damage: &Damage) {
    if value.is_empty() {
        return;
    }
    match damage {
        Damage::CutOff(at) => value.truncate(at.index(value.len())),
        Damage::Set(at, byte) => {
            let at = at.index(value.len());
            value[at] = *byte;
        }
        Damage::Insert(at, piece) => {
            let at = at.index(value.len());
            value.splice(at..at, piece.iter().copied());
        }
        Damage::Double(from, to) => {
            let (from, to) = (from.index(value.len()), to.index(value.len()));
            let piece = value[from.min(to)..from.max(to)].to_vec();
            value.splice(to..to, piece);
        }
    }
}

impl Mutation {
    /// The seed with all changes.
    pub(crate) fn apply(&self, seed: &Record) -> Record {
        let mut record = seed.clone();
        let mut value = record.value.as_deref().unwrap_or_default().to_vec();
        if let Some(mut root) = std::str::from_utf8(&value).ok().and_then(Node::parse) {
            self.edits.iter().for_each(|one| edit(&mut root, one));
            value = root.to_string().into_bytes();
        }
        value = surround(&self.around, &value);
        self.damage.iter().for_each(|one| damage_bytes(&mut value, one));
        record.value = Some(Bytes::from(value));
        for one in &self.beside {
            match one {
                Beside::Header(name, value) => record.headers.push(((*name).to_owned(), value.map(Bytes::from_static))),
                Beside::NoHeaders => record.headers.clear(),
                Beside::Key(key) => record.key = Some(Bytes::from_static(key)),
                Beside::NoValue => record.value = None,
                Beside::TimeStamp(at_ms) => record.timestamp_ms = *at_ms,
            }
        }
        record
    }
}
