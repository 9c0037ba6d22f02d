//! Many rows in one go: statements of many rows each, within one transaction.

use super::connection::{Connection, Failed};
use super::decode::Column;
use super::encode;
use crate::outgoing::sql::driver::Bounds;
use crate::wait::Value;
use crate::wait::sql::{Insert, OnConflict, Statement};

/// The most placeholders of a statement.
const PARAMETERS_MAX: usize = 65_535;
/// Rows of a statement: longer texts take the server more time than they save.
const ROWS_MAX: usize = 1_000;
/// Bytes of a statement, of those that the server takes.
const BYTES_MAX: usize = 8 << 20;

/// A name in quotation marks, so that any name is possible, and none is more than a name.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// The name of a table, with its database.
pub(super) fn table(parts: &[String]) -> String {
    let parts: Vec<_> = parts.iter().map(|part| quoted(part)).collect();
    parts.join(".")
}

fn columns(insert: &Insert) -> String {
    let columns: Vec<_> = insert.columns.iter().map(|name| quoted(name)).collect();
    columns.join(", ")
}

/// For this many rows.
fn text(insert: &Insert, rows: usize) -> String {
    let (table, columns) = (table(&insert.table), columns(insert));
    let row = format!("({})", vec!["?"; insert.columns.len()].join(", "));
    let rows = vec![&*row; rows].join(", ");
    let clause = insert
        .on_conflict
        .as_ref()
        .map_or_else(String::new, |one| clause(insert, one));
    format!("INSERT INTO {table} ({columns}) VALUES {rows}{clause}")
}

/// MySQL takes every unique key, and not one of certain columns. A row that stays gets a value that it has: IGNORE would
/// hide other errors, too.
fn clause(insert: &Insert, on_conflict: &OnConflict) -> String {
    let update: Vec<_> = if on_conflict.update.is_empty() {
        let first = insert.columns.iter().take(1);
        first
            .map(|name| format!("{0} = {0}", quoted(name)))
            .collect()
    } else {
        let update = on_conflict.update.iter();
        update
            .map(|name| format!("{0} = VALUES({0})", quoted(name)))
            .collect()
    };
    format!(" ON DUPLICATE KEY UPDATE {}", update.join(", "))
}

/// The number of rows of each statement.
fn parts(rows: &[Vec<Value>], bytes_max: usize) -> Vec<usize> {
    let mut parts = Vec::new();
    let (mut count, mut bytes) = (0, 0);
    for row in rows {
        let own: usize = row.iter().map(encode::size).sum();
        let is_full = count >= ROWS_MAX
            || (count + 1) * row.len() > PARAMETERS_MAX
            || bytes + own > bytes_max;
        if is_full && count > 0 {
            parts.push(count);
            (count, bytes) = (0, 0);
        }
        count += 1;
        bytes += own;
    }
    parts.push(count);
    parts
}

/// The rows as the columns take them.
fn prepared(insert: &Insert, types: &[Column]) -> Result<Vec<Vec<Value>>, String> {
    let rows = insert.rows.iter().zip(1..).map(|(row, number)| {
        let values = row.iter().enumerate().map(|(at, value)| {
            let value = encode::for_column(types.get(at), value);
            value.map(std::borrow::Cow::into_owned).map_err(|reason| {
                let column = insert.columns.get(at).map_or("", String::as_str);
                format!("`{column}` of row {number} {reason}")
            })
        });
        values.collect()
    });
    rows.collect()
}

impl Connection {
    pub(super) async fn insert(&mut self, insert: &Insert) -> Result<u64, Failed> {
        let types = self.types(insert).await?;
        let rows = prepared(insert, &types).map_err(Failed::invalid)?;
        // Half of it for the text of the statement.
        let parts = parts(&rows, BYTES_MAX.min(self.packet_max() / 2));
        if parts.len() == 1 {
            return self.insert_parts(insert, &rows, &parts).await;
        }
        let is_own = !self.is_in_transaction();
        let [begin, keep, undo] = if is_own {
            ["START TRANSACTION", "COMMIT", "ROLLBACK"]
        } else {
            [
                "SAVEPOINT moontide",
                "RELEASE SAVEPOINT moontide",
                "ROLLBACK TO SAVEPOINT moontide",
            ]
        };
        self.command(begin).await?;
        let inserted = self.insert_parts(insert, &rows, &parts).await;
        if inserted.is_ok() {
            self.command(keep).await?;
        } else if self.is_clean() && (is_own || !self.has_failed()) {
            self.command(undo).await?;
            if is_own {
                self.begun(false);
            }
        }
        inserted
    }

