//! The doctor of a mapping: reads a sample of records, and says what is wrong with the mapping and which lines would correct it.
//!
//! ```text
//!   records --Sample--> events and statistics of their members --rules--> findings, each with lines --replay--> lines that make nothing worse
//! ```
//!
//! A rule looks at the sample as the mapping sees it, after the lines of the rules before it were accepted: an order can be looked for once the
//! type is understood. Lines are accepted where the sample, run with them, loses and rejects no more than before. The report quotes nothing but
//! the names of members, types and sources: what an id looks like is a shape, and no value of a customer, amount or text is in it.
//!
//! Refused: lines by statistics alone. A channel repeats as a store does, and a wrong line is worse than none.

mod clocks;
mod fields;
mod identity;
mod member_roles;
mod member_stats;
mod proposal;
mod replay;
mod report;
mod sample;
mod traffic;
mod type_words;
mod types;

use std::collections::BTreeMap;

use orderbell_consumers::Record;
use orderbell_protocol::UnixMs;
use serde_json::Value;

use super::event_types::IGNORED;
use super::mapping::Mapping;
use super::order::OrderPolicy;
use super::sample_run::quietly;
use member_roles::{MemberRole, candidates};
use member_stats::shape;
use proposal::{Change, pointers_of};
use replay::{EventOutcome, Replayed, replay};
use sample::Sample;

pub use report::{ClockRow, DeadLetterCount, MappingFinding, MappingReport, MemberRow, SampleNumbers, TypeRow};

/// Types that are listed: with more, the member is none of a type.
const MAX_TYPE_ROWS: usize = 40;
/// Members that are listed for each role, besides the one that the mapping has.
const MAX_CANDIDATES: usize = 2;

/// What a rule looks at.
struct Context<'a> {
    mapping: &'a Mapping,
    sample: &'a Sample,
    replayed: &'a Replayed,
}

/// What a rule finds.
struct Finding {
    code: &'static str,
    sentence: String,
    changes: Vec<Change>,
    /// The changes are proposed only where they make something better.
    must_improve: bool,
}

impl Finding {
    /// Something to know, with nothing to change.
    fn note(code: &'static str, sentence: impl Into<String>) -> Self {
        Self::fix(code, sentence, Vec::new())
    }

    /// Changes that are proposed unless they make something worse.
    fn fix(code: &'static str, sentence: impl Into<String>, changes: Vec<Change>) -> Self {
        Self { code, sentence: sentence.into(), changes, must_improve: false }
    }

    /// Changes that are proposed if they make something better.
    fn improvement(code: &'static str, sentence: impl Into<String>, changes: Vec<Change>) -> Self {
        Self { must_improve: true, ..Self::fix(code, sentence, changes) }
    }
}

type Rule = fn(&Context<'_>) -> Option<Finding>;

/// Every rule, in an order in which each can build on the lines of those before it.
const RULES: [Rule; 23] = [
    fields::table_of_database,
    traffic::several_events,
    traffic::unnamed_envelope,
    traffic::flattened_without_op,
    types::type_elsewhere,
    types::unknown_types,
    types::ignored_stages,
    identity::order_missing,
    fields::store_missing,
    identity::subject_is_store,
    identity::key_is,
    identity::id_missing,
    identity::id_is_order,
    identity::version_of_schema,
    identity::numbers_begin_again,
    fields::padded_ids,
    fields::clocks_off,
    fields::time_unusable,
    fields::local_times,
    fields::amount_unread,
    fields::code_of_type,
    fields::customer_missing,
    types::no_payment,
];

/// The sample under the mapping with the lines that were accepted so far.
struct Examination<'a> {
    records: &'a [Record],
    policy: &'a OrderPolicy,
    now: UnixMs,
    mapping: Mapping,
    sample: Sample,
    replayed: Replayed,
    accepted: Vec<Change>,
}

impl<'a> Examination<'a> {
    fn new(records: &'a [Record], mapping: Mapping, policy: &'a OrderPolicy, now: UnixMs) -> Self {
        let sample = Sample::read(records, &mapping, now);
        let replayed = replay(&sample.parts, &mapping, policy, now);
        Self { records, policy, now, mapping, sample, replayed, accepted: Vec::new() }
    }

