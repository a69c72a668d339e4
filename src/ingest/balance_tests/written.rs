//! Writes what is meant as the bytes and headers of records: each envelope as its producer does.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use orderbell_consumers::{Record, TopicPartition};

use super::meant::{Amount, Blemish, Damage, Envelope, EventId, Key, Kind, Meant, Recorded, Sent, Time, Written};

pub(super) const ZONE: &str = "Asia/Shanghai";
const HOUR_MS: i64 = 3_600_000;
/// How far clocks in that zone are ahead of UTC. Seconds.
const WALL_AHEAD_S: i64 = 8 * 3600;
/// So many forms of a time are numbers.
const NUMBERS: u8 = 4;
/// What a row was before its change, which makes its order what it is.
const OLD_ROW: &str = "{\"status\":\"none\"}";
const EMPTY_UUID: &str = "00000000-0000-0000-0000-000000000000";
/// Stands for a byte that is not UTF-8.
const NOT_UTF8: char = '§';

/// The envelopes that one mapping reads: a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    Plain,
    CloudEvents,
    Debezium,
    Maxwell,
    Canal,
    MassTransit,
    Spring,
}

impl Family {
    pub(super) const ALL: [Self; 7] =
        [Self::Plain, Self::CloudEvents, Self::Debezium, Self::Maxwell, Self::Canal, Self::MassTransit, Self::Spring];

    pub(super) fn of(envelope: Envelope) -> Self {
        use Envelope as E;
        match envelope {
            E::Plain | E::Array | E::InAString | E::Confluent | E::Apicurio | E::Glue => Self::Plain,
            E::Structured | E::DataInAString | E::Batch | E::Base64 | E::Binary => Self::CloudEvents,
            E::Debezium | E::DebeziumSchema | E::DebeziumFlat => Self::Debezium,
            E::Maxwell => Self::Maxwell,
            E::Canal => Self::Canal,
            E::MassTransit => Self::MassTransit,
            E::Spring => Self::Spring,
        }
    }

    /// Events are rows of a table, which have ids of their envelope's making.
    pub(super) fn is_of_rows(self) -> bool {
        matches!(self, Self::Debezium | Self::Maxwell | Self::Canal)
    }

    /// The mapping, without the section of its topic.
    pub(super) fn config(self) -> String {
        let (envelope, amounts) = match self {
            Self::Plain => ("auto", ""),
            Self::CloudEvents => ("cloudevents", ""),
            Self::Debezium => ("debezium", "amount_unit = 'major'\namount_format = 'base64'\ntime_numbers = 'local'"),
            Self::Maxwell => ("maxwell", "amount_unit = 'major'"),
            Self::Canal => ("canal", "amount_unit = 'major'"),
            Self::MassTransit => ("masstransit", "amount_unit = 'major'"),
            Self::Spring => ("spring", "amount_unit = 'major'"),
        };
        let kind = if self.is_of_rows() { "/status" } else { "/type" };
        format!(
            "envelope = '{envelope}'\ntype = '{kind}'\ntime_zone = '{ZONE}'\nextra_fields = []\n\
             types = {{ 'courier.moved' = 'ignore' }}\n{amounts}"
        )
    }

    fn amount(self, amount: Amount) -> Option<String> {
        let (usual, other) = match self {
            Self::Plain | Self::CloudEvents => (["1250", "\"1250.00\"", "\" 1250 \""], "700"),
            Self::Debezium => (["\"BOI=\"", "12.50", "12.5000"], "\"Arw=\""),
            _ => (["12.50", "\"12.5\"", "\" 12.5000 \""], "\"7.00\""),
        };
        Some(String::from(match amount {
            Amount::Usual => usual[0],
            Amount::UsualText => usual[1],
            Amount::UsualPadded => usual[2],
            Amount::Other => other,
            Amount::Absent => return None,
            Amount::NotANumber => "NaN",
            Amount::Comma => "\"12,50\"",
            Amount::Negative => "-3",
            Amount::Huge => "123456789012345678901234567890",
        }))
    }
}

/// One case's names and time.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    pub(super) case: u32,
    /// When the case began. Milliseconds since 1970.
    pub(super) now_ms: i64,
}

/// How the data of a structured CloudEvent is written.
#[derive(Clone, Copy)]
enum Data {
    Json,
    Text,
    Base64,
}

/// An event in a record. Equal bytes in one record are one event, and equal contents have one id where the producer gave none.
pub(super) struct Part {
    pub(super) bytes: String,
    pub(super) content: String,
}

impl Chain {
    pub(super) fn topic(self, family: Family) -> String {
        format!("{family:?}-{}", self.case)
    }

