//! Named cases of the client; most of them were bugs.

use std::collections::BTreeMap;
use std::time::Duration;

use orderbell_protocol::client::{Client, Connectivity, Input, Output, PersistedState, Timings};
use orderbell_protocol::frame::NoticeFrame;
use orderbell_protocol::{BearerToken, ClientEvent, RejectionReason};
use serde_json::json;

fn timings() -> Timings {
    Timings::default()
}

fn sends(out: &[Output]) -> Vec<&str> {
    out.iter().filter_map(|output| if let Output::Send(text) = output { Some(text.0.as_str()) } else { None }).collect()
}

fn welcome(seq: u64) -> String {
    json!({"type": "welcome", "recipient": "store:1", "device": "till-1", "position": format!("1.{seq:x}.0000"),
        "heartbeat_ms": 10_000, "max_in_flight": 4, "max_frame_bytes": 16_384, "at": 1})
    .to_string()
}

/// A client at position 1.2 with a live socket.
fn live() -> (Client, Vec<Output>) {
    let saved = PersistedState { position: Some("1.2.0000".parse().unwrap()), ..PersistedState::default() };
    let mut client = Client::new("token", "till-1", saved, timings(), 7, Duration::ZERO);
    let mut out = Vec::new();
    client.input(Input::Time, Duration::ZERO, &mut out);
    client.input(Input::Opened, Duration::ZERO, &mut out);
    client.input(Input::Text(&welcome(2)), Duration::ZERO, &mut out);
    assert_eq!(client.connectivity(), Connectivity::Push);
    out.clear();
    (client, out)
}

fn notice(seq: u64, prev: u64) -> String {
    json!({"type": "notice", "position": format!("1.{seq:x}.0000"), "prev": format!("1.{prev:x}.0000"), "attempt": 1,
        "id": format!("n{seq}"), "kind": "new_order", "order": "o1", "at": 1, "body": {}})
    .to_string()
}

#[test]
fn a_notice_is_delivered_before_it_is_acknowledged() {
    let (mut client, mut out) = live();
    client.input(Input::Text(&notice(5, 2)), Duration::ZERO, &mut out);
    assert!(
        matches!(&out[..], [Output::Notice(NoticeFrame { .. }), Output::Send(ack)] if ack.0.contains("1.5.0000")),
        "{out:?}"
    );
}

#[test]
fn a_broken_chain_drops_the_socket_and_keeps_the_position() {
    let (mut client, mut out) = live();
    client.input(Input::Text(&notice(9, 7)), Duration::ZERO, &mut out);
    assert!(out.contains(&Output::DropSocket) && sends(&out).is_empty(), "{out:?}");
    assert_eq!(client.persisted_state().position.unwrap().to_string(), "1.2.0000");
}

#[test]
fn silence_of_two_heartbeats_drops_the_socket_and_polling_begins_at_once() {
    let (mut client, mut out) = live();
    assert_eq!(client.deadline(), Some(Duration::from_secs(20)));
    client.input(Input::Time, Duration::from_secs(20), &mut out);
    assert!(matches!(&out[..], [Output::DropSocket, Output::Poll(Some(_))]), "{out:?}");
}

#[test]
fn no_socket_is_opened_before_the_delay_that_a_stopping_server_gave() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(Some((1012, "restart;retry_ms=7300"))), Duration::from_secs(1), &mut out);
    client.input(Input::RequestFailed, Duration::from_secs(1), &mut out);
    client.input(Input::Time, Duration::from_millis(8_299), &mut out);
    assert!(!out.contains(&Output::OpenSocket), "{out:?}");
    client.input(Input::Time, Duration::from_millis(8_300), &mut out);
    assert!(out.contains(&Output::OpenSocket), "{out:?}");
}

#[test]
fn a_fault_pauses_the_socket_but_not_the_polling() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(Some((4001, "bad-message;not JSON"))), Duration::ZERO, &mut out);
    assert!(out.contains(&Output::Fault(4001, "bad-message;not JSON".into())), "{out:?}");
    assert!(out.iter().any(|output| matches!(output, Output::Poll(_))), "{out:?}");
    client.input(Input::RequestFailed, Duration::ZERO, &mut out);
    out.clear();
    client.input(Input::Time, Duration::from_secs(599), &mut out);
    assert!(
        !out.contains(&Output::OpenSocket) && out.iter().any(|output| matches!(output, Output::Poll(_))),
        "{out:?}"
    );
    client.input(Input::Time, Duration::from_secs(600), &mut out);
    assert!(
        out.contains(&Output::OpenSocket),
        "a proxy may have caused the fault, so the socket is tried again: {out:?}"
    );
}

