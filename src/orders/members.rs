//! Reads only the members of a record that its mapping names, as the producer wrote them.
//!
//! A number stays the text that it was: built into a value, `12.50` becomes 12.5, and an order's number of more than 64 bits loses digits. The
//! parser skips all other members, and nothing is allocated for them. The poll thread needs an order's id to choose its queue, and the shard
//! decodes the record afterwards: both read the same way, so both find the same id.
//!
//! Whatever [`Value::pointer`](serde_json::Value::pointer) finds in a built value is found here, too: of members with the same name the last one
//! counts.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// RFC 6901 pointers as a tree of the names that they go through, made once for many texts: a text is read without a search or an allocation for
/// each of its members.
#[derive(Clone, Debug, Default)]
pub(super) struct PointerTree {
    pointers: Vec<String>,
    root: Node,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// Index of the pointer that ends here.
    end: Option<usize>,
    /// Indexes of the pointers that end here or further down.
    ends_below: Vec<usize>,
    children: Vec<(String, Self)>,
}

impl PointerTree {
    /// A pointer that does not begin with a slash leads nowhere, unless it is empty.
    pub(super) fn new(pointers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut tree = Self::default();
        for pointer in pointers {
            let pointer = pointer.into();
            if !tree.pointers.contains(&pointer) {
                tree.add(pointer);
            }
        }
        tree
    }

    fn add(&mut self, pointer: String) {
        let index = self.pointers.len();
        if pointer.is_empty() || pointer.starts_with('/') {
            let mut node = &mut self.root;
            node.ends_below.push(index);
            for token in pointer.split('/').skip(1) {
                let name = token.replace("~1", "/").replace("~0", "~");
                let at = node.children.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                    node.children.push((name, Node::default()));
                    node.children.len() - 1
                });
                node = &mut node.children[at].1;
                node.ends_below.push(index);
            }
            node.end = Some(index);
        }
        self.pointers.push(pointer);
    }
}

impl Node {
    fn member(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|(known, _)| known == name).map(|(_, node)| node)
    }

    fn item(&self, index: usize) -> Option<&Self> {
        self.children.iter().find(|(token, _)| is_index(token, index)).map(|(_, node)| node)
    }
}

/// What the pointers of a tree lead to in one JSON text.
#[derive(Clone, Debug)]
pub(super) struct Members<'p, 'j> {
    tree: &'p PointerTree,
    found: Vec<Option<&'j str>>,
}

impl<'p, 'j> Members<'p, 'j> {
    /// Reads what the pointers lead to.
    ///
    /// # Errors
    /// The text is not JSON.
    pub(super) fn read(json: &'j [u8], tree: &'p PointerTree) -> serde_json::Result<Self> {
        let mut found = vec![None; tree.pointers.len()];
        let mut parser = serde_json::Deserializer::from_slice(json);
        Pull { node: Some(&tree.root), found: &mut found }.deserialize(&mut parser)?;
        parser.end()?;
        Ok(Self { tree, found })
    }

    /// The JSON text at one of the pointers of the tree; `None` where nothing is, or `null`.
    pub(super) fn at(&self, pointer: &str) -> Option<&'j str> {
        let index = self.tree.pointers.iter().position(|known| known == pointer)?;
        self.found[index].filter(|json| *json != "null")
    }
}

/// Reads one value, which is at `node`: nothing is wanted of it if there is none.
struct Pull<'p, 'f, 'j> {
    node: Option<&'p Node>,
    found: &'f mut [Option<&'j str>],
}

fn is_index(token: &str, index: usize) -> bool {
    let is_canonical = !token.starts_with('+') && (!token.starts_with('0') || token.len() == 1);
    is_canonical && token.parse() == Ok(index)
}

impl<'de> DeserializeSeed<'de> for Pull<'_, '_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let Some(node) = self.node else { return from.deserialize_ignored_any(IgnoredAny).map(|_| ()) };
        let Some(end) = node.end else { return from.deserialize_any(self) };
        let json = <&'de RawValue>::deserialize(from)?.get();
        self.found[end] = Some(json);
        if node.children.is_empty() {
            return Ok(());
        }
        serde_json::Deserializer::from_str(json).deserialize_any(self).map_err(D::Error::custom)
    }
}

impl<'de> Visitor<'de> for Pull<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    // A scalar has nothing below it.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { node, found } = self;
        let mut index = 0;
        let item = |index| node.and_then(|node| node.item(index));
        while items.next_element_seed(Pull { node: item(index), found: &mut *found })?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { node, found } = self;
        while let Some(node) = members.next_key_seed(Name(node))? {
            // The last of several members with this name counts, with all that is in it.
            for at in node.map_or(&[][..], |node| &node.ends_below) {
                found[*at] = None;
            }
            members.next_value_seed(Pull { node, found: &mut *found })?;
        }
        Ok(())
    }
}

/// Reads the name of a member of the object at a node into the node of the member.
struct Name<'p>(Option<&'p Node>);

impl<'de, 'p> DeserializeSeed<'de> for Name<'p> {
    type Value = Option<&'p Node>;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'p> Visitor<'_> for Name<'p> {
    type Value = Option<&'p Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.and_then(|node| node.member(name)))
    }
}

/// The pointer to a member of the top level, or the pointer itself.
pub(super) fn pointer_to(name: &str) -> String {
    if name.starts_with('/') { name.to_owned() } else { format!("/{}", name.replace('~', "~0").replace('/', "~1")) }
}
