//! A till in ten lines: it prints what it receives, and goes on after a restart where it was.
//!
//! ```sh
//! export ORDERBELL_TOKEN=$(orderbell token store 17)
//! cargo run --example small_till -- http://localhost:8377 till.json        # until Ctrl-C
//! cargo run --example small_till -- http://localhost:8377 till.json --once # until the first notice
//! ```
//!
//! `till.rs` is the complete one: it rings, stops ringing, accepts orders, and says what to do when the server is unreachable.

use std::error::Error;
use std::ops::ControlFlow;

use orderbell_client::protocol::client::{Output, Timings};
use orderbell_client::{Endpoint, MailboxClient, StateFile};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let usage = "small_till URL FILE [--once]";
    let mut args = std::env::args().skip(1);
    let server: Endpoint = args.next().ok_or(usage)?.parse()?;
    let file = StateFile::new(args.next().ok_or(usage)?);
    let once = args.next().is_some();
    let token = std::env::var("ORDERBELL_TOKEN").map_err(|_| "ORDERBELL_TOKEN holds no token")?;

    // The ten lines.
    let state = file.load(|damage| eprintln!("{damage}"))?;
    let seed = std::process::id().into();
    let client = MailboxClient::new(server, &token, "small-till", state, Timings::default(), seed);
    let mut till = file.app(|output| {
        println!("{output:?}");
        if once && matches!(output, Output::Notice(_)) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let (_events, inputs) = mpsc::channel(16);
    client.run(&mut till, inputs).await?;
    Ok(())
}
