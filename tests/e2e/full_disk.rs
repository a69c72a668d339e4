//! A disk that is really full: the data directory is on a small file system of its own, and something else fills it.
//!
//! The file system is a tmpfs in a mount namespace of the test, reached through `/proc/PID/root` of the process that holds the namespace. Where
//! the kernel gives no namespaces to this user, the scenarios are skipped, and say so.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use orderbell_lab::Process;
use orderbell_protocol::NoticeKind::NewOrder;
use orderbell_protocol::Position;
use orderbell_protocol::alert::AlertCode;
use serde_json::json;
use tempfile::TempDir;

use crate::chain::{Node, event, until};

const MB: u64 = 1 << 20;
/// Room for the ledger, the limit of free space, and what the other one writes.
const DISK_BYTES: u64 = 96 * MB;
/// `min_free_space` of the first scenario.
const GUARD_BYTES: u64 = 16 * MB;
/// Exit code of a server whose ledger cannot be written (OPERATING.md).
const CANNOT_CONTINUE: i32 = 70;

/// A small file system, mounted for as long as its holder runs.
struct SmallDisk {
    _holder: Process,
    /// Seen from outside.
    path: PathBuf,
}

impl SmallDisk {
    /// None where namespaces are not allowed.
    fn mount(at: &Path) -> Option<Self> {
        let script = format!(
            "mount -t tmpfs -o size={DISK_BYTES} tmpfs '{}' && echo mounted && exec sleep infinity",
            at.display()
        );
        let mut holder = Process::start(Path::new("unshare"), &["-Urm", "sh", "-c", &script], &[]);
        loop {
            if holder.out.text().contains("mounted") {
                break;
            }
            if holder.is_gone() {
                eprintln!("SKIPPED, a disk that is really full: no mount namespace: {}", holder.err.text());
                return None;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
        let path = PathBuf::from(format!("/proc/{}/root{}", holder.pid(), at.display()));
        Some(Self { _holder: holder, path })
    }

    /// Bytes that can still be written.
    fn free(&self) -> u64 {
        let stat = std::process::Command::new("stat").args(["-f", "-c", "%a %S"]).arg(&self.path).output().unwrap();
        let text = String::from_utf8(stat.stdout).unwrap();
        text.split_whitespace().map(|number| number.parse::<u64>().unwrap()).product()
    }

    fn other_file(&self) -> PathBuf {
        self.path.join("of-somebody-else")
    }

    /// Somebody else writes until so much is free.
    fn fill_up_to(&self, free: u64) {
        let mut other = File::options().create(true).append(true).open(self.other_file()).unwrap();
        while let Some(more) = self.free().checked_sub(free).filter(|more| *more > 0) {
            let chunk = vec![1; usize::try_from(more.min(MB)).unwrap()];
            other.write_all(&chunk).unwrap();
        }
    }

    /// Somebody else writes until there is no room for a single byte.
    fn fill(&self) {
        let mut other = File::options().create(true).append(true).open(self.other_file()).unwrap();
        for size in [usize::try_from(MB).unwrap(), 4096, 1] {
            while other.write_all(&vec![1; size]).is_ok() {}
        }
        let full = other.write(&[1]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn clear(&self) {
        std::fs::remove_file(self.other_file()).unwrap();
    }
}

/// An embedded server on a small disk.
fn node_on_small_disk(config: &str) -> Option<(SmallDisk, Node)> {
    let temp: TempDir = tempfile::tempdir().unwrap();
    let (mount, file) = (temp.path().join("disk"), temp.path().join("orderbell.toml"));
    std::fs::create_dir(&mount).unwrap();
    std::fs::write(&file, config).unwrap();
    let disk = SmallDisk::mount(&mount)?;
    let args = vec!["--config".to_owned(), file.to_str().unwrap().to_owned()];
    let node = Node::with(temp, disk.path.join("data"), args);
    Some((disk, node))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_little_space_left_intake_stops_and_reading_goes_on_until_there_is_space() {
    let config = format!("min_free_space = \"{}MiB\"", GUARD_BYTES / MB);
    let Some((disk, node)) = node_on_small_disk(&config) else { return };
    let mut till = node.till("1", "a").await;
    node.pays("o1", "1").await;
    till.hears(NewOrder, "o1").await;
    assert!(node.is_well().await, "{:?}", node.alerts().await);

    disk.fill_up_to(GUARD_BYTES / 2);
    until("the alert is raised", async || node.alert(AlertCode::DiskLow).await.is_some()).await;
    let paid = event("order.paid", "o2", json!({"store": "1"}));
    let refused = node.post(&json!([paid])).await;
    assert_eq!((refused.status, &refused.json().unwrap()["code"]), (503, &json!("unavailable")));
    assert!(
        refused.json().unwrap()["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0),
        "{:?}",
        refused.json().unwrap()
    );
    let accept = till.says(crate::chain::accepted("o1", "A17")).await;
    assert_eq!(accept, ("rejected".into(), Some("unavailable".into())));
    // Reading goes on: polls, sockets, open orders.
    assert_eq!(node.polls("1", "stranger", None, 0).await.notices[0].notice.order, "o1");
    node.till("1", "another").await.hears(NewOrder, "o1").await;
    let open = node.http.get("/v1/orders?open=1", &node.token("store", "1")).await.unwrap();
    assert_eq!((open.status, &open.json().unwrap()["orders"][0]["order"]), (200, &json!("o1")));

    disk.clear();
    until("the alert ends", async || node.is_well().await).await;
    node.posts(&[paid]).await;
    till.hears(NewOrder, "o2").await;
    till.accepts("o1", "A17").await;
}

/// Posts orders one by one until the server is gone; those that were answered.
async fn posts_until_it_ends(node: &mut Node) -> BTreeSet<String> {
    let (mut answered, token) = (BTreeSet::new(), node.token("producer", "chain"));
    for n in 0.. {
        let order = format!("o{n}");
        // As long as real ones: what a page still has room for is soon used up.
        let paid = event("order.paid", &order, json!({"store": "1", "note": "x".repeat(4_000)})).to_string();
        match node.http.send("POST", "/v1/events", &token, "application/json", paid).await {
            Ok(answer) if answer.status == 200 => drop(answered.insert(order)),
            Ok(answer) => assert_eq!(answer.status, 503, "{}", String::from_utf8_lossy(&answer.body)),
            Err(_) => break,
        }
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_the_server_ends_and_nothing_that_was_answered_is_lost() {
    // Without the limit of free space the server runs into the end of the disk, as when something fills it within half a second.
    let Some((disk, mut node)) = node_on_small_disk("min_free_space = \"0MiB\"") else { return };
    let before = node.polls("1", "a", None, 0).await.head;
    let mut answered = BTreeSet::new();
    for order in ["first", "second"] {
        node.pays(order, "1").await;
        answered.insert(order.to_owned());
    }
    disk.fill();
    answered.extend(posts_until_it_ends(&mut node).await);
    let ended = tokio::task::block_in_place(|| node.process.ends());
    assert_eq!(ended.code(), Some(CANNOT_CONTINUE), "{}", node.process.err.text());
    assert!(node.process.err.text().contains("the ledger cannot be written"), "{}", node.process.err.text());

    disk.clear();
    node.restart();
    until("everything that was answered is there", async || {
        let page = all_orders(&node, before).await;
        answered.iter().all(|order| page.contains(order))
    })
    .await;
    let orders = all_orders(&node, before).await;
    assert_eq!(orders.iter().collect::<BTreeSet<_>>().len(), orders.len(), "an order rings twice");
    assert_eq!(node.polls("1", "a", None, 0).await.head.epoch, before.epoch, "a full disk is no other history");
    assert!(node.is_well().await, "{:?}", node.alerts().await);
    // And it works as before.
    let head = node.polls("1", "a", None, 0).await.head;
    let mut till = node.till_from("1", "b", Some(head)).await;
    node.pays("last", "1").await;
    till.hears(NewOrder, "last").await;
}

/// The orders in the mailbox of store 1 from a position on; a poll without one would go on from the device's cursor.
async fn all_orders(node: &Node, from: Position) -> Vec<String> {
    let (mut orders, mut after) = (Vec::new(), Some(from));
    loop {
        let page = node.polls("1", "stranger", after, 0).await;
        if page.notices.is_empty() {
            return orders;
        }
        orders.extend(page.notices.into_iter().map(|notice| notice.notice.order));
        after = Some(page.position);
    }
}
