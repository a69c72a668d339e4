//! What the client does in each case that has a name; most are bugs that were.

use std::collections::BTreeMap;
use std::time::Duration;

use orderbell_protocol::ClientEvent;
use orderbell_protocol::client::{Client, Input, Link, Output, Pace, Saved, Token};
use orderbell_protocol::frame::NoticeFrame;
use serde_json::json;

fn pace() -> Pace {
    Pace::default()
}

fn sends(out: &[Output]) -> Vec<&str> {
    out.iter().filter_map(|output| if let Output::Send(text) = output { Some(text.0.as_str()) } else { None }).collect()
}

/// One that stands at 1.2 and is pushed to.
fn live() -> (Client, Vec<Output>) {
    let saved = Saved { position: Some("1.2.0000".parse().unwrap()), ..Saved::default() };
    let mut client = Client::new("token", "till-1", saved, pace(), 7, Duration::ZERO);
    let mut out = Vec::new();
    client.input(Input::Time, Duration::ZERO, &mut out);
    client.input(Input::Opened, Duration::ZERO, &mut out);
    let welcome = json!({"type": "welcome", "recipient": "store:1", "device": "till-1", "position": "1.2.0000",
        "heartbeat_ms": 10_000, "window": 4, "frame_bytes_max": 16_384, "at": 1});
    client.input(Input::Text(&welcome.to_string()), Duration::ZERO, &mut out);
    assert_eq!(client.link(), Link::Pushed);
    out.clear();
    (client, out)
}

fn pushed(seq: u64, after: u64) -> String {
    json!({"type": "notice", "position": format!("1.{seq:x}.0000"), "after": format!("1.{after:x}.0000"), "attempt": 1,
        "id": format!("n{seq}"), "kind": "new_order", "order": "o1", "at": 1, "body": {}})
    .to_string()
}

#[test]
fn a_notice_comes_before_its_acknowledgement() {
    let (mut client, mut out) = live();
    client.input(Input::Text(&pushed(5, 2)), Duration::ZERO, &mut out);
    assert!(
        matches!(&out[..], [Output::Notice(NoticeFrame { .. }), Output::Send(ack)] if ack.0.contains("1.5.0000")),
        "{out:?}"
    );
}

#[test]
fn a_broken_chain_ends_the_socket_and_the_position_stays() {
    let (mut client, mut out) = live();
    client.input(Input::Text(&pushed(9, 7)), Duration::ZERO, &mut out);
    assert!(out.contains(&Output::Drop) && sends(&out).is_empty(), "{out:?}");
    assert_eq!(client.saved().position.unwrap().to_string(), "1.2.0000");
}

#[test]
fn silence_of_two_heartbeats_is_the_end_and_polling_begins_at_once() {
    let (mut client, mut out) = live();
    assert_eq!(client.deadline(), Some(Duration::from_secs(20)));
    client.input(Input::Time, Duration::from_secs(20), &mut out);
    assert!(matches!(&out[..], [Output::Drop, Output::Poll(Some(_))]), "{out:?}");
}

#[test]
fn a_server_that_goes_is_not_asked_for_a_socket_before_its_time() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(Some((1012, "restart;retry_ms=7300"))), Duration::from_secs(1), &mut out);
    client.input(Input::Failed, Duration::from_secs(1), &mut out);
    client.input(Input::Time, Duration::from_millis(8_299), &mut out);
    assert!(!out.contains(&Output::Open), "{out:?}");
    client.input(Input::Time, Duration::from_millis(8_300), &mut out);
    assert!(out.contains(&Output::Open), "{out:?}");
}

#[test]
fn a_complaint_ends_the_socket_and_never_the_till() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(Some((4001, "bad-message;not JSON"))), Duration::ZERO, &mut out);
    assert!(out.contains(&Output::Fault(4001, "bad-message;not JSON".into())), "{out:?}");
    assert!(out.iter().any(|output| matches!(output, Output::Poll(_))), "{out:?}");
    client.input(Input::Failed, Duration::ZERO, &mut out);
    out.clear();
    client.input(Input::Time, Duration::from_secs(599), &mut out);
    assert!(!out.contains(&Output::Open) && out.iter().any(|output| matches!(output, Output::Poll(_))), "{out:?}");
    client.input(Input::Time, Duration::from_secs(600), &mut out);
    assert!(out.contains(&Output::Open), "somebody in the middle may have been the one: {out:?}");
}

