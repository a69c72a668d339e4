//! What the shop's systems mean by what they send: the model counts by it, and the envelopes are written from it.

use proptest::prelude::*;
use proptest::sample::Index;

/// Orders of a case. The last two have ids of 120 characters that differ in the last one.
pub(super) const ORDERS: u8 = 5;
/// Stores of a case.
pub(super) const STORES: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Created,
    Paid,
    Accepted,
    Ready,
    PickedUp,
    Refused,
    Cancelled,
    Refunded,
    Expired,
    /// A type that the mapping does not list.
    Unknown,
    /// A type that it ignores.
    Ignored,
    /// None at all.
    Missing,
}

impl Kind {
    pub(super) fn word(self) -> Option<&'static str> {
        Some(match self {
            Self::Created => "order.created",
            Self::Paid => "order.paid",
            Self::Accepted => "order.accepted",
            Self::Ready => "order.ready",
            Self::PickedUp => "order.picked_up",
            Self::Refused => "order.refused",
            Self::Cancelled => "order.cancelled",
            Self::Refunded => "order.refunded",
            Self::Expired => "order.expired",
            Self::Unknown => "order.eaten",
            Self::Ignored => "courier.moved",
            Self::Missing => return None,
        })
    }
}

/// How an id of an order, store or customer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Text,
    /// A JSON number, where the id is one.
    Number,
    Padded,
    ByteOrderMark,
    Escaped,
    // From here on: none.
    Absent,
    Null,
    Empty,
    Zero,
    ZeroText,
    Undefined,
    NullText,
    NotAvailable,
    MinusOne,
    EmptyUuid,
    // From here on: no id.
    Object,
    TooLong,
}

impl Written {
    /// It identifies something.
    pub(super) fn is_id(self) -> bool {
        matches!(self, Self::Text | Self::Number | Self::Padded | Self::ByteOrderMark | Self::Escaped)
    }

    /// It is there, and cannot be read.
    pub(super) fn is_bad(self) -> bool {
        matches!(self, Self::Object | Self::TooLong)
    }
}

/// How the id of an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventId {
    Text,
    Number,
    Padded,
    /// 300 characters, of which only the last differ between events.
    Long,
    /// As the order itself is called.
    OfOrder,
    Absent,
    Null,
    Empty,
    Zero,
    Undefined,
    EmptyUuid,
    /// Above the limit.
    TooLong,
}

/// When it was paid, and how that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    /// So many seconds ago, in the form with this number.
    Fresh(u8, u8),
    Absent,
    DateOnly,
    Garbage,
    /// Of a clock that is set to another zone.
    HoursBehind,
    DaysAhead,
    /// Too old for a notice.
    Old,
    /// Older than the state that is kept.
    Ancient,
}

pub(super) const TIME_FORMS: u8 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    /// 12.50, in a form of the chain's.
    Usual,
    UsualText,
    /// The same with what people and decimals leave around it.
    UsualPadded,
    /// 7.00.
    Other,
    Absent,
    NotANumber,
    Comma,
    Negative,
    Huge,
}

/// Damage inside the JSON that is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blemish {
    None,
    HalfSurrogate,
    ControlCharacter,
    BadEscape,
    NotUtf8,
    NotANumber,
    Nul,
}

/// Damage of the whole value.
#[derive(Clone, Debug)]
pub(super) enum Damage {
    None,
    ByteOrderMark,
    NulsAtTheEnd,
    // From here on nothing can be read of the value.
    CutOff(Index),
    NoValue,
    Empty,
    Utf16,
    Avro,
    TooDeep,
}

#[derive(Clone, Debug)]
pub(super) struct Meant {
    pub(super) kind: Kind,
    pub(super) order: u8,
    pub(super) order_as: Written,
    pub(super) store_as: Written,
    /// Another store than the order's own.
    pub(super) is_other_store: bool,
    pub(super) customer_as: Written,
    pub(super) is_other_customer: bool,
    pub(super) id: EventId,
    pub(super) time: Time,
    pub(super) amount: Amount,
    pub(super) blemish: Blemish,
    /// It has the version of its schema, which is always the same.
    pub(super) has_version: bool,
}

/// The key of a record, which says nothing as long as no mapping says what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    None,
    OfOrder,
    OfStore,
    NotUtf8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Envelope {
    Plain,
    Array,
    InAString,
    Confluent,
    Apicurio,
    Glue,
    Structured,
    DataInAString,
    Batch,
    Base64,
    Binary,
    Debezium,
    DebeziumSchema,
    DebeziumFlat,
    Maxwell,
    Canal,
    MassTransit,
    Spring,
}

/// When the record was written to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    Now,
    /// Before the ledger began.
    HoursAgo,
    /// The log has no time stamps.
    Unknown,
}

/// One record.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) envelope: Envelope,
    /// One, or several where the envelope holds several.
    pub(super) events: Vec<Meant>,
    /// The last event stands in the record twice.
    pub(super) is_last_twice: bool,
    pub(super) damage: Damage,
    pub(super) recorded: Recorded,
    pub(super) key: Key,
}

/// A log, and what happens while it is read.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) records: Vec<Sent>,
    /// Records that are sent again, at the end.
    pub(super) again: Vec<Index>,
    /// The process ends after so many records, and reads all of them again.
    pub(super) crash: Option<Index>,
}

