//! The SDK against the real server: in Node behind bad networks, and in a mini-program as WeChat treats one. What it does in a browser is in
//! [`crate::pages`]; a whole day of a till on it in [`crate::outside`].

use std::path::PathBuf;
use std::process::{Command, Stdio};

use orderbell_lab::{Process, patience};
use tokio::task::block_in_place;

use crate::chain::Node;

fn script_ends_well(name: &str, node: &Node) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let fetched = root.join(".cache/outside");
    assert!(fetched.exists(), "{} is not there: tests/run.sh fetches it", fetched.display());
    let child = Command::new("node")
        .current_dir(fetched)
        .args([root.join("tests/sdk").join(name).to_str().unwrap(), &format!("http://{}", node.public)])
        .env("PRODUCER_TOKEN", node.token("producer", "p"))
        .env("STORE_TOKEN", node.token("store", "17"))
        .env("CUSTOMER_TOKEN", node.token("customer", "c1"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("node can be started");
    let mut process = Process::follow(child);
    let ended = block_in_place(|| process.ends_within(patience() * 3));
    assert!(ended.success() && process.out.text().contains("all is well"), "{}", process.err.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_till_comes_through_networks_that_are_cut_blackholed_and_slow() {
    let node = Node::configured("[sessions]\nheartbeat_interval = \"1s\"\n");
    script_ends_well("networks.mjs", &node);
    assert_eq!(node.metric("orderbell_notices_nacked_total").await, 1, "the notice at which its application threw");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_in_a_mini_program_sleeps_and_wakes_as_wechat_has_it() {
    script_ends_well("wx.mjs", &Node::embedded());
}
