//! Many key batches become one write batch.
//!
//! Runs on the committer's thread alone. It reads the durable view and what this batch itself has added; seqs are drawn here.
//!
//! A batch holds the work of many callers, so no damaged row that one of them meets may fail it: such a row is passed over, as each place says.

use std::collections::{HashMap, HashSet};

use orderbell_consumers::{Checkpoint, TopicPartition};
use orderbell_protocol::{Recipient, UnixMs};

use super::balance::ChangedBins;
use super::checkpoints;
use super::counters::{BucketDeltas, CounterDelta};
use super::disk::{Batch, DatabaseError, Disk, Table, View};
use super::effects::{Appended, KeyBatchEffects, NewEvent, NewNotice};
use super::embedded_log;
use super::keys::{self, OrderKey};
use super::mailbox::{self, Floor, IndexEntry, MailRow};
use super::outbox::PublishTo;
use super::tables::{EventId, RowKind};

/// Rows above a mailbox's floor that one trimmed row may take along into a higher floor.
const FLOOR_STEPS_MAX: usize = 64;

/// One batch while it is built.
pub(crate) struct BatchBuilder<'a> {
    view: View<'a>,
    batch: Batch<'a>,
    /// Newest seq given out, durable once this batch is.
    seq: u64,
    /// Next offsets of the embedded log.
    log_ends: HashMap<u32, u64>,
    /// Mailbox rows of this batch, by notice index key.
    rows: HashMap<Vec<u8>, (Vec<u8>, MailRow)>,
    /// Floors of this batch: the durable view does not show them, and a floor never goes down.
    floors: HashMap<Vec<u8>, u64>,
    /// The highest floor that this batch forgets.
    forgotten: u64,
    /// Mailbox rows of the durable view that lost their notice in this batch.
    trimmed: HashSet<Vec<u8>>,
    /// Rows that mailboxes gain or lose in this batch.
    row_counts: HashMap<Vec<u8>, i64>,
    /// Event ids of this batch, and the hashes of their bodies.
    event_ids: HashMap<u128, u64>,
    /// Recipients of this batch's notices.
    changed_mailboxes: HashSet<Recipient>,
    /// This batch appends to the embedded log.
    log_grown: bool,
    publish_to: PublishTo,
    /// Number of the next entry of the outbox, and whether this batch adds some.
    outbox: u64,
    outbox_grown: bool,
    /// Sums of this batch.
    deltas: BucketDeltas,
    /// What it changes in the balance.
    pub(crate) bins: ChangedBins,
    writes: usize,
    /// Keys and values of these writes.
    bytes: usize,
}

impl<'a> BatchBuilder<'a> {
    pub(crate) fn new(disk: &'a Disk, publish_to: PublishTo, seq: u64, outbox: u64) -> Self {
        Self {
            view: disk.view(),
            batch: disk.batch(),
            seq,
            log_ends: HashMap::new(),
            rows: HashMap::new(),
            floors: HashMap::new(),
            forgotten: 0,
            trimmed: HashSet::new(),
            row_counts: HashMap::new(),
            event_ids: HashMap::new(),
            changed_mailboxes: HashSet::new(),
            log_grown: false,
            publish_to,
            outbox,
            outbox_grown: false,
            deltas: BucketDeltas::default(),
            bins: ChangedBins::default(),
            writes: 0,
            bytes: 0,
        }
    }

    pub(crate) fn put_row(&mut self, kind: RowKind, key: &[u8], value: &[u8]) {
        self.writes += 1;
        self.bytes += key.len() + value.len();
        self.batch.put(kind, key, value);
    }

    pub(crate) fn remove_row(&mut self, kind: RowKind, key: &[u8]) {
        self.writes += 1;
        self.bytes += key.len();
        self.batch.remove(kind, key);
    }

