//! What one token can do to the tills beside it: tokens of a store that name no device against the till whose token names it.

use std::path::Path;

use orderbell_client::{HttpClient, HttpResponse, Socket};
use serde_json::{Value, json};

use super::*;
use crate::config::Listen;
use crate::hub::SUBSCRIBERS_PER_RECIPIENT_MAX;
use crate::net::{IdentityRate, Rate};

/// A server with small rates: a few requests of a store use them up.
async fn start(dir: &Path) -> Arc<Server> {
    let few = |burst| {
        let store = Rate { burst, per_minute: 1 };
        IdentityRate { store, device: Rate { burst: burst / 2, ..store } }
    };
    start_with(dir, |base| NetLimits { polls: few(40), hellos: few(40), events: few(8), ..base }).await
}

async fn start_with(dir: &Path, limits: impl Fn(NetLimits) -> NetLimits) -> Arc<Server> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::in_dir(dir);
    config.boot.listen = Listen { public: any, admin: any };
    config.live.min_free_space = crate::config::ByteSize::from_mib(0);
    Server::start(&config, limits(config.limits()), |why: &str| panic!("{why}")).await.unwrap()
}

/// A token of store 17; with a device, bound to it.
fn token(server: &Server, device: Option<&str>) -> String {
    server.state.tokens().mint("store", "17", device, wall_clock(), 600).unwrap()
}

/// Says hello and waits for the welcome; or the code and the reason of the close.
async fn hello(server: &Server, token: &str, device: &str, position: Option<&str>) -> Result<Socket, (u16, String)> {
    let position = position.map(|position| position.parse().unwrap());
    let mut socket = Socket::open_with_hello(server.public(), token, device, position).await.unwrap();
    match socket.next_text().await {
        Ok(_) => Ok(socket),
        Err(close) => {
            let (code, reason) = close.unwrap();
            Err((code, reason.to_string()))
        }
    }
}

/// The code with which a connection is closed, whatever comes before.
async fn closed(socket: &mut Socket) -> u16 {
    let ended = async {
        loop {
            if let Err(close) = socket.next_text().await {
                return close.unwrap().0;
            }
        }
    };
    tokio::time::timeout(orderbell_lab::patience(), ended).await.unwrap()
}

