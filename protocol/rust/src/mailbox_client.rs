//! A complete till or phone over real sockets: the I/O shell of the pure client machine in `orderbell_protocol::client`.
//!
//! One task, one WebSocket, one HTTP request at a time. The application gets outputs in order. Its state is stored before the server learns that
//! a notice was received: [`App::persist`] is called before anything is sent.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::time::Duration;

use orderbell_protocol::client::{Client, Input, Output, PersistedState, Timings};
use orderbell_protocol::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::{ClientError, Closed, Endpoint, HttpClient, HttpResponse, Socket, percent_encoded};

/// Longest time to send a frame; after it the connection counts as dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time for the answer to a request that the server does not hold.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The application of a [`MailboxClient`]: what a till or a phone does with what it receives.
pub trait App {
    /// A notice, the open orders, an answer to an event, or a change of the connection. `Break` ends the client.
    fn on_output(&mut self, output: Output) -> ControlFlow<()>;

    /// Stores this state so that it survives a restart, together with the effect of every output so far. When this returns, the client tells
    /// the server that the notices are received. [`StateFile`](crate::StateFile) does it.
    ///
    /// # Errors
    /// The state is not stored. The client ends with this error before it acknowledges anything, so the notices come again.
    fn persist(&mut self, state: &PersistedState) -> io::Result<()>;

    /// A connection or a request failed. The client tries again by itself; this is for a log, and for the person who installs the till: a wrong
    /// name or an untrusted certificate shows here and nowhere else.
    fn on_failure(&mut self, error: &ClientError) {
        let _ = error;
    }
}

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A client of one mailbox that reconnects by itself and polls while it has no WebSocket.
pub struct MailboxClient {
    server: Endpoint,
    http: HttpClient,
    token: String,
    device: String,
    client: Client,
    started_at: Instant,
    socket: Option<Socket>,
    opening: Option<Pending<Result<Socket, ClientError>>>,
    request: Option<Pending<Result<HttpResponse, ClientError>>>,
    persisted: Option<PersistedState>,
}

/// What the event loop waits for.
enum LoopEvent {
    Opened(Result<Socket, ClientError>),
    Response(Result<HttpResponse, ClientError>),
    Frame(Result<String, Closed>),
    FromApp(Input<'static>),
    Deadline,
}

impl MailboxClient {
    /// A client that does nothing before [`MailboxClient::run`]. `seed` spreads its waits relative to those of other clients.
    #[must_use]
    pub fn new(
        server: impl Into<Endpoint>,
        token: &str,
        device: &str,
        state: PersistedState,
        timings: Timings,
        seed: u64,
    ) -> Self {
        let server = server.into();
        Self {
            http: HttpClient::new(server.clone()),
            server,
            token: token.into(),
            device: device.into(),
            client: Client::new(token, device, state, timings, seed, Duration::ZERO),
            started_at: Instant::now(),
            socket: None,
            opening: None,
            request: None,
            persisted: None,
        }
    }

    /// Runs until the application returns `Break`. Inputs of the application (an event, a displayed notice, a new token) arrive through
    /// `inputs`; when that channel is closed, the client only receives.
    ///
    /// # Errors
    /// [`App::persist`] failed: what it did not store was not acknowledged. Failures of the network are no errors, see [`App::on_failure`].
    pub async fn run(mut self, app: &mut impl App, mut inputs: mpsc::Receiver<Input<'static>>) -> io::Result<()> {
        let mut open = true;
        let mut out = Vec::new();
        self.client.input(Input::Time, self.started_at.elapsed(), &mut out);
        loop {
            let mut batch: VecDeque<Output> = std::mem::take(&mut out).into();
            while let Some(output) = batch.pop_front() {
                let Some(output) = self.carry_out(output, app, &mut out).await? else { continue };
                if app.on_output(output).is_break() {
                    // The state covers every output. If the application has not seen all of them, it is not stored: then they come again.
                    if !batch.iter().chain(&out).any(must_reach_app) {
                        self.persist(app)?;
                    }
                    return Ok(());
                }
            }
            if !out.is_empty() {
                continue;
            }
            let event = tokio::select! {
                input = inputs.recv(), if open => match input {
                    Some(input) => LoopEvent::FromApp(input),
                    None => { open = false; continue }
                },
                event = self.next_event() => event,
            };
            if let LoopEvent::Opened(Err(error)) | LoopEvent::Response(Err(error)) = &event {
                app.on_failure(error);
            }
            let is_from_app = matches!(event, LoopEvent::FromApp(_));
            self.input(event, &mut out);
            if is_from_app {
                // What a person entered must survive a power cut.
                self.persist(app)?;
            }
        }
    }

    /// Has the application store the state, if it changed.
    fn persist(&mut self, app: &mut impl App) -> io::Result<()> {
        let state = self.client.persisted_state();
        if self.persisted.as_ref() != Some(&state) {
            app.persist(&state)?;
            self.persisted = Some(state);
        }
        Ok(())
    }