#[test]
fn a_superseded_client_pauses_and_tries_again_later() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(Some((4003, "replaced"))), Duration::ZERO, &mut out);
    assert_eq!((client.connectivity(), client.deadline()), (Connectivity::Superseded, Some(Duration::from_secs(300))));
    out.clear();
    // Nothing may happen in the pause: the other connection owns the cursor.
    client.input(Input::Time, Duration::from_secs(299), &mut out);
    client.input(Input::Response { status: 200, body: "{}", retry_after: None }, Duration::from_secs(299), &mut out);
    assert_eq!(out, []);
    client.input(Input::Time, Duration::from_secs(300), &mut out);
    assert_eq!(out, [Output::OpenSocket]);
    client.input(Input::Opened, Duration::from_secs(300), &mut out);
    client.input(Input::Closed(Some((4003, "replaced"))), Duration::from_secs(301), &mut out);
    assert_eq!(client.deadline(), Some(Duration::from_secs(901)), "the pause grows");
}

/// The bug: when the server learned late of a dropped socket, it closed the next one as replaced, and the till stayed silent for ever.
#[test]
fn a_client_that_dropped_a_socket_is_not_superseded_by_itself() {
    let (mut client, mut out) = live();
    client.input(Input::Time, Duration::from_secs(20), &mut out);
    assert!(out.contains(&Output::DropSocket), "{out:?}");
    client.input(Input::RequestFailed, Duration::from_secs(20), &mut out);
    client.input(Input::Time, Duration::from_secs(21), &mut out);
    client.input(Input::Opened, Duration::from_secs(21), &mut out);
    client.input(Input::Closed(Some((4003, "replaced"))), Duration::from_secs(22), &mut out);
    assert_ne!(client.connectivity(), Connectivity::Superseded);
    assert!(client.deadline().unwrap() < Duration::from_secs(25));
}

/// The bug: the first kind added to v1 would have silenced every till.
#[test]
fn a_notice_of_an_unknown_kind_is_delivered_and_acknowledged() {
    let (mut client, mut out) = live();
    let unknown = notice(5, 2).replace("new_order", "table_call");
    client.input(Input::Text(&unknown), Duration::ZERO, &mut out);
    client.input(Input::Text(&notice(6, 5)), Duration::ZERO, &mut out);
    assert_eq!(sends(&out).len(), 2, "{out:?}");
    assert_eq!(client.persisted_state().position.unwrap().to_string(), "1.6.0000");
    // A notice that cannot be parsed is not skipped.
    out.clear();
    client.input(Input::Text(r#"{"type":"notice","position":7}"#), Duration::ZERO, &mut out);
    assert!(out.contains(&Output::DropSocket), "{out:?}");
}

/// A client whose `hello` named position 1.2, and whose poll then delivered notice 7 behind it; both before the `welcome` arrives.
fn polled_while_a_socket_opens() -> (Client, Vec<Output>) {
    let (mut client, mut out) = live();
    client.input(Input::Closed(None), Duration::from_secs(1), &mut out);
    assert!(out.iter().any(|output| matches!(output, Output::Poll(_))), "{out:?}");
    client.input(Input::Time, Duration::from_secs(2), &mut out);
    client.input(Input::Opened, Duration::from_secs(2), &mut out);
    assert!(sends(&out).last().is_some_and(|hello| hello.contains("\"1.2.0000\"")), "{out:?}");
    let late: serde_json::Value = serde_json::from_str(&notice(7, 2)).unwrap();
    let page = json!({"notices": [late], "position": "1.7.0000", "head": "1.7.0000", "next_poll_ms": 60_000, "at": 1});
    client.input(
        Input::Response { status: 200, body: &page.to_string(), retry_after: None },
        Duration::from_secs(2),
        &mut out,
    );
    assert_eq!(client.persisted_state().position.unwrap().to_string(), "1.7.0000");
    out.clear();
    (client, out)
}

/// The bug: a cancelled order rang, behind the notice of its cancellation. Its own notice was on its way over the socket that was being opened,
/// and, cancelled in the meantime, not in the answer to the poll; `welcome` took the client back in front of it.
#[test]
fn a_superseded_notice_on_an_opening_socket_is_not_delivered_behind_what_a_poll_delivered() {
    let (mut client, mut out) = polled_while_a_socket_opens();
    client.input(Input::Text(&welcome(2)), Duration::from_secs(3), &mut out);
    client.input(Input::Text(&notice(5, 2)), Duration::from_secs(3), &mut out);
    assert!(!out.iter().any(|output| matches!(output, Output::Notice(_))), "{out:?}");
    assert!(out.contains(&Output::DropSocket), "{out:?}");
    assert_eq!(client.persisted_state().position.unwrap().to_string(), "1.7.0000");
}

#[test]
fn what_a_poll_delivered_while_a_socket_opened_is_acknowledged_when_the_socket_repeats_it() {
    let (mut client, mut out) = polled_while_a_socket_opens();
    client.input(Input::Text(&welcome(2)), Duration::from_secs(3), &mut out);
    client.input(Input::Text(&notice(7, 2)), Duration::from_secs(3), &mut out);
    assert!(sends(&out).last().is_some_and(|ack| ack.contains("\"1.7.0000\"")), "{out:?}");
    client.input(Input::Text(&notice(9, 7)), Duration::from_secs(3), &mut out);
    let delivered = out.iter().filter_map(|output| match output {
        Output::Notice(notice) => Some(notice.notice.id.as_str()),
        _ => None,
    });
    assert_eq!(delivered.collect::<Vec<_>>(), ["n9"]);
    assert_eq!(client.persisted_state().position.unwrap().to_string(), "1.9.0000");
}

/// The server may have skipped a notice that no connection of the device could get acknowledged.
#[test]
fn without_a_poll_in_between_the_position_of_the_welcome_takes_precedence() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(None), Duration::from_secs(1), &mut out);
    client.input(Input::Time, Duration::from_secs(2), &mut out);
    client.input(Input::Opened, Duration::from_secs(2), &mut out);
    client.input(Input::Text(&welcome(5)), Duration::from_secs(2), &mut out);
    client.input(Input::Text(&notice(7, 5)), Duration::from_secs(2), &mut out);
    assert_eq!(client.persisted_state().position.unwrap().to_string(), "1.7.0000");
}

