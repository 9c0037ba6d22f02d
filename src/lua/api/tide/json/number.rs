//! JSON numbers: an integer if it is written as one and fits, a float otherwise.

#![expect(unsafe_code, reason = "reads from a text of Lua's")]

use std::str;

use super::text::At;

/// The most decimal digits that always fit an `i64`.
const DIGITS: usize = 18;
/// The most decimal digits that a float always has exactly, and the highest power of ten used. One division of one by
/// the other gives the nearest float (W. D. Clinger, How to Read Floating Point Numbers Accurately, 1990).
const EXACT: usize = 15;
const POWERS: [f64; EXACT + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Integer(i64),
    Float(f64),
}

/// The error, and its place.
pub(super) type Wrong = (At, &'static str);

/// The digits as an integer, or its lowest bits, and the place behind them.
#[inline]
unsafe fn digits(at: At, before: u64) -> (u64, At) {
    let (mut number, mut end) = (before, at);
    // SAFETY: no digit is a zero byte.
    unsafe {
        loop {
            let digit = end.byte().wrapping_sub(b'0');
            if digit > 9 {
                return (number, end);
            }
            number = number.wrapping_mul(10).wrapping_add(digit.into());
            end = end.on(1);
        }
    }
}

/// The number at `at`, and the place behind it.
#[inline]
pub(super) unsafe fn number(at: At) -> Result<(Number, At), Wrong> {
    // SAFETY: passes a sign and digits.
    unsafe {
        let is_negative = at.byte() == b'-';
        let first = at.on(is_negative.into());
        let (mut number, mut end) = digits(first, 0);
        if end == first {
            return Err((first, "expected a digit"));
        }
        if first.byte() == b'0' {
            // The next byte must not make it another number. `-0` is a float, since there is no such integer.
            (number, end) = (0, first.on(1));
        }
        let count = end.since(first);
        match end.byte() {
            b'e' | b'E' => {}
            b'.' => {
                let (number, behind) = digits(end.on(1), number);
                let fraction = behind.since(end) - 1;
                let is_plain = !matches!(behind.byte(), b'e' | b'E');
                if is_plain && fraction > 0 && count + fraction <= EXACT {
                    let float = number as f64 / POWERS[fraction];
                    let float = if is_negative { -float } else { float };
                    return Ok((Number::Float(float), behind));
                }
            }
            _ if count <= DIGITS && !(is_negative && number == 0) => {
                let number = number.cast_signed();
                let number = if is_negative { -number } else { number };
                return Ok((Number::Integer(number), end));
            }
            _ => {}
        }
        long(at, end)
    }
}

/// Reads a number with an exponent or many digits; `whole` is the place behind the digits before its point.
#[cold]
unsafe fn long(start: At, whole: At) -> Result<(Number, At), Wrong> {
    let some = |at| {
        // SAFETY: passes digits.
        let end = unsafe { digits(at, 0).1 };
        if end == at {
            Err((at, "expected a digit"))
        } else {
            Ok(end)
        }
    };
    // SAFETY: passes only bytes that were seen.
    unsafe {
        let mut end = whole;
        if end.byte() == b'.' {
            end = some(end.on(1))?;
        }
        if matches!(end.byte(), b'e' | b'E') {
            end = end.on(1);
            let is_signed = matches!(end.byte(), b'+' | b'-');
            end = some(end.on(is_signed.into()))?;
        }
        // At this point all bytes are ASCII.
        let written = str::from_utf8(start.until(end)).unwrap_or_default();
        if end == whole
            && written != "-0"
            && let Ok(integer) = written.parse()
        {
            return Ok((Number::Integer(integer), end));
        }
        match written.parse::<f64>() {
            Ok(float) if float.is_finite() => Ok((Number::Float(float), end)),
            _ => Err((start, "a number out of range")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::text::Text;
    use super::*;

    /// The number at the start of `text`, and how long it is.
    fn of(text: &str) -> Result<(Number, usize), (usize, &'static str)> {
        let block = format!("{text}\0");
        // SAFETY: a zero follows the text.
        unsafe {
            let text = Text::new(block.as_ptr(), text.len());
            match number(text.start()) {
                Ok((number, end)) => Ok((number, end.since(text.start()))),
                Err((at, what)) => Err((at.since(text.start()), what)),
            }
        }
    }

    #[test]
    fn a_number_ends_where_its_grammar_does() {
        assert_eq!(of("12,"), Ok((Number::Integer(12), 2)));
        assert_eq!(of("01"), Ok((Number::Integer(0), 1)));
        assert_eq!(of("00.5"), Ok((Number::Integer(0), 1)));
        assert_eq!(of("0.50]"), Ok((Number::Float(0.5), 4)));
        assert_eq!(of("-1e2}"), Ok((Number::Float(-100.0), 4)));
        assert_eq!(of("-"), Err((1, "expected a digit")));
        assert_eq!(of("-.5"), Err((1, "expected a digit")));
        assert_eq!(of("1."), Err((2, "expected a digit")));
        assert_eq!(of("1.e5"), Err((2, "expected a digit")));
        assert_eq!(of("1.5e+"), Err((5, "expected a digit")));
        assert_eq!(of("-1e400"), Err((0, "a number out of range")));
    }

    proptest! {
        #[test]
        fn integers_are_exact(number: i64) {
            prop_assert_eq!(of(&number.to_string()), Ok((Number::Integer(number), number.to_string().len())));
        }

        /// As the standard library reads them, to the last bit.
        #[test]
        fn floats_are_the_nearest(text in "-?(0|[1-9][0-9]{0,17})\\.[0-9]{1,18}|-?[1-9][0-9]{0,20}(\\.[0-9]{1,9})?[eE][+-]?[0-9]{1,2}") {
            let expected: f64 = text.parse().unwrap();
            let (Number::Float(found), length) = of(&text).unwrap() else { panic!("{text} is a float") };
            prop_assert_eq!(found.to_bits(), expected.to_bits(), "{}", text);
            prop_assert_eq!(length, text.len());
        }
    }
}
