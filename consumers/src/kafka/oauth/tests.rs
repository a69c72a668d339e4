use std::path::Path;
use std::time::Instant;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// Short where nothing is shown by a wait, long where a test would fail if it took place.
fn timings(timeout_ms: u64) -> Timings {
    let short = Duration::from_millis(10);
    Timings { timeout: Duration::from_millis(timeout_ms), refresh: short, retry: short }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn shell(script: &str, timings: Timings) -> TokenSource {
    TokenSource::new(Origin::Command(words(&["sh", "-c", script])), timings)
}

fn fetch(origin: &Origin) -> Result<String, String> {
    origin.fetch(PATIENCE, || true).map_err(|error| error.to_string())
}

fn fetch_by(script: &str) -> Result<String, String> {
    fetch(&Origin::Command(words(&["sh", "-c", script])))
}

/// The answer to librdkafka, which must come at once.
fn answer(context: &TokenContext) -> Result<String, String> {
    let at = Instant::now();
    let answer = context.generate().map(|token| token.token).map_err(|error| error.to_string());
    assert!(at.elapsed() < Duration::from_secs(1), "librdkafka waited for {:?}", at.elapsed());
    answer
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// The number that a script wrote into a file.
fn process_in(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

/// A process that was killed is gone, or is left for whoever adopted it to be waited for.
fn is_gone(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])))
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("orderbell-token-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn a_token_is_what_a_file_holds_or_a_command_prints() {
    assert_eq!(fetch_by("echo a.b.c"), Ok("a.b.c".into()));
    for (command, wanted) in [
        (&["false"][..], "false ended with exit status: 1"),
        (&["true"], "true: the token is empty"),
        (&[], "the command is empty"),
        (&["/none/such"], "/none/such: No such file"),
        (&["echo", "Please log in"], "echo: a token is one line without spaces"),
    ] {
        let error = fetch(&Origin::Command(words(command))).unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
    let folder = Folder::new("file");
    let file = Origin::File(folder.file("token"));
    assert!(fetch(&file).is_err_and(|error| error.contains("No such file")));
    // The token itself, where its file is meant.
    for token in ["a.S3CRET.b", "/a/S3CRET/b="] {
        let error = fetch(&Origin::File(token.into())).unwrap_err();
        assert!(error.contains("no such file or folder") && !error.contains("S3CRET"), "{error}");
    }
    std::fs::write(folder.file("token"), "d.e.f\n").unwrap();
    assert_eq!(fetch(&file), Ok("d.e.f".into()));
    std::fs::write(folder.file("token"), "x".repeat(MAX_TOKEN_BYTES + 1)).unwrap();
    assert!(fetch(&file).is_err_and(|error| error.contains("longer than 65536 bytes")));
}

/// The bug: the poll thread waited for the command, 10 seconds with each try.
#[test]
fn a_command_that_hangs_is_ended_with_all_it_started_and_holds_up_no_client() {
    let folder = Folder::new("hangs");
    let process = folder.file("process");
    let source =
        shell(&format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait", process.display()), timings(1_000));
    let context = TokenContext(Some(source.clone()));
    assert_eq!(answer(&context), Err("the first token is still awaited".into()));
    until("the command has started", || process.exists());
    let first = process_in(&process);
    until("it was given up", || source.trouble().is_some());
    assert_eq!(answer(&context), Err("sh did not end within 1s".into()));
    assert_eq!(source.trouble().unwrap(), "no token for Kafka: sh did not end within 1s");
    until("what it started is gone", || is_gone(&first));
    // With the last client goes the command of the try that runs now.
    until("the next try", || process_in(&process) != first);
    let next = process_in(&process);
    drop((source, context));
    until("that is gone, too", || is_gone(&next));
}

/// The bug: the output was read to its end, which a process in the background put off for ever.
#[test]
fn a_command_that_leaves_a_process_behind_with_its_output_gives_its_token_and_takes_it_along() {
    let folder = Folder::new("grandchild");
    let process = folder.file("process");
    let at = Instant::now();
    let token = fetch_by(&format!("sleep 600 & echo $! > {}; echo a.b.c", process.display()));
    assert_eq!(token, Ok("a.b.c".into()));
    assert!(at.elapsed() < PATIENCE / 2, "{:?}", at.elapsed());
    until("the process is gone", || is_gone(&process_in(&process)));
}

#[test]
fn a_command_that_prints_without_end_is_ended_at_the_limit() {
    let at = Instant::now();
    assert_eq!(fetch_by("yes"), Err("sh: the token is longer than 65536 bytes".into()));
    assert!(at.elapsed() < PATIENCE / 2, "{:?}", at.elapsed());
    // What fits into the limit fits whole, although no pipe holds it at once.
    assert_eq!(fetch_by("head -c 65535 /dev/zero | tr '\\0' x; echo").map(|token| token.len()), Ok(65_535));
}

#[test]
fn a_token_is_there_as_soon_as_the_command_works_and_stays_while_it_fails_again() {
    let folder = Folder::new("fails");
    let issued = folder.file("issued");
    let source = shell(&format!("cat {} 2>/dev/null", issued.display()), timings(30_000));
    let context = TokenContext::of(Some(&source));
    assert_eq!(answer(&context), Err("sh ended with exit status: 1".into()));
    let issue = |token: &str| {
        std::fs::write(folder.file("new"), token).unwrap();
        std::fs::rename(folder.file("new"), &issued).unwrap();
    };
    for token in ["a.b.c", "d.e.f"] {
        issue(token);
        until("the newest token", || answer(&context).as_deref() == Ok(token));
    }
    assert_eq!(source.trouble(), None);
    std::fs::remove_file(&issued).unwrap();
    until("no newer one can be had", || source.trouble().is_some());
    assert_eq!(answer(&context), Ok("d.e.f".into()));
    assert_eq!(source.trouble().unwrap(), "no token for Kafka: sh ended with exit status: 1");
    issue("g.h.i");
    until("the newest token", || answer(&context).as_deref() == Ok("g.h.i") && source.trouble().is_none());
}

/// An alert names the command, and not brokers that would answer.
#[test]
fn whoever_reads_and_whoever_asks_names_the_token_as_what_is_missing() {
    use crate::kafka::{GroupInspector, KafkaOptions, KafkaSource};
    use crate::traits::Source;

    let options = KafkaOptions {
        bootstrap: "127.0.0.1:1".into(),
        group: "g".into(),
        instance: None,
        topics: vec!["t".into()],
        cluster: None,
        token: Some(TokenSource::command(words(&["false"]))),
        properties: Default::default(),
    };
    let mut source = KafkaSource::join(&options).unwrap();
    assert_eq!(source.trouble().unwrap(), "no token for Kafka: false ended with exit status: 1");
    let error = GroupInspector::new(&options, PATIENCE).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("get a token for Kafka") && error.contains("false ended with"), "{error}");
}
