use super::super::notice_kinds::{Content, NOTICE_KINDS, NoticeRow, audiences};
use super::super::notices;
use super::*;
use proptest::prelude::*;

pub(super) const NOW: UnixMs = UnixMs(1_790_000_000_000);
const RETENTION: i64 = 3 * 24 * 3_600_000;

fn policy() -> OrderPolicy {
    OrderPolicy { retention_ms: RETENTION, ..OrderPolicy::default() }
}

pub(super) fn event(kind: E, id: &str) -> Event {
    Event {
        kind,
        order: Id::new("o1").unwrap(),
        id: id.into(),
        source: "shop".into(),
        at: NOW,
        notify_at: None,
        read_at: None,
        version: None,
        store: Some(Id::new("s1").unwrap()),
        customer: Some(Id::new("c1").unwrap()),
        device: None,
        amount: Some(MinorUnits(1250)),
        currency: None,
        pickup_code: (kind == E::Accepted).then(|| PickupCode("A17".into())),
        reason: None,
        details: None,
        flags: Vec::new(),
        shadow: false,
        row: None,
    }
}

fn body(order: &Order, to: Role, kind: NoticeKind, visible: &VisibleFields) -> Box<RawValue> {
    notices::body(order, NoticeRow::of(kind).unwrap(), to, None, visible).unwrap()
}

/// An order, and all effects of the events applied to it.
#[derive(Default)]
pub(super) struct Scenario {
    pub(super) order: Option<Order>,
    pub(super) unannounced: Vec<Unannounced>,
    notified: Vec<(Role, NoticeKind)>,
    superseded: Vec<String>,
    results: Vec<ApplyResult>,
    derived: Vec<(E, UnixMs)>,
    drafts: Vec<NoticeDraft>,
}

impl Scenario {
    pub(super) fn apply(mut self, event: &Event) -> Self {
        let (next, effects) = Order::apply(self.order.as_ref(), event, NOW, &policy()).unwrap();
        self.unannounced.extend(next.as_ref().and_then(|next| next.unannounced(&effects, false)));
        self.order = next;
        self.notified.extend(effects.notices.iter().map(|draft| (draft.recipient.role, draft.kind)));
        self.superseded.extend(effects.superseded);
        self.derived.extend(effects.derived);
        self.drafts.extend(effects.notices);
        self.results.push(effects.result);
        self
    }

    pub(super) fn is_store_notified(&self) -> bool {
        self.notified.contains(&(Store, NoticeKind::NewOrder))
    }

    fn of(kinds: &[E]) -> Self {
        kinds
            .iter()
            .enumerate()
            .fold(Self::default(), |scenario, (at, kind)| scenario.apply(&event(*kind, &at.to_string())))
    }
}

#[test]
fn the_usual_sequence_notifies_everybody_once() {
    let scenario = Scenario::of(&[E::Created, E::Paid, E::Accepted, E::Ready, E::PickedUp]);
    assert_eq!(
        scenario.notified,
        [
            (Store, NoticeKind::NewOrder),
            (Store, NoticeKind::OrderAccepted),
            (Customer, NoticeKind::PickupCode),
            (Customer, NoticeKind::Ready)
        ]
    );
    assert_eq!(scenario.superseded.len(), 4, "the notices of an ended order need no delivery");
}

/// Regression: an order system that gives all events of an order the order's number as id notified nobody: the payment was a duplicate.
#[test]
fn events_of_one_order_that_share_their_id_and_differ_in_type_are_two_events() {
    let scenario = Scenario::default().apply(&event(E::Created, "900123")).apply(&event(E::Paid, "900123"));
    assert_eq!(scenario.notified, [(Store, NoticeKind::NewOrder)]);
    let scenario = scenario.apply(&event(E::Paid, "900123"));
    assert_eq!(scenario.results[1..], [ApplyResult::Moved, ApplyResult::Duplicate]);
}

#[test]
fn events_of_two_sources_that_share_their_id_are_two_events() {
    let of_another = Event { source: "another".into(), ..event(E::Paid, "1") };
    let scenario = Scenario::default().apply(&event(E::Paid, "1")).apply(&of_another).apply(&of_another);
    assert_eq!(scenario.results, [ApplyResult::Moved, ApplyResult::Stale, ApplyResult::Duplicate]);
}