#[test]
fn who_is_replaced_stays_away_and_looks_again_after_a_while() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(Some((4003, "replaced"))), Duration::ZERO, &mut out);
    assert_eq!((client.link(), client.deadline()), (Link::Replaced, Some(Duration::from_secs(300))));
    out.clear();
    // Whatever comes meanwhile: the other one has the cursor.
    client.input(Input::Time, Duration::from_secs(299), &mut out);
    client.input(Input::Answer { status: 200, body: "{}", retry_after: None }, Duration::from_secs(299), &mut out);
    assert_eq!(out, []);
    client.input(Input::Time, Duration::from_secs(300), &mut out);
    assert_eq!(out, [Output::Open]);
    client.input(Input::Opened, Duration::from_secs(300), &mut out);
    client.input(Input::Closed(Some((4003, "replaced"))), Duration::from_secs(301), &mut out);
    assert_eq!(client.deadline(), Some(Duration::from_secs(901)), "less and less often");
}

/// The bug: what the server hears late of a socket that was given up ends the next one, and the till was silent for ever.
#[test]
fn who_gave_up_a_socket_is_not_replaced_by_it() {
    let (mut client, mut out) = live();
    client.input(Input::Time, Duration::from_secs(20), &mut out);
    assert!(out.contains(&Output::Drop), "{out:?}");
    client.input(Input::Failed, Duration::from_secs(20), &mut out);
    client.input(Input::Time, Duration::from_secs(21), &mut out);
    client.input(Input::Opened, Duration::from_secs(21), &mut out);
    client.input(Input::Closed(Some((4003, "replaced"))), Duration::from_secs(22), &mut out);
    assert_ne!(client.link(), Link::Replaced);
    assert!(client.deadline().unwrap() < Duration::from_secs(25));
}