    /// Applies a rule, and accepts its lines if the sample is no worse with them.
    fn apply(&mut self, rule: Rule) -> Option<MappingFinding> {
        let context = Context { mapping: &self.mapping, sample: &self.sample, replayed: &self.replayed };
        let Finding { code, sentence, changes, must_improve } = quietly(|| rule(&context))?;
        let mut finding = MappingFinding { code, sentence, lines: Vec::new() };
        if changes.is_empty() {
            return Some(finding);
        }
        let Some(mapping) = proposal::apply(&self.mapping, &changes) else { return Some(finding) };
        let next = Self::new(self.records, mapping, self.policy, self.now);
        let is_accepted = next.replayed.is_no_worse_than(&self.replayed)
            && (!must_improve || next.replayed.is_better_than(&self.replayed));
        if is_accepted {
            finding.lines = changes.iter().map(Change::line).collect();
            let mut accepted = std::mem::take(&mut self.accepted);
            changes.into_iter().for_each(|change| proposal::merge(&mut accepted, change));
            *self = Self { accepted, ..next };
        }
        Some(finding)
    }
}

/// How a mapping fits the records of one topic, which stand in the order in which they are to be applied. A record without a time stamp, as from a
/// file, is as old as its event says; `now` tells plausible times from others.
#[must_use]
pub fn examine(records: &[Record], mapping: &Mapping, policy: &OrderPolicy, now: UnixMs) -> MappingReport {
    let others: Vec<Record> = records.iter().filter(|record| !mapping.is_own(record)).cloned().collect();
    let topic = others.first().map(|record| &*record.partition.topic).unwrap_or_default();
    let (mut examined, section) = match mapping.topics.get(topic) {
        Some(own) => (own.clone(), format!("[mapping.topics.{}]", Value::from(topic))),
        None => (mapping.clone(), String::from("[mapping]")),
    };
    examined.topics.clear();
    let mut examination = Examination::new(&others, examined.clone(), policy, now);
    let types = type_rows(&examination);
    let clocks = clocks::clocks(&examination.sample, &examination.mapping);
    let (envelopes, numbers) = (examination.sample.envelopes.clone(), examination.replayed.numbers.clone());
    let findings: Vec<MappingFinding> = RULES.into_iter().filter_map(|rule| examination.apply(rule)).collect();
    let proposed: Vec<String> = examination.accepted.iter().map(Change::line).collect();
    MappingReport {
        records: others.len() as u64,
        own_records: (records.len() - others.len()) as u64,
        envelopes,
        types,
        members: member_rows(&examination.sample, &examined),
        clocks,
        numbers,
        findings,
        section,
        numbers_with_proposed: (!proposed.is_empty()).then(|| examination.replayed.numbers.clone()),
        proposed,
    }
}

fn type_rows(examination: &Examination<'_>) -> Vec<TypeRow> {
    let mut rows: BTreeMap<&str, TypeRow> = BTreeMap::new();
    for event in &examination.sample.events {
        let Some(kind) = event.kind.as_deref() else { continue };
        let becomes = match examination.mapping.kind(kind) {
            Ok(kind) => Some(kind.name()),
            Err(reason) => (reason.code == IGNORED).then_some("ignore"),
        };
        let row = TypeRow { name: String::new(), events: 0, becomes, notifying: 0, rejected: 0 };
        let row = rows.entry(kind).or_insert(row);
        row.events += 1;
        let outcome = examination.replayed.outcomes.get(event.part);
        row.notifying += u64::from(outcome == Some(&EventOutcome::Notifies));
        row.rejected += u64::from(outcome == Some(&EventOutcome::Rejected));
    }
    let is_listed = |kind: &str| examination.mapping.types.rule(kind).is_some();
    let named = |(kind, row): (&str, TypeRow)| {
        let is_quoted = is_listed(kind) || type_words::is_quotable(kind, row.events);
        TypeRow { name: if is_quoted { kind.to_owned() } else { shape(kind) }, ..row }
    };
    let mut rows: Vec<TypeRow> = rows.into_iter().map(named).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.events));
    rows.truncate(MAX_TYPE_ROWS);
    rows
}

fn member_rows(sample: &Sample, mapping: &Mapping) -> Vec<MemberRow> {
    let mut rows = Vec::new();
    for role in MemberRole::ALL {
        let known = pointers_of(mapping, role.word());
        let row = |pointer: &str, member: &member_stats::Member, is_mapped, is_named| MemberRow {
            role: role.word(),
            pointer: pointer.to_owned(),
            is_mapped,
            is_named,
            events: member.count() as u64,
            distinct: member.distinct() as u64,
            shape: member.shape().to_owned(),
        };
        let mapped = known.iter().filter_map(|pointer| Some((pointer, sample.members.0.get(pointer)?)));
        rows.extend(mapped.map(|(pointer, member)| row(pointer, member, true, false)));
        let others = candidates(role, sample).into_iter().filter(|one| known.iter().all(|at| at != one.pointer));
        rows.extend(others.take(MAX_CANDIDATES).map(|one| row(one.pointer, one.member, false, one.is_named)));
    }
    rows
}

#[cfg(test)]
mod tests;