#[test]
fn an_acceptance_before_its_payment_notifies_the_store_once() {
    let scenario = Scenario::of(&[E::Accepted, E::Created, E::Paid]);
    assert_eq!(
        scenario.notified,
        [(Store, NoticeKind::NewOrder), (Store, NoticeKind::OrderAccepted), (Customer, NoticeKind::PickupCode)]
    );
    assert_eq!(scenario.results, [ApplyResult::Moved, ApplyResult::Stale, ApplyResult::Stale]);
}

#[test]
fn a_cancellation_supersedes_the_new_order() {
    let scenario = Scenario::of(&[E::Paid, E::Cancelled]);
    assert_eq!(
        scenario.notified,
        [(Store, NoticeKind::NewOrder), (Store, NoticeKind::Cancelled), (Customer, NoticeKind::Cancelled)]
    );
    assert_eq!(scenario.superseded.len(), 1);
}

#[test]
fn a_cancellation_before_the_creation_leaves_a_tombstone() {
    let scenario = Scenario::of(&[E::Cancelled, E::Created]);
    assert_eq!(
        scenario.notified,
        [(Customer, NoticeKind::Cancelled)],
        "a store that was not notified of an order is not notified of its end"
    );
    assert_eq!(scenario.results, [ApplyResult::Moved, ApplyResult::Stale]);
}

#[test]
fn a_store_hears_of_the_end_of_exactly_those_orders_that_were_announced_to_it() {
    for (end, kind) in [
        (E::Cancelled, NoticeKind::Cancelled),
        (E::Refunded, NoticeKind::Cancelled),
        (E::Refused, NoticeKind::OrderRefused),
    ] {
        let hears = |before: &[E]| Scenario::of(&[before, &[end]].concat()).notified.contains(&(Store, kind));
        assert!(!hears(&[]) && !hears(&[E::Created]), "{end:?} of an order that nobody paid");
        assert!(hears(&[E::Paid]) && hears(&[E::Created, E::Accepted]) && hears(&[E::Ready]), "{end:?}");
        // The store is named by the event that ends the order: it was never announced to it.
        let unknown_store = |kind| Event { store: None, ..event(kind, "1") };
        let late = Scenario::default().apply(&unknown_store(E::Paid)).apply(&event(end, "2"));
        assert!(!late.notified.iter().any(|(to, _)| *to == Store), "{end:?}: {:?}", late.notified);
        // Too old to ring for: it stands among the open orders under the id of its notice, and a till that shows it takes it off.
        let old = Event { at: NOW.plus_ms(-3 * 3_600_000), ..event(E::Paid, "1") };
        let shown = Scenario::default().apply(&old);
        assert!(shown.notified.is_empty());
        let order = shown.order.clone().unwrap();
        let id = order.notified_of(Store, NoticeKind::NewOrder).unwrap().to_owned();
        assert!(order.is_active_for(Store));
        let ended = shown.apply(&event(end, "2"));
        let draft = ended.drafts.iter().find(|draft| draft.recipient.role == Store).unwrap();
        assert!(draft.kind == kind && draft.body.get().contains(&id), "{end:?}: {}", draft.body.get());
    }
}

#[test]
fn a_payment_after_the_end_is_a_late_payment_once() {
    for end in [E::Cancelled, E::Refused, E::Expired] {
        let later = |id: &str| Event { at: NOW.plus_ms(1), ..event(E::Paid, id) };
        let scenario = Scenario::of(&[E::Created, end]).apply(&later("2")).apply(&later("3"));
        assert!(!scenario.notified.contains(&(Store, NoticeKind::NewOrder)), "{end:?}");
        assert_eq!(scenario.results[2..], [ApplyResult::LatePayment, ApplyResult::Stale]);
        assert_eq!(scenario.derived, [(E::LatePayment, NOW.plus_ms(1))], "published once");
    }
}

