//! What a mapping does with each type of the chain's events: it is one of Orderbell's, or it is ignored.

use std::collections::BTreeMap;

use orderbell_protocol::{EventType, id_text};
use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

/// Code of the reason for which an ignored event is not decoded: no dead letter.
pub const IGNORED: &str = "ignored";
/// Name in the configuration of every type that is neither listed nor Orderbell's.
const EVERY_OTHER: &str = "*";
/// Value in the configuration: such events are counted and dropped.
const IGNORE: &str = "ignore";

/// What becomes of the events of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeRule {
    /// They are events of this type.
    Is(EventType),
    /// They are none of ours.
    Ignore,
}

impl TypeRule {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Is(kind) => kind.name(),
            Self::Ignore => IGNORE,
        }
    }
}

impl<'de> Deserialize<'de> for TypeRule {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        if name == IGNORE {
            return Ok(Self::Ignore);
        }
        EventType::named(&name).map(Self::Is).ok_or_else(|| {
            let known: Vec<String> = names().map(|name| format!("`{name}`")).collect();
            D::Error::custom(format!("`{name}` is no type of event, expected one of {}", known.join(", ")))
        })
    }
}

impl Serialize for TypeRule {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl schemars::JsonSchema for TypeRule {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TypeRule".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A type of Orderbell's events, or \"ignore\".",
            "type": "string",
            "enum": names().collect::<Vec<_>>(),
        })
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    EventType::ALL.into_iter().map(EventType::name).chain([IGNORE])
}

/// The rules of a mapping, by the chain's names of the types.
#[derive(schemars::JsonSchema, Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(try_from = "BTreeMap<String, TypeRule>", into = "BTreeMap<String, TypeRule>")]
#[schemars(with = "BTreeMap<String, TypeRule>")]
pub struct TypeRules(BTreeMap<String, TypeRule>);

impl TryFrom<BTreeMap<String, TypeRule>> for TypeRules {
    type Error = String;
    fn try_from(rules: BTreeMap<String, TypeRule>) -> Result<Self, String> {
        match rules.get(EVERY_OTHER) {
            // Whatever comes on the topic would be that event.
            Some(TypeRule::Is(kind)) => Err(format!(
                "`{EVERY_OTHER}` is every type that is not listed and can only be `{IGNORE}`, not {}",
                kind.name()
            )),
            _ => Ok(Self(rules)),
        }
    }
}

impl From<TypeRules> for BTreeMap<String, TypeRule> {
    fn from(rules: TypeRules) -> Self {
        rules.0
    }
}

impl TypeRules {
    /// True for a type that only the rule of every other type ignores.
    pub(super) fn ignores_unnamed(&self, name: &str) -> bool {
        self.listed(name).is_none() && self.rule(name) == Some(TypeRule::Ignore)
    }

    /// The rule that is listed for a type. A type that is a number is compared as ids are: `2.0`, which some databases and libraries write for 2, is 2.
    fn listed(&self, name: &str) -> Option<TypeRule> {
        let same = || self.0.iter().find(|(listed, _)| id_text::plain(listed) == id_text::plain(name));
        self.0.get(name).or_else(|| same().map(|(_, rule)| rule)).copied()
    }

    /// The rule for a type: its own, or else that of Orderbell's type with this name, or else that of every other type. `None` for a type that
    /// nobody knows, and for another spelling of a payment: it is not foreign.
    pub(super) fn rule(&self, name: &str) -> Option<TypeRule> {
        let known = self.listed(name).or_else(|| EventType::named(name).map(TypeRule::Is));
        known.or_else(|| self.0.get(EVERY_OTHER).copied().filter(|_| !self.is_payment_spelt_otherwise(name)))
    }

    /// True for a type that is not known, and whose letters and digits are those of a payment's in another case or between other signs. Both have a
    /// letter: -2 is no spelling of 2.
    pub(super) fn is_payment_spelt_otherwise(&self, name: &str) -> bool {
        let listed = self.0.iter().filter(|(_, rule)| **rule == TypeRule::Is(EventType::Paid)).map(|(name, _)| &**name);
        let is_known = || self.listed(name).is_some() || EventType::named(name).is_some();
        let is_one = |known: &str| symbols(known).eq(symbols(name));
        name.contains(char::is_alphabetic) && listed.chain([EventType::Paid.name()]).any(is_one) && !is_known()
    }
}

impl TypeRules {
    /// True for a type that nobody knows, and that is one of a payment but for the names in front of it or a version behind it: `com.shop.order.paid`,
    /// `order.paid.v2`. It may as well be another system's, so the rule of every other type may ignore it.
    pub(super) fn is_payment_of_another_version(&self, name: &str) -> bool {
        let named = parts_without_version(name);
        // A single word may be the end of anything.
        let is_one = |known: &str| {
            let known = parts_without_version(known);
            known.len() > 1 && named.ends_with(&known)
        };
        let listed = self.0.iter().filter(|(_, rule)| **rule == TypeRule::Is(EventType::Paid)).map(|(name, _)| &**name);
        self.rule(name).is_none() && listed.chain([EventType::Paid.name()]).any(is_one)
    }
}

