//! A whole server in this process, with a row that the test damages.

use orderbell_ledger::KeyBatchEffects;
use orderbell_protocol::Problem;
use orderbell_protocol::admin::ReadyAnswer;
use orderbell_protocol::alert::{AlertCode, Severity};
use orderbell_protocol::frame::{EventsAnswer, OrderStage, OrdersAnswer};

use super::*;
use crate::config::Listen;
use orderbell_client::{HttpClient, HttpResponse};
use orderbell_protocol::OrderKey;

async fn start(dir: &std::path::Path) -> Arc<Server> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::in_dir(dir);
    config.boot.listen = Listen { public: any, admin: any };
    Server::start(&config, config.limits(), |error| panic!("{error}")).await.unwrap()
}

/// Writes the state of an open order of store 1.
async fn write(server: &Server, order: &str, state: &[u8]) {
    let (who, key) = (Recipient::store(Id::new("1").unwrap()), OrderKey { shadow: false, id: Id::new(order).unwrap() });
    let states = vec![(key.clone(), state.to_vec())];
    let effects = KeyBatchEffects { states, open_index: vec![(who, key, true)], ..KeyBatchEffects::default() };
    server.ledger.commit(effects).await.unwrap();
}

fn decoded<T: serde::de::DeserializeOwned>(response: &HttpResponse) -> T {
    serde_json::from_slice(&response.body).unwrap()
}

fn assert_unavailable(response: &HttpResponse) {
    let problem: Problem = decoded(response);
    assert_eq!((response.status, &*problem.code), (503, "unavailable"));
}

async fn damage_alerts(server: &Server) -> Vec<Severity> {
    let ready: ReadyAnswer = decoded(&HttpClient::new(server.admin()).get("/ready", "").await.unwrap());
    assert!(ready.ready);
    let damaged = |alert: &orderbell_protocol::alert::Alert| alert.code == AlertCode::LedgerDamaged;
    ready.alerts.into_iter().filter(damaged).map(|alert| alert.severity).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_order_that_does_not_decode_is_an_error_and_an_alert_and_never_a_shorter_list() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let token = server.state.tokens().mint("store", "1", None, wall_clock(), 600).unwrap();
    let http = HttpClient::new(server.public());
    let paid = br#"{"stage":"paid","store":"1"}"#;
    write(&server, "good", paid).await;
    let list: OrdersAnswer = decoded(&http.get("/v1/orders?open=1", &token).await.unwrap());
    assert_eq!(list.orders.iter().map(|order| order.stage).collect::<Vec<_>>(), [OrderStage::Paid]);
    assert_eq!(damage_alerts(&server).await, []);

    write(&server, "bad", br#"{"stage":"#).await;
    assert_unavailable(&http.get("/v1/orders?open=1", &token).await.unwrap());
    assert_unavailable(&http.get("/v1/orders/bad", &token).await.unwrap());
    assert_unavailable(&HttpClient::new(server.admin()).get("/orders/bad", "").await.unwrap());
    assert_eq!(http.get("/v1/orders/good", &token).await.unwrap().status, 200);
    let event = r#"{"id":"e1","kind":"order.accepted","order":"bad"}"#;
    let answer = http.send("POST", "/v1/events", &token, "application/json", event).await.unwrap();
    let answer: EventsAnswer = decoded(&answer);
    assert_eq!(answer.events[0].reason.as_deref(), Some("unavailable"), "a client keeps the event and sends it again");
    assert_eq!(damage_alerts(&server).await, [Severity::Critical]);

    // The alert says what was found since the start: it stays.
    write(&server, "bad", paid).await;
    let list: OrdersAnswer = decoded(&http.get("/v1/orders?open=1", &token).await.unwrap());
    assert_eq!(list.orders.len(), 2);
    assert_eq!(damage_alerts(&server).await, [Severity::Critical]);
    server.stop().await;
}
