//! Reconciliation of the balance: how many records of each topic may be paid orders, counted a second time from the log.
//!
//! Which bin a record ended in depends on when it was read, and on what other topics said before. That it is in one bin does not: the bins of a topic
//! add up to what was counted of its partitions, and that to the payments of their logs and to their records that are rejected or ignored.
//! A log that was created again, or has lost records, tells nothing of what was counted before.

use std::collections::BTreeMap;

use orderbell_consumers::TopicPartition;
use orderbell_protocol::balance::{BinCount, PartitionCount};

/// Records of one partition that may be paid orders.
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

/// Records by partition. Load-test traffic is among it: of a record that is rejected, nobody knows whether it is.
pub type Payments = BTreeMap<TopicPartition, PaymentCount>;

/// What a comparison of the balance with the log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComparedPayments {
    /// Partitions of which the log holds all that was counted since they started.
    pub partitions: usize,
    /// A sentence for each difference.
    pub differences: Vec<String>,
    /// What was not compared, and why, in sentences.
    pub left_out: Vec<String>,
}

/// Compares the ledger's balance with the log: its bins with the records of their topics' partitions, and these with the log, as far as it holds what
/// was counted. `begins` says where the log of each partition begins.
#[must_use]
pub fn compare_payments(
    bins: &[BinCount],
    counted: &[PartitionCount],
    log: &Payments,
    begins: &BTreeMap<TopicPartition, u64>,
) -> ComparedPayments {
    let mut compared = ComparedPayments::default();
    let mut topics: BTreeMap<&str, Topic> = BTreeMap::new();
    for BinCount { key, records, .. } in bins.iter().filter(|bin| bin.key.is_in_the_log()) {
        topics.entry(&key.topic).or_default().in_bins += *records as i64;
    }
    for one in counted {
        let topic = topics.entry(&one.topic).or_default();
        topic.in_partitions += one.records + one.earlier;
        topic.earlier += one.earlier;
        compare_partition(one, log, begins, &mut compared);
    }
    let is_known =
        |part: &TopicPartition| counted.iter().any(|one| *one.topic == *part.topic && one.partition == part.number);
    for (part, count) in log.iter().filter(|(part, count)| count.finished > 0 && !is_known(part)) {
        compared.differences.push(difference(part, 0, 0, *count));
    }
    for (topic, Topic { in_bins, in_partitions, earlier }) in topics {
        if in_bins != in_partitions {
            let sentence = format!(
                "topic {topic}, records that may be paid orders: {in_bins} in the bins, {in_partitions} in its partitions"
            );
            compared.differences.push(sentence);
        }
        if earlier > 0 {
            compared.left_out.push(format!(
                "topic {topic}: {earlier} of the {in_bins} records in the bins are of an earlier log, or were read before a partition lost \
                 records; they are not compared"
            ));
        }
    }
    compared
}

/// Sums of one topic.
#[derive(Default)]
struct Topic {
    in_bins: i64,
    in_partitions: i64,
    earlier: i64,
}

fn compare_partition(
    PartitionCount { topic, partition, records, from, .. }: &PartitionCount,
    log: &Payments,
    begins: &BTreeMap<TopicPartition, u64>,
    compared: &mut ComparedPayments,
) {
    let part = TopicPartition::new(topic, *partition);
    match begins.get(&part) {
        None if *records > 0 => {
            let sentence = format!("{part} is not in the log; {records} records in the bins are not compared");
            compared.left_out.push(sentence);
        }
        None => {}
        Some(begin) if begin > from => compared.left_out.push(format!(
            "the log of {part} begins at offset {begin}, and {records} records in the bins are counted from offset {from} on; they are not compared"
        )),
        Some(_) => {
            compared.partitions += 1;
            let count = log.get(&part).copied().unwrap_or_default();
            let finished = count.finished as i64;
            if !(finished..=finished + count.above as i64).contains(records) {
                compared.differences.push(difference(&part, *from, *records, count));
            }
        }
    }
}

