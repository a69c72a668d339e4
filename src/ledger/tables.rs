//! The schema: every kind of row, where it stands, what it holds, and **when it goes**.
//!
//! A row is written through its kind, and a kind without a rule of retention does not compile, so no row can be written that nothing ever
//! removes. What belongs to an order goes in the batch that expunges the order; `retention` sweeps the rest, as the rules here say.
//! `retention_tests` fills every table, lets time pass, and finds nothing but [`Retention::Fixed`].

use orderbell_consumers::Checkpoint;
use orderbell_protocol::UnixMs;

use super::bin_row::BinRow;
use super::counters::{self, CounterSums};
use super::dead_letters::StoredDeadLetter;
use super::delivery_log::{self, DeliveryStep};
use super::devices::{self, StoredCursor};
use super::disk::Table;
use super::losses::StoredLoss;
use super::mailbox::{Floor, IndexEntry, MailRow};
use super::partition_counts::PartitionRow;
use super::{checkpoints, embedded_log, integrity, keys};

/// Bound devices of one recipient that have a cursor, and as many others; above it, the least recently used of its kind loses its own. A store has a few tills and a customer a few
/// phones; the name of a device is free text, so a client with one token may invent as many as it likes.
pub(crate) const DEVICES_MAX: usize = 256;
/// A cursor that nobody uses is kept for the state retention, and at least this long: a till that was off over a week of holidays continues
/// where it was. Kept longer it would say nothing: the orders that it has not seen are expunged, and the floor says that, too.
const DEVICE_RETENTION_MIN_MS: i64 = 7 * 24 * 3_600_000;

/// How long rows are kept, from the options. Milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Periods {
    /// Event ids, the embedded log, floors.
    pub(crate) state_ms: i64,
    /// The delivery log.
    pub(crate) timeline_ms: i64,
}

impl Periods {
    /// Cursors, after their last use.
    pub(crate) fn device_ms(&self) -> i64 {
        self.state_ms.max(DEVICE_RETENTION_MIN_MS)
    }
}

