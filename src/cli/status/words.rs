//! Times, numbers and foreign text in a form for people.

use crate::telemetry::logging::fields;

/// A duration in its largest unit, with the next smaller one while that is relevant.
pub(super) fn duration(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |large: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {small_unit}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) if minutes < 10 => pair(minutes, "min", seconds % 60, "s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => pair(hours, "h", minutes % 60, "min"),
        _ => pair(days, "d", hours % 24, "h"),
    }
}

/// `1 order`, `2 orders`.
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Foreign text, made harmless for a terminal as in the log: the error of a handler may contain any character, also
/// one that changes the direction of what follows.
pub(super) fn harmless(text: &str) -> String {
    fields::escaped(&text.replace('\t', "    "))
}

/// The first line, cut to `width` characters.
pub(super) fn first_line(text: &str, width: Option<usize>) -> String {
    let mut lines = text.trim().lines();
    let line = harmless(lines.next().unwrap_or_default());
    let width = width.unwrap_or(usize::MAX);
    let more = lines.next().is_some() || line.chars().count() > width;
    if !more {
        return line;
    }
    let kept: String = line.chars().take(width.saturating_sub(2)).collect();
    format!("{} …", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let cases = [
            (-5, "0 s"),
            (59_999, "59 s"),
            (60_000, "1 min"),
            (61_000, "1 min 1 s"),
            (610_000, "10 min"),
            (3_600_000, "1 h"),
            (7_500_000, "2 h 5 min"),
            (86_400_000, "1 d"),
            (90_000_000, "1 d 1 h"),
        ];
        for (ms, expected) in cases {
            assert_eq!(duration(ms), expected);
        }
    }

    #[test]
    fn a_line_is_cut_where_the_terminal_ends() {
        assert_eq!(first_line("short", Some(10)), "short");
        assert_eq!(first_line("exactly 10", Some(10)), "exactly 10");
        assert_eq!(first_line("längstes Wort", Some(10)), "längstes …");
        assert_eq!(first_line("one\ntwo", None), "one …");
        assert_eq!(first_line("", Some(10)), "");
        assert_eq!(first_line("\x1b[31mred", None), "\\u{1b}[31mred");
        assert_eq!(first_line("\u{202e}der", None), "\\u{202e}der");
    }
}
