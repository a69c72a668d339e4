//! A customer's phone: shows the pickup code, and that the order can be collected.
//!
//! ```sh
//! export ORDERBELL_TOKEN=$(orderbell token customer c1)
//! cargo run --example customer -- http://localhost:8377        # until Ctrl-C
//! cargo run --example customer -- http://localhost:8377 --once # until the first pickup code
//! ```
//!
//! A phone stores no state: whenever it comes to the foreground it fetches the open orders and continues from their position.

use std::error::Error;
use std::ops::ControlFlow;

use orderbell_client::{App, ClientError, Endpoint, MailboxClient};
use orderbell_protocol::NoticeKind;
use orderbell_protocol::client::{Connectivity, Output, PersistedState, Timings};
use tokio::sync::mpsc;

struct Phone {
    once: bool,
    /// Why it ended too early.
    refused: Option<&'static str>,
}

impl Phone {
    fn show(&self, order: &str, state: &str, pickup_code: Option<&str>) -> ControlFlow<()> {
        println!(
            "order {order} is {state}{}",
            pickup_code.map_or(String::new(), |code| format!(", pickup code {code}"))
        );
        if self.once && pickup_code.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl App for Phone {
    fn on_output(&mut self, output: Output) -> ControlFlow<()> {
        match output {
            Output::Notice(notice) => {
                let notice = notice.notice;
                let state = match notice.kind {
                    NoticeKind::PickupCode => "accepted",
                    NoticeKind::Ready => "ready",
                    NoticeKind::OrderRefused => "refused",
                    NoticeKind::Cancelled => "cancelled",
                    // Kinds that a client does not show, or does not know yet, it ignores.
                    _ => return ControlFlow::Continue(()),
                };
                self.show(&notice.order, state, notice.body["pickup_code"].as_str())
            }
            Output::OpenOrders(orders) => orders
                .iter()
                .try_for_each(|order| self.show(&order.order, order.stage.word(), order.body["pickup_code"].as_str())),
            Output::Connectivity(Connectivity::Unreachable) | Output::Stale(true) => {
                println!("the orders shown may be out of date: ask at the counter");
                ControlFlow::Continue(())
            }
            Output::TokenNeeded => {
                self.refused = Some("the token is invalid or has expired");
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn persist(&mut self, _saved: &PersistedState) -> std::io::Result<()> {
        Ok(())
    }

    fn on_failure(&mut self, error: &ClientError) {
        eprintln!("{}", error.with_sources());
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let server: Endpoint = args.next().ok_or("customer URL [--once]")?.parse()?;
    let token = std::env::var("ORDERBELL_TOKEN").map_err(|_| "ORDERBELL_TOKEN holds no token")?;
    let mut phone = Phone { once: args.any(|word| word == "--once"), refused: None };
    let seed = u64::from(std::process::id());
    let client =
        MailboxClient::new(server, &token, "example-phone", PersistedState::default(), Timings::default(), seed);
    // This phone sends no events.
    let (_, inputs) = mpsc::channel(1);
    tokio::select! {
        ended = client.run(&mut phone, inputs) => phone.refused.map_or(Ok(ended?), |why| Err(why.into())),
        ended = tokio::signal::ctrl_c() => Ok(ended?),
    }
}