/// Regression: when a replay read the till's refusal before the payment, which is in another topic, a refund was requested.
#[test]
fn a_payment_from_before_the_end_is_not_late_in_any_reading_order() {
    for end in [E::Cancelled, E::Refused] {
        let before = Event { at: NOW.plus_ms(-60_000), ..event(E::Paid, "paid") };
        let scenario = Scenario::of(&[end]).apply(&before);
        assert_eq!((scenario.results[1], scenario.derived.len()), (ApplyResult::Stale, 0), "{end:?}");
    }
    let after_the_refund = Event { at: NOW.plus_ms(1), ..event(E::Paid, "paid") };
    assert_eq!(Scenario::of(&[E::Refunded]).apply(&after_the_refund).derived, [], "the payment was refunded already");
}

/// Regression: a payment that was made before the expiry of its order and read after it, from another topic, was dropped quietly.
#[test]
fn a_payment_that_is_read_after_the_expiry_is_late_whatever_its_time() {
    for after_ms in [-60_000, 0, 1] {
        let paid = |id: &str| Event { at: NOW.plus_ms(after_ms), ..event(E::Paid, id) };
        let scenario = Scenario::of(&[E::Created, E::Expired]).apply(&paid("paid")).apply(&paid("paid"));
        assert_eq!(scenario.results[2..], [ApplyResult::LatePayment, ApplyResult::Duplicate]);
        assert_eq!(scenario.unannounced, [Unannounced::LatePayment], "it is red");
        assert_eq!(scenario.derived, [(E::LatePayment, NOW.plus_ms(after_ms))]);
        assert!(!scenario.is_store_notified());
    }
}

fn from_device(kind: E, id: &str, device: &str) -> Event {
    Event { device: Some(Id::new(device).unwrap()), ..event(kind, id) }
}

#[test]
fn a_device_whose_event_came_too_late_is_notified_of_the_outcome() {
    let over = Scenario::of(&[E::Paid, E::Cancelled]);
    let scenario =
        over.apply(&from_device(E::Accepted, "late", "till-2")).apply(&from_device(E::Ready, "later", "till-3"));
    let rejected: Vec<_> = scenario.drafts.iter().filter(|draft| draft.kind == NoticeKind::EventRejected).collect();
    let bodies: Vec<&str> = rejected.iter().map(|draft| draft.body.get()).collect();
    assert_eq!(
        bodies,
        [
            r#"{"device":"till-2","reason":"cancelled","event":"late"}"#,
            r#"{"device":"till-3","reason":"cancelled","event":"later"}"#
        ]
    );
    assert_ne!(rejected[0].id, rejected[1].id, "two events make two notices");
    assert!(rejected.iter().all(|draft| draft.recipient.role == Store));
}

#[test]
fn two_devices_that_accept_at_once_get_one_order_accepted() {
    let scenario = Scenario::of(&[E::Paid]).apply(&from_device(E::Accepted, "a", "till-1"));
    let scenario = scenario.apply(&from_device(E::Accepted, "b", "till-2"));
    assert_eq!(
        scenario.notified,
        [(Store, NoticeKind::NewOrder), (Store, NoticeKind::OrderAccepted), (Customer, NoticeKind::PickupCode)]
    );
    assert!(scenario.drafts[1].body.get().contains("till-1"), "the first acceptance counts");
}

#[test]
fn an_event_that_repeats_the_outcome_is_not_rejected() {
    let scenario = Scenario::of(&[E::Paid, E::Refused]).apply(&from_device(E::Refused, "again", "till-2"));
    let scenario = scenario.apply(&event(E::Accepted, "of no device"));
    assert!(!scenario.notified.contains(&(Store, NoticeKind::EventRejected)));
    let scenario = Scenario::of(&[E::Paid, E::PickedUp]).apply(&from_device(E::Ready, "late", "till-2"));
    assert!(
        !scenario.notified.contains(&(Store, NoticeKind::EventRejected)),
        "an event of an earlier stage than the collection is stale, not rejected"
    );
    let scenario = scenario.apply(&from_device(E::Refused, "later", "till-2"));
    assert!(scenario.notified.contains(&(Store, NoticeKind::EventRejected)), "a collected order cannot be refused");
}

#[test]
fn a_paid_order_does_not_expire() {
    assert_eq!(Scenario::of(&[E::Paid, E::Expired]).results, [ApplyResult::Moved, ApplyResult::Stale]);
}

