//! The shared test vectors in `protocol/vectors/client.json`: inputs with their times, and the outputs of the machine. Implementations in every
//! language must reproduce them; this test checks the Rust machine. `UPDATE=1 cargo test -p orderbell-protocol --test client` rewrites the file.
//! `MORE_VECTORS=FILE` writes a larger set, for comparing two implementations.
//!
//! Each script is generated from its seed: a server that mostly responds correctly, and sometimes does not. Every input and every output has
//! to occur in them.

use std::collections::BTreeSet;
use std::time::Duration;

use orderbell_protocol::client::{Client, Input, Output, PersistedState, Timings};
use orderbell_protocol::{BearerToken, ClientEvent, RejectionReason};
use serde_json::{Value, json};

const SCRIPTS: u64 = 48;
const MORE_SCRIPTS: u64 = 1_500;
const STEPS: usize = 48;

fn path() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/client.json")
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

/// An output in the file's form.
fn encode(output: &Output) -> Value {
    match output {
        Output::OpenSocket => json!({"type": "openSocket"}),
        Output::Send(frame) => {
            json!({"type": "send", "frame": serde_json::from_str::<Value>(&frame.0).unwrap()})
        }
        Output::DropSocket => json!({"type": "dropSocket"}),
        Output::CancelRequest => json!({"type": "cancelRequest"}),
        Output::Poll(after) => json!({"type": "poll", "after": after}),
        Output::FetchOrders(from) => json!({"type": "fetchOrders", "from": from}),
        Output::PostEvents(events) => json!({"type": "postEvents", "events": events}),
        Output::Notice(frame) => json!({"type": "notice", "notice": frame.notice.id}),
        Output::OpenOrders(orders) => {
            json!({"type": "openOrders", "orders": orders.iter().map(|order| &order.order).collect::<Vec<_>>()})
        }
        Output::EventResult { id, rejected } => json!({"type": "eventResult", "id": id, "rejected": rejected}),
        Output::Connectivity(connectivity) => {
            json!({"type": "connectivity", "connectivity": format!("{connectivity:?}").to_lowercase()})
        }
        Output::Stale(stale) => json!({"type": "stale", "stale": stale}),
        Output::TokenNeeded => json!({"type": "tokenNeeded"}),
        Output::Fault(code, reason) => json!({"type": "fault", "code": code, "reason": reason}),
    }
}

fn event(value: &Value) -> ClientEvent {
    serde_json::from_value(value.clone()).unwrap()
}

/// Applies one input in the file's form, and returns the outputs.
fn apply(client: &mut Client, name: &str, value: &Value, now: u64) -> Vec<Value> {
    let (now, mut out) = (Duration::from_millis(now), Vec::new());
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let input = match name {
        "time" => Input::Time,
        "opened" => Input::Opened,
        "text" => Input::Text(value.as_str().unwrap()),
        "closed" if value.is_null() => Input::Closed(None),
        "closed" => Input::Closed(Some((u16::try_from(value["code"].as_u64().unwrap()).unwrap(), text("reason")))),
        "response" => Input::Response {
            status: u16::try_from(value["status"].as_u64().unwrap()).unwrap(),
            body: text("body"),
            retry_after: value["retryAfter"].as_u64().map(Duration::from_millis),
        },
        "requestFailed" => Input::RequestFailed,
        "event" => Input::Event(event(value)),
        "displayed" => Input::Displayed(value.as_str().unwrap().parse().unwrap()),
        "token" => Input::Token(BearerToken(value.as_str().unwrap().into())),
        "background" => Input::Background,
        "foreground" => Input::Foreground,
        other => panic!("{other} is not an input"),
    };
    client.input(input, now, &mut out);
    out.iter().map(encode).collect()
}

