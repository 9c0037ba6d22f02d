//! The messages finished beyond the position of a partition, as the metadata of its commit, so that a restart does
//! not run them again.
//!
//! Pure. The metadata is a string: a prefix, then base64 of numbers and a checksum. Anything that `encode` would not
//! write for the same position and listeners is ignored: metadata of other programs, another version, a flipped bit.
//! **An unfinished message is never taken for finished.** Nothing counts below the position, at or beyond the end of
//! the log, or after a later change of leader.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Includes the version of the rest.
const PREFIX: &str = "moontide finished 1 ";
/// The brokers' own default limit.
const TEXT_BYTES_MAX: usize = 4096;
const CRC_BYTES: usize = 4;
const BYTES_MAX: usize = (TEXT_BYTES_MAX - PREFIX.len()) / 4 * 3 - CRC_BYTES;

/// The properties that a group's metadata must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// The committed position.
    pub(crate) offset: i64,
    /// The leader epoch of the message before the offset; -1: unknown.
    pub(crate) leader_epoch: i32,
    /// `listeners_hash` of the listeners for which the messages are finished.
    pub(crate) listeners: u32,
}

/// Offsets that are finished beyond the position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Finished {
    /// In order, without overlap or contact.
    pub(crate) ranges: Vec<Range<i64>>,
    /// No message in them was written under a later leader epoch (-1: unknown); a message of a later one is another
    /// message.
    pub(crate) leader_epoch: i32,
}

/// A hash of the names of a topic's listeners, independent of their order; the same in every process.
pub(crate) fn listeners_hash<'a>(names: impl Iterator<Item = &'a str>) -> u32 {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    let mut hasher = crc32fast::Hasher::new();
    for name in names {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
    }
    hasher.finalize()
}

/// Empty if nothing is finished beyond the position. Ranges that do not fit are left out, the farthest first.
pub(crate) fn encode(place: Agreement, finished: &Finished) -> String {
    write(place, finished, BYTES_MAX).0
}

/// The whole of what is finished beyond the position, in a string of at most so many bytes. `None`: it does not fit.
pub(crate) fn encode_all(place: Agreement, finished: &Finished, most: usize) -> Option<String> {
    let most = most.min(TEXT_BYTES_MAX).saturating_sub(PREFIX.len()) * 3 / 4;
    let (text, is_whole) = write(place, finished, most.saturating_sub(CRC_BYTES));
    is_whole.then_some(text)
}

/// The bytes that the ranges have in a string of so many.
pub(crate) fn room(most: usize) -> usize {
    const HEADER: usize = 10 + 5 + 5 + 4;
    let most = most.min(TEXT_BYTES_MAX).saturating_sub(PREFIX.len()) * 3 / 4;
    most.saturating_sub(CRC_BYTES + HEADER)
}

/// Whether all ranges fit into so many bytes, and the string of those that do.
fn write(place: Agreement, finished: &Finished, most: usize) -> (String, bool) {
    let mut bytes = Vec::new();
    put(&mut bytes, place.offset as u64);
    put(&mut bytes, u64::from(place.leader_epoch as u32));
    put(&mut bytes, u64::from(finished.leader_epoch as u32));
    bytes.extend(place.listeners.to_le_bytes());
    let mut at = place.offset;
    let (mut is_empty, mut is_whole) = (true, true);
    for range in &finished.ranges {
        if range.start < at || range.is_empty() {
            continue;
        }
        let before = bytes.len();
        put(&mut bytes, range.start.abs_diff(at));
        put(&mut bytes, range.end.abs_diff(range.start));
        if bytes.len() > most {
            bytes.truncate(before);
            is_whole = false;
            break;
        }
        at = range.end;
        is_empty = false;
    }
    if is_empty {
        return (String::new(), is_whole);
    }
    bytes.extend(checksum(&bytes).to_le_bytes());
    let text = format!("{PREFIX}{}", STANDARD_NO_PAD.encode(bytes));
    (text, is_whole)
}

/// Whether the metadata lists finished messages, for whatever place.
pub(crate) fn lists(text: &str) -> bool {
    text.starts_with("moontide finished ")
}