fn event(id: &str, order: &str) -> ClientEvent {
    let (id, kind, order) = (id.to_owned(), String::from("order.ready"), order.to_owned());
    ClientEvent { id, kind, order, pickup_code: None, reason: None, at: None }
}

/// One hour without a socket, in which `respond` answers every request. Returns the number of sockets and requests by kind.
fn hour(
    (client, mut out): (&mut Client, Vec<Output>),
    respond: impl Fn(&Output) -> (u16, String),
) -> BTreeMap<&'static str, usize> {
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut now = Duration::from_secs(1);
    while now < Duration::from_secs(3_600) {
        client.input(Input::Time, now, &mut out);
        for _ in 0..50 {
            let outputs: Vec<Output> = std::mem::take(&mut out);
            for output in outputs {
                let name = match &output {
                    Output::OpenSocket => "socket",
                    Output::Poll(_) => "poll",
                    Output::PostEvents(_) => "post",
                    Output::FetchOrders(_) => "orders",
                    _ => continue,
                };
                *counts.entry(name).or_default() += 1;
                if name == "socket" {
                    client.input(Input::Closed(None), now, &mut out);
                } else {
                    let (status, body) = respond(&output);
                    client.input(Input::Response { status, body: &body, retry_after: None }, now, &mut out);
                }
            }
        }
        assert!(out.is_empty(), "it spins at {now:?}: {out:?}");
        let due = client.deadline().unwrap();
        now = due.max(now + Duration::from_millis(1));
    }
    counts
}

fn empty_poll(next_poll_ms: u64) -> (u16, String) {
    let answer =
        json!({"notices": [], "position": "1.2.0000", "head": "1.2.0000", "next_poll_ms": next_poll_ms, "at": 1});
    (200, answer.to_string())
}

fn disconnected() -> Client {
    let (mut client, mut out) = live();
    client.input(Input::Closed(None), Duration::from_secs(1), &mut out);
    client.input(Input::RequestFailed, Duration::from_secs(1), &mut out);
    client
}

#[test]
fn without_a_socket_it_polls_at_the_servers_interval_and_backs_off_from_sockets() {
    let counts = hour((&mut disconnected(), Vec::new()), |_| empty_poll(60_000));
    assert!((58..=64).contains(&counts["poll"]) && counts["socket"] < 260, "{counts:?}");
    let counts = hour((&mut disconnected(), Vec::new()), |_| empty_poll(0));
    assert!(counts["poll"] <= 3_600, "without progress there is no immediate poll: {counts:?}");
}

