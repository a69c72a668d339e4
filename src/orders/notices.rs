//! Makes notices: derived ids, and bodies that show only the configured fields.
//!
//! [`VisibleFields`] is an allow-list: a field that is not named there reaches nobody. A store never sees the customer's id; by default a
//! customer sees of an order only its store, its pickup code and the reason of a refusal or cancellation.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use orderbell_consumers::Reason;
use orderbell_protocol::event::{Flag, MinorUnits, PickupCode};
use orderbell_protocol::frame::EventRejectedBody;
use orderbell_protocol::{Id, NoticeKind, Recipient, Role, UnixMs};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::notice_kinds::{Content, NoticeRow, audiences};
use super::order::{Occurrence, Order};

/// A notice to append to a mailbox.
#[derive(Debug)]
pub struct NoticeDraft {
    /// Derived from (order, kind, recipient, occurrence).
    pub id: String,
    /// What the notice is about.
    pub kind: NoticeKind,
    /// The owner of the mailbox.
    pub recipient: Recipient,
    /// Event time of its cause.
    pub at: UnixMs,
    /// From this time on it is not delivered.
    pub expires_at: UnixMs,
    /// JSON object of the fields that the recipient may see.
    pub body: Box<RawValue>,
}

/// The id of a notice, derived from order, kind and recipient: another path to the same fact makes the same id. SHA-256, because the ids that
/// go in come from outside, and two notices with one id would be one notice.
#[must_use]
pub fn id(shadow: bool, order: &Id, kind: NoticeKind, recipient: &Recipient) -> String {
    id_of(shadow, order, kind, recipient, "")
}

/// The id of a notice whose kind may occur several times per order: `occurrence` distinguishes them.
#[must_use]
pub fn id_of(shadow: bool, order: &Id, kind: NoticeKind, recipient: &Recipient, occurrence: &str) -> String {
    use aws_lc_rs::digest;
    let text = format!("{}\0{order}\0{}\0{recipient}\0{occurrence}", u8::from(shadow), kind.word());
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default, Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<&'a Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<MinorUnits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pickup_code: Option<&'a PickupCode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancels: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Cow<'a, RawValue>>,
    #[serde(skip_serializing_if = "<[Flag]>::is_empty")]
    flags: &'a [Flag],
}

/// A field that a notice may show: a member of its body.
#[derive(schemars::JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum NoticeField {
    /// `store`: the store's id.
    Store,
    /// `amount`: the order's amount in the currency's smallest unit.
    Amount,
    /// `currency`: ISO 4217 code of the amount's currency.
    Currency,
    /// `pickup_code`: the code with which the order is collected.
    PickupCode,
    /// `device`: the store's device that accepted the order.
    Device,
    /// `reason`: the reason of a refusal or cancellation.
    Reason,
    /// `flags`: what was missing or invalid in the order's events.
    Flags,
    /// `details`: all extra fields that the mapping keeps.
    Details,
    /// `details.NAME`: one extra field.
    Detail(String),
}

impl NoticeField {
    /// The name in the configuration.
    #[must_use]
    pub fn name(&self) -> Cow<'static, str> {
        match self {
            Self::Store => "store".into(),
            Self::Amount => "amount".into(),
            Self::Currency => "currency".into(),
            Self::PickupCode => "pickup_code".into(),
            Self::Device => "device".into(),
            Self::Reason => "reason".into(),
            Self::Flags => "flags".into(),
            Self::Details => "details".into(),
            Self::Detail(member) => format!("details.{member}").into(),
        }
    }
}

impl TryFrom<String> for NoticeField {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        Ok(match name.as_str() {
            "store" => Self::Store,
            "amount" => Self::Amount,
            "currency" => Self::Currency,
            "pickup_code" => Self::PickupCode,
            "device" => Self::Device,
            "reason" => Self::Reason,
            "flags" => Self::Flags,
            "details" => Self::Details,
            other => match other.strip_prefix("details.") {
                Some(member) if !member.is_empty() => Self::Detail(member.into()),
                _ => {
                    return Err(format!(
                        "{name} is not one of store, amount, currency, pickup_code, device, reason, flags, details, details.NAME"
                    ));
                }
            },
        })
    }
}

impl From<NoticeField> for String {
    fn from(field: NoticeField) -> Self {
        field.name().into_owned()
    }
}

/// The fields of an order that each kind of notice shows: `[notice_fields]`, whose keys and defaults are those of
/// [`NOTICE_KINDS`](super::notice_kinds::NOTICE_KINDS). An allow-list: a field that is not named reaches nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisibleFields(BTreeMap<(NoticeKind, Role), Vec<NoticeField>>);

/// The configurable audiences: key, what it is about, default.
fn configurable() -> impl Iterator<Item = (&'static str, (NoticeKind, Role), &'static [NoticeField])> {
    audiences().filter_map(|(kind, one)| Some((one.config_key?, (kind, one.role), one.default_fields)))
}

impl Default for VisibleFields {
    fn default() -> Self {
        Self(configurable().map(|(_, about, fields)| (about, fields.to_vec())).collect())
    }
}

/// Written as one word, such as `cancelled_to_store`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct FieldsKey(NoticeKind, Role);

impl<'de> Deserialize<'de> for FieldsKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        static KEYS: LazyLock<Vec<&'static str>> = LazyLock::new(|| configurable().map(|(key, ..)| key).collect());
        let name = String::deserialize(from)?;
        let known = configurable().find(|(key, ..)| *key == name);
        let unknown = || serde::de::Error::unknown_field(&name, &KEYS);
        known.map(|(_, (kind, role), _)| Self(kind, role)).ok_or_else(unknown)
    }
}

