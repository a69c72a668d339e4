//! What a mapping does with each type of the chain's events: it is one of Orderbell's, or it is ignored.

use std::collections::BTreeMap;

use orderbell_protocol::EventType;
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
    fn name(self) -> &'static str {
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
    /// The rule for a type: its own, or else that of Orderbell's type with this name, or else that of every other type. `None` for a type that
    /// nobody knows.
    pub(super) fn rule(&self, name: &str) -> Option<TypeRule> {
        let own = self.0.get(name).copied();
        own.or_else(|| EventType::named(name).map(TypeRule::Is)).or_else(|| self.0.get(EVERY_OTHER).copied())
    }
}
