//! The README in Chinese says what the English one says: the same headings, commands, links, and names of keys, commands and codes. Whether the
//! sentences between them agree, people have to see.

use std::collections::BTreeMap;
use std::path::Path;

const PAIR: [&str; 2] = ["README.md", "README.zh-CN.md"];

/// What a document has besides its sentences.
#[derive(Debug, Default, PartialEq, Eq)]
struct Skeleton {
    /// Level of each heading.
    headings: Vec<usize>,
    /// Language and lines of each block of code, without comments.
    blocks: Vec<Vec<String>>,
    table_rows: usize,
    /// Targets of links that do not lead to the other document, and how often each occurs.
    links: BTreeMap<String, usize>,
    /// What stands in backticks, and how often.
    names: BTreeMap<String, usize>,
}

/// A line of code without its comment, which is translated.
fn without_comment(line: &str) -> &str {
    let comment = line.match_indices('#').map(|(at, _)| at).find(|at| line[..*at].trim_end().len() < *at || *at == 0);
    line[..comment.unwrap_or(line.len())].trim()
}

impl Skeleton {
    fn of(text: &str) -> Self {
        let mut skeleton = Self::default();
        let mut block: Option<Vec<String>> = None;
        for line in text.lines() {
            match (line.strip_prefix("```"), &mut block) {
                (Some(language), None) => block = Some(vec![language.to_owned()]),
                (Some(_), Some(_)) => skeleton.blocks.extend(block.take()),
                (None, Some(lines)) => {
                    lines.extend(Some(without_comment(line).to_owned()).filter(|line| !line.is_empty()))
                }
                (None, None) => skeleton.add_prose(line),
            }
        }
        skeleton
    }

    fn add_prose(&mut self, line: &str) {
        if line.starts_with('#') {
            self.headings.push(line.chars().take_while(|c| *c == '#').count());
        }
        self.table_rows += usize::from(line.starts_with('|'));
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !PAIR.contains(target)) {
            *self.links.entry(target.to_owned()).or_default() += 1;
        }
        for name in line.split('`').skip(1).step_by(2) {
            *self.names.entry(name.to_owned()).or_default() += 1;
        }
    }
}

/// Keys whose numbers differ.
fn odd_ones(ours: &BTreeMap<String, usize>, theirs: &BTreeMap<String, usize>) -> Vec<String> {
    let keys = ours.keys().chain(theirs.keys().filter(|key| !ours.contains_key(*key)));
    let count = |of: &BTreeMap<String, usize>, key: &String| of.get(key).copied().unwrap_or_default();
    let odd = keys.map(|key| (key, count(ours, key), count(theirs, key))).filter(|(_, ours, theirs)| ours != theirs);
    odd.map(|(key, ours, theirs)| format!("{key} is there {ours} and {theirs} times")).collect()
}

/// Where two documents differ in more than their sentences.
fn differences(ours: &Skeleton, theirs: &Skeleton) -> Vec<String> {
    let mut all = Vec::new();
    if ours.headings != theirs.headings {
        all.push(format!("the levels of the headings are {:?} and {:?}", ours.headings, theirs.headings));
    }
    if ours.table_rows != theirs.table_rows {
        all.push(format!("there are {} and {} rows of tables", ours.table_rows, theirs.table_rows));
    }
    if ours.blocks.len() != theirs.blocks.len() {
        all.push(format!("there are {} and {} blocks of code", ours.blocks.len(), theirs.blocks.len()));
    }
    let pairs = ours.blocks.iter().zip(&theirs.blocks).filter(|(ours, theirs)| ours != theirs);
    all.extend(pairs.map(|(ours, theirs)| format!("a block of code differs: {ours:?} and {theirs:?}")));
    all.extend(odd_ones(&ours.links, &theirs.links));
    all.extend(odd_ones(&ours.names, &theirs.names));
    all
}

#[test]
fn the_readme_in_chinese_says_what_the_english_one_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [english, chinese] = PAIR.map(|name| std::fs::read_to_string(root.join(name)).unwrap());
    assert!(english.contains("](README.zh-CN.md)") && chinese.contains("](README.md)"), "each links to the other");
    let [ours, theirs] = [&english, &chinese].map(|text| Skeleton::of(text));
    assert!(ours.names.len() > 100 && ours.links.len() > 10 && ours.blocks.len() > 5, "the README is not read");
    let differences = differences(&ours, &theirs);
    assert!(differences.is_empty(), "README.md and README.zh-CN.md differ:\n{}", differences.join("\n"));
}

#[test]
fn planted_differences_are_found() {
    let english = "# A\n\nRun `serve`, see [b](b.md).\n\n```sh\nserve --now   # at once\n```\n\n| a | b |\n";
    let chinese = "# 甲\n\n运行 `serve`，见[乙](b.md)。\n\n```sh\nserve --now   # 立即\n```\n\n| 甲 | 乙 |\n";
    let found = |text: &str| differences(&Skeleton::of(english), &Skeleton::of(text));
    assert_eq!(found(chinese), Vec::<String>::new());
    for (from, to) in [
        ("# 甲", "## 甲"),
        ("`serve`", "`stop`"),
        ("(b.md)", "(c.md)"),
        ("--now", "--later"),
        ("```sh", "```toml"),
        ("| 甲 | 乙 |\n", ""),
    ] {
        assert_ne!(found(&chinese.replacen(from, to, 1)), Vec::<String>::new(), "{from} -> {to}");
    }
}
