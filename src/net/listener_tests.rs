use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::get;
use tokio::io::AsyncReadExt;

use super::*;

const LARGE_BYTES: usize = 32 << 20;

fn listening(routes: Router, places: PlaceLimits, stats: &Arc<NetStats>) -> Listening {
    let head_timeout = Duration::from_secs(5);
    Listening { routes, places, always_served: &["/live"], head_timeout, stats: stats.clone() }
}

/// Why clients were turned away, and how often each.
fn reasons(stats: &NetStats) -> Vec<(String, u64)> {
    stats.rejections.list().into_iter().map(|rejected| (rejected.reason, rejected.count)).collect()
}

struct Running {
    address: std::net::SocketAddr,
    tasks: TaskTracker,
    drain: CancellationToken,
    stats: Arc<NetStats>,
}

impl Running {
    /// A listener with few places. Requests for `/slow` are never answered; the answer to `/large` is more than the buffers of a socket hold.
    async fn start(idle: usize, requests: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, drain, stats) = (TaskTracker::new(), CancellationToken::new(), Arc::<NetStats>::default());
        let ok = || get(|| async { "ok\n" });
        let routes = Router::new().route("/", ok()).route("/live", ok());
        let routes = routes.route("/slow", get(std::future::pending::<&str>));
        let routes = routes.route("/large", get(|| async { vec![b'x'; LARGE_BYTES] }));
        let listening = listening(routes, PlaceLimits { idle, requests, classes: 0 }, &stats);
        tasks.spawn(serve(listener, listening, tasks.clone(), drain.clone()));
        Self { address, tasks, drain, stats }
    }

    async fn writes(&self, bytes: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream
    }

    async fn asks(&self, path: &str) -> String {
        let mut stream = self.writes(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        let mut answer = String::new();
        // A connection that is cut off ends with what came until then.
        let _ended = stream.read_to_string(&mut answer).await;
        answer
    }

    /// The first line of the answer that has this beginning, however often it takes: what is held elsewhere moves on by itself.
    async fn is_answered(&self, path: &str, wanted: &str) {
        let began = Instant::now();
        loop {
            let answer = self.asks(path).await;
            if answer.starts_with(wanted) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{answer}");
            tokio::task::yield_now().await;
        }
    }

    async fn stop(self) {
        self.drain.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[tokio::test]
async fn half_heads_turn_nobody_away_however_many_come() {
    let server = Running::start(2, 2).await;
    let mut held = Vec::new();
    for round in 0..20 {
        for _ in 0..4 {
            held.push(server.writes("GET / HTT").await);
        }
        // All places are taken by connections that are young.
        for path in ["/live", "/"] {
            let answer = server.asks(path).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{path} in round {round}: {answer}");
        }
    }
    let cut_off = server.stats.connections_rejected.get();
    assert!(cut_off >= 20 * 4 - 4, "those that are cut off are counted");
    assert_eq!(reasons(&server.stats), [("place-taken".to_owned(), cut_off)]);
    let mut rest = Vec::new();
    let _cut = held[0].read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "the first one is cut off");
    server.stop().await;
}

#[tokio::test]
async fn an_answer_on_its_way_is_finished_however_many_come() {
    let server = Running::start(4, 1).await;
    let mut reader = server.writes("GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let mut answer = vec![0; 12];
    reader.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, *b"HTTP/1.1 200");
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(server.writes("GET / HTT").await);
        assert!(server.asks("/").await.starts_with("HTTP/1.1 200 "));
    }
    reader.read_to_end(&mut answer).await.unwrap();
    assert!(answer.len() > LARGE_BYTES);
    server.stop().await;
}

