//! A till: rings for new orders, stores its state, reconnects by itself, and can accept the orders that ring.
//!
//! ```sh
//! export ORDERBELL_TOKEN=$(orderbell token store 17)
//! cargo run --example till -- http://localhost:8377              # until Ctrl-C
//! cargo run --example till -- http://localhost:8377 --once       # until the first order
//! cargo run --example till -- http://localhost:8377 --accept A17 # accepts each with this pickup code
//! ```
//!
//! The client machine resumes, drops duplicates, checks the chain, and polls while it has no WebSocket. A till itself decides what to do with a
//! notice, where to store its state, and whom to ask when the server is unreachable.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::ops::ControlFlow;

use orderbell_client::{App, ClientError, Endpoint, MailboxClient, StateFile};
use orderbell_protocol::client::{Connectivity, Input, Output, PersistedState, Timings};
use orderbell_protocol::event::PickupCode;
use orderbell_protocol::frame::{NoticeFrame, OpenOrder, OrderEnd, OrderStage};
use orderbell_protocol::{ClientEvent, CloseKind, NoticeKind};
use tokio::sync::mpsc;

struct Till {
    /// Orders that ring: the id of the notice, and the order.
    ringing: HashMap<String, String>,
    file: Option<StateFile>,
    once: bool,
    accept: Option<String>,
    /// Why it ended too early.
    refused: Option<&'static str>,
    inputs: mpsc::Sender<Input<'static>>,
}

