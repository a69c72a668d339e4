//! A socket that follows a script, and a server around a connection that is a mailbox in memory.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::{Sink, Stream};
use orderbell_ledger::DeliveryStep;
use orderbell_protocol::notice::EncodedNotice;
use orderbell_protocol::session::{Cursor, EventVerdict};
use orderbell_protocol::{
    ClientEvent, Delivery, DeviceId, Freshness, Id, MailboxPage, Position, ReadError, Recipient, UnixMs,
};
use tokio::sync::Semaphore;
use tokio::task::coop;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_util::sync::CancellationToken;

use super::super::backend::{ClientEvents, ConnectedFuture, Mailboxes, Server, VerdictFuture};
use crate::clock::wall_clock;
use crate::hub::Hub;
use crate::net::identity_rates::Identity;
use crate::net::tokens::{InvalidToken, Principal};
use crate::net::{NetLimits, NetStats};
use orderbell_ledger::MailboxObserver;

fn notice_of(seq: usize) -> EncodedNotice {
    let text = format!(r#"{{"id":"n{seq}","kind":"new_order","order":"o{seq}","at":1,"body":{{}}}}"#);
    EncodedNotice::from_stored(text.as_bytes()).unwrap()
}

/// What the peer does.
pub(super) struct Script {
    /// Frames that it has sent.
    pub(super) incoming: VecDeque<Message>,
    /// A frame that it sends without end.
    pub(super) flood: Option<Message>,
    /// How often it still lets a flush finish.
    pub(super) flushes: usize,
    /// False for a peer that does not answer a close frame.
    pub(super) answers_close: bool,
    /// What it was sent, flushed or not.
    pub(super) sent: Vec<Message>,
    has_unflushed: bool,
    has_ended: bool,
    waker: Option<Waker>,
}

#[derive(Clone)]
pub(super) struct ScriptedSocket(Arc<Mutex<Script>>);

impl ScriptedSocket {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Script {
            incoming: VecDeque::new(),
            flood: None,
            flushes: usize::MAX,
            answers_close: true,
            sent: Vec::new(),
            has_unflushed: false,
            has_ended: false,
            waker: None,
        })))
    }

    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    /// Changes the script, and wakes the connection.
    pub(super) fn change(&self, change: impl FnOnce(&mut Script)) {
        let mut script = self.script();
        change(&mut script);
        let waker = script.waker.take();
        drop(script);
        waker.inspect(Waker::wake_by_ref);
    }

    pub(super) fn say(&self, text: &str) {
        self.change(|script| script.incoming.push_back(Message::text(text)));
    }
}

