//! Names of topics that Moontide makes: of retry topics and of dead-letter topics, and how such a name is known.
//!
//! Pure. Each group would make topics of another group's topics, and that one of these, without end. A pattern therefore
//! never takes a made name by chance, whichever group made it; only a pattern that names it does.

use std::ops::Range;
use std::time::Duration;

use regex::Regex;

use crate::duration;

/// Stands for the topic of the message in `deadLetter.topic`.
const TOPIC: &str = "{topic}";
const RETRY: &str = "retry";
/// The default of `deadLetter.topic`.
const DEFAULT_DEAD_LETTER: &str = "{topic}.dead";

/// Kafka's own limit for a name.
pub(crate) const CHARACTERS_MAX: usize = 249;

/// Whether Kafka takes it for a topic.
pub(crate) fn is_topic(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=CHARACTERS_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && name.chars().all(good)
}

/// The topic in which messages of `topic` wait for `delay`: `orders.billing.retry.10m`.
pub(crate) fn retry_topic(topic: &str, group: &str, delay: Duration) -> String {
    format!("{topic}.{group}.{RETRY}.{}", duration::short(delay))
}

/// Of which topic's messages wait in the topic of that name; `None` for one that is no retry topic of the group.
pub(crate) fn retry_source<'a>(name: &'a str, group: &str) -> Option<&'a str> {
    let source = before_retry(name)?.strip_suffix(group)?.strip_suffix('.')?;
    (!source.is_empty()).then_some(source)
}

/// How long messages wait in the retry topic of that name.
pub(crate) fn retry_delay(name: &str) -> Option<Duration> {
    before_retry(name)?;
    duration::parse(name.rsplit_once('.')?.1)
}

/// Whether it is the name of a retry topic, of whichever group.
pub(crate) fn is_retry_topic(name: &str) -> bool {
    before_retry(name)
        .and_then(|rest| rest.split_once('.'))
        .is_some_and(|(source, group)| !source.is_empty() && !group.is_empty())
}

/// Topic and group of a retry topic.
fn before_retry(name: &str) -> Option<&str> {
    let (name, delay) = name.rsplit_once('.')?;
    let unit = delay.trim_start_matches(|one: char| one.is_ascii_digit());
    let is_delay = unit.len() < delay.len() && matches!(unit, "h" | "m" | "s" | "ms");
    name.strip_suffix(RETRY)?
        .strip_suffix('.')
        .filter(|_| is_delay)
}

/// The dead-letter topic that `template` makes for a message of `topic`.
pub(crate) fn dead_letter_topic(
    template: &str,
    topic: &str,
    group: &str,
    listener: &str,
) -> String {
    let own = [(TOPIC, topic), ("{group}", group), ("{listener}", listener)];
    let mut name = String::new();
    let mut rest = template;
    // In one pass, so that braces in a name of its own stay what they are.
    while let Some(at) = rest.find('{') {
        name.push_str(&rest[..at]);
        rest = &rest[at..];
        let placeholder = own.iter().find(|(key, _)| rest.starts_with(key));
        let (taken, value) = placeholder.map_or((1, "{"), |(key, value)| (key.len(), *value));
        name.push_str(value);
        rest = &rest[taken..];
    }
    name.push_str(rest);
    name
}

/// The names that Moontide makes: retry topics of every group, the default's dead letters, and those of a configuration.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// With `{topic}` alone in them.
    dead_letters: Vec<String>,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            dead_letters: vec![DEFAULT_DEAD_LETTER.to_owned()],
        }
    }
}

