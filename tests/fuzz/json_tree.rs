//! JSON as a tree that keeps what a value does not: the order of members, members with the same name, and the digits of numbers.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// Anything without members or items, as it is written; it may also be no JSON at all.
    Scalar(String),
    Array(Vec<Self>),
    Object(Vec<(String, Self)>),
}

struct Members<'j>(Vec<(String, &'j RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(member) = members.next_entry()? {
                    all.push(member);
                }
                Ok(Members(all))
            }
        }
        from.deserialize_map(All)
    }
}

impl Node {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str::<&RawValue>(text).ok().map(|json| Self::of(json.get()))
    }

    fn of(json: &str) -> Self {
        if let Ok(Members(members)) = serde_json::from_str(json) {
            return Self::Object(members.into_iter().map(|(name, json)| (name, Self::of(json.get()))).collect());
        }
        match serde_json::from_str::<Vec<&RawValue>>(json) {
            Ok(items) => Self::Array(items.into_iter().map(|json| Self::of(json.get())).collect()),
            Err(_) => Self::Scalar(json.to_owned()),
        }
    }

    pub(crate) fn count(&self) -> usize {
        1 + self.below().map(Self::count).sum::<usize>()
    }

    fn below(&self) -> Box<dyn Iterator<Item = &Self> + '_> {
        match self {
            Self::Scalar(_) => Box::new(std::iter::empty()),
            Self::Array(items) => Box::new(items.iter()),
            Self::Object(members) => Box::new(members.iter().map(|(_, node)| node)),
        }
    }

    /// The node with this number: itself is 0, then what is below it.
    pub(crate) fn nth(&self, number: usize) -> Option<&Self> {
        if number == 0 {
            return Some(self);
        }
        let mut left = number - 1;
        for node in self.below() {
            let count = node.count();
            if left < count {
                return node.nth(left);
            }
            left -= count;
        }
        None
    }

    pub(crate) fn nth_mut(&mut self, number: usize) -> Option<&mut Self> {
        if number == 0 {
            return Some(self);
        }
        let mut left = number - 1;
        let below: Box<dyn Iterator<Item = &mut Self> + '_> = match self {
            Self::Scalar(_) => return None,
            Self::Array(items) => Box::new(items.iter_mut()),
            Self::Object(members) => Box::new(members.iter_mut().map(|(_, node)| node)),
        };
        for node in below {
            let count = node.count();
            if left < count {
                return node.nth_mut(left);
            }
            left -= count;
        }
        None
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        match self {
            Self::Scalar(text) => f.write_str(text),
            Self::Array(items) => {
                f.write_str("[")?;
                for item in items {
                    write!(f, "{separator}{item}")?;
                    separator = ",";
                }
                f.write_str("]")
            }
            Self::Object(members) => {
                f.write_str("{")?;
                for (name, node) in members {
                    write!(f, "{separator}{}:{node}", serde_json::to_string(name).map_err(|_| fmt::Error)?)?;
                    separator = ",";
                }
                f.write_str("}")
            }
        }
    }
}

#[test]
fn a_tree_is_written_as_it_was_read() {
    let text = r#"{"a":1.50,"b":[{"a":1},[],null],"a":"x\u0041","":{}}"#;
    let tree = Node::parse(text).unwrap();
    assert_eq!((tree.to_string().as_str(), tree.count()), (text, 9));
    let all: Vec<String> = (0..9).map(|number| tree.nth(number).unwrap().to_string()).collect();
    assert_eq!(all[1..], ["1.50", r#"[{"a":1},[],null]"#, r#"{"a":1}"#, "1", "[]", "null", r#""x\u0041""#, "{}"]);
    assert_eq!((tree.nth(9), Node::parse("{")), (None, None));
}
