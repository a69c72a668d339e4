//! What the doctor says of a mapping: for people by `Display`, for programs by serde.
//!
//! It quotes no value of an event but the names of types and sources. Ids appear as shapes.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::super::order::Unannounced;
use super::clocks::in_words;

/// What becomes of the events of a sample under a mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SampleNumbers {
    /// Events, each row of a record and each item of an array for itself.
    pub events: u64,
    /// Events that notify somebody.
    pub notifying: u64,
    /// Events that notify nobody.
    pub silent: u64,
    /// Events that the configuration ignores, and records that are no events.
    pub ignored: u64,
    /// Dead letters by the code of their reason.
    pub dead_letters: BTreeMap<&'static str, DeadLetterCount>,
    /// Orders by their ids.
    pub orders: u64,
    /// Orders that came as far as their payment.
    pub paid_orders: u64,
    /// Orders of which their store is notified.
    pub announced_orders: u64,
    /// Paid orders of which no store is notified, by reason.
    pub unannounced: BTreeMap<&'static str, u64>,
}

/// Dead letters with one code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadLetterCount {
    /// The sentence of the first one.
    pub message: String,
    /// How many there are.
    pub count: u64,
    /// How many are paid orders by their type, or may be.
    pub may_be_paid: u64,
}

impl SampleNumbers {
    pub(super) fn rejected(&self) -> u64 {
        self.dead_letters.values().map(|dead_letters| dead_letters.count).sum()
    }

    /// Events that are applied to an order.
    pub(super) fn understood(&self) -> u64 {
        self.notifying + self.silent
    }

    /// Paid orders, and what may be one, of which no store is notified.
    pub(super) fn lost_orders(&self) -> u64 {
        self.unannounced.values().sum::<u64>() + self.dead_letters.values().map(|all| all.may_be_paid).sum::<u64>()
    }
}

/// What the mapping does with the events of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeRow {
    /// The producer's name, or its shape where it may be something else than a name.
    pub name: String,
    /// Events of this type.
    pub events: u64,
    /// Orderbell's type, `ignore`, or nothing where the mapping lists it not.
    pub becomes: Option<&'static str>,
    /// Events that notify somebody.
    pub notifying: u64,
    /// Events that become dead letters.
    pub rejected: u64,
}

/// A member that is used as something, or may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberRow {
    /// The key of the mapping.
    pub role: &'static str,
    /// Where the member is.
    pub pointer: String,
    /// The mapping has it there.
    pub is_mapped: bool,
    /// Its name says so; otherwise its values alone do.
    pub is_named: bool,
    /// Events that have it.
    pub events: u64,
    /// Different values.
    pub distinct: u64,
    /// The form of most values, with 9 for each digit and `a` or `A` for each letter.
    pub shape: String,
}

/// The clock of a producer that is off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClockRow {
    /// The source of the events, which without one is the topic.
    pub source: String,
    /// Time of the events minus that of their records. Milliseconds.
    pub offset_ms: i64,
    /// The times are local ones, which `time_zone` says how to read.
    pub is_local: bool,
    /// Events with this offset.
    pub events: u64,
    /// Events of this source that state a time.
    pub of_events: u64,
}

impl ClockRow {
    pub(super) fn sentence(&self) -> String {
        let Self { source, events, of_events, .. } = self;
        let offset = in_words(self.offset_ms);
        format!("the clock of {source} is {offset} its records in {events} of {of_events} events")
    }
}

/// Something that is wrong, or should be known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MappingFinding {
    /// A word for programs.
    pub code: &'static str,
    /// A sentence for people.
    pub sentence: String,
    /// Lines of TOML that correct it. The sample was run with them and is no worse.
    pub lines: Vec<String>,
}

