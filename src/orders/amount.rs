//! Reads an amount in any of the forms that producers write, by its digits.
//!
//! What can mean one thing only is understood: zeros behind the cents, blanks around a number, texts, MongoDB's and Debezium's decimals. A comma
//! is not: nobody knows whether it separates thousands or cents.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use orderbell_protocol::event::MinorUnits;
use orderbell_protocol::id_text;
use serde_json::value::RawValue;

use super::decimal::Decimal;
use super::fields::scalar;
use super::mapping::{AmountFormat, AmountUnit, Mapping};

/// Why an amount cannot be read.
pub(super) type NoAmount = &'static str;

/// Currencies whose smallest unit is the main unit, and those with three and four decimals, by ISO 4217. All others have two.
const WITHOUT_DECIMALS: &str = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF";
const THREE_DECIMALS: &str = "BHD IQD JOD KWD LYD OMR TND";
const FOUR_DECIMALS: &str = "CLF UYW";

/// ISO 4217; 2 where the code is missing or unknown.
fn decimals(currency: Option<&str>) -> i32 {
    let Some(currency) = currency.map(str::trim).filter(|currency| currency.len() == 3) else { return 2 };
    let is_in = |list: &str| list.split(' ').any(|code| code.eq_ignore_ascii_case(currency));
    match () {
        () if is_in(WITHOUT_DECIMALS) => 0,
        () if is_in(THREE_DECIMALS) => 3,
        () if is_in(FOUR_DECIMALS) => 4,
        () => 2,
    }
}

/// The amount in the currency's smallest unit.
///
/// # Errors
/// A sentence that says what was found.
pub(super) fn read(json: &str, mapping: &Mapping, currency: Option<&str>) -> Result<MinorUnits, NoAmount> {
    let number = number(json, mapping)?;
    let (shift, too_fine) = match mapping.amount_unit {
        AmountUnit::Minor => (0, "the amount is a fraction of the currency's smallest unit"),
        AmountUnit::Major => {
            (decimals(currency.or(mapping.chain_currency.as_deref())), "the amount has more decimals than its currency")
        }
    };
    if number.digits < 0 {
        return Err("the amount is negative");
    }
    let minor = number.exactly(shift).ok_or(too_fine)?;
    i64::try_from(minor).map(MinorUnits).map_err(|_| "the amount is too large")
}

fn number(json: &str, mapping: &Mapping) -> Result<Decimal, NoAmount> {
    if json.starts_with('{') {
        return structured(json);
    }
    let text = scalar(json).ok_or("the amount is neither a number nor a text")?;
    let text = id_text::trim(&text);
    if mapping.amount_format == AmountFormat::Base64 && json.starts_with('"') {
        return base64_decimal(text, mapping.amount_scale);
    }
    Decimal::parse(text).ok_or(match text {
        "" => "the amount is empty",
        text if text.contains(',') => "the amount has a comma, which may separate thousands or decimals",
        text if STANDARD.decode(text).is_ok() => {
            "the amount is no decimal number: if it is a decimal in base64, set amount_format to \"base64\""
        }
        _ => "the amount is no decimal number",
    })
}

/// MongoDB's `{"$numberDecimal": "12.50"}` and Debezium's `{"scale": 2, "value": "BMQ="}`.
fn structured(json: &str) -> Result<Decimal, NoAmount> {
    const UNKNOWN: NoAmount = "the amount is an object of an unknown kind";
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(json).map_err(|_| UNKNOWN)?;
    let text = |name: &str| members.get(name).and_then(|json| scalar(json.get()));
    let numbers = ["$numberDecimal", "$numberLong", "$numberInt", "$numberDouble"];
    if let Some(text) = numbers.into_iter().find_map(text) {
        return Decimal::parse(&text).ok_or("the amount is no decimal number");
    }
    match (text("scale").and_then(|scale| scale.parse().ok()), text("value")) {
        (Some(scale), Some(value)) => base64_decimal(&value, scale),
        _ => Err(UNKNOWN),
    }
}