    pub(crate) fn add_effects(&mut self, effects: &KeyBatchEffects, now: UnixMs) -> Result<(), DatabaseError> {
        for (order, state) in &effects.states {
            self.put_row(RowKind::OrderState, &keys::order(order), state);
        }
        for notice in &effects.notices {
            self.append_notice(notice, now)?;
        }
        for (order, id) in &effects.superseded {
            self.supersede(order, id)?;
        }
        for (at, order) in &effects.expiry_done {
            self.remove_row(RowKind::Expiry, &keys::expiry(at.0, order));
        }
        for (at, order) in &effects.expiry_added {
            self.put_row(RowKind::Expiry, &keys::expiry(at.0, order), &[]);
        }
        for order in &effects.expunged {
            self.expunge(order, now)?;
        }
        for (who, order, is_open) in &effects.open_index {
            let key = keys::open_order(who, &order.id);
            if *is_open {
                self.put_row(RowKind::OpenOrder, &key, &[]);
            } else {
                self.remove_row(RowKind::OpenOrder, &key);
            }
        }
        for event in &effects.own_events {
            // Consuming a record again publishes nothing twice: the event's id is derived from its cause.
            self.append(event, now)?;
        }
        effects.counter_deltas.iter().for_each(|delta| self.deltas.add(delta, now));
        Ok(())
    }

    fn append_notice(&mut self, new: &NewNotice, now: UnixMs) -> Result<(), DatabaseError> {
        let index = keys::notice(&new.order, &new.id);
        if self.rows.contains_key(&index) || self.view.row(Table::Orders, &index)?.is_some() {
            return Ok(());
        }
        self.seq += 1;
        let mailbox = keys::mailbox(&new.recipient);
        let key = keys::mail(&mailbox, self.seq);
        *self.row_counts.entry(mailbox).or_default() += 1;
        let row = MailRow::live(&new.id, new.expires_at, now, &new.notice);
        self.put_row(RowKind::Mail, &key, &row.encode());
        self.put_row(RowKind::NoticeIndex, &index, &IndexEntry::encode(new.kind, &key));
        self.rows.insert(index, (key, row));
        self.changed_mailboxes.insert(new.recipient.clone());
        Ok(())
    }

    fn supersede(&mut self, order: &OrderKey, id: &str) -> Result<(), DatabaseError> {
        let index = keys::notice(order, id);
        let found = match self.rows.get(&index) {
            Some(added) => Some(added.clone()),
            None => self.stored_notice(&index)?,
        };
        let Some((key, row)) = found.filter(|(_, row)| !row.is_stub()) else { return Ok(()) };
        let row = row.superseded();
        self.put_row(RowKind::Mail, &key, &row.encode());
        self.rows.insert(index, (key, row));
        Ok(())
    }

    /// A notice that was stored before this batch. One whose row or index entry is damaged is not superseded: readers of the row are refused, and
    /// a reader of the notice is given the one that takes it back, too.
    fn stored_notice(&self, index: &[u8]) -> Result<Option<(Vec<u8>, MailRow)>, DatabaseError> {
        let Some(entry) = self.view.row(Table::Orders, index)? else { return Ok(None) };
        let Some(entry) = self.view.pass_over(mailbox::decode_index(index, &entry))? else { return Ok(None) };
        let row = self.view.pass_over(mailbox::read_row(&self.view, &entry.key))?.flatten();
        Ok(row.map(|row| (entry.key, row)))
    }

    /// Removes an order's state, notices and index. A row above its mailbox's floor leaves a stub, unless nothing live stands below it. An index
    /// entry that does not decode stays, and so does the row that it names: nobody knows which.
    fn expunge(&mut self, order: &OrderKey, now: UnixMs) -> Result<(), DatabaseError> {
        self.remove_row(RowKind::OrderState, &keys::order(order));
        let prefix = keys::notices_of(order);
        let index: Vec<_> =
            self.view.rows(Table::Orders, &prefix, &keys::after_prefix(&prefix)).collect::<Result<_, _>>()?;
        for (index, entry) in index {
            let Some(entry) = self.view.pass_over(mailbox::decode_index(&index, &entry))? else { continue };
            self.remove_row(RowKind::NoticeIndex, &index);
            self.trim(&entry.key, now)?;
        }
        Ok(())
    }