/// The state after an input: a summary of the persisted state, and the deadline.
fn state_and_deadline(client: &Client) -> (Value, Value) {
    let persisted = client.persisted_state();
    let events: Vec<&str> = persisted.events.iter().map(|event| event.id.as_str()).collect();
    let state = json!({"position": persisted.position, "known": persisted.known.len(), "events": events});
    (state, json!(client.deadline().map(ms)))
}

fn start(script: &Value) -> Client {
    let text = |field: &str| script[field].as_str().unwrap();
    let state: PersistedState = serde_json::from_value(script["persistedState"].clone()).unwrap();
    Client::new(
        text("token"),
        text("device"),
        state,
        Timings::default(),
        script["seed"].as_u64().unwrap(),
        Duration::ZERO,
    )
}

/// A simulated server and application that mostly behave correctly.
struct Peer {
    random: u64,
    now: u64,
    epoch: u64,
    seq: u64,
    number: u64,
    /// Events that the application reported.
    reported: Vec<Value>,
    /// Ids of notices that were delivered.
    delivered: Vec<String>,
    /// Whether a socket is open or being opened, and the pending request.
    open: bool,
    request: Option<Value>,
}

impl Peer {
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()].clone()
    }

    fn position(&self) -> String {
        format!("{:x}.{:x}.{:04x}", self.epoch, self.seq, self.seq % 7)
    }

    /// The notice that follows `prev`: mostly a new one, sometimes a duplicate, and sometimes one that breaks the chain.
    fn notice(&mut self, prev: &str) -> Value {
        self.seq += 1 + self.below(3);
        self.number += 1;
        let new = format!("n{}", self.number);
        let old = if self.delivered.is_empty() { new.clone() } else { self.one_of(&self.delivered.clone()) };
        let (id, prev) = match self.below(10) {
            0 => (old, prev.to_owned()),
            1 => (old, format!("{:x}.1.0000", self.epoch)),
            2 => (new, format!("{:x}.1.0000", self.epoch)),
            _ => (new, prev.to_owned()),
        };
        json!({"type": "notice", "position": self.position(), "prev": prev, "attempt": 1 + self.below(2),
            "id": id, "kind": self.one_of(&["new_order", "order_accepted", "not_known_yet"]), "order": "o1", "at": 5,
            "body": {"amount": 1}})
    }

    /// Sometimes removes a member: an incomplete message must be ignored.
    fn damaged(&mut self, mut message: Value) -> String {
        if self.below(15) == 0 {
            let (mut part, depth) = (&mut message, self.below(3));
            for _ in 0..depth {
                let nested = part.as_object().and_then(|members| {
                    members
                        .iter()
                        .find(|(_, value)| value.is_object() || value.is_array())
                        .map(|(name, _)| name.clone())
                });
                let Some(name) = nested else { break };
                part = &mut part[name];
                if part[0].is_object() {
                    part = &mut part[0];
                }
            }
            if let Some(members) = part.as_object_mut() {
                let names: Vec<String> = members.keys().filter(|name| *name != "type").cloned().collect();
                if !names.is_empty() {
                    members.remove(&self.one_of(&names));
                }
            }
        }
        message.to_string()
    }

    fn fresh(&mut self, mut frame: Value) -> Value {
        frame["at"] = json!(1_795_255_199_000_u64);
        if self.below(3) == 0 {
            frame["stale"] = json!(true);
        }
        frame
    }

    fn text(&mut self, at: &str) -> String {
        let position = if self.below(4) == 0 { self.position() } else { at.to_owned() };
        match self.below(14) {
            0..=2 => {
                let heartbeat = self.one_of(&[25_000, 10, 999_999_999]);
                let welcome = json!({"type": "welcome", "recipient": "store:1", "device": "till-1", "position": position,
                    "heartbeat_ms": heartbeat, "max_in_flight": 64, "max_frame_bytes": 16_384});
                let welcome = self.fresh(welcome);
                self.damaged(welcome)
            }
            3 => {
                let heartbeat = self.fresh(json!({"type": "heartbeat", "last_sent": position, "head": position}));
                self.damaged(heartbeat)
            }
            4 => self.one_of(&[
                "{\"type\":\"notice\",\"position\":\"01.1.0000\"}".to_owned(),
                "{\"type\":\"notice\",\"position\":\"1.A.0000\",\"prev\":\"1.2.0000\",\"attempt\":1,\"id\":\"n0\",\"kind\":\"ready\",\"order\":\"o1\",\"at\":1,\"body\":{}}".to_owned(),
                "{\"type\":\"of-tomorrow\"}".to_owned(),
                "not JSON".to_owned(),
                "[]".to_owned(),
                "{\"type\":\"goaway\",\"retry_ms\":5000}".to_owned(),
            ]),
            5 | 6 if !self.reported.is_empty() => {
                let (id, status) = (self.one_of(&self.reported.clone())["id"].clone(), self.status());
                json!({"type": "event_result", "id": id, "status": status.0, "reason": status.1}).to_string()
            }
            _ => {
                let notice = self.notice(at);
                self.damaged(notice)
            }
        }
    }

    fn status(&mut self) -> (&'static str, Option<&'static str>) {
        match self.below(5) {
            0 => ("stored", None),
            1 => ("duplicate", None),
            // Half of them temporary: the others end an event at once.
            2 => ("rejected", Some(self.one_of(&["busy", "unavailable"]))),
            3 => ("rejected", Some(self.one_of(&RejectionReason::KNOWN).word())),
            _ => ("rejected", self.one_of(&[None, Some("not-found")])),
        }
    }

    fn body(&mut self, request: &Value) -> String {
        match request["type"].as_str().unwrap() {
            "poll" => {
                let mut after = request["after"].as_str().map_or_else(|| self.position(), str::to_owned);
                let mut notices = Vec::new();
                for _ in 0..self.below(4) {
                    notices.push(self.notice(&after));
                    after = notices.last().unwrap()["position"].as_str().unwrap().to_owned();
                }
                let next = self.one_of(&[0_u64, 60_000, 3_000, 99_999_999]);
                let page =
                    json!({"notices": notices, "position": after, "head": self.position(), "next_poll_ms": next});
                let page = self.fresh(page);
                self.damaged(page)
            }
            "fetchOrders" => {
                let orders: Vec<Value> = (0..self.below(4))
                    .map(|n| json!({"order": format!("o{n}"), "stage": "paid", "active": true, "at": 1, "body": {}, "notice": (n > 0).then(|| format!("n{n}"))}))
                    .collect();
                let next = self.one_of(&[None, None, Some("o7"), request["from"].as_str()]).map(str::to_owned);
                let page = self.fresh(json!({"orders": orders, "position": self.position(), "next": next}));
                self.damaged(page)
            }
            _ => {
                let events = request["events"].as_array().unwrap();
                let results: Vec<Value> = events
                    .iter()
                    .skip(usize::from(self.below(4) == 0))
                    .map(|event| (event["id"].clone(), self.status()))
                    .map(|(id, status)| json!({"id": id, "status": status.0, "reason": status.1}))
                    .collect();
                self.damaged(json!({ "events": results }))
            }
        }
    }

    fn response(&mut self, request: &Value) -> Value {
        let status = self.one_of(&[200, 200, 200, 200, 200, 200, 401, 404, 408, 409, 410, 422, 429, 500, 503]);
        let body =
            if self.below(9) == 0 { self.one_of(&["", "{}", "[1]", "<html>"]).to_owned() } else { self.body(request) };
        let body = if status == 200 { body } else { String::new() };
        let mut response = json!({"status": status, "body": body});
        if [429, 503].contains(&status) && self.below(2) == 0 {
            response["retryAfter"] = json!(self.one_of(&[0_u64, 7_000, 99_999_000]));
        }
        response
    }

    fn event(&mut self) -> Value {
        let id = format!("e{}", self.reported.len());
        let mut event =
            json!({"id": id, "kind": "order.accepted", "order": format!("o{}", self.below(3)), "pickup_code": "A17"});
        if self.below(60) == 0 {
            event["reason"] = json!("汤".repeat(5_500));
        }
        self.reported.push(event.clone());
        event
    }

    fn close(&mut self) -> Value {
        let codes = [
            (1000, "bye"),
            (1001, ""),
            (1012, "restart;retry_ms=7300"),
            (1013, "overloaded; retry_ms=1"),
            (1012, "restart;retry_ms=soon"),
            (3000, "unauthorized"),
            (4003, "replaced"),
            (4003, "replaced"),
            (4003, "replaced"),
            (4001, "bad-message;why"),
            (1009, "too-big"),
            (4004, "too-many-connections"),
            (4102, "rate-limited"),
            (4200, "resync;epoch-changed"),
        ];
        let (code, reason) = self.one_of(&codes);
        if self.below(3) == 0 { Value::Null } else { json!({"code": code, "reason": reason}) }
    }

    /// The next input.
    fn next(&mut self, client: &Client) -> (&'static str, Value) {
        let at = client.persisted_state().position.map_or_else(|| self.position(), |position| position.to_string());
        if self.below(40) == 0 {
            self.epoch += 1;
        }
        match self.below(20) {
            0..=9 if self.open => match self.below(9) {
                0 => ("closed", self.close()),
                1 => ("displayed", json!(at)),
                2 => ("opened", Value::Null),
                _ => ("text", json!(self.text(&at))),
            },
            0..=13 if self.request.is_some() => {
                let request = self.request.clone().unwrap();
                if self.below(8) == 0 { ("requestFailed", Value::Null) } else { ("response", self.response(&request)) }
            }
            14 | 15 => ("event", self.event()),
            16 if self.below(2) == 0 => (self.one_of(&["background", "foreground", "foreground"]), Value::Null),
            16 => ("token", json!(format!("token-{}", self.below(9)))),
            _ => {
                self.now = client.deadline().map_or(self.now + 5_000, ms).max(self.now);
                ("time", Value::Null)
            }
        }
    }

    /// Notes what the machine waits for.
    fn observe(&mut self, name: &str, outputs: &[Value]) {
        match name {
            "closed" => self.open = false,
            "response" | "requestFailed" => self.request = None,
            _ => {}
        }
        for output in outputs {
            match output["type"].as_str().unwrap() {
                "openSocket" => self.open = true,
                "dropSocket" => self.open = false,
                "cancelRequest" => self.request = None,
                "notice" => self.delivered.push(output["notice"].as_str().unwrap().to_owned()),
                "poll" | "fetchOrders" | "postEvents" => self.request = Some(output.clone()),
                _ => {}
            }
        }
    }
}