/// A customer pays: a notice for the store. Returns when a till would find it.
async fn pays(server: &Server, order: &str) {
    let producer = server.state.tokens().mint("producer", "p", None, wall_clock(), 600).unwrap();
    let paid = json!({"type": "order.paid", "id": order, "order": order, "store": "17", "amount": 5}).to_string();
    let http = HttpClient::new(server.public());
    let answer = http.send("POST", "/v1/events", &producer, "application/json", paid).await.unwrap();
    assert_eq!(answer.status, 200);
    let who = Recipient::store(Id::new("17").unwrap());
    let stored = async {
        while server
            .ledger
            .orders()
            .open(&who, None, 10)
            .unwrap()
            .orders
            .iter()
            .all(|(key, _)| key.id.as_str() != order)
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(orderbell_lab::patience(), stored).await.unwrap();
}

async fn poll(server: &Server, token: &str, query: &str) -> HttpResponse {
    HttpClient::new(server.public()).get(&format!("/v1/notices?{query}"), token).await.unwrap()
}

/// The orders of the notices in the answer to a poll.
fn orders(answer: &HttpResponse) -> Vec<Value> {
    assert_eq!(answer.status, 200);
    answer.json().unwrap()["notices"].as_array().unwrap().iter().map(|notice| notice["order"].clone()).collect()
}

/// Reports that the store accepts an order.
async fn accepts(server: &Server, token: &str, device: &str, order: &str) -> HttpResponse {
    let event = json!({"id": "x", "kind": "order.accepted", "order": order}).to_string();
    let (http, path) = (HttpClient::new(server.public()), format!("/v1/events?device={device}"));
    http.send("POST", &path, token, "application/json", event).await.unwrap()
}

/// The bug: whoever had a token of the store polled as any of its tills and acknowledged for it, and with a position that counted its hello threw
/// the living till out.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_a_token_names_is_not_used_with_a_token_that_names_none() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (free, bound) = (token(&server, None), token(&server, Some("till-1")));
    // Before the till has a token of its own, its name is free; what it has acknowledged stays.
    pays(&server, "o0").await;
    let first = poll(&server, &free, "device=till-1").await;
    let position = first.json().unwrap()["position"].as_str().unwrap().to_owned();
    assert_eq!(orders(&first), ["o0"]);
    assert!(orders(&poll(&server, &free, &format!("device=till-1&after={position}")).await).is_empty());

    let mut till = hello(&server, &bound, "till-1", None).await.unwrap();
    pays(&server, "o1").await;
    let notice: Value = serde_json::from_str(&till.next_text().await.unwrap()).unwrap();
    assert_eq!(notice["order"], "o1", "it continues where it was");

    let refused = poll(&server, &free, &format!("device=till-1&after={}", notice["position"].as_str().unwrap())).await;
    let problem = refused.json().unwrap();
    assert_eq!((refused.status, &problem["code"]), (422, &json!("invalid-parameter")));
    assert_eq!(problem["errors"][0]["pointer"], "device", "{problem}");
    assert_eq!(accepts(&server, &free, "till-1", "o1").await.status, 422);
    for valid in [None, Some(position.as_str())] {
        let (code, reason) = hello(&server, &free, "till-1", valid).await.err().unwrap();
        assert_eq!(code, 4001);
        assert!(reason.starts_with("bad-message;this device has a token of its own"), "{reason}");
    }
    // Nobody has acknowledged for the till, and it is still there. Another name is free.
    assert_eq!(orders(&poll(&server, &bound, "").await), ["o1"]);
    till.send_text(r#"{"type":"bye"}"#).await.unwrap();
    assert_eq!(closed(&mut till).await, 1000);
    assert_eq!(orders(&poll(&server, &free, "device=till-2").await), ["o0", "o1"]);
    let counted = server.state.stats().rejections.list();
    assert_eq!(counted.iter().map(|of| (of.reason.as_str(), of.count)).collect::<Vec<_>>(), [("device-bound", 4)]);
    server.stop().await;
    drop(server);

    // The name stays taken.
    let server = start(dir.path()).await;
    assert_eq!(poll(&server, &free, "device=till-1").await.status, 422);
    assert_eq!(orders(&poll(&server, &bound, "").await), ["o1"]);
    server.stop().await;
}

/// The bug: once the cursor of a till was gone, which says that its token names it, a token that names no device threw the living till out.
#[tokio::test(flavor = "multi_thread")]
async fn a_connected_device_whose_cursor_is_gone_is_not_used_with_a_token_that_names_none() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (free, who) = (token(&server, None), Recipient::store(Id::new("17").unwrap()));
    let (device, bound) = (Id::new("till-1").unwrap(), orderbell_ledger::DeviceBinding::Bound);
    // A session of which the ledger has no cursor.
    let till = server.state.hub().connect(&who, &device, bound, server.state.hub().tag_of("its token")).unwrap();
    assert_eq!(poll(&server, &free, "device=till-1").await.status, 422);
    assert_eq!(hello(&server, &free, "till-1", None).await.err().unwrap().0, 4001);
    assert!(!till.is_replaced());
    drop(till);
    assert_eq!(poll(&server, &free, "device=till-1").await.status, 200);
    server.stop().await;
}

/// The bug: a poll that began before the till had a token of its own acknowledged for it when it ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_poll_that_waits_does_not_acknowledge_for_a_device_that_became_bound_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (free, bound) = (token(&server, None), token(&server, Some("till-1")));
    let waits = async {
        while server.state.hub().waiting_polls() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(poll(&server, &bound, "").await.status, 200);
        pays(&server, "o1").await;
    };
    let (early, ()) = tokio::join!(poll(&server, &free, "device=till-1&wait=50"), waits);
    assert_eq!(early.status, 422);
    assert_eq!(orders(&poll(&server, &bound, "").await), ["o1"]);
    server.stop().await;
}

/// The bug: a session that was open when the till began to poll with a token of its own went on to acknowledge for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_names_no_device_in_its_token_ends_when_a_token_that_names_it_polls() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (free, bound) = (token(&server, None), token(&server, Some("till-1")));
    let mut early = hello(&server, &free, "till-1", None).await.unwrap();
    let mut other = hello(&server, &free, "till-2", None).await.unwrap();
    assert_eq!(poll(&server, &bound, "").await.status, 200);
    assert_eq!(closed(&mut early).await, 4003);
    assert_eq!(hello(&server, &free, "till-1", None).await.err().unwrap().0, 4001);
    pays(&server, "o1").await;
    assert!(other.next_text().await.unwrap().contains("\"o1\""), "the other till is served");
    // Its own session is not ended by its polls.
    let mut till = hello(&server, &bound, "till-1", None).await.unwrap();
    assert!(till.next_text().await.unwrap().contains("\"o1\""));
    assert_eq!(orders(&poll(&server, &bound, "").await), ["o1"]);
    till.send_text(r#"{"type":"bye"}"#).await.unwrap();
    assert_eq!(closed(&mut till).await, 1000);
    server.stop().await;
}

