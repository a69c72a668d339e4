//! Paid orders in every form in which order systems have sent them: the store hears of each, on Kafka and by HTTP. What becomes of each member is
//! tested with the mapping (`cli::mapping`); what cannot be understood, with the dead letters.

use std::collections::BTreeSet;

use orderbell_protocol::NoticeKind::NewOrder;

use crate::chain::{Node, until};

scenarios! {
    paid_orders_in_every_form_notify_their_store,
}

/// Values, and the order of each.
fn values() -> Vec<(Vec<u8>, &'static str)> {
    let with = |order: &str, member: &[u8]| {
        let event = format!(r#"{{"type":"order.paid","id":"","order":"{order}","store":"17","amount":500"#);
        [event.as_bytes(), member, b"}"].concat()
    };
    let around = |before: &[u8], order: &str, after: &[u8]| [before, &with(order, b""), after].concat();
    let in_a_string = serde_json::to_vec(std::str::from_utf8(&with("string", b"")).unwrap()).unwrap();
    let padded = r#"{"type":"order.paid","id":0,"order":"padded   ","store":"\u200b17\ufeff","amount":500}"#;
    let pointed = r#"{"type":"order.paid","id":"undefined","order":12345.0,"store":17.0,"amount":500}"#;
    vec![
        (around(b"\xef\xbb\xbf", "mark", b""), "mark"),
        (around(b"\0\0\0\0\x0c", "framing", b""), "framing"),
        (around(b"", "nul", b"\0"), "nul"),
        (in_a_string, "string"),
        (with("surrogate", br#","note":"no onions \ud83d""#), "surrogate"),
        (with("tab", b",\"note\":\"no\tonions\""), "tab"),
        (with("number", b",\"rate\":NaN"), "number"),
        (with("large", b",\"rate\":1e400"), "large"),
        (with("gbk", b",\"note\":\"\xc4\xcf\xbe\xa9\""), "gbk"),
        (with("guest", b",\"customer\":0,\"device\":\"\""), "guest"),
        (with("nobody", b",\"customer\":false"), "nobody"),
        (with("amount", b",\"amount\":\"12,50\""), "amount"),
        (with("date", b",\"time\":\"2026-09-21\""), "date"),
        (padded.into(), "padded"),
        (pointed.into(), "12345"),
        ([b"[", &with("first", b"")[..], b",", &with("second", b""), b"]"].concat(), "first"),
    ]
}

async fn paid_orders_in_every_form_notify_their_store(node: Node) {
    let mut wanted: BTreeSet<String> = values().into_iter().map(|(_, order)| order.to_owned()).collect();
    wanted.insert("second".into());
    let mut till = node.till("17", "a").await;
    #[cfg(feature = "real-kafka")]
    if let Some(topic) = &node.topic {
        for (value, _) in values() {
            topic.produces_raw(0, Some(&value)).await;
        }
        wanted.extend(in_headers(topic).await);
    }
    #[cfg(feature = "real-kafka")]
    let is_posted = node.topic.is_none();
    #[cfg(not(feature = "real-kafka"))]
    let is_posted = true;
    for (value, order) in values().into_iter().filter(|_| is_posted) {
        let answer =
            node.http.send("POST", "/v1/events", &node.token("producer", "p"), "Application/JSON", value).await;
        assert_eq!(answer.unwrap().status, 200, "{order}");
    }
    let mut received = BTreeSet::new();
    for _ in &wanted {
        let notice = till.notice().await;
        till.acks(&notice).await;
        assert_eq!(notice.notice.kind, NewOrder);
        assert!(received.insert(notice.notice.order), "twice");
    }
    assert_eq!(received, wanted);
    // A topic that was just made may have no leader yet; an alert about a record would not end by itself.
    until("it is well", async || node.is_well().await).await;
}

/// CloudEvents whose headers are spelt and quoted as clients do, and one that says everything in them; the orders.
#[cfg(feature = "real-kafka")]
async fn in_headers(topic: &crate::kafka::Topic) -> Vec<String> {
    let body: &[u8] = br#"{"store":"17","customer":"c14","amount":500}"#;
    let forms = [("ce_", ""), ("CE_", ""), ("ce-", ""), ("cloudEvents_", ""), ("ce_", "\"")];
    let mut orders = Vec::new();
    for (at, (prefix, quote)) in forms.into_iter().enumerate() {
        let order = format!("headers-{at}");
        let attributes =
            [("SpecVersion", "1.0"), ("Type", "order.paid"), ("id", &order), ("source", "/s"), ("subject", &order)];
        let headers = attributes.map(|(name, value)| (format!("{prefix}{name}"), format!("{quote}{value}{quote}")));
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        topic.produces_with(0, None, Some(body), &headers).await;
        orders.push(order);
    }
    orders
}

/// Without a value, and with an empty one: the event is in the headers.
#[cfg(feature = "real-kafka")]
#[tokio::test]
async fn an_event_that_is_in_its_headers_alone_notifies_the_customer() {
    use orderbell_protocol::NoticeKind::{PickupCode, Ready};

    let node = crate::kafka::node().await;
    let topic = node.topic.as_ref().unwrap();
    let mut phone = node.phone("c14").await;
    for (order, value) in [("headers-1", None), ("headers-2", Some(&b""[..]))] {
        node.event("order.paid", order, serde_json::json!({"store": "17", "customer": "c14"})).await;
        node.event("order.accepted", order, serde_json::json!({"pickup_code": "A1"})).await;
        phone.hears(PickupCode, order).await;
        let ready = [
            ("ce_specversion", "1.0"),
            ("ce_type", "order.ready"),
            ("ce_id", order),
            ("ce_source", "/k"),
            ("ce_subject", order),
        ];
        topic.produces_with(0, Some(order.as_bytes()), value, &ready).await;
        phone.hears(Ready, order).await;
    }
}