fn script(seed: u64) -> Value {
    let state = match seed % 3 {
        0 => json!({"position": null, "known": []}),
        1 => json!({"position": "1.2.0000", "known": ["n1"]}),
        _ => {
            json!({"position": "1.2.0000", "known": [], "events": [{"id": "before", "kind": "order.ready", "order": "o1"}]})
        }
    };
    let token = if seed % 8 == 7 { "" } else { "token" };
    let mut script = json!({"seed": seed, "token": token, "device": "till-1", "persistedState": state});
    let mut client = start(&script);
    let mut peer = Peer {
        random: seed,
        now: 0,
        epoch: 1,
        seq: 2,
        number: 2,
        reported: Vec::new(),
        delivered: Vec::new(),
        open: false,
        request: None,
    };
    let (mut steps, mut hello_position) = (Vec::new(), None);
    for _ in 0..STEPS {
        let wait = peer.one_of(&[0_u64, 1, 40, 900]);
        peer.now += peer.below(wait + 1);
        // Sockets mostly open and are mostly welcomed: otherwise there would be few notices over sockets.
        let wanted =
            steps.last().is_some_and(|step: &Value| step["outputs"].to_string().contains("\"type\":\"openSocket\""));
        let (name, value) = if wanted && peer.below(8) == 0 {
            ("closed", json!({"code": 4003, "reason": "replaced"}))
        } else if wanted && peer.below(5) > 0 {
            hello_position = Some(
                client.persisted_state().position.map_or_else(|| peer.position(), |position| position.to_string()),
            );
            ("opened", Value::Null)
        } else if let Some(at) = hello_position.take() {
            // Sometimes a poll is answered before the welcome arrives.
            let poll = peer.request.clone().filter(|request| request["type"] == "poll");
            if let Some(poll) = poll.filter(|_| peer.below(2) == 0) {
                hello_position = Some(at);
                ("response", peer.response(&poll))
            } else {
                let welcome = json!({"type": "welcome", "recipient": "store:1", "device": "till-1", "position": at,
                "heartbeat_ms": 25_000, "max_in_flight": 64, "max_frame_bytes": 16_384, "at": 1});
                ("text", json!(welcome.to_string()))
            }
        } else if steps.is_empty() {
            ("time", Value::Null)
        } else {
            peer.next(&client)
        };
        let outputs = apply(&mut client, name, &value, peer.now);
        peer.observe(name, &outputs);
        let (state, deadline) = state_and_deadline(&client);
        steps.push(json!({"now": peer.now, "input": name, "value": value, "outputs": outputs, "state": state, "deadline": deadline}));
    }
    script["steps"] = steps.into();
    script
}

