//! `orderbell doctor`: what would go wrong, before it does.

use std::path::Path;
use std::process::{Command, Output};

use crate::chain::Node;

fn doctor(args: &[&str], prefix: &[&str]) -> Output {
    let exe = env!("CARGO_BIN_EXE_orderbell");
    let words = [prefix, &[exe, "doctor"], args].concat();
    Command::new(words[0]).args(&words[1..]).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn config(dir: &Path, more: &str) -> String {
    let path = dir.join("orderbell.toml");
    let data = dir.join("data");
    std::fs::write(&path, format!("data_dir = \"{}\"\n{more}", data.display())).unwrap();
    path.to_str().unwrap().to_owned()
}

const LOOPBACK: &str = "[listen]\npublic = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n";

#[test]
fn on_a_machine_that_will_do_nothing_is_bad() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        config(dir.path(), &format!("min_free_space = \"1MiB\"\n{LOOPBACK}[sessions]\nmax_connections = 100\n"));
    let found = doctor(&["--config", &config], &[]);
    assert!(found.status.success(), "{}", text(&found));
    assert!(text(&found).contains("an fsync takes") && !text(&found).contains("FAILED"), "{}", text(&found));
    assert!(!dir.path().join("data").exists(), "it changes nothing");
}

#[test]
fn each_thing_that_would_go_wrong_is_bad_with_a_fix() {
    let dir = tempfile::tempdir().unwrap();
    let keys = "[tokens]\nkeys = [{ kid = \"k\", secret_file = \"/nowhere/key\" }]\n";
    let kafka = "[kafka]\nbootstrap = \"127.0.0.1:1\"\ntopics = [\"orders\"]\n";
    let listen = "[listen]\npublic = \"192.0.2.1:80\"\nadmin = \"127.0.0.1:0\"\n";
    let more = format!("min_free_space = \"900000000MiB\"\n{listen}{keys}{kafka}");
    let config = config(dir.path(), &more);
    // With fewer files than it may have sockets.
    let found = doctor(&["--config", &config, "--json"], &["sh", "-c", "ulimit -n 512; exec \"$@\"", "sh"]);
    assert_eq!(found.status.code(), Some(1), "{}", text(&found));
    for what in ["files", "tokens", "public", "space", "kafka"] {
        let line =
            text(&found).lines().find(|line| line.contains(&format!("\"check\":\"{what}\""))).unwrap().to_owned();
        assert!(line.contains("\"result\":\"failed\"") && line.contains("\"fix\":"), "{line}");
    }
}

#[tokio::test]
async fn beside_a_running_server_it_says_so() {
    let node = Node::embedded();
    let (public, data) = (node.public.to_string(), node.dir.to_str().unwrap().to_owned());
    let found = doctor(&["--data-dir", &data, "--listen", &public, "--admin", "127.0.0.1:0"], &[]);
    let said = text(&found);
    assert!(said.contains(&format!("{public} is in use")) && said.contains(": in use"), "{said}");
}

#[cfg(feature = "real-kafka")]
#[tokio::test]
async fn it_knows_the_topics_of_a_real_kafka() {
    let node = crate::kafka::node().await;
    let found = doctor(&["--config", &node.args[1]], &[]);
    let (said, topic) = (text(&found), &node.topic.as_ref().unwrap().name);
    assert!(said.contains(&format!("{topic} has 4 partitions")), "{said}");
    assert!(said.contains(&format!("{topic}.events has")) && said.contains("is a member of"), "{said}");
    let text = std::fs::read_to_string(&node.args[1]).unwrap().replace("topics = [", "topics = [\"none-such\", ");
    let other = tempfile::tempdir().unwrap();
    let path = other.path().join("other.toml");
    std::fs::write(&path, text).unwrap();
    let found = doctor(&["--config", path.to_str().unwrap()], &[]);
    assert!(String::from_utf8_lossy(&found.stdout).contains("none-such does not exist"), "{found:?}");
}

/// The bug: `config check` generated the token key, and the server of another user could not read it.
#[test]
fn a_check_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let sample = outside.path().join("sample.json");
    std::fs::write(&sample, "{\"type\":\"order.paid\",\"order\":\"o1\",\"store\":\"17\"}").unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let exe = env!("CARGO_BIN_EXE_orderbell");
    for data in ["empty", "missing/deeper"] {
        let path = outside.path().join("chain.toml");
        std::fs::write(&path, format!("data_dir = \"{}\"\n{LOOPBACK}", dir.path().join(data).display())).unwrap();
        let path = path.to_str().unwrap();
        for (args, wanted) in [
            (&["config", "check", "--config", path][..], "ok: "),
            (&["doctor", "--config", path], "an fsync takes"),
            (&["mapping", "try", sample.to_str().unwrap(), "--config", path], "store:17 is notified"),
        ] {
            let done = Command::new(exe).args(args).current_dir(dir.path()).output().unwrap();
            assert!(text(&done).contains(wanted), "{args:?}: {done:?}");
            let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, ["empty"], "{args:?}");
            assert_eq!(std::fs::read_dir(dir.path().join("empty")).unwrap().count(), 0, "{args:?}");
        }
    }
}
