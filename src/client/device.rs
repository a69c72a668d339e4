//! A till or a phone over real sockets: carries out what the pure client of the protocol wants done.
//!
//! One task, one socket, one request at a time. What the application is told comes in order, and what is kept of it is kept before the
//! server hears of it: [`App::keep`] is called before anything is sent.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::time::Duration;

use orderbell_protocol::client::{Client, Input, Output, Pace, Saved};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Answer, ClientError, Closed, Http, Socket, escaped};

/// Sending a frame takes at most this long: behind it the connection is dead.
const SEND_MAX: Duration = Duration::from_secs(10);

/// What a device does with what it hears.
pub trait App {
    /// A notice, the open orders, an answer, or how the server is heard. To break ends the device.
    fn told(&mut self, told: Output) -> ControlFlow<()>;

    /// This is to be there after a restart, together with all that was told before. The server is told that it is when this returns.
    fn keep(&mut self, saved: &Saved);
}

/// A request is not held by the server: without an answer in this time there is nobody.
const REQUEST_MAX: Duration = Duration::from_secs(15);

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// See the module.
pub struct Device {
    server: SocketAddr,
    http: Http,
    token: String,
    device: String,
    client: Client,
    began: Instant,
    socket: Option<Socket>,
    opening: Option<Pending<Result<Socket, ClientError>>>,
    request: Option<Pending<Result<Answer, ClientError>>>,
    kept: Option<Saved>,
}

/// What the network did.
enum Happened {
    Opened(Result<Socket, ClientError>),
    Answered(Result<Answer, ClientError>),
    Heard(Result<String, Closed>),
    Said(Input<'static>),
    Time,
}

impl Device {
    /// A device that has not begun yet. `seed` spreads its waits against those of others.
    #[must_use]
    pub fn new(server: SocketAddr, token: &str, device: &str, saved: Saved, pace: Pace, seed: u64) -> Self {
        Self {
            server,
            http: Http::new(server),
            token: token.into(),
            device: device.into(),
            client: Client::new(token, device, saved, pace, seed, Duration::ZERO),
            began: Instant::now(),
            socket: None,
            opening: None,
            request: None,
            kept: None,
        }
    }

    /// Runs until the application breaks. What happens at the device (an event, a notice that was shown, a new token) comes through `said`;
    /// when that is closed, it only listens.
    pub async fn run(mut self, app: &mut impl App, mut said: mpsc::Receiver<Input<'static>>) {
        let mut open = true;
        let mut out = Vec::new();
        self.client.input(Input::Time, self.began.elapsed(), &mut out);
        loop {
            let mut batch: VecDeque<Output> = std::mem::take(&mut out).into();
            while let Some(output) = batch.pop_front() {
                let Some(output) = self.carry_out(output, app, &mut out).await else { continue };
                if app.told(output).is_break() {
                    // What was not told yet must not be kept as if it had been: then it comes again.
                    if !batch.iter().chain(&out).any(is_news) {
                        self.keep(app);
                    }
                    return;
                }
            }
            if !out.is_empty() {
                continue;
            }
            let happened = tokio::select! {
                input = said.recv(), if open => match input {
                    Some(input) => Happened::Said(input),
                    None => { open = false; continue }
                },
                happened = self.happens() => happened,
            };
            let said = matches!(happened, Happened::Said(_));
            self.input(happened, &mut out);
            if said {
                // A tap on the screen is there after a power cut, too.
                self.keep(app);
            }
        }
    }

    fn keep(&mut self, app: &mut impl App) {
        let saved = self.client.saved();
        if self.kept.as_ref() != Some(&saved) {
            app.keep(&saved);
            self.kept = Some(saved);
        }
    }