/// The bug: an event that every post failed to deliver stopped the till from polling.
#[test]
fn a_post_that_always_fails_does_not_stop_the_polling() {
    let (mut client, mut out) = (disconnected(), Vec::new());
    client.input(Input::Event(event("e1", "o1")), Duration::from_secs(1), &mut out);
    let counts = hour((&mut client, out), |output| match output {
        Output::PostEvents(_) => (422, String::new()),
        _ => empty_poll(60_000),
    });
    assert!(counts["poll"] >= 50 && counts["post"] < 300, "{counts:?}");
}

#[test]
fn no_response_makes_the_client_spin() {
    let page = json!({"orders": [], "position": "1.2.0000", "next": "o1", "at": 1}).to_string();
    let fresh = || Client::new("token", "till-1", PersistedState::default(), timings(), 7, Duration::ZERO);
    let counts = hour((&mut fresh(), Vec::new()), |_| (200, page.clone()));
    assert!(counts["orders"] < 500, "a `next` that never ends: {counts:?}");
    let counts = hour((&mut disconnected(), Vec::new()), |_| (409, String::new()));
    assert!(counts["poll"] < 300, "{counts:?}");
    let counts = hour((&mut disconnected(), Vec::new()), |output| match output {
        Output::FetchOrders(_) => (200, json!({"orders": [], "position": "1.2.0000", "at": 1}).to_string()),
        _ => (410, String::new()),
    });
    assert!(counts["poll"] < 500 && counts["orders"] < 500, "{counts:?}");
    let (mut client, mut out) = (disconnected(), Vec::new());
    client.input(Input::Event(event("e1", "o1")), Duration::from_secs(1), &mut out);
    let counts = hour((&mut client, out), |output| match output {
        Output::PostEvents(_) => (200, json!({"events": []}).to_string()),
        _ => empty_poll(60_000),
    });
    assert!(counts["post"] <= 1_900, "a response that omits an event: {counts:?}");
}

