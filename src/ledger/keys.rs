//! The keys of rows.
//!
//! Every key that belongs to traffic begins with the shadow bit: load-test rows and real rows cannot meet, whatever follows. Ids hold no
//! control characters, so a zero byte ends them. Numbers are big-endian: the order of keys is the order of numbers.

use orderbell_consumers::{AlertKind, TopicPartition};
use orderbell_protocol::balance::{Bin, BinKey};
use orderbell_protocol::{Id, Recipient, Role, UnixMs};

pub use orderbell_protocol::OrderKey;

use super::disk::{DatabaseError, DiskError, Table, View};
use super::tables::RowKind;

fn key(shadow: bool, tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + parts.iter().map(|part| part.len() + 1).sum::<usize>());
    key.extend([u8::from(shadow), tag]);
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            key.push(0);
        }
        key.extend_from_slice(part);
    }
    key
}

/// The number that ends a key: a seq, an offset, or the number of an entry.
pub(crate) fn trailing_number(table: Table, key: &[u8]) -> Result<u64, DiskError> {
    let number =
        key.last_chunk::<8>().ok_or_else(|| DiskError::damaged(table, key, "a key that ends with a number"))?;
    Ok(u64::from_be_bytes(*number))
}

/// The highest number that a key of this kind ends with; keys that end with none are passed over.
pub(crate) fn newest_number(view: &View<'_>, kind: RowKind) -> Result<Option<u64>, DatabaseError> {
    let (from, to) = kind.range();
    for row in view.rows(kind.table(), &from, &to).rev() {
        let number = view.pass_over(trailing_number(kind.table(), &row?.0))?;
        if number.is_some() {
            return Ok(number);
        }
    }
    Ok(None)
}

/// The id that follows a key's prefix.
pub(crate) fn trailing_id(table: Table, key: &[u8], prefix_len: usize) -> Result<Id, DiskError> {
    let id = key.get(prefix_len..).and_then(|id| std::str::from_utf8(id).ok()).and_then(|id| Id::new(id).ok());
    id.ok_or_else(|| DiskError::damaged(table, key, "a key that ends with an id"))
}

/// The first key after all that begin with `prefix`. The prefixes here never end in 0xff.
pub(crate) fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

pub(crate) fn order(order: &OrderKey) -> Vec<u8> {
    key(order.shadow, b'o', &[order.id.as_str().as_bytes()])
}

/// Prefix of an order's notice index: `prefix + notice id -> kind and key of the mailbox row`.
pub(crate) fn notices_of(order: &OrderKey) -> Vec<u8> {
    key(order.shadow, b'n', &[order.id.as_str().as_bytes(), b""])
}

pub(crate) fn notice(order: &OrderKey, id: &str) -> Vec<u8> {
    let mut key = notices_of(order);
    key.extend_from_slice(id.as_bytes());
    key
}

/// Prefix of a mailbox: `prefix + seq -> row`.
pub(crate) fn mailbox(who: &Recipient) -> Vec<u8> {
    let role = match who.role {
        Role::Store => b's',
        Role::Customer => b'c',
    };
    key(who.shadow, role, &[who.id.as_str().as_bytes(), b""])
}

pub(crate) fn mail(mailbox: &[u8], seq: u64) -> Vec<u8> {
    let mut key = mailbox.to_vec();
    key.extend(seq.to_be_bytes());
    key
}

/// The mailbox's floor: seq and check bits of the last row that was removed.
pub(crate) fn floor(mailbox: &[u8]) -> Vec<u8> {
    [b"m", mailbox].concat()
}

/// Prefix of the index of a recipient's open orders.
pub(crate) fn open_orders_of(who: &Recipient) -> Vec<u8> {
    open_orders_of_mailbox(&mailbox(who))
}

/// The same, by the mailbox's key.
pub(crate) fn open_orders_of_mailbox(mailbox: &[u8]) -> Vec<u8> {
    [b"i", mailbox].concat()
}

pub(crate) fn open_order(who: &Recipient, order: &Id) -> Vec<u8> {
    [open_orders_of(who).as_slice(), order.as_str().as_bytes()].concat()
}

/// How many rows the mailbox holds.
pub(crate) fn count(mailbox: &[u8]) -> Vec<u8> {
    [b"k", mailbox].concat()
}

/// The recipient that a mailbox's key names.
pub(crate) fn recipient(mailbox: &[u8]) -> Option<Recipient> {
    let (shadow, rest) = mailbox.split_first()?;
    let (role, rest) = rest.split_first()?;
    let role = match *role {
        b's' => Role::Store,
        b'c' => Role::Customer,
        _ => return None,
    };
    let id = Id::new(std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?).ok()?;
    Some(Recipient { shadow: *shadow == 1, role, id })
}

/// Prefix of all cursors.
pub(crate) const CURSORS: &[u8] = b"c";