    /// The types of the columns, where a time may be among the values.
    async fn types(&mut self, insert: &Insert) -> Result<Vec<Column>, Failed> {
        let may_be_time = |value: &Value| {
            matches!(
                value,
                Value::Integer(_) | Value::Number(_) | Value::Boolean(_)
            )
        };
        if !insert.rows.iter().flatten().any(may_be_time) {
            return Ok(Vec::new());
        }
        let (table, columns) = (table(&insert.table), columns(insert));
        let found = self
            .columns(&format!("SELECT {columns} FROM {table}"))
            .await;
        match found {
            // Who may only insert is told by the INSERT what is wrong.
            Err(Failed::Reported(reported)) if !reported.is_fatal() => Ok(Vec::new()),
            found => found,
        }
    }

    async fn insert_parts(
        &mut self,
        insert: &Insert,
        rows: &[Vec<Value>],
        parts: &[usize],
    ) -> Result<u64, Failed> {
        let updates = insert
            .on_conflict
            .as_ref()
            .is_some_and(|one| !one.update.is_empty());
        let (mut count, mut begun) = (0, 0);
        for part in parts {
            let rows = rows.get(begun..begun + part).unwrap_or_default();
            let statement = Statement {
                text: text(insert, rows.len()),
                arguments: rows.iter().flatten().cloned().collect(),
                // A text of many rows is made for one call.
                prepare: (rows.len() > 1).then_some(false),
            };
            let bounds = Bounds {
                rows: 0,
                bytes: 0,
                only_count: true,
            };
            let outcome = self
                .run(&statement, bounds)
                .await
                .map_err(|failed| match failed {
                    Failed::Reported(mut reported) => {
                        reported.row = reported.row_of_statement().map(|row| begun + row);
                        Failed::Reported(reported)
                    }
                    failed => failed,
                })?;
            // MySQL counts an updated row twice, and one that gets the values that it has not at all.
            count += if updates {
                rows.len() as u64
            } else {
                outcome.count
            };
            begun += part;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(on_conflict: Option<OnConflict>) -> Insert {
        Insert {
            table: vec!["app".to_owned(), "a`b".to_owned()],
            columns: vec!["id".to_owned(), "Name".to_owned()],
            rows: vec![vec![Value::Integer(1), Value::Nil]],
            on_conflict,
        }
    }

    #[test]
    fn names_are_quoted_and_rows_have_placeholders() {
        assert_eq!(
            text(&insert(None), 2),
            "INSERT INTO `app`.`a``b` (`id`, `Name`) VALUES (?, ?), (?, ?)"
        );
        let conflict = |update: &[&str]| {
            let update = update.iter().map(|name| (*name).to_owned()).collect();
            text(
                &insert(Some(OnConflict {
                    columns: Vec::new(),
                    update,
                })),
                1,
            )
        };
        let ignored = conflict(&[]);
        assert!(
            ignored.ends_with("VALUES (?, ?) ON DUPLICATE KEY UPDATE `id` = `id`"),
            "{ignored}"
        );
        let updated = conflict(&["Name"]);
        assert!(
            updated.ends_with("UPDATE `Name` = VALUES(`Name`)"),
            "{updated}"
        );
        let error = prepared(&insert(None), &[]).unwrap_err();
        assert!(
            error.starts_with("`Name` of row 1 is nil; write `tide.null`"),
            "{error}"
        );
    }

    #[test]
    fn a_statement_is_full_by_rows_by_placeholders_or_by_bytes() {
        let rows = |count: usize, width: usize| vec![vec![Value::Integer(1); width]; count];
        assert_eq!(parts(&rows(2_500, 1), BYTES_MAX), [1_000, 1_000, 500]);
        assert_eq!(parts(&rows(250, 600), BYTES_MAX), [109, 109, 32]);
        assert_eq!(parts(&rows(5, 1), 50), [2, 2, 1]);
        // A row that is too long alone is refused by its own statement.
        assert_eq!(parts(&rows(3, 1), 1), [1, 1, 1]);
        assert_eq!(parts(&rows(1, 70_000), BYTES_MAX), [1]);
    }
}