/// The bug: the first kind that v1 gets would have silenced every till.
#[test]
fn a_notice_of_an_unknown_kind_is_kept_acknowledged_and_passed() {
    let (mut client, mut out) = live();
    let strange = pushed(5, 2).replace("new_order", "table_call");
    client.input(Input::Text(&strange), Duration::ZERO, &mut out);
    client.input(Input::Text(&pushed(6, 5)), Duration::ZERO, &mut out);
    assert_eq!(sends(&out).len(), 2, "{out:?}");
    assert_eq!(client.saved().position.unwrap().to_string(), "1.6.0000");
    // One that cannot be read at all is not passed over.
    out.clear();
    client.input(Input::Text(r#"{"type":"notice","position":7}"#), Duration::ZERO, &mut out);
    assert!(out.contains(&Output::Drop), "{out:?}");
}

fn said(id: &str, order: &str) -> ClientEvent {
    let (id, kind, order) = (id.to_owned(), String::from("order.ready"), order.to_owned());
    ClientEvent { id, kind, order, code: None, reason: None, at: None }
}

/// An hour without a socket, second by second; what was asked for, with `answer` as the answer to each.
fn hour(
    (client, mut out): (&mut Client, Vec<Output>),
    answer: impl Fn(&Output) -> (u16, String),
) -> BTreeMap<&'static str, usize> {
    let mut asked: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut now = Duration::from_secs(1);
    while now < Duration::from_secs(3_600) {
        client.input(Input::Time, now, &mut out);
        for _ in 0..50 {
            let outputs: Vec<Output> = std::mem::take(&mut out);
            for output in outputs {
                let name = match &output {
                    Output::Open => "open",
                    Output::Poll(_) => "poll",
                    Output::Post(_) => "post",
                    Output::Orders(_) => "orders",
                    _ => continue,
                };
                *asked.entry(name).or_default() += 1;
                if name == "open" {
                    client.input(Input::Closed(None), now, &mut out);
                } else {
                    let (status, body) = answer(&output);
                    client.input(Input::Answer { status, body: &body, retry_after: None }, now, &mut out);
                }
            }
        }
        assert!(out.is_empty(), "it spins at {now:?}: {out:?}");
        let due = client.deadline().unwrap();
        now = due.max(now + Duration::from_millis(1));
    }
    asked
}

fn empty_poll(next_poll_ms: u64) -> (u16, String) {
    let answer =
        json!({"notices": [], "position": "1.2.0000", "head": "1.2.0000", "next_poll_ms": next_poll_ms, "at": 1});
    (200, answer.to_string())
}

fn cut() -> Client {
    let (mut client, mut out) = live();
    client.input(Input::Closed(None), Duration::from_secs(1), &mut out);
    client.input(Input::Failed, Duration::from_secs(1), &mut out);
    client
}

#[test]
fn without_a_socket_it_polls_as_often_as_it_is_told_and_tries_sockets_ever_less_often() {
    let asked = hour((&mut cut(), Vec::new()), |_| empty_poll(60_000));
    assert!((58..=64).contains(&asked["poll"]) && asked["open"] < 260, "{asked:?}");
    let asked = hour((&mut cut(), Vec::new()), |_| empty_poll(0));
    assert!(asked["poll"] <= 3_600, "no progress is no reason to ask at once: {asked:?}");
}

/// The bug: an event that no post takes kept the till from hearing.
#[test]
fn a_post_that_is_refused_does_not_keep_the_till_from_hearing() {
    let (mut client, mut out) = (cut(), Vec::new());
    client.input(Input::Say(said("e1", "o1")), Duration::from_secs(1), &mut out);
    let asked = hour((&mut client, out), |output| match output {
        Output::Post(_) => (422, String::new()),
        _ => empty_poll(60_000),
    });
    assert!(asked["poll"] >= 50 && asked["post"] < 300, "{asked:?}");
}

#[test]
fn whatever_a_server_answers_nothing_spins() {
    let page = json!({"orders": [], "position": "1.2.0000", "next": "o1", "at": 1}).to_string();
    let fresh = || Client::new("token", "till-1", Saved::default(), pace(), 7, Duration::ZERO);
    let asked = hour((&mut fresh(), Vec::new()), |_| (200, page.clone()));
    assert!(asked["orders"] < 500, "a next that never ends: {asked:?}");
    let asked = hour((&mut cut(), Vec::new()), |_| (409, String::new()));
    assert!(asked["poll"] < 300, "{asked:?}");
    let asked = hour((&mut cut(), Vec::new()), |output| match output {
        Output::Orders(_) => (200, json!({"orders": [], "position": "1.2.0000", "at": 1}).to_string()),
        _ => (410, String::new()),
    });
    assert!(asked["poll"] < 500 && asked["orders"] < 500, "{asked:?}");
    let (mut client, mut out) = (cut(), Vec::new());
    client.input(Input::Say(said("e1", "o1")), Duration::from_secs(1), &mut out);
    let asked = hour((&mut client, out), |output| match output {
        Output::Post(_) => (200, json!({"events": []}).to_string()),
        _ => empty_poll(60_000),
    });
    assert!(asked["post"] <= 1_900, "an answer that leaves an event out: {asked:?}");
}

#[test]
fn a_wait_that_a_server_asks_for_has_its_bounds() {
    for (asked, least, most) in [(0, 0.5, 301.0), (7, 7.0, 8.0), (86_400, 299.0, 301.0), (u64::MAX, 299.0, 301.0)] {
        let (mut client, mut out) = live();
        client.input(Input::Closed(None), Duration::ZERO, &mut out);
        let retry_after = Some(Duration::from_secs(asked));
        client.input(Input::Answer { status: 503, body: "", retry_after }, Duration::ZERO, &mut out);
        let mut polled = None;
        for tenth in 0..4_000 {
            out.clear();
            client.input(Input::Time, Duration::from_millis(tenth * 100), &mut out);
            if out.contains(&Output::Open) {
                client.input(Input::Closed(None), Duration::from_millis(tenth * 100), &mut out);
            }
            if out.iter().any(|output| matches!(output, Output::Poll(_))) {
                polled = Some(tenth as f64 / 10.0);
                break;
            }
        }
        let polled = polled.unwrap();
        assert!((least..=most).contains(&polled), "asked for {asked} s, polled after {polled} s");
    }
}

#[test]
fn a_newer_token_is_tried_before_anybody_is_asked_for_one() {
    let (mut client, mut out) = live();
    client.input(Input::Token(Token("newer".into())), Duration::from_secs(5), &mut out);
    assert_eq!(out, [], "the socket goes on with its own");
    client.input(Input::Closed(Some((3000, "unauthorized"))), Duration::from_secs(6), &mut out);
    assert!(!out.contains(&Output::TokenNeeded), "{out:?}");
    client.input(Input::Failed, Duration::from_secs(6), &mut out);
    client.input(Input::Time, Duration::from_secs(8), &mut out);
    client.input(Input::Opened, Duration::from_secs(8), &mut out);
    assert!(sends(&out).iter().any(|text| text.contains("newer")), "{out:?}");
    assert!(!format!("{client:?}{out:?}").contains("newer"), "a token is never shown");
    // That one is no good either: now somebody is asked; and tokens that are all refused do not storm the server.
    client.input(Input::Closed(Some((3000, "unauthorized"))), Duration::from_secs(9), &mut out);
    assert!(out.contains(&Output::TokenNeeded), "{out:?}");
    out.clear();
    for _ in 0..10 {
        client.input(Input::Token(Token("worse".into())), Duration::from_secs(9), &mut out);
        client.input(Input::Opened, Duration::from_secs(9), &mut out);
        client.input(Input::Closed(Some((3000, "unauthorized"))), Duration::from_secs(9), &mut out);
    }
    assert!(out.iter().filter(|output| **output == Output::Open).count() <= 1, "{out:?}");
}

#[test]
fn a_phone_that_wakes_drops_what_slept_and_asks_once() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(None), Duration::from_secs(1), &mut out);
    out.clear();
    client.input(Input::Background, Duration::from_secs(2), &mut out);
    assert_eq!((out.as_slice(), client.deadline()), ([Output::Abandon].as_slice(), None));
    out.clear();
    client.input(Input::Foreground, Duration::from_secs(900), &mut out);
    assert_eq!(out, [Output::Orders(None)]);
    // The list is not to be had: the position is of use all the same.
    client.input(Input::Answer { status: 503, body: "", retry_after: None }, Duration::from_secs(901), &mut out);
    assert!(out.contains(&Output::Open), "{out:?}");
}

