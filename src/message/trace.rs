//! The trace context of a message: the headers `traceparent` and `tracestate` of W3C Trace Context, and `baggage` of
//! W3C Baggage.
//!
//! Pure. Only `traceparent` is read here. Dead letters and retry records carry all three on as any other header, byte
//! for byte, whatever their content.

use super::{Header, Record};

pub(crate) const TRACEPARENT: &str = "traceparent";
pub(crate) const TRACESTATE: &str = "tracestate";
pub(crate) const BAGGAGE: &str = "baggage";

/// The headers that whatever a message produces carries on.
pub(crate) const CARRIED: [&str; 3] = [TRACEPARENT, TRACESTATE, BAGGAGE];

/// Carries these headers of a message on to a record that it produces. The record's own come first: one that it has
/// is not carried on, and the state of a trace goes with its own parent only.
pub(crate) fn carry_on(to: &mut Vec<Header>, from: &[Header]) {
    let has = |name: &str| to.iter().any(|(one, _)| one == name.as_bytes());
    let own = CARRIED.map(|name| has(name) || name == TRACESTATE && has(TRACEPARENT));
    for (name, is_own) in CARRIED.iter().zip(own) {
        let carried = from
            .iter()
            .filter(|(one, _)| !is_own && one == name.as_bytes());
        to.extend(carried.cloned());
    }
}

/// Version, trace id, parent id and flags, with a dash between two of them.
const LENGTH: usize = 2 + 1 + ID + 1 + 16 + 1 + 2;
const ID: usize = 32;

/// The id of a trace: 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceId([u8; ID]);

impl TraceId {
    /// The trace of a `traceparent`; `None` for one that the specification calls invalid. A later version may be
    /// longer, and its first four fields count.
    pub(crate) fn of(traceparent: &[u8]) -> Option<Self> {
        let (known, further) = traceparent.split_at_checked(LENGTH)?;
        let mut fields = known.split(|byte| *byte == b'-');
        let mut next = |length: usize| {
            let field = fields.next().filter(|field| field.len() == length)?;
            field.iter().copied().all(is_digit).then_some(field)
        };
        let (version, trace, parent) = (next(2)?, next(ID)?, next(16)?);
        next(2)?;
        let is_zero = |field: &[u8]| field.iter().all(|digit| *digit == b'0');
        let is_valid = match version {
            b"ff" => false,
            b"00" => further.is_empty(),
            _ => further.first().is_none_or(|byte| *byte == b'-'),
        };
        if !is_valid || is_zero(trace) || is_zero(parent) {
            return None;
        }
        trace.try_into().ok().map(Self)
    }

    /// The trace of a message. A message with several `traceparent` headers belongs to none.
    pub(crate) fn of_message(message: &dyn Record) -> Option<Self> {
        let (mut found, mut count) = (None, 0);
        message.headers(&mut |name, value| {
            if name == TRACEPARENT.as_bytes() {
                count += 1;
                found = value.and_then(Self::of);
            }
        });
        found.filter(|_| count == 1)
    }

    pub(crate) fn as_str(&self) -> &str {
        // Digits are text.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Upper-case digits are invalid.
fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::OwnedRecord;

    fn headers(pairs: &[(&str, &str)]) -> Vec<Header> {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (bytes(name), Some(bytes(value))))
            .collect()
    }

    #[track_caller]
    fn check_carried(own: &[(&str, &str)], expected: &[(&str, &str)]) {
        let message = [
            ("other", "o"),
            (BAGGAGE, "b1"),
            (TRACESTATE, "s"),
            (TRACEPARENT, "p"),
            (BAGGAGE, "b2"),
        ];
        let mut found = headers(own);
        carry_on(&mut found, &headers(&message));
        assert_eq!(found, headers(expected));
    }

    #[test]
    fn a_record_carries_the_trace_on_unless_it_has_its_own() {
        let (parent, state) = ((TRACEPARENT, "p"), (TRACESTATE, "s"));
        let baggage = [(BAGGAGE, "b1"), (BAGGAGE, "b2")];
        check_carried(&[], &[parent, state, baggage[0], baggage[1]]);
        let own = (TRACEPARENT, "own");
        check_carried(&[own], &[own, baggage[0], baggage[1]]);
        let own = (TRACESTATE, "own");
        check_carried(&[own], &[own, parent, baggage[0], baggage[1]]);
        let own = (BAGGAGE, "own");
        check_carried(&[own], &[own, parent, state]);
    }

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[track_caller]
    fn check(traceparent: &str, expected: Option<&str>) {
        let found = TraceId::of(traceparent.as_bytes());
        assert_eq!(
            found.as_ref().map(TraceId::as_str),
            expected,
            "{traceparent:?}"
        );
    }

    #[test]
    fn a_traceparent_has_the_id_of_its_trace() {
        check(VALID, Some(TRACE));
        check(&VALID.replace("-01", "-00"), Some(TRACE));
    }

    #[test]
    fn a_later_version_may_have_further_fields() {
        check(&VALID.replacen("00", "01", 1), Some(TRACE));
        check(&(VALID.replacen("00", "cc", 1) + "-more"), Some(TRACE));
        check(&(VALID.replacen("00", "cc", 1) + "-"), Some(TRACE));
        check(&(VALID.replacen("00", "cc", 1) + ".more"), None);
    }

    #[test]
    fn what_the_specification_calls_invalid_is_none() {
        for invalid in [
            "",
            "00",
            "-",
            &VALID.replacen("00", "ff", 1),
            &VALID.replacen("00", "0g", 1),
            &VALID.replacen("00", "0", 1),
            &VALID.replacen("00-", "000-", 1),
            &VALID.to_uppercase(),
            &VALID.replace('-', "_"),
            &VALID.replace("0af", "0AF"),
            &VALID.replace(TRACE, &"0".repeat(32)),
            &VALID.replace("b7ad6b7169203331", &"0".repeat(16)),
            &VALID.replace("b7ad6b7169203331", "b7ad6b716920333-"),
            &VALID[..54],
            &(VALID.to_owned() + "-"),
            &(VALID.to_owned() + "-more"),
            &(VALID.to_owned() + " "),
            &format!(" {VALID}"),
            &VALID.replace("-01", "-0\u{e9}"),
        ] {
            check(invalid, None);
        }
    }

    #[test]
    fn a_message_belongs_to_the_trace_of_its_one_traceparent() {
        let message = |headers: &[(&str, Option<&str>)]| {
            let bytes = |text: &str| text.as_bytes().into();
            let headers = headers
                .iter()
                .map(|(name, value)| (bytes(name), value.map(bytes)))
                .collect();
            let record = OwnedRecord {
                headers,
                ..OwnedRecord::default()
            };
            let found = TraceId::of_message(&record);
            found.map(|id| id.as_str().to_owned())
        };
        let valid = (TRACEPARENT, Some(VALID));
        assert_eq!(
            message(&[("a", None), valid, ("b", Some(""))]).as_deref(),
            Some(TRACE)
        );
        for none in [
            &[][..],
            &[(TRACEPARENT, None)],
            &[("Traceparent", Some(VALID))],
            &[valid, valid],
            &[(TRACEPARENT, Some("x")), valid],
        ] {
            assert_eq!(message(none), None, "{none:?}");
        }
    }
}
