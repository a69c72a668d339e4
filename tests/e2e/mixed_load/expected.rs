//! Where each record of the load must end, counted by somebody who read OPERATING.md ("The balance of paid orders") and none of the code.

use std::collections::{BTreeMap, BTreeSet};

use orderbell_protocol::balance::Bin;
use serde_json::Value;

use crate::chain::now;

/// Bins by traffic (true: load test), bin and reason.
pub(crate) type Bins = BTreeMap<(bool, Bin, String), u64>;

const PAID: &str = "order.paid";
/// Stages from which on an order is paid, also where its payment was not read.
const LATER: [&str; 3] = ["order.accepted", "order.ready", "order.picked_up"];
const ENDS: [&str; 3] = ["order.refused", "order.cancelled", "order.refunded"];

/// Stores that are none.
fn store_of(event: &Value) -> Option<String> {
    event["store"].as_str().map(str::trim).filter(|store| *store != "0").map(str::to_owned)
}

/// Guests are nobody.
fn customer_of(event: &Value) -> Option<String> {
    event["customer"].as_str().filter(|customer| !["", "0"].contains(customer)).map(str::to_owned)
}

/// A time in the future is none: that clock is off by hours.
fn usable_time(event: &Value) -> Option<i64> {
    event["time"].as_i64().filter(|time| *time < now().0 + 15 * 60_000)
}

/// An event without an id is known by its content.
fn id_of(event: &Value) -> String {
    event["id"].as_str().filter(|id| !["", "undefined"].contains(id)).map_or_else(|| event.to_string(), str::to_owned)
}

/// What is known of one order.
#[derive(Default)]
struct Story {
    seen: BTreeSet<(String, String)>,
    version: u64,
    store: Option<String>,
    /// Customer of the first payment, and its time.
    payment: Option<(Option<String>, Option<i64>)>,
    is_paid: bool,
    picked_up_at: Option<i64>,
    has_ended: bool,
    /// It waits for its store: the reason of the record in that bin.
    waits: Option<String>,
    is_notified: bool,
}

impl Story {
    fn is_over(&self) -> bool {
        self.has_ended || self.picked_up_at.is_some()
    }

    /// Why this payment is of another order with the same number. To be asked before the event is taken in.
    fn further_payment(&mut self, event: &Value) -> Option<Bin> {
        let (customer, time) = (customer_of(event), usable_time(event));
        let Some((first, first_time)) = &self.payment else {
            self.payment = Some((customer, time));
            return None;
        };
        if self.picked_up_at.is_some_and(|at| event["time"].as_i64().is_some_and(|paid| paid > at)) {
            return Some(Bin::AfterEnd);
        }
        let is_other_customer = first.as_ref().zip(customer.as_ref()).is_some_and(|(a, b)| a != b);
        // Another event of the same source, at another time or at none that is known.
        let is_other_time = time.is_none() || time != *first_time;
        (is_other_customer || is_other_time).then_some(Bin::SecondPayment)
    }

    /// What the event changes.
    fn takes_in(&mut self, kind: &str, event: &Value) {
        let version = event["version"].as_u64();
        let is_behind = version.is_some_and(|version| version < self.version);
        self.version = self.version.max(version.unwrap_or_default());
        self.store = self.store.take().or_else(|| store_of(event));
        if self.is_over() {
            return;
        }
        self.is_paid |= kind == PAID || LATER.contains(&kind);
        if kind == "order.picked_up" {
            self.picked_up_at = event["time"].as_i64();
        }
        self.has_ended = ENDS.contains(&kind) && !is_behind;
    }
}

/// What a naive reader of the load expects.
#[derive(Default)]
pub(crate) struct Expected {
    pub(crate) bins: Bins,
    /// Records that count in one of the bins as payments, dead letters or ignored events.
    pub(crate) records: u64,
    orders: BTreeMap<(bool, String), Story>,
    /// Of orders with one thing wrong, what their notice says of it.
    pub(crate) flags: BTreeMap<String, Vec<&'static str>>,
    /// The HTTP endpoint recognises what is posted again: it never comes into the log.
    has_http: bool,
}

impl Expected {
    pub(crate) fn new(has_http: bool) -> Self {
        Self { has_http, ..Self::default() }
    }