fn written(text: u32) -> impl Strategy<Value = Written> {
    use Written as W;
    prop_oneof![
        text => Just(W::Text),
        6 => prop::sample::select(vec![W::Number, W::Padded, W::ByteOrderMark, W::Escaped]),
        3 => prop::sample::select(vec![
            W::Absent, W::Null, W::Empty, W::Zero, W::ZeroText, W::Undefined, W::NullText, W::NotAvailable, W::MinusOne,
            W::EmptyUuid,
        ]),
        1 => prop::sample::select(vec![W::Object, W::TooLong]),
    ]
}

fn meant() -> impl Strategy<Value = Meant> {
    use {Amount as A, Blemish as B, EventId as I, Kind as K, Time as T};
    let kind = prop_oneof![
        12 => Just(K::Paid),
        6 => prop::sample::select(vec![K::Created, K::Accepted, K::Ready]),
        2 => prop::sample::select(vec![
            K::PickedUp, K::Refused, K::Cancelled, K::Refunded, K::Expired, K::Unknown, K::Ignored, K::Missing,
        ]),
    ];
    let id = prop::sample::select(vec![
        I::Text,
        I::Text,
        I::Number,
        I::Padded,
        I::Long,
        I::Long,
        I::OfOrder,
        I::Absent,
        I::Null,
        I::Empty,
        I::Zero,
        I::Undefined,
        I::EmptyUuid,
        I::TooLong,
    ]);
    let fresh = || (0..60_u8, 0..TIME_FORMS).prop_map(|(seconds, form)| T::Fresh(seconds, form));
    let time = prop_oneof![
        16 => fresh(),
        4 => prop::sample::select(vec![T::Absent, T::DateOnly, T::Garbage, T::HoursBehind, T::DaysAhead]),
        1 => prop::sample::select(vec![T::Old, T::Ancient]),
    ];
    let amount = prop_oneof![
        8 => prop::sample::select(vec![A::Usual, A::UsualText, A::UsualPadded]),
        2 => prop::sample::select(vec![A::Absent, A::NotANumber, A::Comma, A::Negative, A::Huge]),
        1 => Just(A::Other),
    ];
    let blemish = prop_oneof![
        6 => Just(B::None),
        2 => prop::sample::select(vec![
            B::HalfSurrogate, B::ControlCharacter, B::BadEscape, B::NotUtf8, B::NotANumber, B::Nul,
        ]),
    ];
    let ids =
        (0..ORDERS, written(30), written(20), prop::bool::weighted(0.04), written(10), prop::bool::weighted(0.04));
    (kind, ids, id, time, amount, blemish, any::<bool>()).prop_map(
        |(kind, ids, id, time, amount, blemish, has_version)| {
            let (order, order_as, store_as, is_other_store, customer_as, is_other_customer) = ids;
            Meant {
                kind,
                order,
                order_as,
                store_as,
                is_other_store,
                customer_as,
                is_other_customer,
                id,
                time,
                amount,
                blemish,
                has_version,
            }
        },
    )
}

fn sent() -> impl Strategy<Value = Sent> {
    use {Damage as D, Envelope as E};
    let envelope = prop::sample::select(vec![
        E::Plain,
        E::Array,
        E::InAString,
        E::Confluent,
        E::Apicurio,
        E::Glue,
        E::Structured,
        E::DataInAString,
        E::Batch,
        E::Base64,
        E::Binary,
        E::Debezium,
        E::DebeziumSchema,
        E::DebeziumFlat,
        E::Maxwell,
        E::Canal,
        E::MassTransit,
        E::Spring,
    ]);
    let damage = prop_oneof![
        20 => Just(D::None),
        3 => prop::sample::select(vec![D::ByteOrderMark, D::NulsAtTheEnd]),
        1 => any::<Index>().prop_map(D::CutOff),
        2 => prop::sample::select(vec![D::NoValue, D::Empty, D::Utf16, D::Avro, D::TooDeep]),
    ];
    let recorded = prop_oneof![
        20 => Just(Recorded::Now),
        1 => prop::sample::select(vec![Recorded::HoursAgo, Recorded::Unknown]),
    ];
    let events = prop::collection::vec(meant(), 1..4);
    let key = prop::sample::select(vec![Key::None, Key::OfOrder, Key::OfStore, Key::NotUtf8]);
    (envelope, events, prop::bool::weighted(0.1), damage, recorded, key).prop_map(
        |(envelope, mut events, is_last_twice, damage, recorded, key)| {
            let holds_several = matches!(envelope, E::Array | E::Batch | E::Canal);
            events.truncate(if holds_several { 3 } else { 1 });
            Sent { envelope, events, is_last_twice: is_last_twice && holds_several, damage, recorded, key }
        },
    )
}

pub(super) fn logs() -> impl Strategy<Value = Log> {
    let records = prop::collection::vec(sent(), 1..12);
    let again = prop::collection::vec(any::<Index>(), 0..3);
    (records, again, prop::option::weighted(0.3, any::<Index>())).prop_map(|(records, again, crash)| Log {
        records,
        again,
        crash,
    })
}
