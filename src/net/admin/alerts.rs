//! Alerts that an operator acknowledges: those that report something that happened, so that no condition ends them.

use std::pin::Pin;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::Response;
use orderbell_protocol::Problem;
use orderbell_protocol::admin::AcknowledgeAnswer;
use orderbell_protocol::alert::{Alert, AlertCode, EndsWith};
use serde::Deserialize;

use super::AdminApi;
use crate::net::poll::invalid_parameter;
use crate::net::response::{self, Refusal};
use orderbell_ledger::LedgerFailed;

/// Resolves to the alerts that were cleared, once that is durable; `Err` when the ledger cannot write.
pub type AcknowledgeFuture = Pin<Box<dyn Future<Output = Result<Vec<Alert>, LedgerFailed>> + Send>>;

#[derive(Deserialize)]
pub(crate) struct AcknowledgeQuery {
    #[serde(default)]
    code: String,
    subject: Option<String>,
}

/// `POST /alerts/ack?code=&subject=`: clears the alerts with this code, or the one about this subject.
pub(super) async fn acknowledge(
    State(api): State<AdminApi>,
    Query(query): Query<AcknowledgeQuery>,
) -> Result<Response<Body>, Refusal> {
    let code = AlertCode::from_word(&query.code);
    let code = code.ok_or_else(|| invalid_parameter("code", "there is no alert with this code"))?;
    if code.ends_with() == EndsWith::Condition {
        return Err(invalid_parameter("code", "this alert ends when its condition ends; it cannot be acknowledged"));
    }
    let acknowledged = api.status.acknowledge(code, query.subject).await;
    let acknowledged = acknowledged.map_err(|_| Problem::unavailable("the ledger cannot write", 5_000))?;
    if acknowledged.is_empty() {
        return Err(Problem::not_found().into());
    }
    Ok(response::answer(&AcknowledgeAnswer { acknowledged }))
}
