//! Doc comments that only repeat the name below them: "The order." above `order: OrderKey`. Such a line says a unit, an error or a reason, or it
//! goes.

/// Words that say nothing of their own.
const EMPTY_WORDS: [&str; 25] = [
    "a", "all", "an", "and", "are", "as", "at", "by", "each", "every", "for", "from", "in", "is", "it", "its", "of",
    "on", "one", "or", "that", "the", "this", "to", "which",
];

/// The words of a text or of names in it, in small letters and without a plural's end. Empty ones are left out.
fn words(text: &str) -> Vec<String> {
    let mut spaced = String::new();
    let mut is_after_small = false;
    for c in text.replace("'s", "").chars() {
        if is_after_small && c.is_ascii_uppercase() {
            spaced.push(' ');
        }
        is_after_small = c.is_ascii_lowercase() || c.is_ascii_digit();
        spaced.push(if c.is_alphanumeric() { c.to_ascii_lowercase() } else { ' ' });
    }
    let words = spaced.split_whitespace().filter(|word| !EMPTY_WORDS.contains(word));
    words.map(|word| if word.len() > 3 { word.trim_end_matches('s') } else { word }.to_owned()).collect()
}

/// The comments of one line in a source file that have no word beside those of the item below: its names and types, without a value or body.
fn repetitions(path: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_doc = |at: usize| lines.get(at).is_some_and(|line| line.starts_with("///"));
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let is_alone = (at == 0 || !is_doc(at - 1)) && !is_doc(at + 1);
        let Some(comment) = line.strip_prefix("///").filter(|_| is_alone) else { continue };
        let item = lines[at + 1..].iter().find(|line| !line.starts_with("#[")).copied().unwrap_or_default();
        let named = words(item.split(['=', '"', '{']).next().unwrap_or_default());
        if words(comment).iter().all(|word| named.contains(word)) {
            found.push(format!("{path}:{}: \"{}\" repeats {item:?}", at + 1, comment.trim()));
        }
    }
    found
}

#[test]
fn no_doc_comment_repeats_the_name_below_it() {
    let sources = super::tracked_files();
    let sources = sources.iter().filter(|path| std::path::Path::new(path).extension().is_some_and(|ext| ext == "rs"));
    let found: Vec<String> =
        sources.filter_map(|path| Some(repetitions(path, &super::text_of(path)?))).flatten().collect();
    assert!(found.is_empty(), "{} comments say nothing:\n{}", found.len(), found.join("\n"));
}

#[test]
fn planted_repetitions_are_found() {
    let is_found = |text: &str| !repetitions("a.rs", text).is_empty();
    assert!(is_found("/// The order.\npub order: OrderKey,"));
    assert!(is_found("/// Its headers.\n#[serde(default)]\npub headers: Headers,"));
    assert!(is_found("/// The shard of a key.\nfn shard_of(key: KeyHash) -> usize {"));
    assert!(is_found("/// One device's backlogs.\npub struct DeviceBacklog {"));
    assert!(!is_found("/// Milliseconds.\npub lifetime_ms: i64,"));
    assert!(!is_found("/// The key. It never changes.\npub key: Key,"));
    assert!(!is_found("/// The order,\n/// or its store.\npub order: Id,"));
    assert!(!is_found("/// The media type.\nconst TYPE: &str = \"media\";"));
}
