//! Levels by target, as in `RUST_LOG`: `info` or `info,librdkafka=warn,moontide::consumer=debug`.
//!
//! `EnvFilter` takes any bare word for a target and turns everything else off, so that `level = "inof"` would silence
//! the daemon. What a config says is therefore checked more strictly than what the environment says.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is wrong with `directives`, if anything.
pub(super) fn error(directives: &str) -> Option<String> {
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

/// The targets in `directives` under which nothing is logged.
pub(super) fn strangers(directives: &str) -> Vec<&str> {
    directives
        .split(',')
        .filter_map(|part| part.rsplit_once('='))
        .map(|(target, _)| target.split('[').next().unwrap_or_default().trim())
        .filter(|target| !target.is_empty() && !is_ours(target))
        .collect()
}

/// A directive counts for every target that begins as it does.
fn is_ours(target: &str) -> bool {
    let within = |module: &str| match target.strip_prefix("moontide::") {
        Some(path) if path.contains("::") => path.split("::").next() == Some(module),
        Some(path) => module.starts_with(path),
        None => false,
    };
    ["handler", "librdkafka", "moontide::"]
        .iter()
        .any(|known| known.starts_with(target))
        || modules().any(within)
}

/// The crate's own, as `lib.rs` names them.
fn modules() -> impl Iterator<Item = &'static str> {
    include_str!("../lib.rs").lines().filter_map(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';')
    })
}

/// Spaces around commas are allowed, and `EnvFilter` takes none.
pub(crate) fn parse(directives: &str) -> Result<EnvFilter, ParseError> {
    let parts: Vec<&str> = directives.split(',').map(str::trim).collect();
    EnvFilter::builder()
        .with_regex(false)
        .parse(parts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(directives: &str, expected: Option<&str>) {
        let found = error(directives);
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

    #[test]
    fn a_target_under_which_nothing_is_logged_is_a_stranger() {
        for ours in [
            "info",
            "info,librdkafka=warn,handler=debug",
            "moontide=debug, moontide::consumer=trace",
            "moontide::cli::dev=trace",
            "moontide::lua[span]=debug",
        ] {
            assert_eq!(strangers(ours), [""; 0], "{ours}");
        }
        assert_eq!(
            strangers("info,orders=debug,moontide::consumr=warn,rdkafka=off"),
            ["orders", "moontide::consumr", "rdkafka"]
        );
    }
}
