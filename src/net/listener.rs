//! Accepts connections: bounded in their number, and in the size and the duration of a request's head. Never spins on a failing accept.

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
use prometheus_client::metrics::counter::Counter;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Largest size of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Largest number of headers of a request.
const HEADERS_MAX: usize = 64;
/// How long a connection may last after the drain began: waiting polls are answered at once, and a client that has not read its response by
/// then is cut off.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// TCP_USER_TIMEOUT: the kernel ends a connection whose sent data was not acknowledged for this long. Above the idle timeout of a session
/// (70 s), so that a session ends by its own rule first.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(90);
/// Pause after a failed accept, which is most likely a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection's permit among those of its listener, found by its requests in their extensions.
#[derive(Clone)]
pub(crate) struct ConnectionPermit(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl ConnectionPermit {
    /// Returns the permit: the connection is counted by another limit from now on.
    pub(crate) fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Accepts connections and serves `routes` until `drain` is cancelled. Each connection is a task of `tasks`; those above `max_connections` are
/// answered 503 and counted in `rejected`.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    tasks: TaskTracker,
    drain: CancellationToken,
    max_connections: usize,
    rejected: Counter,
    head_timeout: Duration,
) {
    let permits = Arc::new(Semaphore::new(max_connections));
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            rejected.inc();
            tasks.spawn(reject_overloaded(stream));
            continue;
        };
        let (routes, drain) = (routes.clone(), drain.clone());
        tasks.spawn(async move {
            let permit = ConnectionPermit(Arc::new(Mutex::new(Some(permit))));
            serve_connection(stream, routes, permit, drain, head_timeout).await;
        });
    }
}

/// Answers 503 and closes, without reading the request.
async fn reject_overloaded(mut stream: TcpStream) {
    let body = Problem::unavailable("too many connections", 5_000).to_json();
    let head = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 5";
    let text = format!("{head}\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let answered = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await
    };
    let _best_effort = tokio::time::timeout(Duration::from_secs(1), answered).await;
}

async fn serve_connection(
    stream: TcpStream,
    routes: Router,
    permit: ConnectionPermit,
    drain: CancellationToken,
    head_timeout: Duration,
) {
    // Notices are small and must not wait for the next packet (Nagle).
    let _best_effort = stream.set_nodelay(true);
    // Enforced by the kernel, whoever reads or writes the connection: a peer that reads nothing does not hold a permit for ever.
    let timeout_ms = u32::try_from(TCP_USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    let _best_effort = rustix::net::sockopt::set_tcp_user_timeout(&stream, timeout_ms);
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(permit.clone());
        routes.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended: Result<(), hyper::Error> = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN_MAX, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended with an error");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_connection_above_the_limit_gets_503_and_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, drain, rejected) = (TaskTracker::new(), CancellationToken::new(), Counter::default());
        let timeout = Duration::from_secs(5);
        tasks.spawn(serve(listener, Router::new(), tasks.clone(), drain.clone(), 1, rejected.clone(), timeout));
        let held = TcpStream::connect(address).await.unwrap();
        let mut answer = String::new();
        let mut above = TcpStream::connect(address).await.unwrap();
        above.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 5"), "{answer}");
        assert_eq!(rejected.get(), 1, "the one within the limit is not counted");
        drop(held);
        drain.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
