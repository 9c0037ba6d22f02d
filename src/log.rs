//! Log lines of Moontide's own: one macro, and the fixed list of their targets.
//!
//! A target is a word of `[log] level`. It says which part of the daemon logs, and stays when a file moves.

use std::borrow::Cow;

/// Writes one line: `log!(warn, consumer, topic, partition, "the message")`.
///
/// The level is that of a `tracing` macro, the target one of [`target`]; fields and message follow as in `tracing`.
macro_rules! log {
    ($level:ident, $target:ident, $($line:tt)+) => {
        tracing::$level!(target: $crate::log::target::$target, $($line)+)
    };
}

pub(crate) use log;

/// The longest line of the log, in bytes. A longer one is cut.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 10;

/// The text, or its first `max` bytes with a mark that says how many there were.
pub(crate) fn cut(text: &[u8], max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return String::from_utf8_lossy(text);
    }
    let is_inside = |at: &usize| text[*at] & 0b1100_0000 == 0b1000_0000;
    // A character has four bytes at most.
    let mut ends = (max.saturating_sub(3)..=max).rev();
    let end = ends.find(|at| !is_inside(at)).unwrap_or(max);
    let kept = String::from_utf8_lossy(&text[..end]);
    Cow::Owned(format!("{kept} [cut: {} bytes]", text.len()))
}

macro_rules! targets {
    ($($name:ident: $about:literal)+) => {
        /// The targets.
        #[expect(non_upper_case_globals, reason = "a target reads as it is written in the configuration")]
        pub(crate) mod target {
            $(#[doc = $about] pub(crate) const $name: &str = stringify!($name);)+
        }

        /// Every target, in the order of the alphabet.
        pub(crate) const TARGETS: &[&str] = &[$(stringify!($name)),+];
    };
}

targets! {
    consumer: "group membership, partitions, commits"
    control: "the control socket and the commands of operators"
    crash: "the journal of running messages"
    daemon: "start, supervision and stop"
    dev: "the command `moontide dev`"
    handler: "the handlers: `ctx.logger`, `print`"
    http: "the HTTP server of metrics and probes"
    kafka: "producers and clients of Kafka"
    librdkafka: "librdkafka's own lines"
    log: "the log itself"
    lua: "Lua VMs and their watchdog"
    panic: "panics"
    reload: "reloads of configuration and handlers"
    signals: "signals of the process"
    systemd: "notifications to systemd"
    topics: "topics that must exist"
    watch: "changes of files"
    worker: "messages and their outcomes"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_the_targets() {
        let page = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/docs/operations/log.md"
        ));
        let section = page.split("\n## ").find(|one| one.starts_with("Targets\n"));
        let rows = section
            .unwrap()
            .lines()
            .filter(|line| line.starts_with("| `"));
        let listed: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        assert_eq!(listed, TARGETS);
    }

    #[track_caller]
    fn check(text: &str, max: usize, expected: &str) {
        assert_eq!(cut(text.as_bytes(), max), expected);
    }

    #[test]
    fn a_text_is_cut_between_characters_with_a_mark() {
        check("short", 5, "short");
        check("longer", 4, "long [cut: 6 bytes]");
        check("ab\u{20ac}", 4, "ab [cut: 5 bytes]");
        check("\u{1f30a}\u{1f30a}", 7, "\u{1f30a} [cut: 8 bytes]");
    }

    #[test]
    fn bytes_that_are_no_text_are_cut_too() {
        assert_eq!(
            cut(&[0x80; 9], 4).chars().count(),
            4 + " [cut: 9 bytes]".len()
        );
    }
}
