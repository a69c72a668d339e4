//! What is printed of the keys: a commented default file, and a JSON Schema for editors.
//!
//! Both come from the types in [`super::keys`]: descriptions are their doc comments, values their defaults, and `# reload` is the half that a
//! key belongs to. A key without a default, such as the section `kafka`, is printed as a comment with an example value.

use serde_json::Value as Json;
use toml::{Table, Value};

use super::keys::{ConfigFile, KafkaConfig, RELOAD_MARK};

/// Width of a comment.
const WIDTH: usize = 110;

const HEAD: &str = "\
# Orderbell's configuration: every key with its default. An unknown key is a mistake.
# Durations are written \"250ms\", \"30s\", \"72h\"; sizes \"512MiB\".
# A key or section marked `# reload` is read again on SIGHUP; every other key takes effect at the next start.
# Environment variables override the file: ORDERBELL__SESSIONS__MAX_IN_FLIGHT=32.

";

/// The JSON Schema of the file.
#[must_use]
pub fn schema() -> Json {
    schemars::schema_for!(ConfigFile).to_value()
}

/// The default file.
#[must_use]
pub fn template() -> String {
    let schema = schema();
    let printer = Printer { schema: &schema, defaults: table(&ConfigFile::default()) };
    let mut out = String::from(HEAD);
    printer.print(&toml_of(&example()), &mut out);
    out
}

/// The defaults, and an example value for every key that has none.
fn example() -> ConfigFile {
    let kafka = KafkaConfig {
        bootstrap: "kafka-1:9092,kafka-2:9092".into(),
        topics: vec!["orders".into()],
        group: "orderbell".into(),
        output_topic: Some("orderbell.events".into()),
        cluster: Some("chain".into()),
        oauth_token_file: Some("/run/orderbell/token".into()),
        oauth_token_command: vec!["/usr/local/bin/kafka-token".into()],
        properties: Default::default(),
    };
    let mut file = ConfigFile { kafka: Some(kafka), ..ConfigFile::default() };
    file.wall.time_zone = String::from("Asia/Shanghai").try_into().ok();
    file.wall.max_viewers_per_token = Some(1_000);
    file.wall.stores = Some("stores.csv".into());
    file.tokens.jwks_file = Some("/etc/orderbell/jwks.json".into());
    file.tokens.jwks_url = "https://id.example.com/.well-known/jwks.json".parse().ok();
    file
}

fn toml_of(file: &ConfigFile) -> String {
    toml::to_string(file).expect("strings, numbers and lists: nothing that TOML cannot say")
}

fn table(file: &ConfigFile) -> Table {
    toml::from_str(&toml_of(file)).expect("what was written as TOML")
}

struct Printer<'a> {
    schema: &'a Json,
    defaults: Table,
}

impl Printer<'_> {
    /// Goes through the text of the example, whose keys stand in the order of their declaration, one on each line.
    fn print(&self, example: &str, out: &mut String) {
        let mut section: Vec<&str> = Vec::new();
        for line in example.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name.split('.').collect();
                out.push('\n');
                self.entry(&section, line, out);
            } else if let Some((key, _)) = line.split_once(" = ") {
                let path: Vec<&str> = section.iter().copied().chain([key]).collect();
                self.entry(&path, line, out);
            }
        }
    }

    /// The description, then the line; as a comment when the defaults do not have the key.
    fn entry(&self, path: &[&str], line: &str, out: &mut String) {
        let property = self.property(path);
        let described = property.and_then(|property| property["description"].as_str()).unwrap_or_default();
        // Links of rustdoc mean nothing here.
        let described = described.replace("[`", "`").replace("`]", "`");
        let choices = property.map(|property| self.choices(property)).unwrap_or_default();
        for paragraph in format!("{described}{choices}").split("\n\n") {
            comment(paragraph, out);
        }
        let is_default = lookup(&self.defaults, path).is_some();
        let reload = property.is_some_and(|property| property[RELOAD_MARK] == true);
        out.push_str(if is_default { "" } else { "# " });
        out.push_str(line);
        out.push_str(if reload { "  # reload\n" } else { "\n" });
    }

    /// What the schema says of a key.
    fn property(&self, path: &[&str]) -> Option<&Json> {
        let mut at = self.schema;
        for key in path {
            at = resolve(self.schema, at)["properties"].get(*key)?;
        }
        Some(at)
    }

    /// The values of an enumeration, as a sentence.
    fn choices(&self, property: &Json) -> String {
        let values = resolve(self.schema, property)["oneOf"].as_array().into_iter().flatten();
        let values: Vec<String> = values.filter_map(|one| one.get("const")).map(Json::to_string).collect();
        if values.is_empty() { String::new() } else { format!(" One of {}.", values.join(", ")) }
    }
}