/// The finished messages according to a commit's metadata, in a log that ends before `log_end`.
pub(crate) fn decode(text: &str, place: Agreement, log_end: i64) -> Option<Finished> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let bytes = STANDARD_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
    let (bytes, crc) = bytes.split_last_chunk()?;
    if checksum(bytes) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut rest = bytes;
    let offset = i64::try_from(take(&mut rest)?).ok()?;
    let leader_epoch = take(&mut rest)?;
    let newest = take(&mut rest)?;
    let (listeners, mut rest) = rest.split_first_chunk()?;
    if offset != place.offset
        || leader_epoch != u64::from(place.leader_epoch as u32)
        || u32::from_le_bytes(*listeners) != place.listeners
    {
        return None;
    }
    let mut at = offset;
    let mut ranges: Vec<Range<i64>> = Vec::new();
    while !rest.is_empty() {
        let start = at.checked_add_unsigned(take(&mut rest)?)?;
        at = start.checked_add_unsigned(take(&mut rest)?)?;
        if at <= start || at > log_end {
            return None;
        }
        ranges.push(start..at);
    }
    let leader_epoch = u32::try_from(newest).ok()? as i32;
    Some(Finished {
        ranges,
        leader_epoch,
    })
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(PREFIX.as_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Seven bits per byte, the low ones first; all bytes but the last have the high bit set.
fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            return None;
        }
        value |= part << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Agreement = Agreement {
        offset: 100,
        leader_epoch: 3,
        listeners: 0xdead_beef,
    };

    fn finished(ranges: &[Range<i64>]) -> Finished {
        Finished {
            ranges: ranges.to_vec(),
            leader_epoch: 4,
        }
    }

    /// Disjoint ranges from (gap, length), the first gap free.
    fn ranges(place: Agreement, steps: &[(u32, u32)]) -> Finished {
        let mut at = place.offset;
        let mut found = Finished {
            ranges: Vec::new(),
            leader_epoch: place.leader_epoch.saturating_add(1),
        };
        for &(gap, length) in steps {
            let start = at + i64::from(gap);
            at = start + i64::from(length);
            found.ranges.push(start..at);
        }
        found
    }

    #[track_caller]
    fn ignored(text: &str, place: Agreement, log_end: i64) {
        assert_eq!(decode(text, place, log_end), None);
    }

    #[test]
    fn nothing_finished_is_no_metadata() {
        assert_eq!(encode(PLACE, &finished(&[])), "");
        assert_eq!(encode(PLACE, &finished(&[90..95, 101..101])), "");
    }

    #[test]
    fn metadata_of_another_place_is_ignored() {
        let text = encode(PLACE, &finished(&[101..105, 110..120]));
        assert!(decode(&text, PLACE, 120).is_some());
        ignored(&text, PLACE, 119);
        ignored(
            &text,
            Agreement {
                offset: 99,
                ..PLACE
            },
            120,
        );
        let leader_epoch = -1;
        ignored(
            &text,
            Agreement {
                leader_epoch,
                ..PLACE
            },
            120,
        );
        let listeners = 0;
        ignored(&text, Agreement { listeners, ..PLACE }, 120);
    }

    #[test]
    fn somebody_elses_metadata_is_ignored() {
        let other =
            encode(PLACE, &finished(&[101..105, 107..108])).replace("finished 1", "finished 2");
        for text in [
            "",
            "moontide start 17",
            "moontide finished 1 ",
            "{\"a\":1}",
            &other,
        ] {
            ignored(text, PLACE, i64::MAX);
        }
    }

    #[test]
    fn a_range_that_begins_at_the_position_stands() {
        let found = finished(&[100..102, 103..104]);
        assert_eq!(decode(&encode(PLACE, &found), PLACE, 104), Some(found));
    }

    #[test]
    fn the_hash_is_the_same_in_every_process_and_knows_where_a_name_ends() {
        let hash = |names: &[&str]| listeners_hash(names.iter().copied());
        assert_eq!(hash(&["orders"]), 0x7d94_6e3c);
        assert_eq!(hash(&["a", "b"]), hash(&["b", "a"]));
        assert_ne!(hash(&["a", "b"]), hash(&["ab"]));
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }

    #[test]
    fn what_does_not_fit_is_left_out_from_the_far_end() {
        let all = ranges(PLACE, &vec![(1, 1); 5_000]);
        let text = encode(PLACE, &all);
        assert!(text.len() <= TEXT_BYTES_MAX && text.len() > TEXT_BYTES_MAX - 8);
        let found = decode(&text, PLACE, i64::MAX).unwrap();
        assert_eq!(found.ranges, all.ranges[..found.ranges.len()]);
        assert!(found.ranges.len() > 1_400);
    }

    #[test]
    fn all_ranges_are_written_or_none() {
        let all = ranges(PLACE, &vec![(1, 1); 1_000]);
        let text = encode_all(PLACE, &all, TEXT_BYTES_MAX).unwrap();
        assert_eq!(decode(&text, PLACE, i64::MAX), Some(all.clone()));
        assert_eq!(encode_all(PLACE, &all, text.len()), Some(text.clone()));
        assert_eq!(encode_all(PLACE, &all, text.len() - 4), None);
        let more = ranges(PLACE, &vec![(1, 1); 5_000]);
        assert_eq!(encode_all(PLACE, &more, usize::MAX), None);
        assert_eq!(
            encode_all(PLACE, &Finished::default(), 0),
            Some(String::new())
        );
    }

    fn place() -> impl Strategy<Value = Agreement> {
        (0..i64::MAX / 2, -1..i32::MAX, any::<u32>()).prop_map(
            |(offset, leader_epoch, listeners)| Agreement {
                offset,
                leader_epoch,
                listeners,
            },
        )
    }

    fn steps() -> impl Strategy<Value = Vec<(u32, u32)>> {
        prop::collection::vec((1_u32..=u32::MAX, 1_u32..=u32::MAX), 1..300)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(place in place(), steps in steps()) {
            let all = ranges(place, &steps);
            let end = all.ranges.last().map_or(0, |last| last.end);
            let text = encode(place, &all);
            prop_assert!(text.len() <= TEXT_BYTES_MAX);
            prop_assert_eq!(decode(&text, place, end), Some(all));
            prop_assert_eq!(decode(&text, place, end - 1), None);
        }

        #[test]
        fn a_bit_that_falls_over_is_noticed(
            place in place(),
            steps in prop::collection::vec((1_u32..100, 1_u32..100), 1..10),
            which in any::<prop::sample::Index>(),
            bit in 0..8_u32,
        ) {
            let mut bytes = encode(place, &ranges(place, &steps)).into_bytes();
            let index = which.index(bytes.len());
            bytes[index] ^= 1 << bit;
            let text = String::from_utf8_lossy(&bytes);
            prop_assert_eq!(decode(&text, place, i64::MAX), None);
        }

        #[test]
        fn any_text_is_ignored(text in ".*", place in place(), log_end in any::<i64>()) {
            prop_assert_eq!(decode(&text, place, log_end), None);
            prop_assert_eq!(decode(&format!("{PREFIX}{text}"), place, log_end), None);
        }

        #[test]
        fn any_bytes_with_a_right_checksum_mark_nothing_below_or_beyond(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            place in place(),
            log_end in any::<i64>(),
            is_ours in any::<bool>(),
        ) {
            let mut all = Vec::new();
            if is_ours {
                put(&mut all, place.offset as u64);
                put(&mut all, u64::from(place.leader_epoch as u32));
                put(&mut all, 0);
                all.extend(place.listeners.to_le_bytes());
            }
            all.extend(bytes);
            all.extend(checksum(&all).to_le_bytes());
            let text = format!("{PREFIX}{}", STANDARD_NO_PAD.encode(all));
            if let Some(found) = decode(&text, place, log_end) {
                let mut at = place.offset;
                for range in found.ranges {
                    prop_assert!(at <= range.start && range.start < range.end);
                    prop_assert!(range.end <= log_end);
                    at = range.end;
                }
            }
        }
    }
}
