//! How many requests of each class each recipient has at work. Pure.

use std::collections::HashMap;

use orderbell_ledger::DeviceBinding;
use orderbell_protocol::Recipient;

use super::class_places::RequestClass;

/// What is counted apart: the requests of a class of clients whose tokens name their devices, and those of the others.
type Counted = (RequestClass, DeviceBinding);

/// The counts of the recipients of one shard. Only recipients with a request at work are kept.
#[derive(Debug, Default)]
pub(super) struct InFlight(HashMap<(Recipient, Counted), u16>);

impl InFlight {
    /// One more of these of this recipient; false when it has `max` already.
    pub(super) fn begin(&mut self, counted: Counted, who: &Recipient, max: u16) -> bool {
        let key = (who.clone(), counted);
        let count = self.0.get(&key).copied().unwrap_or(0);
        if count >= max {
            return false;
        }
        self.0.insert(key, count + 1);
        true
    }

    /// One less.
    pub(super) fn end(&mut self, counted: Counted, who: &Recipient) {
        let key = (who.clone(), counted);
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
        const LIST: Counted = (RequestClass::List, DeviceBinding::Unbound);
        const POST: Counted = (RequestClass::ClientPost, DeviceBinding::Unbound);
        const LIST_OF_BOUND: Counted = (RequestClass::List, DeviceBinding::Bound);
        let (mut counts, one) = (InFlight::default(), Recipient::store(Id::new("1").unwrap()));
        let other = Recipient::store(Id::new("2").unwrap());
        assert!(counts.begin(LIST, &one, 2) && counts.begin(LIST, &one, 2));
        assert!(!counts.begin(LIST, &one, 2), "one above");
        assert!(counts.begin(LIST, &other, 2), "its neighbour");
        assert!(counts.begin(POST, &one, 2), "another class");
        assert!(counts.begin(LIST_OF_BOUND, &one, 2), "its devices that tokens name");
        counts.end(LIST, &one);
        assert!(counts.begin(LIST, &one, 2));
        for (counted, who) in [(LIST, &one), (LIST, &one), (LIST, &other), (POST, &one), (LIST_OF_BOUND, &one)] {
            counts.end(counted, who);
        }
        assert!(counts.0.is_empty());
    }
}
