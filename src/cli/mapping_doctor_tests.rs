use std::path::Path;

use orderbell_consumers::TopicPartition;

use super::super::mapping::{MappingCommand, try_records};
use super::*;

#[derive(clap::Parser)]
struct MappingLine {
    #[command(subcommand)]
    command: MappingCommand,
}

fn command(words: &[&str]) -> MappingCommand {
    let MappingLine { command } = clap::Parser::try_parse_from([&["mapping"], words].concat()).unwrap();
    command
}

fn record(partition: u32, offset: u64, timestamp_ms: i64) -> Record {
    let partition = TopicPartition::new("orders", partition);
    Record { partition, offset, timestamp_ms, read_ms: 0, key: None, value: None, headers: Default::default() }
}

#[test]
fn partitions_are_merged_by_time_and_none_changes_its_own_order() {
    // The clock of the second partition's producer went backwards.
    let all = [(0, 7, 10), (1, 1, 20), (1, 2, 5), (0, 8, 30), (1, 3, 40)];
    let places = |most| -> Vec<(u32, u64)> {
        let mut newest = NewestRecords::new(most);
        all.into_iter().for_each(|(partition, offset, at_ms)| newest.add(record(partition, offset, at_ms)));
        assert!(newest.count <= most);
        newest.in_order().iter().map(|record| (record.partition.number, record.offset)).collect()
    };
    assert_eq!(places(10), [(0, 7), (1, 1), (1, 2), (0, 8), (1, 3)]);
    assert_eq!(places(2), [(0, 8), (1, 3)], "the newest ones");
}

/// A configuration that was written to a file and loaded, as `config check` does.
fn loaded(dir: &Path, text: &str) -> Config {
    let path = dir.join("chain.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(Some(&path), &[]).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The configuration with the proposed lines in place of those with their keys.
fn with_lines(config: &str, report: &MappingReport) -> String {
    let mut all: toml::Table = config.parse().unwrap();
    let proposed: toml::Table = format!("{}\n{}", report.section, report.proposed.join("\n")).parse().unwrap();
    merge(&mut all, proposed);
    toml::to_string(&all).unwrap()
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            // Types are proposed as a whole.
            (Some(toml::Value::Table(known)), toml::Value::Table(new)) if key != "types" => merge(known, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// What is proposed for the sample, and what `mapping try` says of it with these lines.
fn proposed(config: &str, sample: &[u8], headers: &[&str]) -> (MappingReport, String, bool) {
    let dir = tempfile::tempdir().unwrap();
    let words = |name| [&[name, "sample.json"], headers].concat();
    let MappingCommand::Doctor { options } = command(&words("doctor")) else { panic!("it is examined") };
    let report = report(&loaded(dir.path(), config), &records_of(sample, &options));
    let config = loaded(dir.path(), &with_lines(config, &report));
    let MappingCommand::Try { options } = command(&[&words("try")[..], &["--at", "event"]].concat()) else {
        panic!("it is tried")
    };
    let (lines, summary, is_good) = try_records(&options, &config, sample, wall_clock());
    (report, format!("{}\n{summary}", lines.join("\n")), is_good)
}

/// Mappings that are wrong, with a sample each: what is proposed is accepted as a configuration, and then every order notifies its store.
#[test]
fn the_proposed_lines_are_accepted_and_the_sample_then_notifies() {
    let cases = [
        ("", r#"{"type":"order.paid","id":"e31","orderID":"o31","store":"17","amount":500}"#),
        (
            "",
            r#"{"specversion":"1.0","type":"order.paid","id":"e41","source":"/pos","subject":"17","data":{"orderId":"o41","store":"17","amount":500}}"#,
        ),
        ("", r#"{"type":"order.paid","id":"e71","order":"o71","shop_id":"17","amount":500}"#),
        ("[mapping]\nstore = '/shop_no'", r#"{"type":"order.paid","id":"e81","order":"o81","shop":"17","amount":500}"#),
        ("", r#"{"type":"PAY_SUCCESS","id":"e38","order":"o38","store":"17","amount":500}"#),
        (
            "[mapping]\ntypes = { REFUNDED = 'order.refunded' }",
            r#"{"type":"PAID","id":"e39","order":"o39","store":"17","amount":500}"#,
        ),
        ("", r#"{"trade":{"no":"o40","shop":{"id":"17"},"total":"12.50"},"event":"paid","msg_id":"m1"}"#),
    ];
    for (config, sample) in cases {
        let (report, said, is_good) = proposed(config, sample.as_bytes(), &[]);
        assert!(!report.is_good() && !report.proposed.is_empty(), "{sample}\n{report}");
        assert!(is_good && said.contains("store:17 is notified: new_order"), "{report}\n{said}");
    }
}

/// The samples of the recipes without these: what is proposed makes a mapping that works. What a number means as a type, a person says.
#[test]
fn the_samples_of_the_recipes_lead_to_mappings_that_work() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mappings");
    let spring = ["--header", "__TypeId__=com.shop.events.OrderPaid"];
    let raw = ["--header", "MT-MessageType=urn:message:Shop.Contracts:OrderPaid", "--header", "MessageId=m1"];
    let cases: [(&str, &str, &[&str]); 9] = [
        ("array", "", &[]),
        ("canal", "[mapping]\ntypes = { 2 = 'order.paid' }", &[]),
        ("cloudevents", "", &[]),
        ("debezium", "[mapping]\ntypes = { 0 = 'order.created', 2 = 'order.paid' }", &[]),
        ("debezium-flat", "", &[]),
        ("masstransit", "", &[]),
        ("masstransit-raw", "", &raw),
        ("maxwell", "", &[]),
        ("spring", "", &spring),
    ];
    for (name, config, headers) in cases {
        let sample = std::fs::read(folder.join(name).with_extension("jsonl")).unwrap();
        let (report, said, is_good) = proposed(config, &sample, headers);
        assert!(!report.is_good(), "{name}\n{report}");
        assert!(is_good && said.contains("store:17 is notified: new_order {\"amount\":"), "{name}\n{report}\n{said}");
    }
}

#[test]
fn the_example_in_the_documents_is_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sample = std::fs::read(root.join("examples/mappings/maxwell.jsonl")).unwrap();
    let (report, ..) = proposed("", &sample, &[]);
    let said = report.to_string();
    let found = said.find("found\n").map(|at| said[at..].trim_end()).unwrap();
    let document = std::fs::read_to_string(root.join("docs/connecting.md")).unwrap();
    assert!(document.contains(&format!("```text\n{found}\n```\n")), "docs/connecting.md does not have\n{found}");
}