/// Prefix of the cursors of a recipient's devices.
pub(crate) fn cursors_of(who: &Recipient) -> Vec<u8> {
    cursors_of_mailbox(&mailbox(who))
}

/// The same, by the mailbox's key.
pub(crate) fn cursors_of_mailbox(mailbox: &[u8]) -> Vec<u8> {
    [CURSORS, mailbox].concat()
}

pub(crate) fn cursor(who: &Recipient, device: &Id) -> Vec<u8> {
    [cursors_of(who).as_slice(), device.as_str().as_bytes()].concat()
}

/// Prefix of the marks of connected devices.
pub(crate) const CONNECTED: &[u8] = b"o";

/// The mark of a connected device. Behind the tag it is the key of the device's cursor.
pub(crate) fn connected(who: &Recipient, device: &Id) -> Vec<u8> {
    [CONNECTED, mailbox(who).as_slice(), device.as_str().as_bytes()].concat()
}

/// The cursor of the device with this mark.
pub(crate) fn cursor_of_connected(mark: &[u8]) -> Vec<u8> {
    [CURSORS, &mark[CONNECTED.len()..]].concat()
}

/// The mailbox of the device with this mark: up to the zero byte behind the recipient's id.
pub(crate) fn mailbox_of_connected(mark: &[u8]) -> Vec<u8> {
    let rest = &mark[CONNECTED.len()..];
    // Shadow bit and role come first; either may be zero.
    let end = rest.iter().skip(2).position(|byte| *byte == 0).map_or(rest.len(), |at| 2 + at + 1);
    rest[..end].to_vec()
}

/// A bin of the balance.
pub(crate) fn bin(bin: &BinKey) -> Vec<u8> {
    let number = [0, bin.bin as u8];
    [&[b'b', u8::from(bin.shadow)], bin.topic.as_bytes(), &number, bin.reason.as_bytes()].concat()
}

/// The bin that a key names.
pub(crate) fn bin_key(key: &[u8]) -> Option<BinKey> {
    let [b'b', shadow, rest @ ..] = key else { return None };
    let end = rest.iter().position(|byte| *byte == 0)?;
    let (topic, [0, bin, reason @ ..]) = rest.split_at(end) else { return None };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    Some(BinKey { shadow: *shadow == 1, topic: text(topic)?, bin: Bin::of_number(*bin)?, reason: text(reason)? })
}

/// Prefix of all checkpoints of a cluster.
pub(crate) fn checkpoints_of_cluster(cluster: &str) -> Vec<u8> {
    [b"f", cluster.as_bytes(), b"\0"].concat()
}

/// The partition that a checkpoint's key names; `rest` is the key without [`checkpoints_of_cluster`].
pub(crate) fn checkpoint_part(rest: &[u8]) -> Option<TopicPartition> {
    let (topic, number) = rest.split_last_chunk::<4>()?;
    let topic = std::str::from_utf8(topic.strip_suffix(b"\0")?).ok()?;
    Some(TopicPartition::new(topic, u32::from_be_bytes(*number)))
}

/// Prefix of all checkpoints of a topic.
pub(crate) fn checkpoints_of_topic(cluster: &str, topic: &str) -> Vec<u8> {
    [b"f", cluster.as_bytes(), b"\0", topic.as_bytes(), b"\0"].concat()
}

pub(crate) fn checkpoint(cluster: &str, part: &TopicPartition) -> Vec<u8> {
    let mut key = checkpoints_of_topic(cluster, &part.topic);
    key.extend(part.number.to_be_bytes());
    key
}

/// The partition that a key of [`checkpoint`] names, whatever its cluster.
pub(crate) fn checkpointed_partition(key: &[u8]) -> Option<TopicPartition> {
    let end = key.iter().position(|byte| *byte == 0)?;
    checkpoint_part(&key[end + 1..])
}

/// How many records of a partition the balance contains.
pub(crate) fn partition_count(topic: &str, partition: u32) -> Vec<u8> {
    let mut key = vec![b'p'];
    key.extend_from_slice(topic.as_bytes());
    key.push(0);
    key.extend(partition.to_be_bytes());
    key
}

/// The partition that a key of [`partition_count`] names.
pub(crate) fn counted_partition(key: &[u8]) -> Option<(String, u32)> {
    let part = checkpoint_part(key.get(1..)?)?;
    Some((part.topic.to_string(), part.number))
}

/// Up to where another ledger had handled a partition.
pub(crate) fn history_end(cluster: &str, part: &TopicPartition) -> Vec<u8> {
    let mut key = checkpoint(cluster, part);
    key[0] = b'h';
    key
}

/// The skip that a partition's last begin had.
pub(crate) fn used_skip(cluster: &str, part: &TopicPartition) -> Vec<u8> {
    let mut key = checkpoint(cluster, part);
    key[0] = b'u';
    key
}

