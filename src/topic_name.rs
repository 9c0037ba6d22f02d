//! Names of topics that Moontide makes.

use std::time::Duration;

use crate::duration;

/// The topic in which messages of `topic` wait for `delay`: `orders.billing.retry.10m`.
pub(crate) fn retry_topic(topic: &str, group: &str, delay: Duration) -> String {
    format!("{topic}.{group}.retry.{}", duration::short(delay))
}

/// Of which topic's messages wait in the topic of that name; `None` for one that is no retry topic of the group.
pub(crate) fn retry_source<'a>(name: &'a str, group: &str) -> Option<&'a str> {
    let (rest, delay) = name.rsplit_once(".retry.")?;
    let digits = delay.trim_start_matches(|one: char| one.is_ascii_digit());
    let is_delay = digits.len() < delay.len() && matches!(digits, "h" | "m" | "s" | "ms");
    let source = rest.strip_suffix(group)?.strip_suffix('.')?;
    (is_delay && !source.is_empty()).then_some(source)
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
        }
        for other in [
            "orders",
            "orders.billing.retry.soon",
            "orders.billing.retry.s",
            "orders.billing.retry.5",
            ".billing.retry.5s",
            "billing.retry.5s",
        ] {
            assert_eq!(retry_source(other, "billing"), None, "{other}");
        }
    }
}
