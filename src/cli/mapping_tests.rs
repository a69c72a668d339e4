use super::*;

const NOW: UnixMs = UnixMs(1_790_000_000_000);

fn sample_record(topic: &str, offset: u64, value: &str) -> Record {
    Record {
        partition: TopicPartition::new(topic, 0),
        offset,
        timestamp_ms: NOW.0,
        read_ms: 0,
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Default::default(),
    }
}

/// What is said of each line of a history, and of all.
fn tried(config: &str, lines: &[&str]) -> (Vec<String>, (String, bool)) {
    tried_on(SAMPLE_TOPIC, config, lines)
}

fn tried_on(topic: &str, config: &str, lines: &[&str]) -> (Vec<String>, (String, bool)) {
    let mapping: Mapping = toml::from_str(config).unwrap();
    let policy = OrderPolicy { retention_ms: 86_400_000, ..OrderPolicy::default() };
    let mut history = History::new(&mapping, &policy, NOW);
    let record = |(at, value): (usize, &&str)| Record {
        timestamp_ms: NOW.0 - (lines.len() - 1 - at) as i64,
        ..sample_record(topic, at as u64, value)
    };
    let said = lines.iter().enumerate().map(record).map(|record| history.add(&record)).collect();
    (said, history.summary())
}

#[track_caller]
fn says(text: &str, wanted: &str) {
    assert!(text.contains(wanted), "{wanted} is not in:\n{text}");
}

#[test]
fn a_record_is_shown_as_event_and_notices_or_with_the_reason_of_its_rejection() {
    let (said, (summary, is_good)) = tried(
        "types = { PAY_SUCCESS = 'order.paid', 'courier.moved' = 'ignore' }",
        &[
            r#"{"type":"PAY_SUCCESS","order":"o1","store":"17","amount":5}"#,
            r#"{"type":"order.paid","order":"o2","store":"17","amount":"12,50"}"#,
            r#"{"type":"EATEN"}"#,
            r#"{"type":"order.paid","order":{}}"#,
            "type=paid",
            r#"{"type":"courier.moved"}"#,
        ],
    );
    says(&said[0], "\"type\": \"order.paid\"");
    says(&said[0], "\nas the first event of its order: moved\n  store:17 is notified: new_order {\"amount\":5");
    says(&said[1], "\n/amount: the amount has a comma");
    says(&said[1], "\n/time: the event has no time\n");
    assert!(said[2].starts_with("rejected: unknown-type: "), "{}", said[2]);
    assert!(said[2].ends_with("\n  notifies nobody: it becomes a dead letter"), "{}", said[2]);
    says(&said[3], "it becomes a dead letter, and an alert: it is a paid order");
    says(&said[4], "it becomes a dead letter, and an alert: it may be a paid order");
    assert_eq!(said[5], "ignored: the configuration ignores the type courier.moved: notifies nobody");
    assert_eq!(summary, "of the records, 2 notify somebody, 1 are ignored, 3 would become dead letters");
    assert!(!is_good);
}

