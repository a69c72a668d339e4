//! The examples that people copy, run as they are.

use std::path::PathBuf;

use orderbell_lab::Process;
use tokio::task::block_in_place;

use crate::chain::{Node, until};

/// `target/<profile>/examples/NAME`: built by `cargo test` together with this test.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
    profile.join("examples").join(name)
}

fn run(name: &str, token: &str, args: &[&str]) -> Process {
    Process::start(&example(name), args, &[("ORDERBELL_TOKEN", token)])
}

fn says(process: &Process, start: &str) -> String {
    let line = |line: &str| line.starts_with(start).then(|| line.to_owned());
    block_in_place(|| process.out.wait_for(start, line))
}

fn ends_well(mut process: Process) {
    assert!(block_in_place(|| process.ends()).success());
}

/// An order is made, accepted by the till, and its code shown on the phone: three programs that a newcomer can copy.
async fn a_chain_of_three(node: &Node, produce: &[&str]) {
    let server = node.public.to_string();
    let till = run("till", &node.token("store", "1"), &[&server, "--accept", "A17", "--once"]);
    let phone = run("customer", &node.token("customer", "c7"), &[&server, "--once"]);
    says(&till, "connectivity: Push");
    let produce: Vec<&str> = produce.iter().chain(&["--stores", "1", "--once"]).copied().collect();
    ends_well(run("produce", &node.token("producer", "me"), &produce));
    says(&till, "ring! new order");
    assert!(says(&phone, "order ").ends_with("is accepted, pickup code A17"));
    assert!(says(&till, "order ").ends_with("is accepted, pickup code A17"));
    ends_well(till);
    ends_well(phone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_goes_through_the_three_examples() {
    let node = Node::embedded();
    let server = node.public.to_string();
    a_chain_of_three(&node, &["--http", &server]).await;
}

#[cfg(feature = "real-kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_goes_through_the_three_examples_on_kafka() {
    let node = crate::kafka::node().await;
    let topic = node.topic.as_ref().unwrap();
    a_chain_of_three(&node, &["--kafka", &topic.bootstrap, "--topic", &topic.name]).await;
}

/// A till that was killed, and a server that was killed, and everything rings once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_till_goes_on_where_it_was() {
    let mut node = Node::embedded();
    node.stays_at_one_address();
    let (server, token) = (node.public.to_string(), node.token("store", "17"));
    let state = node.dir.with_file_name("till.json");
    let args = [server.as_str(), "--state", state.to_str().unwrap()];
    let mut till = run("till", &token, &args);
    says(&till, "connectivity: Push");
    node.pays("o1", "17").await;
    says(&till, "ring! new order o1");
    until("it is kept", async || std::fs::read_to_string(&state).is_ok_and(|text| !text.contains("\"known\":[]")))
        .await;
    till.kill();
    node.pays("o2", "17").await;
    let till = run("till", &token, &args);
    says(&till, "ring! new order o2");
    assert!(!till.out.text().contains("new order o1"), "it rang again: {}", till.out.text());
    node.restart();
    node.pays("o3", "17").await;
    says(&till, "ring! new order o3");
    assert_eq!(till.out.text().matches("ring!").count(), 2, "{}", till.out.text());
    // What rang before it was killed can be taken back.
    node.happens(&[crate::chain::event("order.cancelled", "o1", serde_json::json!({"store": "17"}))]).await;
    says(&till, "order o1 is cancelled");
}

/// Also where its disk takes no state for a while: it ends, and what it could not store comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_till_in_ten_lines_goes_on_where_it_was() {
    let node = Node::embedded();
    let (server, token) = (node.public.to_string(), node.token("store", "17"));
    let state = node.dir.with_file_name("small-till.json");
    let args = [server.as_str(), state.to_str().unwrap()];
    let receives = |till: &Process, order: &str| {
        let line = |line: &str| (line.starts_with("Notice(") && line.contains(&format!("\"{order}\""))).then_some(());
        block_in_place(|| till.out.wait_for(order, line));
    };
    let mut till = run("small_till", &token, &args);
    says(&till, "Connectivity(Push)");
    node.pays("o1", "17").await;
    receives(&till, "o1");
    until("it is kept", async || std::fs::read_to_string(&state).is_ok_and(|text| !text.contains("\"known\":[]")))
        .await;
    till.kill();
    node.pays("o2", "17").await;
    // A directory in the place of the temporary file stands for a disk that takes nothing.
    let temporary = state.with_added_extension("new");
    std::fs::create_dir(&temporary).unwrap();
    let mut full = run("small_till", &token, &args);
    assert_eq!(block_in_place(|| full.ends()).code(), Some(1), "{}", full.out.text());
    assert!(full.err.text().contains("small-till.json"), "{}", full.err.text());
    std::fs::remove_dir(&temporary).unwrap();
    let till = run("small_till", &token, &[args[0], args[1], "--once"]);
    receives(&till, "o2");
    assert!(!till.out.text().contains("\"o1\""), "it came again: {}", till.out.text());
    ends_well(till);
}

/// A script that starts a till must see that the till never ran.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_till_and_a_phone_whose_token_is_refused_exit_with_an_error() {
    let node = Node::embedded();
    let server = format!("http://localhost:{}", node.public.port());
    let expired = node.tokens().mint("store", "1", None, orderbell_protocol::UnixMs(0), 1).unwrap();
    for (example, token) in [("till", "no token"), ("till", expired.as_str()), ("customer", "no token")] {
        let mut process = run(example, token, &[&server, "--once"]);
        let status = block_in_place(|| process.ends());
        assert_eq!(status.code(), Some(1), "{example}: {}", process.err.text());
        assert!(process.err.text().contains("the token is invalid or has expired"), "{}", process.err.text());
    }
}
