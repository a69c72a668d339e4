//! What a record says, read in the plainest way: as a value, by the documentation of its envelope, and only where it can mean one thing. So that a
//! payment which the product does not see is found.

use orderbell_consumers::Record;
use orderbell_orders::envelopes::MAX_EVENTS_PER_RECORD;
use orderbell_orders::json_text::MAX_DEPTH;
use serde_json::Value;

/// Longest value of one event, and of several.
const MAX_BYTES: usize = 64 * 1024;
const MAX_SEVERAL_BYTES: usize = 1024 * 1024;
/// The data of an event without any.
const NO_DATA: &Value = &Value::Null;
/// Longest id of an order.
const MAX_ORDER_BYTES: usize = 128;

/// The plain reading of one target's records.
pub(crate) struct Oracle(String);

impl Oracle {
    pub(crate) fn of(target: &str) -> Self {
        Self(target.to_owned())
    }

    /// The number of distinct items of an array of objects; `None` where it is no such thing, or where that is not certain.
    pub(crate) fn items(&self, record: &Record) -> Option<usize> {
        let value = record.value.as_deref().filter(|value| value.len() <= MAX_SEVERAL_BYTES)?;
        let text =
            std::str::from_utf8(value).ok().filter(|text| !text.contains("isDdl") && depth(text) <= MAX_DEPTH)?;
        // Headers that change how a record is read, and such as are copied into each part.
        let is_certain = self.0 != "none" && record.headers.iter().all(|(name, _)| !has_meaning(name));
        let items: Vec<&serde_json::value::RawValue> = serde_json::from_str(text).ok().filter(|_| is_certain)?;
        let mut distinct: Vec<&str> = items.iter().map(|item| item.get()).collect();
        let is_one = !(1..=MAX_EVENTS_PER_RECORD).contains(&distinct.len())
            || distinct.iter().any(|item| !item.starts_with('{'));
        distinct.sort_unstable();
        distinct.dedup();
        (!is_one).then_some(distinct.len())
    }

    /// The order of the record's one event, if it is certainly a payment: `Some(None)` where the order is not as certain.
    pub(crate) fn payment(&self, record: &Record) -> Option<Option<String>> {
        let value = record.value.as_deref().unwrap_or_default();
        let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= MAX_BYTES && depth(text) <= MAX_DEPTH);
        let json: Value = text.and_then(|text| serde_json::from_str(text).ok())?;
        let is_in_headers = matches!(self.0.as_str(), "cloudevents-binary" | "masstransit-raw" | "spring");
        let data = if is_in_headers {
            let is_enveloped = json.get("messageType").is_some() && json.get("message").is_some();
            Some(&json).filter(|json| json.is_object() && !is_enveloped && self.headers_name_payment(record))
        } else {
            let is_certain = record.headers.iter().all(|(name, _)| !has_meaning(name));
            self.data_of_payment(&json).filter(|_| is_certain)
        };
        let order = data?.get(self.order_member()).and_then(Value::as_str);
        let is_id =
            |text: &&str| text.contains('-') && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        Some(order.filter(|text| is_id(text) && text.len() <= MAX_ORDER_BYTES).map(str::to_owned))
    }

    /// The member of the data that is the order's id in the samples.
    fn order_member(&self) -> &'static str {
        match self.0.as_str() {
            "array" => "order_id",
            "debezium" | "debezium-flat" | "maxwell" | "canal" => "order_no",
            "masstransit" | "masstransit-raw" => "orderId",
            "spring" => "orderNumber",
            _ => "order",
        }
    }

    fn headers_name_payment(&self, record: &Record) -> bool {
        let header = |name: &str| record.headers.iter().rev().find(|(known, _)| known == name)?.1.as_deref();
        let count = |name: &str| record.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).count();
        // Another header of that meaning may come before.
        let has_one_of_each =
            ["ce_specversion", "ce_type", "__TypeId__", "MT-MessageType"].iter().all(|name| count(name) <= 1);
        if !has_one_of_each || count("content-type") > 0 {
            return false;
        }
        let other_types = ["eventtype", "event-type", "event_type", "type", "ce_specversion"];
        match self.0.as_str() {
            "spring" => {
                other_types.iter().all(|name| count(name) == 0)
                    && header("__TypeId__") == Some(b"com.shop.events.OrderPaid")
            }
            "masstransit-raw" => {
                let types = b"urn:message:Shop.Contracts:OrderPaid;urn:message:Shop.Contracts:IOrderEvent";
                count("ce_specversion") == 0 && header("MT-MessageType") == Some(types)
            }
            _ => header("ce_specversion") == Some(b"1.0") && header("ce_type") == Some(b"order.paid"),
        }
    }

    fn data_of_payment<'j>(&self, json: &'j Value) -> Option<&'j Value> {
        let is = |value: Option<&Value>, text: &str| value.and_then(Value::as_str) == Some(text);
        let one_of = |value: Option<&Value>, texts: &[&str]| texts.iter().any(|text| is(value, text));
        match self.0.as_str() {
            "plain" | "array" | "schema-registry" => {
                Some(json).filter(|json| json.get("specversion").is_none() && is(json.get("type"), "order.paid"))
            }
            "cloudevents" => {
                let is_paid = is(json.get("specversion"), "1.0") && is(json.get("type"), "com.shop.order.paid.v1");
                is_paid.then(|| json.get("data").unwrap_or(NO_DATA))
            }
            "debezium" => {
                let change = if json.get("op").is_none() { json.get("payload").unwrap_or(json) } else { json };
                let row = change.get("after").filter(|row| row.get("status").and_then(Value::as_u64) == Some(2));
                row.filter(|_| one_of(change.get("op"), &["c", "u"]))
            }
            "debezium-flat" => {
                let is_false = |name: &&str| json.get(name).is_none() || is(json.get(name), "false");
                let is_flat = ["payload", "__deleted"].iter().all(is_false) && json.get("op").is_none();
                Some(json)
                    .filter(|_| is_flat && one_of(json.get("__op"), &["c", "u"]) && is(json.get("status"), "PAID"))
            }
            "maxwell" => {
                let row = json.get("data").filter(|row| is(row.get("status"), "paid"));
                row.filter(|_| one_of(json.get("type"), &["insert", "update"]))
            }
            "canal" => {
                let rows = json.get("data").and_then(Value::as_array).filter(|rows| rows.len() == 1)?;
                let is_change =
                    json.get("isDdl").is_some_and(Value::is_boolean) && one_of(json.get("type"), &["INSERT", "UPDATE"]);
                rows.first().filter(|row| is_change && is(row.get("status"), "2"))
            }
            "masstransit" => {
                let types = json.get("messageType").and_then(Value::as_array)?;
                let is_paid = is(types.first(), "urn:message:Shop.Contracts:OrderPaid");
                json.get("message").filter(|data| is_paid && types.iter().all(Value::is_string) && data.is_object())
            }
            _ => None,
        }
    }
}

/// How deep the text is nested at most: brackets in strings count, too.
fn depth(text: &str) -> usize {
    let deeper = |(now, most): (usize, usize), c: char| match c {
        '[' | '{' => (now + 1, most.max(now + 1)),
        ']' | '}' => (now.saturating_sub(1), most),
        _ => (now, most),
    };
    text.chars().fold((0, 0), deeper).1
}

/// A header by which a record may be read in another way.
fn has_meaning(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("ce") || name.starts_with("cloudevents") || name == "content-type" || name.starts_with("kafka_dlt")
}
