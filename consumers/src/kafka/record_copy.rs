//! Copies a record out of librdkafka's memory, whatever a producer wrote: nothing here depends on what it holds, and everything is bounded.
//!
//! A small batch may unpack to a gigabyte (librdkafka sets no bound for gzip), and a record may have millions of headers. What is above the
//! limits is measured first, and only its beginning is copied. Such a record never reaches the handler: it becomes a dead letter that says in
//! its headers what was cut.

use std::panic::AssertUnwindSafe;

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Headers, Message};

use super::source::offset;
use crate::record::{CUT_MARKS, CUT_REASONS, DEAD_LETTER_REASON, Header, Record, TopicPartition};
use crate::traits::Reason;

/// Longest value: a megabyte, which is what Kafka takes of a batch by default. Part of the fingerprint of a record that is cut.
const MAX_VALUE_BYTES: usize = 1 << 20;
/// Longest key. Keys are ids.
const MAX_KEY_BYTES: usize = 64 << 10;
/// Headers of a record. Tracing, CloudEvents and a replay add some tens of them.
const MAX_HEADERS: usize = 1_000;
/// Bytes of all headers of a record together.
const MAX_HEADERS_BYTES: usize = 256 << 10;
/// Header names of one record that are not UTF-8: each costs a caught panic, which prints a line on standard error.
const MAX_UNREADABLE_NAMES: usize = 4;
/// What is kept of a value or a key that is too long: enough to recognise its record.
const KEPT_BYTES: usize = 64 << 10;
/// What is kept of headers that are too many, so that the dead letter still fits into its topic.
const KEPT_HEADERS: usize = 100;

/// Code of the reason for which a record is cut.
const TOO_LARGE: &str = CUT_REASONS[0];

/// The name of a header whose own name is not UTF-8.
const UNREADABLE_NAME: &str = "\u{fffd}";

/// A record within the limits, and why it must not be handled if it was cut.
pub(super) fn copy(message: &BorrowedMessage<'_>, partition: TopicPartition) -> (Record, Option<Reason>) {
    let (headers, too_many) = message.headers().map_or_else(Default::default, copy_headers);
    let mut record = Record {
        partition,
        offset: offset(message.offset()).expect("a record that was delivered has an offset"),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
        read_ms: crate::clock::unix_ms(),
        key: None,
        value: None,
        headers: headers.into(),
    };
    if record.headers.iter().any(|(name, _)| name == UNREADABLE_NAME) {
        let (partition, offset) = (&record.partition, record.offset);
        tracing::warn!(%partition, offset, "a header's name is not UTF-8: the header is left out");
    }
    let (value, value_bytes) = copy_bytes(message.payload(), MAX_VALUE_BYTES);
    let (key, key_bytes) = copy_bytes(message.key(), MAX_KEY_BYTES);
    (record.value, record.key) = (value, key);
    let was_cut = was_cut(&record);
    let reason = mark(&mut record.headers, [value_bytes, key_bytes, too_many]);
    (record, reason.or(was_cut))
}

/// Rejects a dead letter of a record that was cut, when somebody sends it again: it may look whole, and lack the headers that say what it is.
fn was_cut(record: &Record) -> Option<Reason> {
    let message = "the record is what a dead letter kept of a longer one, as its x-cut headers say: its producer must send it again";
    record.is_cut().then(|| Reason { code: "cut", message: message.into() })
}

/// At most `max` bytes whole; of more, the beginning and their number.
fn copy_bytes(bytes: Option<&[u8]>, max: usize) -> (Option<Bytes>, Option<usize>) {
    match bytes {
        Some(bytes) if bytes.len() > max => (Some(Bytes::copy_from_slice(&bytes[..KEPT_BYTES])), Some(bytes.len())),
        bytes => (bytes.map(Bytes::copy_from_slice), None),
    }
}

/// The headers, and their number if they are too many. A name that is not UTF-8 reads as [`UNREADABLE_NAME`], and its value as null.
fn copy_headers(headers: &impl Headers) -> (Vec<Header>, Option<usize>) {
    let count = headers.count();
    let max = if count > MAX_HEADERS { KEPT_HEADERS } else { count };
    let (mut copied, mut bytes, mut unreadable) = (Vec::with_capacity(max), 0, 0);
    for at in 0..max {
        // rdkafka has no way to a header but one that panics when its name is not UTF-8.
        let header = std::panic::catch_unwind(AssertUnwindSafe(|| headers.try_get(at)));
        let Ok(header) = header else {
            unreadable += 1;
            if unreadable > MAX_UNREADABLE_NAMES {
                return (copied, Some(count));
            }
            copied.push((UNREADABLE_NAME.to_owned(), None));
            continue;
        };
        let Some(header) = header else { break };
        bytes += header.key.len() + header.value.map_or(0, <[u8]>::len);
        if bytes > MAX_HEADERS_BYTES {
            return (copied, Some(count));
        }
        copied.push((header.key.to_owned(), header.value.map(Bytes::copy_from_slice)));
    }
    (copied, Some(count).filter(|count| *count > max))
}