impl Stream for ScriptedSocket {
    type Item = Result<Message, WsError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // As a TCP stream of tokio: ready again and again, until the task's budget for this poll is used up.
        let budget = std::task::ready!(coop::poll_proceed(cx));
        let mut script = self.script();
        if script.has_ended {
            return Poll::Ready(None);
        }
        match script.incoming.pop_front().or_else(|| script.flood.clone()) {
            Some(message) => {
                budget.made_progress();
                Poll::Ready(Some(Ok(message)))
            }
            None => {
                script.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Sink<Message> for ScriptedSocket {
    type Error = WsError;

    fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        Poll::Ready(Ok(()))
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), WsError> {
        let mut script = self.script();
        script.sent.push(message);
        script.has_unflushed = true;
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        let mut script = self.script();
        if script.has_unflushed {
            let Some(left) = script.flushes.checked_sub(1) else {
                script.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            script.flushes = left;
            script.has_unflushed = false;
        }
        let is_closed = matches!(script.sent.last(), Some(Message::Close(_)));
        script.has_ended |= is_closed && script.answers_close;
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        self.poll_flush(cx)
    }
}

/// One mailbox. Whoever connects reads it.
pub(super) struct ScriptedMailbox {
    /// A permit for each connection that is durable.
    pub(super) connected_durable: Arc<Semaphore>,
    pub(super) error: Mutex<Option<ReadError>>,
    pub(super) reads: AtomicUsize,
    notices: AtomicUsize,
    pub(super) steps: Mutex<Vec<DeliveryStep>>,
}

pub(super) fn at(seq: usize) -> Position {
    Position { epoch: 1, seq: seq as u64, check: 0 }
}

impl Mailboxes for ScriptedMailbox {
    type Connected = ();

    fn connect(&self, _: &Recipient, _: &DeviceId) -> ((), ConnectedFuture) {
        let durable = self.connected_durable.clone();
        ((), Box::pin(async move { durable.acquire().await.unwrap().forget() }))
    }

    fn page(&self, _: &Recipient, after: Position, scan: Position, limit: u16) -> Result<MailboxPage, ReadError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if let Some(error) = *self.error.lock().unwrap() {
            return Err(error);
        }
        let (head, from) = (self.notices.load(Ordering::Relaxed), scan.seq.max(after.seq) as usize);
        let seqs = (from + 1..=head).take(usize::from(limit));
        let notice = |seq: usize| Delivery {
            position: at(seq),
            prev: if seq == from + 1 { after } else { at(seq - 1) },
            notice: notice_of(seq),
        };
        let notices: Vec<_> = seqs.map(notice).collect();
        let next = notices.last().map_or(at(from), |last| last.position);
        Ok(MailboxPage { notices, next, head: at(head) })
    }

    fn cursor_and_head(&self, _: &Recipient, _: &DeviceId) -> Result<(Cursor, Position), ReadError> {
        Ok((Cursor { acked: at(0), sent_seq: 0 }, at(self.notices.load(Ordering::Relaxed))))
    }

    fn save_cursor(&self, _: Identity<'_>, _: Cursor) {}

    fn log_delivery(&self, _: &Recipient, _: &DeviceId, step: DeliveryStep) {
        self.steps.lock().unwrap().push(step);
    }
}

pub(super) struct ScriptedServer {
    pub(super) mailbox: ScriptedMailbox,
    pub(super) hub: Arc<Hub>,
    pub(super) stats: NetStats,
    pub(super) drain: CancellationToken,
    pub(super) refuses_hellos: AtomicBool,
    /// The device that a token has named.
    pub(super) bound: Mutex<Option<&'static str>>,
    /// A token names till-1 at this look at its name.
    pub(super) bound_at_look: AtomicUsize,
    started: Instant,
}

impl ScriptedServer {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            mailbox: ScriptedMailbox {
                connected_durable: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
                error: Mutex::default(),
                reads: AtomicUsize::new(0),
                notices: AtomicUsize::new(0),
                steps: Mutex::default(),
            },
            hub: Arc::default(),
            stats: NetStats::default(),
            drain: CancellationToken::new(),
            refuses_hellos: AtomicBool::new(false),
            bound: Mutex::default(),
            bound_at_look: AtomicUsize::new(usize::MAX),
            started: Instant::now(),
        })
    }

    /// Puts notices into the mailbox, and wakes its readers.
    pub(super) fn notify(&self, notices: usize) {
        self.mailbox.notices.fetch_add(notices, Ordering::Relaxed);
        self.hub.changed(&[store()]);
    }

    pub(super) fn reads(&self) -> usize {
        self.mailbox.reads.load(Ordering::Relaxed)
    }
}

pub(super) fn store() -> Recipient {
    Recipient::store(Id::new("17").unwrap())
}

impl ClientEvents for ScriptedServer {
    fn publish(&self, _: Identity<'_>, _: &ClientEvent) -> VerdictFuture {
        Box::pin(std::future::ready(EventVerdict::Stored))
    }
}

impl Server for ScriptedServer {
    type Mailboxes = ScriptedMailbox;

    fn mailboxes(&self) -> &ScriptedMailbox {
        &self.mailbox
    }

    fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    fn stats(&self) -> &NetStats {
        &self.stats
    }

    /// The token is the recipient, the device that it names where there is one, and a word that tells it from others: `store:17,till-1,b`.
    fn check_token(&self, token: &str) -> Result<Principal, InvalidToken> {
        let mut parts = token.split(',');
        let who = parts.next().unwrap_or_default().parse::<Recipient>();
        let who = who.map_err(|_| InvalidToken::from("token-malformed"))?;
        let device = parts.next().filter(|device| !device.is_empty()).map(|device| Id::new(device).unwrap());
        Ok(Principal::Reader { who, device, expires: wall_clock().plus_ms(3_600_000) })
    }

    fn admit_hello(&self, _: Identity<'_>) -> bool {
        !self.refuses_hellos.load(Ordering::Relaxed)
    }

    fn may_use_name(&self, client: Identity<'_>) -> Result<bool, ReadError> {
        if self.bound_at_look.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.bound.lock().unwrap() = Some("till-1");
        }
        let is_taken = self.bound.lock().unwrap().as_deref() == Some(client.device.as_str());
        Ok(client.binding.is_bound() || !is_taken)
    }

    fn limits(&self) -> NetLimits {
        NetLimits::default()
    }

    fn freshness(&self) -> Freshness {
        Freshness { at: UnixMs(0), as_of: None, stale: false }
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn drain(&self) -> &CancellationToken {
        &self.drain
    }

    fn retry_ms(&self) -> u32 {
        1_500
    }
}
