//! Reads only the members of a record that its mapping names, as the producer wrote them.
//!
//! A number stays the text that it was: built into a value, `12.50` becomes 12.5, and an order's number of more than 64 bits loses digits. The
//! parser skips all other members, and nothing is allocated for them. The poll thread needs an order's id to choose its queue, and the shard
//! decodes the record afterwards: [`Places`] keep for the shard what was found, so nothing is read again.
//!
//! Whatever [`Value::pointer`](serde_json::Value::pointer) finds in a built value is found here, too: of members with the same name the last one
//! counts. Pointers that lead into a string are followed by [`unfolded`], for which a text is written and read once more: only where it is needed.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json_text;

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

    /// Adds a pointer that leads nowhere in a text: only [`Members::set`] lets it lead somewhere.
    pub(super) fn add_without_place(&mut self, pointer: &str) {
        if !self.pointers.iter().any(|known| known == pointer) {
            self.pointers.push(pointer.to_owned());
        }
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
    leads_into_text: bool,
}

impl<'p, 'j> Members<'p, 'j> {
    /// Reads what the pointers lead to.
    ///
    /// # Errors
    /// The text is not JSON.
    pub(super) fn read(json: &'j [u8], tree: &'p PointerTree) -> serde_json::Result<Self> {
        #[cfg(test)]
        TEXTS_PARSED.set(TEXTS_PARSED.get() + 1);
        let mut found = Found { at: vec![None; tree.pointers.len()], leads_into_text: false };
        let mut parser = serde_json::Deserializer::from_slice(json);
        Pull { node: Some(&tree.root), found: &mut found }.deserialize(&mut parser)?;
        parser.end()?;
        Ok(Self { tree, found: found.at, leads_into_text: found.leads_into_text })
    }

    /// What was found in a text before.
    pub(super) fn at_places(text: &'j str, places: &Places, tree: &'p PointerTree) -> Self {
        let mut found = vec![None; tree.pointers.len()];
        for Place { pointer, start, end } in &places.found {
            if let Some(at) = found.get_mut(*pointer as usize) {
                *at = text.get(*start as usize..*end as usize);
            }
        }
        Self { tree, found, leads_into_text: places.leads_into_text }
    }

    /// Where in the text that was read all that was found stands.
    pub(super) fn places(&self, text: &str) -> Places {
        let place = |(pointer, json): (usize, &Option<&str>)| {
            let json = json.filter(|json| *json != "null")?;
            let start = json.as_ptr().addr() - text.as_ptr().addr();
            let [pointer, start, end] = [pointer, start, start + json.len()].map(|number| u32::try_from(number).ok());
            Some(Place { pointer: pointer?, start: start?, end: end? })
        };
        Places {
            found: self.found.iter().enumerate().filter_map(place).collect(),
            leads_into_text: self.leads_into_text,
        }
    }

    /// True where a string stands at a place that pointers lead on from: it may hold the JSON of a form's field or of a database's column.
    pub(super) fn leads_into_text(&self) -> bool {
        self.leads_into_text
    }

    /// Lets one of the pointers of the tree lead to another JSON text.
    pub(super) fn set(&mut self, pointer: &str, json: &'j str) {
        if let Some(index) = self.tree.pointers.iter().position(|known| known == pointer) {
            self.found[index] = Some(json);
        }
    }

    /// The JSON text at one of the pointers of the tree; `None` where nothing is, or `null`.
    pub(super) fn at(&self, pointer: &str) -> Option<&'j str> {
        let index = self.tree.pointers.iter().position(|known| known == pointer)?;
        self.found[index].filter(|json| *json != "null")
    }
}

/// Where in a text the members stand that the pointers of a tree lead to.
#[derive(Clone, Debug)]
pub(super) struct Places {
    found: Box<[Place]>,
    leads_into_text: bool,
}

/// What the pointer with this index leads to: from the byte `start` of the text to the byte before `end`.
#[derive(Clone, Copy, Debug)]
struct Place {
    pointer: u32,
    start: u32,
    end: u32,
}

impl Places {
    /// Those of a text.
    ///
    /// # Errors
    /// The text is not JSON.
    pub(super) fn read(text: &str, tree: &PointerTree) -> serde_json::Result<Self> {
        Ok(Members::read(text.as_bytes(), tree)?.places(text))
    }

    /// As [`Members::leads_into_text`].
    pub(super) fn leads_into_text(&self) -> bool {
        self.leads_into_text
    }

    /// The bytes that they hold.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.found)
    }
}

#[cfg(test)]
thread_local! {
    /// Texts that this thread has parsed: what a record costs.
    pub(super) static TEXTS_PARSED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// What was found so far, by the index of the pointer.
struct Found<'j> {
    at: Vec<Option<&'j str>>,
    leads_into_text: bool,
}

/// Reads one value, which is at `node`: nothing is wanted of it if there is none.
struct Pull<'p, 'f, 'j> {
    node: Option<&'p Node>,
    found: &'f mut Found<'j>,
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
        self.found.at[end] = Some(json);
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

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        let may_lead_on = self.node.is_some_and(|node| !node.children.is_empty());
        self.found.leads_into_text |= may_lead_on && text.trim_start().starts_with(['{', '[']);
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
                found.at[*at] = None;
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