/// When the rows of a kind go.
#[derive(Clone, Copy)]
pub(crate) enum Retention {
    /// In the batch that expunges its order, closes it, or makes its check; notices of ended orders also when their mailbox is too long.
    WithOrder,
    /// With the last row of its mailbox.
    WithMailbox,
    /// The state retention after its mailbox lost its last row, once the recipient has neither open orders nor cursors. The ledger then
    /// remembers up to which seq floors were forgotten, so that a position below is still answered by "expired".
    AfterMailbox(fn(&[u8]) -> Option<UnixMs>),
    /// When the last connection of its device has ended, or at the next start.
    WithConnection,
    /// [`Periods::device_ms`] after its last use; and the least recently used of a recipient and a kind above [`DEVICES_MAX`].
    AfterLastUse(fn(&[u8]) -> Option<UnixMs>),
    /// When it is too old.
    ByAge(Age),
    /// When somebody has taken it; in words, who. Nothing else may remove it: no other place holds what it says.
    UntilTaken(#[allow(dead_code, reason = "the schema is read by people, too")] &'static str),
    /// Never. There are at most so many, whatever the traffic.
    Fixed(#[allow(dead_code, reason = "compared in tests")] u64),
}

/// How the age of a row is known.
#[derive(Clone, Copy)]
pub(crate) enum Age {
    /// The row says when it was written; it is kept for the state retention. Keys are in no order of time.
    Written(fn(&[u8]) -> Option<UnixMs>),
    /// Keys are in order of time: what lies in these ranges is too old at this moment.
    Ranges(fn(&Periods, UnixMs) -> Vec<Range>),
    /// A record of the embedded log: kept for the state retention, and until it is below the checkpoint.
    Log,
}

/// Keys from the first up to, and without, the second.
pub(crate) type Range = (Vec<u8>, Vec<u8>);

/// How the key of a kind is recognised among the others of its table.
#[derive(Clone, Copy)]
enum Tag {
    /// By its first byte.
    First(u8),
    /// By the byte that follows the shadow bit.
    Second(&'static [u8]),
    /// It is the only kind of its table.
    Any,
}

impl Tag {
    fn matches(self, key: &[u8]) -> bool {
        match self {
            Self::First(tag) => key.first() == Some(&tag),
            Self::Second(tags) => key.get(1).is_some_and(|tag| tags.contains(tag)),
            Self::Any => true,
        }
    }
}

/// The codec of a kind's values.
pub(crate) trait Value {
    /// True when these bytes decode.
    fn decodes(row: &[u8]) -> bool;
}

/// What the schema says of one kind of row.
pub(crate) struct Schema {
    pub(crate) table: Table,
    /// Name in reports.
    pub(crate) name: &'static str,
    tag: Tag,
    /// Layout of the key. A zero byte ends an id, numbers are big-endian, `mailbox` is `shadow, s|c, recipient, 0`.
    #[allow(dead_code, reason = "the schema is read by people, too")]
    pub(crate) key: &'static str,
    /// True when a value decodes.
    pub(crate) decodes: fn(&[u8]) -> bool,
    pub(crate) retention: Retention,
}

macro_rules! schema {
    ($($(#[$doc:meta])* $kind:ident = $name:literal in $table:ident, $tag:expr, key $key:literal, value $value:ty, goes $rule:expr;)+) => {
        /// What a row holds: it decides table, key, value and retention.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum RowKind {
            $($(#[$doc])* $kind),+
        }

        impl RowKind {
            /// Every kind.
            pub(crate) const ALL: &[Self] = &[$(Self::$kind),+];

            /// What the schema says of this kind.
            pub(crate) fn schema(self) -> &'static Schema {
                match self {
                    $(Self::$kind => const {
                        &Schema {
                            table: Table::$table,
                            name: $name,
                            tag: $tag,
                            key: $key,
                            decodes: <$value as Value>::decodes,
                            retention: $rule,
                        }
                    }),+
                }
            }
        }
    };
}

use Retention::{AfterLastUse, AfterMailbox, ByAge, Fixed, UntilTaken, WithConnection, WithMailbox, WithOrder};

schema! {
    /// The state of an order, in the encoding of `ingest`.
    OrderState = "orders" in Orders, Tag::Second(b"o"), key "shadow, o, order", value Opaque, goes WithOrder;
    /// Where an order's notice stands. It keeps the notice from being appended twice.
    NoticeIndex = "notice index" in Orders, Tag::Second(b"n"), key "shadow, n, order, 0, notice id", value IndexEntry, goes WithOrder;
    /// A notice, or what is left of it.
    Mail = "mailbox rows" in Mailboxes, Tag::Second(b"sc"), key "mailbox, seq", value MailRow, goes WithOrder;
    /// An order's place among the recipient's open orders.
    OpenOrder = "open orders" in Meta, Tag::First(b'i'), key "i, mailbox, order", value Empty, goes WithOrder;
    /// When to check whether an order's retention is over.
    Expiry = "expiry checks" in Meta, Tag::First(b't'), key "t, due (ms), shadow, order", value Empty, goes WithOrder;
    /// Rows of a mailbox.
    RowCount = "row counts" in Meta, Tag::First(b'k'), key "k, mailbox", value Number, goes WithMailbox;
    /// The last row of a mailbox that was removed.
    Floor = "floors" in Meta, Tag::First(b'm'), key "m, mailbox", value Floor, goes AfterMailbox(|row| Some(Floor::decode(row)?.at));
    /// How far a device has read.
    Cursor = "cursors" in Meta, Tag::First(b'c'), key "c, mailbox, device", value StoredCursor, goes AfterLastUse(devices::last_use);
    /// A connected device: what was sent to it may not be in its cursor yet.
    Connected = "connected devices" in Meta, Tag::First(b'o'), key "o, mailbox, device", value Empty, goes WithConnection;
    /// The id of an event that was appended.
    EventId = "event ids" in Meta, Tag::First(b'e'), key "e, hash (128 bits)", value EventId, goes ByAge(Age::Written(EventId::at));
    /// A record of the embedded log.
    LogRecord = "records" in EventLog, Tag::Any, key "partition (32 bits), offset", value LogRecord, goes ByAge(Age::Log);
    /// What happened to notices on a device.
    DeliverySteps = "delivery steps" in DeliveryLog, Tag::Any, key "hour (32 bits), mailbox, ms, device", value DeliveryStep,
        goes ByAge(Age::Ranges(delivery_log::too_old));
    /// Sums of a minute of the chain.
    ChainMinute = "minutes of the chain" in Counters, Tag::Second(&[counters::CHAIN_MINUTE]), key "shadow, m, minute", value CounterSums,
        goes ByAge(Age::Ranges(|_, now| counters::too_old(counters::CHAIN_MINUTE, now)));
    /// Sums of a minute of a store.
    StoreMinute = "minutes of stores" in Counters, Tag::Second(&[counters::STORE_MINUTE]), key "shadow, n, minute, store", value CounterSums,
        goes ByAge(Age::Ranges(|_, now| counters::too_old(counters::STORE_MINUTE, now)));
    /// Sums of a day of the chain. The day 0 holds what is too old for its own, and stays: one row.
    ChainDay = "days of the chain" in Counters, Tag::Second(&[counters::CHAIN_DAY]), key "shadow, c, day", value CounterSums,
        goes ByAge(Age::Ranges(|_, now| counters::too_old(counters::CHAIN_DAY, now)));
    /// Sums of a day of a store. The day 0 stays: a row for each store, up to the limit of a day.
    StoreDay = "days of stores" in Counters, Tag::Second(&[counters::STORE_DAY]), key "shadow, d, day, store", value CounterSums,
        goes ByAge(Age::Ranges(|_, now| counters::too_old(counters::STORE_DAY, now)));
    /// How many stores a day has rows of. The day 0 stays.
    StoreCount = "store counts" in Counters, Tag::Second(&[counters::STORE_COUNT]), key "shadow, k, day", value Number,
        goes ByAge(Age::Ranges(|_, now| counters::too_old(counters::STORE_COUNT, now)));
    /// An event of Orderbell's own that is still to be published.
    OutboxEntry = "outbox" in Meta, Tag::First(b'x'), key "x, number", value LogRecord, goes UntilTaken("the output topic");
    /// A record that was rejected and that no topic took.
    DeadLetter = "dead letters" in Meta, Tag::First(b'd'), key "d, number", value StoredDeadLetter,
        goes UntilTaken("an operator, who replays it");
    /// What the log lost before it was read. At most one for each kind of loss and partition.
    Loss = "losses" in Meta, Tag::First(b'l'), key "l, kind, topic, 0, partition (32 bits)", value StoredLoss,
        goes UntilTaken("an operator, who acknowledges it");
    /// How many records of a topic ended in one bin of the balance. One row for each topic, bin and reason.
    Balance = "balance" in Meta, Tag::First(b'b'), key "b, shadow, topic, 0, bin (8 bits), reason", value BinRow, goes Fixed(100_000);
    /// How many records of a partition the balance contains.
    PartitionCount = "records of partitions" in Meta, Tag::First(b'p'), key "p, topic, 0, partition (32 bits)", value PartitionRow, goes Fixed(100_000);
    /// Up to where a partition has been consumed. One for each partition that was ever read.
    Checkpoint = "checkpoints" in Meta, Tag::First(b'f'), key "f, cluster, 0, topic, 0, partition (32 bits)", value Checkpoint,
        goes Fixed(100_000);
    /// Up to where another ledger had handled a partition. At most one for each.
    HistoryEnd = "ends of history" in Meta, Tag::First(b'h'), key "h, cluster, 0, topic, 0, partition (32 bits)", value Number, goes Fixed(100_000);
    /// The offset up to which an operator gave up a partition's records, while `serve` is started with it. At most one for each.
    UsedSkip = "used skips" in Meta, Tag::First(b'u'), key "u, cluster, 0, topic, 0, partition (32 bits)", value Number, goes Fixed(100_000);
    /// Next offset of a partition of the embedded log.
    PartitionEnd = "log ends" in Meta, Tag::First(b's'), key "s, partition (32 bits)", value Number, goes Fixed(embedded_log::PARTITIONS as u64);
    /// First offset that a partition of the embedded log still holds.
    PartitionStart = "log starts" in Meta, Tag::First(b'S'), key "S, partition (32 bits)", value Number, goes Fixed(embedded_log::PARTITIONS as u64);
    /// What the ledger knows of itself.
    Fact = "facts" in Meta, Tag::First(b'!'), key "!, name", value Opaque, goes Fixed(keys::FACTS);
    /// The mark of a commit, in every table that it touched.
    CommitMark = "commit marks" in Meta, Tag::First(b'#'), key "#, number (16 bits)", value CommitMark, goes Fixed(integrity::MARKS_KEPT);
}

impl RowKind {
    /// The kind of a key; none when the schema knows no such key.
    pub(crate) fn of(table: Table, key: &[u8]) -> Option<Self> {
        if key.starts_with(keys::COMMIT_MARKS) {
            return Some(Self::CommitMark);
        }
        let of_table = Self::ALL.iter().copied().filter(|kind| *kind != Self::CommitMark && kind.table() == table);
        of_table.into_iter().find(|kind| kind.schema().tag.matches(key))
    }

    /// All keys of this kind, where its tag is the first byte.
    pub(crate) fn range(self) -> Range {
        match self.schema().tag {
            Tag::First(tag) => (vec![tag], vec![tag + 1]),
            Tag::Second(_) | Tag::Any => (Vec::new(), vec![0xff; 64]),
        }
    }

    pub(crate) fn table(self) -> Table {
        self.schema().table
    }

    pub(crate) fn retention(self) -> Retention {
        self.schema().retention
    }
}

/// Bytes that only another crate or one reader interprets.
pub(crate) struct Opaque;

impl Value for Opaque {
    fn decodes(_row: &[u8]) -> bool {
        true
    }
}

/// Nothing: the key says it all.
pub(crate) struct Empty;

impl Value for Empty {
    fn decodes(row: &[u8]) -> bool {
        row.is_empty()
    }
}

/// A number of 64 bits.
pub(crate) struct Number;

impl Value for Number {
    fn decodes(row: &[u8]) -> bool {
        row.len() == 8
    }
}

/// An event's body hash, and when it was appended.
pub(crate) struct EventId;

impl EventId {
    pub(crate) fn encode(body_hash: u64, at: UnixMs) -> Vec<u8> {
        [body_hash.to_be_bytes(), at.0.to_be_bytes()].concat()
    }

    pub(crate) fn body_hash(row: &[u8]) -> Option<u64> {
        Some(u64::from_be_bytes(*row.first_chunk::<8>().filter(|_| row.len() == 16)?))
    }

    fn at(row: &[u8]) -> Option<UnixMs> {
        Some(UnixMs(i64::from_be_bytes(*row.last_chunk::<8>().filter(|_| row.len() == 16)?)))
    }
}

impl Value for EventId {
    fn decodes(row: &[u8]) -> bool {
        Self::at(row).is_some()
    }
}

/// A record as [`embedded_log::encode`] writes it.
pub(crate) struct LogRecord;

impl Value for LogRecord {
    fn decodes(row: &[u8]) -> bool {
        embedded_log::fields(&bytes::Bytes::copy_from_slice(row)).is_some()
    }
}

/// A mark as [`integrity::encode_mark`] writes it.
pub(crate) struct CommitMark;

impl Value for CommitMark {
    fn decodes(row: &[u8]) -> bool {
        row.len() == 9
    }
}

impl Value for IndexEntry {
    fn decodes(row: &[u8]) -> bool {
        Self::decode(row).is_some()
    }
}

impl Value for MailRow {
    fn decodes(row: &[u8]) -> bool {
        Self::decode(row).is_some()
    }
}

impl Value for Floor {
    fn decodes(row: &[u8]) -> bool {
        Self::decode(row).is_some()
    }
}

impl Value for StoredCursor {
    fn decodes(row: &[u8]) -> bool {
        Self::decode(row).is_some()
    }
}

impl Value for Checkpoint {
    fn decodes(row: &[u8]) -> bool {
        checkpoints::decode(row).is_some()
    }
}

impl Value for StoredDeadLetter {
    fn decodes(row: &[u8]) -> bool {
        serde_json::from_slice::<Self>(row).is_ok()
    }
}

impl Value for BinRow {
    fn decodes(row: &[u8]) -> bool {
        Self::decode(row).is_some()
    }
}

impl Value for StoredLoss {
    fn decodes(row: &[u8]) -> bool {
        row.len() == 16
    }
}

impl Value for DeliveryStep {
    fn decodes(row: &[u8]) -> bool {
        delivery_log::decodes(row)
    }
}

impl Value for CounterSums {
    fn decodes(row: &[u8]) -> bool {
        counters::decode(row).is_some()
    }
}