#[test]
fn a_notice_stays_pending_until_an_event_names_its_recipient() {
    let nobody = Event { store: None, customer: None, ..event(E::Paid, "1") };
    let scenario = Scenario::default().apply(&nobody);
    assert_eq!(scenario.notified, []);
    let scenario = scenario.apply(&Event { customer: None, ..event(E::Created, "2") });
    assert_eq!(scenario.notified, [(Store, NoticeKind::NewOrder)], "even a stale creation names it");
}

/// The bug: a downgrade lost the notices of kinds that it does not know, without a word.
#[test]
fn a_pending_notice_of_a_kind_of_a_later_version_is_given_up_and_counted() {
    let nobody = Event { store: None, customer: None, ..event(E::Paid, "1") };
    let order = Scenario::default().apply(&nobody).order;
    let stored = serde_json::to_string(&order).unwrap();
    let of_a_later_version = stored.replace("\"new_order\"", "\"order_delayed\"");
    assert_ne!(of_a_later_version, stored);
    let order: Order = serde_json::from_str(&of_a_later_version).unwrap();
    let (next, effects) = Order::apply(Some(&order), &event(E::Accepted, "2"), NOW, &policy()).unwrap();
    assert_eq!(effects.unknown_kinds, 1);
    let (_, effects) = Order::apply(next.as_ref(), &event(E::Ready, "3"), NOW, &policy()).unwrap();
    assert_eq!(effects.unknown_kinds, 0, "once");
}

#[test]
fn a_pickup_code_that_comes_later_is_sent_when_it_comes() {
    let scenario =
        Scenario::default().apply(&event(E::Paid, "1")).apply(&Event { pickup_code: None, ..event(E::Accepted, "2") });
    assert!(!scenario.notified.contains(&(Customer, NoticeKind::PickupCode)));
    let scenario = scenario.apply(&event(E::Accepted, "3"));
    assert_eq!(scenario.notified.last(), Some(&(Customer, NoticeKind::PickupCode)));
}

#[test]
fn old_events_change_the_state_and_notify_nobody() {
    let old = Event { at: NOW.plus_ms(-24 * 3_600_000), ..event(E::Paid, "1") };
    let scenario = Scenario::default().apply(&old);
    assert_eq!(scenario.notified, []);
    assert_eq!(scenario.order.unwrap().stage, OrderStage::Paid);
}