/// The bug: polls, connections and events of a token that names no device used up what the tills of its store may ask.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_without_a_device_in_the_token_takes_no_rate_from_a_device_that_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (free, bound) = (token(&server, None), token(&server, Some("till-1")));
    pays(&server, "o1").await;
    let http = HttpClient::new(server.public());
    let lists = async |token: &str| http.get("/v1/orders?open=1", token).await.unwrap().status;
    for n in 0.. {
        let device = format!("invented-{n}");
        let polled = poll(&server, &free, &format!("device={device}")).await.status;
        let connected = hello(&server, &free, &device, None).await.err().map(|(code, _)| code);
        let posted = accepts(&server, &free, &device, "unknown").await.status;
        if (polled, connected, posted) == (429, Some(4102), 429) {
            break;
        }
        assert!(n < 100, "{polled} {connected:?} {posted}");
    }
    assert!(hello(&server, &bound, "till-1", None).await.is_ok());
    assert_eq!((orders(&poll(&server, &bound, "").await), lists(&bound).await), (vec![json!("o1")], 200));
    assert_eq!(accepts(&server, &bound, "till-1", "o1").await.json().unwrap()["events"][0]["status"], "stored");
    server.stop().await;
}

/// The bug: 64 sockets with invented names kept each till of the store out, and 32 polls that waited made the poll of each till wait no longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_its_token_names_connects_and_waits_whatever_others_of_its_store_hold() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_with(dir.path(), |base| base).await;
    let (free, bound) = (token(&server, None), token(&server, Some("till-1")));
    let mut invented = Vec::new();
    while let Ok(socket) = hello(&server, &free, &format!("invented-{}", invented.len()), None).await {
        invented.push(socket);
    }
    assert_eq!(invented.len(), SUBSCRIBERS_PER_RECIPIENT_MAX);
    let waiting = async |wanted: u64| {
        while server.state.hub().waiting_polls() < wanted {
            tokio::task::yield_now().await;
        }
    };
    let per_store = u64::from(NetLimits::default().max_waiting_polls_per_recipient);
    let polls = futures_util::future::join_all((0..per_store).map(|n| {
        let (server, free) = (&server, &free);
        async move { poll(server, free, &format!("device=w{n}&wait=50")).await.status }
    }));
    let till = async {
        waiting(per_store).await;
        assert_eq!(poll(&server, &free, "device=w&wait=50").await.status, 200, "one above is answered at once");
        let mut till = hello(&server, &bound, "till-1", None).await.unwrap();
        let pays = async {
            waiting(per_store + 1).await;
            pays(&server, "o1").await;
        };
        let (polled, ()) = tokio::join!(poll(&server, &bound, "wait=50"), pays);
        assert_eq!(orders(&polled), ["o1"], "its poll waited");
        assert!(till.next_text().await.unwrap().contains("\"o1\""));
    };
    let (statuses, ()) = tokio::join!(polls, till);
    assert!(statuses.iter().all(|status| *status == 200));
    server.stop().await;
}

/// The bug: two installations that had chosen one name replaced each other, and neither was served for minutes.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_installations_with_one_name_the_one_that_is_there_stays() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let tokens = server.state.tokens();
    let [one, other] = [600, 601].map(|seconds| tokens.mint("store", "17", None, wall_clock(), seconds).unwrap());
    let mut till = hello(&server, &one, "till", None).await.unwrap();
    let refused = tokio::select! {
        refused = hello(&server, &other, "till", None) => refused.err().unwrap(),
        // Whoever reads answers pings.
        ended = till.next_text() => panic!("{ended:?}"),
    };
    assert_eq!(refused, (4003, "replaced".into()));
    pays(&server, "o1").await;
    assert!(till.next_text().await.unwrap().contains("\"o1\""));
    server.stop().await;
}