/// The key of the row that remembers it until it is acknowledged.
pub(crate) fn loss(kind: AlertKind, part: &TopicPartition) -> Vec<u8> {
    let mut key = vec![b'l', loss_code(kind)];
    key.extend_from_slice(part.topic.as_bytes());
    key.push(0);
    key.extend(part.number.to_be_bytes());
    key
}

/// The kinds of losses in keys. The other kinds of alerts are never stored.
const LOSS_CODES: [(AlertKind, u8); 3] =
    [(AlertKind::RetentionGap, b'g'), (AlertKind::Truncated, b't'), (AlertKind::Recreated, b'r')];

fn loss_code(kind: AlertKind) -> u8 {
    LOSS_CODES.iter().find(|(of, _)| *of == kind).map_or(b'?', |(_, code)| *code)
}

/// The kind and the partition that a key of [`loss`] names.
pub(crate) fn lost_partition(key: &[u8]) -> Option<(AlertKind, TopicPartition)> {
    let (code, rest) = key.get(1..)?.split_first()?;
    let (kind, _) = LOSS_CODES.iter().find(|(_, of)| of == code)?;
    Some((*kind, checkpoint_part(rest)?))
}

/// Next offset of a partition of the embedded log.
pub(crate) fn log_end(part: u32) -> Vec<u8> {
    [b"s".as_slice(), &part.to_be_bytes()].concat()
}

/// First offset that a partition of the embedded log still holds.
pub(crate) fn log_start(part: u32) -> Vec<u8> {
    [b"S".as_slice(), &part.to_be_bytes()].concat()
}

pub(crate) fn log_record(part: u32, offset: u64) -> Vec<u8> {
    [part.to_be_bytes().as_slice(), &offset.to_be_bytes()].concat()
}

/// Prefix of event ids.
pub(crate) const EVENT_IDS: &[u8] = b"e";

/// The id of an appended event, by its hash.
pub(crate) fn event_id(hash: u128) -> Vec<u8> {
    [EVENT_IDS, &hash.to_be_bytes()].concat()
}

/// An order whose expiry is checked once `due_ms` has come.
pub(crate) fn expiry(due_ms: i64, order: &OrderKey) -> Vec<u8> {
    let mut key = expiry_until(due_ms);
    key.push(u8::from(order.shadow));
    key.extend_from_slice(order.id.as_str().as_bytes());
    key
}

/// The first key after all that are due before `due_ms`.
pub(crate) fn expiry_until(due_ms: i64) -> Vec<u8> {
    [b"t".as_slice(), &due_ms.max(0).to_be_bytes()].concat()
}

/// The moment and the order that a key of [`expiry`] names.
pub(crate) fn expiry_order(key: &[u8]) -> Option<(i64, OrderKey)> {
    let (due_ms, rest) = key.get(1..)?.split_first_chunk::<8>()?;
    let (shadow, id) = rest.split_first()?;
    let order = OrderKey { shadow: *shadow == 1, id: Id::new(std::str::from_utf8(id).ok()?).ok()? };
    Some((i64::from_be_bytes(*due_ms), order))
}

/// Prefix of the outbox.
pub(crate) const OUTBOX: &[u8] = b"x";

/// An entry of the outbox.
pub(crate) fn outbox(number: u64) -> Vec<u8> {
    [OUTBOX, &number.to_be_bytes()].concat()
}

/// Prefix of dead letters.
pub(crate) const DEAD_LETTERS: &[u8] = b"d";

pub(crate) fn dead_letter(number: u64) -> Vec<u8> {
    [DEAD_LETTERS, &number.to_be_bytes()].concat()
}

/// Prefix of the marks that numbered commits leave in every table they touch.
pub(crate) const COMMIT_MARKS: &[u8] = b"#";

pub(crate) fn commit_mark(number: u64) -> Vec<u8> {
    [COMMIT_MARKS, &((number % super::integrity::MARKS_KEPT) as u16).to_be_bytes()].concat()
}

/// The first commit number whose mark is checked.
pub(crate) const MARKS_FROM: &[u8] = b"!marks";
/// Present while the topics are read again because the history is not trusted; the value says why.
pub(crate) const REBUILDING: &[u8] = b"!rebuilding";
pub(crate) const FORMAT: &[u8] = b"!format";
pub(crate) const EPOCH: &[u8] = b"!epoch";
/// Events that the log received before this moment are not counted: the topics are read from here.
pub(crate) const COUNTED_FROM: &[u8] = b"!counted";

/// The value of [`COUNTED_FROM`].
pub(crate) fn time(row: &[u8]) -> Option<UnixMs> {
    Some(UnixMs(i64::from_be_bytes(row.try_into().ok()?)))
}
pub(crate) const LEDGER_ID: &[u8] = b"!id";
/// The newest seq that was given out, over all mailboxes.
pub(crate) const SEQ: &[u8] = b"!seq";
/// The highest floor that was forgotten, over all mailboxes.
pub(crate) const FORGOTTEN: &[u8] = b"!forgotten";
/// How many of these there are.
pub(crate) const FACTS: u64 = 8;
