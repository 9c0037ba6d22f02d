//! The valid names of handlers and topics.

use regex::Regex;

use super::{Handler, Produced, Topic};
use crate::topic_name::CHARACTERS_MAX as TOPIC_CHARACTERS_MAX;
pub(super) use crate::topic_name::is_topic;

/// The rule for names, for errors.
pub(super) const TOPIC_FORM: &str = "a name has 1 to 249 letters, digits, `.`, `_` and `-`";

/// The path up to the first dot after the last slash, then the function.
pub(super) fn parse_handler(text: &str) -> Result<Handler, String> {
    let folder = text.rfind('/').map_or(0, |slash| slash + 1);
    let (path, function) = match text[folder..].split_once('.') {
        Some((file, function)) => (&text[..folder + file.len()], Some(function)),
        None => (text, None),
    };
    let steps_good = path
        .split('/')
        .all(|step| !step.is_empty() && !step.contains(['.', '\\', '\0']));
    if !steps_good {
        return Err(format!(
            "`handler` is `{text}`, not a path below the handlers folder such as \"orders.gotData\" or \"billing/orders.gotData\""
        ));
    }
    if function == Some("lua") {
        return Err(format!(
            "`handler` is `{text}`, which names the function `lua`; write `{path}`, or `{path}.function`"
        ));
    }
    if function.is_some_and(|function| function.is_empty() || function.contains('.')) {
        return Err(format!(
            "`handler` is `{text}`; write one dot, between the file and the function"
        ));
    }
    if path.ends_with("_test") {
        return Err(format!(
            "`handler` is `{text}`, but Moontide runs no file named *_test.lua"
        ));
    }
    Ok(Handler {
        text: text.to_owned(),
        path: path.to_owned(),
        function: function.map(str::to_owned),
    })
}

pub(super) fn parse_topic(name: &str) -> Result<Topic, String> {
    if name.starts_with('^') {
        return Regex::new(name).map(Topic::Pattern).map_err(|error| {
            let error = error.to_string();
            let reason = error
                .lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ");
            format!("pattern `{name}` is not a valid regular expression: {reason}")
        });
    }
    if !is_topic(name) {
        return Err(format!(
            "topic `{name}` is not a valid name: a name has 1 to {TOPIC_CHARACTERS_MAX} letters, digits, `.`, `_` and `-`; a pattern begins with `^`"
        ));
    }
    Ok(Topic::Literal(name.to_owned()))
}

/// A topic, or several by `*`, as a listener may send to them.
pub(super) fn parse_produced(text: &str) -> Result<Produced, String> {
    let letters = text.replace('*', "");
    let is_star = letters.is_empty() && !text.is_empty();
    if !is_star && !is_topic(&letters) {
        return Err(format!(
            "`produces` has `{text}`, not the name of a topic, or a name with `*` for any characters; {TOPIC_FORM}"
        ));
    }
    Ok(Produced::new(text))
}

/// Whether it can be the name of a consumer or of a producer.
pub(super) fn is_word(name: &str) -> bool {
    let is_good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !name.is_empty() && name.chars().all(is_good)
}

/// Whether `require` finds a library of Lua, or `tide`, under this name, and never looks for a file.
pub(crate) fn is_library(module: &str) -> bool {
    matches!(
        module,
        "_G" | "package"
            | "coroutine"
            | "table"
            | "io"
            | "os"
            | "string"
            | "math"
            | "utf8"
            | "debug"
            | "tide"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, Option<&str>)>) {
        let found = parse_handler(text)
            .ok()
            .map(|handler| (handler.path, handler.function));
        assert_eq!(
            found,
            expected.map(|(path, function)| (path.to_owned(), function.map(str::to_owned))),
            "{text}"
        );
    }

    #[test]
    fn a_handler_is_a_file_and_a_function() {
        check("orders.gotData", Some(("orders", Some("gotData"))));
        check(
            "billing/orders.gotData",
            Some(("billing/orders", Some("gotData"))),
        );
        check("orders", Some(("orders", None)));
    }

    #[test]
    fn a_handler_stays_below_its_folder() {
        for text in [
            "",
            "/orders",
            "../orders",
            "a//b",
            "a/",
            "a.b/c",
            ".x",
            "a\\b",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn a_handler_has_one_dot_and_no_ending() {
        for text in ["orders.lua", "a.b.c", "orders.", "orders_test.f"] {
            check(text, None);
        }
    }

    #[test]
    fn a_produced_topic_is_a_name_or_has_stars_for_any_characters() {
        for text in ["", "^a", "a b", ".."] {
            assert!(parse_produced(text).is_err(), "{text}");
        }
        for (text, topic, expected) in [
            ("orders", "orders", true),
            ("orders", "orders.eu", false),
            ("orders.*", "orders.eu", true),
            ("orders.*", "orders", false),
            ("*", "orders", true),
            ("*.eu", "orders.eu", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "ac", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(
                parse_produced(text).unwrap().has(topic),
                expected,
                "{text} {topic}"
            );
        }
        assert_eq!(parse_produced("orders").unwrap().literal(), Some("orders"));
        assert_eq!(parse_produced("orders.*").unwrap().literal(), None);
    }

    #[test]
    fn a_topic_is_a_name_or_a_pattern() {
        for (text, good) in [
            ("a.b-c_D9", true),
            ("", false),
            ("a b", false),
            ("..", false),
            ("^a.*", true),
            ("^a(", false),
            ("ä", false),
        ] {
            assert_eq!(parse_topic(text).is_ok(), good, "{text}");
        }
    }
}
