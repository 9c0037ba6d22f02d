//! The file as a tree of values that know their place in the text: parse, inherit, find.
//!
//! Inheritance happens here, between trees, so that a value keeps the place where it was written, wherever it counts.
//! It knows the tables that inherit, and not the meaning of their keys.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Report;

pub(super) type Tree<'i> = DeTable<'i>;

/// Keys of which a group of KIP-848 leaves the decision to the broker.
pub(super) const CLASSIC_KEYS: [&str; 3] =
    ["sessionTimeout", "heartbeatInterval", "partitionAssigners"];

/// A step on the way to a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'a> From<&'a str> for Step<'a> {
    fn from(key: &'a str) -> Self {
        Self::Key(key)
    }
}

impl From<usize> for Step<'_> {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// Parses as far as possible and reports the first error only: the parser guesses the meaning of the text behind it.
pub(super) fn parse<'i>(text: &'i str, report: &mut Report<'_>) -> Spanned<Tree<'i>> {
    let (tree, errors) = DeTable::parse_recoverable(text);
    let first = errors
        .into_iter()
        .min_by_key(|error| error.span().map(|span| span.start));
    if let Some(error) = first {
        report.error(error.span(), format!("not TOML: {}", error.message()));
    }
    tree
}

/// Where the value at the end of `path` stands, or the innermost table on the way there.
pub(super) fn locate(tree: &Tree<'_>, path: &[Step<'_>]) -> Option<Range<usize>> {
    let Some((Step::Key(key), rest)) = path.split_first().map(|(step, rest)| (*step, rest)) else {
        return None;
    };
    let value = tree.get(key)?;
    locate_in(value, rest)
}

fn locate_in(value: &Spanned<DeValue<'_>>, path: &[Step<'_>]) -> Option<Range<usize>> {
    let inner = match (path.first(), value.get_ref()) {
        (Some(Step::Key(_)), DeValue::Table(table)) => locate(table, path),
        (Some(Step::Index(index)), DeValue::Array(array)) => array
            .get(*index)
            .and_then(|value| locate_in(value, &path[1..])),
        _ => None,
    };
    inner.or_else(|| Some(value.span()).filter(|span| !span.is_empty()))
}

/// The table at the end of `path`.
pub(super) fn table<'t, 'i>(tree: &'t Tree<'i>, path: &[&str]) -> Option<&'t Tree<'i>> {
    let (last, way) = path.split_last()?;
    let tree = way
        .iter()
        .try_fold(tree, |tree, key| tree.get(*key)?.get_ref().as_table())?;
    tree.get(*last)?.get_ref().as_table()
}

/// Fills every table with the keys that it inherits: kafkaConfig → consumerConfig → consumers.*, kafkaConfig →
/// producerConfig → producers.*, listenerDefaults → listeners.
pub(super) fn inherit(tree: &mut Tree<'_>) {
    let kafka = table(tree, &["kafkaConfig"]).cloned().unwrap_or_default();
    let consumer = entry(tree, "consumerConfig");
    fill(consumer, &kafka, &[]);
    let consumer = consumer.clone();
    if let Some(DeValue::Table(consumers)) = tree.get_mut("consumers").map(Spanned::get_mut) {
        for (_, named) in consumers.iter_mut() {
            if let DeValue::Table(named) = named.get_mut() {
                // A group is never inherited, nor are classic keys by a consumer that sets the other protocol.
                let mut without = vec!["groupId"];
                if named
                    .get("groupProtocol")
                    .and_then(|value| value.get_ref().as_str())
                    == Some("consumer")
                {
                    without.extend(CLASSIC_KEYS);
                }
                fill(named, &consumer, &without);
            }
        }
    }
    let producer = entry(tree, "producerConfig");
    fill(producer, &kafka, &[]);
    let producer = producer.clone();
    if let Some(DeValue::Table(producers)) = tree.get_mut("producers").map(Spanned::get_mut) {
        for (_, named) in producers.iter_mut() {
            if let DeValue::Table(named) = named.get_mut() {
                fill(named, &producer, &[]);
            }
        }
    }
    let defaults = table(tree, &["listenerDefaults"])
        .cloned()
        .unwrap_or_default();
    if let Some(DeValue::Array(listeners)) = tree.get_mut("listeners").map(Spanned::get_mut) {
        for listener in listeners.iter_mut() {
            if let DeValue::Table(listener) = listener.get_mut() {
                inherit_policies(listener, &defaults);
            }
        }
    }
}

