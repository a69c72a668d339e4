//! Findings about types: where they are, which the mapping lists, and which it ignores.

use std::collections::BTreeMap;

use orderbell_protocol::EventType;
use serde_json::{Map, Value};

use super::super::event_types::TypeRule;
use super::super::mapping::Mapping;
use super::member_roles::{MemberRole, candidates};
use super::proposal::Change;
use super::type_words::{Meaning, is_quotable, meaning};
use super::{Context, Finding};

/// Events without a type, where another member has one.
pub(super) fn type_elsewhere(context: &Context<'_>) -> Option<Finding> {
    let events = &context.sample.events;
    // The type of a CloudEvent is its attribute, wherever the pointer leads.
    let in_envelope = events.iter().filter(|event| event.is_in_envelope && event.kind.is_some()).count();
    let is_known = |kind: &str| context.mapping.types.rule(kind).is_some();
    let known = events.iter().filter(|event| event.kind.as_deref().is_some_and(is_known)).count();
    if events.is_empty() || known * 2 >= events.len() || in_envelope * 2 >= events.len() {
        return None;
    }
    let without = events.iter().filter(|event| event.kind.is_none()).count();
    let stages = |texts: &BTreeMap<String, u64>| -> u64 {
        let is_stage = |name: &str| is_known(name) || matches!(meaning(name), Meaning::Stage(_));
        texts.iter().filter(|(name, _)| is_stage(name)).map(|(_, count)| count).sum()
    };
    let current = context.sample.members.0.get(&context.mapping.r#type).map_or(0, |member| stages(&member.texts));
    let all = candidates(MemberRole::Type, context.sample);
    let best = all.iter().filter(|one| one.is_named && one.pointer != context.mapping.r#type);
    // Of several members, the one whose values are stages of an order.
    let Some(best) = best.rev().max_by_key(|one| stages(&one.member.texts)) else {
        return (without > 0).then(|| {
            let (all, at) = (events.len(), &context.mapping.r#type);
            let sentence = format!(
                "{without} of {all} events have no type at {at}, and no member looks like one: let the producer write it, as a member or as a header"
            );
            Finding::note("no-type", sentence)
        });
    };
    if stages(&best.member.texts) <= current && without * 2 < events.len() {
        return None;
    }
    let sentence = format!(
        "{known} of {} events have a type at {} that the mapping lists; {} looks like the type",
        events.len(),
        context.mapping.r#type,
        best.pointer
    );
    Some(Finding::fix("type-elsewhere", sentence, vec![Change::new("type", best.pointer)]))
}

/// Types that `"*" = "ignore"` drops, although their names say a stage of an order.
pub(super) fn ignored_stages(context: &Context<'_>) -> Option<Finding> {
    let types = &context.mapping.types;
    let mut ignored: BTreeMap<&str, (EventType, u64)> = BTreeMap::new();
    for kind in context.sample.events.iter().filter_map(|event| event.kind.as_deref()) {
        if types.ignores_unnamed(kind)
            && let Meaning::Stage(stage) = meaning(kind)
        {
            ignored.entry(kind).or_insert((stage, 0)).1 += 1;
        }
    }
    ignored.retain(|name, (_, count)| is_quotable(name, *count));
    if ignored.is_empty() {
        return None;
    }
    let events: u64 = ignored.values().map(|(_, count)| count).sum();
    let names: Vec<String> = ignored.iter().map(|(name, (stage, _))| format!("{name} ({})", stage.name())).collect();
    let sentence = format!(
        "\"*\" ignores {events} events of types whose names say a stage of an order: {}; list those that are one",
        names.join(", ")
    );
    // Beside other payments it may be meant: one system says that it was paid, another that its money came.
    if context.replayed.numbers.paid_orders > 0 {
        return Some(Finding::note("ignored-stage", sentence));
    }
    let rules = ignored.into_iter().map(|(name, (stage, _))| (name.to_owned(), TypeRule::Is(stage)));
    Some(Finding::fix("ignored-stage", sentence, vec![with_rules(context.mapping, rules)]))
}

/// The rules of the mapping, and these.
fn with_rules(mapping: &Mapping, more: impl IntoIterator<Item = (String, TypeRule)>) -> Change {
    let mut rules: BTreeMap<String, TypeRule> = mapping.types.clone().into();
    rules.extend(more);
    let rules = rules.into_iter().map(|(name, rule)| (name, Value::from(rule.name())));
    Change::new("types", Value::Object(rules.collect::<Map<_, _>>()))
}

/// A sample that shows nothing of what matters.
pub(super) fn no_payment(context: &Context<'_>) -> Option<Finding> {
    let numbers = &context.replayed.numbers;
    (numbers.paid_orders == 0).then(|| {
        let what = if numbers.rejected() > 0 { "became a paid order" } else { "is a payment" };
        Finding::note("no-payment", format!("no event of the sample {what}: it does not show that stores are notified"))
    })
}

/// True where the name of some type says that it is a payment.
fn has_payment(context: &Context<'_>) -> bool {
    let types = &context.mapping.types;
    let is_one = |name: &str| match types.rule(name) {
        Some(rule) => rule == TypeRule::Is(EventType::Paid),
        None => meaning(name) == Meaning::Stage(EventType::Paid),
    };
    context.sample.events.iter().filter_map(|event| event.kind.as_deref()).any(is_one)
}

/// Types that the mapping does not list.
pub(super) fn unknown_types(context: &Context<'_>) -> Option<Finding> {
    let mut unknown: BTreeMap<&str, u64> = BTreeMap::new();
    for kind in context.sample.events.iter().filter_map(|event| event.kind.as_deref()) {
        if context.mapping.types.rule(kind).is_none() {
            *unknown.entry(kind).or_default() += 1;
        }
    }
    if unknown.is_empty() {
        return None;
    }
    let events: u64 = unknown.values().sum();
    let has_payment = has_payment(context);
    let (mut rules, mut named, mut without_stage, mut unclear) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (name, count) in &unknown {
        let rule = match meaning(name) {
            _ if !is_quotable(name, *count) => None,
            Meaning::Stage(kind) => Some(TypeRule::Is(kind)),
            // Where nothing is a payment, this may be one.
            Meaning::Other if has_payment => Some(TypeRule::Ignore),
            Meaning::Other | Meaning::Unclear => None,
        };
        match rule {
            Some(rule) => {
                if rule == TypeRule::Ignore {
                    without_stage.push(*name);
                }
                rules.push(((*name).to_owned(), rule));
            }
            None => unclear.push(*name),
        }
        if is_quotable(name, *count) {
            named.push(*name);
        }
    }
    let names = if named.is_empty() { String::new() } else { format!(" ({})", named.join(", ")) };
    let mut sentence = format!("{events} events have types that the mapping does not list{names}: dead letters");
    if !without_stage.is_empty() {
        let names = without_stage.join(", ");
        sentence
            .push_str(&format!("; be sure that these are none of an order's stages before you ignore them: {names}"));
    }
    if !unclear.is_empty() {
        sentence.push_str(&format!(
            "; {} of these types say nothing of a stage: list them yourself, such as types = {{ \"TYPE\" = \"order.paid\" }} for the one that means paid, and examine the records again",
            unclear.len()
        ));
    }
    let changes = if rules.is_empty() { Vec::new() } else { vec![with_rules(context.mapping, rules)] };
    Some(Finding::fix("unknown-types", sentence, changes))
}
