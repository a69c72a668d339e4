//! The pages in a real Chromium: driven by keys and clicks in both languages, at all sizes, looked at by axe-core; screenshots are kept in
//! `target/screenshots`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use orderbell_lab::{Process, patience};
use serde_json::json;
use tokio::task::block_in_place;

use crate::chain::{Node, event, now};

const NAMES: [&str; 6] = ["Nanjing Road", "People's Square", "West Lake", "Old Town", "Riverside", "人民广场"];
const CITIES: [&str; 4] = ["Shanghai", "Hangzhou", "成都", "Shenzhen"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A script looks at dozens of pages; each of its steps has the usual patience.
fn script_patience() -> Duration {
    patience() * 6
}

/// A script of `tests/pages` that runs, and asks for things.
struct Script {
    process: Process,
    answers: ChildStdin,
}

/// A chain with names, and orders of yesterday and today.
async fn a_chain() -> Node {
    let temp = tempfile::tempdir().unwrap();
    let (dir, config, stores) =
        (temp.path().join("data"), temp.path().join("orderbell.toml"), temp.path().join("stores.csv"));
    let rows: String =
        (1..=40).map(|n| format!("{n},{} {n},{}\n", NAMES[n % NAMES.len()], CITIES[n % CITIES.len()])).collect();
    std::fs::write(&stores, format!("id,name,city\n{rows}")).unwrap();
    let text = crate::wall::config().replace("Noon & Co", "Golden Bowl 金碗");
    std::fs::write(&config, format!("{text}stores = \"{}\"\n", stores.display())).unwrap();
    let mut node = Node::with(temp, dir, vec!["--config".to_owned(), config.to_str().unwrap().to_owned()]);
    node.stays_at_one_address();
    let mut dice = orderbell_lab::Dice(3);
    let day = 24 * 60;
    for began in [day + 12 * 60, 12 * 60] {
        let mut events = Vec::new();
        for minute in 0..began.min(day) {
            for n in 0..dice.below(4) {
                let order = format!("d{began}-{minute}-{n}");
                let at = now().0 - (began - minute) as i64 * 60_000;
                let (store, amount) = ((1 + dice.below(40)).to_string(), 900 + dice.below(60_000));
                events.push(event(
                    "order.created",
                    &order,
                    json!({"store": store, "amount": amount, "time": at - 9_000}),
                ));
                events.push(event("order.paid", &order, json!({"store": store, "amount": amount, "time": at})));
                if began - minute < 60 {
                    let later = |s: i64| at + s * 1000;
                    events.push(event("order.accepted", &order, json!({"pickup_code": "A1", "time": later(45)})));
                    events.push(event("order.ready", &order, json!({"time": later(400)})));
                    events.push(event("order.picked_up", &order, json!({"time": later(700)})));
                }
            }
        }
        node.happens(&events).await;
    }
    node
}

impl Script {
    fn starts(name: &str, node: &Node) -> Self {
        Self::starts_at(node.public, name, node)
    }

    /// Looks at the pages of this listener.
    fn starts_at(listener: SocketAddr, name: &str, node: &Node) -> Self {
        let fetched = root().join(".cache/pages");
        assert!(fetched.exists(), "{} is not there: tests/run.sh fetches it", fetched.display());
        let shots = root().join("target/screenshots");
        std::fs::create_dir_all(&shots).unwrap();
        let mut child = Command::new("node")
            .current_dir(fetched)
            .args([root().join("tests/pages").join(name).to_str().unwrap(), &format!("http://{listener}")])
            .arg(shots)
            .env("PUBLIC", format!("http://{}", node.public))
            .env("PRODUCER_TOKEN", node.token("producer", "p"))
            .env("WALL_TOKEN", node.token("wall", "lobby"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("node can be started");
        let answers = child.stdin.take().expect("its input is piped");
        Self { process: Process::follow(child), answers }
    }

    /// Waits until it asks for this, and says that it is done.
    fn asks(&self, what: &str) {
        self.process
            .out
            .wait_within(script_patience(), what, |line| (line == what || line.ends_with("faults")).then_some(()));
    }

    fn done(&mut self) {
        let _ended = writeln!(self.answers, "done");
    }

    fn ends_well(mut self) {
        let ended = self.process.ends_within(script_patience());
        assert!(ended.success(), "{}", self.process.err.text());
    }
}

/// The server under the page goes away, and comes back.
fn stops_and_starts(mut script: Script, node: &mut Node) {
    block_in_place(|| {
        script.asks("stop the server");
        node.process.kill();
        script.done();
        script.asks("start the server");
        node.restart();
        script.done();
        script.ends_well();
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wall_is_fit_to_be_hung_up() {
    let mut node = a_chain().await;
    let script = Script::starts("wall.js", &node);
    stops_and_starts(script, &mut node);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_goes_from_a_phone_to_a_till_and_its_code_back() {
    let mut node = Node::configured("[sessions]\nheartbeat_interval = \"1s\"\n");
    node.args.push("--playground".into());
    node.stays_at_one_address();
    let script = Script::starts("playground.js", &node);
    stops_and_starts(script, &mut node);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_shows_the_alerts() {
    let mut node = a_chain().await;
    // Paid a second time, at another store: refused, and somebody has to look at it.
    node.pays("waits", "7").await;
    for store in ["8", "9", "10"] {
        node.pays("waits", store).await;
    }
    // A till that takes what is sent and acknowledges nothing.
    let unresponsive = node.till("7", "till-7").await;
    let script = Script::starts_at(node.admin, "console.js", &node);
    stops_and_starts(script, &mut node);
    drop(unresponsive);
}
