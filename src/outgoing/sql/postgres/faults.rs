//! From the errors of PostgreSQL to the errors of handlers. Pure.
//!
//! **The kind says whether the message is to blame.** A server that shuts down, only reads or has no connections left
//! would refuse every message: such an error is one of `wait::AWAY`.

use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::ErrorResponseBody;

use crate::wait::{Fault, Value};

/// The most characters of a server's sentence.
const TEXT_MAX: usize = 300;

/// An `ErrorResponse`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) is_fatal: bool,
    pub(super) sqlstate: String,
    text: String,
    constraint: Option<String>,
    /// Of a `COPY`: the line that it was at.
    pub(super) line: Option<usize>,
}

/// What is broken in it is left out.
pub(super) fn read(body: &ErrorResponseBody) -> Reported {
    let mut reported = Reported::default();
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'V' => reported.is_fatal = value == "FATAL" || value == "PANIC",
            b'C' => reported.sqlstate = value,
            b'M' => reported.text = value,
            b'n' => reported.constraint = Some(value),
            b'W' => reported.line = line(&value),
            _ => {}
        }
    }
    reported
}

/// `COPY t, line 3, column a: "…"`. The context of a document within the row comes before it, and has lines of its own.
fn line(context: &str) -> Option<usize> {
    let mut lines = context.lines();
    let own = lines.find(|line| line.starts_with("COPY "))?;
    let (_, rest) = own.split_once(", line ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

impl Reported {
    pub(super) fn fault(&self) -> Fault {
        let Self { sqlstate, text, .. } = self;
        let place = match self.line {
            Some(line) => format!("row {line}: "),
            None => String::new(),
        };
        let hint = hint(sqlstate);
        let mut fields = vec![("sqlstate", string(sqlstate))];
        if let Some(constraint) = &self.constraint {
            fields.push(("constraint", string(constraint)));
        }
        Fault {
            // It is prepared again in the next run.
            kind: if self.is_stale() {
                "closed"
            } else {
                kind(sqlstate)
            },
            message: format!("{place}{} ({sqlstate}){hint}", harmless(text)),
            fields,
        }
    }

    /// Whether the statement is no longer prepared, or its result has changed, so that it has to be prepared again.
    pub(super) fn is_stale(&self) -> bool {
        match self.sqlstate.as_str() {
            "26000" => true,
            "0A000" => self.text.contains("cached plan"),
            _ => false,
        }
    }
}

fn string(text: &str) -> Value {
    Value::Bytes(text.as_bytes().into())
}

fn kind(sqlstate: &str) -> &'static str {
    match sqlstate {
        // Another row is in the way, or is missing; a failed serialization, or a deadlock.
        "23503" | "23505" | "23P01" | "40001" | "40P01" => "conflict",
        "25006" | "3D000" | "57P03" => "unreachable",
        "42501" => "refused",
        "42P01" => "notFound",
        "55P03" => "busy",
        "57014" => "timeout",
        "25P03" => "closed",
        _ => match sqlstate.get(..2).unwrap_or_default() {
            "08" | "57" => "closed",
            "28" | "58" => "unreachable",
            "53" => "busy",
            "54" => "tooLarge",
            "0A" | "22" | "23" | "25" | "42" => "invalid",
            _ => "refused",
        },
    }
}

fn hint(sqlstate: &str) -> &'static str {
    match sqlstate {
        "25006" => "; the server is a replica, or only reads: `url` has its address",
        "53300" => "; the server has too few connections for the `size` of all its clients",
        "28P01" | "28000" => "; `user` and `password` stand in its table, or in `url`",
        "26000" => "; a pool in front of the server needs `prepare = false` in the table",
        "25P02" => "; an earlier statement of the transaction has failed",
        _ => "",
    }
}

/// A server's sentence without control characters.
pub(super) fn harmless(text: &str) -> String {
    let shown: String = text.escape_debug().take(TEXT_MAX).collect();
    // Quotation marks are no harm.
    shown.replace("\\'", "'").replace("\\\"", "\"")
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use postgres_protocol::message::backend::Message;

    use super::*;

    fn read(body: &[u8]) -> Reported {
        let length = (body.len() as u32 + 4).to_be_bytes();
        let mut message = BytesMut::from(&[b"E", &length[..], body].concat()[..]);
        match Message::parse(&mut message) {
            Ok(Some(Message::ErrorResponse(body))) => super::read(&body),
            _ => panic!("it is an error"),
        }
    }

    #[test]
    fn an_error_has_its_kind_its_state_and_its_constraint() {
        let body = b"SERROR\0VERROR\0C23505\0Mduplicate key value violates unique constraint \"orders_pkey\"\0\
            DKey (id)=(secret) already exists.\0norders_pkey\0WCOPY orders, line 3, column id: \"secret\"\0\0";
        let reported = read(body);
        assert!(!reported.is_fatal);
        let fault = reported.fault();
        assert_eq!(fault.kind, "conflict");
        assert_eq!(
            fault.message,
            "row 3: duplicate key value violates unique constraint \"orders_pkey\" (23505)"
        );
        let fields = [
            ("sqlstate", string("23505")),
            ("constraint", string("orders_pkey")),
        ];
        assert_eq!(fault.fields, fields);
    }

    #[test]
    fn the_row_of_a_copy_is_not_the_line_of_a_document_in_it() {
        let copied = "JSON data, line 1: ada\nCOPY orders, line 3, column body: \"ada\"";
        assert_eq!(line(copied), Some(3));
        assert_eq!(line("JSON data, line 1: ada"), None);
    }

    #[test]
    fn an_error_of_a_server_that_serves_nobody_is_not_the_messages() {
        for sqlstate in [
            "08006", "25006", "28P01", "3D000", "53100", "53300", "55P03", "57P01", "57P02",
            "57P03", "58030",
        ] {
            assert!(crate::wait::AWAY.contains(&kind(sqlstate)), "{sqlstate}");
        }
        for (sqlstate, expected) in [
            ("40001", "conflict"),
            ("40P01", "conflict"),
            ("23503", "conflict"),
            ("23502", "invalid"),
            ("23514", "invalid"),
            ("22P02", "invalid"),
            ("42601", "invalid"),
            ("42P01", "notFound"),
            ("42501", "refused"),
            ("54000", "tooLarge"),
            ("57014", "timeout"),
            ("P0001", "refused"),
            ("XX000", "refused"),
            ("25P02", "invalid"),
            ("", "refused"),
        ] {
            assert_eq!(kind(sqlstate), expected, "{sqlstate}");
        }
    }

    #[test]
    fn a_broken_report_is_an_error_still() {
        assert_eq!(read(b"").fault().kind, "refused");
        assert_eq!(read(b"Mnot whole\0Cno end").text, "not whole");
        let fault = read(b"C57P01\0Ma\x1b[2J\n\0\0").fault();
        assert_eq!(fault.message, "a\\u{1b}[2J\\n (57P01)");
        assert!(read(b"C26000\0Mx\0\0").is_stale());
    }
}
