//! The samples of each target, and the mapping that reads them.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use orderbell_consumers::{Record, TopicPartition};
use orderbell_orders::Mapping;
use orderbell_protocol::UnixMs;

/// The time of the samples.
pub(crate) const NOW: UnixMs = UnixMs(1_790_000_000_000);

/// Mappings of targets that are no recipes.
const MAPPINGS: [(&str, &str); 3] = [
    ("plain", "types = { PAID = 'order.paid', 'courier.moved' = 'ignore' }"),
    (
        "none",
        "envelope = 'none'\ntype = '/0/type'\nid = '/0/id'\norder = ['/0/shop/id', '/0/number']\nstore = '/0/shop/id'",
    ),
    (
        "canal-auto",
        "type = '/data/0/status'\norder = '/data/0/order_no'\nstore = '/data/0/shop'\ntime_zone = 'Asia/Shanghai'\n\
         types = { '2' = 'order.paid', '*' = 'ignore' }",
    ),
];

/// What is fuzzed together.
pub(crate) struct Target {
    pub(crate) mapping: Mapping,
    pub(crate) records: Vec<Record>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn stems(folder: &str, ending: &str) -> Vec<String> {
    let files = std::fs::read_dir(root().join(folder)).unwrap().map(|file| file.unwrap().path());
    let named = files.filter(|path| path.extension().is_some_and(|known| known == ending));
    named.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
}

/// Names of the recipes.
pub(crate) fn recipes() -> Vec<String> {
    stems("examples/mappings", "toml")
}

/// Names of the files of the corpus.
pub(crate) fn corpora() -> Vec<String> {
    stems("tests/fuzz/corpus", "jsonl")
}

fn record(value: &[u8], headers: &[(String, String)]) -> Record {
    Record {
        partition: TopicPartition::new("sample", 0),
        offset: 7,
        timestamp_ms: NOW.0,
        read_ms: NOW.0,
        key: None,
        value: Some(Bytes::copy_from_slice(value)),
        headers: headers.iter().map(|(name, text)| (name.clone(), Some(Bytes::from(text.clone())))).collect(),
    }
}

/// The headers in the command of a recipe: `--header NAME=VALUE`.
fn headers(recipe: &str) -> Vec<(String, String)> {
    let words = recipe.lines().filter(|line| line.starts_with('#')).flat_map(|line| line.split(" --header ").skip(1));
    let header = |word: &str| {
        let word = word.split(" --").next()?;
        word.trim().replace('"', "").split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    words.filter_map(header).collect()
}

pub(crate) fn target(name: &str) -> Target {
    let recipe =
        std::fs::read_to_string(root().join("examples/mappings").join(format!("{name}.toml"))).unwrap_or_default();
    let table: toml::Table = recipe.parse().unwrap();
    let mapping: Mapping = match (table.get("mapping"), MAPPINGS.iter().find(|(known, _)| *known == name)) {
        (Some(mapping), _) => mapping.clone().try_into().unwrap(),
        (None, Some((_, mapping))) => toml::from_str(mapping).unwrap(),
        (None, None) => panic!("{name} has no mapping"),
    };
    let files = [
        format!("examples/mappings/{name}.jsonl"),
        format!("examples/mappings/{name}.bin"),
        format!("tests/fuzz/corpus/{name}.jsonl"),
    ];
    let headers = headers(&recipe);
    let texts = files.iter().filter_map(|file| std::fs::read(root().join(file)).ok());
    let lines: Vec<Vec<u8>> =
        texts.flat_map(|text| text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>()).collect();
    let records = lines.iter().filter(|line| !line.is_empty()).map(|line| record(line, &headers)).collect();
    Target { mapping, records }
}
