//! Where the headers count by which Orderbell marks its events, and the dead letters that it replays: in the topic that it writes. In any other
//! they are what a producer says, who could choose another mapping by them, or pass for Orderbell.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use orderbell_consumers::Record;

use super::envelope::{self, OWN_EVENT_MEDIA_TYPE, REPAIRED_PARAMETER, TOPIC_PARAMETER, attribute_of_header};
use super::mapping::{KafkaKey, Mapping};

/// Media types of posted events.
pub const PLAIN: &str = "application/json";
/// That of events with the attributes of a CloudEvent.
pub const STRUCTURED: &str = "application/cloudevents+json";

impl Mapping {
    /// The mapping with an entry for the topic that Orderbell writes: the keys of its records are orders, whatever `kafka_key` says of the
    /// chain's, and its own marks count there alone. Without one they count everywhere.
    #[must_use]
    pub fn with_own_topic(mut self, topic: &str) -> Self {
        if !self.topics.contains_key(topic) {
            let mut own = self.clone();
            (own.kafka_key, own.topics) = (KafkaKey::Any, BTreeMap::new());
            self.topics.insert(topic.to_owned(), own);
        }
        let all = self.topics.values_mut().map(|mapping| &mut mapping.own_topic);
        all.chain([&mut self.own_topic]).for_each(|known| *known = Some(topic.to_owned()));
        self
    }

    /// The topic that Orderbell writes, where it is known.
    #[must_use]
    pub fn own_topic(&self) -> Option<&str> {
        self.own_topic.as_deref()
    }

    /// True for an event that Orderbell published, whose id is what a till chose.
    #[must_use]
    pub fn is_own(&self, record: &Record) -> bool {
        self.has_own_headers(record) && envelope::is_own(record)
    }

    /// True for a dead letter that was written to the log once more, with another time stamp.
    pub(super) fn is_replayed(&self, record: &Record) -> bool {
        self.has_own_marks(record)
            && (envelope::original_topic(record).is_some() || envelope::media_topic(record).is_some())
    }

    /// True for an event whose JSON was damaged when it was posted.
    pub(super) fn was_repaired(&self, record: &Record) -> bool {
        self.has_own_headers(record) && envelope::was_repaired(record)
    }

    /// The topic that a record was first read from.
    pub(super) fn topic_of<'r>(&self, record: &'r Record) -> &'r str {
        let own = || if self.has_own_headers(record) { envelope::media_topic(record) } else { None };
        let named = || if self.has_own_marks(record) { envelope::original_topic(record) } else { None };
        own().or_else(named).unwrap_or(&record.partition.topic)
    }

    /// The media type and the headers with which a dead letter is written to the log once more. It is read there as it was at first: its value is the
    /// same, and what is stored with it are the attributes and headers that its mapping reads.
    #[must_use]
    pub fn replayed(&self, record: &Record) -> (Cow<'static, str>, Vec<(String, Bytes)>) {
        if self.is_own(record) {
            return (OWN_EVENT_MEDIA_TYPE.into(), Vec::new());
        }
        let media = if envelope::is_structured_media(record) { STRUCTURED } else { PLAIN };
        let repaired = if self.was_repaired(record) { REPAIRED_PARAMETER } else { "" };
        // The media type carries the topic, which may have a mapping of its own.
        let media = format!("{media}{repaired}{TOPIC_PARAMETER}{}", self.topic_of(record));
        let attributes = record.headers.iter().filter(|(name, _)| attribute_of_header(name).is_some());
        let attributes = attributes.filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        (media.into(), attributes.chain(self.headers_of_replayed(record)).collect())
    }

    /// In the topic that Orderbell writes, and everywhere while none is known.
    fn has_own_marks(&self, record: &Record) -> bool {
        self.own_topic.as_deref().is_none_or(|own| *own == *record.partition.topic)
    }

    /// True where the media type and the stored headers are Orderbell's. A dead letter that was replayed from its topic has those of its producer.
    pub(super) fn has_own_headers(&self, record: &Record) -> bool {
        self.has_own_marks(record)
            && envelope::original_topic(record).is_none_or(|topic| *topic == *record.partition.topic)
    }
}
