//! `tide.time`.

use crate::lua::tests::*;

#[test]
fn times_go_into_text_and_back() {
    passes(
        r#"
        local t = tide.time
        local ms = t.parse("2024-05-01T12:00:00.123+02:00")
        assert(ms == 1714557600123 and math.type(ms) == "integer")
        assert(t.format(ms) == "2024-05-01T10:00:00.123Z")
        assert(t.format(ms, { zone = "Asia/Kolkata" }) == "2024-05-01T15:30:00.123+05:30")
        assert(t.format(ms, { format = "%d.%m.%Y", zone = "Europe/Berlin" }) == "01.05.2024")
        assert(t.format(ms, { format = "rfc2822" }) == "Wed, 1 May 2024 10:00:00 +0000")
        assert(t.parse(t.format(ms, { format = "rfc2822" })) == ms - 123)
        assert(t.parse("01/05/2024 18:00", { format = "%d/%m/%Y %H:%M", zone = "Asia/Shanghai" }) == ms - 123)
        assert(t.parse("2024-05-01", { zone = "America/New_York" }) == 1714536000000)
        for _, ms in ipairs{ 0, -1, -62135596800000, 253402207200000 } do assert(t.parse(t.format(ms)) == ms) end
        assert(t.format(1e3) == "1970-01-01T00:00:01.000Z")
        "#,
    );
}

#[test]
fn times_have_parts() {
    passes(
        r#"
        local t = tide.time
        local parts = t.fields(1714557600123, "Europe/Berlin")
        assert(parts.year == 2024 and parts.month == 5 and parts.day == 1 and parts.hour == 12)
        assert(parts.minute == 0 and parts.second == 0 and parts.millisecond == 123)
        assert(parts.weekday == 3 and parts.yearDay == 122 and parts.offset == 7200)
        assert(parts.zone == "Europe/Berlin" and parts.abbreviation == "CEST")
        assert(t.of(parts) == 1714557600123)
        assert(t.of{ year = 2024, month = 5, day = 1 } == 1714521600000)
        assert(t.of{ year = 2024 } == t.parse("2024-01-01"))
        assert(t.of{ year = 2024, offset = 3600 } == t.parse("2023-12-31T23:00Z"))
        local utc = t.fields(0)
        assert(utc.zone == "UTC" and utc.offset == 0 and utc.year == 1970 and t.of(utc) == 0)
        assert(t.fields(0, "+05:30").zone == "+05:30")
        -- An hour that does not exist is the one after it; of a repeated one it is the first.
        assert(t.of{ year = 2024, month = 3, day = 31, hour = 2, minute = 30, zone = "Europe/Berlin" } == t.parse("2024-03-31T01:30Z"))
        assert(t.of{ year = 2024, month = 10, day = 27, hour = 2, minute = 30, zone = "Europe/Berlin" } == t.parse("2024-10-27T00:30Z"))
        "#,
    );
}

#[test]
fn the_calendar_counts() {
    passes(
        r#"
        local t = tide.time
        local ms = t.parse("2024-03-30T12:34:56.789Z")
        assert(t.startOf(ms, "day", "Europe/Berlin") == t.parse("2024-03-29T23:00Z"))
        assert(t.startOf(ms, "week") == t.parse("2024-03-25") and t.startOf(ms, "quarter") == t.parse("2024-01-01"))
        assert(t.startOf(ms, "minute") == t.parse("2024-03-30T12:34Z"))
        -- A day of this zone has 23 hours, a span of hours has none.
        assert(t.add(ms, { days = 1 }, "Europe/Berlin") - ms == 23 * 3600000)
        assert(t.add(ms, { hours = 24 }, "Europe/Berlin") - ms == 24 * 3600000)
        assert(t.add(t.parse("2024-01-31"), { months = 1 }) == t.parse("2024-02-29"))
        assert(t.add(ms, { seconds = -1, milliseconds = 1 }) == ms - 999)
        assert(t.add(ms, {}) == ms)
        "#,
    );
}

#[test]
fn wrong_times_are_told() {
    for (code, expected) in [
        (
            "tide.time.parse('yesterday')",
            "`tide.time.parse`: `text` is \"yesterday\", no time of RFC 3339, ISO 8601 or RFC 2822; `format` reads others",
        ),
        (
            "tide.time.parse('x', { zone = 'Berlin' })",
            "`tide.time.parse`: there is no time zone \"Berlin\"; a zone is a name such as \"Asia/Shanghai\", \"UTC\" or an offset such as \"+08:00\"",
        ),
        (
            "tide.time.format(0, { format = 'YYYY' })",
            "any other format has fields such as `%Y-%m-%d`",
        ),
        (
            "tide.time.format(0, { zones = 'UTC' })",
            "`tide.time.format` knows no option `zones`, did you mean `zone`?",
        ),
        (
            "tide.time.format(1 << 60)",
            "`tide.time.format`: the time 1152921504606846976 is not within the years -9999 to 9999",
        ),
        (
            "tide.time.format('now')",
            "`tide.time.format` takes `ms` as an integer, not a string",
        ),
        (
            "tide.time.of{ month = 1 }",
            "`tide.time.of`: `year` is missing",
        ),
        (
            "tide.time.of{ year = 2023, month = 2, day = 29 }",
            "`tide.time.of`: there is no day 2023-02-29; `tide.time.add` counts beyond the end of a month",
        ),
        (
            "tide.time.of{ year = 2023, hour = 24 }",
            "`tide.time.of`: `hour` is 24, not an integer from 0 to 23",
        ),
        (
            "tide.time.startOf(0, 'decade')",
            "there is no unit \"decade\", there are `second`, `minute`, `hour`, `day`, `week`, `month`, `quarter`, `year`",
        ),
        (
            "tide.time.add(0, { day = 1 })",
            "`tide.time.add` knows no option `day`, did you mean `days`?",
        ),
        (
            "tide.time.add(0, { days = 0.5 })",
            "`tide.time.add`: `days` is 0.5, not an integer from -1000000000000 to 1000000000000",
        ),
    ] {
        let message = fails(&format!("return {code}")).message;
        assert!(message.ends_with(expected), "{code}: {message}");
    }
}