impl<'de> Deserialize<'de> for VisibleFields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let given = BTreeMap::<FieldsKey, Vec<NoticeField>>::deserialize(from)?;
        let mut fields = Self::default();
        fields.0.extend(given.into_iter().map(|(FieldsKey(kind, role), given)| ((kind, role), given)));
        Ok(fields)
    }
}

impl Serialize for VisibleFields {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let names = |about| self.0.get(&about).into_iter().flatten().map(NoticeField::name).collect::<Vec<_>>();
        to.collect_map(configurable().map(|(key, about, _)| (key, names(about))))
    }
}

impl schemars::JsonSchema for VisibleFields {
    fn schema_name() -> Cow<'static, str> {
        "VisibleFields".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let list = generator.subschema_for::<Vec<NoticeField>>();
        let property = |(key, (kind, role), fields): (&str, (NoticeKind, Role), &[NoticeField])| {
            let mut property = list.clone();
            let names: Vec<_> = fields.iter().map(|field| field.name()).collect();
            property.insert(
                "description".into(),
                format!("Fields of `{}` notices to the {}.", kind.word(), role.word()).into(),
            );
            property.insert("default".into(), json!(names));
            (key.to_owned(), property.to_value())
        };
        let properties: Map<String, Value> = configurable().map(property).collect();
        schemars::json_schema!({
            "description": "The fields of an order that each kind of notice shows. A field that is not named reaches nobody.",
            "type": "object", "properties": properties, "additionalProperties": false,
        })
    }
}

impl VisibleFields {
    /// The fields of the order that this kind of notice shows to this role.
    fn of(&self, kind: NoticeKind, to: Role) -> &[NoticeField] {
        self.0.get(&(kind, to)).map_or(&[], Vec::as_slice)
    }

    /// The fields that a role may see of an order: those of all its notices together.
    fn all_of(&self, role: Role) -> Vec<NoticeField> {
        self.0.iter().filter(|((_, to), _)| *to == role).flat_map(|(_, fields)| fields.clone()).collect()
    }
}

fn visible_body<'a>(order: &'a Order, fields: &[NoticeField]) -> Body<'a> {
    let shows = |field: NoticeField| fields.contains(&field);
    Body {
        store: order.store.as_ref().filter(|_| shows(NoticeField::Store)),
        amount: order.amount.filter(|_| shows(NoticeField::Amount)),
        currency: order.currency.as_deref().filter(|_| shows(NoticeField::Currency)),
        pickup_code: order.pickup_code.as_ref().filter(|_| shows(NoticeField::PickupCode)),
        device: order.device.as_ref().filter(|_| shows(NoticeField::Device)),
        reason: order.reason.as_deref().filter(|_| shows(NoticeField::Reason)),
        details: details(order, fields),
        flags: if shows(NoticeField::Flags) { &order.flags } else { &[] },
        ..Body::default()
    }
}

fn details<'a>(order: &'a Order, fields: &[NoticeField]) -> Option<Cow<'a, RawValue>> {
    let all = order.details.as_deref()?;
    if fields.contains(&NoticeField::Details) {
        return Some(Cow::Borrowed(all));
    }
    // As the producer wrote them: a number that is decoded loses zeros and digits.
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(all.get()).ok()?;
    let shows = |name: &str| fields.iter().any(|field| matches!(field, NoticeField::Detail(known) if known == name));
    let kept: BTreeMap<String, &RawValue> = members.into_iter().filter(|(name, _)| shows(name)).collect();
    if kept.is_empty() {
        return None;
    }
    serde_json::value::to_raw_value(&kept).ok().map(Cow::Owned)
}

/// The body of a notice of this row to this role.
///
/// # Errors
/// The JSON library cannot encode it.
pub(super) fn body(
    order: &Order,
    row: &NoticeRow,
    to: Role,
    occurrence: Option<&Occurrence>,
    visible: &VisibleFields,
) -> Result<Box<RawValue>, serde_json::Error> {
    let retracted = row.audience(to).and_then(|audience| audience.retracts);
    match row.content {
        Content::Order => serde_json::value::to_raw_value(&Body {
            cancels: retracted.and_then(|kind| order.notified_of(to, kind)),
            ..visible_body(order, visible.of(row.kind, to))
        }),
        Content::Rejection => serde_json::value::to_raw_value(&EventRejectedBody {
            device: occurrence.and_then(|occurrence| occurrence.device.as_ref()).map(Id::to_string),
            reason: order.ended_as(),
            event: occurrence.map(|occurrence| occurrence.event.clone()),
        }),
    }
}

/// A notice could not be encoded: its event is rejected, and the order stays as it was.
#[must_use]
pub(super) fn not_encodable(error: &serde_json::Error) -> Reason {
    Reason {
        code: "not-encodable",
        message: format!("a notice of the order cannot be encoded ({:?})", error.classify()),
    }
}

/// JSON object of all fields that a role may see of an order.
///
/// # Errors
/// The JSON library cannot encode it.
pub fn fields_for(order: &Order, role: Role, visible: &VisibleFields) -> Result<Box<RawValue>, serde_json::Error> {
    serde_json::value::to_raw_value(&visible_body(order, &visible.all_of(role)))
}