fn inherit_policies<'i>(listener: &mut Tree<'i>, defaults: &Tree<'i>) {
    let mut defaults = defaults.clone();
    let text = |key: &str| listener.get(key).and_then(|value| value.get_ref().as_str());
    let writes =
        |key: &str| table(listener, &["retry"]).is_some_and(|retry| retry.contains_key(key));
    if let Some(DeValue::Table(retry)) = defaults.get_mut("retry").map(Spanned::get_mut) {
        // "retry" has no last attempt, and the number of retry topics sets the attempts: the inherited key is for other
        // listeners.
        if text("onError") == Some("retry") || writes("topics") {
            retry.remove("attempts");
        }
        if writes("attempts") {
            retry.remove("topics");
        }
    }
    if text("ordering").is_some_and(|ordering| ordering != "key") {
        defaults.remove("nullKeys");
    }
    fill(listener, &defaults, &[]);
}

fn entry<'t, 'i>(tree: &'t mut Tree<'i>, key: &'static str) -> &'t mut Tree<'i> {
    let empty = Spanned::new(0..0, DeValue::Table(Tree::new()));
    let value = tree
        .entry(Spanned::new(0..0, Cow::Borrowed(key)))
        .or_insert(empty);
    if !value.get_ref().is_table() {
        *value.get_mut() = DeValue::Table(Tree::new());
    }
    match value.get_mut() {
        DeValue::Table(table) => table,
        _ => unreachable!("it was made a table above"),
    }
}

/// Adds the keys of `parent` that `child` lacks, in nested tables too.
fn fill<'i>(child: &mut Tree<'i>, parent: &Tree<'i>, without: &[&str]) {
    for (key, value) in parent {
        if without.contains(&key.get_ref().as_ref()) {
            continue;
        }
        match (
            child.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut),
            value.get_ref(),
        ) {
            (None, _) => {
                child.insert(key.clone(), value.clone());
            }
            (Some(DeValue::Table(own)), DeValue::Table(inherited)) => fill(own, inherited, &[]),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, path: &[Step<'_>], expected: &str) {
        let mut tree = DeTable::parse(text).unwrap().into_inner();
        inherit(&mut tree);
        let span = locate(&tree, path).unwrap();
        assert_eq!(&text[span], expected);
    }

    #[test]
    fn a_named_consumer_inherits_from_both_tables_above_it() {
        let text = "[kafkaConfig]\nclientId = 'a'\nretry = { initialRetryTime = 1 }\n[consumerConfig]\nminBytes = 2\n\
                    retry = { maxRetryTime = 3 }\n[consumers.x]\nminBytes = 4";
        check(
            text,
            &["consumers".into(), "x".into(), "clientId".into()],
            "'a'",
        );
        check(
            text,
            &["consumers".into(), "x".into(), "minBytes".into()],
            "4",
        );
        check(
            text,
            &[
                "consumers".into(),
                "x".into(),
                "retry".into(),
                "initialRetryTime".into(),
            ],
            "1",
        );
        check(
            text,
            &[
                "consumers".into(),
                "x".into(),
                "retry".into(),
                "maxRetryTime".into(),
            ],
            "3",
        );
    }

    #[test]
    fn a_value_that_is_missing_is_found_at_its_table() {
        check(
            "[[listeners]]\ntopic = 'a'",
            &["listeners".into(), 0.into(), "handler".into()],
            "[[listeners]]",
        );
    }

    #[test]
    fn a_named_consumer_does_not_inherit_the_group() {
        let text = "[consumerConfig]\ngroupId = 'a'\n[consumers.x]\nminBytes = 4";
        let mut tree = DeTable::parse(text).unwrap().into_inner();
        inherit(&mut tree);
        assert!(
            table(&tree, &["consumers", "x"])
                .unwrap()
                .get("groupId")
                .is_none()
        );
    }
}