/// Follows a reference in the schema, also of a section that may be left out.
pub(super) fn resolve<'a>(schema: &'a Json, at: &'a Json) -> &'a Json {
    let optional = at["anyOf"].get(0).unwrap_or(at);
    let target = optional["$ref"].as_str().and_then(|name| schema.pointer(name.strip_prefix('#')?));
    target.unwrap_or(optional)
}

fn lookup<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |at, key| at.get(*key))
}

/// Adds a text as comment lines.
fn comment(text: &str, out: &mut String) {
    let mut width = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if width == 0 || width + 1 + length > WIDTH {
            out.push_str(if width == 0 { "#" } else { "\n#" });
            width = 1;
        }
        out.push(' ');
        out.push_str(word);
        width += 1 + length;
    }
    if width > 0 {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::config::Config;

    /// The printed file with the keys that are comments because they have no default.
    fn uncommented(text: &str) -> String {
        let line = |line: &str| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with('[') && rest.trim_end().ends_with(']') => rest.to_owned(),
            Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => rest.to_owned(),
            _ => line.to_owned(),
        };
        text.lines().map(|text| line(text) + "\n").collect()
    }

    #[test]
    fn the_printed_defaults_are_the_defaults() {
        let printed: ConfigFile = toml::from_str(&template()).unwrap();
        assert_eq!(format!("{:?}", Config::from(printed)), format!("{:?}", Config::default()));
    }

    /// Each key of the types stands in the printed file once, and nothing else stands there.
    #[test]
    fn every_key_is_printed_and_nothing_else() {
        fn known(schema: &Json, at: &Json, path: &str, keys: &mut BTreeSet<String>) {
            for (key, property) in resolve(schema, at)["properties"].as_object().into_iter().flatten() {
                let name = format!("{path}{key}");
                known(schema, property, &format!("{name}."), keys);
                keys.insert(name);
            }
        }
        fn printed(table: &Table, path: &str, keys: &mut BTreeSet<String>) {
            for (key, value) in table {
                keys.insert(format!("{path}{key}"));
                if let Value::Table(inner) = value {
                    printed(inner, &format!("{path}{key}."), keys);
                }
            }
        }
        let (mut of_types, mut in_file) = (BTreeSet::new(), BTreeSet::new());
        known(&schema(), &schema(), "", &mut of_types);
        printed(&toml::from_str(&uncommented(&template())).unwrap(), "", &mut in_file);
        assert_eq!(in_file, of_types);
        assert!(of_types.len() > 60 && of_types.contains("kafka.properties") && of_types.contains("wall.stores"));
    }

    /// What a SIGHUP changes, as OPERATING.md lists it: keys, and sections with the keys that wait for a start.
    fn reloadable() -> String {
        let schema = schema();
        let members = |at: &Json| -> BTreeMap<String, Json> {
            let all = resolve(&schema, at)["properties"].as_object().into_iter().flatten();
            all.map(|(key, property)| (key.clone(), property.clone())).collect()
        };
        let name = |(key, property): (String, Json)| {
            let inner = members(&property);
            if !property[RELOAD_MARK].is_null() {
                let shown = if inner.is_empty() { format!("`{key}`") } else { format!("`[{key}]`") };
                return (property[RELOAD_MARK] == true).then_some(shown);
            }
            let waits = inner.into_iter().filter(|(_, property)| property[RELOAD_MARK] == false);
            let waits: Vec<_> = waits.map(|(key, _)| format!("`{key}`")).collect();
            Some(if waits.is_empty() { format!("`[{key}]`") } else { format!("`[{key}]` except {}", waits.join(", ")) })
        };
        members(&schema).into_iter().filter_map(name).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_operators_guide_lists_what_a_reload_changes() {
        let guide = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("OPERATING.md");
        let guide = std::fs::read_to_string(guide).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        let sentence = format!("with `# reload`: {}.", reloadable());
        assert!(guide.contains(&sentence), "OPERATING.md, Reload, does not say: {sentence}");
        assert!(sentence.contains("`[sessions]` except `max_connections`, `stale_after`"), "{sentence}");
    }

    #[test]
    fn every_key_is_described_and_says_whether_a_reload_changes_it() {
        let text = template();
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.contains(" = ") && !line.starts_with("# ")) {
            assert!(lines[at - 1].starts_with("# "), "{line}");
        }
        for wanted in [
            "max_in_flight = 64  # reload\n",
            "max_connections = 15000\n",
            "[tokens]  # reload\n",
            "# [kafka]\n",
            "One of \"any\"",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in:\n{text}");
        }
        assert_eq!(schema()["additionalProperties"], false);
    }
}