    fn trim(&mut self, key: &[u8], now: UnixMs) -> Result<(), DatabaseError> {
        let Some(seq) = self.view.pass_over(mailbox::seq_of(key))? else { return Ok(()) };
        let mailbox = &key[..key.len() - size_of::<u64>()];
        if self.floors.get(mailbox).is_some_and(|floor| seq <= *floor) {
            return Ok(());
        }
        let end = keys::mail(mailbox, u64::MAX);
        // Below the floor of this batch the durable view still shows rows that this batch removes.
        let from = self.floors.get(mailbox).map_or_else(|| mailbox.to_vec(), |floor| keys::mail(mailbox, floor + 1));
        let rows = self.view.rows(Table::Mailboxes, &from, &end).take(FLOOR_STEPS_MAX);
        let rows: Vec<_> = rows.collect::<Result<_, _>>()?;
        let mut floor = None;
        for (at, row) in &rows {
            // A row that does not decode may be live: the floor stays below it, and it stays, even if it is the one to be trimmed.
            let Some((at_seq, row)) = self.view.pass_over(mailbox::decode_numbered(at, row))? else { break };
            if at != key && !row.is_stub() && !self.trimmed.contains(at) {
                break;
            }
            floor = Some((at_seq, row.check));
            self.uncount(mailbox, at, &row);
            self.remove_row(RowKind::Mail, at);
        }
        let reached = floor.is_some_and(|(floor, _)| floor >= seq);
        if !reached && let Some(row) = self.view.pass_over(mailbox::read_row(&self.view, key))?.flatten() {
            self.put_stub(mailbox, key, row);
        }
        if let Some((seq, check)) = floor {
            self.raise_floor(mailbox, Floor { seq, check, at: now });
        }
        Ok(())
    }

    fn raise_floor(&mut self, mailbox: &[u8], floor: Floor) {
        self.floors.insert(mailbox.to_vec(), floor.seq);
        self.put_row(RowKind::Floor, &keys::floor(mailbox), &floor.encode());
    }

    /// Removes the floor of a mailbox that holds nothing any more.
    pub(crate) fn forget_floor(&mut self, mailbox: &[u8], seq: u64) {
        self.remove_row(RowKind::Floor, &keys::floor(mailbox));
        self.forgotten = self.forgotten.max(seq);
    }

    fn uncount(&mut self, mailbox: &[u8], key: &[u8], row: &MailRow) {
        if self.trimmed.insert(key.to_vec()) && !row.is_stub() {
            *self.row_counts.entry(mailbox.to_vec()).or_default() -= 1;
        }
    }

    /// Replaces a row above something live by its check bits.
    pub(crate) fn put_stub(&mut self, mailbox: &[u8], key: &[u8], row: MailRow) {
        self.uncount(mailbox, key, &row);
        self.put_row(RowKind::Mail, key, &row.stub().encode());
    }

    /// Removes the lowest row of a mailbox; its position becomes the floor.
    pub(crate) fn remove_lowest(&mut self, mailbox: &[u8], (key, seq): (&[u8], u64), row: &MailRow, now: UnixMs) {
        self.uncount(mailbox, key, row);
        self.remove_row(RowKind::Mail, key);
        self.raise_floor(mailbox, Floor { seq, check: row.check, at: now });
    }

    pub(crate) fn append(&mut self, event: &NewEvent, now: UnixMs) -> Result<Appended, DatabaseError> {
        let id = keys::event_id(event.id_hash);
        let known = match self.event_ids.get(&event.id_hash) {
            Some(body) => Some(*body),
            // A damaged one counts as new and is written again: an event that is appended twice is applied once, one that is not is lost.
            None => {
                self.view.pass_over(self.view.decoded(Table::Meta, &id, "an event id", EventId::body_hash))?.flatten()
            }
        };
        if let Some(body) = known {
            return Ok(if body == event.body_hash { Appended::Duplicate } else { Appended::Conflict });
        }
        self.put_row(RowKind::EventId, &id, &EventId::encode(event.body_hash, now));
        self.event_ids.insert(event.id_hash, event.body_hash);
        let record = embedded_log::encode(event, now);
        match self.publish_to {
            PublishTo::EmbeddedLog => {
                let part = embedded_log::partition_of(&event.key);
                let end = match self.log_ends.get(&part) {
                    Some(end) => *end,
                    None => embedded_log::end(&self.view, part)?,
                };
                self.put_row(RowKind::LogRecord, &keys::log_record(part, end), &record);
                self.log_ends.insert(part, end + 1);
                self.log_grown = true;
            }
            PublishTo::Outbox => {
                self.put_row(RowKind::OutboxEntry, &keys::outbox(self.outbox), &record);
                self.outbox += 1;
                self.outbox_grown = true;
            }
        }
        Ok(Appended::Stored)
    }

