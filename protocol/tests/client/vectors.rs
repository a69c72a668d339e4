//! The shared vectors: inputs with their times, and what the machine does. `protocol/vectors/client.json` is what clients in other languages are
//! held to; this test holds the machine itself to it. `UPDATE=1 cargo test -p orderbell-protocol --test client` writes the file anew;
//! `MORE_VECTORS=FILE` writes many more, for a run that compares two machines.
//!
//! Each script is drawn from its seed: a server that mostly answers as it should, and now and then as none should. Whatever the machine can
//! do has to appear in them.

use std::collections::BTreeSet;
use std::time::Duration;

use orderbell_protocol::ClientEvent;
use orderbell_protocol::client::{Client, Input, Output, Pace, Saved, Token};
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

/// An output as the file tells it: its name, and what it carries.
fn told(output: &Output) -> Value {
    match output {
        Output::Open => json!({"do": "open"}),
        Output::Send(frame) => {
            json!({"do": "send", "frame": serde_json::from_str::<Value>(&frame.0).unwrap()})
        }
        Output::Drop => json!({"do": "drop"}),
        Output::Abandon => json!({"do": "abandon"}),
        Output::Poll(after) => json!({"do": "poll", "after": after}),
        Output::Orders(from) => json!({"do": "orders", "from": from}),
        Output::Post(events) => json!({"do": "post", "events": events}),
        Output::Notice(frame) => json!({"do": "notice", "notice": frame.notice.id}),
        Output::OpenOrders(orders) => {
            json!({"do": "openOrders", "orders": orders.iter().map(|order| &order.order).collect::<Vec<_>>()})
        }
        Output::Answered { id, refused } => json!({"do": "answered", "id": id, "refused": refused}),
        Output::Link(link) => json!({"do": "link", "link": format!("{link:?}").to_lowercase()}),
        Output::Stale(stale) => json!({"do": "stale", "stale": stale}),
        Output::TokenNeeded => json!({"do": "tokenNeeded"}),
        Output::Fault(code, reason) => json!({"do": "fault", "code": code, "reason": reason}),
    }
}

fn event(value: &Value) -> ClientEvent {
    serde_json::from_value(value.clone()).unwrap()
}

/// One input by its name and value, as the file has it.
fn give(client: &mut Client, name: &str, value: &Value, now: u64) -> Vec<Value> {
    let (now, mut out) = (Duration::from_millis(now), Vec::new());
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    let input = match name {
        "time" => Input::Time,
        "opened" => Input::Opened,
        "text" => Input::Text(value.as_str().unwrap()),
        "closed" if value.is_null() => Input::Closed(None),
        "closed" => Input::Closed(Some((u16::try_from(value["code"].as_u64().unwrap()).unwrap(), text("reason")))),
        "answer" => Input::Answer {
            status: u16::try_from(value["status"].as_u64().unwrap()).unwrap(),
            body: text("body"),
            retry_after: value["retryAfter"].as_u64().map(Duration::from_millis),
        },
        "failed" => Input::Failed,
        "say" => Input::Say(event(value)),
        "shown" => Input::Shown(value.as_str().unwrap().parse().unwrap()),
        "token" => Input::Token(Token(value.as_str().unwrap().into())),
        "background" => Input::Background,
        "foreground" => Input::Foreground,
        other => panic!("{other} is no input"),
    };
    client.input(input, now, &mut out);
    out.iter().map(told).collect()
}

/// Where it stands after an input: what a restart would need, and when it wants to be woken.
fn stands(client: &Client) -> (Value, Value) {
    let saved = client.saved();
    let events: Vec<&str> = saved.events.iter().map(|event| event.id.as_str()).collect();
    let stands = json!({"position": saved.position, "known": saved.known.len(), "events": events});
    (stands, json!(client.deadline().map(ms)))
}