    pub(super) fn order(self, order: u8) -> String {
        let is_long = order >= 3;
        let middle = if is_long { format!("-{}", "o".repeat(111)) } else { String::new() };
        format!("7{:06}{middle}{order}", self.case)
    }

    pub(super) fn store(self, store: u8) -> String {
        format!("8{:06}{store}", self.case)
    }

    /// The id of the event with this serial number; `None` where that is not the producer's.
    pub(super) fn event_id(self, meant: &Meant, serial: usize) -> Option<String> {
        let case = self.case;
        match meant.id {
            EventId::Text | EventId::Padded => Some(format!("e-{case}-{serial}")),
            EventId::Number => Some(format!("6{case:06}{serial:04}")),
            EventId::Long => Some(format!("{}{serial:04}", "l".repeat(300))),
            EventId::OfOrder => Some(self.order(meant.order)),
            EventId::TooLong => Some("t".repeat(1100)),
            EventId::Absent | EventId::Null | EventId::Empty | EventId::Zero => None,
            EventId::Undefined | EventId::EmptyUuid => None,
        }
    }

    /// The same as the producer writes it as a text, and whether that is a JSON number or `null`.
    fn written_id(self, meant: &Meant, serial: usize) -> Option<(String, bool)> {
        let id = self.event_id(meant, serial).unwrap_or_default();
        match meant.id {
            EventId::Absent => None,
            EventId::Null => Some(("null".into(), true)),
            EventId::Zero => Some(("0".into(), true)),
            EventId::Number => Some((id, true)),
            EventId::Undefined => Some(("undefined".into(), false)),
            EventId::EmptyUuid => Some((EMPTY_UUID.into(), false)),
            EventId::Padded => Some((format!(" {id}\t"), false)),
            _ => Some((id, false)),
        }
    }

    fn id_json(self, meant: &Meant, serial: usize) -> Option<String> {
        let (text, is_raw) = self.written_id(meant, serial)?;
        Some(if is_raw { text } else { quoted(&text) })
    }

    fn id_header(self, meant: &Meant, serial: usize) -> Option<String> {
        self.written_id(meant, serial).map(|(text, _)| text).filter(|_| meant.id != EventId::Null)
    }

    fn time(self, family: Family, time: Time) -> Option<String> {
        let ago = |ms: i64| (self.now_ms - ms) / 1000;
        // A number of Debezium is what a clock on the wall shows, as if it were UTC.
        let wall = |seconds: i64| if family == Family::Debezium { seconds + WALL_AHEAD_S } else { seconds };
        Some(match time {
            Time::Fresh(seconds, form @ 0..NUMBERS) => time_in(form, wall(ago(i64::from(seconds) * 1000))),
            Time::Fresh(seconds, form) => time_in(form, ago(i64::from(seconds) * 1000)),
            Time::Absent => return None,
            Time::DateOnly => quoted(&local(ago(0), "%Y-%m-%d")),
            Time::Garbage => quoted("yesterday"),
            Time::HoursBehind => wall(ago(5 * HOUR_MS)).to_string(),
            Time::DaysAhead => wall(ago(-72 * HOUR_MS)).to_string(),
            Time::Old => wall(ago(3 * HOUR_MS + 17 * 60_000)).to_string(),
            Time::Ancient => wall(ago(100 * HOUR_MS + 17 * 60_000)).to_string(),
        })
    }

    /// The members of an event besides its type and id.
    fn members(
        self,
        family: Family,
        meant: &Meant,
        serial: usize,
        time: Option<String>,
    ) -> Vec<(&'static str, String)> {
        let store = if meant.is_other_store { 2 } else { meant.order % 2 };
        let customer = format!("9{:06}{}", self.case, u8::from(meant.is_other_customer));
        let memo = match meant.blemish {
            Blemish::None | Blemish::NotANumber => "\"no onions\"".into(),
            Blemish::HalfSurrogate => "\"x \\ud83d\"".into(),
            Blemish::ControlCharacter => "\"a\u{1}b\tc\nd\"".into(),
            Blemish::BadEscape => "\"it\\'s \\d\"".into(),
            Blemish::NotUtf8 => format!("\"{NOT_UTF8}\""),
            Blemish::Nul => "\"a\u{0}b\"".into(),
        };
        let optional = [
            ("version", meant.has_version.then(|| "1".into())),
            ("rate", (meant.blemish == Blemish::NotANumber).then(|| "NaN".into())),
            ("order", written(&self.order(meant.order), meant.order_as)),
            ("store", written(&self.store(store), meant.store_as)),
            ("customer", written(&customer, meant.customer_as)),
            ("amount", family.amount(meant.amount)),
            ("time", time),
        ];
        let optional = optional.into_iter().filter_map(|(name, json)| Some((name, json?)));
        [("serial", serial.to_string()), ("memo", memo)].into_iter().chain(optional).collect()
    }

