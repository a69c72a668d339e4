//! The records of decisions: each says context, decision and consequences in at most twenty lines, and stands in their list with its title.

const FOLDER: &str = "docs/decisions/";
const LINES_MAX: usize = 20;
const HEADINGS: [&str; 3] = ["\n## Context\n", "\n## Decision\n", "\n## Consequences\n"];

fn faults(path: &str, text: &str, list: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        faults.push(format!("{path} has {lines} lines: at most {LINES_MAX}"));
    }
    let at = HEADINGS.map(|heading| text.find(heading));
    if at.contains(&None) || !at.is_sorted() {
        faults.push(format!("{path} has not the headings {HEADINGS:?} in this order"));
    }
    let name = path.trim_start_matches(FOLDER);
    let number = name.split('-').next().unwrap_or(name);
    match text.lines().next().and_then(|line| line.strip_prefix(&format!("# {number}: "))) {
        Some(title) if list.contains(&format!("| [{number}]({name}) | {title} |\n")) => {}
        Some(title) => faults.push(format!("{FOLDER}README.md does not list {name} as {title}")),
        None => faults.push(format!("{path} does not begin with its number and title")),
    }
    faults
}

#[test]
fn each_decision_has_at_most_twenty_lines() {
    let list = super::text_of("docs/decisions/README.md").unwrap();
    let files = super::tracked_files();
    let is_record = |path: &&String| path.strip_prefix(FOLDER).is_some_and(|name| name != "README.md");
    let records: Vec<_> =
        files.iter().filter(is_record).filter_map(|path| Some((path, super::text_of(path)?))).collect();
    assert!(records.len() > 50, "only {} records were found", records.len());
    let faults: Vec<_> = records.iter().flat_map(|(path, text)| faults(path, text, &list)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let mut numbers: Vec<_> = records.iter().map(|(path, _)| &path[FOLDER.len()..FOLDER.len() + 4]).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), records.len(), "two records have one number");
}

#[test]
fn planted_faults_of_a_record_are_found() {
    let record = "# 0001: A thing\n\nStatus: accepted\n\n## Context\nC\n\n## Decision\nD\n\n## Consequences\nE\n";
    let has_fault = |text: &str, list: &str| !faults("docs/decisions/0001-a.md", text, list).is_empty();
    let list = "| [0001](0001-a.md) | A thing |\n";
    assert!(!has_fault(record, list));
    assert!(has_fault(&format!("{record}{}", "more\n".repeat(9)), list), "too long");
    assert!(has_fault(&record.replace("## Consequences\n", ""), list));
    assert!(has_fault(&record.replace("Context", "Consequences"), list));
    assert!(has_fault(record, "") && has_fault(&record.replace("A thing", "Another"), list));
}