#[test]
fn what_happened_to_an_order_is_told_in_its_order() {
    let (mut client, mut out) = live();
    let logged = |id: &str, status: &str, reason: &str| {
        json!({"type": "logged", "id": id, "status": status, "reason": reason}).to_string()
    };
    client.input(Input::Say(said("e1", "o1")), Duration::ZERO, &mut out);
    client.input(Input::Text(&logged("e1", "refused", "unavailable")), Duration::ZERO, &mut out);
    out.clear();
    client.input(Input::Say(said("e2", "o1")), Duration::ZERO, &mut out);
    client.input(Input::Say(said("e3", "o2")), Duration::ZERO, &mut out);
    assert_eq!(sends(&out).iter().filter(|text| text.contains("e3")).count(), 1, "{out:?}");
    assert!(!sends(&out).iter().any(|text| text.contains("e2")), "{out:?}");
    client.input(Input::Time, Duration::from_secs(3), &mut out);
    let order: Vec<&str> = sends(&out).into_iter().filter(|text| text.contains("\"o1\"")).collect();
    assert!(order.len() == 2 && order[0].contains("e1"), "{order:?}");
    out.clear();
    client.input(
        Input::Say(ClientEvent { reason: Some("x".repeat(20_000)), ..said("e4", "o3") }),
        Duration::from_secs(3),
        &mut out,
    );
    assert_eq!(out, [Output::Answered { id: "e4".into(), refused: Some("too-long".into()) }]);
}

#[test]
fn a_token_that_is_no_good_is_asked_for_and_nothing_else_done() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(Some((3000, "unauthorized"))), Duration::ZERO, &mut out);
    assert_eq!(out, [Output::TokenNeeded]);
    assert_eq!(client.deadline(), Some(Duration::from_secs(70)), "a beat was due after 10 s, and a minute more");
    out.clear();
    client.input(Input::Token(Token("new".into())), Duration::from_secs(5), &mut out);
    assert!(out.contains(&Output::Open), "{out:?}");
    client.input(Input::Opened, Duration::from_secs(5), &mut out);
    assert!(sends(&out)[0].contains("\"new\""), "{out:?}");
}

#[test]
fn a_till_whose_token_ran_out_does_not_say_that_it_is_online() {
    let (mut client, mut out) = live();
    assert_eq!(client.link(), Link::Pushed);
    client.input(Input::Closed(Some((3000, "unauthorized"))), Duration::from_secs(1), &mut out);
    out.clear();
    client.input(Input::Time, Duration::from_secs(70), &mut out);
    assert_eq!((out.as_slice(), client.deadline()), ([Output::Link(Link::Unreachable)].as_slice(), None));
}

#[test]
fn without_a_token_nobody_is_asked_until_there_is_one() {
    let mut client = Client::new("", "till-1", Saved::default(), pace(), 7, Duration::ZERO);
    let mut out = Vec::new();
    client.input(Input::Say(said("e1", "o1")), Duration::from_secs(1), &mut out);
    assert_eq!((out.as_slice(), client.deadline()), ([].as_slice(), Some(Duration::from_secs(60))));
    client.input(Input::Time, Duration::from_secs(60), &mut out);
    assert_eq!(out, [Output::Link(Link::Unreachable)]);
    out.clear();
    client.input(Input::Token(Token("first".into())), Duration::from_secs(61), &mut out);
    assert_eq!(out, [Output::Orders(None)]);
    assert_eq!(client.saved().events.len(), 1, "what was said meanwhile is kept");
}

