//! A till: rings, keeps what it heard, comes back by itself, and can accept what rings.
//!
//! ```sh
//! export ORDERBELL_TOKEN=$(orderbell token store 17)
//! cargo run --example till -- 127.0.0.1:8377                  # until Ctrl-C
//! cargo run --example till -- 127.0.0.1:8377 --once           # until the first order
//! cargo run --example till -- 127.0.0.1:8377 --accept A17     # accepts each with this code
//! ```
//!
//! Resuming, repeats, the chain, polling while there is no socket: the client machine does it. What is left to a till is here: what to do
//! with what it hears, where to keep it, and whom to ask when nobody is heard.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use orderbell::client::{App, Device};
use orderbell_protocol::client::{Input, Link, Output, Pace, Saved};
use orderbell_protocol::event::PickupCode;
use orderbell_protocol::frame::{NoticeFrame, OpenOrder};
use orderbell_protocol::{ClientEvent, NoticeKind};
use tokio::sync::mpsc;

struct Till {
    /// Orders that rang here and are not over: the id of the notice that rang, and the order.
    ringing: HashMap<String, String>,
    file: Option<PathBuf>,
    once: bool,
    accept: Option<String>,
    say: mpsc::Sender<Input<'static>>,
}

impl Till {
    fn ring(&mut self, order: &str, notice: &str, body: &serde_json::Value) -> ControlFlow<()> {
        println!("ring! new order {order}: {body}");
        self.ringing.insert(notice.into(), order.into());
        if let Some(code) = &self.accept {
            let event = ClientEvent {
                // The same answer has the same id, however often it is given.
                id: format!("accept-{order}"),
                kind: "order.accepted".into(),
                order: order.into(),
                code: Some(PickupCode(code.clone())),
                reason: None,
                at: None,
            };
            if self.say.try_send(Input::Say(event)).is_err() {
                eprintln!("order {order} waits to be accepted by hand: too many at once");
            }
        }
        if self.once && self.accept.is_none() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn notice(&mut self, notice: &NoticeFrame) -> ControlFlow<()> {
        let told = &notice.notice;
        match told.kind {
            NoticeKind::NewOrder => return self.ring(&told.order, &told.id, &told.body),
            NoticeKind::Taken => {
                println!("order {} is taken, code {}", told.order, told.body["code"].as_str().unwrap_or("none"));
                self.ringing.retain(|_, order| *order != told.order);
                if self.once {
                    return ControlFlow::Break(());
                }
            }
            NoticeKind::Cancelled | NoticeKind::Refused => {
                // Silent, unless the order rang here.
                if told.body["cancels"].as_str().is_some_and(|id| self.ringing.remove(id).is_some()) {
                    println!("order {} is off: stop", told.order);
                }
            }
            NoticeKind::Declined => println!("order {}: too late, it was {}", told.order, told.body["reason"]),
            NoticeKind::PickupCode | NoticeKind::Ready | NoticeKind::Unknown => {}
        }
        ControlFlow::Continue(())
    }

    /// What is open takes the place of what we had: for a new till, and after the server's history began anew.
    fn open(&mut self, orders: Vec<OpenOrder>) -> ControlFlow<()> {
        println!("{} open orders", orders.len());
        for order in orders.iter().filter(|order| order.stage == "paid") {
            let notice = order.notice.as_deref().unwrap_or(&order.order);
            if !self.ringing.contains_key(notice) {
                self.ring(&order.order, notice, &order.body)?;
            }
        }
        // What is not listed is over, and what is listed as accepted somebody took.
        let rings = |order: &OpenOrder, ringing: &String| order.order == *ringing && order.stage == "paid";
        self.ringing.retain(|_, ringing| orders.iter().any(|order| rings(order, ringing)));
        ControlFlow::Continue(())
    }
}

impl App for Till {
    fn told(&mut self, told: Output) -> ControlFlow<()> {
        match told {
            Output::Notice(notice) => return self.notice(&notice),
            Output::OpenOrders(orders) => return self.open(orders),
            Output::Answered { id, refused: Some(why) } => println!("{id} was not taken: {why}"),
            // Here a real till would ask the order system itself, until it hears otherwise.
            Output::Link(Link::Unreachable) => println!("nobody is heard: ask the order system"),
            Output::Stale(true) => println!("what the server knows is old: ask the order system"),
            Output::Stale(false) => println!("what the server knows is new again"),
            Output::Link(Link::Replaced) => {
                eprintln!("another till has this --device: give each its own");
                return ControlFlow::Break(());
            }
            Output::Link(link) => println!("link: {link:?}"),
            Output::Fault(code, why) => eprintln!("the server complains of this till: {code} {why}"),
            Output::TokenNeeded => {
                eprintln!("the token is not good (any more)");
                return ControlFlow::Break(());
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    /// Written aside and moved into place: a till that loses its power has the old one or the new one. What rings here belongs to it, or a
    /// cancel after the next start would find nothing to take back.
    fn keep(&mut self, saved: &Saved) {
        let Some(file) = &self.file else { return };
        let aside = file.with_added_extension("new");
        let state = serde_json::json!({ "saved": saved, "ringing": self.ringing });
        let written = std::fs::write(&aside, state.to_string())
            .and_then(|()| std::fs::File::open(&aside)?.sync_all())
            .and_then(|()| std::fs::rename(&aside, file));
        if let Err(error) = written {
            // What cannot be kept must not be acknowledged.
            eprintln!("{}: {error}", file.display());
            std::process::exit(1);
        }
    }
}

/// What was kept. A file that cannot be read is none: the till begins with the open orders, and rings once too often rather than never.
fn kept(file: Option<&Path>) -> (Saved, HashMap<String, String>) {
    #[derive(Default, serde::Deserialize)]
    struct Kept {
        saved: Saved,
        ringing: HashMap<String, String>,
    }
    let Some(bytes) = file.and_then(|file| std::fs::read(file).ok()) else { return Default::default() };
    let kept: Kept = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        eprintln!("what was kept cannot be read ({error}): beginning with the open orders");
        Kept::default()
    });
    (kept.saved, kept.ringing)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let usage = "till ADDRESS [--device ID] [--state FILE] [--accept CODE] [--once]";
    let mut args = std::env::args().skip(1);
    let server: SocketAddr = args.next().ok_or(usage)?.parse()?;
    let token = std::env::var("ORDERBELL_TOKEN").map_err(|_| "ORDERBELL_TOKEN holds no token")?;
    let (say, said) = mpsc::channel(4096);
    let mut till = Till { ringing: HashMap::new(), file: None, once: false, accept: None, say };
    let mut device = String::from("example-till");
    while let Some(word) = args.next() {
        match word.as_str() {
            "--once" => till.once = true,
            "--device" => device = args.next().ok_or(usage)?,
            "--state" => till.file = Some(args.next().ok_or(usage)?.into()),
            "--accept" => till.accept = Some(args.next().ok_or(usage)?),
            _ => return Err(usage.into()),
        }
    }
    let (saved, ringing) = kept(till.file.as_deref());
    till.ringing = ringing;
    let seed = u64::from(std::process::id());
    let device = Device::new(server, &token, &device, saved, Pace::default(), seed);
    tokio::select! {
        () = device.run(&mut till, said) => Ok(()),
        ended = tokio::signal::ctrl_c() => Ok(ended?),
    }
}
