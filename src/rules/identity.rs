//! The identity of something that a handler does outside: equal each time that it does the same for the same message.
//! Pure.
//!
//! It has the group, the listener, and the origin of the message: retry topics do not change it. **The timestamp tells
//! topics apart** that were deleted and created again, and messages that have the offset of one that an unclean
//! election has lost. Every broker keeps it, and so do the headers of retry topics.

use std::fmt::Write as _;

use super::hex;

/// Longer ones are hashed: services limit the length of such keys.
const BYTES_MAX: usize = 200;

/// The message for which a handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin<'a> {
    pub(crate) group: &'a str,
    pub(crate) listener: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// -1 if the broker kept none.
    pub(crate) timestamp_ms: i64,
}

/// `ordinal` tells apart what the handler does for one message.
pub(crate) fn identity(origin: &Origin<'_>, ordinal: &str) -> String {
    let Origin {
        offset,
        timestamp_ms,
        ..
    } = origin;
    let scope = whole_scope(origin);
    shortened(format!("{scope}/{offset}/{timestamp_ms}/{ordinal}"))
}

/// The part that all messages of a partition have in common in a listener: one committed offset holds for them.
pub(crate) fn scope(origin: &Origin<'_>) -> String {
    shortened(whole_scope(origin))
}

fn whole_scope(origin: &Origin<'_>) -> String {
    let mut text = String::new();
    for name in [origin.group, origin.listener, origin.topic] {
        escape(&mut text, name);
        text.push('/');
    }
    // Writing to a string cannot fail.
    let _ = write!(text, "{}", origin.partition);
    text
}

fn shortened(text: String) -> String {
    if text.len() <= BYTES_MAX {
        return text;
    }
    "sha256:".to_owned() + &hex::encoded(&openssl::sha::sha256(text.as_bytes()))
}

/// What separates parts, or may not stand in a header, is written as `%2F`.
fn escape(text: &mut String, name: &str) {
    for byte in name.bytes() {
        match byte {
            b'/' | b'%' | 0..=b' ' | 0x7f.. | b'"' | b'\\' => _ = write!(text, "%{byte:02X}"),
            byte => text.push(char::from(byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin<'_> = Origin {
        group: "billing",
        listener: "orders",
        topic: "orders",
        partition: 3,
        offset: 42,
        timestamp_ms: 1_700_000_000_000,
    };

    #[test]
    fn it_names_the_message_and_the_deed() {
        let found = identity(&ORIGIN, "1");
        assert_eq!(found, "billing/orders/orders/3/42/1700000000000/1");
    }

    #[test]
    fn every_part_counts() {
        let changed = [
            Origin {
                group: "b",
                ..ORIGIN
            },
            Origin {
                listener: "b",
                ..ORIGIN
            },
            Origin {
                topic: "b",
                ..ORIGIN
            },
            Origin {
                partition: 4,
                ..ORIGIN
            },
            Origin {
                offset: 43,
                ..ORIGIN
            },
            // The topic was created anew, or the message came in place of a lost one.
            Origin {
                timestamp_ms: 7,
                ..ORIGIN
            },
        ];
        let mut all: Vec<_> = changed.iter().map(|one| identity(one, "1")).collect();
        all.push(identity(&ORIGIN, "1"));
        all.push(identity(&ORIGIN, "2"));
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_name_with_a_separator_is_no_other_name() {
        let one = Origin {
            group: "a/b",
            listener: "c",
            ..ORIGIN
        };
        let other = Origin {
            group: "a",
            listener: "b/c",
            ..ORIGIN
        };
        assert_ne!(identity(&one, "1"), identity(&other, "1"));
        let odd = Origin {
            listener: "ä\n\"",
            ..ORIGIN
        };
        assert!(identity(&odd, "1").starts_with("billing/%C3%A4%0A%22/"));
    }

    #[test]
    fn a_long_one_is_hashed_and_stays_unequal() {
        let long = "x".repeat(249);
        let origin = Origin {
            topic: &long,
            ..ORIGIN
        };
        let found = identity(&origin, "1");
        assert_eq!(found.len(), 71);
        assert!(found.starts_with("sha256:"));
        assert_eq!(found, identity(&origin, "1"));
        assert_ne!(found, identity(&origin, "2"));
        let found = scope(&origin);
        assert!(found.starts_with("sha256:") && found != identity(&origin, "1"));
    }

    #[test]
    fn the_messages_of_a_partition_have_one_scope_in_a_listener() {
        assert_eq!(scope(&ORIGIN), "billing/orders/orders/3");
        let later = Origin {
            offset: 43,
            timestamp_ms: 7,
            ..ORIGIN
        };
        assert_eq!(scope(&later), scope(&ORIGIN));
        for other in [
            Origin {
                group: "b",
                ..ORIGIN
            },
            Origin {
                listener: "b",
                ..ORIGIN
            },
            Origin {
                topic: "b",
                ..ORIGIN
            },
            Origin {
                partition: 30,
                ..ORIGIN
            },
        ] {
            assert_ne!(scope(&other), scope(&ORIGIN));
        }
    }
}