    fn plain(self, meant: &Meant, serial: usize) -> String {
        let mut all = self.members(Family::Plain, meant, serial, self.time(Family::Plain, meant.time));
        all.extend(meant.kind.word().map(|word| ("type", quoted(word))));
        all.extend(self.id_json(meant, serial).map(|id| ("id", id)));
        object(&all)
    }

    /// Where the time of a CloudEvent stands: in its envelope, or in its data where it is no text or number.
    fn times(self, meant: &Meant, serial: usize) -> (Option<String>, Option<String>) {
        let time = self.time(Family::CloudEvents, meant.time);
        let is_scalar = time.as_ref().is_some_and(|json| !json.starts_with(['{', '[']));
        if is_scalar && serial.is_multiple_of(2) { (time, None) } else { (None, time) }
    }

    fn structured(self, meant: &Meant, serial: usize, how: Data) -> String {
        let (outside, inside) = self.times(meant, serial);
        let data = object(&self.members(Family::CloudEvents, meant, serial, inside));
        let data = match how {
            Data::Json => ("data", data),
            Data::Text => ("data", quoted(&data)),
            Data::Base64 => ("data_base64", quoted(&STANDARD.encode(damaged(&data)))),
        };
        let mut all = vec![("specversion", quoted("1.0")), ("source", quoted("/shop"))];
        all.extend(meant.kind.word().map(|word| ("type", quoted(word))));
        all.extend(self.id_json(meant, serial).map(|id| ("id", id)));
        all.extend(outside.map(|time| ("time", time)));
        all.push(data);
        object(&all)
    }