fn difference(part: &TopicPartition, from: u64, ledger: i64, log: PaymentCount) -> String {
    let finished = log.finished;
    format!("{part} from offset {from} on, records that may be paid orders: ledger {ledger}, log {finished}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_protocol::balance::{Bin, BinKey, RecordPlace};

    fn bin(bin: Bin, reason: &str, records: u64) -> BinCount {
        BinCount {
            key: BinKey { shadow: false, topic: "orders".into(), bin, reason: reason.into() },
            records,
            acknowledged: 0,
            waiting: 0,
            since: None,
            newest: RecordPlace { partition: 0, offset: 0 },
        }
    }

    fn part(number: u32) -> TopicPartition {
        TopicPartition::new("orders", number)
    }

    fn counted(partition: u32, records: i64, from: u64, earlier: i64) -> PartitionCount {
        PartitionCount { topic: "orders".into(), partition, records, from, earlier }
    }

    fn log(partition: u32, finished: u64, above: u64) -> Payments {
        Payments::from([(part(partition), PaymentCount { finished, above })])
    }

    fn whole() -> BTreeMap<TopicPartition, u64> {
        (0..4).map(|number| (part(number), 0)).collect()
    }

    #[test]
    fn partitions_hold_what_their_logs_hold_and_bins_what_their_partitions_do() {
        let bins =
            [bin(Bin::Notified, "", 5), bin(Bin::Notified, "order.accepted", 9), bin(Bin::Rejected, "bad-id", 2)];
        let compare = |counted: &[PartitionCount], log: &Payments| compare_payments(&bins, counted, log, &whole());
        let all = [counted(0, 7, 0, 0)];
        assert_eq!(compare(&all, &log(0, 7, 0)), ComparedPayments { partitions: 1, ..ComparedPayments::default() });
        assert_eq!(compare(&all, &log(0, 5, 2)).differences, [""; 0]);
        let said = |finished| compare(&all, &log(0, finished, 1)).differences;
        assert_eq!(said(8), ["orders/0 from offset 0 on, records that may be paid orders: ledger 7, log 8"]);
        assert_eq!(said(5).len(), 1, "more than there are");
        assert_eq!(compare(&all, &[log(0, 7, 0), log(1, 1, 0)].into_iter().flatten().collect()).differences.len(), 1);
        let more = compare(&[counted(0, 8, 0, 0)], &log(0, 8, 0)).differences;
        assert_eq!(more, ["topic orders, records that may be paid orders: 7 in the bins, 8 in its partitions"]);
    }

    /// The bug: after a topic was created again its balance differed for good, and where retention had deleted records nothing was compared.
    #[test]
    fn what_an_earlier_log_and_deleted_records_had_is_said_and_the_rest_is_compared() {
        let bins = [bin(Bin::Notified, "", 20)];
        let partitions = [counted(0, 3, 0, 9), counted(1, 4, 100, 0), counted(2, 4, 100, 0)];
        let begins = [(part(0), 0), (part(1), 250), (part(2), 100)].into();
        let of_log = |third| [log(0, 3, 0), log(1, 1, 0), log(2, third, 0)].into_iter().flatten().collect::<Payments>();
        let compared = compare_payments(&bins, &partitions, &of_log(4), &begins);
        let left_out = [
            "the log of orders/1 begins at offset 250, and 4 records in the bins are counted from offset 100 on; they are not compared",
            "topic orders: 9 of the 20 records in the bins are of an earlier log, or were read before a partition lost records; they are not \
             compared",
        ];
        assert_eq!((compared.partitions, compared.differences.len()), (2, 0));
        assert_eq!(compared.left_out, left_out);
        assert_eq!(compare_payments(&bins, &partitions, &of_log(5), &begins).differences.len(), 1);
        let gone = compare_payments(&[], &[counted(7, 0, 5, 0)], &Payments::new(), &begins);
        assert_eq!(gone, ComparedPayments::default(), "nothing was counted");
    }

    /// Regression: records that only the ledger knows as dead letters were differences.
    #[test]
    fn what_was_given_up_is_no_difference() {
        let bins = [
            bin(Bin::Rejected, "retries-exhausted", 1),
            bin(Bin::Unreadable, "key-panicked", 1),
            bin(Bin::RejectedLater, "retries-exhausted", 1),
            bin(Bin::RejectedLater, "key-panicked", 1),
            bin(Bin::RejectedLater, "unknown-type", 1),
            bin(Bin::Rejected, "not-published", 1),
            bin(Bin::RejectedLater, "not-published", 1),
        ];
        let in_log: u64 = bins.iter().filter(|bin| bin.key.is_in_the_log()).map(|bin| bin.records).sum();
        assert_eq!(in_log, 3);
        assert_eq!(compare_payments(&bins, &[counted(0, 3, 0, 0)], &log(0, 3, 0), &whole()).differences, [""; 0]);
    }
}
