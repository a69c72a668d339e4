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

/// The newest records of a topic, in all of its partitions and with their keys; nothing of another topic, and no group.
#[cfg(feature = "real-kafka")]
#[tokio::test]
async fn the_mapping_doctor_reads_the_newest_records_of_a_real_topic() {
    use crate::chain::{now, until};
    use crate::kafka::{Topic, bootstrap};
    use serde_json::{Value, json};

    let (topic, other, empty) =
        (Topic::make(&bootstrap(), 2).await, Topic::make(&bootstrap(), 1).await, Topic::make(&bootstrap(), 1).await);
    let event = |kind: &str, n: u32| json!({"type": kind, "id": format!("e{n}"), "order": format!("o{n}"), "shop_id": "17", "amount": 500});
    topic.produces(&(0..20).map(|n| event("stock.counted", n)).collect::<Vec<_>>()).await;
    let earlier = now();
    until("the records that follow are newer", async || now() > earlier).await;
    topic.produces(&(20..30).map(|n| event("order.paid", n)).collect::<Vec<_>>()).await;
    other.produces(&[event("courier.moved", 1)]).await;

    let dir = tempfile::tempdir().unwrap();
    let kafka = |more: &str| {
        let text = format!(
            "{LOOPBACK}{more}\n[kafka]\nbootstrap = {:?}\ntopics = [{:?}]\ngroup = {:?}\n",
            topic.bootstrap, topic.name, topic.name
        );
        config(dir.path(), &text)
    };
    let examined = |name: &str, more: &str| {
        let args = ["mapping", "doctor", "--topic", name, "--last", "10", "--json", "--config", &kafka(more)];
        let done = Command::new(env!("CARGO_BIN_EXE_orderbell")).args(args).output().unwrap();
        let report: Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
        (done.status.code(), report, String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (code, report, said) = examined(&topic.name, "");
    assert_eq!((code, &report["records"]), (Some(1), &json!(10)), "{report} {said}");
    assert_eq!(
        report["types"],
        json!([{"name": "order.paid", "events": 10, "becomes": "order.paid", "notifying": 0, "rejected": 0}])
    );
    assert_eq!(report["proposed"], json!(["store = \"/shop_id\""]), "{report}");
    let key = "the record's key is the order in 10 of 10 records";
    assert!(report["findings"].as_array().unwrap().iter().any(|found| found["sentence"] == key), "{report}");
    let (code, report, said) = examined(&topic.name, "[mapping]\nstore = \"/shop_id\"");
    assert_eq!((code, &report["numbers"]["announced_orders"]), (Some(0), &json!(10)), "{report} {said}");
    let (code, _, said) = examined(&empty.name, "");
    assert!(code == Some(1) && said.contains("there are no records"), "{said}");
    let (code, _, said) = examined("none-such", "");
    assert!(code == Some(1) && said.contains("the brokers know no topic none-such"), "{said}");
    assert_eq!(topic.committed(2), 0, "it joins no group");
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

/// How `orderbell` begins in a shell in which this was done before.
fn after(script: &str) -> Vec<String> {
    ["sh", "-c", &format!("{script}; exec \"$@\""), "sh"].map(str::to_owned).to_vec()
}

/// Runs `config check` and `serve` on the same file: both must refuse it with exit code 3, for the same reason, which is returned.
fn refused(config: &str, prefix: &[String], env: &[(&str, &std::ffi::OsStr)]) -> String {
    let said = |args: &[&str]| {
        let mut words = prefix.to_vec();
        words.push(env!("CARGO_BIN_EXE_orderbell").into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(args).args(["--config", config]).env_remove("TZDIR").envs(env.iter().copied());
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(3), "{args:?}: {said}");
        said
    };
    let (checked, served) = (said(&["config", "check"]), said(&["serve"]));
    assert_eq!(checked, served);
    checked
}

/// The bugs: the limit of open files was compared by `serve` alone, and of a file in another encoding only its name was said.
#[test]
fn config_check_refuses_what_serve_refuses() {
    use std::os::unix::ffi::OsStrExt;

    let dir = tempfile::tempdir().unwrap();
    let good = config(dir.path(), &format!("{LOOPBACK}[mapping]\ntime_zone = \"Asia/Shanghai\"\n"));
    let few = refused(&good, &after("ulimit -n 512"), &[]);
    assert!(few.contains("open files are needed") && few.contains("512 are allowed: set LimitNOFILE="), "{few}");

    let zones = dir.path().join("zones");
    std::fs::create_dir_all(zones.join("Asia")).unwrap();
    std::fs::write(zones.join("Asia/Shanghai"), [&b"TZif2"[..], &[0xff; 100]].concat()).unwrap();
    let damaged = refused(&good, &after("true"), &[("TZDIR", zones.as_os_str())]);
    assert!(damaged.contains("orderbell.toml:6:13") && damaged.contains("Asia/Shanghai cannot be read"), "{damaged}");

    let gbk = dir.path().join("gbk.toml");
    std::fs::write(&gbk, b"[wall]\nname = \"\xc4\xcf\xbe\xa9\"\n").unwrap();
    let said = refused(gbk.to_str().unwrap(), &after("true"), &[]);
    assert!(said.contains("gbk.toml:2:9: this is not UTF-8 (perhaps GBK or Latin-1)"), "{said}");
    let name = std::ffi::OsStr::from_bytes(b"\xc4\xcf");
    let said = refused(&good, &after("true"), &[("ORDERBELL__WALL__NAME", name)]);
    assert!(said.contains("ORDERBELL__WALL__NAME: this is not UTF-8"), "{said}");
    assert!(!dir.path().join("data").exists(), "it changes nothing");
}

/// A byte order mark is no encoding of another kind.
#[test]
fn a_configuration_with_a_byte_order_mark_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), LOOPBACK);
    let without = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("\u{feff}{without}")).unwrap();
    let done =
        Command::new(env!("CARGO_BIN_EXE_orderbell")).args(["config", "check", "--config", &path]).output().unwrap();
    assert!(done.status.success() && text(&done).starts_with("ok: "), "{done:?}");
}

#[test]
fn config_check_sees_that_a_machine_has_no_zone_data() {
    let namespace = ["unshare", "-Urm"].map(str::to_owned);
    if !Command::new("unshare").args(["-Urm", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED, a machine without zone data: no mount namespace");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), &format!("{LOOPBACK}[mapping]\ntime_zone = \"Asia/Shanghai\"\n"));
    let prefix = [&namespace[..], &after("mount -t tmpfs none /usr/share/zoneinfo")].concat();
    let said = refused(&path, &prefix, &[]);
    assert!(said.contains("orderbell.toml:6:13") && said.contains("no time zone data: install tzdata"), "{said}");
}