/// Ledgers hold these words. Clients read a word that they do not know as `unknown`; in a ledger such a word is damage.
#[test]
fn stored_stages_decode_and_encode_to_the_same_word() {
    let stored = |word: &str| serde_json::from_str::<Order>(&format!(r#"{{"stage":"{word}"}}"#));
    let stages = [
        ("unknown", OrderStage::Unknown),
        ("created", OrderStage::Created),
        ("paid", OrderStage::Paid),
        ("accepted", OrderStage::Accepted),
        ("ready", OrderStage::Ready),
        ("picked_up", OrderStage::PickedUp),
    ];
    for (word, stage) in stages {
        let order = stored(word).unwrap();
        assert_eq!((order.stage, &serde_json::to_value(&order).unwrap()["stage"]), (stage, &word.into()));
    }
    assert!(stages.is_sorted_by_key(|(_, stage)| *stage));
    assert_eq!(serde_json::from_str::<Order>("{}").unwrap().stage, OrderStage::Unknown);
    assert!(stored("delivered").is_err());
}

#[test]
fn an_event_older_than_the_state_retention_is_dropped() {
    let old = Event { at: NOW.plus_ms(-RETENTION - 1), ..event(E::Paid, "1") };
    let scenario = Scenario::default().apply(&old);
    assert!(scenario.order.is_none());
    assert_eq!(scenario.results, [ApplyResult::Forgotten]);
}

#[test]
fn versions_are_compared_within_one_source_only() {
    let versioned = |kind, id: &str, source: &str, version| Event {
        source: source.into(),
        version: Some(version),
        ..event(kind, id)
    };
    let scenario = Scenario::default()
        .apply(&versioned(E::Paid, "1", "shop", 5))
        .apply(&versioned(E::Cancelled, "2", "shop", 4))
        .apply(&versioned(E::Accepted, "3", "till", 1));
    assert_eq!(scenario.results, [ApplyResult::Moved, ApplyResult::Stale, ApplyResult::Moved]);
}

/// Regression: a producer that numbers its schema in `version` has 1 in every event, and no store was notified of a cancellation.
#[test]
fn only_a_strictly_older_version_is_stale() {
    let versioned = |kind, id: &str| Event { version: Some(1), ..event(kind, id) };
    let scenario = Scenario::default().apply(&versioned(E::Paid, "1")).apply(&versioned(E::Cancelled, "2"));
    assert_eq!(scenario.results, [ApplyResult::Moved, ApplyResult::Moved]);
    assert!(scenario.notified.contains(&(Store, NoticeKind::Cancelled)));
}

fn with_store(kind: E, id: &str, store: &str) -> Event {
    Event { store: Some(Id::new(store).unwrap()), ..event(kind, id) }
}

fn with_customer(kind: E, id: &str, customer: &str) -> Event {
    Event { customer: Some(Id::new(customer).unwrap()), ..event(kind, id) }
}

fn rejected(order: Option<&Order>, event: &Event) -> Option<&'static str> {
    Order::apply(order, event, NOW, &policy()).err().map(|reason| reason.code)
}

#[test]
fn another_store_is_rejected_once_the_first_one_was_notified() {
    let paid = Scenario::of(&[E::Paid]).order;
    assert_eq!(rejected(paid.as_ref(), &with_store(E::Accepted, "9", "s2")), Some("store-mismatch"));
}

/// Regression: the store to which an order was handed over before it was paid was not notified.
#[test]
fn an_order_may_be_handed_over_until_its_store_was_notified() {
    let scenario = Scenario::of(&[E::Created]).apply(&with_store(E::Paid, "9", "s2"));
    assert_eq!(scenario.drafts.iter().map(|draft| draft.recipient.to_string()).collect::<Vec<_>>(), ["store:s2"]);
    let scenario = scenario.apply(&event(E::Created, "0"));
    assert_eq!(scenario.results.last(), Some(&ApplyResult::Duplicate), "a replay is no mismatch");
    // A till speaks for no other store.
    let created = Scenario::of(&[E::Created]).order;
    let till = Event { device: Some(Id::new("till").unwrap()), ..with_store(E::Accepted, "9", "s2") };
    assert_eq!(rejected(created.as_ref(), &till), Some("store-mismatch"));
    // An event from before does not give it back.
    let before = Event { at: NOW.plus_ms(-1), ..with_store(E::Created, "8", "s2") };
    let scenario = Scenario::of(&[E::Created]).apply(&before).apply(&Event { store: None, ..event(E::Paid, "9") });
    assert_eq!(scenario.drafts[0].recipient.to_string(), "store:s1");
}

/// Regression: a creation from a clock that is ahead kept the order at a store to which it did not belong any more when it was paid.
#[test]
fn the_event_that_notifies_the_store_decides_which_store_that_is() {
    let ahead = Event { at: NOW.plus_ms(600_000), ..event(E::Created, "1") };
    let scenario = Scenario::default().apply(&ahead).apply(&with_store(E::Paid, "9", "s2"));
    assert_eq!(scenario.drafts.iter().map(|draft| draft.recipient.to_string()).collect::<Vec<_>>(), ["store:s2"]);
}

/// Regression: a customer who was a guest at first and a member when paying kept the store from being notified.
#[test]
fn another_customer_costs_its_field_and_never_the_stores_notice() {
    let scenario = Scenario::of(&[E::Created]).apply(&with_customer(E::Paid, "9", "member-9"));
    assert_eq!(scenario.notified, [(Store, NoticeKind::NewOrder)]);
    assert_eq!(scenario.drafts[0].body.get(), r#"{"amount":1250,"flags":["customer"]}"#);
    let order = scenario.order.unwrap();
    assert_eq!(order.customer().unwrap().as_str(), "c1", "the first customer keeps the order");
    let (_, effects) = Order::apply(Some(&order), &with_customer(E::Ready, "10", "c2"), NOW, &policy()).unwrap();
    assert!(effects.is_other_customer, "for the security log");
}

#[test]
fn a_phone_speaks_for_no_other_customer() {
    let accepted = Scenario::of(&[E::Paid, E::Accepted]).order;
    let phone = Event { store: None, device: Some(Id::new("phone").unwrap()), ..with_customer(E::PickedUp, "9", "c2") };
    assert_eq!(rejected(accepted.as_ref(), &phone), Some("customer-mismatch"));
}

/// Regression: after a repeated creation with a newer version, the payment did not notify the store.
#[test]
fn an_outdated_payment_still_notifies_the_store() {
    let versioned = |kind, version| Event { version: Some(version), ..event(kind, &format!("{version}")) };
    let scenario = Scenario::default().apply(&versioned(E::Created, 3)).apply(&versioned(E::Paid, 2));
    assert_eq!(scenario.notified, [(Store, NoticeKind::NewOrder)]);
    let scenario = Scenario::default().apply(&versioned(E::Ready, 4)).apply(&versioned(E::Accepted, 3));
    assert!(scenario.notified.contains(&(Customer, NoticeKind::PickupCode)), "{:?}", scenario.notified);
}

#[test]
fn a_store_learns_nothing_of_a_customers_device() {
    let phone = Event { store: None, device: Some(Id::new("phone-9").unwrap()), ..event(E::PickedUp, "2") };
    let order = Scenario::of(&[E::Paid, E::Accepted]).apply(&phone).order.unwrap();
    assert!(!serde_json::to_string(&order).unwrap().contains("phone-9"));
}

#[test]
fn a_store_does_not_see_the_customer_and_a_customer_no_amount() {
    let order = Scenario::of(&[E::Paid, E::Accepted]).order.unwrap();
    let store = body(&order, Store, NoticeKind::NewOrder, &VisibleFields::default());
    assert!(!store.get().contains("c1") && store.get().contains("1250"));
    let customer = body(&order, Customer, NoticeKind::PickupCode, &VisibleFields::default());
    assert!(customer.get().contains("A17") && !customer.get().contains("1250"));
}

/// Regression: the customer of an order that was ready before it was accepted got no pickup code.
#[test]
fn an_acceptance_after_ready_still_sends_the_pickup_code() {
    let scenario = Scenario::of(&[E::Paid, E::Ready, E::Accepted, E::Accepted]);
    let wanted = [
        (Store, NoticeKind::NewOrder),
        (Customer, NoticeKind::Ready),
        (Store, NoticeKind::OrderAccepted),
        (Customer, NoticeKind::PickupCode),
    ];
    assert_eq!(scenario.notified, wanted);
    assert_eq!(
        Scenario::of(&[E::Paid, E::PickedUp, E::Accepted]).notified,
        [(Store, NoticeKind::NewOrder)],
        "a collected order needs no pickup code"
    );
}

#[test]
fn an_event_of_the_stage_that_is_reached_is_stale() {
    let scenario = Scenario::of(&[E::Paid, E::Accepted, E::Accepted]);
    assert_eq!(scenario.results, [ApplyResult::Moved, ApplyResult::Moved, ApplyResult::Stale]);
    assert_eq!(scenario.order.unwrap().history().len(), 2, "it is not in the history again");
}

/// Regression: a till that accepted too late set the pickup code of a cancelled order.
#[test]
fn an_acceptance_after_the_end_gives_no_pickup_code() {
    let order = Scenario::of(&[E::Paid, E::Cancelled, E::Accepted]).order.unwrap();
    assert_eq!((order.pickup_code, order.device), (None, None));
}

#[test]
fn the_fields_of_each_kind_of_notice_are_configurable() {
    let visible: VisibleFields = serde_json::from_value(serde_json::json!({
        "new_order": ["details.items", "flags"], "pickup_code": ["pickup_code", "amount"]
    }))
    .unwrap();
    let mut order = Scenario::of(&[E::Paid, E::Accepted]).order.unwrap();
    order.details = serde_json::from_str(r#"{"items":[1],"note":"ring twice"}"#).unwrap();
    let body = |to, kind| body(&order, to, kind, &visible).get().to_owned();
    assert_eq!(body(Store, NoticeKind::NewOrder), r#"{"details":{"items":[1]}}"#);
    assert_eq!(body(Customer, NoticeKind::PickupCode), r#"{"amount":1250,"pickup_code":"A17"}"#);
    let fields = notices::fields_for(&order, Store, &visible).unwrap().get().to_owned();
    assert_eq!(fields, r#"{"pickup_code":"A17","details":{"items":[1]}}"#, "hidden fields are hidden here as well");
    assert!(serde_json::from_value::<VisibleFields>(serde_json::json!({"ready": ["phone"]})).is_err());
}

/// Regression: a till that is shown single details got other numbers than those that the producer wrote.
#[test]
fn the_details_that_a_notice_names_are_those_that_the_producer_wrote() {
    let visible: VisibleFields =
        serde_json::from_value(serde_json::json!({"new_order": ["details.price", "details.serial", "details.items"]}))
            .unwrap();
    let mut order = Scenario::of(&[E::Paid]).order.unwrap();
    order.details = RawValue::from_string(
        r#"{"items":[{"each":0.10}],"note":"no","price":12.50,"serial":12345678901234567890123}"#.into(),
    )
    .ok();
    assert_eq!(
        body(&order, Store, NoticeKind::NewOrder, &visible).get(),
        r#"{"details":{"items":[{"each":0.10}],"price":12.50,"serial":12345678901234567890123}}"#
    );
}

#[test]
fn every_event_type_has_one_transition() {
    for kind in EventType::ALL {
        assert_eq!(TRANSITIONS.iter().filter(|rule| rule.on == kind).count(), 1, "{}", kind.name());
    }
}

#[test]
fn every_transition_that_notifies_makes_its_notices() {
    for transition in TRANSITIONS.iter().filter(|transition| !transition.notifies.is_empty()) {
        let before: &[E] = if transition.on == E::Paid { &[] } else { &[E::Paid] };
        let scenario = Scenario::of(before).apply(&event(transition.on, "x"));
        let missing: Vec<_> = transition.notifies.iter().filter(|notice| !scenario.notified.contains(notice)).collect();
        assert!(missing.is_empty(), "{:?} does not notify {missing:?}", transition.on);
    }
}

#[test]
fn every_kind_of_notice_about_an_order_is_made_by_some_transition() {
    for row in NOTICE_KINDS.iter().filter(|row| row.content == Content::Order) {
        for audience in row.audiences {
            let notice = (audience.role, row.kind);
            let is_made = TRANSITIONS.iter().any(|transition| transition.notifies.contains(&notice));
            assert!(is_made, "no row of TRANSITIONS notifies {notice:?}");
        }
    }
}

/// Regression: a transition without effect on the stage notified nobody, whatever its row named.
#[test]
fn a_transition_without_effect_notifies_too() {
    let mut order = Order::default();
    let fact = Transition { on: E::Unattended, effect: Effect::None, notifies: &[(Store, NoticeKind::NewOrder)] };
    let event = event(E::Unattended, "1");
    order.fill(&event);
    assert_eq!(order.follow(&fact, &event), ApplyResult::Noted);
    let mut effects = Effects {
        result: ApplyResult::Noted,
        notices: Vec::new(),
        superseded: Vec::new(),
        expired: 0,
        derived: Vec::new(),
        is_new_order_expired: false,
        unknown_kinds: 0,
        is_history: false,
        further_payment: None,
        is_other_customer: false,
    };
    order.flush_pending(&event, NOW, &VisibleFields::default(), &mut effects).unwrap();
    assert_eq!(effects.notices.len(), 1);
}

#[test]
fn rejections_of_one_order_are_remembered_up_to_a_bound() {
    let over = Scenario::of(&[E::Paid, E::Cancelled]);
    let scenario =
        (0..40).fold(over, |scenario, at| scenario.apply(&from_device(E::Accepted, &format!("late{at}"), "till")));
    let rejected: Vec<_> = scenario.drafts.iter().filter(|draft| draft.kind == NoticeKind::EventRejected).collect();
    let order = scenario.order.as_ref().unwrap();
    assert_eq!((rejected.len(), order.notified.len()), (40, 3 + 16));
    let is_known = |id: &str| order.notified.iter().any(|one| one.id == id);
    assert!(is_known(&rejected[39].id));
    assert!(!is_known(&rejected[0].id));
}

#[test]
fn the_keys_of_notice_fields_are_those_of_the_table() {
    let parse = |text: &str| toml::from_str::<VisibleFields>(text);
    assert_eq!(parse("").unwrap(), VisibleFields::default());
    let error = parse("event_rejected = ['store']").unwrap_err().to_string();
    assert!(error.contains("unknown field `event_rejected`, expected one of `new_order`"), "{error}");
    assert!(parse("ready = ['phone']").is_err());
    let schema = serde_json::to_value(schemars::schema_for!(VisibleFields)).unwrap();
    assert_eq!(schema["properties"]["order_refused_to_store"]["default"], serde_json::json!(["reason"]));
    let keys: Vec<&str> = audiences().filter_map(|(_, audience)| audience.config_key).collect();
    let properties = schema["properties"].as_object().unwrap();
    assert!(keys.len() == properties.len() && keys.iter().all(|key| properties.contains_key(*key)), "{properties:?}");
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn a_state_reads_back_from_its_json() {
    let order = Scenario::of(&[E::Paid, E::Accepted]).order.unwrap();
    let text = serde_json::to_string(&order).unwrap();
    let back: Order = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&back).unwrap(), text);
}

fn any_event_type() -> impl Strategy<Value = E> {
    proptest::sample::select(vec![
        E::Created,
        E::Paid,
        E::Accepted,
        E::Refused,
        E::Ready,
        E::PickedUp,
        E::Cancelled,
        E::Refunded,
        E::Expired,
    ])
}

proptest! {
    /// A naive model walks through the stages and remembers whether the store has to be notified. In no order of events is the store notified
    /// twice, or of an order that was over before it was paid, and no stage is left backwards.
    #[test]
    fn in_any_order_of_events_the_store_is_notified_once_and_no_stage_is_left(kinds in proptest::collection::vec(any_event_type(), 1..12)) {
        let mut scenario = Scenario::default();
        let (mut stage, mut over, mut due) = (OrderStage::Unknown, false, false);
        for (at, kind) in kinds.iter().enumerate() {
            scenario = scenario.apply(&event(*kind, &at.to_string()));
            let reached = match kind {
                E::Created => Some(OrderStage::Created), E::Paid => Some(OrderStage::Paid), E::Accepted => Some(OrderStage::Accepted),
                E::Ready => Some(OrderStage::Ready), E::PickedUp => Some(OrderStage::PickedUp), _ => None,
            };
            if !over {
                match reached {
                    Some(next) => stage = stage.max(next),
                    None if *kind == E::Expired => over = stage <= OrderStage::Created,
                    None => over = true,
                }
                over |= stage == OrderStage::PickedUp;
                due |= stage >= OrderStage::Paid && !over;
            }
            let order = scenario.order.as_ref().unwrap();
            prop_assert_eq!((order.stage, order.is_over()), (stage, over));
            let new_orders = scenario.notified.iter().filter(|notice| **notice == (Store, NoticeKind::NewOrder)).count();
            prop_assert_eq!(new_orders, usize::from(due));
        }
        for notice in &scenario.notified {
            prop_assert_eq!(scenario.notified.iter().filter(|other| *other == notice).count(), 1, "{:?} twice", notice);
        }
    }

    /// Events of different types are as different when they share an id as when each has its own.
    #[test]
    fn an_id_that_all_events_share_makes_no_difference(kinds in proptest::sample::subsequence(E::ALL.to_vec(), 1..=E::ALL.len()).prop_shuffle()) {
        let shared = kinds.iter().fold(Scenario::default(), |scenario, kind| scenario.apply(&event(*kind, "900123")));
        let own = Scenario::of(&kinds);
        prop_assert_eq!((shared.notified, shared.results), (own.notified, own.results));
    }

    /// Replaying any part of the log changes nothing and notifies nobody again.
    #[test]
    fn a_replay_of_any_part_has_no_effects(kinds in proptest::collection::vec(any_event_type(), 1..12), from in 0usize..12) {
        let scenario = Scenario::of(&kinds);
        let before = (scenario.notified.clone(), serde_json::to_string(&scenario.order).unwrap());
        let replay = kinds.iter().enumerate().skip(from).fold(scenario, |scenario, (at, kind)| scenario.apply(&event(*kind, &at.to_string())));
        prop_assert_eq!((replay.notified, serde_json::to_string(&replay.order).unwrap()), before);
    }
}

/// Regression: event ids were cut at 200 characters.
#[test]
fn event_ids_are_compared_whole() {
    let long = "x".repeat(200);
    let [a, b] = ["a", "b"].map(|end| event(E::Accepted, &format!("{long}{end}")));
    assert_ne!(event_hash(&a), event_hash(&b));
}
