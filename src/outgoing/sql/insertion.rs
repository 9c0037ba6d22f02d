//! The text of `INSERT`, which PostgreSQL and SQLite have in common. Pure.

use std::fmt::Write as _;

use crate::wait::sql::{Insert, OnConflict};

/// A name in quotation marks, so that any name is possible, and none is more than a name.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The name of a table, with its schema.
pub(super) fn table(parts: &[String]) -> String {
    let parts: Vec<_> = parts.iter().map(|part| quoted(part)).collect();
    parts.join(".")
}

pub(super) fn columns(insert: &Insert) -> String {
    let columns: Vec<_> = insert.columns.iter().map(|name| quoted(name)).collect();
    columns.join(", ")
}

/// For this many rows. `placeholder` writes the one of a number from 1 on.
pub(super) fn text(insert: &Insert, rows: usize, placeholder: fn(usize) -> String) -> String {
    let width = insert.columns.len();
    let mut text = format!(
        "INSERT INTO {} ({}) VALUES ",
        table(&insert.table),
        columns(insert)
    );
    for row in 0..rows {
        let places: Vec<_> = (1..=width)
            .map(|at| placeholder(row * width + at))
            .collect();
        let comma = if row == 0 { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}({})", places.join(", "));
    }
    if let Some(on_conflict) = &insert.on_conflict {
        text.push_str(&clause(on_conflict));
    }
    text
}

fn clause(on_conflict: &OnConflict) -> String {
    let OnConflict { columns, update } = on_conflict;
    let of = if columns.is_empty() {
        String::new()
    } else {
        let columns: Vec<_> = columns.iter().map(|name| quoted(name)).collect();
        format!(" ({})", columns.join(", "))
    };
    if update.is_empty() {
        return format!(" ON CONFLICT{of} DO NOTHING");
    }
    let update: Vec<_> = update
        .iter()
        .map(|name| format!("{0} = excluded.{0}", quoted(name)))
        .collect();
    format!(" ON CONFLICT{of} DO UPDATE SET {}", update.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_rows_numbered() {
        let mut insert = Insert {
            table: vec!["app".to_owned(), "a\"b".to_owned()],
            columns: vec!["id".to_owned(), "Name".to_owned()],
            rows: Vec::new(),
            on_conflict: None,
        };
        assert_eq!(
            text(&insert, 2, |number| format!("${number}")),
            r#"INSERT INTO "app"."a""b" ("id", "Name") VALUES ($1, $2), ($3, $4)"#
        );
        insert.on_conflict = Some(OnConflict {
            columns: Vec::new(),
            update: Vec::new(),
        });
        let nothing = text(&insert, 1, |_| "?".to_owned());
        assert!(
            nothing.ends_with("VALUES (?, ?) ON CONFLICT DO NOTHING"),
            "{nothing}"
        );
        insert.on_conflict = Some(OnConflict {
            columns: vec!["id".to_owned()],
            update: vec!["Name".to_owned()],
        });
        let update = text(&insert, 1, |_| "?".to_owned());
        assert!(
            update.ends_with(r#" ON CONFLICT ("id") DO UPDATE SET "Name" = excluded."Name""#),
            "{update}"
        );
    }
}