    fn row(self, family: Family, meant: &Meant, serial: usize, more: &[(&'static str, String)]) -> String {
        let mut all = self.members(family, meant, serial, self.time(family, meant.time));
        all.extend(meant.kind.word().map(|word| ("status", quoted(word))));
        all.extend_from_slice(more);
        object(&all)
    }

    fn debezium(self, meant: &Meant, serial: usize) -> String {
        let ms = self.now_ms - 3_000;
        let op = if meant.kind == Kind::Created { "c" } else { "u" };
        format!(
            "{{\"before\":{OLD_ROW},\"after\":{},\"source\":{{\"db\":\"shop\",\"table\":\"orders\",\"ts_ms\":{ms},\"pos\":{serial}}},\
             \"op\":\"{op}\",\"ts_ms\":{ms}}}",
            self.row(Family::Debezium, meant, serial, &[])
        )
    }

    fn mass_transit(self, meant: &Meant, serial: usize) -> String {
        let mut all: Vec<(&'static str, String)> = Vec::new();
        all.extend(self.id_json(meant, serial).map(|id| ("messageId", id)));
        let types = |word| format!("[\"urn:message:{word}\",\"urn:message:Shop:Base\"]");
        all.extend(meant.kind.word().map(|word| ("messageType", types(word))));
        all.push((
            "message",
            object(&self.members(Family::MassTransit, meant, serial, self.time(Family::MassTransit, meant.time))),
        ));
        all.push(("sentTime", time_in(7, self.now_ms / 1000 - 3)));
        object(&all)
    }

    /// The JSON of a record, and its parts.
    fn json(self, sent: &Sent, serial: usize) -> (String, Vec<Part>) {
        let first = &sent.events[0];
        let mut numbered: Vec<(usize, &Meant)> =
            sent.events.iter().enumerate().map(|(at, one)| (serial + at, one)).collect();
        numbered.extend(sent.is_last_twice.then(|| numbered[numbered.len() - 1]));
        let items = |write: &dyn Fn(usize, &Meant) -> String| -> Vec<String> {
            numbered.iter().map(|(serial, meant)| write(*serial, meant)).collect()
        };
        let array = |items: Vec<String>| {
            let text = format!("[{}]", items.join(" , "));
            (text, items.into_iter().map(|item| Part { bytes: item.clone(), content: item }).collect())
        };
        let one = |text: String| (text.clone(), vec![Part { bytes: String::new(), content: text }]);
        match sent.envelope {
            Envelope::Plain | Envelope::Confluent | Envelope::Apicurio | Envelope::Glue => {
                one(self.plain(first, serial))
            }
            Envelope::InAString => one(quoted(&self.plain(first, serial))),
            Envelope::Array => array(items(&|serial, meant| self.plain(meant, serial))),
            Envelope::Structured => one(self.structured(first, serial, Data::Json)),
            Envelope::DataInAString => one(self.structured(first, serial, Data::Text)),
            Envelope::Base64 => one(self.structured(first, serial, Data::Base64)),
            Envelope::Batch => {
                let how = |serial: usize| [Data::Base64, Data::Json, Data::Text][serial % 3];
                array(items(&|serial, meant| self.structured(meant, serial, how(serial))))
            }
            Envelope::Binary => {
                one(object(&self.members(Family::CloudEvents, first, serial, self.times(first, serial).1)))
            }
            Envelope::Debezium => one(self.debezium(first, serial)),
            Envelope::DebeziumSchema => {
                one(format!("{{\"schema\":{{\"type\":\"struct\"}},\"payload\":{}}}", self.debezium(first, serial)))
            }
            Envelope::DebeziumFlat => {
                let ms = (self.now_ms - 3_000).to_string();
                let more = [("__op", quoted("c")), ("__source_ts_ms", ms), ("__deleted", quoted("false"))];
                one(self.row(Family::Debezium, first, serial, &more))
            }
            Envelope::Maxwell => {
                let (seconds, row) = (self.now_ms / 1000 - 3, self.row(Family::Maxwell, first, serial, &[]));
                one(format!(
                    "{{\"database\":\"shop\",\"table\":\"orders\",\"type\":\"update\",\"ts\":{seconds},\"xid\":{serial},\"data\":{row},\"old\":{OLD_ROW}}}"
                ))
            }
            Envelope::Canal => {
                let (ms, rows) =
                    (self.now_ms - 3_000, items(&|serial, meant| self.row(Family::Canal, meant, serial, &[])));
                let text = format!(
                    "{{\"data\":[{}],\"database\":\"shop\",\"es\":{ms},\"id\":{serial},\"isDdl\":false,\"old\":[{}],\"table\":\"orders\",\"type\":\"UPDATE\"}}",
                    rows.join(","),
                    vec![OLD_ROW; rows.len()].join(",")
                );
                let part = |(at, row): (usize, String)| Part { bytes: at.to_string(), content: row };
                (text, rows.into_iter().enumerate().map(part).collect())
            }
            Envelope::MassTransit => one(self.mass_transit(first, serial)),
            Envelope::Spring => {
                one(object(&self.members(Family::Spring, first, serial, self.time(Family::Spring, first.time))))
            }
        }
    }

    fn headers(self, sent: &Sent, serial: usize) -> Vec<(String, Option<Bytes>)> {
        let first = &sent.events[0];
        let word = first.kind.word().map(str::to_owned);
        let id = self.id_header(first, serial);
        let text = |json: String| serde_json::from_str::<String>(&json).unwrap_or(json);
        let named = match sent.envelope {
            Envelope::Batch => vec![("content-type", Some("application/cloudevents-batch+json".into()))],
            Envelope::Binary => vec![
                ("ce_specversion", Some("1.0".into())),
                ("ce_source", Some("/shop".into())),
                ("ce_type", word),
                ("ce_id", id),
                ("ce_time", self.times(first, serial).0.map(text)),
            ],
            Envelope::Spring => vec![("eventType", word), ("id", id)],
            _ => Vec::new(),
        };
        let header = |(name, value): (&str, Option<String>)| Some((name.to_owned(), Some(Bytes::from(value?))));
        named.into_iter().filter_map(header).collect()
    }

    /// A record as it is read, and the parts that are in it as long as it is not damaged.
    pub(super) fn record(self, sent: &Sent, serial: usize, offset: u64) -> (Record, Vec<Part>) {
        let (json, parts) = self.json(sent, serial);
        let frame: &[u8] = match sent.envelope {
            Envelope::Confluent => b"\0\0\0\x01\x0c",
            Envelope::Apicurio => b"\0\0\0\0\0\0\0\x01\x0c",
            Envelope::Glue => b"\x03\0abcdefghijklmnop",
            _ => b"",
        };
        let whole = [frame, &damaged(&json)].concat();
        let value = match &sent.damage {
            Damage::None => Some(whole),
            Damage::ByteOrderMark => Some([b"\xef\xbb\xbf", &whole[..]].concat()),
            Damage::NulsAtTheEnd => Some([&whole[..], b"\0\0\0"].concat()),
            Damage::CutOff(at) => Some(whole[..1 + at.index(whole.len() - 1)].to_vec()),
            Damage::NoValue => None,
            Damage::Empty => Some(Vec::new()),
            Damage::Utf16 => Some(format!("\u{feff}{json}").encode_utf16().flat_map(u16::to_le_bytes).collect()),
            Damage::Avro => Some(b"\0\0\0\0\x0c\x02\x06o1".to_vec()),
            Damage::TooDeep => Some(format!("{}{}", "[".repeat(150), "]".repeat(150)).into_bytes()),
        };
        let record = Record {
            partition: TopicPartition::new(&self.topic(Family::of(sent.envelope)), 0),
            offset,
            timestamp_ms: match sent.recorded {
                Recorded::Now => self.now_ms,
                Recorded::HoursAgo => self.now_ms - 10 * HOUR_MS,
                Recorded::Unknown => 0,
            },
            read_ms: self.now_ms,
            key: match sent.key {
                Key::None => None,
                Key::OfOrder => Some(self.order(sent.events[0].order).into()),
                Key::OfStore => Some(self.store(0).into()),
                Key::NotUtf8 => Some(Bytes::from_static(b"\xff\x00\xb1")),
            },
            value: value.map(Bytes::from),
            headers: self.headers(sent, serial).into(),
        };
        (record, parts)
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn object(members: &[(&str, String)]) -> String {
    let members: Vec<String> = members.iter().map(|(name, json)| format!("{}:{json}", quoted(name))).collect();
    format!("{{{}}}", members.join(","))
}

/// The bytes of a text in which a character stands for one that is not UTF-8.
fn damaged(text: &str) -> Vec<u8> {
    let mut parts = text.split(NOT_UTF8).map(str::as_bytes);
    let first = parts.next().unwrap_or_default().to_vec();
    parts.fold(first, |all, part| [&all[..], b"\xb1", part].concat())
}

/// An id as JSON.
fn written(id: &str, how: Written) -> Option<String> {
    let is_number = id.bytes().all(|byte| byte.is_ascii_digit());
    Some(match how {
        Written::Number if is_number => id.to_owned(),
        Written::Text | Written::Number => quoted(id),
        Written::Padded => quoted(&format!(" {id}\t")),
        Written::ByteOrderMark => quoted(&format!("\u{feff}{id}")),
        Written::Escaped => format!("\"\\u{:04x}{}\"", u32::from(id.as_bytes()[0]), &id[1..]),
        Written::Absent => return None,
        Written::Null => "null".into(),
        Written::Empty => quoted(""),
        Written::Zero => "0".into(),
        Written::ZeroText => quoted("0"),
        Written::Undefined => quoted("undefined"),
        Written::NullText => quoted("null"),
        Written::NotAvailable => quoted("N/A"),
        Written::MinusOne => "-1".into(),
        Written::EmptyUuid => quoted(EMPTY_UUID),
        Written::Object => "{\"id\":1}".into(),
        Written::TooLong => quoted(&id.repeat(30)),
    })
}

fn local(seconds: i64, format: &str) -> String {
    let zone = TimeZone::get(ZONE).unwrap();
    Timestamp::from_second(seconds).unwrap().to_zoned(zone).strftime(format).to_string()
}

/// A time in one of the common forms.
fn time_in(form: u8, seconds: i64) -> String {
    let array = || local(seconds, "[%Y,%-m,%-d,%-H,%-M,%-S]");
    match form {
        0 => seconds.to_string(),
        1 => format!("{seconds}000"),
        2 => format!("{seconds}000000"),
        3 => format!("{seconds}000000000"),
        4 => format!("\"{seconds}\""),
        5 => format!("\"{seconds}000\""),
        6 => format!("\"{seconds}000000000\""),
        7 => quoted(&Timestamp::from_second(seconds).unwrap().to_string()),
        8 => quoted(&local(seconds, "%Y-%m-%dT%H:%M:%S+08:00")),
        9 => quoted(&local(seconds, "%Y-%m-%dT%H:%M:%S+08:00[Asia/Shanghai]")),
        10 => quoted(&local(seconds, "%Y-%m-%d %H:%M:%S")),
        11 => quoted(&local(seconds, "%Y/%m/%d %H:%M:%S")),
        12 => array(),
        13 => array().replace(']', ",0]"),
        14 => quoted(&local(seconds, "%Y%m%d%H%M%S")),
        15 => format!("{{\"$date\":{seconds}000}}"),
        16 => format!("{{\"$date\":{{\"$numberLong\":\"{seconds}000\"}}}}"),
        17 => format!("{{\"seconds\":{seconds},\"nanos\":0}}"),
        18 => format!("\"/Date({seconds}000+0800)/\""),
        _ => quoted(&local(seconds - 8 * 3600, "%a, %d %b %Y %H:%M:%S GMT")),
    }
}
