//! [`Orders`] for the network side: the mapping and the order rules applied to what clients send and ask for.

use std::sync::Arc;

use orderbell_consumers::Stats;
use orderbell_protocol::frame::OpenOrder;
use orderbell_protocol::{ClientEvent, DeviceId, Problem, Recipient, RejectionReason, UnixMs};

use crate::clock::wall_clock;
use crate::ingest::http_events::{self, PostedEvent};
use crate::ingest::{OrderHandler, client_events, order_view};
use crate::net::Orders;
use orderbell_ledger::{DamagedRow, DeliveryHistory, Ledger, NewEvent, OrderKey};
use orderbell_orders::Mapping;

/// The order rules and what they need.
pub(super) struct OrderRules {
    mapping: Mapping,
    ledger: Arc<Ledger>,
    handler: Arc<OrderHandler>,
    group: Arc<Stats>,
}

impl OrderRules {
    pub(super) fn new(mapping: Mapping, ledger: &Arc<Ledger>, handler: &Arc<OrderHandler>, group: &Arc<Stats>) -> Self {
        Self { mapping, ledger: ledger.clone(), handler: handler.clone(), group: group.clone() }
    }
}

impl Orders for OrderRules {
    fn reads_header(&self, name: &str) -> bool {
        self.mapping.reads_header(name)
    }

    fn decode_events(
        &self,
        media_type: &str,
        headers: &[(String, String)],
        body: &[u8],
    ) -> Result<Vec<(String, Option<NewEvent>)>, Problem> {
        let posted = http_events::parse(&self.mapping, media_type, headers, body, wall_clock())?;
        let event = |posted: PostedEvent| match posted {
            PostedEvent::New(id, event) => (id, Some(event)),
            PostedEvent::Ignored(event) => {
                self.handler.stats().count_ignored(&event.kind);
                (event.id, None)
            }
        };
        Ok(posted.into_iter().map(event).collect())
    }

    fn check_client_event(
        &self,
        who: &Recipient,
        device: &DeviceId,
        event: &ClientEvent,
        now: UnixMs,
    ) -> Result<Option<NewEvent>, RejectionReason> {
        client_events::accept(&self.ledger, who, device, event, now)
    }

    fn view(
        &self,
        who: &Recipient,
        key: &OrderKey,
        state: &[u8],
        history: Option<&DeliveryHistory>,
    ) -> Result<Option<OpenOrder>, DamagedRow> {
        let visible = &self.handler.policy().visible_fields;
        order_view::for_recipient(who, key, state, history, visible, self.ledger.damage())
    }

    fn as_of(&self) -> Option<UnixMs> {
        self.group.as_of_ms().map(UnixMs)
    }
}