#[test]
fn a_wait_that_the_server_asks_for_is_bounded() {
    for (asked, least, most) in [(0, 0.5, 301.0), (7, 7.0, 8.0), (86_400, 299.0, 301.0), (u64::MAX, 299.0, 301.0)] {
        let (mut client, mut out) = live();
        client.input(Input::Closed(None), Duration::ZERO, &mut out);
        let retry_after = Some(Duration::from_secs(asked));
        client.input(Input::Response { status: 503, body: "", retry_after }, Duration::ZERO, &mut out);
        let mut polled = None;
        for tenth in 0..4_000 {
            out.clear();
            client.input(Input::Time, Duration::from_millis(tenth * 100), &mut out);
            if out.contains(&Output::OpenSocket) {
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
fn a_newer_token_is_tried_before_another_is_requested() {
    let (mut client, mut out) = live();
    client.input(Input::Token(BearerToken("newer".into())), Duration::from_secs(5), &mut out);
    assert_eq!(out, [], "the socket keeps the old token");
    client.input(Input::Closed(Some((3000, "unauthorized"))), Duration::from_secs(6), &mut out);
    assert!(!out.contains(&Output::TokenNeeded), "{out:?}");
    client.input(Input::RequestFailed, Duration::from_secs(6), &mut out);
    client.input(Input::Time, Duration::from_secs(8), &mut out);
    client.input(Input::Opened, Duration::from_secs(8), &mut out);
    assert!(sends(&out).iter().any(|text| text.contains("newer")), "{out:?}");
    assert!(!format!("{client:?}{out:?}").contains("newer"), "a debug form contains the token");
    // It is refused as well: now another one is needed. Tokens that are all refused do not flood the server.
    client.input(Input::Closed(Some((3000, "unauthorized"))), Duration::from_secs(9), &mut out);
    assert!(out.contains(&Output::TokenNeeded), "{out:?}");
    out.clear();
    for _ in 0..10 {
        client.input(Input::Token(BearerToken("worse".into())), Duration::from_secs(9), &mut out);
        client.input(Input::Opened, Duration::from_secs(9), &mut out);
        client.input(Input::Closed(Some((3000, "unauthorized"))), Duration::from_secs(9), &mut out);
    }
    assert!(out.iter().filter(|output| **output == Output::OpenSocket).count() <= 1, "{out:?}");
}

#[test]
fn a_phone_that_wakes_drops_socket_and_request_and_makes_one_request() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(None), Duration::from_secs(1), &mut out);
    out.clear();
    client.input(Input::Background, Duration::from_secs(2), &mut out);
    assert_eq!((out.as_slice(), client.deadline()), ([Output::CancelRequest].as_slice(), None));
    out.clear();
    client.input(Input::Foreground, Duration::from_secs(900), &mut out);
    assert_eq!(out, [Output::FetchOrders(None)]);
    // The request fails, but the position is still valid.
    client.input(Input::Response { status: 503, body: "", retry_after: None }, Duration::from_secs(901), &mut out);
    assert!(out.contains(&Output::OpenSocket), "{out:?}");
}

#[test]
fn events_of_one_order_are_sent_in_sequence() {
    let (mut client, mut out) = live();
    let result = |id: &str, status: &str, reason: &str| {
        json!({"type": "event_result", "id": id, "status": status, "reason": reason}).to_string()
    };
    client.input(Input::Event(event("e1", "o1")), Duration::ZERO, &mut out);
    client.input(Input::Text(&result("e1", "rejected", "unavailable")), Duration::ZERO, &mut out);
    out.clear();
    client.input(Input::Event(event("e2", "o1")), Duration::ZERO, &mut out);
    client.input(Input::Event(event("e3", "o2")), Duration::ZERO, &mut out);
    assert_eq!(sends(&out).iter().filter(|text| text.contains("e3")).count(), 1, "{out:?}");
    assert!(!sends(&out).iter().any(|text| text.contains("e2")), "{out:?}");
    client.input(Input::Time, Duration::from_secs(3), &mut out);
    let order: Vec<&str> = sends(&out).into_iter().filter(|text| text.contains("\"o1\"")).collect();
    assert!(order.len() == 2 && order[0].contains("e1"), "{order:?}");
    out.clear();
    client.input(
        Input::Event(ClientEvent { reason: Some("x".repeat(20_000)), ..event("e4", "o3") }),
        Duration::from_secs(3),
        &mut out,
    );
    assert_eq!(out, [Output::EventResult { id: "e4".into(), rejected: Some(RejectionReason::TooLong) }]);
}

#[test]
fn after_a_refused_token_the_client_only_asks_for_a_new_one() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(Some((3000, "unauthorized"))), Duration::ZERO, &mut out);
    assert_eq!(out, [Output::TokenNeeded]);
    assert_eq!(client.deadline(), Some(Duration::from_secs(70)), "a heartbeat was due after 10 s, plus one minute");
    out.clear();
    client.input(Input::Token(BearerToken("new".into())), Duration::from_secs(5), &mut out);
    assert!(out.contains(&Output::OpenSocket), "{out:?}");
    client.input(Input::Opened, Duration::from_secs(5), &mut out);
    assert!(sends(&out)[0].contains("\"new\""), "{out:?}");
}

#[test]
fn a_till_with_an_expired_token_becomes_unreachable() {
    let (mut client, mut out) = live();
    assert_eq!(client.connectivity(), Connectivity::Push);
    client.input(Input::Closed(Some((3000, "unauthorized"))), Duration::from_secs(1), &mut out);
    out.clear();
    client.input(Input::Time, Duration::from_secs(70), &mut out);
    assert_eq!(
        (out.as_slice(), client.deadline()),
        ([Output::Connectivity(Connectivity::Unreachable)].as_slice(), None)
    );
}

#[test]
fn without_a_token_no_request_is_made() {
    let mut client = Client::new("", "till-1", PersistedState::default(), timings(), 7, Duration::ZERO);
    let mut out = Vec::new();
    client.input(Input::Event(event("e1", "o1")), Duration::from_secs(1), &mut out);
    assert_eq!((out.as_slice(), client.deadline()), ([].as_slice(), Some(Duration::from_secs(60))));
    client.input(Input::Time, Duration::from_secs(60), &mut out);
    assert_eq!(out, [Output::Connectivity(Connectivity::Unreachable)]);
    out.clear();
    client.input(Input::Token(BearerToken("first".into())), Duration::from_secs(61), &mut out);
    assert_eq!(out, [Output::FetchOrders(None)]);
    assert_eq!(client.persisted_state().events.len(), 1, "events from before the token are kept");
}