/// How a mapping fits a sample of records.
#[derive(Clone, Debug, Serialize)]
pub struct MappingReport {
    /// Records of the sample that others wrote.
    pub records: u64,
    /// Records that Orderbell wrote, which no mapping concerns.
    pub own_records: u64,
    /// What the records are, with their numbers.
    pub envelopes: BTreeMap<&'static str, u64>,
    /// The types, the most frequent first.
    pub types: Vec<TypeRow>,
    /// Members and what they may be.
    pub members: Vec<MemberRow>,
    /// Clocks that are off.
    pub clocks: Vec<ClockRow>,
    /// What becomes of the events now.
    pub numbers: SampleNumbers,
    /// What was found, in the order in which it matters.
    pub findings: Vec<MappingFinding>,
    /// The section of the configuration that the proposed lines belong to.
    pub section: String,
    /// All proposed lines.
    pub proposed: Vec<String>,
    /// What would become of the events with these lines; nothing where there are none.
    pub numbers_with_proposed: Option<SampleNumbers>,
}

impl MappingReport {
    /// True where no paid order is lost and nothing is rejected.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.numbers.lost_orders() == 0 && self.numbers.rejected() == 0
    }
}

impl fmt::Display for SampleNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.notifying, "notify somebody"),
            (self.silent, "notify nobody"),
            (self.ignored, "are ignored"),
            (self.rejected(), "become dead letters"),
        ];
        let counts: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        let counts = if counts.is_empty() { String::from("none does anything") } else { counts.join(", ") };
        write!(f, "of {} events, {counts}", self.events)?;
        write!(f, "; of {} paid orders, {} notify their store", self.paid_orders, self.announced_orders)?;
        for (code, dead_letters) in &self.dead_letters {
            let DeadLetterCount { message, count, may_be_paid } = dead_letters;
            write!(f, "\n  dead letters: {count} {code}, {message}; {may_be_paid} are or may be paid orders")?;
        }
        for reason in Unannounced::ALL {
            if let Some(count) = self.unannounced.get(reason.word()) {
                write!(f, "\n  notifies no store: {}", reason.sentence(*count))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for MappingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let envelopes: Vec<String> = self.envelopes.iter().map(|(name, count)| format!("{count} {name}")).collect();
        writeln!(f, "{} records: {}", self.records, envelopes.join(", "))?;
        if self.own_records > 0 {
            writeln!(f, "{} more were written by Orderbell and are left out", self.own_records)?;
        }
        self.write_types(f)?;
        self.write_members(f)?;
        if !self.findings.is_empty() {
            writeln!(f, "\nfound")?;
        }
        for (at, finding) in self.findings.iter().enumerate() {
            writeln!(f, "  {}. {}", at + 1, finding.sentence)?;
            finding.lines.iter().try_for_each(|line| writeln!(f, "     {line}"))?;
        }
        writeln!(f, "\nas it is: {}", self.numbers)?;
        if let Some(numbers) = &self.numbers_with_proposed {
            writeln!(
                f,
                "\nproposed; read each line before you put it in the place of yours with its key:\n{}",
                self.section
            )?;
            self.proposed.iter().try_for_each(|line| writeln!(f, "{line}"))?;
            writeln!(f, "\nwith these lines: {numbers}")?;
        }
        Ok(())
    }
}

impl MappingReport {
    fn write_types(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.types.is_empty() {
            writeln!(f, "\ntypes")?;
        }
        for TypeRow { name, events, becomes, notifying, rejected } in &self.types {
            let becomes = becomes.unwrap_or("not listed");
            write!(f, "  {events:>6} {name:<28} {becomes:<18} {notifying} notify somebody")?;
            if *rejected > 0 {
                write!(f, ", {rejected} become dead letters")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn write_members(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.members.is_empty() {
            writeln!(f, "\nmembers")?;
        }
        for row in &self.members {
            let MemberRow { role, pointer, events, distinct, shape, .. } = row;
            let why = match (row.is_mapped, row.is_named) {
                (true, _) => "is the mapping's",
                (false, true) => "may be, by its name",
                (false, false) => "may be, by its values",
            };
            writeln!(f, "  {role:<12} {pointer:<28} {why:<22} in {events} events, {distinct} different, as {shape}")?;
        }
        Ok(())
    }
}
