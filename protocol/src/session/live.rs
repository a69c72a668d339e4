//! The state of an authenticated session: what was sent, what was acknowledged, and where reading continues.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Cursor, SessionLimits, SessionOutput};
use crate::frame;
use crate::mailbox_page::{Delivery, MailboxPage};
use crate::position::Position;

#[derive(Debug)]
pub(super) struct Live {
    /// Everything up to here is acknowledged.
    pub(super) acked: Position,
    /// The last notice sent in this round: the `prev` of the next one.
    pub(super) chain: Position,
    /// Rows up to here are examined and need no second look.
    pub(super) scan: Position,
    /// The newest durable notice that was seen.
    pub(super) head: Position,
    /// Sent in this round and not acknowledged.
    pub(super) in_flight: VecDeque<Position>,
    /// Everything that was sent after `acked`, in every round: an ack may be late, and its notice superseded in the meantime.
    pub(super) sent: VecDeque<Position>,
    /// Notices up to here may have been sent before: they get a higher `attempt`.
    pub(super) sent_seq: u64,
    /// Notices up to here may have been sent by an earlier connection.
    pub(super) prior_seq: u64,
    /// How often the notices after `acked` were sent without an acknowledgement.
    pub(super) rounds: u32,
    /// When the unacknowledged notices are sent again, all of them and in order; meaningful while something is in flight.
    pub(super) redeliver_at: Duration,
    /// When the next heartbeat is due.
    pub(super) heartbeat_at: Duration,
    /// A page was requested and has not arrived.
    pub(super) is_reading: bool,
    /// The mailbox changed while a page was on its way: read again.
    pub(super) read_again: bool,
    /// The session was rewound while a page was on its way: that page starts at the wrong position and is dropped.
    pub(super) drop_page: bool,
    /// Events of this client that are not durable yet.
    pub(super) pending_events: u16,
}

fn sent((from, to, attempt): (u64, u64, u32)) -> SessionOutput {
    SessionOutput::Sent { from, to, attempt }
}

impl Live {
    /// How many more notices may be requested.
    pub(super) fn credits(&self, limits: &SessionLimits) -> u16 {
        let in_flight = u16::try_from(self.in_flight.len()).unwrap_or(u16::MAX);
        limits.max_in_flight.saturating_sub(in_flight).min(limits.page_size)
    }

    pub(super) fn request_page(&mut self, limits: &SessionLimits, out: &mut Vec<SessionOutput>) {
        let limit = self.credits(limits);
        if limit == 0 || self.is_reading {
            return;
        }
        self.is_reading = true;
        out.push(SessionOutput::Read { after: self.chain, scan: self.scan, limit });
    }

    pub(super) fn deliver(
        &mut self,
        page: &MailboxPage,
        limits: &SessionLimits,
        now: Duration,
        out: &mut Vec<SessionOutput>,
    ) {
        self.head = page.head;
        let was_idle = self.in_flight.is_empty();
        let mut run: Option<(u64, u64, u32)> = None;
        for delivery in &page.notices {
            if delivery.prev != self.chain {
                // The cursor moved (a poll beside the WebSocket) after this page was read: read again from the new position.
                self.read_again = true;
                out.extend(run.map(sent));
                return;
            }
            let seq = delivery.position.seq;
            // After a partial acknowledgement during a rewind, `rounds` starts again, but the rest is a redelivery nevertheless.
            let redelivery = (1 + self.rounds + u32::from(seq <= self.prior_seq)).max(2);
            let attempt = if seq > self.sent_seq { 1 } else { redelivery };
            let newest = self.sent.back().copied().unwrap_or(self.acked);
            if seq > newest.seq {
                // New on this connection: it follows the newest notice that was sent, even if that one is superseded by now.
                let delivery = Delivery { prev: newest, ..delivery.clone() };
                out.push(SessionOutput::Send(frame::encode_notice(&delivery, attempt)));
                self.sent.push_back(delivery.position);
            } else {
                out.push(SessionOutput::Send(frame::encode_notice(delivery, attempt)));
            }
            run = match run {
                Some((from, _, same)) if same == attempt => Some((from, seq, attempt)),
                before => {
                    out.extend(before.map(sent));
                    Some((seq, seq, attempt))
                }
            };
            self.chain = delivery.position;
            self.in_flight.push_back(delivery.position);
            self.sent_seq = self.sent_seq.max(seq);
        }
        out.extend(run.map(sent));
        self.scan = if page.next.seq > self.chain.seq { page.next } else { self.chain };
        if !page.notices.is_empty() {
            if was_idle {
                self.redeliver_at = now + limits.ack_timeout;
                self.rounds += 1;
            }
            out.push(SessionOutput::SaveCursor(self.cursor()));
        }
    }

    /// The client acknowledged everything up to `position`: it is alive, and credits are free again.
    pub(super) fn advance(
        &mut self,
        position: Position,
        limits: &SessionLimits,
        now: Duration,
        out: &mut Vec<SessionOutput>,
    ) {
        let acked = self.in_flight.partition_point(|sent| sent.seq <= position.seq);
        self.in_flight.drain(..acked);
        self.sent.retain(|sent| sent.seq > position.seq);
        // A notice that was polled, or was acknowledged late during a redelivery, need not be pushed: the chain continues behind it.
        if self.chain.seq < position.seq {
            self.chain = position;
            self.scan = position;
        }
        self.acked = position;
        self.rounds = u32::from(!self.in_flight.is_empty());
        self.redeliver_at = now + limits.ack_timeout;
        out.push(SessionOutput::SaveCursor(self.cursor()));
        if self.is_reading {
            self.read_again = true;
        } else {
            self.request_page(limits, out);
        }
    }

    /// Returns to the last acknowledged position; the notices after it are read and sent again, with a higher `attempt`.
    pub(super) fn rewind(&mut self, limits: &SessionLimits, out: &mut Vec<SessionOutput>) {
        self.in_flight.clear();
        self.chain = self.acked;
        self.scan = self.acked;
        if self.is_reading {
            self.drop_page = true;
        } else {
            self.request_page(limits, out);
        }
    }

    pub(super) fn cursor(&self) -> Cursor {
        Cursor { acked: self.acked, sent_seq: self.sent_seq }
    }
}
