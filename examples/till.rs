//! A till in one page: connect, keep, acknowledge, come back.
//!
//! ```sh
//! export ORDERBELL_TOKEN=$(orderbell token store 17)
//! cargo run --example till -- 127.0.0.1:8377            # until Ctrl-C
//! cargo run --example till -- 127.0.0.1:8377 --once     # until the first order
//! ```
//!
//! What every till does: it keeps the position of the last notice that it kept, hands it back when it connects again, drops what it knows,
//! and asks by poll while it cannot connect. A real one would keep notices and position on disk before it acknowledges.

use std::collections::HashSet;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use orderbell::client::{Heard, Http, Socket};
use orderbell_protocol::frame::NoticeFrame;
use orderbell_protocol::{NoticeKind, Position, ServerFrame};

/// First and longest wait before connecting again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
const DEVICE: &str = "example-till";

#[derive(Default)]
struct Till {
    position: Option<Position>,
    known: HashSet<String>,
    once: bool,
}

impl Till {
    /// Keeps a notice and rings; true when that was all we wanted.
    fn keep(&mut self, notice: &NoticeFrame) -> bool {
        if !self.known.insert(notice.notice.id.clone()) {
            return false;
        }
        self.position = Some(notice.position);
        let order = &notice.notice.order;
        match notice.notice.kind {
            NoticeKind::NewOrder => println!("ring! new order {order}: {}", notice.notice.body),
            NoticeKind::Cancelled | NoticeKind::Refused => {
                // Silent, unless the order rang here.
                let rang = notice.notice.body["cancels"].as_str().is_some_and(|id| self.known.contains(id));
                println!("order {order} is off{}", if rang { ": stop cooking" } else { "" });
            }
            _ => println!("order {order}: {:?}", notice.notice.kind),
        }
        self.once && notice.notice.kind == NoticeKind::NewOrder
    }

    /// Listens until the socket ends, or until we have what we wanted. How long the server wants us to stay away, if it said so.
    async fn listen(&mut self, mut socket: Socket) -> Result<Option<Duration>, Box<dyn Error>> {
        let mut away = None;
        loop {
            match socket.next().await? {
                Heard::Notice(notice) => {
                    let enough = self.keep(&notice);
                    socket.ack(notice.position).await?;
                    if enough {
                        std::process::exit(0);
                    }
                }
                Heard::Frame(ServerFrame::Leave { retry_ms }) => {
                    away = Some(Duration::from_millis(u64::from(retry_ms)))
                }
                Heard::Frame(_) => {}
                Heard::Closed(Some((4200, why))) => {
                    eprintln!("our position is of no use any more ({why}): starting without one");
                    self.position = None;
                    return Ok(Some(Duration::ZERO));
                }
                Heard::Closed(Some((code, why))) if (4000..4100).contains(&code) || code == 3000 => {
                    return Err(format!("closed for good: {code} {why}").into());
                }
                Heard::Closed(_) => return Ok(away),
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let server: SocketAddr = args.next().ok_or("till ADDRESS [--once]")?.parse()?;
    let token = std::env::var("ORDERBELL_TOKEN").map_err(|_| "ORDERBELL_TOKEN holds no token")?;
    let mut till = Till { once: args.any(|word| word == "--once"), ..Till::default() };
    let (http, mut wait) = (Http::new(server), BACK_OFF.0);
    loop {
        let away = match Socket::hello(server, &token, DEVICE, till.position).await {
            Ok(socket) => {
                wait = BACK_OFF.0;
                till.listen(socket).await?
            }
            Err(error) => {
                eprintln!("no socket ({error}): polling");
                if let Ok(answer) = http.poll(&token, DEVICE, till.position, Duration::ZERO).await {
                    if answer.notices.iter().any(|notice| till.keep(notice)) {
                        return Ok(());
                    }
                    till.position = Some(answer.position);
                }
                None
            }
        };
        tokio::time::sleep(away.unwrap_or(wait)).await;
        wait = (wait * 2).min(BACK_OFF.1);
    }
}