#[test]
fn a_socket_that_opens_with_a_refused_token_is_dropped_before_the_next() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(None), Duration::from_secs(1), &mut out);
    client.input(Input::Time, Duration::from_secs(3), &mut out);
    assert!(out.contains(&Output::OpenSocket), "{out:?}");
    client.input(Input::Response { status: 401, body: "", retry_after: None }, Duration::from_secs(4), &mut out);
    assert!(out.contains(&Output::TokenNeeded), "{out:?}");
    out.clear();
    client.input(Input::Token(BearerToken("newer".into())), Duration::from_secs(5), &mut out);
    assert_eq!(
        out.iter().filter(|output| matches!(output, Output::DropSocket | Output::OpenSocket)).collect::<Vec<_>>(),
        [&Output::DropSocket, &Output::OpenSocket]
    );
}

#[test]
fn unreachable_is_reported_once_and_ends_with_the_next_response() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(None), Duration::from_secs(1), &mut out);
    client.input(Input::RequestFailed, Duration::from_secs(2), &mut out);
    for second in 60..70 {
        client.input(Input::Time, Duration::from_secs(second), &mut out);
    }
    assert!(
        !out.contains(&Output::Connectivity(Connectivity::Unreachable)),
        "a heartbeat was due after 10 s, and the minute is not over: {out:?}"
    );
    client.input(Input::Time, Duration::from_secs(70), &mut out);
    assert_eq!(
        out.iter().filter(|output| **output == Output::Connectivity(Connectivity::Unreachable)).count(),
        1,
        "{out:?}"
    );
    let answer = json!({"notices": [], "position": "1.2.0000", "head": "1.2.0000", "next_poll_ms": 60_000, "at": 1, "stale": true});
    client.input(
        Input::Response { status: 200, body: &answer.to_string(), retry_after: None },
        Duration::from_secs(71),
        &mut out,
    );
    let reported: Vec<&Output> =
        out.iter().filter(|o| matches!(o, Output::Connectivity(_) | Output::Stale(_))).collect();
    let wanted = [
        &Output::Connectivity(Connectivity::Unreachable),
        &Output::Connectivity(Connectivity::Polling),
        &Output::Stale(true),
    ];
    assert_eq!(reported, wanted);
}

#[test]
fn an_invalid_position_leads_to_resyncs_with_back_off() {
    let (mut client, mut out) = live();
    client.input(Input::Closed(Some((4200, "resync;epoch-changed"))), Duration::ZERO, &mut out);
    assert_eq!(out, [Output::FetchOrders(None)]);
    let orders = json!({"orders": [], "position": "2.0.0000", "at": 1}).to_string();
    client.input(Input::Response { status: 200, body: &orders, retry_after: None }, Duration::ZERO, &mut out);
    assert!(out.contains(&Output::OpenSocket), "{out:?}");
    client.input(Input::Opened, Duration::ZERO, &mut out);
    out.clear();
    client.input(Input::Closed(Some((4200, "resync;epoch-changed"))), Duration::ZERO, &mut out);
    assert!(!out.iter().any(|output| matches!(output, Output::FetchOrders(_))), "the second resync waits: {out:?}");
    client.input(Input::RequestFailed, Duration::ZERO, &mut out);
    let due = client.deadline().unwrap();
    assert!(due >= Duration::from_millis(500) && due < Duration::from_secs(2), "{due:?}");
}

#[test]
fn a_poll_response_from_before_the_socket_does_not_move_the_position_back() {
    let (mut client, mut out) = live();
    let start = Duration::from_secs(1);
    client.input(Input::Closed(None), start, &mut out);
    assert!(matches!(&out[..], [Output::Poll(Some(_))]), "{out:?}");
    client.input(Input::Time, start * 2, &mut out);
    client.input(Input::Opened, start * 2, &mut out);
    let welcome = json!({"type": "welcome", "recipient": "store:1", "device": "till-1", "position": "1.2.0000",
        "heartbeat_ms": 10_000, "max_in_flight": 4, "max_frame_bytes": 16_384, "at": 1});
    client.input(Input::Text(&welcome.to_string()), start * 2, &mut out);
    client.input(Input::Text(&notice(5, 2)), start * 2, &mut out);
    client.input(Input::Closed(None), start * 3, &mut out);
    let answer = json!({"notices": [], "position": "1.2.0000", "head": "1.2.0000", "next_poll_ms": 60_000, "at": 1});
    client.input(Input::Response { status: 200, body: &answer.to_string(), retry_after: None }, start * 3, &mut out);
    assert_eq!(client.persisted_state().position.unwrap().to_string(), "1.5.0000");
}
