//! Accepting connections: bounded in number, in the time a request's head may take, and in its size. Never spins.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use orderbell_protocol::Problem;
use orderbell_protocol::problem::PROBLEM_JSON;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// How long a connection may go on after the drain began: answers that wait are given at once, and who takes none by then is gone.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// A peer that takes nothing of what was sent, or does not answer at all, for this long is gone. Above the 70 s after which a silent session
/// ends by its own rules.
const UNTAKEN_MAX: Duration = Duration::from_secs(90);
/// After a failed accept (no files left, most likely) nobody is accepted for this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection's place among those of its listener, as its requests find it.
#[derive(Clone)]
pub(crate) struct Place(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Place {
    /// Gives the place up: the connection is counted elsewhere from now on.
    pub(crate) fn leave(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Serves `routes` until `drain` is cancelled. Connections are tasks of `tasks`.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    tasks: TaskTracker,
    drain: CancellationToken,
    connections_max: usize,
    head_timeout: Duration,
) {
    let places = Arc::new(Semaphore::new(connections_max));
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tasks.spawn(turn_away(stream));
            continue;
        };
        let (routes, drain) = (routes.clone(), drain.clone());
        tasks.spawn(async move {
            connection(stream, routes, Place(Arc::new(Mutex::new(Some(place)))), drain, head_timeout).await;
        });
    }
}

async fn turn_away(mut stream: TcpStream) {
    let body = Problem::unavailable("too many connections", 5_000).to_json();
    let head = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5";
    let text = format!("{head}\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let told = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await
    };
    let _told = tokio::time::timeout(Duration::from_secs(1), told).await;
}

async fn connection(stream: TcpStream, routes: Router, place: Place, drain: CancellationToken, head_timeout: Duration) {
    // Notices are small and must not wait for the next packet.
    let _best_effort = stream.set_nodelay(true);
    // The kernel knows it, whatever reads or writes the connection: nobody holds a place by taking nothing.
    let untaken_ms = u32::try_from(UNTAKEN_MAX.as_millis()).unwrap_or(u32::MAX);
    let _best_effort = rustix::net::sockopt::set_tcp_user_timeout(&stream, untaken_ms);
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(place.clone());
        routes.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(served);
    let ended: Result<(), hyper::Error> = tokio::select! {
        ended = served.as_mut() => ended,
        () = drain.cancelled() => {
            served.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN_MAX, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended badly");
    }
}
