//! From the errors of MySQL and MariaDB to the errors of handlers. Pure.
//!
//! **The kind says whether the message is to blame.** A server that shuts down, only reads or has no connections left
//! would refuse every message: such an error is one of `wait::AWAY`.

use std::borrow::Cow;

use super::wire::Parts;
use crate::wait::{Fault, Value};

/// The most characters of a server's sentence.
const TEXT_MAX: usize = 300;

const LOCK_WAIT: u16 = 1205;
const DEADLOCK: u16 = 1213;
const DUPLICATE: u16 = 1062;
const UNPREPARABLE: u16 = 1295;
const ONLY_READS: u16 = 1792;

/// An error packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) code: u16,
    sqlstate: String,
    text: String,
    /// The row that an `insert` was at.
    pub(super) row: Option<usize>,
    /// The transaction of the call itself only reads.
    pub(super) only_reads: bool,
}

/// Before the log-in an error has no SQLSTATE.
pub(super) fn read(body: &[u8]) -> Reported {
    let mut parts = Parts(body.get(1..).unwrap_or_default());
    let code = parts.u16().unwrap_or_default();
    let (sqlstate, text) = match parts.0.split_first() {
        Some((b'#', rest)) => rest.split_at(rest.len().min(5)),
        _ => (&b"HY000"[..], parts.0),
    };
    let string = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Reported {
        code,
        sqlstate: string(sqlstate),
        text: string(text),
        ..Reported::default()
    }
}

impl Reported {
    pub(super) fn fault(&self) -> Fault {
        let Self { code, sqlstate, .. } = self;
        let place = match self.row {
            Some(row) => format!("row {row}: "),
            None => String::new(),
        };
        let mut fields = vec![("sqlstate", string(sqlstate))];
        if let Some(constraint) = self.constraint() {
            fields.push(("constraint", string(constraint)));
        }
        let (text, hint) = (harmless(&self.shown()), hint(*code));
        Fault {
            kind: self.kind(),
            message: format!("{place}{text} ({code}, {sqlstate}){hint}"),
            fields,
        }
    }

    /// The sentence without the value that is there already, which may be secret: `Duplicate entry 'value' for key 'name'`.
    fn shown(&self) -> Cow<'_, str> {
        match self.text.rsplit_once("' for key ") {
            Some((_, key)) if self.code == DUPLICATE => {
                format!("Duplicate entry for key {key}").into()
            }
            _ => (&*self.text).into(),
        }
    }

    /// The name of the key or the constraint that was violated.
    fn constraint(&self) -> Option<&str> {
        let quoted = |start: &str, end: char| {
            let (_, rest) = self.text.rsplit_once(start)?;
            rest.split_once(end).map(|(name, _)| name)
        };
        match self.code {
            DUPLICATE | 1586 => {
                let name = quoted("for key '", '\'')?;
                // MySQL writes the table before it.
                Some(name.split_once('.').map_or(name, |(_, name)| name))
            }
            1451 | 1452 | 4025 => quoted("CONSTRAINT `", '`'),
            3819 => quoted("Check constraint '", '\''),
            _ => None,
        }
    }

    /// The row of the statement that the error names, from 1 on.
    pub(super) fn row_of_statement(&self) -> Option<usize> {
        let (_, row) = self.text.rsplit_once(" at row ")?;
        row.parse().ok()
    }

    /// Whether the statement has to be prepared again.
    pub(super) fn is_stale(&self) -> bool {
        matches!(self.code, 1243 | 1615)
    }

    /// Whether the statement runs only by the text protocol.
    pub(super) fn is_unpreparable(&self) -> bool {
        self.code == UNPREPARABLE
    }

    /// Whether the server has rolled the whole transaction back, unless it is open still.
    pub(super) fn may_roll_back(&self) -> bool {
        matches!(self.code, DEADLOCK | LOCK_WAIT)
    }

    pub(super) fn is_deadlock(&self) -> bool {
        self.code == DEADLOCK
    }

    /// Whether the server ends the connection with it.
    pub(super) fn is_fatal(&self) -> bool {
        matches!(
            self.code,
            1053 | 1079 | 1080 | 1152 | 1153 | 1158..=1161 | 1184 | 1927 | 4031
        )
    }

    /// Whether it says nothing of a `COMMIT`: killed, or failed within.
    pub(super) fn leaves_open(&self) -> bool {
        self.is_fatal() || matches!(self.code, 1180 | 1317)
    }

    fn kind(&self) -> &'static str {
        match self.code {
            // Another row is in the way, or is missing; a deadlock, or a changed record.
            DUPLICATE | 1020 | DEADLOCK | 1216 | 1217 | 1451 | 1452 | 1586 | 1761 => "conflict",
            ONLY_READS if self.only_reads => "invalid",
            1290 if !self.text.contains("read-only") && !self.text.contains("read_only") => {
                "refused"
            }
            // No such database, host or user; it shuts down, or only reads.
            1044 | 1045 | 1049 | 1053 | 1129 | 1130 | 1290 | 1698 | ONLY_READS | 1836 => {
                "unreachable"
            }
            // Connections, threads, memory, disk, locks, prepared statements.
            1021 | 1037 | 1038 | 1040 | 1041 | 1114 | 1135 | 1203 | LOCK_WAIT | 1206 | 1226
            | 1461 | 3572 => "busy",
            // Killed, or longer than the server allows.
            1317 | 1969 | 3024 => "timeout",
            // The connection ends; or it is prepared again in the next run.
            1079 | 1080 | 1152 | 1158..=1161 | 1184 | 1243 | 1615 | 1927 | 4031 => "closed",
            1153 | 1301 | 1390 => "tooLarge",
            1051 | 1146 => "notFound",
            // A missing right.
            1142 | 1143 | 1227 | 1370 => "refused",
            // A value that is missing or does not fit, or a statement that is wrong, of no class of its own.
            1210 | 1265 | UNPREPARABLE | 1364 | 1366 | 3819 | 4025 => "invalid",
            _ => match self.sqlstate.get(..2).unwrap_or_default() {
                "08" => "closed",
                "28" => "unreachable",
                "40" => "conflict",
                "0A" | "21" | "22" | "23" | "25" | "42" => "invalid",
                _ => "refused",
            },
        }
    }
}

