//! A real Kafka for trying things by hand: prints where it listens and runs until Enter or the end of its input.
//!
//! ```sh
//! tests/run.sh            # once: fetches Kafka's jars
//! cargo run -p orderbell-lab --example broker
//! ```

use std::path::PathBuf;

fn main() {
    let dir = std::env::args()
        .nth(1)
        .map_or_else(|| std::env::temp_dir().join(format!("broker-{}", std::process::id())), PathBuf::from);
    let broker = orderbell_lab::broker::Broker::start(&dir);
    println!("{}", broker.bootstrap());
    let _until_then = std::io::stdin().read_line(&mut String::new());
    drop(broker);
}
