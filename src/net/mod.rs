//! The network side: WebSocket, HTTP and the admin listener. It knows tokens, mailboxes and the hub; it does not know Kafka, and what an order
//! means only through [`Orders`].

mod admin;
mod authentication;
mod class_places;
mod connection;
mod content_encoding;
mod cors;
mod events;
mod frame_meter;
mod health;
mod identity_rates;
mod in_flight;
mod ledger_handle;
mod limits;
mod listener;
mod local_only;
mod orders;
pub mod origin;
mod placed_stream;
mod places;
mod playground;
mod poll;
mod recipient_limits;
mod rejections;
mod response;
mod retry_spread;
mod state;
mod static_files;
mod stats;
mod token_bucket;
pub mod tokens;
mod upgrade;
mod viewers;
mod wall;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use orderbell_protocol::frame::OpenOrder;
use orderbell_protocol::{ClientEvent, DeviceId, Problem, Recipient, RejectionReason, UnixMs};

pub use admin::alerts::AcknowledgeFuture;
pub use admin::dead_letters::{DeadLetterAccess, ReplayFuture, TopicAccessError, TopicListFuture, TopicReplayFuture};
pub use admin::inspect::{Inspection, TailError};
pub use admin::{AdminApi, BackupSource, ServerStatus, routes as admin_routes};
pub use class_places::{ClassPlaces, ClassUse};
#[cfg(test)]
pub(crate) use identity_rates::Identity;
pub use identity_rates::IdentityRate;
pub use ledger_handle::{Blocking, BlockingFailed};
pub use limits::NetLimits;
pub use listener::{Listening, serve};
pub use places::PlaceLimits;
pub use rejections::{RejectionLabels, Rejections};
pub use state::AppState;
pub use stats::{ClientEventLabels, CloseLabels, NetStats};
pub use token_bucket::Rate;

use orderbell_ledger::{DamagedRow, DeliveryHistory, NewEvent, OrderKey};

/// What orders mean. Declared here because the network side calls it; implemented by the server, which knows the mapping and the order rules.
pub trait Orders: Send + Sync + 'static {
    /// True for a header of a request that the configured mapping reads.
    fn reads_header(&self, name: &str) -> bool;

    /// Decodes the body of `POST /v1/events`: the id of each event, and the event ready to be appended; none for an event whose type the
    /// configuration ignores. `headers` are those of a CloudEvent in binary mode, and those that [`Self::reads_header`] names.
    ///
    /// # Errors
    /// A [`Problem`] that names every event that cannot be decoded; then none is taken.
    fn decode_events(
        &self,
        media_type: &str,
        headers: &[(String, String)],
        body: &[u8],
    ) -> Result<Vec<(String, Option<NewEvent>)>, Problem>;

    /// Checks an event that a client published, and whether this client may publish it: the event ready to be appended, or none when it repeats
    /// what the order already knows.
    ///
    /// # Errors
    /// The reason of the rejection.
    fn check_client_event(
        &self,
        who: &Recipient,
        device: &DeviceId,
        event: &ClientEvent,
        now: UnixMs,
    ) -> Result<Option<NewEvent>, RejectionReason>;

    /// What a recipient may see of an order, from its stored state; with its delivery history, also the timeline. None when the order is not theirs.
    ///
    /// # Errors
    /// The state does not decode. An order that cannot be shown must not look like one that is not there.
    fn view(
        &self,
        who: &Recipient,
        key: &OrderKey,
        state: &[u8],
        history: Option<&DeliveryHistory>,
    ) -> Result<Option<OpenOrder>, DamagedRow>;

    /// Everything that the log held at this time is read and durable. None while that is unknown.
    fn as_of(&self) -> Option<UnixMs>;
}

/// Connections of the admin listener without a request.
pub const ADMIN_IDLE_CONNECTIONS_MAX: usize = 32;
/// Requests of the admin listener at work; `/live` and `/ready` do not count.
pub const ADMIN_REQUESTS_MAX: usize = 32;

impl AppState {
    /// The public routes. With `playground`, also the playground pages and the route that issues their tokens.
    pub fn routes(self: &Arc<Self>, playground: bool) -> Router {
        let shared = static_files::add(Router::new(), crate::pages::SHARED);
        let mut routes = static_files::add(shared, crate::pages::PUBLIC);
        if playground {
            routes = playground::add(static_files::add(routes, crate::pages::PLAYGROUND));
        }
        routes
            .route("/healthz", get(health::health))
            .route("/v1/ws", get(upgrade::upgrade))
            .route("/v1/notices", get(poll::poll).head(response::only_get))
            .route("/v1/orders", get(orders::list_open))
            .route("/v1/orders/{order}", get(orders::show))
            .route("/v1/events", post(events::append))
            .route("/v1/wall", get(wall::wall))
            .fallback(response::not_found)
            .method_not_allowed_fallback(response::method_not_allowed)
            .layer(axum::middleware::map_response(response::only_problems))
            .layer(axum::middleware::from_fn_with_state(self.clone(), cors::check_page))
            .with_state(self.clone())
    }
}
