//! Orders as the ledger stores them: bytes by order id, which of them are open for whom, and when each is to be checked for its expiry.

use orderbell_protocol::{Id, Position, Recipient, UnixMs};

use super::Ledger;
use super::disk::{DatabaseError, DiskError, Table};
use super::keys::{self, OrderKey};
use super::mailbox::Mailbox;

/// A page of a recipient's open orders.
#[derive(Clone, Debug)]
pub struct OpenOrders {
    /// Their states, by order id.
    pub orders: Vec<(OrderKey, Vec<u8>)>,
    /// The newest position of the mailbox in the same snapshot.
    pub head: Position,
    /// The first order of the next page; none on the last page.
    pub next: Option<Id>,
}

/// States of orders, and which of them are open or expire: the handle that reads them.
#[derive(Clone, Copy)]
pub struct StoredOrders<'a>(pub(super) &'a Ledger);

impl StoredOrders<'_> {
    /// The state of an order as it was committed last. No lock is needed: the order's key stays busy until its key batch is durable.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn state(self, order: &OrderKey) -> Result<Option<Vec<u8>>, DatabaseError> {
        self.0.disk.view().row(Table::Orders, &keys::order(order))
    }

    /// A recipient's open orders, from the order `from` on, at most `max`, with the mailbox's newest position. Both come from one durable
    /// snapshot, so a client that takes the orders and continues from the position misses nothing.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn open(self, who: &Recipient, from: Option<&Id>, max: usize) -> Result<OpenOrders, DiskError> {
        let view = self.0.disk.view();
        let mailbox = Mailbox::new(&view, who, self.0.epoch);
        let head = mailbox.head()?.map_or_else(|| mailbox.floor(), Ok)?;
        let prefix = keys::open_orders_of(who);
        let begin = from.map_or_else(|| prefix.clone(), |order| keys::open_order(who, order));
        let (mut orders, mut next) = (Vec::new(), None);
        for row in view.rows(Table::Meta, &begin, &keys::after_prefix(&prefix)) {
            let (key, _) = row?;
            let id = keys::trailing_id(Table::Meta, &key, prefix.len())?;
            if orders.len() == max {
                next = Some(id);
                break;
            }
            let order = OrderKey { shadow: who.shadow, id };
            // One batch enters an order here and writes its state, and one removes both.
            let state = view.row(Table::Orders, &keys::order(&order))?;
            let state = state.ok_or_else(|| DiskError::damaged(Table::Meta, &key, "an open order that has a state"))?;
            orders.push((order, state));
        }
        Ok(OpenOrders { orders, head, next })
    }

    /// Orders whose expiry check is due, oldest first, each with the time it was due. A row that names no order is passed over: the others expire.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn due_expiries(self, now: UnixMs, max: usize) -> Result<Vec<(UnixMs, OrderKey)>, DatabaseError> {
        let view = self.0.disk.view();
        let rows = view.rows(Table::Meta, &keys::expiry_until(0), &keys::expiry_until(now.0));
        let due = |key: &[u8]| {
            let due = keys::expiry_order(key).map(|(due_ms, order)| (UnixMs(due_ms), order));
            due.ok_or_else(|| DiskError::damaged(Table::Meta, key, "an order's expiry"))
        };
        let orders = rows.filter_map(|row| row.and_then(|(key, _)| view.pass_over(due(&key))).transpose());
        orders.take(max).collect()
    }
}
