//! From the errors of SQLite to the errors of handlers. Pure.

use rusqlite::{Error, ErrorCode, ffi};

use crate::wait::{Fault, Value};

pub(super) fn fault(error: &Error) -> Fault {
    let (failure, text) = match error {
        Error::SqliteFailure(failure, text) => (failure, text.clone()),
        Error::SqlInputError { error, msg, .. } => (error, Some(msg.clone())),
        other => return Fault::new("invalid", other.to_string()),
    };
    let text = text.unwrap_or_else(|| failure.to_string());
    let kind = match failure.code {
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::FileLockingProtocolFailed
        | ErrorCode::DiskFull
        | ErrorCode::OutOfMemory => "busy",
        ErrorCode::CannotOpen
        | ErrorCode::PermissionDenied
        | ErrorCode::ReadOnly
        | ErrorCode::SystemIoFailure => "unreachable",
        ErrorCode::OperationInterrupted => "timeout",
        ErrorCode::TooBig => "tooLarge",
        ErrorCode::ConstraintViolation => constraint_kind(failure.extended_code),
        ErrorCode::Unknown if text.starts_with("no such table") => "notFound",
        ErrorCode::TypeMismatch | ErrorCode::ParameterOutOfRange | ErrorCode::Unknown => "invalid",
        _ => "refused",
    };
    let mut fields = Vec::new();
    if let Some(state) = sqlstate(failure.extended_code) {
        fields.push(("sqlstate", string(state)));
        // `UNIQUE constraint failed: orders.id`
        if let Some((_, constraint)) = text.split_once(" constraint failed: ") {
            fields.push(("constraint", string(constraint)));
        }
    }
    Fault {
        kind,
        message: text,
        fields,
    }
}

fn string(text: &str) -> Value {
    Value::Bytes(text.as_bytes().into())
}

/// That of PostgreSQL, so that one handler is for both.
fn sqlstate(extended: i32) -> Option<&'static str> {
    match extended {
        ffi::SQLITE_CONSTRAINT_UNIQUE
        | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
        | ffi::SQLITE_CONSTRAINT_ROWID => Some("23505"),
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Some("23503"),
        ffi::SQLITE_CONSTRAINT_NOTNULL => Some("23502"),
        ffi::SQLITE_CONSTRAINT_CHECK => Some("23514"),
        _ => None,
    }
}

fn constraint_kind(extended: i32) -> &'static str {
    match sqlstate(extended) {
        Some("23505" | "23503") => "conflict",
        _ => "invalid",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: i32, text: &str) -> Fault {
        fault(&Error::SqliteFailure(
            ffi::Error::new(code),
            Some(text.to_owned()),
        ))
    }

    #[test]
    fn an_error_has_its_kind() {
        for (code, text, kind) in [
            (ffi::SQLITE_BUSY, "database is locked", "busy"),
            (ffi::SQLITE_FULL, "database or disk is full", "busy"),
            (
                ffi::SQLITE_CANTOPEN,
                "unable to open database file",
                "unreachable",
            ),
            (
                ffi::SQLITE_READONLY,
                "attempt to write a readonly database",
                "unreachable",
            ),
            (ffi::SQLITE_INTERRUPT, "interrupted", "timeout"),
            (ffi::SQLITE_ERROR, "no such table: t", "notFound"),
            (ffi::SQLITE_ERROR, "near \"x\": syntax error", "invalid"),
            (
                ffi::SQLITE_CONSTRAINT_NOTNULL,
                "NOT NULL constraint failed: t.a",
                "invalid",
            ),
            (
                ffi::SQLITE_CORRUPT,
                "database disk image is malformed",
                "refused",
            ),
        ] {
            assert_eq!(of(code, text).kind, kind, "{text}");
        }
        let unique = of(
            ffi::SQLITE_CONSTRAINT_PRIMARYKEY,
            "UNIQUE constraint failed: t.id",
        );
        assert_eq!(unique.kind, "conflict");
        assert_eq!(
            unique.fields,
            [
                ("sqlstate", string("23505")),
                ("constraint", string("t.id"))
            ]
        );
    }
}