fn begins(script: &Value) -> Client {
    let text = |field: &str| script[field].as_str().unwrap();
    let saved: Saved = serde_json::from_value(script["saved"].clone()).unwrap();
    Client::new(text("token"), text("device"), saved, Pace::default(), script["seed"].as_u64().unwrap(), Duration::ZERO)
}

/// A server and people who mostly behave.
struct Other {
    dice: u64,
    now: u64,
    epoch: u64,
    seq: u64,
    number: u64,
    said: Vec<Value>,
    /// Notices that were taken.
    told: Vec<String>,
    /// A socket is wanted or there; the request that is waited for.
    open: bool,
    request: Option<Value>,
}

impl Other {
    fn below(&mut self, bound: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % bound
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()].clone()
    }

    fn position(&self) -> String {
        format!("{:x}.{:x}.{:04x}", self.epoch, self.seq, self.seq % 7)
    }

    /// The notice behind `after`: mostly a new one, sometimes one that was told before, and now and then one that does not follow.
    fn notice(&mut self, after: &str) -> Value {
        self.seq += 1 + self.below(3);
        self.number += 1;
        let new = format!("n{}", self.number);
        let old = if self.told.is_empty() { new.clone() } else { self.one_of(&self.told.clone()) };
        let (id, after) = match self.below(10) {
            0 => (old, after.to_owned()),
            1 => (old, format!("{:x}.1.0000", self.epoch)),
            2 => (new, format!("{:x}.1.0000", self.epoch)),
            _ => (new, after.to_owned()),
        };
        json!({"type": "notice", "position": self.position(), "after": after, "attempt": 1 + self.below(2),
            "id": id, "kind": self.one_of(&["new_order", "taken", "not_known_yet"]), "order": "o1", "at": 5,
            "body": {"amount": 1}})
    }

    /// Now and then a member is missing somewhere: what is not whole is not taken.
    fn damaged(&mut self, mut whole: Value) -> String {
        if self.below(15) == 0 {
            let (mut part, depth) = (&mut whole, self.below(3));
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
        whole.to_string()
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
                let beat = self.one_of(&[25_000, 10, 999_999_999]);
                let welcome = json!({"type": "welcome", "recipient": "store:1", "device": "till-1", "position": position,
                    "heartbeat_ms": beat, "window": 64, "frame_bytes_max": 16_384});
                let welcome = self.fresh(welcome);
                self.damaged(welcome)
            }
            3 => {
                let beat = self.fresh(json!({"type": "beat", "sent": position, "head": position}));
                self.damaged(beat)
            }
            4 => self.one_of(&[
                "{\"type\":\"notice\",\"position\":\"01.1.0000\"}".to_owned(),
                "{\"type\":\"notice\",\"position\":\"1.A.0000\",\"after\":\"1.2.0000\",\"attempt\":1,\"id\":\"n0\",\"kind\":\"ready\",\"order\":\"o1\",\"at\":1,\"body\":{}}".to_owned(),
                "{\"type\":\"of-tomorrow\"}".to_owned(),
                "not JSON".to_owned(),
                "[]".to_owned(),
                "{\"type\":\"leave\",\"retry_ms\":5000}".to_owned(),
            ]),
            5 | 6 if !self.said.is_empty() => {
                let (id, status) = (self.one_of(&self.said.clone())["id"].clone(), self.status());
                json!({"type": "logged", "id": id, "status": status.0, "reason": status.1}).to_string()
            }
            _ => {
                let notice = self.notice(at);
                self.damaged(notice)
            }
        }
    }

    fn status(&mut self) -> (&'static str, Option<&'static str>) {
        self.one_of(&[
            ("logged", None),
            ("duplicate", None),
            ("refused", Some("not-found")),
            ("refused", Some("busy")),
            ("refused", Some("unavailable")),
        ])
    }

    fn good(&mut self, request: &Value) -> String {
        match request["do"].as_str().unwrap() {
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
            "orders" => {
                let orders: Vec<Value> = (0..self.below(4))
                    .map(|n| json!({"order": format!("o{n}"), "stage": "paid", "open": true, "at": 1, "body": {}, "notice": (n > 0).then(|| format!("n{n}"))}))
                    .collect();
                let next = self.one_of(&[None, None, Some("o7"), request["from"].as_str()]).map(str::to_owned);
                let page = self.fresh(json!({"orders": orders, "position": self.position(), "next": next}));
                self.damaged(page)
            }
            _ => {
                let events = request["events"].as_array().unwrap();
                let told: Vec<Value> = events
                    .iter()
                    .skip(usize::from(self.below(4) == 0))
                    .map(|event| (event["id"].clone(), self.status()))
                    .map(|(id, status)| json!({"id": id, "status": status.0, "reason": status.1}))
                    .collect();
                self.damaged(json!({ "events": told }))
            }
        }
    }

    fn answer(&mut self, request: &Value) -> Value {
        let status = self.one_of(&[200, 200, 200, 200, 200, 200, 401, 404, 408, 409, 410, 422, 429, 500, 503]);
        let body =
            if self.below(9) == 0 { self.one_of(&["", "{}", "[1]", "<html>"]).to_owned() } else { self.good(request) };
        let body = if status == 200 { body } else { String::new() };
        let mut answer = json!({"status": status, "body": body});
        if [429, 503].contains(&status) && self.below(2) == 0 {
            answer["retryAfter"] = json!(self.one_of(&[0_u64, 7_000, 99_999_000]));
        }
        answer
    }

    fn says(&mut self) -> Value {
        let id = format!("e{}", self.said.len());
        let mut event =
            json!({"id": id, "kind": "order.accepted", "order": format!("o{}", self.below(3)), "code": "A17"});
        if self.below(60) == 0 {
            event["reason"] = json!("汤".repeat(5_500));
        }
        self.said.push(event.clone());
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
            (4004, "conn-limit"),
            (4102, "rate"),
            (4200, "resync;epoch-changed"),
        ];
        let (code, reason) = self.one_of(&codes);
        if self.below(3) == 0 { Value::Null } else { json!({"code": code, "reason": reason}) }
    }

    /// What happens next.
    fn next(&mut self, client: &Client) -> (&'static str, Value) {
        let at = client.saved().position.map_or_else(|| self.position(), |position| position.to_string());
        if self.below(40) == 0 {
            self.epoch += 1;
        }
        match self.below(20) {
            0..=9 if self.open => match self.below(9) {
                0 => ("closed", self.close()),
                1 => ("shown", json!(at)),
                2 => ("opened", Value::Null),
                _ => ("text", json!(self.text(&at))),
            },
            0..=13 if self.request.is_some() => {
                let request = self.request.clone().unwrap();
                if self.below(8) == 0 { ("failed", Value::Null) } else { ("answer", self.answer(&request)) }
            }
            14 | 15 => ("say", self.says()),
            16 if self.below(2) == 0 => (self.one_of(&["background", "foreground", "foreground"]), Value::Null),
            16 => ("token", json!(format!("token-{}", self.below(9)))),
            _ => {
                self.now = client.deadline().map_or(self.now + 5_000, ms).max(self.now);
                ("time", Value::Null)
            }
        }
    }

    /// Keeps in mind what the machine waits for.
    fn sees(&mut self, name: &str, out: &[Value]) {
        match name {
            "closed" => self.open = false,
            "answer" | "failed" => self.request = None,
            _ => {}
        }
        for output in out {
            match output["do"].as_str().unwrap() {
                "open" => self.open = true,
                "drop" => self.open = false,
                "abandon" => self.request = None,
                "notice" => self.told.push(output["notice"].as_str().unwrap().to_owned()),
                "poll" | "orders" | "post" => self.request = Some(output.clone()),
                _ => {}
            }
        }
    }
}

