//! Findings about what makes two events or two orders one: ids, orders, subjects, keys, versions.

use std::collections::{BTreeMap, BTreeSet};

use orderbell_protocol::id_text;

use super::super::mapping::{KafkaKey, Subject};
use super::super::order::Unannounced;
use super::member_roles::{MemberRole, candidates, proposal};
use super::proposal::{Change, NOWHERE, pointers_of};
use super::sample::SampleEvent;
use super::{Context, Finding};

/// Events from which an equal version in all of them is no coincidence, whatever their orders are.
const MANY_VERSIONS: usize = 20;

/// True for at least nine of ten.
fn are_most(count: usize, all: usize) -> bool {
    all > 0 && count * 10 >= all * 9
}

/// Events that name no order.
pub(super) fn order_missing(context: &Context<'_>) -> Option<Finding> {
    let about = context.sample.about_orders(context.mapping);
    let without: Vec<&(usize, &SampleEvent)> = about.iter().filter(|(_, event)| event.order.is_none()).collect();
    if without.is_empty() {
        return None;
    }
    let pointers = pointers_of(context.mapping, "order");
    let known: Vec<&str> = pointers.iter().map(String::as_str).collect();
    let mut sentence =
        format!("{} of {} events about orders name no order at {}", without.len(), about.len(), known.join(" and "));
    let member = proposal(MemberRole::Order, context.sample, &known).filter(|one| {
        let values = one.member.by_event();
        without.iter().filter(|(at, _)| values.contains_key(at)).count() * 2 >= without.len()
    });
    let (subject, key) = (context.mapping.subject, context.mapping.kafka_key);
    let change = match member {
        Some(one) => {
            sentence.push_str(&format!("; {} looks like the order's id", one.pointer));
            Some(Change::new("order", one.pointer))
        }
        None if subject != Subject::Order && may_be_orders(&without, |event| event.subject.as_ref()) => {
            sentence.push_str("; the subject of the CloudEvents looks like it");
            Some(Change::new("subject", "order"))
        }
        None if key == KafkaKey::Any && may_be_orders(&without, |event| event.key.as_ref()) => {
            sentence.push_str("; the record's key looks like it");
            Some(Change::new("kafka_key", "order"))
        }
        None => None,
    };
    Some(Finding::improvement("no-order", sentence, change.into_iter().collect()))
}

/// True where the events have this, most of them another one, and none of it is their store.
fn may_be_orders(events: &[&(usize, &SampleEvent)], of: fn(&SampleEvent) -> Option<&String>) -> bool {
    let all: Vec<&String> = events.iter().filter_map(|(_, event)| of(event)).collect();
    let stores: BTreeSet<&String> = events.iter().filter_map(|(_, event)| event.store.as_ref()).collect();
    let distinct = all.iter().collect::<BTreeSet<_>>().len();
    are_most(all.len(), events.len()) && distinct * 2 >= all.len() && !all.iter().any(|text| stores.contains(text))
}

/// Subjects of CloudEvents that are stores.
pub(super) fn subject_is_store(context: &Context<'_>) -> Option<Finding> {
    let with_subject = || context.sample.events.iter().filter(|event| event.subject.is_some());
    let all = with_subject().count();
    let are_stores = with_subject().filter(|event| event.subject == event.store).count();
    are_most(are_stores, all).then(|| {
        let sentence = format!("the subject is the store, and not the order, in {are_stores} of {all} CloudEvents");
        Finding::note("subject-is-store", sentence)
    })
}

/// What the keys of the records are.
pub(super) fn key_is(context: &Context<'_>) -> Option<Finding> {
    let with_key = || context.sample.events.iter().filter(|event| event.key.is_some());
    let all = with_key().count();
    let stores = with_key().filter(|event| event.key == event.store).count();
    let orders = with_key().filter(|event| event.key == event.order).count();
    let configured = context.mapping.kafka_key;
    let (what, count, right) = match () {
        () if are_most(stores, all) => ("store", stores, KafkaKey::Store),
        () if are_most(orders, all) => ("order", orders, KafkaKey::Order),
        () => {
            let mismatches = context.replayed.numbers.dead_letters.get("key-mismatch")?.count;
            let sentence =
                format!("the record's key and the event identify different things in {mismatches} of {all} records");
            return Some(Finding::improvement("key", sentence, vec![Change::new("kafka_key", "any")]));
        }
    };
    let mut sentence = format!("the record's key is the {what} in {count} of {all} records");
    if configured == KafkaKey::Any || configured == right {
        return Some(Finding::note("key", sentence));
    }
    sentence.push_str(", and kafka_key says something else");
    Some(Finding::fix("key", sentence, vec![Change::new("kafka_key", what)]))
}

