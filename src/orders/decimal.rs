//! Decimal numbers by their digits: amounts and times never pass through floating point.

/// Longest text that is read as a number. The numbers of orders have up to 20 digits.
const MAX_CHARS: usize = 64;
/// Largest shift of the point: beyond it a number is neither an amount nor a time.
const MAX_SHIFT: i32 = 40;

/// A number as its digits and the place of its point: `digits * 10^exponent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    pub(super) digits: i128,
    pub(super) exponent: i32,
}

impl Decimal {
    /// Reads a number as JSON and programs write it: `12.50`, `-3`, `1.25E3`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_CHARS {
            return None;
        }
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
        let unsigned = whole.strip_prefix('-').unwrap_or(whole);
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(unsigned) || !is_digits(fraction) {
            return None;
        }
        // Zeros at the end say nothing, and the digits have a limit.
        let fraction = fraction.trim_end_matches('0');
        let digits = format!("{whole}{fraction}").parse().ok()?;
        let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
        Some(Self { digits, exponent })
    }

    /// The number times `10^shift`, when that is whole.
    pub(super) fn exactly(&self, shift: i32) -> Option<i128> {
        let (number, rest) = self.divided(shift)?;
        (rest == 0).then_some(number)
    }

    /// The number times `10^shift`, without what is behind the point.
    pub(super) fn truncated(&self, shift: i32) -> Option<i128> {
        self.divided(shift).map(|(number, _)| number)
    }

    fn divided(&self, shift: i32) -> Option<(i128, i128)> {
        let places = self.exponent.checked_add(shift).filter(|places| places.abs() <= MAX_SHIFT)?;
        match 10_i128.checked_pow(places.unsigned_abs()) {
            Some(power) if places >= 0 => Some((self.digits.checked_mul(power)?, 0)),
            Some(power) => Some((self.digits / power, self.digits % power)),
            None => (self.digits == 0 || places < 0).then_some((0, self.digits)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exactly(text: &str, shift: i32) -> Option<i128> {
        Decimal::parse(text)?.exactly(shift)
    }

    #[test]
    fn numbers_are_read_by_their_digits() {
        assert_eq!(exactly("12.50", 2), Some(1250));
        assert_eq!(exactly("12.5000000000000000000000000000", 2), Some(1250));
        assert_eq!(
            (exactly("1.25E7", 2), exactly("1.25e+1", 2), exactly("125e-1", 2)),
            (Some(1_250_000_000), Some(1250), Some(1250))
        );
        assert_eq!((exactly("-0.5", 1), exactly("0", 30), exactly("-0", 0)), (Some(-5), Some(0), Some(0)));
        assert_eq!((exactly("1.005", 2), exactly("1e-400", 2), exactly("1e400", 2)), (None, None, None));
        for text in ["", "-", ".", "1.", ".5", "1,5", "+1", "0x1", "1e", " 1", "١", "9".repeat(65).as_str()] {
            assert_eq!(Decimal::parse(text), None, "{text:?}");
        }
        assert_eq!(Decimal::parse("1789984800.987").unwrap().truncated(0), Some(1_789_984_800));
    }

    proptest! {
        #[test]
        fn an_amount_in_major_units_is_the_one_in_minor_units(cents in 0..=i64::MAX, zeros in 0_usize..20, places in 0_u32..4) {
            let unit = 10_i64.pow(places);
            let (whole, rest) = (cents / unit, cents % unit);
            let width = places as usize;
            let fraction = if places == 0 { String::from("0") } else { format!("{rest:0width$}") };
            let text = format!("{whole}.{fraction}{}", "0".repeat(zeros));
            prop_assert_eq!(exactly(&text, places as i32), Some(i128::from(cents)));
        }
    }
}
