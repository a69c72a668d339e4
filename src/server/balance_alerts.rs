//! What the balance of paid orders leads to: which records need a person, in one sentence each with a number and a place.

use orderbell_protocol::alert::AlertCode;
use orderbell_protocol::balance::{Bin, BinCount};

use super::alerts::{Condition, ack_command};

/// The alert that tells of this bin; `None` for a bin that needs nobody.
fn code_of(bin: Bin) -> Option<AlertCode> {
    match bin {
        Bin::Rejected | Bin::Unreadable | Bin::RejectedLater => Some(AlertCode::DeadLetters),
        bin => bin.needs_a_person().then_some(AlertCode::PaidUnannounced),
    }
}

/// True for a bin that this alert tells of: it has records that nobody looked after. Load-test traffic needs nobody.
pub(super) fn is_reported_by(code: AlertCode, bin: &BinCount) -> bool {
    !bin.key.shadow && code_of(bin.key.bin) == Some(code) && bin.open() > 0
}

/// The alert with this code, if there is one to raise.
pub(super) fn condition(code: AlertCode, mut bins: Vec<BinCount>) -> Option<Condition> {
    bins.retain(|bin| is_reported_by(code, bin));
    let since = bins.iter().filter_map(|bin| bin.since).min();
    let sentence = |bin: &BinCount| {
        let (topic, place) = (&bin.key.topic, bin.newest);
        let reason = if bin.key.reason.is_empty() { String::new() } else { format!(" ({})", bin.key.reason) };
        format!(
            "{} {}{reason}, the newest at {topic}/{}@{}",
            bin.open(),
            bin.key.bin.sentence(),
            place.partition,
            place.offset
        )
    };
    let all: Vec<String> = bins.iter().map(sentence).collect();
    let (what, see) = match code {
        AlertCode::DeadLetters => ("these may be paid orders", "orderbell dlq list"),
        _ => ("no store is notified", "orderbell balance"),
    };
    let detail = format!("{what}: {}; see {see}; {}", all.join("; "), ack_command(code, None));
    (!all.is_empty()).then(|| Condition { since, ..Condition::new(code, detail) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use orderbell_protocol::UnixMs;
    use orderbell_protocol::balance::{BinKey, RecordPlace};

    fn bin(bin: Bin, records: u64, acknowledged: u64) -> BinCount {
        let reason = if bin == Bin::Rejected { "bad-id" } else { "" };
        BinCount {
            key: BinKey { shadow: false, topic: "orders".into(), bin, reason: reason.into() },
            records,
            acknowledged,
            waiting: 0,
            since: Some(UnixMs(1_000 - records as i64)),
            newest: RecordPlace { partition: 3, offset: 17 },
        }
    }

    #[test]
    fn an_alert_says_how_many_why_and_where() {
        let bins = vec![bin(Bin::Notified, 900, 0), bin(Bin::TooOld, 7, 4), bin(Bin::Rejected, 2, 0)];
        let alert = condition(AlertCode::PaidUnannounced, bins.clone()).unwrap();
        let said = "no store is notified: 3 paid orders were hours old by their own time when they came, the newest at orders/3@17; see \
                    orderbell balance; when this is dealt with: orderbell alerts ack paid_unannounced";
        assert_eq!((&*alert.detail, alert.since), (said, Some(UnixMs(993))));
        let dead_letters = condition(AlertCode::DeadLetters, bins).unwrap();
        assert!(
            dead_letters.detail.contains("2 dead letters that are paid orders (bad-id), the newest at orders/3@17"),
            "{}",
            dead_letters.detail
        );
        let seen = vec![
            bin(Bin::TooOld, 4, 4),
            BinCount { key: BinKey { shadow: true, ..bin(Bin::TooOld, 1, 0).key }, ..bin(Bin::TooOld, 1, 0) },
        ];
        assert!(condition(AlertCode::PaidUnannounced, seen).is_none());
    }

    #[test]
    fn an_order_whose_store_may_still_be_named_raises_no_alert() {
        let detail = |waiting| {
            let bins = vec![BinCount { waiting, ..bin(Bin::AwaitsStore, 5, 1) }];
            condition(AlertCode::PaidUnannounced, bins).map(|alert| alert.detail)
        };
        assert!(detail(3).unwrap().starts_with("no store is notified: 1 paid orders name no store, the newest at"));
        assert_eq!(detail(4), None);
    }
}