#[test]
fn a_socket_that_opens_with_a_refused_token_goes_before_the_next_is_opened() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(None), Duration::from_secs(1), &mut out);
    client.input(Input::Time, Duration::from_secs(3), &mut out);
    assert!(out.contains(&Output::Open), "{out:?}");
    client.input(Input::Answer { status: 401, body: "", retry_after: None }, Duration::from_secs(4), &mut out);
    assert!(out.contains(&Output::TokenNeeded), "{out:?}");
    out.clear();
    client.input(Input::Token(Token("newer".into())), Duration::from_secs(5), &mut out);
    assert_eq!(
        out.iter().filter(|output| matches!(output, Output::Drop | Output::Open)).collect::<Vec<_>>(),
        [&Output::Drop, &Output::Open]
    );
}

#[test]
fn nobody_heard_for_a_minute_is_told_once_and_taken_back() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(None), Duration::from_secs(1), &mut out);
    client.input(Input::Failed, Duration::from_secs(2), &mut out);
    for second in 60..70 {
        client.input(Input::Time, Duration::from_secs(second), &mut out);
    }
    assert!(
        !out.contains(&Output::Link(Link::Unreachable)),
        "a beat was due after 10 s, and a minute is not over: {out:?}"
    );
    client.input(Input::Time, Duration::from_secs(70), &mut out);
    assert_eq!(out.iter().filter(|output| **output == Output::Link(Link::Unreachable)).count(), 1, "{out:?}");
    let answer = json!({"notices": [], "position": "1.2.0000", "head": "1.2.0000", "next_poll_ms": 60_000, "at": 1, "stale": true});
    client.input(
        Input::Answer { status: 200, body: &answer.to_string(), retry_after: None },
        Duration::from_secs(71),
        &mut out,
    );
    let told: Vec<&Output> = out.iter().filter(|o| matches!(o, Output::Link(_) | Output::Stale(_))).collect();
    let wanted = [&Output::Link(Link::Unreachable), &Output::Link(Link::Polled), &Output::Stale(true)];
    assert_eq!(told, wanted);
}

#[test]
fn a_position_of_no_use_is_not_hammered() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(Some((4200, "resync;epoch-changed"))), Duration::ZERO, &mut out);
    assert_eq!(out, [Output::Orders(None)]);
    let orders = json!({"orders": [], "position": "2.0.0000", "at": 1}).to_string();
    client.input(Input::Answer { status: 200, body: &orders, retry_after: None }, Duration::ZERO, &mut out);
    assert!(out.contains(&Output::Open), "{out:?}");
    client.input(Input::Opened, Duration::ZERO, &mut out);
    out.clear();
    client.input(Input::Closed(Some((4200, "resync;epoch-changed"))), Duration::ZERO, &mut out);
    assert!(!out.iter().any(|output| matches!(output, Output::Orders(_))), "the second time it waits: {out:?}");
    client.input(Input::Failed, Duration::ZERO, &mut out);
    let due = client.deadline().unwrap();
    assert!(due >= Duration::from_millis(500) && due < Duration::from_secs(2), "{due:?}");
}

#[test]
fn an_answer_from_before_the_socket_does_not_take_it_back() {
    let (mut client, mut out) = live();
    let start = Duration::from_secs(1);
    client.input(Input::Closed(None), start, &mut out);
    assert!(matches!(&out[..], [Output::Poll(Some(_))]), "{out:?}");
    client.input(Input::Time, start * 2, &mut out);
    client.input(Input::Opened, start * 2, &mut out);
    let welcome = json!({"type": "welcome", "recipient": "store:1", "device": "till-1", "position": "1.2.0000",
        "heartbeat_ms": 10_000, "window": 4, "frame_bytes_max": 16_384, "at": 1});
    client.input(Input::Text(&welcome.to_string()), start * 2, &mut out);
    client.input(Input::Text(&pushed(5, 2)), start * 2, &mut out);
    client.input(Input::Closed(None), start * 3, &mut out);
    let answer = json!({"notices": [], "position": "1.2.0000", "head": "1.2.0000", "next_poll_ms": 60_000, "at": 1});
    client.input(Input::Answer { status: 200, body: &answer.to_string(), retry_after: None }, start * 3, &mut out);
    assert_eq!(client.saved().position.unwrap().to_string(), "1.5.0000");
}