/// A connection over a pipe that holds so few bytes, until it ends.
fn over_pipe(
    routes: Router,
    stats: &Arc<NetStats>,
    bytes: usize,
) -> (tokio::io::DuplexStream, impl Future<Output = ()>) {
    let limits = PlaceLimits { idle: 1, requests: 1, classes: 0 };
    let listening = Arc::new(listening(routes, limits, stats));
    let (client, server) = tokio::io::duplex(bytes);
    let serves = async move {
        let (place, _) = Places::new(limits).enter().await.unwrap();
        serve_stream(server, listening, Arc::new(place), CancellationToken::new()).await;
    };
    (client, serves)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_take_its_answer_is_cut_off() {
    let stats = Arc::<NetStats>::default();
    let routes = Router::new().route("/large", get(|| async { vec![b'x'; 100_000] }));
    let (mut client, serves) = over_pipe(routes, &stats, 4_096);
    client.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let began = tokio::time::Instant::now();
    serves.await;
    assert_eq!(began.elapsed().as_secs(), 30);
    assert_eq!(reasons(&stats), [("answer-timeout".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn no_further_request_is_served_before_the_answer_is_taken() {
    let (stats, served) = (Arc::<NetStats>::default(), Arc::new(AtomicUsize::new(0)));
    let count = served.clone();
    let counted = move || {
        count.fetch_add(1, Ordering::Relaxed);
        async {}
    };
    let (client, serves) = over_pipe(Router::new().route("/", get(counted)), &stats, 64);
    let (mut answers, mut requests) = tokio::io::split(client);
    // With a body, which is read after the answer is made.
    let request = "HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx";
    let sends = async { requests.write_all(request.repeat(1_000).as_bytes()).await.unwrap() };
    tokio::pin!(sends, serves);
    let both = async { tokio::join!(&mut sends, &mut serves) };
    assert!(tokio::time::timeout(Duration::from_secs(1), both).await.is_err());
    assert!(served.load(Ordering::Relaxed) <= 2, "{served:?}");
    // Whoever reads is served.
    let reads = async {
        let mut bytes = vec![0; 4_096];
        while served.load(Ordering::Relaxed) < 1_000 {
            assert_ne!(answers.read(&mut bytes).await.unwrap(), 0, "the connection ended");
        }
    };
    tokio::select! {
        () = reads => {}
        ((), ()) = async { tokio::join!(&mut sends, &mut serves) } => panic!("the connection ended"),
    }
}

#[tokio::test]
async fn above_the_limit_of_requests_one_is_answered_503_and_whether_it_lives_is_said_all_the_same() {
    let server = Running::start(10, 2).await;
    let slow = "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n";
    let held = [server.writes(slow).await, server.writes(slow).await];
    server.is_answered("/", "HTTP/1.1 503 ").await;
    let answer = server.asks("/").await.to_lowercase();
    assert!(answer.contains("retry-after: 5") && answer.contains("application/problem+json"), "{answer}");
    assert!(answer.contains("\"too-many-requests\""), "{answer}");
    assert_eq!(reasons(&server.stats)[0].0, "too-many-requests");
    assert!(server.asks("/live").await.starts_with("HTTP/1.1 200 "));
    drop(held);
    server.is_answered("/", "HTTP/1.1 200 ").await;
    server.stop().await;
}

#[tokio::test]
async fn a_request_names_one_host_and_only_a_health_check_may_name_none() {
    let server = Running::start(10, 10).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a", "200"),
        ("GET / HTTP/1.1", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b", "400"),
        ("GET / HTTP/1.0", "200"),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: b", "400"),
        ("GET /live HTTP/1.1", "200"),
        ("HEAD /live HTTP/1.1", "200"),
        ("GET /live?x HTTP/1.1", "200"),
        ("GET /live HTTP/1.0", "200"),
        ("GET /live HTTP/1.1\r\nHost: a\r\nHost: b", "400"),
        ("GET /lively HTTP/1.1", "400"),
    ] {
        let mut answer = String::new();
        let request = format!("{request}\r\nConnection: close\r\n\r\n");
        server.writes(&request).await.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request}");
        assert_eq!(answer.contains("bad-host"), status == "400");
    }
    server.stop().await;
}

/// What the reasons say after a client has sent this, then more when it was answered, and waited.
async fn turned_away(sent: &str, then: &str) -> Vec<(String, u64)> {
    let stats = Arc::<NetStats>::default();
    let (mut client, serves) = over_pipe(Router::new().route("/", get(|| async { "ok" })), &stats, 64 << 10);
    let asks = async {
        client.write_all(sent.as_bytes()).await.unwrap();
        if !then.is_empty() {
            assert!(client.read(&mut [0; 1_024]).await.unwrap() > 0);
            client.write_all(then.as_bytes()).await.unwrap();
        }
        let _until_it_ends = client.read_to_end(&mut Vec::new()).await;
    };
    tokio::join!(serves, asks);
    reasons(&stats)
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_keep_to_the_limits_of_a_head_is_counted_by_reason() {
    let good = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let (large, many) = ("x".repeat(20_000), "X-Many: x\r\n".repeat(100));
    for (sent, then, reason) in [
        ("", "", Some("head-timeout")),
        ("GET / HTT", "", Some("head-timeout")),
        (good, "GET / HTT", Some("head-timeout")),
        // Kept open for a request that does not come.
        (good, "", None),
        (good, good, None),
        (&format!("GET / HTTP/1.1\r\nX-Long: {large}\r\n\r\n"), "", Some("head-too-large")),
        (&format!("GET / HTTP/1.1\r\n{many}\r\n"), "", Some("head-too-large")),
        ("\u{16}\u{3}\u{1} a handshake of TLS", "", Some("bad-head")),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", "", Some("bad-host")),
    ] {
        let expected: Vec<_> = reason.map(|reason| (reason.to_owned(), 1)).into_iter().collect();
        assert_eq!(turned_away(sent, then).await, expected, "{}", &sent[..sent.len().min(60)]);
    }
}

/// What a proxy in front may take for the body of one request must not be read as the next one.
#[tokio::test]
async fn nothing_is_read_behind_a_chunked_body() {
    let server = Running::start(10, 10).await;
    let behind = "GET /live HTTP/1.1\r\nHost: x\r\n\r\n";
    let chunked = "Host: x\r\nTransfer-Encoding: chunked\r\n";
    let length = format!("Content-Length: {}\r\n", "0\r\n\r\n".len() + behind.len());
    for headers in [chunked.to_owned(), format!("{length}{chunked}"), format!("{chunked}{length}")] {
        let mut answer = String::new();
        let mut stream = server.writes(&format!("GET / HTTP/1.1\r\n{headers}\r\n0\r\n\r\n{behind}")).await;
        // Bytes that are not read end the connection with a reset, behind the answer.
        let _ended = stream.read_to_string(&mut answer).await;
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{headers}: {answer}");
        assert!(answer.to_lowercase().contains("connection: close"));
    }
    server.stop().await;
}

/// The bug: a newcomer that waited for the place of another held up the end of the server, for as long as that one took to leave.
#[tokio::test(start_paused = true)]
async fn a_newcomer_that_waits_for_a_place_does_not_hold_up_the_drain() {
    let places = Places::new(PlaceLimits { idle: 1, requests: 0, classes: 0 });
    let drain = CancellationToken::new();
    let (held, _) = enter(&places, &drain).await.unwrap().unwrap();
    // It does not leave: the newcomer waits.
    let began = tokio::time::Instant::now();
    let (entered, ()) = tokio::join!(enter(&places, &drain), async {
        held.lost().await;
        drain.cancel();
    });
    assert!(entered.is_none() && began.elapsed().is_zero());
    assert!(enter(&places, &drain).await.is_none(), "nor is anybody let in afterwards");
    drop(held);
}
