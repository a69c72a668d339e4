//! A customer's phone: shows the pickup code, and when the order can be collected.
//!
//! ```sh
//! export ORDERBELL_TOKEN=$(orderbell token customer c1)
//! cargo run --example customer -- 127.0.0.1:8377            # until Ctrl-C
//! cargo run --example customer -- 127.0.0.1:8377 --once     # until the first code
//! ```
//!
//! A phone keeps nothing: whenever it comes to the foreground it asks what is open, and goes on from there.

use std::error::Error;
use std::net::SocketAddr;
use std::ops::ControlFlow;

use orderbell::client::{App, Device};
use orderbell_protocol::NoticeKind;
use orderbell_protocol::client::{Link, Output, Pace, Saved};
use tokio::sync::mpsc;

struct Phone {
    once: bool,
}

impl Phone {
    fn shows(&self, order: &str, stage: &str, code: Option<&str>) -> ControlFlow<()> {
        println!("order {order} is {stage}{}", code.map_or(String::new(), |code| format!(", pickup code {code}")));
        if self.once && code.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl App for Phone {
    fn told(&mut self, told: Output) -> ControlFlow<()> {
        match told {
            Output::Notice(notice) => {
                let told = notice.notice;
                let stage = match told.kind {
                    NoticeKind::PickupCode => "accepted",
                    NoticeKind::Ready => "ready",
                    NoticeKind::Refused => "refused",
                    NoticeKind::Cancelled => "cancelled",
                    NoticeKind::NewOrder | NoticeKind::Taken | NoticeKind::Declined | NoticeKind::Unknown => {
                        return ControlFlow::Continue(());
                    }
                };
                self.shows(&told.order, stage, told.body["code"].as_str())
            }
            Output::OpenOrders(orders) => {
                orders.iter().try_for_each(|order| self.shows(&order.order, &order.stage, order.body["code"].as_str()))
            }
            Output::Link(Link::Unreachable) | Output::Stale(true) => {
                println!("what you see may be old: ask at the counter");
                ControlFlow::Continue(())
            }
            Output::TokenNeeded => {
                eprintln!("the token is not good (any more)");
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn keep(&mut self, _saved: &Saved) {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let server: SocketAddr = args.next().ok_or("customer ADDRESS [--once]")?.parse()?;
    let token = std::env::var("ORDERBELL_TOKEN").map_err(|_| "ORDERBELL_TOKEN holds no token")?;
    let mut phone = Phone { once: args.any(|word| word == "--once") };
    let seed = u64::from(std::process::id());
    let device = Device::new(server, &token, "example-phone", Saved::default(), Pace::default(), seed);
    // Nothing is said here.
    let (_, said) = mpsc::channel(1);
    tokio::select! {
        () = device.run(&mut phone, said) => Ok(()),
        ended = tokio::signal::ctrl_c() => Ok(ended?),
    }
}
