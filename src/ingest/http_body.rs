//! The forms in which a request carries events, by its media type and headers.

use std::borrow::Cow;

use orderbell_protocol::{Problem, ProblemCode, id_text};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use orderbell_orders::envelopes::EnvelopeName;
use orderbell_orders::form;
use orderbell_orders::json_text::{self, JsonText};
use orderbell_orders::mapping::{PLAIN, STRUCTURED, attribute_of_header};

/// What the headers of a CloudEvent in binary mode begin with, in any case.
const ATTRIBUTE_PREFIX: &str = "ce-";
const BATCH: &str = "application/cloudevents-batch+json";
/// What lines of JSON are called; none of the names is registered.
const LINES: [&str; 5] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/json-lines",
    "application/x-jsonlines",
];

/// How a body carries its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// JSON: one event, or an array.
    Json,
    /// CloudEvents with their attributes: one, or an array.
    Structured,
    /// The data of one CloudEvent, whose attributes are headers.
    Binary,
    /// An event on each line.
    Lines,
    /// The fields of a form: one event.
    Fields,
}

impl Form {
    /// The form of a body by its media type; `envelope` is that of the mapping, without which a form is a mistake, such as that of a `curl -d`.
    pub(super) fn of(media: &str, headers: &[(String, String)], envelope: EnvelopeName) -> Result<Self, Problem> {
        let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_binary = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("ce-specversion"));
        let is_json = matches!(media.as_str(), PLAIN | "" | "text/json") || media.ends_with("+json");
        match media.as_str() {
            STRUCTURED | BATCH => Ok(Self::Structured),
            lines if LINES.contains(&lines) => Ok(Self::Lines),
            form::MEDIA_TYPE if envelope == EnvelopeName::Form => Ok(Self::Fields),
            _ if is_json && is_binary => Ok(Self::Binary),
            _ if is_json => Ok(Self::Json),
            _ => Err(Problem::new(ProblemCode::UnsupportedMediaType)
                .detail(format!("{PLAIN}, {STRUCTURED}, {BATCH}, {} for a line each, or another +json; {} with mapping.envelope = \"form\"", LINES[0], form::MEDIA_TYPE))),
        }
    }

    /// The JSON texts of a body, one for each line where it has lines.
    pub(super) fn texts<'b>(self, headers: &[(String, String)], body: &'b [u8]) -> Result<Vec<JsonText<'b>>, Problem> {
        let read = |text: &'b [u8]| json_text::read(text).map_err(not_json);
        match self {
            Self::Json | Self::Structured => Ok(vec![read(body)?]),
            Self::Lines => {
                let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
                lines.map(read).collect()
            }
            Self::Binary => {
                let envelope = headers.iter().filter_map(|(name, value)| attribute(name, value));
                let event = structured(envelope.collect(), body);
                Ok(vec![event.ok_or_else(|| not_json("the data of the CloudEvent is not JSON".into()))?])
            }
            Self::Fields => Ok(vec![form::json(body).map_err(|reason| not_json(reason.message))?]),
        }
    }
}

/// An attribute by the HTTP binding of CloudEvents: what is not printable ASCII is percent-encoded UTF-8.
fn attribute(name: &str, value: &str) -> Option<(String, Value)> {
    name.get(..ATTRIBUTE_PREFIX.len()).filter(|prefix| prefix.eq_ignore_ascii_case(ATTRIBUTE_PREFIX))?;
    let value = percent_decode_str(&id_text::unquote(value)).decode_utf8_lossy().into_owned();
    Some((attribute_of_header(name)?, Value::String(value)))
}

fn not_json(detail: String) -> Problem {
    Problem::new(ProblemCode::MalformedJson).detail(detail)
}

pub(super) fn malformed(error: &serde_json::Error) -> Problem {
    not_json(format!("line {}, column {}", error.line(), error.column()))
}

/// The JSON of a structured CloudEvent with this data, which may be missing; `None` when the data is not JSON.
fn structured(envelope: serde_json::Map<String, Value>, data: &[u8]) -> Option<JsonText<'static>> {
    let envelope = Value::Object(envelope).to_string();
    if data.is_empty() {
        return Some(JsonText { text: Cow::Owned(envelope), is_repaired: false });
    }
    let JsonText { text, is_repaired } = json_text::read(data).ok()?;
    let text = format!("{},\"data\":{}}}", envelope.strip_suffix('}')?, json_text::canonical(&text)?);
    Some(JsonText { text: Cow::Owned(text), is_repaired })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_that_of_the_media_type_in_any_case() {
        let binary = [("ce-specversion".to_owned(), "1.0".to_owned())];
        for (media, without, with) in [
            ("", Ok(Form::Json), Ok(Form::Binary)),
            ("Application/JSON; charset=UTF-8", Ok(Form::Json), Ok(Form::Binary)),
            ("application/vnd.masstransit+json", Ok(Form::Json), Ok(Form::Binary)),
            ("Application/CloudEvents+JSON", Ok(Form::Structured), Ok(Form::Structured)),
            (BATCH, Ok(Form::Structured), Ok(Form::Structured)),
            ("application/x-NDJSON", Ok(Form::Lines), Ok(Form::Lines)),
            ("text/plain", Err(415), Err(415)),
            ("application/cloudevents+avro", Err(415), Err(415)),
        ] {
            let form = |headers: &[(String, String)]| {
                Form::of(media, headers, EnvelopeName::Auto).map_err(|problem| problem.status)
            };
            assert_eq!((form(&[]), form(&binary)), (without, with), "{media}");
        }
        let posted = |envelope| Form::of("Application/x-www-form-urlencoded; charset=utf-8", &[], envelope);
        assert_eq!(posted(EnvelopeName::Form), Ok(Form::Fields));
        let refused = posted(EnvelopeName::Auto).unwrap_err();
        assert!(refused.status == 415 && refused.detail.contains("mapping.envelope = \"form\""));
    }

    #[test]
    fn attributes_are_percent_decoded() {
        let decoded = attribute("Ce-Subject", "Euro%20%E2%82%AC%20%F0%9F%98%80").unwrap();
        assert_eq!(decoded, ("subject".into(), Value::from("Euro \u{20ac} \u{1f600}")));
        assert_eq!(attribute("ce-type", "\"order.paid\"").unwrap().1, Value::from("order.paid"));
        assert_eq!(attribute("X-Shopify-Topic", "orders/paid"), None);
    }
}