    /// Carries out an output, or returns it if it is for the application.
    async fn carry_out(
        &mut self,
        output: Output,
        app: &mut impl App,
        out: &mut Vec<Output>,
    ) -> io::Result<Option<Output>> {
        let path = match output {
            Output::OpenSocket => {
                self.opening = Some(Box::pin(Socket::open(self.server.clone())));
                return Ok(None);
            }
            Output::DropSocket => {
                (self.socket, self.opening) = (None, None);
                return Ok(None);
            }
            Output::CancelRequest => {
                self.request = None;
                return Ok(None);
            }
            Output::Send(text) => {
                self.persist(app)?;
                if let Some(socket) = &mut self.socket
                    && !matches!(tokio::time::timeout(SEND_TIMEOUT, socket.send_text(&text.0)).await, Ok(Ok(())))
                {
                    self.socket = None;
                    self.client.input(Input::Closed(None), self.started_at.elapsed(), out);
                }
                return Ok(None);
            }
            Output::Poll(after) => {
                let after = after.map_or_else(String::new, |after| format!("&after={after}"));
                format!("/v1/notices?device={}{after}", percent_encoded(&self.device))
            }
            Output::FetchOrders(from) => {
                let from = from.map_or_else(String::new, |from| format!("&from={}", percent_encoded(&from)));
                format!("/v1/orders?open=1{from}")
            }
            Output::PostEvents(events) => {
                self.persist(app)?;
                let (http, token) = (self.http.clone(), self.token.clone());
                let path = format!("/v1/events?device={}", percent_encoded(&self.device));
                let body = json::encode(&events);
                let post = async move { http.send("POST", &path, &token, "application/json", body).await };
                self.request = Some(Box::pin(with_timeout(post)));
                return Ok(None);
            }
            for_app => return Ok(Some(for_app)),
        };
        self.persist(app)?;
        let (http, token) = (self.http.clone(), self.token.clone());
        self.request = Some(Box::pin(with_timeout(async move { http.get(&path, &token).await })));
        Ok(None)
    }

    /// The next event of the network or the clock. Whatever else is awaited continues at the next call.
    async fn next_event(&mut self) -> LoopEvent {
        let deadline = self.client.deadline().map(|deadline| self.started_at + deadline);
        tokio::select! {
            opened = pending(&mut self.opening) => { self.opening = None; LoopEvent::Opened(opened) }
            response = pending(&mut self.request) => { self.request = None; LoopEvent::Response(response) }
            frame = next_frame(&mut self.socket) => LoopEvent::Frame(frame),
            () = sleep(deadline) => LoopEvent::Deadline,
        }
    }

    fn input(&mut self, event: LoopEvent, out: &mut Vec<Output>) {
        let now = self.started_at.elapsed();
        let client = &mut self.client;
        match event {
            LoopEvent::Deadline => client.input(Input::Time, now, out),
            LoopEvent::FromApp(input) => {
                if let Input::Token(token) = &input {
                    self.token.clone_from(&token.0);
                }
                client.input(input, now, out);
            }
            LoopEvent::Opened(Ok(socket)) => {
                self.socket = Some(socket);
                client.input(Input::Opened, now, out);
            }
            LoopEvent::Opened(Err(_)) => client.input(Input::Closed(None), now, out),
            LoopEvent::Response(Err(_)) => client.input(Input::RequestFailed, now, out),
            LoopEvent::Response(Ok(response)) => {
                let body = String::from_utf8_lossy(&response.body);
                let retry_after =
                    response.headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
                let retry_after = retry_after.map(Duration::from_secs);
                client.input(Input::Response { status: response.status, body: &body, retry_after }, now, out);
            }
            LoopEvent::Frame(Ok(text)) => client.input(Input::Text(&text), now, out),
            LoopEvent::Frame(Err(close)) => {
                self.socket = None;
                let close = close.as_ref().map(|(code, reason)| (*code, reason.as_str()));
                client.input(Input::Closed(close), now, out);
            }
        }
    }
}

/// True for outputs whose effect belongs to the stored state: they must reach the application before that state is stored.
fn must_reach_app(output: &Output) -> bool {
    matches!(output, Output::Notice(_) | Output::OpenOrders(_) | Output::EventResult { .. })
}

async fn with_timeout(
    request: impl Future<Output = Result<HttpResponse, ClientError>>,
) -> Result<HttpResponse, ClientError> {
    tokio::time::timeout(REQUEST_TIMEOUT, request).await.map_err(|_| ClientError::Timeout)?
}

async fn pending<T>(future: &mut Option<Pending<T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn next_frame(socket: &mut Option<Socket>) -> Result<String, Closed> {
    match socket {
        Some(socket) => socket.next_text().await,
        None => std::future::pending().await,
    }
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