fn string(text: &str) -> Value {
    Value::Bytes(text.as_bytes().into())
}

fn hint(code: u16) -> &'static str {
    match code {
        1040 | 1203 | 1226 => {
            "; the server has too few connections for the `size` of all its clients"
        }
        1044 | 1045 | 1698 => "; `user` and `password` stand in its table, or in `url`",
        1290 | ONLY_READS | 1836 => {
            "; the server is a replica, or only reads: `url` has its address"
        }
        1461 => "; `prepare = false` in the table keeps none",
        UNPREPARABLE => "; it takes no arguments",
        _ => "",
    }
}

/// A server's sentence without control characters.
fn harmless(text: &str) -> String {
    let shown: String = text.escape_debug().take(TEXT_MAX).collect();
    // Quotation marks are no harm.
    shown.replace("\\'", "'").replace("\\\"", "\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u16, text: &str) -> Vec<u8> {
        [&[0xFF][..], &code.to_le_bytes(), text.as_bytes()].concat()
    }

    #[test]
    fn an_error_has_its_kind_its_state_and_its_constraint() {
        for (code, text, constraint) in [
            (
                1062,
                "#23000Duplicate entry 'secret' for key 'PRIMARY'",
                "PRIMARY",
            ),
            (
                1062,
                "#23000Duplicate entry 'it''s' for key 'orders.by_name'",
                "by_name",
            ),
            (
                1452,
                "#23000Cannot add or update a child row: a foreign key constraint fails (`d`.`t`, CONSTRAINT `fk` \
                 FOREIGN KEY (`p`) REFERENCES `t` (`id`))",
                "fk",
            ),
            (4025, "#23000CONSTRAINT `t.n` failed for `d`.`t`", "t.n"),
            (
                3819,
                "#HY000Check constraint 't_chk_1' is violated.",
                "t_chk_1",
            ),
        ] {
            let fault = read(&packet(code, text)).fault();
            let field = ("constraint", string(constraint));
            assert_eq!(fault.fields.get(1), Some(&field), "{text}");
            assert!(!fault.message.contains("secret"), "{}", fault.message);
        }
        let fault = read(&packet(1062, "#23000Duplicate entry 'x' for key 'a'")).fault();
        assert_eq!(fault.kind, "conflict");
        assert_eq!(fault.message, "Duplicate entry for key 'a' (1062, 23000)");
        assert_eq!(fault.fields[0], ("sqlstate", string("23000")));
    }

    #[test]
    fn an_error_of_a_server_that_serves_nobody_is_not_the_messages() {
        for (code, text) in [
            (1040, "Too many connections"),
            (1045, "#28000Access denied for user 'a'@'b'"),
            (1049, "#42000Unknown database 'd'"),
            (1053, "#08S01Server shutdown in progress"),
            (1205, "#HY000Lock wait timeout exceeded"),
            (
                1290,
                "#HY000The MariaDB server is running with the --read-only option",
            ),
            (
                1792,
                "#25006Cannot execute statement in a READ ONLY transaction",
            ),
            (1836, "#HY000Running in read-only mode"),
            (1927, "#70100Connection was killed"),
            (
                3159,
                "#08004Connections using insecure transport are prohibited",
            ),
        ] {
            let fault = read(&packet(code, text)).fault();
            assert!(crate::wait::AWAY.contains(&fault.kind), "{fault:?}");
        }
        for (code, text, expected) in [
            (1213, "#40001Deadlock found", "conflict"),
            (1048, "#23000Column 'n' cannot be null", "invalid"),
            (
                1064,
                "#42000You have an error in your SQL syntax",
                "invalid",
            ),
            (1136, "#21S01Column count doesn't match", "invalid"),
            (1142, "#42000INSERT command denied", "refused"),
            (1146, "#42S02Table 'd.t' doesn't exist", "notFound"),
            (1153, "#08S01Got a packet bigger", "tooLarge"),
            (1290, "#HY000--secure-file-priv option", "refused"),
            (1317, "#70100Query execution was interrupted", "timeout"),
            (1366, "#22007Incorrect integer value", "invalid"),
            (
                1406,
                "#22001Data too long for column 'a' at row 3",
                "invalid",
            ),
            (1644, "#45000mine", "refused"),
            (9999, "", "refused"),
        ] {
            assert_eq!(read(&packet(code, text)).fault().kind, expected, "{code}");
        }
        let mut own = read(&packet(1792, "#25006READ ONLY"));
        own.only_reads = true;
        assert_eq!(own.fault().kind, "invalid");
    }

    #[test]
    fn a_broken_report_is_an_error_still() {
        assert_eq!(read(b"").fault().kind, "refused");
        assert_eq!(read(b"\xFF\x01").fault().kind, "refused");
        let reported = read(&packet(1406, "#22001Data too long for column 'a' at row 3"));
        assert_eq!(reported.row_of_statement(), Some(3));
        let fault = read(&packet(1, "#HY000a\u{1b}[2J\n")).fault();
        assert_eq!(fault.message, "a\\u{1b}[2J\\n (1, HY000)");
    }
}
