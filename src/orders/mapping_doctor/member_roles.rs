//! Which member may be what: by its name, and by whether its values look like that.
//!
//! A proposal needs a name that says it. Values alone only make a hint: a channel and a store both repeat, and nobody can tell them apart.

use std::collections::{BTreeMap, BTreeSet};

use super::member_stats::{Form, Member, MemberValue};
use super::sample::Sample;
use super::type_words::{Meaning, meaning};

/// Events from which statistics say something without a name.
const MANY_EVENTS: usize = 50;
/// Different types that a chain may have.
const MAX_TYPES: usize = 60;

/// What a member may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberRole {
    Type,
    EventId,
    Order,
    Store,
    Customer,
    Device,
    Time,
    Amount,
    Currency,
    PickupCode,
    Version,
}

/// A member that may have a role.
pub(super) struct Candidate<'s> {
    pub(super) pointer: &'s str,
    pub(super) member: &'s Member,
    /// Its name says it, or its values are words that do; otherwise they only look like it.
    pub(super) is_named: bool,
    score: usize,
}

/// Words for a thing, and what may follow them in a name.
struct Names {
    things: &'static [&'static str],
    suffixes: &'static [&'static str],
}

const STORES: &[&str] =
    &["store", "shop", "merchant", "branch", "outlet", "restaurant", "location", "site", "poi", "门店", "店铺"];
const CUSTOMERS: &[&str] = &["customer", "member", "user", "buyer", "openid", "client", "guest", "consumer", "会员"];
const ID_SUFFIXES: &[&str] = &["", "id", "no", "num", "number", "sn", "uid", "uuid", "ref", "nr", "key"];

impl MemberRole {
    pub(super) const ALL: [Self; 11] = [
        Self::Type,
        Self::EventId,
        Self::Order,
        Self::Store,
        Self::Customer,
        Self::Device,
        Self::Time,
        Self::Amount,
        Self::Currency,
        Self::PickupCode,
        Self::Version,
    ];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::EventId => "id",
            Self::Order => "order",
            Self::Store => "store",
            Self::Customer => "customer",
            Self::Device => "device",
            Self::Time => "time",
            Self::Amount => "amount",
            Self::Currency => "currency",
            Self::PickupCode => "pickup_code",
            Self::Version => "version",
        }
    }

    fn names(self) -> Names {
        let (things, suffixes): (&[&str], &[&str]) = match self {
            Self::Type => {
                (&["type", "event", "evt", "status", "state", "action", "kind", "op"], &["", "type", "name", "code"])
            }
            Self::EventId => (&["event", "msg", "message", "id", "uuid", "xid", "seq", "record"], ID_SUFFIXES),
            Self::Order => (&["order", "trade", "bill", "purchase", "订单", "订单号"], ID_SUFFIXES),
            Self::Store => (STORES, ID_SUFFIXES),
            Self::Customer => (CUSTOMERS, ID_SUFFIXES),
            Self::Device => (&["device", "terminal", "till", "pos"], ID_SUFFIXES),
            Self::Time => (
                &["time", "timestamp", "ts", "date", "at", "paid", "created", "updated", "occurred", "event", "时间"],
                &["", "at", "time", "date", "ts", "on", "ms"],
            ),
            Self::Amount => (
                &["amount", "total", "price", "sum", "money", "fee", "金额"],
                &["", "amount", "price", "fee", "cents", "minor", "value"],
            ),
            Self::Currency => (&["currency", "ccy"], &["", "code"]),
            Self::PickupCode => {
                (&["pickup", "takeout", "take", "pick", "meal", "取餐"], &["code", "no", "number", "码", "号"])
            }
            Self::Version => (&["version", "ver", "revision", "rev"], &["", "no", "number"]),
        };
        Names { things, suffixes }
    }

    /// True for values that this role may have.
    fn fits(self, member: &Member, events: usize) -> bool {
        let is_id = || member.mostly(|value| matches!(value.form, Form::Whole | Form::Word));
        let (count, distinct) = (member.count(), member.distinct());
        match self {
            Self::Type => is_id() && distinct <= MAX_TYPES && (events < MANY_EVENTS || distinct * 4 <= count),
            Self::EventId => is_id() && distinct == count && count * 10 >= events * 9,
            Self::Order => is_id() && !member.mostly(is_clock) && (count < MANY_EVENTS || distinct * 20 >= count),
            Self::Store => is_id() && !member.mostly(is_clock) && (count < MANY_EVENTS || distinct * 2 <= count),
            Self::Customer | Self::Device => is_id() && !member.mostly(is_clock),
            Self::Time => member.mostly(|value| value.is_time),
            Self::Amount => {
                // A word may be a decimal in base64.
                member.mostly(|value| matches!(value.form, Form::Whole | Form::Decimal | Form::Word) && !value.is_time)
            }
            Self::Currency => member.shape() == "AAA",
            Self::PickupCode => is_id() && member.shape().chars().count() <= 10,
            Self::Version => member.mostly(|value| value.form == Form::Whole),
        }
    }
}