/// A decimal as Kafka Connect writes it: the digits as a big-endian two's complement number in base64, and the number of decimals.
fn base64_decimal(text: &str, scale: u8) -> Result<Decimal, NoAmount> {
    let bytes = STANDARD.decode(text).map_err(|_| "the amount is not in base64")?;
    if bytes.is_empty() || bytes.len() > 16 {
        return Err("the amount in base64 has no bytes, or more than 16");
    }
    let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
    let digits = bytes.iter().fold(sign, |digits: i128, byte| digits << 8 | i128::from(*byte));
    Ok(Decimal { digits, exponent: -i32::from(scale) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &str, currency: &str, json: &str) -> Result<i64, NoAmount> {
        let mapping: Mapping = toml::from_str(config).unwrap();
        super::read(json, &mapping, Some(currency)).map(|minor| minor.0)
    }

    const MAJOR: &str = "amount_unit = 'major'";

    #[test]
    fn amounts_in_the_main_unit_are_read_by_their_digits() {
        let all =
            ["12.5", "12.50", "\"12.50\"", "\"12.5000\"", "\" 12.50\"", "1.25e1", "{\"$numberDecimal\":\"12.50\"}"];
        all.iter().for_each(|json| assert_eq!(read(MAJOR, "CNY", json), Ok(1250), "{json}"));
        assert_eq!(read(MAJOR, "CNY", "0.07"), Ok(7));
        assert_eq!(read(MAJOR, "CNY", "12"), Ok(1200));
    }

    #[test]
    fn amounts_in_the_smallest_unit_may_have_zeros_behind_the_point_and_blanks_around() {
        let all = ["1250", "1250.0", "\" 1250\"", "\"1250.00\"", "1.25E3", "{\"$numberLong\":\"1250\"}"];
        all.iter().for_each(|json| assert_eq!(read("", "CNY", json), Ok(1250), "{json}"));
        assert!(read("", "CNY", "12.5").is_err());
    }

    #[test]
    fn a_currency_has_its_own_decimals() {
        let all =
            [("JPY", 1250), ("jpy", 1250), ("KRW", 1250), ("CNY", 125_000), ("KWD", 1_250_000), ("CLF", 12_500_000)];
        all.iter().for_each(|(currency, minor)| assert_eq!(read(MAJOR, currency, "1250"), Ok(*minor), "{currency}"));
        assert!(read(MAJOR, "JPY", "12.5").is_err());
        assert_eq!(read(MAJOR, "KWD", "1.005"), Ok(1005));
    }

    /// Regression: 1250 yen in the main unit were 125,000 where the events of a Japanese chain state no currency.
    #[test]
    fn an_amount_without_a_currency_is_in_that_of_the_chain() {
        let yen =
            toml::from_str::<Mapping>(&format!("{MAJOR}\n[topics.pos]\n{MAJOR}")).unwrap().with_chain_currency("JPY");
        for mapping in [&yen, &yen.topics["pos"]] {
            assert_eq!(super::read("1250", mapping, None), Ok(MinorUnits(1250)));
            assert_eq!(super::read("12.50", mapping, Some("CNY")), Ok(MinorUnits(1250)), "its own goes first");
        }
        assert_eq!(super::read("12.50", &toml::from_str(MAJOR).unwrap(), None), Ok(MinorUnits(1250)));
    }

    #[test]
    fn decimals_in_base64_are_read_where_they_are_declared() {
        let config = "amount_unit = 'major'\namount_format = 'base64'";
        assert_eq!(read(config, "CNY", "\"BMQ=\""), Ok(1220));
        assert_eq!(read(&format!("{config}\namount_scale = 4"), "CNY", "\"AehI\""), Ok(1250));
        assert_eq!(read(config, "CNY", "12.5"), Ok(1250), "a number is none in base64");
        assert_eq!(read(config, "CNY", "\"/w==\""), Err("the amount is negative"));
        assert_eq!(read(MAJOR, "CNY", "{\"scale\":2,\"value\":\"BMQ=\"}"), Ok(1220), "it declares itself");
        assert!(read(MAJOR, "CNY", "\"BMQ=\"").unwrap_err().contains("amount_format"));
    }

    #[test]
    fn what_is_not_read_says_why() {
        let reason = |json: &str| read(MAJOR, "CNY", json).unwrap_err();
        assert!(reason("\"1,250.00\"").contains("comma"));
        assert!(reason("\"12,50\"").contains("comma"));
        assert_eq!(reason("0.30000000000000004"), "the amount has more decimals than its currency");
        assert_eq!(reason("-1"), "the amount is negative");
        assert_eq!(reason("99999999999999999999"), "the amount is too large");
        assert_eq!(reason("\"\""), "the amount is empty");
        assert_eq!(reason("[1]"), "the amount is neither a number nor a text");
    }
}