/// The text with the JSON of each string at a place that pointers lead on from in place of the string, and whether that JSON was damaged; `None`
/// where there is no such string.
pub(super) fn unfolded(json: &str, tree: &PointerTree) -> Option<(String, bool)> {
    let (mut out, mut change) = (String::with_capacity(json.len()), Unfolded::default());
    unfold(json.trim(), &tree.root, &mut out, &mut change)?;
    change.is_changed.then_some((out, change.is_repaired))
}

#[derive(Default)]
struct Unfolded {
    is_changed: bool,
    is_repaired: bool,
}

/// Goes no deeper than the pointers do.
fn unfold(json: &str, node: &Node, out: &mut String, change: &mut Unfolded) -> Option<()> {
    let mut separator = "";
    let mut separate = |out: &mut String| out.push_str(std::mem::replace(&mut separator, ","));
    match json.as_bytes().first()? {
        _ if node.children.is_empty() => out.push_str(json),
        b'{' => {
            out.push('{');
            for (name, value) in serde_json::from_str::<BTreeMap<String, &RawValue>>(json).ok()? {
                separate(out);
                out.push_str(&json_text::quoted(&name));
                out.push(':');
                match node.member(&name) {
                    Some(node) => unfold(value.get(), node, out, change)?,
                    None => out.push_str(value.get()),
                }
            }
            out.push('}');
        }
        b'[' => {
            out.push('[');
            for (index, value) in serde_json::from_str::<Vec<&RawValue>>(json).ok()?.into_iter().enumerate() {
                separate(out);
                match node.item(index) {
                    Some(node) => unfold(value.get(), node, out, change)?,
                    None => out.push_str(value.get()),
                }
            }
            out.push(']');
        }
        b'"' => {
            let inner = json_text::read(json.as_bytes()).ok();
            let inner = inner.filter(|inner| serde_json::from_str::<&RawValue>(&inner.text).is_ok());
            match inner.filter(|inner| inner.text.starts_with(['{', '['])) {
                Some(inner) => {
                    change.is_changed = true;
                    change.is_repaired |= inner.is_repaired;
                    unfold(inner.text.trim(), node, out, change)?;
                }
                None => out.push_str(json),
            }
        }
        _ => out.push_str(json),
    }
    Some(())
}

/// The pointer to a member of the top level, or the pointer itself.
pub(super) fn pointer_to(name: &str) -> String {
    if name.starts_with('/') { name.to_owned() } else { format!("/{}", name.replace('~', "~0").replace('/', "~1")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, pointers: &[&str]) -> Vec<Option<String>> {
        let tree = PointerTree::new(pointers.iter().copied());
        let members = Members::read(json.as_bytes(), &tree).unwrap();
        let unfolded = members.leads_into_text().then(|| unfolded(json, &tree)).flatten();
        let text = unfolded.as_ref().map_or(json, |(text, _)| text);
        let members = Members::read(text.as_bytes(), &tree).unwrap();
        pointers.iter().map(|pointer| members.at(pointer).map(str::to_owned)).collect()
    }

    fn one(json: &str, pointer: &str) -> Option<String> {
        read(json, &[pointer]).remove(0)
    }

    /// Forms, columns and some platforms hold JSON in a text.
    #[test]
    fn a_pointer_leads_on_into_json_in_a_text() {
        let message = r#"{"type":10,"message":"{\"order\":\"o1\",\"total\":18.50,\"items\":[{\"name\":\"n\"}]}"}"#;
        assert_eq!(one(message, "/message/order").as_deref(), Some("\"o1\""));
        assert_eq!(one(message, "/message/total").as_deref(), Some("18.50"), "no digit changes");
        assert_eq!(one(message, "/message/items/0/name").as_deref(), Some("\"n\""));
        assert_eq!(one(message, "/message/other"), None);
        assert!(one(message, "/message").unwrap().starts_with("\"{"), "what is not led into stays a text");
        let array = r#"{"rows":["[{\"id\":1}]","x"],"last":{"a":" {\"b\":2} "}}"#;
        assert_eq!(read(array, &["/rows/0/0/id", "/last/a/b"]), [Some("1".into()), Some("2".into())]);
        for no_json in [r#"{"a":"{b"}"#, r#"{"a":"text"}"#, r#"{"a":"7"}"#, r#"{"a":7}"#] {
            assert_eq!(one(no_json, "/a/b"), None, "{no_json}");
        }
        let deep = format!("{{\"a\":{}}}", serde_json::to_string(&"[".repeat(500)).unwrap());
        assert_eq!(one(&deep, "/a/0"), None, "too deep to be read");
    }

    #[test]
    fn damage_in_such_a_text_is_said() {
        let tree = PointerTree::new(["/a/b"]);
        let (text, is_repaired) = unfolded(r#"{"a":"{\"b\":NaN}"}"#, &tree).unwrap();
        assert_eq!((text.as_str(), is_repaired), (r#"{"a":{"b":null}}"#, true));
        assert_eq!(unfolded(r#"{"a":{"b":1}}"#, &tree), None);
    }
}