/// A time that is no id: a number such as `20261128120000` may be either, and its name decides.
fn is_clock(value: &MemberValue) -> bool {
    value.is_time && value.form != Form::Whole
}

impl Names {
    /// 3 where the name is such a word alone or with its suffix, 2 where its owner is the word and it the suffix, 1 where it ends so; otherwise 0.
    fn level(&self, pointer: &str) -> usize {
        let mut parts = pointer.rsplit('/').map(compact);
        let (name, owner) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let mut level = 0;
        for thing in self.things {
            for suffix in self.suffixes {
                let whole = format!("{thing}{suffix}");
                level = level.max(match () {
                    () if name == whole => 3,
                    () if owner == *thing && !suffix.is_empty() && name == *suffix => 2,
                    () if whole.chars().count() > 3 && name.ends_with(&whole) => 1,
                    () => 0,
                });
            }
        }
        level
    }
}

/// A name in small letters, without what separates its words.
pub(super) fn compact(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The members that may have this role, the likeliest first.
pub(super) fn candidates(role: MemberRole, sample: &Sample) -> Vec<Candidate<'_>> {
    let (names, events) = (role.names(), sample.events.len());
    let mut all: Vec<Candidate<'_>> = Vec::new();
    for (pointer, member) in &sample.members.0 {
        // What a change of a row was, and not what the order is.
        let is_of_envelope = role == MemberRole::Type && pointer.starts_with("/__");
        if member.count() == 0 || is_of_envelope || !role.fits(member, events) {
            continue;
        }
        let level = match names.level(pointer) {
            // Words such as PAID say it as a name does.
            0 if role == MemberRole::Type && says_stages(member) => 1,
            level => level,
        };
        let is_hinted = level == 0 && events >= MANY_EVENTS && is_like(role, member, sample);
        if level == 0 && !is_hinted {
            continue;
        }
        let coverage = member.count() * 10 / events.max(1);
        all.push(Candidate { pointer, member, is_named: level > 0, score: level * 10 + coverage });
    }
    all.sort_by_key(|candidate| (std::cmp::Reverse(candidate.score), candidate.pointer.len()));
    all
}

/// The likeliest member that is named so, and is not the one that the mapping has.
pub(super) fn proposal<'s>(role: MemberRole, sample: &'s Sample, known: &[&str]) -> Option<Candidate<'s>> {
    candidates(role, sample).into_iter().find(|one| one.is_named && !known.contains(&one.pointer))
}

/// True where most values name a stage of an order.
fn says_stages(member: &Member) -> bool {
    let stages = member.texts.iter().filter(|(text, _)| matches!(meaning(text), Meaning::Stage(_)));
    stages.map(|(_, count)| *count).sum::<u64>() * 2 > member.count() as u64
}

/// True where the values repeat as those of this role do, whatever the member's name.
fn is_like(role: MemberRole, member: &Member, sample: &Sample) -> bool {
    let (count, distinct) = (member.count(), member.distinct());
    match role {
        // An order has a few events, each of another type.
        MemberRole::Order => {
            let pairs: BTreeSet<(u64, &str)> = member
                .values
                .iter()
                .filter_map(|value| Some((value.hash, sample.events.get(value.event)?.kind.as_deref()?)))
                .collect();
            count >= distinct * 3 / 2 && count <= distinct * 12 && pairs.len() * 10 >= count * 9
        }
        // A store has many orders, and an order one store.
        MemberRole::Store => distinct >= 2 && distinct * 10 <= count && is_one_for_each_order(member, sample),
        MemberRole::Time => true,
        _ => false,
    }
}

/// True where the events of one order, of which some have several, agree on the member.
fn is_one_for_each_order(member: &Member, sample: &Sample) -> bool {
    let mut first: BTreeMap<&str, u64> = BTreeMap::new();
    let mut has_several = false;
    for value in &member.values {
        let Some(order) = sample.events.get(value.event).and_then(|event| event.order.as_deref()) else { continue };
        match first.get(order) {
            Some(known) if *known != value.hash => return false,
            Some(_) => has_several = true,
            None => {
                first.insert(order, value.hash);
            }
        }
    }
    has_several
}
