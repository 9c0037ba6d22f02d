//! The format of `/metrics` that a client requests. Pure.

use crate::telemetry::metrics::Format;

/// Selects by the header `Accept`; `OpenMetrics` if the header is empty, or names no available format.
pub(super) fn format(accept: &str) -> Format {
    let quality = |names: [&str; 3]| {
        let ranges = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next()?;
            let place = names
                .iter()
                .position(|one| name.eq_ignore_ascii_case(one))?;
            let quality = parts
                .filter_map(|part| part.split_once('='))
                .find(|(key, _)| key.trim().eq_ignore_ascii_case("q"))
                .map_or(Some(1.0), |(_, value)| value.trim().parse::<f32>().ok())?;
            Some((place, quality))
        });
        // The most specific range counts.
        let best = ranges.min_by_key(|(place, _)| *place);
        best.map_or(0.0, |(_, quality)| quality)
    };
    let open = quality(["application/openmetrics-text", "application/*", "*/*"]);
    let text = quality(["text/plain", "text/*", "*/*"]);
    if text > open {
        Format::Text
    } else {
        Format::OpenMetrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_the_one_that_is_asked_for() {
        for (accept, expected) in [
            ("", Format::OpenMetrics),
            ("*/*", Format::OpenMetrics),
            ("application/json", Format::OpenMetrics),
            ("text/plain;version=0.0.4", Format::Text),
            ("text/plain; version=0.0.4; q=1, */*;q=0.1", Format::Text),
            ("Text/*", Format::Text),
            ("application/openmetrics-text;q=0, */*", Format::Text),
            (
                "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;q=0.2,text/plain;version=0.0.4;q=0.5",
                Format::Text,
            ),
        ] {
            assert_eq!(format(accept), expected, "{accept}");
        }
    }
}
