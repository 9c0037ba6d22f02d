//! Levels by target, as in `RUST_LOG`: `info` or `info,librdkafka=warn,moontide::consumer=debug`.
//!
//! `EnvFilter` takes any bare word for a target and turns everything else off, so that `level = "inof"` would silence
//! the daemon. What a config says is therefore checked more strictly than what the environment says.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// They win over the config, the first one first.
const VARIABLES: [&str; 2] = ["MOONTIDE_LOG", "RUST_LOG"];

/// What is wrong with `directives`, if anything: for `[log] level`.
pub(crate) fn level_error(directives: &str) -> Option<String> {
    for part in directives.split(',').map(str::trim) {
        let level = part
            .rsplit_once('=')
            .map_or(part, |(_, level)| level.trim());
        let is_level = LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
        if !is_level {
            let levels = LEVELS.join("`, `");
            return Some(format!(
                "`{part}` is neither a level (`{levels}`) nor `target=level`"
            ));
        }
    }
    parse(directives).err().map(|error| error.to_string())
}

/// Spaces around commas are allowed, and `EnvFilter` takes none.
pub(super) fn parse(directives: &str) -> Result<EnvFilter, ParseError> {
    let parts: Vec<&str> = directives.split(',').map(str::trim).collect();
    EnvFilter::builder()
        .with_regex(false)
        .parse(parts.join(","))
}

/// The variable of the environment that decides, if one is set, and its value.
pub(super) fn of_environment() -> Option<(&'static str, String)> {
    VARIABLES.into_iter().find_map(|name| {
        let value = std::env::var(name)
            .ok()
            .filter(|value| !value.trim().is_empty())?;
        Some((name, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(directives: &str, expected: Option<&str>) {
        let found = level_error(directives);
        match expected {
            None => assert_eq!(found, None),
            Some(part) => assert!(
                found.as_ref().is_some_and(|found| found.contains(part)),
                "{found:?}"
            ),
        }
    }

    #[test]
    fn a_level_and_levels_by_target_are_allowed() {
        check("info", None);
        check("WARN", None);
        check("info,librdkafka=warn", None);
        check("off, moontide::consumer=trace", None);
    }

    #[test]
    fn a_misspelt_level_is_refused_rather_than_taken_for_a_target() {
        check("inof", Some("`inof` is neither a level (`off`, `error`"));
        check("info,librdkafka", Some("`librdkafka` is neither"));
        check("librdkafka=loud", Some("`librdkafka=loud` is neither"));
        check("", Some("`` is neither"));
    }
}
