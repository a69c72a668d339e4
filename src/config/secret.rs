//! Values that no log and no error may show.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

/// What is printed in the place of a value.
const HIDDEN: &str = "***";

/// Names and values of which some are passwords, such as `sasl.password` among the properties of librdkafka.
///
/// Debug and serde show every value as `***`: which of librdkafka's many properties are secret is librdkafka's knowledge, not ours. Memory is
/// wiped when a value is dropped.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SecretMap(#[schemars(with = "BTreeMap<String, String>")] BTreeMap<String, SecretString>);

impl SecretMap {
    /// Plain copies, for the library that needs them. The one way to see a value.
    #[must_use]
    pub fn expose(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect()
    }

    fn hidden(&self) -> impl Iterator<Item = (&String, &'static str)> {
        self.0.keys().map(|name| (name, HIDDEN))
    }
}

impl FromIterator<(String, String)> for SecretMap {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(items: I) -> Self {
        Self(items.into_iter().map(|(name, value)| (name, value.into())).collect())
    }
}

/// A reload compares the old values with the new ones.
impl PartialEq for SecretMap {
    fn eq(&self, other: &Self) -> bool {
        let same = |((a, x), (b, y)): ((&String, &SecretString), (&String, &SecretString))| {
            a == b && x.expose_secret() == y.expose_secret()
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
}

impl Eq for SecretMap {}

impl fmt::Debug for SecretMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.hidden()).finish()
    }
}

impl Serialize for SecretMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.hidden())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_and_given_out_but_never_printed() {
        let map = |value: &str| SecretMap::from_iter([("sasl.password".to_owned(), value.to_owned())]);
        assert_eq!(map("S3CRET"), map("S3CRET"));
        assert_ne!(map("S3CRET"), map("other"));
        assert_eq!(map("S3CRET").expose()["sasl.password"], "S3CRET");
        for printed in [format!("{:?}", map("S3CRET")), serde_json::to_string(&map("S3CRET")).unwrap()] {
            assert_eq!(printed.replace(' ', ""), "{\"sasl.password\":\"***\"}");
        }
    }
}
