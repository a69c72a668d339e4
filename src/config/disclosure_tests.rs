//! Mistakes beside, in and around a secret: none shows it.

use super::*;
use crate::config::{Config, ENV_PREFIX};

/// Stands wherever a secret could.
const MARK: &str = "S3CRET";

/// What an operator sees, and what a test that fails prints; none when the configuration is good.
fn said(text: &str, variables: &[(&str, &str)]) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("orderbell.toml");
    std::fs::write(&path, text).unwrap();
    let variables: Vec<_> =
        variables.iter().map(|(name, value)| (format!("{ENV_PREFIX}{name}"), (*value).to_owned())).collect();
    let error = Config::load(Some(&path), &variables).and_then(|config| config.check_tokens()).err()?;
    Some(format!("{error}\n{error:?}"))
}

const KAFKA: &str = "[kafka]\nbootstrap = \"a:1\"\ntopics = [\"o\"]\n";

/// A line with a secret between what stands before and behind it.
fn places() -> Vec<[String; 3]> {
    let place = |before: &str, line: &str, behind: &str| [before.to_owned(), line.to_owned(), behind.to_owned()];
    let end = "[wall]\nname = \"A\"\n";
    vec![
        place(&format!("{KAFKA}[kafka.properties]\n"), "\"sasl.password\" = \"S3CRET\"", end),
        place(&format!("{KAFKA}[kafka.properties]\n"), "'sasl.jaas.config' = 'S3CRET'", "\"retries\" = \"5\"\n"),
        place(KAFKA, "properties = { \"sasl.username\" = \"u\", \"sasl.password\" = \"S3CRET\" }", end),
        place(KAFKA, "properties.\"sasl.password\" = \"S3CRET\"", end),
        place("kafka = { bootstrap = \"a:1\", topics = [\"o\"],\n", "properties = { \"x\" = \"S3CRET\" }", "}\n"),
        place(&format!("{KAFKA}[kafka.properties]\n\"x\" = \"\"\"\n"), "S3CRET", "\"\"\"\n"),
        place(KAFKA, "oauth_token_command = [\"curl\", \"-u\", \"S3CRET\"]", end),
        place(&format!("{KAFKA}[kafka.property]\n"), "\"sasl.password\" = \"S3CRET\"", end),
        place(KAFKA, "pasword = \"S3CRET\"", end),
        place("[tokens]\n", "client_secret = \"S3CRET\"", end),
        place("", "token = \"S3CRET\"", end),
        place("[[tokens.keys]]\nkid = \"a\"\nalgorithm = \"EdDSA\"\n", "public_key = \"S3CRET\"", end),
        place(
            "[[tokens.keys]]\nkid = \"a\"\npublic_key = \"x\"\n[[tokens.keys]]\nkid = \"b\"\n",
            "public_key = \"S3CRET\"",
            end,
        ),
        place("[[tokens.keys]]\nkid = \"a\"\n", "secret_file = \"S3CRET\"", end),
        place("[[tokens.keys]]\nkid = \"a\"\nalgorithm = \"EdDSA\"\n", "public_key_file = \"S3CRET\"", end),
        place("[tokens]\n", "keys = [{ kid = \"a\", algorithm = \"EdDSA\", public_key = \"S3CRET\" }]", end),
    ]
}

/// A file with a mistake, of the lines around a secret.
type Spoil = fn(&str, &str, &str) -> String;