impl Till {
    fn ring(&mut self, order: &str, notice: &str, body: &serde_json::Value) -> ControlFlow<()> {
        println!("ring! new order {order}: {body}");
        self.ringing.insert(notice.into(), order.into());
        if let Some(pickup_code) = &self.accept {
            let event = ClientEvent {
                // The id is derived from the order: a repeated event has the same id and is ignored.
                id: format!("accept-{order}"),
                kind: "order.accepted".into(),
                order: order.into(),
                pickup_code: Some(PickupCode(pickup_code.clone())),
                reason: None,
                at: None,
            };
            if self.inputs.try_send(Input::Event(event)).is_err() {
                eprintln!("order {order} must be accepted by hand: too many at once");
            }
        }
        if self.once && self.accept.is_none() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn notice(&mut self, notice: &NoticeFrame) -> ControlFlow<()> {
        let notice = &notice.notice;
        match notice.kind {
            NoticeKind::NewOrder => return self.ring(&notice.order, &notice.id, &notice.body),
            NoticeKind::OrderAccepted => {
                let pickup_code = notice.body["pickup_code"].as_str().unwrap_or("none");
                println!("order {} is accepted, pickup code {pickup_code}", notice.order);
                self.ringing.retain(|_, order| *order != notice.order);
                if self.once {
                    return ControlFlow::Break(());
                }
            }
            // Only if the order rang here.
            NoticeKind::Cancelled | NoticeKind::OrderRefused
                if notice.body["cancels"].as_str().is_some_and(|id| self.ringing.remove(id).is_some()) =>
            {
                println!("order {} is cancelled", notice.order);
            }
            NoticeKind::EventRejected => {
                let end = notice.event_rejected().and_then(|rejected| rejected.reason).unwrap_or(OrderEnd::Unknown);
                println!("order {}: too late, it is {end}", notice.order);
            }
            // Kinds that a client does not show, or does not know yet, it ignores.
            _ => {}
        }
        ControlFlow::Continue(())
    }

    /// The open orders replace what the till has: at the first start, and after a resync.
    fn open_orders(&mut self, orders: Vec<OpenOrder>) -> ControlFlow<()> {
        println!("{} open orders", orders.len());
        for order in orders.iter().filter(|order| order.stage == OrderStage::Paid) {
            let notice = order.notice.as_deref().unwrap_or(&order.order);
            if !self.ringing.contains_key(notice) {
                self.ring(&order.order, notice, &order.body)?;
            }
        }
        // An order that is not listed has ended; one in a later stage was accepted.
        let is_paid = |order: &OpenOrder, id: &String| order.order == *id && order.stage == OrderStage::Paid;
        self.ringing.retain(|_, id| orders.iter().any(|order| is_paid(order, id)));
        ControlFlow::Continue(())
    }
}

impl App for Till {
    fn on_output(&mut self, output: Output) -> ControlFlow<()> {
        match output {
            Output::Notice(notice) => return self.notice(&notice),
            Output::OpenOrders(orders) => return self.open_orders(orders),
            Output::EventResult { id, rejected: Some(why) } => println!("event {id} was rejected: {why}"),
            // A real till would query the order system itself until the server is reachable and fresh again.
            Output::Connectivity(Connectivity::Unreachable) => {
                println!("the server is unreachable: query the order system")
            }
            Output::Stale(true) => println!("the server's data is stale: query the order system"),
            Output::Stale(false) => println!("the server's data is current again"),
            Output::Connectivity(Connectivity::Superseded) => {
                self.refused = Some("another till uses this --device: give each till its own");
                return ControlFlow::Break(());
            }
            Output::Connectivity(connectivity) => println!("connectivity: {connectivity:?}"),
            Output::Fault(code, why) => {
                let kind = CloseKind::from_code(code).map_or("HTTP error", CloseKind::word);
                eprintln!("the server reports a fault of this till: {kind} ({code}) {why}");
            }
            Output::TokenNeeded => {
                self.refused = Some("the token is invalid or has expired");
                return ControlFlow::Break(());
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    /// The ringing orders are part of the state; otherwise a cancellation after a restart would not find the order that it stops. A till that cannot
    /// store its state ends with the error, and what it did not acknowledge rings again.
    fn persist(&mut self, saved: &PersistedState) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        file.save(&serde_json::json!({ "saved": saved, "ringing": self.ringing }))
    }

    /// The client tries again by itself; who installs the till must see a wrong name or an untrusted certificate.
    fn on_failure(&mut self, error: &ClientError) {
        eprintln!("{}", error.with_sources());
    }
}

/// The content of the state file.
#[derive(Default, serde::Deserialize)]
struct State {
    saved: PersistedState,
    ringing: HashMap<String, String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let usage = "till URL [--device ID] [--state FILE] [--accept PICKUP_CODE] [--once]";
    let mut args = std::env::args().skip(1);
    let server: Endpoint = args.next().ok_or(usage)?.parse()?;
    let token = std::env::var("ORDERBELL_TOKEN").map_err(|_| "ORDERBELL_TOKEN holds no token")?;
    let (inputs, receiver) = mpsc::channel(4096);
    let mut till = Till { ringing: HashMap::new(), file: None, once: false, accept: None, refused: None, inputs };
    let mut device = String::from("example-till");
    while let Some(word) = args.next() {
        match word.as_str() {
            "--once" => till.once = true,
            "--device" => device = args.next().ok_or(usage)?,
            "--state" => till.file = Some(StateFile::new(args.next().ok_or(usage)?)),
            "--accept" => till.accept = Some(args.next().ok_or(usage)?),
            _ => return Err(usage.into()),
        }
    }
    // After damage the till begins with the open orders, and rings once too often rather than never.
    let on_damage = |damage| eprintln!("{damage}");
    let stored: Option<State> = till.file.as_ref().map(|file| file.load(on_damage)).transpose()?;
    let State { saved, ringing } = stored.unwrap_or_default();
    till.ringing = ringing;
    let seed = u64::from(std::process::id());
    let client = MailboxClient::new(server, &token, &device, saved, Timings::default(), seed);
    tokio::select! {
        ended = client.run(&mut till, receiver) => till.refused.map_or(Ok(ended?), |why| Err(why.into())),
        ended = tokio::signal::ctrl_c() => Ok(ended?),
    }
}