fn script(seed: u64) -> Value {
    let saved = match seed % 3 {
        0 => json!({"position": null, "known": []}),
        1 => json!({"position": "1.2.0000", "known": ["n1"]}),
        _ => {
            json!({"position": "1.2.0000", "known": [], "events": [{"id": "before", "kind": "order.ready", "order": "o1"}]})
        }
    };
    let token = if seed % 8 == 7 { "" } else { "token" };
    let mut script = json!({"seed": seed, "token": token, "device": "till-1", "saved": saved});
    let mut client = begins(&script);
    let mut other = Other {
        dice: seed,
        now: 0,
        epoch: 1,
        seq: 2,
        number: 2,
        said: Vec::new(),
        told: Vec::new(),
        open: false,
        request: None,
    };
    let (mut steps, mut opened) = (Vec::new(), false);
    for _ in 0..STEPS {
        let wait = other.one_of(&[0_u64, 1, 40, 900]);
        other.now += other.below(wait + 1);
        // A socket that was asked for mostly opens, and a till that opens is mostly welcomed: else little would ever be pushed.
        let wanted = steps.last().is_some_and(|step: &Value| step["out"].to_string().contains("\"do\":\"open\""));
        let (name, value) = if wanted && other.below(8) == 0 {
            ("closed", json!({"code": 4003, "reason": "replaced"}))
        } else if wanted && other.below(5) > 0 {
            opened = true;
            ("opened", Value::Null)
        } else if std::mem::take(&mut opened) {
            let at = client.saved().position.map_or_else(|| other.position(), |position| position.to_string());
            let welcome = json!({"type": "welcome", "recipient": "store:1", "device": "till-1", "position": at,
                "heartbeat_ms": 25_000, "window": 64, "frame_bytes_max": 16_384, "at": 1});
            ("text", json!(welcome.to_string()))
        } else if steps.is_empty() {
            ("time", Value::Null)
        } else {
            other.next(&client)
        };
        let out = give(&mut client, name, &value, other.now);
        other.sees(name, &out);
        let (stands, deadline) = stands(&client);
        steps.push(json!({"now": other.now, "input": name, "value": value, "out": out, "stands": stands, "deadline": deadline}));
    }
    script["steps"] = steps.into();
    script
}

