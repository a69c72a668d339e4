//! Topics of which nothing is understood: the mapping lists none of their types, or finds no type where it looks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// Topics that are remembered. They come from the configuration, which names a handful.
const MAX_TOPICS: usize = 64;
/// Events that were not understood before a topic of which nothing ever was is named. The first with a type that sounds like a payment is
/// enough.
const MIN_UNKNOWN: u64 = 20;
/// The same for a topic of which something was understood, one after another: its producer changed. Foreign events among its own come in
/// shorter runs.
const MIN_UNKNOWN_IN_A_ROW: u64 = 200;

/// How many events of each topic were not understood since the newest that was.
#[derive(Debug, Default)]
pub struct UndecodedTopics(RwLock<BTreeMap<Box<str>, Topic>>);

#[derive(Debug, Default)]
struct Topic {
    /// Something was understood since the start.
    is_understood: AtomicBool,
    events: AtomicU64,
    /// Those of `events` that name no type.
    without_type: AtomicU64,
    /// Those of `events` whose type sounds like that of a payment.
    sounds_paid: AtomicU64,
}

/// Why an event was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecoded {
    /// Where the mapping looks for the type there is none.
    NoType,
    /// The mapping does not list its type.
    UnknownType {
        /// It sounds like that of a payment.
        sounds_paid: bool,
    },
}

impl UndecodedTopics {
    /// A record of the topic is an event, or one that the configuration ignores.
    pub fn decoded(&self, topic: &str) {
        self.with(topic, |topic| {
            topic.is_understood.store(true, Ordering::Relaxed);
            if topic.events.load(Ordering::Relaxed) > 0 {
                for count in [&topic.events, &topic.without_type, &topic.sounds_paid] {
                    count.store(0, Ordering::Relaxed);
                }
            }
        });
    }

    /// A record of the topic was not understood.
    pub fn undecoded(&self, topic: &str, why: Undecoded) {
        self.with(topic, |topic| {
            topic.events.fetch_add(1, Ordering::Relaxed);
            topic.without_type.fetch_add((why == Undecoded::NoType).into(), Ordering::Relaxed);
            let sounds_paid = why == Undecoded::UnknownType { sounds_paid: true };
            topic.sounds_paid.fetch_add(sounds_paid.into(), Ordering::Relaxed);
        });
    }

    fn with(&self, name: &str, run: impl FnOnce(&Topic)) {
        if let Some(topic) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return run(topic);
        }
        let mut topics = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if topics.contains_key(name) || topics.len() < MAX_TOPICS {
            run(topics.entry(name.into()).or_default());
        }
    }

    /// The topics of which nothing is understood, each with a sentence.
    pub fn all(&self) -> Vec<(String, String)> {
        let topics = self.0.read().unwrap_or_else(PoisonError::into_inner);
        topics.iter().filter_map(|(name, topic)| Some((name.to_string(), topic.sentence()?))).collect()
    }
}

impl Topic {
    fn sentence(&self) -> Option<String> {
        let [events, without_type, sounds_paid] =
            [&self.events, &self.without_type, &self.sounds_paid].map(|count| count.load(Ordering::Relaxed));
        let is_understood = self.is_understood.load(Ordering::Relaxed);
        let is_named =
            if is_understood { events >= MIN_UNKNOWN_IN_A_ROW } else { sounds_paid > 0 || events >= MIN_UNKNOWN };
        let which = if is_understood { "the newest" } else { "the first" };
        is_named.then(|| {
            format!(
                "none of {which} {events} events is understood: {without_type} have no type where mapping.type points, {} a type that \
                 mapping.types does not list, and {sounds_paid} of these sound like payments: orderbell mapping doctor says what to write",
                events.saturating_sub(without_type)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYMENT: Undecoded = Undecoded::UnknownType { sounds_paid: true };
    const OTHER: Undecoded = Undecoded::UnknownType { sounds_paid: false };

    fn named(topics: &UndecodedTopics) -> Vec<String> {
        topics.all().into_iter().map(|(topic, _)| topic).collect()
    }

    fn undecoded(topics: &UndecodedTopics, topic: &str, why: Undecoded, times: u64) {
        (0..times).for_each(|_| topics.undecoded(topic, why));
    }

    /// Regression: a mapping without the type of the payments made every payment a dead letter, and nothing was red.
    #[test]
    fn a_topic_of_which_nothing_is_understood_is_named_until_something_is() {
        let topics = UndecodedTopics::default();
        undecoded(&topics, "payments", PAYMENT, 1);
        undecoded(&topics, "couriers", OTHER, 19);
        assert_eq!(named(&topics), ["payments"]);
        undecoded(&topics, "couriers", OTHER, 1);
        assert_eq!(named(&topics), ["couriers", "payments"]);
        topics.decoded("payments");
        undecoded(&topics, "payments", PAYMENT, 1);
        assert_eq!(named(&topics), ["couriers"], "one type among others that is unknown is no order");
    }

    /// Regression: payments in a form that the mapping does not find its type in were dead letters, and nothing was red.
    #[test]
    fn events_without_a_type_where_the_mapping_looks_are_not_understood_either() {
        let topics = UndecodedTopics::default();
        undecoded(&topics, "orders", Undecoded::NoType, 20);
        let (_, sentence) = topics.all().pop().unwrap();
        assert!(sentence.starts_with("none of the first 20 events is understood: 20 have no type"), "{sentence}");
    }

    /// Regression: one event that was understood kept the alert away for ever, also when the producer changed its types.
    #[test]
    fn a_topic_that_is_not_understood_any_more_is_named() {
        let topics = UndecodedTopics::default();
        topics.decoded("orders");
        undecoded(&topics, "orders", Undecoded::NoType, 100);
        undecoded(&topics, "orders", OTHER, 99);
        assert_eq!(named(&topics), [""; 0]);
        undecoded(&topics, "orders", OTHER, 1);
        let (_, sentence) = topics.all().pop().unwrap();
        assert!(sentence.contains("the newest 200 events") && sentence.contains("100 a type that"), "{sentence}");
        topics.decoded("orders");
        undecoded(&topics, "orders", OTHER, 199);
        assert_eq!(named(&topics), [""; 0], "in a row");
    }

    #[test]
    fn topics_are_remembered_up_to_a_limit() {
        let topics = UndecodedTopics::default();
        (0..100).for_each(|at| topics.undecoded(&format!("t{at}"), PAYMENT));
        assert_eq!(topics.all().len(), MAX_TOPICS);
        (0..100).for_each(|at| topics.decoded(&format!("t{at}")));
        (0..100).for_each(|at| topics.undecoded(&format!("t{at}"), PAYMENT));
        assert_eq!(topics.all().len(), 0);
    }
}