/// Adds the marks of what was cut, and says it in a sentence.
fn mark(headers: &mut Vec<Header>, cut: [Option<usize>; 3]) -> Option<Reason> {
    let [value, key, count] = cut;
    let what = match cut {
        [Some(bytes), ..] => format!("the value has {bytes} bytes, and at most {MAX_VALUE_BYTES} are taken"),
        [_, Some(bytes), _] => format!("the key has {bytes} bytes, and at most {MAX_KEY_BYTES} are taken"),
        [_, _, Some(count)] => format!("the record has {count} headers, which are too many, too long or not UTF-8"),
        [None, None, None] => return None,
    };
    for (name, number) in CUT_MARKS.into_iter().zip([value, key, count]) {
        if let Some(number) = number {
            headers.push((name.to_owned(), Some(Bytes::from(number.to_string()))));
        }
    }
    // Without the reason beside them, such headers are a producer's.
    headers.push((DEAD_LETTER_REASON.to_owned(), Some(Bytes::from_static(TOO_LARGE.as_bytes()))));
    Some(Reason { code: TOO_LARGE, message: format!("{what}: the dead letter holds its beginning") })
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{self, FromBytes};

    use super::*;

    /// Headers as librdkafka may hold them; `None` is a name that is not UTF-8, at which rdkafka panics.
    struct Written(Vec<(Option<&'static str>, Vec<u8>)>);

    impl Headers for Written {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn try_get(&self, at: usize) -> Option<message::Header<'_, &[u8]>> {
            let (name, value) = self.0.get(at)?;
            Some(message::Header { key: name.expect("a name that is UTF-8"), value: Some(value) })
        }

        fn try_get_as<V>(&self, _: usize) -> Option<Result<message::Header<'_, &V>, V::Error>>
        where
            V: FromBytes + ?Sized,
        {
            None
        }
    }

    fn named(names: &[Option<&'static str>]) -> Written {
        Written(names.iter().map(|name| (*name, b"1".to_vec())).collect())
    }

    /// The bug: a header name that is not UTF-8 ended the poll thread, and again at each start.
    #[test]
    fn a_header_name_that_is_no_text_costs_its_own_header_alone() {
        let (copied, too_many) = copy_headers(&named(&[Some("before"), None, Some("after")]));
        let names: Vec<&str> = copied.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names, too_many), (vec!["before", UNREADABLE_NAME, "after"], None));
        assert_eq!(copied[1].1, None, "its value is not readable either");
    }

    #[test]
    fn headers_of_absurd_count_or_size_are_cut_and_the_record_says_so() {
        let many = named(&vec![Some("h"); MAX_HEADERS + 1]);
        assert_eq!((copy_headers(&many).0.len(), copy_headers(&many).1), (KEPT_HEADERS, Some(MAX_HEADERS + 1)));
        assert_eq!(copy_headers(&named(&vec![Some("h"); MAX_HEADERS])).1, None, "the limit itself");
        let long = Written(vec![(Some("a"), vec![0; 9]), (Some("b"), vec![0; MAX_HEADERS_BYTES])]);
        assert_eq!((copy_headers(&long).0.len(), copy_headers(&long).1), (1, Some(2)));
        let unreadable = named(&[None; MAX_UNREADABLE_NAMES + 1]);
        assert_eq!(copy_headers(&unreadable).1, Some(MAX_UNREADABLE_NAMES + 1));

        let mut headers = Vec::new();
        let reason = mark(&mut headers, [None, None, Some(1_000_000)]).unwrap();
        assert!(reason.code == "too-large" && reason.message.contains("1000000 headers"), "{reason:?}");
        let marks = [("x-cut-headers", "1000000"), ("x-dlq-reason", "too-large")];
        assert_eq!(headers, marks.map(|(name, value)| (name.to_owned(), Some(Bytes::from(value)))));
    }

    #[test]
    fn what_is_too_long_keeps_its_beginning_and_its_length() {
        let long = vec![7; MAX_VALUE_BYTES + 1];
        let (kept, cut) = copy_bytes(Some(&long), MAX_VALUE_BYTES);
        assert_eq!((kept.unwrap().len(), cut), (KEPT_BYTES, Some(MAX_VALUE_BYTES + 1)));
        let (kept, cut) = copy_bytes(Some(&long[1..]), MAX_VALUE_BYTES);
        assert_eq!((kept.unwrap().len(), cut), (MAX_VALUE_BYTES, None), "the limit itself");
        assert_eq!(copy_bytes(None, MAX_VALUE_BYTES), (None, None));
        let mut headers = Vec::new();
        assert!(mark(&mut headers, [Some(400_000_033), Some(70_000), None]).unwrap().message.contains("400000033"));
        assert_eq!(headers.len(), 3);
        assert_eq!(mark(&mut headers, [None; 3]), None);
    }

    /// The bug: a record of which only headers were cut was handled as if it were whole when its dead letter was sent again.
    #[test]
    fn what_was_cut_is_rejected_when_it_is_sent_again() {
        let record = |name: &str, reason: Option<&'static str>| Record {
            partition: TopicPartition::new("orders.events", 0),
            offset: 7,
            timestamp_ms: 1,
            read_ms: 1,
            key: None,
            value: Some(Bytes::from_static(b"{\"type\":\"order.paid\",\"order\":\"o1\"}")),
            headers: vec![
                ("x-dlq-reason".into(), reason.map(Bytes::from)),
                (name.into(), Some(Bytes::from_static(b"1001"))),
            ]
            .into(),
        };
        for name in CUT_MARKS {
            for reason in CUT_REASONS {
                assert_eq!(was_cut(&record(name, Some(reason))).map(|reason| reason.code), Some("cut"), "{name}");
            }
            assert_eq!(was_cut(&record(name, None)), None, "a producer's own header is not ours to judge");
            assert_eq!(was_cut(&record(name, Some("unknown-type"))), None, "nor when its record became a dead letter");
        }
        assert_eq!(was_cut(&record("x-cut", Some("too-large"))), None);
    }
}
