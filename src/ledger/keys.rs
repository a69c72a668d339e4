//! How rows are named.
//!
//! Every key of traffic begins with the shadow bit: load-test rows and real rows cannot meet, whatever the rest says. Ids hold no control
//! characters, so a zero byte ends them. Numbers are big-endian: the order of keys is the order of numbers.

use orderbell_consumers::Part;
use orderbell_protocol::{Id, Recipient, Role};

/// An order as the ledger names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderKey {
    /// Load-test traffic.
    pub shadow: bool,
    /// The order's id, unique in the chain.
    pub id: Id,
}

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

/// The first key behind all that begin with `prefix`. The prefixes here never end in 0xff.
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

/// Prefix of an order's notice index: `prefix + notice id -> (seq, mailbox)`.
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

/// The mailbox's floor: everything up to it is gone.
pub(crate) fn floor(mailbox: &[u8]) -> Vec<u8> {
    [b"m", mailbox].concat()
}

/// Prefix of a recipient's open orders.
pub(crate) fn open_of(who: &Recipient) -> Vec<u8> {
    [b"i", mailbox(who).as_slice()].concat()
}

pub(crate) fn open(who: &Recipient, order: &Id) -> Vec<u8> {
    [open_of(who).as_slice(), order.as_str().as_bytes()].concat()
}

/// How many rows the mailbox holds.
pub(crate) fn count(mailbox: &[u8]) -> Vec<u8> {
    [b"k", mailbox].concat()
}

/// The recipient that a mailbox's key names.
pub(crate) fn recipient(mailbox: &[u8]) -> Option<Recipient> {
    let (shadow, rest) = mailbox.split_first()?;
    let (role, rest) = rest.split_first()?;
    let role = if *role == b's' { Role::Store } else { Role::Customer };
    let id = Id::new(std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?).ok()?;
    Some(Recipient { shadow: *shadow == 1, role, id })
}

/// Prefix of the cursors of a recipient's devices.
pub(crate) fn cursors_of(who: &Recipient) -> Vec<u8> {
    [b"c", mailbox(who).as_slice()].concat()
}

pub(crate) fn cursor(who: &Recipient, device: &Id) -> Vec<u8> {
    [cursors_of(who).as_slice(), device.as_str().as_bytes()].concat()
}

/// Prefix of all frontiers of a cluster.
pub(crate) fn frontiers_of(cluster: &str) -> Vec<u8> {
    [b"f", cluster.as_bytes(), b"\0"].concat()
}

/// The partition that the rest of such a key names.
pub(crate) fn frontier_part(rest: &[u8]) -> Option<Part> {
    let (topic, number) = rest.split_last_chunk::<4>()?;
    let topic = std::str::from_utf8(topic.strip_suffix(b"\0")?).ok()?;
    Some(Part::new(topic, u32::from_be_bytes(*number)))
}

pub(crate) fn frontiers(cluster: &str, topic: &str) -> Vec<u8> {
    [b"f", cluster.as_bytes(), b"\0", topic.as_bytes(), b"\0"].concat()
}

pub(crate) fn frontier(cluster: &str, part: &Part) -> Vec<u8> {
    let mut key = frontiers(cluster, &part.topic);
    key.extend(part.number.to_be_bytes());
    key
}

/// Next offset of a partition of the embedded stream.
pub(crate) fn stream_end(part: u32) -> Vec<u8> {
    [b"s".as_slice(), &part.to_be_bytes()].concat()
}

/// First offset of a partition that is still there.
pub(crate) fn stream_start(part: u32) -> Vec<u8> {
    [b"S".as_slice(), &part.to_be_bytes()].concat()
}

pub(crate) fn stream(part: u32, offset: u64) -> Vec<u8> {
    [part.to_be_bytes().as_slice(), &offset.to_be_bytes()].concat()
}

/// An event id that came through the door, by its hash.
pub(crate) fn event_id(hash: u128) -> Vec<u8> {
    [b"e".as_slice(), &hash.to_be_bytes()].concat()
}

/// An order whose retention is looked at when `due_ms` has come.
pub(crate) fn due(due_ms: i64, order: &OrderKey) -> Vec<u8> {
    let mut key = due_until(due_ms);
    key.push(u8::from(order.shadow));
    key.extend_from_slice(order.id.as_str().as_bytes());
    key
}

/// Behind all that is due before `due_ms`.
pub(crate) fn due_until(due_ms: i64) -> Vec<u8> {
    [b"t".as_slice(), &due_ms.max(0).to_be_bytes()].concat()
}

/// The moment and the order that a key of [`due`] names.
pub(crate) fn due_order(key: &[u8]) -> Option<(i64, OrderKey)> {
    let (due_ms, rest) = key.get(1..)?.split_first_chunk::<8>()?;
    let (shadow, id) = rest.split_first()?;
    let order = OrderKey { shadow: *shadow == 1, id: Id::new(std::str::from_utf8(id).ok()?).ok()? };
    Some((i64::from_be_bytes(*due_ms), order))
}

/// An event that waits to be emitted.
pub(crate) fn outbox(number: u64) -> Vec<u8> {
    [b"x".as_slice(), &number.to_be_bytes()].concat()
}

pub(crate) fn letter(number: u64) -> Vec<u8> {
    [b"d".as_slice(), &number.to_be_bytes()].concat()
}

/// Prefix of the rows that numbered commits leave in every keyspace they touch.
pub(crate) const RING: &[u8] = b"#";

pub(crate) fn ring(number: u64) -> Vec<u8> {
    [RING, &((number % super::whole::RING) as u16).to_be_bytes()].concat()
}

/// The first number that counts in the ring.
pub(crate) const RING_FROM: &[u8] = b"!ring";
/// There while the log is read again because history could not be vouched for.
pub(crate) const REBUILDING: &[u8] = b"!rebuilding";
pub(crate) const FORMAT: &[u8] = b"!format";
pub(crate) const EPOCH: &[u8] = b"!epoch";
/// Events that the log got before this moment are not counted: the ledger was made, or began to count, then.
pub(crate) const COUNTED_FROM: &[u8] = b"!counted";
pub(crate) const LEDGER_ID: &[u8] = b"!id";
/// The newest seq that was given out, over all mailboxes.
pub(crate) const SEQ: &[u8] = b"!seq";