fn write(file: &std::path::Path, scripts: u64) {
    let scripts: Vec<String> = (1..=scripts).map(|seed| script(seed).to_string()).collect();
    std::fs::write(file, format!("[\n{}\n]\n", scripts.join(",\n"))).unwrap();
}

#[test]
fn the_machine_does_what_the_shared_vectors_say() {
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
        let mut client = begins(script);
        for (nth, step) in script["steps"].as_array().unwrap().iter().enumerate() {
            let input = step["input"].as_str().unwrap();
            let out = give(&mut client, input, &step["value"], step["now"].as_u64().unwrap());
            let (stands, deadline) = stands(&client);
            let found = json!({"out": out, "stands": stands, "deadline": deadline});
            let wanted = json!({"out": step["out"], "stands": step["stands"], "deadline": step["deadline"]});
            assert_eq!(found, wanted, "script {}, step {nth}: {input} {}", script["seed"], step["value"]);
            seen.insert(input.to_owned());
            for output in out {
                seen.insert(format!(
                    "{} {}",
                    output["do"].as_str().unwrap(),
                    output["link"].as_str().unwrap_or_default()
                ));
            }
        }
    }
    let all = [
        "time",
        "opened",
        "text",
        "closed",
        "answer",
        "failed",
        "say",
        "shown",
        "token",
        "background",
        "foreground",
        "open ",
        "send ",
        "drop ",
        "abandon ",
        "poll ",
        "orders ",
        "post ",
        "notice ",
        "openOrders ",
        "answered ",
        "link pushed",
        "link polled",
        "link unreachable",
        "link replaced",
        "stale ",
        "tokenNeeded ",
        "fault ",
    ];
    let missing: Vec<&str> = all.into_iter().filter(|what| !seen.contains(*what)).collect();
    assert!(missing.is_empty(), "the vectors never show {missing:?}");
}