fn write(file: &std::path::Path, scripts: u64) {
    let scripts: Vec<String> = (1..=scripts).map(|seed| script(seed).to_string()).collect();
    std::fs::write(file, format!("[\n{}\n]\n", scripts.join(",\n"))).unwrap();
}

#[test]
fn the_machine_reproduces_the_shared_vectors() {
    if std::env::var_os("UPDATE").is_some() {
        write(&path(), SCRIPTS);
    }
    if let Some(file) = std::env::var_os("MORE_VECTORS") {
        write(file.as_ref(), MORE_SCRIPTS);
    }
    let scripts: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path()).unwrap()).unwrap();
    assert_eq!(scripts.len() as u64, SCRIPTS);
    let mut seen = BTreeSet::new();
    for script in &scripts {
        let mut client = start(script);
        for (nth, step) in script["steps"].as_array().unwrap().iter().enumerate() {
            let input = step["input"].as_str().unwrap();
            let outputs = apply(&mut client, input, &step["value"], step["now"].as_u64().unwrap());
            let (state, deadline) = state_and_deadline(&client);
            let found = json!({"outputs": outputs, "state": state, "deadline": deadline});
            let wanted = json!({"outputs": step["outputs"], "state": step["state"], "deadline": step["deadline"]});
            assert_eq!(found, wanted, "script {}, step {nth}: {input} {}", script["seed"], step["value"]);
            seen.insert(input.to_owned());
            for output in outputs {
                seen.insert(format!(
                    "{} {}",
                    output["type"].as_str().unwrap(),
                    output["connectivity"].as_str().unwrap_or_default()
                ));
            }
        }
    }
    let all = [
        "time",
        "opened",
        "text",
        "closed",
        "response",
        "requestFailed",
        "event",
        "displayed",
        "token",
        "background",
        "foreground",
        "openSocket ",
        "send ",
        "dropSocket ",
        "cancelRequest ",
        "poll ",
        "fetchOrders ",
        "postEvents ",
        "notice ",
        "openOrders ",
        "eventResult ",
        "connectivity push",
        "connectivity polling",
        "connectivity unreachable",
        "connectivity superseded",
        "stale ",
        "tokenNeeded ",
        "fault ",
    ];
    let missing: Vec<&str> = all.into_iter().filter(|what| !seen.contains(*what)).collect();
    assert!(missing.is_empty(), "the vectors lack {missing:?}");
}
