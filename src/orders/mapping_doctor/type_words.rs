//! What the name of a type says of the stage of an order, and whether it may be quoted.

use orderbell_protocol::EventType;
use orderbell_protocol::EventType as E;

/// Longest name that is quoted.
const MAX_CHARS: usize = 64;
/// Digits in a row from which a text may be somebody's number.
const NUMBER_DIGITS: usize = 5;

/// Words of each stage, in the order in which they are looked for: `order.paid.refunded` is a refund. A word of a script without spaces may stand
/// anywhere, any other begins a word of the name.
const STAGES: [(EventType, &[&str]); 9] = [
    (E::Refunded, &["refund", "退款"]),
    (E::Cancelled, &["cancel", "void", "取消"]),
    (E::Refused, &["reject", "refus", "decline", "拒单"]),
    (E::Expired, &["expire", "timeout", "timedout", "超时"]),
    (E::Paid, PAYMENT),
    (E::PickedUp, &["collected", "completed", "finished", "delivered", "已取餐"]),
    (E::Ready, &["ready", "prepared", "待取餐"]),
    (E::Accepted, &["accept", "confirm", "接单"]),
    (E::Created, &["created", "create", "placed", "submitted", "下单"]),
];
const PAYMENT: &[&str] = &["paid", "pay", "payment", "settled", "支付", "付款"];
/// Words that take a stage back: `payment_failed`, `unpaid`, `refund_requested`.
const NOT_YET: [&str; 11] =
    ["fail", "unpaid", "pending", "wait", "request", "error", "attempt", "authoriz", "init", "失败", "未支付"];

/// Words that say that something went well or changed, and not what.
const OF_ANYTHING: [&str; 14] = [
    "success", "succeed", "ok", "done", "close", "end", "new", "open", "update", "insert", "delete", "change", "成功",
    "完成",
];
/// Letters below which a name is an abbreviation.
const MIN_WORD_CHARS: usize = 3;

/// What a name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It is called as a stage of an order is.
    Stage(EventType),
    /// It has words, and none of a stage.
    Other,
    /// Nobody can tell.
    Unclear,
}

pub(super) fn meaning(name: &str) -> Meaning {
    let words = words(name);
    let has = |word: &str| match word.is_ascii() {
        true => words.iter().any(|known| known.starts_with(word)),
        false => name.contains(word),
    };
    let has_one = |all: &[&str]| all.iter().any(|&word| has(word));
    if has_one(&NOT_YET) {
        return Meaning::Unclear;
    }
    if words.concat().contains("pickedup") {
        return Meaning::Stage(E::PickedUp);
    }
    match STAGES.iter().find(|(_, words)| has_one(words)) {
        // The payment was cancelled or refused, and not the order.
        Some((E::Cancelled | E::Refused | E::Expired, _)) if has_one(PAYMENT) => Meaning::Unclear,
        Some((kind, _)) => Meaning::Stage(*kind),
        None if has_one(&OF_ANYTHING) => Meaning::Unclear,
        None if name.chars().filter(char::is_ascii_alphabetic).count() >= MIN_WORD_CHARS => Meaning::Other,
        None => Meaning::Unclear,
    }
}

/// The words of `orderPaid`, `ORDER_PAID` and `order.paid`, in small letters.
fn words(name: &str) -> Vec<String> {
    let (mut words, mut word, mut was_small) = (Vec::new(), String::new(), false);
    for c in name.chars() {
        let begins = !c.is_alphanumeric() || (c.is_uppercase() && was_small);
        if begins && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
        was_small = c.is_lowercase();
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// True for what looks like a name of a type, and not like a text, a number of somebody or a name of a person.
pub(super) fn is_quotable(name: &str, count: u64) -> bool {
    let has_number = name.as_bytes().windows(NUMBER_DIGITS).any(|part| part.iter().all(u8::is_ascii_digit));
    let is_name = name.chars().all(|c| c.is_alphanumeric() || "._-/:$+".contains(c));
    let is_known = name.is_ascii() || matches!(meaning(name), Meaning::Stage(_)) || count > 1;
    is_name && !has_number && is_known && name.chars().count() <= MAX_CHARS
}