    pub(crate) fn counts(&mut self, bin: Bin, reason: &str) {
        self.records += 1;
        self.add(false, bin, reason);
    }

    fn add(&mut self, shadow: bool, bin: Bin, reason: &str) {
        *self.bins.entry((shadow, bin, reason.to_owned())).or_default() += 1;
    }

    fn remove(&mut self, shadow: bool, bin: Bin, reason: &str) {
        let key = (shadow, bin, reason.to_owned());
        let left = self.bins[&key] - 1;
        if left == 0 {
            self.bins.remove(&key)
        } else {
            self.bins.insert(key, left)
        };
    }

    /// The next event of its order.
    pub(crate) fn reads(&mut self, event: &Value) {
        let (shadow, order) = (event["shadow"] == true, event["order"].as_str().unwrap().to_owned());
        let kind = event["type"].as_str().unwrap();
        let is_payment = kind == PAID;
        let mut story = self.orders.remove(&(shadow, order.clone())).unwrap_or_default();
        let is_new = story.seen.insert((id_of(event), kind.to_owned()));
        if is_new || !self.has_http {
            self.records += u64::from(is_payment);
            self.goes_on(&mut story, event, kind, (shadow, &order, is_new));
        }
        self.orders.insert((shadow, order), story);
    }

    fn goes_on(&mut self, story: &mut Story, event: &Value, kind: &str, (shadow, order, is_new): (bool, &str, bool)) {
        let is_payment = kind == PAID;
        let reason = if is_payment { "" } else { kind };
        if !is_new {
            if is_payment {
                self.add(shadow, Bin::Duplicate, reason);
            }
            return;
        }
        let further = is_payment.then(|| story.further_payment(event)).flatten();
        let was_paid = story.is_paid;
        story.takes_in(kind, event);
        // Too old is what says so in its name: see `Load::life`.
        let ends_in = |story: &Story| match story.is_over() {
            true => Bin::Superseded,
            false if order.starts_with("old") => Bin::TooOld,
            false => Bin::Notified,
        };
        if (story.store.is_some() || story.is_over())
            && let Some(reason) = story.waits.take()
        {
            self.remove(shadow, Bin::AwaitsStore, &reason);
            self.add(shadow, ends_in(story), &reason);
            story.is_notified |= ends_in(story) == Bin::Notified;
        }
        let bin = match further {
            Some(bin) => bin,
            None if !was_paid && story.is_paid && !story.is_over() && story.store.is_none() => Bin::AwaitsStore,
            None if !was_paid && story.is_paid => ends_in(story),
            None if !is_payment => return,
            None if !was_paid => Bin::Superseded,
            None => Bin::Stale,
        };
        if bin == Bin::AwaitsStore {
            story.waits = Some(reason.to_owned());
        }
        story.is_notified |= bin == Bin::Notified;
        self.add(shadow, bin, reason);
    }

    /// Orders of a store that it must have been notified of, and which still matter to it; or all that it may have been notified of.
    pub(crate) fn orders_of(&self, store: &str, still_matter: bool) -> BTreeSet<String> {
        let of_store = self.orders.iter().filter(|((shadow, _), story)| {
            !shadow && story.is_notified && story.store.as_deref() == Some(store) && !(still_matter && story.is_over())
        });
        of_store.map(|((_, order), _)| order.clone()).collect()
    }

    /// True when there are records in every bin. Whether a record is older than the ledger is tested elsewhere, and what is posted is refused or
    /// answered as known where a record becomes a dead letter or a duplicate, but for what is only known when it is applied.
    pub(crate) fn has_every_bin(&self) -> bool {
        let not_posted = [Bin::Unreadable, Bin::RejectedLater, Bin::Ignored, Bin::Duplicate];
        let is_left_out = |bin: Bin| bin == Bin::History || (self.has_http && not_posted.contains(&bin));
        Bin::ALL.into_iter().all(|bin| is_left_out(bin) || self.bins.keys().any(|(_, known, _)| *known == bin))
    }

    /// Records of real orders in this bin, by reason.
    pub(crate) fn in_bin(&self, bin: Bin) -> impl Iterator<Item = (&str, u64)> {
        let of_bin = self.bins.iter().filter(move |((shadow, one, _), _)| !shadow && *one == bin);
        of_bin.map(|((_, _, reason), count)| (reason.as_str(), *count))
    }
}
