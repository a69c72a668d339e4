//! Lines of configuration: how they change a mapping, and how they are written.

use serde_json::Value;

use super::super::mapping::Mapping;

/// A key of the mapping with another value.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) key: &'static str,
    pub(super) value: Value,
}

impl Change {
    pub(super) fn new(key: &'static str, value: impl Into<Value>) -> Self {
        Self { key, value: value.into() }
    }

    /// The line of TOML.
    pub(super) fn line(&self) -> String {
        format!("{} = {}", self.key, toml(&self.value))
    }
}

/// A pointer that leads nowhere: the event has no such member.
pub(super) const NOWHERE: &str = "/none";

/// The mapping with these changes; `None` where the configuration would not take them.
pub(super) fn apply(mapping: &Mapping, changes: &[Change]) -> Option<Mapping> {
    let mut json = serde_json::to_value(mapping).ok()?;
    let keys = json.as_object_mut()?;
    for change in changes {
        keys.insert(change.key.to_owned(), change.value.clone());
    }
    let mut changed: Mapping = serde_json::from_value(json).ok()?;
    changed.chain_currency.clone_from(&mapping.chain_currency);
    changed.own_topic.clone_from(&mapping.own_topic);
    Some(changed)
}

/// Adds a change, in place of an earlier one of the same key.
pub(super) fn merge(changes: &mut Vec<Change>, change: Change) {
    match changes.iter_mut().find(|known| known.key == change.key) {
        Some(known) => known.value = change.value,
        None => changes.push(change),
    }
}

/// A value as TOML. The escapes of a JSON string are those of a TOML string.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let pair = |(name, value): (&String, &Value)| format!("{} = {}", Value::from(name.as_str()), toml(value));
            format!("{{ {} }}", members.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        scalar => scalar.to_string(),
    }
}

/// The pointers of a key that has one or several.
pub(super) fn pointers_of(mapping: &Mapping, key: &str) -> Vec<String> {
    let json = serde_json::to_value(mapping).expect("a mapping that was read can be written");
    match json.get(key) {
        Some(Value::String(pointer)) => vec![pointer.clone()],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}