/// Event ids that are the order's.
pub(super) fn id_is_order(context: &Context<'_>) -> Option<Finding> {
    let about = context.sample.about_orders(context.mapping);
    let with_both: Vec<&SampleEvent> =
        about.iter().map(|(_, event)| *event).filter(|event| event.id.is_some() && event.order.is_some()).collect();
    // An order's id is read by a rule, an event's as it was written.
    let is_order = |event: &&&SampleEvent| event.id.as_deref().map(id_text::plain) == event.order.as_deref();
    let shared = with_both.iter().filter(is_order).count();
    if !are_most(shared, with_both.len()) {
        return None;
    }
    let all = with_both.len();
    let consequence = "two events of one type about one order, such as two refunds, have one id: \
                       the second is a duplicate or a dead letter (event-conflict)";
    if with_both.iter().any(|event| event.is_in_envelope) {
        let sentence = format!("the id of the CloudEvent is the order's in {shared} of {all} events: {consequence}");
        return Some(Finding::note("id-is-order", sentence));
    }
    let pointers = [pointers_of(context.mapping, "id"), pointers_of(context.mapping, "order")].concat();
    let known: Vec<&str> = pointers.iter().map(String::as_str).collect();
    let sentence =
        format!("the event id at {} is the order's in {shared} of {all} events: {consequence}", context.mapping.id);
    let own = proposal(MemberRole::EventId, context.sample, &known).filter(|one| is_an_own_id(context, one.pointer));
    let id = own.map_or(NOWHERE, |one| one.pointer);
    Some(Finding::fix("id-is-order", sentence, vec![Change::new("id", id)]))
}

/// Events without an id of their own.
pub(super) fn id_missing(context: &Context<'_>) -> Option<Finding> {
    let at = context.mapping.id.as_str();
    let about = context.sample.about_orders(context.mapping);
    let with_own: Vec<&SampleEvent> = about.iter().map(|(_, event)| *event).filter(|one| !one.is_in_envelope).collect();
    let without = with_own.iter().filter(|event| event.id.is_none()).count();
    if at == NOWHERE || context.mapping.envelope.gives_ids() || !are_most(without, with_own.len()) {
        return None;
    }
    let all = with_own.len();
    let mut sentence =
        format!("{without} of {all} events have no id of their own at {at}, and are told apart by their content");
    let own = proposal(MemberRole::EventId, context.sample, &[at]).filter(|one| is_an_own_id(context, one.pointer));
    let change = own.map(|one| {
        sentence.push_str(&format!("; {} looks like it", one.pointer));
        Change::new("id", one.pointer)
    });
    Some(Finding::fix("no-id", sentence, change.into_iter().collect()))
}

/// True unless the member may be something else that differs in every event of a small sample.
fn is_an_own_id(context: &Context<'_>, pointer: &str) -> bool {
    let other = [MemberRole::Order, MemberRole::Store, MemberRole::Customer, MemberRole::Device];
    let has = |role| candidates(role, context.sample).iter().any(|one| one.is_named && one.pointer == pointer);
    !other.into_iter().any(has)
}

/// Versions that are the same in all events.
pub(super) fn version_of_schema(context: &Context<'_>) -> Option<Finding> {
    let mut of_orders: BTreeMap<&str, usize> = BTreeMap::new();
    let mut versions: BTreeSet<&str> = BTreeSet::new();
    let mut count = 0;
    for event in &context.sample.events {
        let Some(version) = event.version.as_deref() else { continue };
        versions.insert(version);
        count += 1;
        if let Some(order) = event.order.as_deref() {
            *of_orders.entry(order).or_default() += 1;
        }
    }
    let has_several = of_orders.values().any(|events| *events > 1);
    if versions.len() != 1 || (!has_several && count < MANY_VERSIONS) {
        return None;
    }
    let sentence = format!(
        "the version at {} never changes, in {count} events: it numbers the schema, and not the states of an order",
        context.mapping.version
    );
    Some(Finding::fix("schema-version", sentence, vec![Change::new("version", NOWHERE)]))
}

/// Payments of orders that were paid or over: numbers that begin again, or belong to one store.
pub(super) fn numbers_begin_again(context: &Context<'_>) -> Option<Finding> {
    let unannounced = &context.replayed.numbers.unannounced;
    let of = |reason: Unannounced| unannounced.get(reason.word()).copied().unwrap_or_default();
    let payments = of(Unannounced::AfterEnd) + of(Unannounced::SecondPayment);
    if payments == 0 {
        return None;
    }
    let mut pointers = pointers_of(context.mapping, "order");
    let sentence = format!(
        "{payments} payments are of orders that were paid or over, and differ: other orders with the same id. Compose it with what tells them \
         apart, such as the store and the date"
    );
    let has_store = context.sample.members.0.contains_key(&context.mapping.store);
    let change = (has_store && pointers.len() == 1 && pointers[0] != context.mapping.store).then(|| {
        pointers.insert(0, context.mapping.store.clone());
        Change::new("order", pointers)
    });
    Some(Finding::improvement("order-again", sentence, change.into_iter().collect()))
}
