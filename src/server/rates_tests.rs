//! What one identity may ask for, on a whole server in this process: at the limit, one above, and its neighbour at that moment.

use std::path::Path;

use orderbell_client::{HttpClient, HttpResponse, Socket};
use orderbell_ledger::{DeviceBinding, KeyBatchEffects};
use orderbell_protocol::OrderKey;
use serde_json::json;

use super::*;
use crate::config::Listen;
use crate::net::{IdentityRate, Rate};

const UNBOUND: DeviceBinding = DeviceBinding::Unbound;

/// A server whose rates are small enough for a test.
async fn start(dir: &Path) -> Arc<Server> {
    let both = |burst, per_minute| {
        let store = Rate { burst, per_minute };
        IdentityRate { store, device: store }
    };
    let rates = |base| NetLimits { polls: both(4, 1), hellos: both(4, 1), events: both(40, 10), ..base };
    start_with(dir, rates).await
}

async fn start_with(dir: &Path, limits: impl Fn(NetLimits) -> NetLimits) -> Arc<Server> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::in_dir(dir);
    config.boot.listen = Listen { public: any, admin: any };
    config.live.min_free_space = crate::config::ByteSize::from_mib(0);
    Server::start(&config, limits(config.limits()), |why: &str| panic!("{why}")).await.unwrap()
}

async fn write(server: &Server, order: &str, state: &serde_json::Value) {
    let key = OrderKey { shadow: false, id: Id::new(order).unwrap() };
    let states = vec![(key, state.to_string().into_bytes())];
    server.ledger.commit(KeyBatchEffects { states, ..KeyBatchEffects::default() }).await.unwrap();
}

fn token(server: &Server, role: &str, id: &str) -> String {
    server.state.tokens().mint(role, id, None, wall_clock(), 600).unwrap()
}

fn rows(server: &Server) -> u64 {
    server.ledger.backup(std::io::sink(), |_| {}).unwrap()
}

/// Posts events of these ids about one order, as many as a request may have.
async fn posts(server: &Server, token: &str, (kind, order): (&str, &str), ids: std::ops::Range<u32>) -> HttpResponse {
    let events: Vec<_> = ids.map(|id| json!({"id": format!("x{id}"), "kind": kind, "order": order})).collect();
    let http = HttpClient::new(server.public());
    http.send("POST", "/v1/events?device=p", token, "application/json", json!(events).to_string()).await.unwrap()
}

