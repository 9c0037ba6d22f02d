//! Levels by target, as in `RUST_LOG`: `info` or `info,librdkafka=warn,consumer=debug`.
//!
//! `EnvFilter` takes any bare word for a target and turns everything else off, so that `level = "inof"` would silence
//! the daemon. So `[log] level` is checked more strictly than `RUST_LOG`.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::log::TARGETS;
use crate::nearest::suggestion;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The error of `directives`, if they have one.
pub(super) fn error(directives: &str) -> Option<String> {
    for part in directives.split(',').map(str::trim) {
        let (target, level) = match part.rsplit_once('=') {
            Some((target, level)) => (Some(target), level.trim()),
            None => (None, part),
        };
        let is_level = LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
        if !is_level {
            let levels = LEVELS.join("`, `");
            return Some(format!(
                "`{part}` is neither a level (`{levels}`) nor `target=level`"
            ));
        }
        let target = target.map(|target| target.split('[').next().unwrap_or_default().trim());
        if let Some(target) = target.filter(|target| !TARGETS.contains(target)) {
            return Some(unknown(target, level));
        }
    }
    parse(directives).err().map(|error| error.to_string())
}

/// Targets were paths of modules in versions that were never released, but stand in configurations.
fn unknown(target: &str, level: &str) -> String {
    let path = target.strip_prefix("moontide").unwrap_or(target);
    let word = path.trim_start_matches("::");
    if word.is_empty() {
        return format!(
            "`{target}` is no log target; write the level alone (`{level}`) for all of Moontide's lines"
        );
    }
    let room = word.split("::").next().unwrap_or_default();
    let word = if TARGETS.contains(&room) { room } else { word };
    format!("`{target}` is no log target, {}", suggestion(word, TARGETS))
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
        check("off, consumer=trace", None);
    }

    #[test]
    fn a_misspelt_level_is_refused_rather_than_taken_for_a_target() {
        check("inof", Some("`inof` is neither a level (`off`, `error`"));
        check("info,librdkafka", Some("`librdkafka` is neither"));
        check("librdkafka=loud", Some("`librdkafka=loud` is neither"));
        check("", Some("`` is neither"));
    }

    #[test]
    fn a_target_under_which_nothing_is_logged_is_refused() {
        check("info,librdkafka=warn,handler=debug", None);
        check("info, worker[span]=debug", None);
        check("orders=debug", Some("`orders` is no log target"));
        check("consumr=warn", Some("did you mean `consumer`"));
    }

    #[test]
    fn the_path_of_a_module_names_the_new_word() {
        check(
            "moontide::consumer::intake=debug",
            Some("`moontide::consumer::intake` is no log target, did you mean `consumer`"),
        );
        check("moontide=debug", Some("write the level alone (`debug`)"));
    }
}
