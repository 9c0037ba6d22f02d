//! Whatever stands in the file: an answer, never a panic, and every error says where.

use proptest::prelude::*;

use super::super::reference::uncommented;
use crate::config::tests::*;

fn value() -> impl Strategy<Value = String> {
    let known = [
        "true",
        "false",
        "0",
        "1",
        "-1",
        "1e400",
        "nan",
        "inf",
        "9223372036854775807",
        "''",
        "'5s'",
        "'0s'",
        "'1h'",
        "'99999999999999999999h'",
        "'-1ms'",
        "'key'",
        "'none'",
        "'deadLetter'",
        "'retry'",
        "[]",
        "[[]]",
        "['a', 'a']",
        "{}",
        "{ a = {} }",
        "{ attempts = 0 }",
        "['5s', '1m']",
        "'${PASSWORD}'",
        "'${'",
        "'${file:/nowhere}'",
        "'$${'",
        "'^('",
        "'^.*'",
        "'a b'",
        "'{topic}{group}{'",
        "2020-01-01",
        "'127.0.0.1:0'",
        "'orders.f'",
        "'../x.y'",
    ];
    prop_oneof![
        4 => prop::sample::select(known.to_vec()).prop_map(str::to_owned),
        1 => "[a-z0-9 .{}$\\[\\]\"'\\\\=#_-]{0,12}",
        1 => any::<f64>().prop_map(|number| format!("{number:?}")),
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => "\\PC{0,8}".prop_map(|text| format!("{text:?}")),
    ]
}

/// What is done to one line of the reference.
#[derive(Clone, Debug)]
enum Edit {
    /// The value becomes another.
    Value(String),
    Key(String),
    Again,
    Gone,
    /// The whole line becomes any text.
    Line(String),
    /// It is cut after so many characters.
    Cut(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        6 => value().prop_map(Edit::Value),
        2 => "[a-zA-Z.\"]{1,10}".prop_map(Edit::Key),
        1 => Just(Edit::Again),
        2 => Just(Edit::Gone),
        1 => "\\PC{0,20}".prop_map(Edit::Line),
        1 => (0_usize..40).prop_map(Edit::Cut),
    ]
}

fn apply(lines: &mut Vec<String>, at: prop::sample::Index, edit: Edit) {
    if lines.is_empty() {
        return;
    }
    let at = at.index(lines.len());
    let line = lines[at].clone();
    let (key, old) = line.split_once('=').unwrap_or((&line, ""));
    lines[at] = match edit {
        Edit::Value(value) => format!("{key}= {value}"),
        Edit::Key(new) => format!("{new} ={old}"),
        Edit::Again => format!("{line}\n{line}"),
        Edit::Gone => {
            lines.remove(at);
            return;
        }
        Edit::Line(text) => text,
        Edit::Cut(most) => line.chars().take(most).collect(),
    };
}

/// It is read or refused, and what is refused says where, in the file as it is.
fn check_any(text: &str) -> Result<(), TestCaseError> {
    let Err(errors) = try_load(text) else {
        return Ok(());
    };
    prop_assert!(!errors.list.is_empty());
    let lines = text.split('\n').count();
    for error in &errors.list {
        prop_assert!(!error.message.is_empty());
        if let Some(place) = &error.place {
            prop_assert!((1..=lines).contains(&place.line), "{place:?}");
            let line = text.split('\n').nth(place.line - 1).unwrap_or_default();
            prop_assert!(
                (1..=line.chars().count() + 1).contains(&place.column),
                "{place:?}"
            );
        }
    }
    for line in errors.to_string().lines() {
        let is_excerpt = line.contains(" | ") || line.ends_with(" |");
        prop_assert!(is_excerpt || line.contains("config.toml"), "`{}`", line);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
        check_any(&text)?;
    }

    #[test]
    fn any_bytes_of_toml_are_read_or_refused(text in "[\\[\\]a-z=\"'{},.#\\n\\\\0-9-]{0,80}") {
        check_any(&text)?;
    }

    #[test]
    fn a_reference_that_was_tampered_with_is_read_or_refused(
        edits in prop::collection::vec((any::<prop::sample::Index>(), edit()), 1..6),
    ) {
        let mut lines: Vec<String> = uncommented().lines().map(str::to_owned).collect();
        for (at, edit) in edits {
            apply(&mut lines, at, edit);
        }
        check_any(&lines.join("\n"))?;
    }

    #[test]
    fn a_small_file_that_was_tampered_with_is_read_or_refused(
        edits in prop::collection::vec((any::<prop::sample::Index>(), edit()), 1..3),
        key in prop::sample::select(vec![
            "ordering", "nullKeys", "maxInFlight", "onError", "retry", "deadLetter", "breaker", "limits", "runConfig",
            "subscription", "consumer", "topics", "handler",
        ]),
        value in value(),
    ) {
        let text = format!("{}{key} = {value}\n", [BROKERS, GROUP, LISTENER].concat());
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        check_any(&text)?;
        for (at, edit) in edits {
            apply(&mut lines, at, edit);
        }
        check_any(&lines.join("\n"))?;
    }
}
