//! Reconciliation of the balance: how many records of each topic may be paid orders, counted a second time from the log.
//!
//! Which bin a record ended in depends on when it was read, and on what other topics said before. That it is in one bin does not: of each topic,
//! the bins add up to the payments of the log and to its records that are rejected or ignored.

use std::collections::BTreeMap;

use orderbell_protocol::balance::{Bin, BinCount};

/// Records of one topic that may be paid orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaymentCount {
    /// Below their partition's checkpoint.
    pub finished: u64,
    /// At or above it: the ledger may have counted them or not.
    pub above: u64,
}

impl PaymentCount {
    /// Counts one record.
    pub(super) fn add(&mut self, finished: bool) {
        self.finished += u64::from(finished);
        self.above += u64::from(!finished);
    }

    /// Adds what another slice of the orders has.
    pub(super) fn merge(&mut self, other: Self) {
        self.finished += other.finished;
        self.above += other.above;
    }
}

/// By traffic (true: load-test traffic) and topic.
pub type Payments = BTreeMap<(bool, String), PaymentCount>;

/// Compares the ledger's balance with the log. Returns the number of topics, and a sentence for each that differs.
#[must_use]
pub fn compare_payments(ledger: &[BinCount], log: &Payments) -> (usize, Vec<String>) {
    let mut topics: BTreeMap<(bool, String), (u64, PaymentCount)> =
        log.iter().map(|(topic, count)| (topic.clone(), (0, *count))).collect();
    for BinCount { key, records, .. } in ledger {
        let is_dead_letter = matches!(key.bin, Bin::Rejected | Bin::Unreadable | Bin::RejectedLater);
        if key.reason.is_empty() || is_dead_letter {
            topics.entry((key.shadow, key.topic.clone())).or_default().0 += records;
        }
    }
    let differs = |(_, (ledger, log)): &(&(bool, String), &(u64, PaymentCount))| {
        !(log.finished..=log.finished + log.above).contains(ledger)
    };
    let sentence = |((is_shadow, topic), (ledger, log)): (&(bool, String), &(u64, PaymentCount))| {
        let shadow = if *is_shadow { "shadow " } else { "" };
        format!("{shadow}topic {topic}, records that may be paid orders: ledger {ledger}, log {}", log.finished)
    };
    (topics.len(), topics.iter().filter(differs).map(sentence).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_protocol::balance::{BinKey, RecordPlace};

    fn bin(bin: Bin, reason: &str, records: u64) -> BinCount {
        BinCount {
            key: BinKey { shadow: false, topic: "orders".into(), bin, reason: reason.into() },
            records,
            acknowledged: 0,
            since: None,
            newest: RecordPlace { partition: 0, offset: 0 },
        }
    }

    #[test]
    fn bins_add_up_to_the_records_of_the_log() {
        let log = |finished, above| Payments::from([((false, "orders".into()), PaymentCount { finished, above })]);
        let bins =
            [bin(Bin::Notified, "", 5), bin(Bin::Notified, "order.accepted", 9), bin(Bin::Rejected, "bad-id", 2)];
        assert_eq!(compare_payments(&bins, &log(7, 0)), (1, vec![]));
        assert_eq!(compare_payments(&bins, &log(5, 2)), (1, vec![]));
        let said = |finished| compare_payments(&bins, &log(finished, 1)).1;
        assert_eq!(said(8), ["topic orders, records that may be paid orders: ledger 7, log 8"]);
        assert_eq!(said(5).len(), 1, "more than there are");
        assert_eq!(compare_payments(&[], &log(1, 0)).1.len(), 1, "a topic without a bin");
    }
}