const MISTAKES: [(&str, Spoil); 33] = [
    ("none", |a, line, b| format!("{a}{line}\n{b}")),
    ("no quote behind", |a, line, b| format!("{a}{}\n{b}", line.replacen("S3CRET\"", "S3CRET", 1))),
    ("no quote before", |a, line, b| format!("{a}{}\n{b}", line.replacen("\"S3CRET", "S3CRET", 1))),
    ("no quotes", |a, line, b| format!("{a}{}\n{b}", line.replace(['"', '\''], ""))),
    ("typographic quotes", |a, line, b| format!("{a}{}\n{b}", line.replace("\"S3CRET\"", "\u{201c}S3CRET\u{201d}"))),
    ("another quote behind", |a, line, b| format!("{a}{}\n{b}", line.replace("S3CRET\"", "S3CRET'"))),
    ("a quote too many", |a, line, b| format!("{a}{}\n{b}", line.replace("S3CRET", "S3\"S3CRET"))),
    ("three quotes before", |a, line, b| format!("{a}{}\n{b}", line.replace("\"S3CRET", "\"\"\"S3CRET"))),
    ("an escape that there is not", |a, line, b| format!("{a}{}\n{b}", line.replace("S3CRET", "\\qS3CRET"))),
    ("a control character", |a, line, b| format!("{a}{}\n{b}", line.replace("S3CRET", "\u{1}S3CRET"))),
    ("a line break in it", |a, line, b| format!("{a}{}\n{b}", line.replace("S3CRET", "x\nS3CRET"))),
    ("no equals sign", |a, line, b| format!("{a}{}\n{b}", line.replacen('=', "", 1))),
    ("two equals signs", |a, line, b| format!("{a}{}\n{b}", line.replacen('=', "= =", 1))),
    ("a colon", |a, line, b| format!("{a}{}\n{b}", line.replacen('=', ":", 1))),
    ("no key", |a, line, b| format!("{a}{}\n{b}", &line[line.find('=').unwrap_or(0)..])),
    ("the value first", |a, line, b| format!("{a}\"S3CRET\" = 5 5\n{line}\n{b}")),
    ("words behind it", |a, line, b| format!("{a}{line} S3CRET\n{b}")),
    ("a bracket behind it", |a, line, b| format!("{a}{line} ]\n{b}")),
    ("a bracket missing", |a, line, b| format!("{a}{}\n{b}", line.trim_end_matches([']', '}']))),
    ("an open bracket before it", |a, line, b| format!("{a}[\n{line}\n{b}")),
    ("a header that is open", |a, line, b| format!("{}\n{line}\n{b}", a.trim_end().trim_end_matches(']'))),
    ("an open string before it", |a, line, b| format!("{a}x = \"\n{line}\n{b}")),
    ("an open string of lines before it", |a, line, b| format!("{a}x = '''\n{line}\n{b}")),
    ("twice", |a, line, b| format!("{a}{line}\n{line}\n{b}")),
    ("both in one line", |a, line, b| format!("{a}{line} {line}\n{b}")),
    ("a number", |a, line, b| format!("{a}{}\n{b}", line.replace("\"S3CRET\"", "5 # S3CRET"))),
    ("a list", |a, line, b| format!("{a}{}\n{b}", line.replace("\"S3CRET\"", "[[\"S3CRET\"]]"))),
    ("a table", |a, line, b| format!("{a}{}\n{b}", line.replace("\"S3CRET\"", "{ a = \"S3CRET\" }"))),
    ("a date beside it", |a, line, b| format!("{a}{}\n{b}", line.replace("\"S3CRET\"", "[2026-11-29, \"S3CRET\"]"))),
    ("a line without end", |a, line, b| format!("{a}{}\r{b}", line.replace("S3CRET", "\rS3CRET"))),
    ("a known key beside it", |a, line, b| format!("state_retention = 5 # S3CRET\n{a}{line}\n{b}")),
    ("a section that is the secret", |a, line, b| {
        format!("kafka = \"S3CRET\"\nsessions = \"S3CRET\"\n{}", [a, line, b].concat().replace("[kafka]", ""))
    }),
    ("a mistake elsewhere", |a, line, b| format!("state_retention = \"3h\"\nstale_after = 5\n{a}{line}\n{b}")),
];

/// The bug: a mistake in the syntax showed its line, with the password on it; and a value of another type was quoted.
#[test]
fn no_mistake_shows_a_secret_wherever_it_stands() {
    let (mut wrong, mut placed) = (0, 0);
    for [before, line, behind] in places() {
        for (mistake, spoil) in MISTAKES {
            let text = spoil(&before, &line, &behind);
            let Some(said) = said(&text, &[]) else { continue };
            wrong += 1;
            placed += usize::from(said.contains("orderbell.toml:"));
            assert!(!said.contains(MARK), "{mistake}, in:\n{text}\n{said}");
        }
    }
    assert!(wrong > 350 && placed > wrong * 9 / 10, "{wrong} are mistakes, {placed} say where");
}

/// Values that are no secret where they stand, and swallow one for want of a quote.
#[test]
fn a_string_that_swallows_the_lines_behind_it_is_not_quoted() {
    let secret = format!("{KAFKA}[kafka.properties]\n\"sasl.password\" = \"S3CRET\"\n");
    for (before, behind) in [
        ("[sessions]\nmax_in_flight = \"\"\"5\n", "\"\"\"\n"),
        ("stale_after = '''\n", "'''\n"),
        ("[listen]\npublic = \"\"\"\n", "\"\"\"\n"),
        ("[mapping]\namount_unit = '''\n", "'''\n"),
        ("[sessions]\nmax_in_flight = [\n'''", "'''\n]\n"),
        ("[tokens]\njwks_url = '''\n", "'''\n"),
        ("wall = '''\n", "'''\n"),
    ] {
        let text = format!("{before}{secret}{behind}");
        let said = said(&text, &[]).unwrap();
        assert!(!said.contains(MARK) && said.contains("orderbell.toml:"), "{text}\n{said}");
    }
}

