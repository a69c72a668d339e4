//! A configuration that changes on a whole server in this process: what may change holds at once, and nobody is sent away.

use orderbell_client::{HttpClient, Received, Socket};
use orderbell_protocol::ServerFrame;
use serde_json::json;

use super::*;
use crate::config::{Config, Listen};
use crate::net::Identity;
use orderbell_ledger::DeviceBinding;

fn config(dir: &std::path::Path) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::in_dir(dir);
    config.boot.listen = Listen { public: any, admin: any };
    config.live.min_free_space = crate::config::ByteSize::from_mib(0);
    config
}

async fn window(server: &Server, device: &str, token: &str) -> (Socket, u16) {
    let mut socket = Socket::open_with_hello(server.public(), token, device, None).await.unwrap();
    match socket.next().await.unwrap() {
        Received::Frame(ServerFrame::Welcome { max_in_flight, .. }) => (socket, max_in_flight),
        other => panic!("instead of a welcome: {other:?}"),
    }
}

/// The bug: a reload held a lock while it read files, and a stop waited for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reload_that_reads_from_a_disk_that_hangs_does_not_hold_up_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let before = config(dir.path());
    let server = Server::start(&before, before.limits(), |why: &str| panic!("{why}")).await.unwrap();
    // Whoever reads from a pipe waits until its other end is closed.
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut after = before.clone();
    after.live.tokens.jwks_file = Some(pipe.clone());
    let reloading = server.clone();
    let reload = tokio::task::spawn_blocking(move || reloading.reload(after));
    let opened = tokio::task::spawn_blocking(move || std::fs::OpenOptions::new().write(true).open(pipe));
    let other_end = opened.await.unwrap().unwrap();
    let stopping = server.clone();
    let stop = TaskTracker::new().spawn(async move { stopping.stop().await });
    let stopped = tokio::time::timeout(Duration::from_secs(60), stop).await;
    drop(other_end);
    assert!(reload.await.unwrap().is_err(), "there is no key in it");
    assert!(stopped.expect("a stop does not wait for the reload").unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_change_hold_at_once_and_whoever_is_connected_stays() {
    let dir = tempfile::tempdir().unwrap();
    let before = config(dir.path());
    let server = Server::start(&before, before.limits(), |why: &str| panic!("{why}")).await.unwrap();
    let token = |role: &str| server.state.tokens().mint(role, "1", None, wall_clock(), 600).unwrap();
    let http = HttpClient::new(server.public());
    let (store, producer) = (token("store"), token("producer"));
    let (mut till, old) = window(&server, "a", &store).await;
    assert_eq!(old, before.live.sessions.max_in_flight);
    let polling = http.clone();
    let waiting = async {
        let answer = polling.get("/v1/notices?device=b&wait=30", &store).await.unwrap();
        (answer.status, answer.json().unwrap()["notices"][0]["order"].clone())
    };
    let changes = async {
        while server.state.stats().polls.get() == 0 {
            tokio::task::yield_now().await;
        }
        let mut after = before.clone();
        after.live.sessions.max_in_flight = 7;
        after.live.rates.max_polls_per_minute = 1;
        let reloaded = server.reload(after).unwrap();
        assert_eq!(reloaded.applied, ["sessions.max_in_flight", "rates.max_polls_per_minute"]);
        assert!(reloaded.needs_restart.is_empty());
        assert_eq!(window(&server, "c", &store).await.1, 7);
        // The burst is what it was. Then one a minute, and no longer one in a tenth of a second.
        let (who, device) = (Recipient::store(Id::new("2").unwrap()), Id::new("d").unwrap());
        let client = Identity { who: &who, device: &device, binding: DeviceBinding::Unbound };
        let refused = (0..2_000).find_map(|_| server.state.admit_request(client).err()).unwrap();
        assert!(refused.0.retry_after_ms.unwrap() > 10_000);
        // Those who were connected are still there, the waiting poll as well.
        let paid = json!({"type": "order.paid", "id": "e1", "order": "o1", "store": "1", "customer": "c", "amount": 5});
        let posted = http.send("POST", "/v1/events", &producer, "application/json", paid.to_string()).await.unwrap();
        assert_eq!(posted.status, 200);
        match till.next().await.unwrap() {
            Received::Notice(delivery) => assert_eq!(delivery.notice.order, "o1"),
            other => panic!("instead of the notice: {other:?}"),
        }
    };
    let ((status, order), ()) = tokio::join!(waiting, changes);
    assert_eq!((status, order), (200, json!("o1")));
    server.stop().await;
}
