//! Staging: many turns become one batch.
//!
//! Runs on the committer's thread alone. Reads go to the durable view and to what this batch has staged itself; seqs are drawn here.

use std::collections::{HashMap, HashSet};

use orderbell_consumers::{Frontier, Part};
use orderbell_protocol::session::Standing;
use orderbell_protocol::{DeviceId, Recipient, UnixMs};

use super::disk::{Batch, Disk, DiskError, Space, View};
use super::effects::{Appended, Incoming, NewNotice, TurnEffects};
use super::keys::{self, OrderKey};
use super::mailbox::{self, MailRow};
use super::outbox::Emit;
use super::stream;
use super::tally::{Fold, Tally};

/// Stubs that one forgetting may turn into a higher floor.
const FLOOR_STEPS_MAX: usize = 64;

/// One batch in the making.
pub(crate) struct Stage<'a> {
    view: View<'a>,
    batch: Batch<'a>,
    /// Newest seq given out, durable once this batch is.
    pub(crate) seq: u64,
    /// Next offsets of the stream.
    ends: HashMap<u32, u64>,
    /// Mail rows of this batch, by notice index key.
    rows: HashMap<Vec<u8>, (Vec<u8>, MailRow)>,
    /// Floors of this batch: the durable view does not see them, and a floor never goes back.
    floors: HashMap<Vec<u8>, u64>,
    /// Mail rows of the durable view that lost their notice in this batch.
    gone: HashSet<Vec<u8>>,
    /// Rows that mailboxes gain or lose in this batch.
    counts: HashMap<Vec<u8>, i64>,
    /// Event ids of this batch.
    ids: HashMap<u128, u64>,
    /// Who gets something new.
    pub(crate) rung: HashSet<Recipient>,
    /// The stream has grown.
    pub(crate) grown: bool,
    emit: Emit,
    /// Number of the next row of the outbox, and whether this batch has some.
    pub(crate) outbox: u64,
    emitted: bool,
    /// Sums of this batch.
    fold: Fold,
    writes: usize,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(disk: &'a Disk, emit: Emit, seq: u64, outbox: u64) -> Self {
        Self {
            view: disk.view(),
            batch: disk.batch(),
            seq,
            ends: HashMap::new(),
            rows: HashMap::new(),
            floors: HashMap::new(),
            gone: HashSet::new(),
            counts: HashMap::new(),
            ids: HashMap::new(),
            rung: HashSet::new(),
            grown: false,
            emit,
            outbox,
            emitted: false,
            fold: Fold::default(),
            writes: 0,
        }
    }

    fn put(&mut self, space: Space, key: &[u8], value: &[u8]) {
        self.writes += 1;
        self.batch.put(space, key, value);
    }

    fn remove(&mut self, space: Space, key: &[u8]) {
        self.writes += 1;
        self.batch.remove(space, key);
    }

    pub(crate) fn turn(&mut self, effects: &TurnEffects, now: UnixMs) -> Result<(), DiskError> {
        for (order, state) in &effects.states {
            self.put(Space::Orders, &keys::order(order), state);
        }
        for notice in &effects.notices {
            self.notice(notice, now)?;
        }
        for (order, id) in &effects.superseded {
            self.supersede(order, id)?;
        }
        for (at, order) in &effects.looked {
            self.remove(Space::Meta, &keys::due(at.0, order));
        }
        for (at, order) in &effects.due {
            self.put(Space::Meta, &keys::due(at.0, order), &[]);
        }
        for order in &effects.forgotten {
            self.forget(order)?;
        }
        for (who, order, open) in &effects.open {
            let key = keys::open(who, &order.id);
            if *open { self.put(Space::Meta, &key, &[]) } else { self.remove(Space::Meta, &key) }
        }
        for event in &effects.emits {
            // A replay emits nothing again: the event's id is derived from its cause.
            self.append(event, now)?;
        }
        effects.tallies.iter().for_each(|change| self.fold.add(change, now));
        Ok(())
    }

    fn notice(&mut self, new: &NewNotice, now: UnixMs) -> Result<(), DiskError> {
        let index = keys::notice(&new.order, &new.id);
        if self.rows.contains_key(&index) || self.view.row(Space::Orders, &index)?.is_some() {
            return Ok(());
        }
        self.seq += 1;
        let mailbox = keys::mailbox(&new.recipient);
        let key = keys::mail(&mailbox, self.seq);
        *self.counts.entry(mailbox).or_default() += 1;
        let row = MailRow::live(&new.id, new.expires_at, now, &new.notice);
        self.put(Space::Mail, &key, &row.encode());
        self.put(Space::Orders, &index, &key);
        self.rows.insert(index, (key, row));
        self.rung.insert(new.recipient.clone());
        Ok(())
    }

    fn supersede(&mut self, order: &OrderKey, id: &str) -> Result<(), DiskError> {
        let index = keys::notice(order, id);
        let found = match self.rows.get(&index) {
            Some(staged) => Some(staged.clone()),
            None => self.stored(&index)?,
        };
        let Some((key, row)) = found.filter(|(_, row)| !row.is_stub()) else { return Ok(()) };
        let row = row.superseded();
        self.put(Space::Mail, &key, &row.encode());
        self.rows.insert(index, (key, row));
        Ok(())
    }

    fn stored(&self, index: &[u8]) -> Result<Option<(Vec<u8>, MailRow)>, DiskError> {
        let Some(key) = self.view.row(Space::Orders, index)? else { return Ok(None) };
        let row = self.view.row(Space::Mail, &key)?;
        Ok(row.as_deref().and_then(MailRow::decode).map(|row| (key, row)))
    }

    /// State, notices and index of an order go. A row above its mailbox's floor leaves a stub, unless nothing live stands below it.
    fn forget(&mut self, order: &OrderKey) -> Result<(), DiskError> {
        self.remove(Space::Orders, &keys::order(order));
        let prefix = keys::notices_of(order);
        let index: Vec<_> =
            self.view.rows(Space::Orders, &prefix, &keys::after_prefix(&prefix)).collect::<Result<_, _>>()?;
        for (index, key) in index {
            self.remove(Space::Orders, &index);
            self.trim(&key)?;
        }
        Ok(())
    }

    fn trim(&mut self, key: &[u8]) -> Result<(), DiskError> {
        let Some((mailbox, _)) = key.split_last_chunk::<8>() else { return Ok(()) };
        if self.floors.get(mailbox).is_some_and(|floor| mailbox::seq_of(key) <= *floor) {
            return Ok(());
        }
        let end = keys::mail(mailbox, u64::MAX);
        // Below the floor of this batch the durable view still shows rows that are gone.
        let from = self.floors.get(mailbox).map_or_else(|| mailbox.to_vec(), |floor| keys::mail(mailbox, floor + 1));
        let rows = self.view.rows(Space::Mail, &from, &end).take(FLOOR_STEPS_MAX);
        let rows: Vec<_> = rows.collect::<Result<_, _>>()?;
        let mut floor = None;
        for (at, row) in &rows {
            let goes = |row: &MailRow| at == key || row.is_stub() || self.gone.contains(at);
            let Some(row) = MailRow::decode(row).filter(goes) else { break };
            floor = Some((mailbox::seq_of(at), row.check));
            self.uncount(mailbox, at, &row);
            self.remove(Space::Mail, at);
        }
        let reached = floor.is_some_and(|(seq, _)| seq >= mailbox::seq_of(key));
        if !reached && let Some(row) = self.view.row(Space::Mail, key)?.as_deref().and_then(MailRow::decode) {
            self.put_stub(mailbox, key, row);
        }
        if let Some((seq, check)) = floor {
            self.raise_floor(mailbox, seq, check);
        }
        Ok(())
    }

    fn raise_floor(&mut self, mailbox: &[u8], seq: u64, check: u16) {
        self.floors.insert(mailbox.to_vec(), seq);
        self.put(Space::Meta, &keys::floor(mailbox), &mailbox::encode_floor(seq, check));
    }

    fn uncount(&mut self, mailbox: &[u8], key: &[u8], row: &MailRow) {
        if self.gone.insert(key.to_vec()) && !row.is_stub() {
            *self.counts.entry(mailbox.to_vec()).or_default() -= 1;
        }
    }

    /// A row above something live goes and leaves its check bits.
    pub(crate) fn put_stub(&mut self, mailbox: &[u8], key: &[u8], row: MailRow) {
        self.uncount(mailbox, key, &row);
        self.put(Space::Mail, key, &row.stub().encode());
    }

    /// The lowest row of a mailbox goes; the floor is where it stood.
    pub(crate) fn drop_lowest(&mut self, mailbox: &[u8], key: &[u8], row: &MailRow) {
        self.uncount(mailbox, key, row);
        self.remove(Space::Mail, key);
        self.raise_floor(mailbox, mailbox::seq_of(key), row.check);
    }

    pub(crate) fn append(&mut self, event: &Incoming, now: UnixMs) -> Result<Appended, DiskError> {
        let id = keys::event_id(event.id_hash);
        let known = match self.ids.get(&event.id_hash) {
            Some(body) => Some(*body),
            None => {
                self.view.row(Space::Meta, &id)?.and_then(|row| row.first_chunk::<8>().copied()).map(u64::from_be_bytes)
            }
        };
        if let Some(body) = known {
            return Ok(if body == event.body_hash { Appended::Duplicate } else { Appended::Conflict });
        }
        self.put(Space::Meta, &id, &[event.body_hash.to_be_bytes(), now.0.to_be_bytes()].concat());
        self.ids.insert(event.id_hash, event.body_hash);
        let record = stream::encode(event, now);
        match self.emit {
            Emit::Stream => {
                let part = stream::partition_of(&event.key);
                let end = match self.ends.get(&part) {
                    Some(end) => *end,
                    None => stream::end(&self.view, part)?,
                };
                self.put(Space::Stream, &keys::stream(part, end), &record);
                self.ends.insert(part, end + 1);
                self.grown = true;
            }
            Emit::Outbox => {
                self.put(Space::Meta, &keys::outbox(self.outbox), &record);
                self.outbox += 1;
                self.emitted = true;
            }
        }
        Ok(Appended::Logged)
    }

    /// The output topic has these.
    pub(crate) fn sent(&mut self, numbers: &[u64]) {
        numbers.iter().for_each(|number| self.remove(Space::Meta, &keys::outbox(*number)));
    }

    pub(crate) fn frontier(&mut self, cluster: &str, part: &Part, frontier: Frontier) {
        let mut row = frontier.next.to_be_bytes().to_vec();
        if let Some((offset, print)) = frontier.last {
            row.extend(offset.to_be_bytes());
            row.extend(print.to_be_bytes());
        }
        self.put(Space::Meta, &keys::frontier(cluster, part), &row);
    }

    pub(crate) fn standing(&mut self, who: &Recipient, device: &DeviceId, standing: Standing) {
        let text = format!("{} {:x}", standing.acked, standing.sent_seq);
        self.put(Space::Meta, &keys::cursor(who, device), text.as_bytes());
    }

    pub(crate) fn letter(&mut self, number: u64, letter: &[u8]) {
        self.put(Space::Meta, &keys::letter(number), letter);
    }

    pub(crate) fn put_row(&mut self, space: Space, key: &[u8], row: &[u8]) {
        self.put(space, key, row);
    }

    pub(crate) fn drop_row(&mut self, space: Space, key: &[u8]) {
        self.remove(space, key);
    }

    pub(crate) fn raise_stream_start(&mut self, part: u32, start: u64) {
        self.put(Space::Meta, &keys::stream_start(part), &start.to_be_bytes());
    }

    /// Writes everything, or ends with the error that ends the process. True when there was something to write.
    pub(crate) fn commit(mut self, seq_before: u64) -> Result<Option<Done>, DiskError> {
        if self.seq != seq_before {
            let seq = self.seq.to_be_bytes();
            self.put(Space::Meta, keys::SEQ, &seq);
        }
        let ends: Vec<_> = self.ends.drain().collect();
        for (part, end) in ends {
            self.put(Space::Meta, &keys::stream_end(part), &end.to_be_bytes());
        }
        let mut counts = Vec::new();
        for (mailbox, change) in std::mem::take(&mut self.counts) {
            let rows = mailbox::count(&self.view, &mailbox)?.saturating_add_signed(change);
            match rows {
                0 => self.remove(Space::Meta, &keys::count(&mailbox)),
                _ => self.put(Space::Meta, &keys::count(&mailbox), &rows.to_be_bytes()),
            }
            counts.push((mailbox, rows));
        }
        for (name, row) in self.fold.rows(&self.view)? {
            match row {
                Some(row) => self.put(Space::Tally, &name, &row),
                None => self.remove(Space::Tally, &name),
            }
        }
        if self.writes == 0 {
            return Ok(None);
        }
        self.batch.commit()?;
        Ok(Some(Done {
            seq: self.seq,
            outbox: self.outbox,
            emitted: self.emitted,
            rung: self.rung.into_iter().collect(),
            grown: self.grown,
            counts,
            tallies: self.fold.changes,
        }))
    }
}

/// What a committed batch leads to.
pub(crate) struct Done {
    /// Mailboxes that changed, and how many rows they hold.
    pub(crate) counts: Vec<(Vec<u8>, u64)>,
    pub(crate) seq: u64,
    pub(crate) outbox: u64,
    pub(crate) emitted: bool,
    pub(crate) rung: Vec<Recipient>,
    pub(crate) grown: bool,
    /// What was added to the tallies.
    pub(crate) tallies: Vec<Tally>,
}