/// The parts of a name in lower case, without a version at its end.
fn parts_without_version(name: &str) -> Vec<String> {
    let mut parts: Vec<String> = name.to_lowercase().split(['.', '/', ':']).map(str::to_owned).collect();
    let is_version = |part: &String| {
        let digits = part.strip_prefix('v').unwrap_or(part);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    parts.pop_if(|part| is_version(part));
    parts
}

/// The letters and digits of a name, in lower case.
fn symbols(name: &str) -> impl Iterator<Item = char> {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_spelt_otherwise(types: &str, name: &str) -> bool {
        let types: TypeRules = toml::from_str(types).unwrap();
        types.is_payment_spelt_otherwise(name)
    }

    #[test]
    fn a_payment_in_another_case_or_with_other_signs_between_is_another_spelling() {
        for name in ["Order.Paid", "ORDER_PAID", "order-paid", "OrderPaid", "order/paid", "order paid"] {
            assert!(is_spelt_otherwise("", name), "{name}");
        }
        assert!(is_spelt_otherwise("PAID = 'order.paid'", "paid"));
        assert!(is_spelt_otherwise("'\u{5df2}-\u{652f}\u{4ed8}' = 'order.paid'", "\u{5df2}\u{652f}\u{4ed8}"));
        for (types, name) in [
            ("", "order.paid"),
            ("", "unpaid"),
            ("", "order.paid.v1"),
            ("", "com.shop.order.paid"),
            ("", "Order.Created"),
            ("PAID = 'order.paid'", "UNPAID"),
            ("2 = 'order.paid'", "-2"),
            ("A2 = 'order.paid'", "2"),
            ("PAID = 'ignore'", "paid"),
            ("PAID = 'order.paid'\npaid = 'ignore'", "paid"),
        ] {
            assert!(!is_spelt_otherwise(types, name), "{types} {name}");
        }
    }

    /// The bug: the status 2 of a row was not known where it was written `2.0`, and ignored with all that is foreign.
    #[test]
    fn a_number_is_the_same_type_with_zeros_behind_a_point() {
        let types: TypeRules = toml::from_str("'*' = 'ignore'\n2 = 'order.paid'\n'3.0' = 'order.created'").unwrap();
        for name in ["2", "2.0", "2.00", " 2"] {
            assert_eq!(types.rule(name), Some(TypeRule::Is(EventType::Paid)), "{name}");
        }
        assert_eq!(types.rule("3"), Some(TypeRule::Is(EventType::Created)));
        for name in ["2.5", "20", "2.0.0", "2e0"] {
            assert_eq!(types.rule(name), Some(TypeRule::Ignore), "{name}");
            assert!(types.ignores_unnamed(name), "{name}");
        }
        assert!(!types.ignores_unnamed("2.0"));
    }

    #[test]
    fn a_payment_may_have_names_in_front_of_it_and_a_version_behind_it() {
        let is_one =
            |types: &str, name: &str| toml::from_str::<TypeRules>(types).unwrap().is_payment_of_another_version(name);
        for name in
            ["order.paid.v2", "order.paid.2", "com.shop.order.paid", "com.shop.Order.Paid.v1", "shop/order.paid"]
        {
            assert!(is_one("", name), "{name}");
        }
        assert!(is_one("'trade.paid' = 'order.paid'", "trade.paid.v2"));
        assert!(is_one("'trade.settled.v1' = 'order.paid'", "com.shop.trade.settled.v2"));
        for (types, name) in [
            ("", "order.paid"),
            ("", "order.paid.failed"),
            ("", "reorder.paid"),
            ("", "invoice.paid"),
            ("", "order.unpaid.v2"),
            ("PAID = 'order.paid'", "invoice.PAID"),
            ("'*' = 'ignore'", "hr.order.paid"),
            ("'order.paid.v2' = 'order.paid'", "order.paid.v2"),
            ("'order.paid.v1' = 'ignore'", "order.paid.v1"),
        ] {
            assert!(!is_one(types, name), "{types} {name}");
        }
    }

    #[test]
    fn another_spelling_of_a_payment_is_not_foreign() {
        let types: TypeRules = toml::from_str("'*' = 'ignore'\nPAID = 'order.paid'\nSCANNED = 'ignore'").unwrap();
        for name in ["Order.Paid", "paid"] {
            assert_eq!(types.rule(name), None, "{name}");
        }
        for name in ["courier.moved", "scanned", "UNPAID", "ORDER_CREATED"] {
            assert_eq!(types.rule(name), Some(TypeRule::Ignore), "{name}");
        }
    }
}