fn turned_away(server: &Server) -> Vec<(String, u64)> {
    let all = server.state.stats().rejections.list();
    all.into_iter().map(|rejected| (rejected.reason, rejected.count)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_order_already_knows_is_answered_and_writes_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let facts = json!({"first": [[4, wall_clock().0, null, "unstated"]]});
    write(&server, "over", &json!({"stage": "picked_up", "store": "1", "customer": "c", "facts": facts})).await;
    write(&server, "ready", &json!({"stage": "ready", "store": "1", "customer": "d"})).await;
    let (customer, neighbour) = (token(&server, "customer", "c"), token(&server, "customer", "d"));
    let before = rows(&server);
    let answer = posts(&server, &customer, ("order.picked_up", "over"), 0..4).await;
    let statuses = |answer: &HttpResponse| -> Vec<String> {
        let events = answer.json().unwrap()["events"].as_array().unwrap().clone();
        events.iter().map(|event| event["status"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((answer.status, statuses(&answer)), (200, vec!["duplicate".to_owned(); 4]));
    assert_eq!(rows(&server), before, "nothing was written");
    // As many as a customer may report at once, then not one more; its neighbour may report, and the order moves.
    let answer = posts(&server, &customer, ("order.picked_up", "over"), 4..5).await;
    assert_eq!((answer.status, answer.json().unwrap()["code"].clone()), (429, json!("rate-limited")));
    assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 30, "{:?}", answer.headers);
    let answer = posts(&server, &neighbour, ("order.picked_up", "ready"), 0..1).await;
    assert_eq!((answer.status, statuses(&answer)), (200, vec!["stored".to_owned()]));
    assert!(rows(&server) > before);
    assert_eq!(turned_away(&server), [("rate-limited".to_owned(), 1)]);
    server.stop().await;
}

/// Opens a WebSocket with a `hello`, or says with which code it was closed.
async fn hello(server: &Server, token: &str, device: &str) -> Result<Socket, u16> {
    let mut socket = Socket::open_with_hello(server.public(), token, device, None).await.unwrap();
    socket.next_text().await.map(|_| socket).map_err(|close| close.unwrap().0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_till_that_loops_has_to_wait_and_its_sister_has_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (http, store) = (HttpClient::new(server.public()), token(&server, "store", "1"));
    let poll = async |device: &str| http.get(&format!("/v1/notices?device={device}"), &store).await.unwrap().status;
    // Half of what its store may, however often it asks.
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push((hello(&server, &store, "loops").await.err(), poll("loops").await));
    }
    assert_eq!(answers[..2], [(None, 200); 2]);
    assert_eq!(answers[2..], [(Some(4102), 429); 4]);
    for _ in 0..2 {
        assert_eq!((hello(&server, &store, "sister").await.err(), poll("sister").await), (None, 200));
    }
    assert_eq!((hello(&server, &store, "invented").await.err(), poll("invented").await), (Some(4102), 429));
    assert_eq!(turned_away(&server), [("rate-limited".to_owned(), 10)]);
    server.stop().await;
}

/// The bug: a till that had polled too often was refused while an order waited for it.
#[tokio::test(flavor = "multi_thread")]
async fn above_the_rate_a_poll_is_answered_where_something_new_waits() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let (http, store, producer) =
        (HttpClient::new(server.public()), token(&server, "store", "1"), token(&server, "producer", "p"));
    let pays = async |order: &str| {
        let paid = json!({"type": "order.paid", "id": order, "order": order, "store": "1", "amount": 5}).to_string();
        let answer = http.send("POST", "/v1/events", &producer, "application/json", paid).await.unwrap();
        assert_eq!(answer.status, 200);
    };
    // The orders that a poll brings, and where it goes on; or its status.
    let poll = async |device: &str, after: &str| {
        let answer = http.get(&format!("/v1/notices?device={device}&wait=10{after}"), &store).await.unwrap();
        if answer.status != 200 {
            return Err(answer.status);
        }
        let page = answer.json().unwrap();
        let orders: Vec<_> = page["notices"].as_array().unwrap().iter().map(|n| n["order"].clone()).collect();
        Ok((json!(orders), format!("&after={}", page["position"].as_str().unwrap())))
    };
    pays("o1").await;
    let (orders, first) = poll("a", "").await.unwrap();
    assert_eq!(orders, json!(["o1"]));
    poll("b", "").await.unwrap();
    poll("b", "").await.unwrap();
    poll("a", "").await.unwrap();
    assert_eq!(poll("a", &first).await, Err(429), "nothing new");
    pays("o2").await;
    // Its notice comes a moment after the answer to the producer.
    let notified = async {
        loop {
            match poll("a", &first).await {
                Err(429) => tokio::task::yield_now().await,
                answer => break answer,
            }
        }
    };
    let (orders, second) = tokio::time::timeout(Duration::from_secs(60), notified).await.unwrap().unwrap();
    assert_eq!(orders, json!(["o2"]));
    assert_eq!(poll("a", &first).await, Err(429), "it was sent");
    assert_eq!(poll("a", &second).await, Err(429));
    assert_eq!(poll("a", "&after=no-position").await, Err(429));
    assert_eq!(poll("invented", "").await, Err(429), "whoever invents devices has no rate of its own");
    server.stop().await;
}

/// The bug: it was `busy`, which a client answers by sending the event again as soon as another one is answered.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_above_the_rate_is_answered_unavailable_and_its_neighbours_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    for (order, customer) in [("o1", "c"), ("o2", "d")] {
        write(&server, order, &json!({"stage": "ready", "store": "1", "customer": customer})).await;
    }
    let report = async |customer: &str, order: &str, times: u32| {
        let mut socket = hello(&server, &token(&server, "customer", customer), "phone").await.unwrap();
        let mut answers = Vec::new();
        for n in 0..times {
            let event = json!({"type": "event", "id": format!("x{n}"), "kind": "order.too_late", "order": order});
            socket.send_text(&event.to_string()).await.unwrap();
            let answer: serde_json::Value = serde_json::from_str(&socket.next_text().await.unwrap()).unwrap();
            answers.push(answer["reason"].as_str().unwrap_or("none").to_owned());
        }
        answers
    };
    assert_eq!(
        report("c", "o1", 3).await,
        ["unknown-kind", "unknown-kind", "unavailable"],
        "half of what a customer may"
    );
    assert_eq!(report("d", "o2", 1).await, ["unknown-kind"]);
    assert_eq!(turned_away(&server), [("rate-limited".to_owned(), 1)]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_polls_or_connects_without_end_has_to_wait_and_its_neighbour_has_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let http = HttpClient::new(server.public());
    let (store, neighbour) = (token(&server, "store", "1"), token(&server, "store", "2"));
    for device in 0..3 {
        assert_eq!(http.get(&format!("/v1/notices?device=d{device}"), &store).await.unwrap().status, 200);
    }
    assert_eq!(http.get("/v1/orders?open=1", &store).await.unwrap().status, 200, "the limit");
    for path in ["/v1/notices?device=d4", "/v1/orders?open=1", "/v1/orders/o1"] {
        let answer = http.get(path, &store).await.unwrap();
        assert_eq!((answer.status, answer.json().unwrap()["code"].clone()), (429, json!("rate-limited")), "{path}");
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert_eq!(http.get("/v1/notices?device=d4", &neighbour).await.unwrap().status, 200);
    for device in ["a", "b", "c", "d"] {
        assert!(hello(&server, &store, device).await.is_ok(), "{device}");
    }
    assert_eq!(hello(&server, &store, "e").await.err(), Some(4102));
    assert!(hello(&server, &neighbour, "a").await.is_ok());
    assert_eq!(turned_away(&server), [("rate-limited".to_owned(), 4)]);
    server.stop().await;
}

/// Waits until so many places of this class are in use: a request gives its place back when its answer was taken, which its client does not see.
async fn in_use(server: &Server, class: &str, wanted: u64) {
    let is_in_use = || server.state.places().in_use().iter().any(|of| of.class == class && of.in_use == wanted);
    let settled = async {
        while !is_in_use() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(orderbell_lab::patience(), settled).await.expect(class);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_places_of_their_own_and_a_bound_for_each_recipient() {
    let dir = tempfile::tempdir().unwrap();
    let limits = |base| NetLimits { max_lists: 3, max_lists_per_recipient: 2, ..base };
    let server = start_with(dir.path(), limits).await;
    let (http, state) = (HttpClient::new(server.public()), &server.state);
    let (store, neighbour) = (token(&server, "store", "1"), token(&server, "store", "2"));
    let who = |id: &str| Recipient::store(Id::new(id).unwrap());
    let lists = async |token: &str| {
        let open = http.get("/v1/orders?open=1", token).await.unwrap();
        let timeline = http.get("/v1/orders/o1", token).await.unwrap();
        assert_eq!(open.headers.contains_key("retry-after"), open.status != 200);
        (open.status, timeline.status)
    };
    let at_work = [
        state.begin_list(&who("1"), UNBOUND, None).ok().unwrap(),
        state.begin_list(&who("1"), UNBOUND, None).ok().unwrap(),
    ];
    assert_eq!(
        (lists(&store).await, lists(&neighbour).await),
        ((429, 429), (200, 404)),
        "one above, and its neighbour"
    );
    in_use(&server, "list", 2).await;
    let third = state.begin_list(&who("2"), UNBOUND, None).ok().unwrap();
    in_use(&server, "list", 3).await;
    assert_eq!(lists(&neighbour).await, (503, 503), "all places are taken");
    // Polls and handshakes have other places.
    assert_eq!(http.get("/v1/notices?device=a", &store).await.unwrap().status, 200);
    assert!(hello(&server, &store, "a").await.is_ok());
    drop((at_work, third));
    assert_eq!(lists(&store).await, (200, 404));
    in_use(&server, "list", 0).await;
    let turned_away = turned_away(&server);
    assert_eq!(turned_away, [("rate-limited".to_owned(), 2), ("too-many-requests".to_owned(), 2)]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_above_the_bound_of_those_that_wait_is_answered_at_once_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let limits = |base| NetLimits { max_waiting_polls: 3, max_waiting_polls_per_recipient: 2, ..base };
    let server = start_with(dir.path(), limits).await;
    let (http, state) = (HttpClient::new(server.public()), &server.state);
    let who = |id: &str| Recipient::store(Id::new(id).unwrap());
    // Without end if it waited.
    let polls = async |id: &str| {
        let token = token(&server, "store", id);
        http.get("/v1/notices?device=a&wait=50", &token).await.unwrap().status
    };
    let waiting = [
        state.begin_waiting(&who("1"), UNBOUND, None).unwrap(),
        state.begin_waiting(&who("1"), UNBOUND, None).unwrap(),
    ];
    assert_eq!((polls("1").await, turned_away(&server)), (200, vec![("too-many-waiting-polls".to_owned(), 1)]));
    let third = state.begin_waiting(&who("2"), UNBOUND, None).expect("its neighbour waits");
    in_use(&server, "waiting_poll", 3).await;
    assert_eq!((polls("3").await, turned_away(&server)), (200, vec![("too-many-waiting-polls".to_owned(), 2)]));
    drop((waiting, third));
    in_use(&server, "waiting_poll", 0).await;
    server.stop().await;
}

/// The bug: a few phones had all places of polls that wait and of posts, and tills were refused.
#[tokio::test(flavor = "multi_thread")]
async fn customers_leave_half_of_the_places_to_tills_and_each_has_a_tenth_of_what_a_store_has() {
    let dir = tempfile::tempdir().unwrap();
    let few = |base| NetLimits { max_waiting_polls: 4, max_client_posts: 4, max_lists: 4, ..base };
    let server = start_with(dir.path(), few).await;
    let state = &server.state;
    let customer = |id: usize| Recipient::customer(Id::new(&id.to_string()).unwrap());
    let till = Recipient::store(Id::new("1").unwrap());
    let (one, other, above) = (customer(1), customer(2), customer(3));
    let polls = [&one, &other].map(|who| state.begin_waiting(who, UNBOUND, None).unwrap());
    assert!(state.begin_waiting(&above, UNBOUND, None).is_none(), "one above: it is answered at once");
    let posts = [&one, &other].map(|who| state.begin_client_post(who, UNBOUND, None).ok().unwrap());
    assert_eq!(state.begin_client_post(&above, UNBOUND, None).err().unwrap().0.status, 503);
    let lists = [&one, &other].map(|who| state.begin_list(who, UNBOUND, None).ok().unwrap());
    assert_eq!(state.begin_list(&above, UNBOUND, None).err().unwrap().0.status, 503);
    let of_tills = [0, 1].map(|_| {
        let (poll, post) = (
            state.begin_waiting(&till, UNBOUND, None).unwrap(),
            state.begin_client_post(&till, UNBOUND, None).ok().unwrap(),
        );
        (poll, post, state.begin_list(&till, UNBOUND, None).ok().unwrap())
    });
    drop((polls, posts, lists, of_tills));
    let counted = turned_away(&server);
    assert_eq!(counted, [("too-many-requests".to_owned(), 2), ("too-many-waiting-polls".to_owned(), 1)]);
    server.stop().await;

    // With places for all: each by its own bound.
    let dir = tempfile::tempdir().unwrap();
    let server = start_with(dir.path(), |base| base).await;
    let state = &server.state;
    let polls =
        |who: &Recipient| std::iter::from_fn(|| state.begin_waiting(who, UNBOUND, None)).collect::<Vec<_>>().len();
    let posts = |who: &Recipient| {
        std::iter::from_fn(|| state.begin_client_post(who, UNBOUND, None).ok()).collect::<Vec<_>>().len()
    };
    assert_eq!((polls(&one), posts(&one)), (4, 1));
    assert_eq!((polls(&till), posts(&till)), (32, 8));
    server.stop().await;
}