    /// Does it, or gives it back: it is for the application.
    async fn carry_out(&mut self, output: Output, app: &mut impl App, out: &mut Vec<Output>) -> Option<Output> {
        let path = match output {
            Output::Open => {
                self.opening = Some(Box::pin(Socket::open(self.server)));
                return None;
            }
            Output::Drop => {
                (self.socket, self.opening) = (None, None);
                return None;
            }
            Output::Abandon => {
                self.request = None;
                return None;
            }
            Output::Send(text) => {
                self.keep(app);
                if let Some(socket) = &mut self.socket
                    && !matches!(tokio::time::timeout(SEND_MAX, socket.say(&text.0)).await, Ok(Ok(())))
                {
                    self.socket = None;
                    self.client.input(Input::Closed(None), self.began.elapsed(), out);
                }
                return None;
            }
            Output::Poll(after) => {
                let after = after.map_or_else(String::new, |after| format!("&after={after}"));
                format!("/v1/notices?device={}{after}", escaped(&self.device))
            }
            Output::Orders(from) => {
                let from = from.map_or_else(String::new, |from| format!("&from={}", escaped(&from)));
                format!("/v1/orders?open=1{from}")
            }
            Output::Post(events) => {
                self.keep(app);
                let (http, token) = (self.http.clone(), self.token.clone());
                let path = format!("/v1/events?device={}", escaped(&self.device));
                let body = serde_json::json!(events).to_string();
                let post = async move { http.send("POST", &path, &token, "application/json", body).await };
                self.request = Some(Box::pin(in_time(post)));
                return None;
            }
            told => return Some(told),
        };
        self.keep(app);
        let (http, token) = (self.http.clone(), self.token.clone());
        self.request = Some(Box::pin(in_time(async move { http.ask(&path, &token).await })));
        None
    }

    /// The next thing. Whatever is being waited for goes on at the next call.
    async fn happens(&mut self) -> Happened {
        let due = self.client.deadline().map(|due| self.began + due);
        tokio::select! {
            opened = pending(&mut self.opening) => { self.opening = None; Happened::Opened(opened) }
            answer = pending(&mut self.request) => { self.request = None; Happened::Answered(answer) }
            heard = heard(&mut self.socket) => Happened::Heard(heard),
            () = sleep(due) => Happened::Time,
        }
    }

    fn input(&mut self, happened: Happened, out: &mut Vec<Output>) {
        let now = self.began.elapsed();
        let client = &mut self.client;
        match happened {
            Happened::Time => client.input(Input::Time, now, out),
            Happened::Said(input) => {
                if let Input::Token(token) = &input {
                    self.token.clone_from(&token.0);
                }
                client.input(input, now, out);
            }
            Happened::Opened(Ok(socket)) => {
                self.socket = Some(socket);
                client.input(Input::Opened, now, out);
            }
            Happened::Opened(Err(_)) => client.input(Input::Closed(None), now, out),
            Happened::Answered(Err(_)) => client.input(Input::Failed, now, out),
            Happened::Answered(Ok(answer)) => {
                let body = String::from_utf8_lossy(&answer.body);
                let retry_after = answer.headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
                let retry_after = retry_after.map(Duration::from_secs);
                client.input(Input::Answer { status: answer.status, body: &body, retry_after }, now, out);
            }
            Happened::Heard(Ok(text)) => client.input(Input::Text(&text), now, out),
            Happened::Heard(Err(close)) => {
                self.socket = None;
                let close = close.as_ref().map(|(code, reason)| (*code, reason.as_str()));
                client.input(Input::Closed(close), now, out);
            }
        }
    }
}

/// What the application has to know: a state that holds it must not be kept before.
fn is_news(output: &Output) -> bool {
    matches!(output, Output::Notice(_) | Output::OpenOrders(_) | Output::Answered { .. })
}

async fn in_time(asked: impl Future<Output = Result<Answer, ClientError>>) -> Result<Answer, ClientError> {
    tokio::time::timeout(REQUEST_MAX, asked).await.map_err(|_| super::failed("no answer in time"))?
}

async fn pending<T>(future: &mut Option<Pending<T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn heard(socket: &mut Option<Socket>) -> Result<String, Closed> {
    match socket {
        Some(socket) => socket.text().await,
        None => std::future::pending().await,
    }
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
