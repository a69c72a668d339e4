//! A session that is admitted: what was sent, what was acknowledged, and where reading goes on.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Limits, Output, Standing};
use crate::frame;
use crate::page::{Delivery, Page};
use crate::position::Position;

#[derive(Debug)]
pub(super) struct Live {
    pub(super) acked: Position,
    pub(super) chain: Position,
    pub(super) scan: Position,
    pub(super) head: Position,
    pub(super) in_flight: VecDeque<Position>,
    /// All that was sent behind `acked`, in every round: an ack may be late, and its notice superseded meanwhile.
    pub(super) sent: VecDeque<Position>,
    /// Repeats are marked up to here.
    pub(super) sent_seq: u64,
    /// Repeats of an earlier connection end here.
    pub(super) prior_seq: u64,
    /// How often the stretch after `acked` was sent without an acknowledgement.
    pub(super) rounds: u32,
    /// When the un-acknowledged are sent again; meaningful while something is in flight.
    pub(super) redeliver_at: Duration,
    pub(super) beat_at: Duration,
    pub(super) reading: bool,
    /// Rung while reading: look once more.
    pub(super) again: bool,
    /// Gone back while reading: the page that comes was read from a place that is left.
    pub(super) stale: bool,
    /// Events that wait to be durable.
    pub(super) appending: u16,
}

fn sent((from, to, attempt): (u64, u64, u32)) -> Output {
    Output::Sent { from, to, attempt }
}

impl Live {
    pub(super) fn room(&self, limits: &Limits) -> u16 {
        let in_flight = u16::try_from(self.in_flight.len()).unwrap_or(u16::MAX);
        limits.window.saturating_sub(in_flight).min(limits.page)
    }

    pub(super) fn ask(&mut self, limits: &Limits, out: &mut Vec<Output>) {
        let limit = self.room(limits);
        if limit == 0 || self.reading {
            return;
        }
        self.reading = true;
        out.push(Output::Read { after: self.chain, scan: self.scan, limit });
    }

    pub(super) fn deliver(&mut self, page: &Page, limits: &Limits, now: Duration, out: &mut Vec<Output>) {
        self.head = page.head;
        let idle = self.in_flight.is_empty();
        let mut told: Option<(u64, u64, u32)> = None;
        for delivery in &page.notices {
            if delivery.after != self.chain {
                // The cursor moved (a poll beside the socket) after this page was read: read anew from where we are.
                self.again = true;
                out.extend(told.map(sent));
                return;
            }
            let seq = delivery.position.seq;
            // Acknowledged in part while going back, the rest begins at no round again, and is a repeat all the same.
            let again = (1 + self.rounds + u32::from(seq <= self.prior_seq)).max(2);
            let attempt = if seq > self.sent_seq { 1 } else { again };
            let newest = self.sent.back().copied().unwrap_or(self.acked);
            if seq > newest.seq {
                // New to this connection: it follows the newest that was sent, also where that one is superseded by now.
                let delivery = Delivery { after: newest, ..delivery.clone() };
                out.push(Output::Send(frame::encode_notice(&delivery, attempt)));
                self.sent.push_back(delivery.position);
            } else {
                out.push(Output::Send(frame::encode_notice(delivery, attempt)));
            }
            told = match told {
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
        out.extend(told.map(sent));
        self.scan = if page.next.seq > self.chain.seq { page.next } else { self.chain };
        if !page.notices.is_empty() {
            if idle {
                self.redeliver_at = now + limits.redeliver_after;
                self.rounds += 1;
            }
            out.push(Output::Stand(self.standing()));
        }
    }

    /// Acknowledged up to `position`: the client lives, the window opens.
    pub(super) fn pass(&mut self, position: Position, limits: &Limits, now: Duration, out: &mut Vec<Output>) {
        let in_flight = self.in_flight.partition_point(|sent| sent.seq <= position.seq);
        self.in_flight.drain(..in_flight);
        self.sent.retain(|sent| sent.seq > position.seq);
        // What was polled, or is sent again and acknowledged late, need not be pushed: the chain goes on from there.
        if self.chain.seq < position.seq {
            self.chain = position;
            self.scan = position;
        }
        self.acked = position;
        self.rounds = u32::from(!self.in_flight.is_empty());
        self.redeliver_at = now + limits.redeliver_after;
        out.push(Output::Stand(self.standing()));
        if self.reading {
            self.again = true;
        } else {
            self.ask(limits, out);
        }
    }

    /// Back to the last acknowledged position; what follows is read and sent again, marked.
    pub(super) fn rewind(&mut self, limits: &Limits, out: &mut Vec<Output>) {
        self.in_flight.clear();
        self.chain = self.acked;
        self.scan = self.acked;
        if self.reading {
            self.stale = true;
        } else {
            self.ask(limits, out);
        }
    }

    pub(super) fn standing(&self) -> Standing {
        Standing { acked: self.acked, sent_seq: self.sent_seq }
    }
}