    pub(crate) fn remove_from_outbox(&mut self, numbers: &[u64]) {
        numbers.iter().for_each(|number| self.remove_row(RowKind::OutboxEntry, &keys::outbox(*number)));
    }

    pub(crate) fn put_checkpoint(
        &mut self,
        cluster: &str,
        part: &TopicPartition,
        checkpoint: Checkpoint,
        log_number: u64,
    ) {
        let row = checkpoints::encode(checkpoint, log_number);
        self.put_row(RowKind::Checkpoint, &keys::checkpoint(cluster, part), &row);
    }

    pub(crate) fn raise_log_start(&mut self, part: u32, start: u64) {
        self.put_row(RowKind::PartitionStart, &keys::log_start(part), &start.to_be_bytes());
    }

    /// Writes everything; an error must end the process. Returns nothing when there was nothing to write.
    pub(crate) fn commit(mut self, seq_before: u64) -> Result<Option<CommittedBatch>, DatabaseError> {
        if self.seq != seq_before {
            let seq = self.seq.to_be_bytes();
            self.put_row(RowKind::Fact, keys::SEQ, &seq);
        }
        if self.forgotten > 0 {
            let stored = self.view.pass_over(mailbox::forgotten(&self.view))?;
            // A damaged number may have been any up to the newest seq. Too high a one sends readers away who would have missed nothing.
            let forgotten = self.forgotten.max(stored.unwrap_or(self.seq));
            if stored != Some(forgotten) {
                self.put_row(RowKind::Fact, keys::FORGOTTEN, &forgotten.to_be_bytes());
            }
        }
        let ends: Vec<_> = self.log_ends.drain().collect();
        for (part, end) in ends {
            self.put_row(RowKind::PartitionEnd, &keys::log_end(part), &end.to_be_bytes());
        }
        let mut row_counts = Vec::new();
        for (mailbox, change) in std::mem::take(&mut self.row_counts) {
            let rows = mailbox::count(&self.view, &mailbox)?.saturating_add_signed(change);
            match rows {
                0 => self.remove_row(RowKind::RowCount, &keys::count(&mailbox)),
                _ => self.put_row(RowKind::RowCount, &keys::count(&mailbox), &rows.to_be_bytes()),
            }
            row_counts.push((mailbox, rows));
        }
        for (kind, key, row) in self.deltas.rows(&self.view)? {
            match row {
                Some(row) => self.put_row(kind, &key, &row),
                None => self.remove_row(kind, &key),
            }
        }
        let bins = std::mem::take(&mut self.bins);
        for (kind, key, row) in bins.rows() {
            self.put_row(kind, &key, &row);
        }
        if self.writes == 0 {
            return Ok(None);
        }
        self.batch.commit()?;
        Ok(Some(CommittedBatch {
            rows: self.writes,
            bytes: self.bytes,
            row_counts,
            seq: self.seq,
            outbox: self.outbox,
            outbox_grown: self.outbox_grown,
            changed_mailboxes: self.changed_mailboxes.into_iter().collect(),
            log_grown: self.log_grown,
            counter_deltas: self.deltas.added,
            bins,
        }))
    }
}

/// What a durable batch leads to.
pub(crate) struct CommittedBatch {
    /// Rows that were written or removed, and the bytes of their keys and values.
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
    /// Mailboxes whose number of rows changed, and how many they hold.
    pub(crate) row_counts: Vec<(Vec<u8>, u64)>,
    pub(crate) seq: u64,
    pub(crate) outbox: u64,
    pub(crate) outbox_grown: bool,
    pub(crate) changed_mailboxes: Vec<Recipient>,
    pub(crate) log_grown: bool,
    /// What changed in the balance.
    pub(crate) bins: ChangedBins,
    /// What was added to the counters.
    pub(crate) counter_deltas: Vec<CounterDelta>,
}
