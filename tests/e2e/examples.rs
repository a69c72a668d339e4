//! The examples that people copy, run as they are.

use std::path::PathBuf;

use orderbell_lab::Process;

use crate::chain::Bell;

/// `target/<profile>/examples/NAME`: built by `cargo test` together with this test.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
    profile.join("examples").join(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_till_rings_and_ends() {
    let bell = Bell::embedded();
    let token = bell.token("store", "17");
    let server = bell.public.to_string();
    let mut till = Process::start(&example("till"), &[&server, "--once"], &[("ORDERBELL_TOKEN", &token)]);
    bell.pays("o1", "17").await;
    tokio::task::block_in_place(|| {
        till.out.wait_for("a ring", |line| line.starts_with("ring! new order o1").then_some(()))
    });
    assert!(tokio::task::block_in_place(|| till.ends()).success());
}