#[test]
fn no_variable_that_is_wrong_shows_a_secret() {
    let file = format!("{KAFKA}[kafka.properties]\n\"sasl.password\" = \"S3CRET\"\n");
    for (name, value) in [
        ("KAFKA", "S3CRET"),
        ("KAFKA", "{ bootstrap = \"a:1\", topics = [\"o\"], properties = { a = [\"S3CRET\"] } }"),
        ("KAFKA", "{ bootstrap = [\"S3CRET\"], topics = [] }"),
        ("KAFKA__PROPERTIES", "S3CRET"),
        ("KAFKA__PROPERTIES", "sasl.password=S3CRET"),
        ("KAFKA__PROPERTIES", "{ \"sasl.password\" = [\"S3CRET\"] }"),
        ("KAFKA__PROPERTIES__sasl.password", "[\"S3CRET\"]"),
        ("KAFKA__PROPERTIES__sasl.password", "{ a = \"S3CRET\" }"),
        ("KAFKA__PROPERTIES__sasl__password", "S3CRET"),
        ("KAFKA__PROPERTYS__sasl.password", "S3CRET"),
        ("KAFKA__OAUTH_TOKEN_COMMAND", "S3CRET"),
        ("KAFKA__OAUTH_TOKEN_FILE", "[\"S3CRET\"]"),
        ("KAFKA_PASSWORD", "S3CRET"),
        ("TOKENS", "S3CRET"),
        ("TOKENS__KEYS", "S3CRET"),
        ("TOKENS__KEYS", "[\"S3CRET\"]"),
        ("TOKENS__KEYS", "[{ kid = \"a\", algorithm = \"EdDSA\", public_key = \"S3CRET\" }]"),
        ("TOKENS__KEYS", "[{ kid = \"a\", public_key = [\"S3CRET\"] }]"),
        ("TOKENS__KEYS", "[{ kid = \"a\", secret = \"S3CRET\" }]"),
        ("TOKENS__KEYS", "[{ kid = \"a\", secret_file = \"S3CRET\" }]"),
        ("TOKENS__KEYS", "[{ kid = \"a\", secret_file = \"/S3CRET/+\" }]"),
        ("TOKENS__KEYS", "[{ kid = \"a\", algorithm = \"EdDSA\", public_key_file = \"S3CRET\" }]"),
        ("TOKENS__KEYS", "[{ kid = \"a\", algorithm = \"EdDSA\", public_key_file = \"/S3CRET/+\" }]"),
        ("TOKENS__SECRET", "S3CRET"),
        ("SESSIONS", "S3CRET"),
    ] {
        for text in ["", &file] {
            let said = said(text, &[(name, value)]).unwrap();
            assert!(said.contains(name) || said.contains("tokens.keys"), "{said}");
            assert!(!said.contains(MARK), "{name}={value}, over:\n{text}\n{said}");
        }
    }
}

/// The bug: what is no secret showed its line, with the password that somebody had written into an address.
#[test]
fn a_password_in_an_address_is_not_shown() {
    for (before, key) in [
        ("[tokens]\n", "jwks_url"),
        ("", "allowed_origins"),
        ("[wall]\n", "allowed_origins"),
        ("[wall]\n", "allowed_hosts"),
        ("wall.", "allowed_hosts"),
    ] {
        let is_list = key != "jwks_url";
        for (address, form) in [
            ("\"https://user:S3CRET@a.example/x\"", "such as"),
            ("[[\"https://user:S3CRET@a.example\"]]", "expected a"),
            ("5 # S3CRET", "expected a"),
        ] {
            let (value, form) = match (is_list, address.starts_with('"')) {
                (true, true) => (format!("[\"a.example\", {address}]"), ""),
                (_, _) => (address.to_owned(), form),
            };
            let text = format!("{before}{key} = {value}\n");
            let said = said(&text, &[]).unwrap();
            assert!(!said.contains(MARK) && said.contains("orderbell.toml:") && said.contains(form), "{text}\n{said}");
        }
    }
    let address = [("TOKENS__JWKS_URL", "https://user:S3CRET@a.example")];
    assert!(said("", &address).is_some_and(|said| !said.contains(MARK) && said.contains("without a user name")));
}

