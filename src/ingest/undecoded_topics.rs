//! Topics of which nothing is understood: a mapping that lists none of their types is a mapping of something else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError, RwLock};

/// Topics that are remembered. They come from the configuration, which names a handful.
const MAX_TOPICS: usize = 64;
/// Events of unknown types before a topic counts as not understood. The first of a type that sounds like a payment is enough.
const MIN_UNKNOWN: u64 = 20;

/// Whether anything of each topic has been understood since the start.
#[derive(Debug, Default)]
pub struct UndecodedTopics {
    decoded: RwLock<BTreeSet<Box<str>>>,
    unknown: Mutex<BTreeMap<Box<str>, Unknown>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Unknown {
    events: u64,
    sounds_paid: u64,
}

impl UndecodedTopics {
    /// A record of the topic is an event, or one that the configuration ignores.
    pub fn decoded(&self, topic: &str) {
        if self.decoded.read().unwrap_or_else(PoisonError::into_inner).contains(topic) {
            return;
        }
        let mut decoded = self.decoded.write().unwrap_or_else(PoisonError::into_inner);
        if decoded.len() < MAX_TOPICS {
            decoded.insert(topic.into());
        }
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }

    /// A record of the topic has a type that the mapping does not list.
    pub fn unknown(&self, topic: &str, sounds_paid: bool) {
        let decoded = self.decoded.read().unwrap_or_else(PoisonError::into_inner);
        if decoded.contains(topic) || decoded.len() >= MAX_TOPICS {
            return;
        }
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        if unknown.contains_key(topic) || unknown.len() < MAX_TOPICS {
            let count = unknown.entry(topic.into()).or_default();
            count.events += 1;
            count.sounds_paid += u64::from(sounds_paid);
        }
    }

    /// The topics of which nothing was understood, each with a sentence.
    pub fn all(&self) -> Vec<(String, String)> {
        let unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        let all = unknown.iter().filter(|(_, count)| count.sounds_paid > 0 || count.events >= MIN_UNKNOWN);
        let sentence = |Unknown { events, sounds_paid }: &Unknown| {
            format!(
                "none of {events} events has a type that mapping.types lists, and {sounds_paid} of them sound like payments: list their \
                 types, or set \"*\" = \"ignore\""
            )
        };
        all.map(|(topic, count)| (topic.to_string(), sentence(count))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(topics: &UndecodedTopics) -> Vec<String> {
        topics.all().into_iter().map(|(topic, _)| topic).collect()
    }

    /// Regression: a mapping without the type of the payments made every payment a dead letter, and nothing was red.
    #[test]
    fn a_topic_of_which_nothing_is_understood_is_named_until_something_is() {
        let topics = UndecodedTopics::default();
        topics.unknown("payments", true);
        (0..19).for_each(|_| topics.unknown("couriers", false));
        assert_eq!(named(&topics), ["payments"]);
        topics.unknown("couriers", false);
        assert_eq!(named(&topics), ["couriers", "payments"]);
        topics.decoded("payments");
        topics.unknown("payments", true);
        assert_eq!(named(&topics), ["couriers"], "one type among others that is unknown is no order");
    }

    #[test]
    fn topics_are_remembered_up_to_a_limit() {
        let topics = UndecodedTopics::default();
        (0..100).for_each(|at| topics.unknown(&format!("t{at}"), true));
        assert_eq!(topics.all().len(), MAX_TOPICS);
        (0..100).for_each(|at| topics.decoded(&format!("t{at}")));
        (0..100).for_each(|at| topics.unknown(&format!("t{at}"), true));
        assert_eq!(topics.all().len(), 0);
    }
}
