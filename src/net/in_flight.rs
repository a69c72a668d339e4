//! How many requests of each class each recipient has at work. Pure.

use std::collections::HashMap;

use orderbell_protocol::Recipient;

use super::class_places::RequestClass;

/// The counts of the recipients of one shard. Only recipients with a request at work are kept.
#[derive(Debug, Default)]
pub(super) struct InFlight(HashMap<(Recipient, RequestClass), u16>);

impl InFlight {
    /// One more of this class and recipient; false when it has `max` already.
    pub(super) fn begin(&mut self, class: RequestClass, who: &Recipient, max: u16) -> bool {
        let key = (who.clone(), class);
        let count = self.0.get(&key).copied().unwrap_or(0);
        if count >= max {
            return false;
        }
        self.0.insert(key, count + 1);
        true
    }

    /// One less.
    pub(super) fn end(&mut self, class: RequestClass, who: &Recipient) {
        let key = (who.clone(), class);
        match self.0.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.0.remove(&key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_protocol::Id;

    #[test]
    fn each_recipient_has_its_own_bound_in_each_class_and_what_ends_makes_room() {
        use RequestClass::{ClientPost, List};
        let (mut counts, one) = (InFlight::default(), Recipient::store(Id::new("1").unwrap()));
        let other = Recipient::store(Id::new("2").unwrap());
        assert!(counts.begin(List, &one, 2) && counts.begin(List, &one, 2));
        assert!(!counts.begin(List, &one, 2), "one above");
        assert!(counts.begin(List, &other, 2), "its neighbour");
        assert!(counts.begin(ClientPost, &one, 2), "another class");
        counts.end(List, &one);
        assert!(counts.begin(List, &one, 2));
        for (class, who) in [(List, &one), (List, &one), (List, &other), (ClientPost, &one)] {
            counts.end(class, who);
        }
        assert!(counts.0.is_empty());
    }
}