/// The bug: a property of Kafka below the header of a mapping was quoted.
#[test]
fn a_password_below_a_mapping_is_not_quoted() {
    for line in [
        "\"sasl.password\" = \"S3CRET\"",
        "\"ssl.key.password\" = \"S3CRET\"",
        "sasl.password = \"S3CRET\"",
        "'sasl.oauthbearer.client.secret' = 'S3CRET'",
        "oauth_token_command = [\"S3CRET\"]",
        "secret_file = \"S3CRET\"",
    ] {
        let said = said(&format!("[mapping.types]\n{line}\n"), &[]).unwrap();
        assert!(!said.contains(MARK) && said.contains("orderbell.toml:2:"), "{said}");
    }
}

/// The bug: what a comment had behind the word of the printed defaults was shown.
#[test]
fn a_line_with_a_comment_is_not_shown() {
    for comment in ["# S3CRET", "# reload S3CRET", "# reloadS3CRET", "# S3CRET # reload", "#S3CRET# reload"] {
        let said = said(&format!("stale_after = \"soon\" {comment}\n"), &[]).unwrap();
        assert!(!said.contains(MARK) && said.contains("orderbell.toml:1:"), "{comment}: {said}");
    }
}

/// What no secret can be is shown as before.
#[test]
fn a_mistake_in_a_known_key_shows_its_line_and_its_value() {
    for (text, wanted) in [
        ("[sessions]\nmax_in_flight = \"many\"\n", ["string \"many\", expected u16", "| max_in_flight = \"many\""]),
        ("stale_after = \"soon\"  # reload\n", ["\"soon\" is not a duration", "| stale_after = \"soon\"  # reload"]),
        ("[sessions]\nmax_in_flight = 0\n", ["sessions.max_in_flight: at least 1", "| max_in_flight = 0"]),
        ("[mapping.types]\nOK = \"order.payed\"\n", ["did you mean `order.paid`?", "| OK = \"order.payed\""]),
        ("[kafka]\nbootstrap = 5\ntopics = [\"o\"]\n", ["invalid type: integer `5`", "| bootstrap = 5"]),
    ] {
        let said = said(text, &[]).unwrap();
        for wanted in wanted {
            assert!(said.contains(wanted), "{wanted} is not in:\n{said}");
        }
    }
    let (hidden, said) = ("publik = \"127.0.0.1:1\"", said("[listen]\npublik = \"127.0.0.1:1\"\n", &[]).unwrap());
    assert!(!said.contains(hidden), "what is behind an unknown key nobody knows: {said}");
    assert!(said.contains("orderbell.toml:2:1") && said.contains("did you mean `public`?"), "{said}");
}

#[test]
fn a_message_about_the_syntax_keeps_signs_and_no_words() {
    for (message, shown) in [
        ("invalid basic string, expected `\"`", "invalid basic string, expected `\"`"),
        ("unexpected `S3CRET`, expected `=`", "unexpected ..., expected `=`"),
        ("unexpected \"S3CRET\" and \"S3CRET\" here", "unexpected ... here"),
        ("unexpected \"S3CRET", "unexpected ..."),
        ("duplicate key", "duplicate key"),
    ] {
        assert_eq!(without_quotes(message), shown);
    }
}

/// A new key whose name sounds like a secret is one, or somebody has looked at it.
#[test]
fn every_key_that_sounds_like_a_secret_is_known_as_one_or_is_none() {
    const NO_SECRETS: [&str; 1] = ["mapping.kafka_key"];
    fn walk(schema: &Json, at: &Json, path: &mut Vec<String>, all: &mut Vec<Vec<String>>) {
        let at = resolve(schema, at);
        let at = at.get("items").map_or(at, |items| resolve(schema, items));
        for (key, value) in at["properties"].as_object().into_iter().flatten() {
            path.push(key.clone());
            all.push(path.clone());
            if path.len() < 4 {
                walk(schema, value, path, all);
            }
            path.pop();
        }
    }
    let (schema, mut all) = (schema(), Vec::new());
    walk(&schema, &schema, &mut Vec::new(), &mut all);
    assert!(all.iter().any(|path| path.join(".") == "tokens.keys.public_key"), "{all:?}");
    let sounds =
        |key: &String| ["password", "secret", "token_", "key", "credential"].iter().any(|word| key.contains(word));
    let open =
        all.iter().filter(|path| path.last().is_some_and(|key| sounds(key) && key != "keys") && !is_secret(path));
    let open: Vec<String> =
        open.map(|path| path.join(".")).filter(|path| !NO_SECRETS.contains(&path.as_str())).collect();
    assert_eq!(open, [""; 0]);
}