#[test]
fn the_events_of_a_record_are_shown_one_by_one_and_with_their_envelope() {
    let mapping: Mapping = toml::from_str(
        "type = '/data/0/status'\norder = '/data/0/no'\nstore = '/data/0/shop'\ntypes = { 2 = 'order.paid' }",
    )
    .unwrap();
    let policy = OrderPolicy { retention_ms: 86_400_000, ..OrderPolicy::default() };
    let mut history = History::new(&mapping, &policy, NOW);
    let mut add = |value: &str| history.add_all(&sample_record(SAMPLE_TOPIC, 0, value));
    let rows =
        add(r#"{"isDdl":false,"data":[{"no":"o1","shop":"17","status":"2"},{"no":"o2","shop":"18","status":"2"}]}"#);
    assert_eq!(
        rows[0],
        "envelope: a message of canal with 2 rows, each an event with its row at /data/0; \"canal\" lets pointers lead into the row"
    );
    says(&rows[1], "store:17 is notified: new_order");
    says(&rows[2], "store:18 is notified: new_order");
    let change = add(r#"{"isDdl":true,"data":null}"#);
    assert_eq!(change[0], "ignored: the record is a message of canal without a row, not an event: notifies nobody");
    assert_eq!(history.summary(), ("of the records, 2 notify somebody, 1 are ignored".into(), true));
    let mut history = History::new(&mapping, &policy, NOW);
    let array = history.add_all(&sample_record(SAMPLE_TOPIC, 0, r#"[{"data":[{"no":"o1"}]},{}]"#));
    assert_eq!((array.len(), array[0].as_str()), (3, "envelope: an array of 2 events, each a record of its own"));
    assert!(!history.summary().1);
}

#[test]
fn an_event_that_notifies_nobody_says_why() {
    let renamed = r#"{"type":"order.paid","id":"e71","order":"o71","shop_id":"17","amount":500}"#;
    let (said, (summary, is_good)) = tried("", &[renamed]);
    says(&said[0], ": moved\n  notifies nobody: no store at /store");
    assert_eq!(summary, "of the records, 1 notify nobody; 1 orders are paid, and no store is notified of them");
    assert!(!is_good);
    let at = |ms: i64| NOW.0 - ms;
    let old = format!(r#"{{"type":"order.paid","order":"o1","store":"17","time":{}}}"#, at(3 * 3_600_000 + 600_000));
    let (said, (summary, is_good)) = tried("", &[&old]);
    says(&said[0], "\n  notifies nobody: the event is too old to notify");
    says(&summary, "1 orders are paid, and no store is notified of them; 1 orders were paid too long ago to notify");
    assert!(!is_good, "an expired notice rings no till");
    let forgotten = format!(r#"{{"type":"order.paid","order":"o1","store":"17","time":{}}}"#, at(2 * 86_400_000));
    says(&tried("", &[&forgotten]).0[0], "notifies nobody: the order is unknown, and the event is older");
    let accepted = r#"{"type":"order.accepted","order":"o1","store":"17"}"#;
    let (said, _) = tried("", &[accepted]);
    says(&said[0], "store:17 is notified: order_accepted");
    says(&said[0], "\n  waits with a notice: no customer at /customer");
    let accepted = r#"{"type":"order.accepted","order":"o1","store":"17","customer":"c1"}"#;
    says(&tried("", &[accepted]).0[0], "\n  waits with a notice: no pickup code at /pickup_code");
    says(
        &tried("", &[r#"{"type":"order.created","order":"o1"}"#]).0[0],
        "notifies nobody: no event of the type order.created does",
    );
}

#[test]
fn a_file_is_one_history_in_its_order() {
    let event = |kind: &str, id: &str, more: &str| format!(r#"{{"type":"{kind}","id":"{id}","order":"o1"{more}}}"#);
    let paid = event("order.paid", "2", "");
    let lines = [
        event("order.created", "1", ""),
        paid.clone(),
        paid,
        event("order.created", "3", r#","store":"17""#),
        event("order.cancelled", "4", ""),
        event("order.ready", "5", ""),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let (said, (summary, is_good)) = tried("", &lines);
    says(&said[0], "as the first event of its order: moved");
    says(&said[1], "after the events above: moved\n  notifies nobody: no store at /store");
    says(&said[2], "duplicate\n  notifies nobody: the same event came before");
    says(&said[3], "stale\n  store:17 is notified: new_order");
    says(&said[4], "moved\n  store:17 is notified: cancelled");
    says(&said[5], "stale\n  notifies nobody: the order had come further or had ended");
    assert_eq!(summary, "of the records, 2 notify somebody, 4 notify nobody");
    assert!(is_good, "the store was named in the end");
}

/// Regression: order numbers that begin again each day: the second order was stale, and all seemed well.
#[test]
fn a_payment_of_a_second_order_with_the_same_number_is_named() {
    let event = |kind: &str, id: &str, amount: u32| {
        format!(r#"{{"type":"order.{kind}","id":"{id}","order":"0001","store":"17","amount":{amount}}}"#)
    };
    let lines =
        [event("paid", "a1", 500), event("paid", "x1", 700), event("picked_up", "a4", 500), event("paid", "b1", 500)];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let (said, (summary, is_good)) = tried("", &lines);
    says(&said[1], "notifies nobody, and an alert: the order is paid already, and the two payments differ");
    says(
        &said[3],
        "stale\n  notifies nobody, and an alert: the order had been picked up or had ended before this payment",
    );
    says(&said[3], r#"order = ["/shop/id", "/date", "/number"]"#);
    says(&summary, "; 2 payments may be of other orders that have the same id");
    assert!(!is_good);
}

#[test]
fn the_mapping_of_one_topic_is_tried_by_its_name() {
    let text =
        "[mapping.topics.payments]\norder = \"/order_no\"\nstore = \"/shop\"\ntypes = { SUCCESS = \"order.paid\" }\n";
    let config = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), &[]).unwrap()
    };
    let record = r#"{"type":"SUCCESS","id":"e39","order_no":"o39","shop":"17","amount":500}"#;
    let mapping = toml::to_string(&config(text).boot.mapping).unwrap();
    says(&tried_on("payments", &mapping, &[record]).0[0], "store:17 is notified: new_order");
    says(&tried(&mapping, &[record]).0[0], "rejected: unknown-type");
    let note = topic_note(&config(text), None).unwrap();
    assert_eq!(note, "[mapping] is tried; --topic NAME tries that of a topic with a mapping of its own: payments");
    assert_eq!(topic_note(&config(text), Some("payments")), None);
    assert_eq!(topic_note(&config(""), None), None);
    says(&topic_note(&config(text), Some("orders")).unwrap(), "orders has no mapping of its own");
    let kafka = "[kafka]\nbootstrap = \"a:1\"\ntopics = [\"orders\"]\n";
    says(&topic_note(&config(kafka), Some("order")).unwrap(), "order is none of kafka.topics");
}

#[test]
fn a_cancelled_order_of_which_nobody_knew_notifies_nobody() {
    let cancelled = r#"{"type":"order.cancelled","order":"o1","store":"17"}"#;
    let (said, (_, is_good)) = tried("", &[cancelled]);
    says(
        &said[0],
        "moved\n  notifies nobody: its recipients have this notice already, or were never notified of the order",
    );
    assert!(is_good);
}

#[derive(clap::Parser)]
struct TryLine {
    #[command(subcommand)]
    command: MappingCommand,
}

/// Regression: tried by hand, the samples of the recipes were too old on every day but their own.
#[test]
fn a_sample_of_another_day_is_read_when_its_events_happened() {
    let paid = r#"{"type":"order.paid","id":"e1","order":"o1","store":"17","time":"2020-05-04T10:00:00Z"}"#;
    let said = |words: &[&str]| {
        let words = [&["mapping", "try", "sample.json"], words].concat();
        let TryLine { command } = clap::Parser::try_parse_from(words).unwrap();
        let MappingCommand::Try { options } = command else { panic!("it is tried") };
        let config = Config::load(None, &[]).unwrap();
        let (lines, summary, _) = try_records(&options, &config, paid.as_bytes(), NOW);
        format!("{}\n{summary}", lines.join("\n"))
    };
    says(&said(&[]), "notifies nobody: the order is unknown, and the event is older than state_retention");
    says(&said(&[]), "; 1 are too old by their time; --at event reads each when it happened");
    for at in ["event", "2020-05-04T10:01:00Z", "2020-05-04T18:01:00+08:00"] {
        let said = said(&["--at", at]);
        says(&said, "store:17 is notified: new_order");
        assert!(said.ends_with("of the records, 1 notify somebody"), "{at}: {said}");
    }
    says(&said(&["--at", "2020-05-04T13:10:00Z"]), "the event is too old to notify");
    assert!(parse_read_at("yesterday").unwrap_err().starts_with("expected now, event, or a time"));
}

/// Each recipe as its first lines say that it is tried, at the time of its samples, with the text beside it. `UPDATE=1` writes that text.
#[test]
fn every_recipe_gives_what_stands_beside_it() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mappings");
    let files = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let recipes: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|ext| ext == "toml")).collect();
    for name in [
        "array",
        "canal",
        "cloudevents",
        "cloudevents-binary",
        "debezium",
        "debezium-flat",
        "eleme",
        "form",
        "masstransit",
        "masstransit-raw",
        "maxwell",
        "none",
        "shopify",
        "spring",
        "square",
        "woocommerce",
    ] {
        assert!(recipes.contains(&folder.join(name).with_extension("toml")), "{name} has no recipe");
    }
    for recipe in recipes {
        let text = std::fs::read_to_string(&recipe).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("# orderbell mapping ")).unwrap();
        let words = line.split_whitespace().map(|word| word.replace('"', ""));
        let TryLine { command } =
            clap::Parser::try_parse_from(std::iter::once(String::from("mapping")).chain(words)).unwrap();
        let MappingCommand::Try { options } = command else { panic!("a recipe is tried") };
        let config = Config::load(Some(&recipe), &[]).unwrap();
        assert_eq!(config.boot.mapping.remarks(), Vec::<String>::new(), "{}", recipe.display());
        let sample = std::fs::read(folder.join(&options.file)).unwrap();
        let (mut lines, summary, _) = try_records(&options, &config, &sample, NOW);
        lines.push(summary);
        let (said, beside) = (format!("{}\n", lines.join("\n")), recipe.with_extension("txt"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&beside, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&beside).unwrap_or_default();
        assert_eq!(said, expected, "{}: UPDATE=1 rewrites what is beside it", recipe.display());
    }
}