impl Made {
    /// Knows the dead letters of one listener too.
    pub(crate) fn add(&mut self, template: &str, group: &str, listener: &str) {
        let template = dead_letter_topic(template, TOPIC, group, listener);
        // `{topic}` alone is every name.
        if template != TOPIC && !self.dead_letters.contains(&template) {
            self.dead_letters.push(template);
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.marks(name).is_empty()
    }

    /// Whether a pattern of a listener takes this topic: never Kafka's internal ones, and a made one only where the
    /// pattern names what it is made by. It does where it takes no other name in its place.
    pub(crate) fn is_taken(&self, pattern: &Regex, name: &str) -> bool {
        !name.starts_with("__")
            && pattern.is_match(name)
            && !self
                .marks(name)
                .into_iter()
                .any(|at| pattern.is_match(&altered(name, at)))
    }

    /// The places of the characters by which a made name is known. Not of dots beside letters: to a pattern a dot may be
    /// any character.
    fn marks(&self, name: &str) -> Vec<usize> {
        let mut marks = Vec::new();
        if !name.is_ascii() {
            // No topic has such a name.
            return marks;
        }
        if is_retry_topic(name)
            && let Some(at) = name.rfind(RETRY)
        {
            marks.extend(at..at + RETRY.len());
        }
        for template in &self.dead_letters {
            let mut places: Vec<usize> = fixed(template, name).into_iter().flatten().collect();
            let is_word = |at: &usize| name.as_bytes()[*at].is_ascii_alphanumeric();
            if places.iter().any(is_word) {
                places.retain(is_word);
            }
            marks.extend(places);
        }
        marks
    }
}

/// The parts of a name that its template says, not the topic; none where the template does not make that name.
fn fixed(template: &str, name: &str) -> Vec<Range<usize>> {
    let pieces: Vec<&str> = template.split(TOPIC).collect();
    let (count, length) = (pieces.len() - 1, pieces.concat().len());
    let rest = name.len().saturating_sub(length);
    let is_made = match rest.checked_div(count) {
        None => name == template,
        Some(one) => {
            let first = pieces[0].len();
            let topic = name.get(first..first + one).unwrap_or_default();
            !topic.is_empty() && pieces.join(topic) == name
        }
    };
    let mut at = 0;
    let places = pieces.iter().map(|piece| {
        let place = at..at + piece.len();
        at = place.end + rest.checked_div(count).unwrap_or_default();
        place
    });
    if is_made {
        places.collect()
    } else {
        Vec::new()
    }
}

/// The name with another letter or digit at a place.
fn altered(name: &str, at: usize) -> String {
    let other = match name.as_bytes()[at] {
        b'0' => "1",
        b'1'..=b'9' => "0",
        b'z' => "q",
        b'A'..=b'Z' => "Q",
        _ => "z",
    };
    let (before, rest) = name.split_at(at);
    format!("{before}{other}{}", &rest[1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_topic_is_named_by_the_largest_unit_of_its_delay() {
        for (seconds, expected) in [
            (5, "orders.billing.retry.5s"),
            (60, "orders.billing.retry.1m"),
            (90, "orders.billing.retry.90s"),
            (600, "orders.billing.retry.10m"),
            (7_200, "orders.billing.retry.2h"),
            (86_400, "orders.billing.retry.24h"),
        ] {
            let found = retry_topic("orders", "billing", Duration::from_secs(seconds));
            assert_eq!(found, expected);
        }
        assert_eq!(
            retry_topic("orders", "billing", Duration::from_millis(1_500)),
            "orders.billing.retry.1500ms"
        );
    }

    #[test]
    fn a_retry_topic_tells_its_retry_source() {
        for ms in [1_500, 5_000, 90_000, 600_000, 86_400_000] {
            let name = retry_topic("orders.new", "my.billing", Duration::from_millis(ms));
            assert_eq!(retry_source(&name, "my.billing"), Some("orders.new"));
            assert_eq!(retry_source(&name, "shipping"), None);
            assert!(is_retry_topic(&name), "{name}");
            assert_eq!(
                retry_delay(&name),
                Some(Duration::from_millis(ms)),
                "{name}"
            );
        }
        for other in [
            "orders",
            "orders.billing.retry.soon",
            "orders.billing.retry.s",
            "orders.billing.retry.5",
            "orders.billing.retries.5s",
            ".billing.retry.5s",
            "billing.retry.5s",
        ] {
            assert_eq!(retry_source(other, "billing"), None, "{other}");
            assert!(!is_retry_topic(other), "{other}");
        }
    }

    fn made() -> Made {
        let mut made = Made::default();
        for template in [
            "letters-{topic}",
            "{topic}.{group}.{listener}.x{topic}",
            "trash",
            "{topic}_",
            "{topic}",
        ] {
            made.add(template, "billing", "bills");
        }
        made
    }

    #[test]
    fn names_that_some_moontide_makes_are_known() {
        for name in [
            "orders.dead",
            "orders.dead.dead",
            "orders.shipping.retry.5s",
            "orders.shipping.retry.5s.billing.retry.1m",
            "letters-orders",
            "a.billing.bills.xa",
            "trash",
        ] {
            assert!(made().has(name), "{name}");
        }
        for name in [
            "orders",
            ".dead",
            "orders.retry.5s",
            "orders.shipping.retry.often",
            "letters-",
            "a.billing.bills.xb",
            "trash2",
            "é.dea",
            "éé.billing.bills.xé",
        ] {
            assert!(!made().has(name), "{name}");
        }
    }

    #[test]
    fn a_pattern_takes_a_made_name_only_where_it_names_it() {
        for (pattern, name, expected) in [
            ("^orders.*", "orders", true),
            ("^orders.*", "orders.new", true),
            ("^orders.*", "orders.dead", false),
            ("^orders.*", "orders.shipping.retry.5s", false),
            (r"^orders\.[a-z]+$", "orders.dead", false),
            (r"^orders\.d.*", "orders.dead", false),
            (r"^.*\.dead$", "orders.dead", true),
            (r"^orders\.(new|dead)$", "orders.dead", true),
            (r"^.*\.dead$", "orders.shipping.retry.5s.dead", true),
            (r"^orders\.\w+\.retry\..*", "orders.shipping.retry.5s", true),
            ("^letters-", "letters-orders", true),
            ("^le", "letters-orders", false),
            ("^t", "trash", false),
            ("^trash$", "trash", true),
            ("^orders", "orders_", false),
            ("^.*", "__consumer_offsets", false),
            ("^other", "orders.dead", false),
        ] {
            let pattern = Regex::new(pattern).unwrap();
            assert_eq!(
                made().is_taken(&pattern, name),
                expected,
                "{pattern} {name}"
            );
        }
    }
}
