//! Hints for the first errors of a newcomer. Pure: error messages in, a sentence out.

/// A part of an error message, and the hint for it.
const HINTS: [(&[&str], &str); 6] = [
    (
        &["nil value (global 'tide')"],
        "`local tide = require \"tide\"` at the top of the file makes it known",
    ),
    (
        &["call a nil value (field 'toString')"],
        "keys, values and headers are strings already; `tostring` makes one of other values",
    ),
    (
        &["call a nil value (method 'toString')"],
        "keys, values and headers are strings already; `tostring` makes one of other values",
    ),
    (
        &["a nil value (field 'message')"],
        "the first argument of a handler is the message itself, with `message.value` and `message.key`",
    ),
    (
        &["a nil value (field 'value')"],
        "the message has no value: it is a tombstone",
    ),
    (
        &["module 'tide.", "not found"],
        "the modules of tide are fields: `local tide = require \"tide\"`",
    ),
];

/// The error message with a hint, if there is one.
pub(in crate::lua) fn explained(message: String) -> String {
    let known = HINTS
        .iter()
        .find(|(parts, _)| parts.iter().all(|part| message.contains(part)));
    match known {
        Some((_, hint)) => format!("{message}; {hint}"),
        None => message,
    }
}

/// A module that others have under this name, and its equivalent in Moontide.
pub(in crate::lua) fn module(name: &str) -> Option<&'static str> {
    matches!(name, "json" | "cjson" | "dkjson" | "rapidjson")
        .then_some("JSON is `require \"tide\".json`")
}

/// The hint for errors of a handler that is a method.
pub(in crate::lua) const OF_A_METHOD: &str = "the handler's first parameter is `self`, as in a function defined with a \
     colon; define it with a dot, since a handler is called with the message first";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_is_not_known_stays_as_it_is() {
        assert_eq!(explained("boom".to_owned()), "boom");
    }
}
