//! Many rows in one go: by `COPY`, or by `INSERT` with many rows where some may be there already.

use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend::{self, CopyData};

use super::binary;
use super::connection::Connection;
use super::encode::copied;
use super::failed::{Failed, reported};
use super::wire::{Broken, MESSAGE_MAX, unexpected};
use crate::outgoing::sql::driver::Bounds;
use crate::outgoing::sql::insertion;
use crate::wait::Fault;
use crate::wait::sql::{Insert, Statement};

/// Bytes of a message with rows.
const CHUNK: usize = 64 << 10;
/// The parameters of a statement have a number of 16 bits.
const PARAMETERS_MAX: usize = 65_535;
/// Rows of a statement: longer texts take the server more time than they save.
const ROWS_MAX: usize = 1_000;

fn placeholder(number: usize) -> String {
    format!("${number}")
}

impl Connection {
    pub(super) async fn insert(&mut self, insert: &Insert) -> Result<u64, Failed> {
        if insert.on_conflict.is_some() {
            return self.insert_rows(insert).await;
        }
        let types = self.types(insert).await?;
        if let Some(rows) = binary::rows(insert, &types) {
            return self.copy(insert, " (FORMAT binary)", &rows).await;
        }
        let rows = rows(insert, &types)
            .map_err(|message| Failed::Fault(Fault::new("invalid", message)))?;
        self.copy(insert, "", &rows).await
    }

    /// The types of the columns, which the server knows.
    async fn types(&mut self, insert: &Insert) -> Result<Vec<u32>, Failed> {
        let text = insertion::text(insert, 1, placeholder);
        let known = if let Some(known) = self.known(&text) {
            known
        } else {
            let known = self.prepare(&text, true).await?;
            self.sync().await?;
            known
        };
        Ok(known.parameters.to_vec())
    }

    /// `form` is the end of the command.
    async fn copy(&mut self, insert: &Insert, form: &str, rows: &[u8]) -> Result<u64, Failed> {
        let (table, columns) = (insertion::table(&insert.table), insertion::columns(insert));
        self.begin_command(&format!("COPY {table} ({columns}) FROM STDIN{form}"))?;
        self.send().await?;
        let mut wrong = None;
        loop {
            let (letter, message) = self.wire.receive(MESSAGE_MAX).await?;
            match message {
                Message::CopyInResponse(_) => break,
                Message::ErrorResponse(body) => {
                    wrong = Some(reported(&body)?);
                    self.until_ready().await?;
                    break;
                }
                Message::NoticeResponse(_)
                | Message::ParameterStatus(_)
                | Message::NotificationResponse(_) => {}
                _ => return Err(unexpected("a copy", letter).into()),
            }
        }
        if let Some(reported) = wrong {
            return Err(Failed::Reported(reported));
        }
        for chunk in rows.chunks(CHUNK) {
            let data = CopyData::new(chunk).map_err(Broken::Unwritable)?;
            self.wire.output.push(|buffer| data.write(buffer));
            self.send().await?;
        }
        self.wire.output.push(frontend::copy_done);
        self.send().await?;
        self.tag().await.map(|_| insert.rows.len() as u64)
    }

    /// In statements of many rows each, which are one transaction.
    async fn insert_rows(&mut self, insert: &Insert) -> Result<u64, Failed> {
        let most = (PARAMETERS_MAX / insert.columns.len().max(1)).clamp(1, ROWS_MAX);
        let is_own = insert.rows.len() > most && !self.is_in_transaction();
        if is_own {
            self.command("BEGIN").await?;
        }
        let mut count = 0;
        for rows in insert.rows.chunks(most) {
            let statement = Statement {
                text: insertion::text(insert, rows.len(), placeholder),
                arguments: rows.iter().flatten().cloned().collect(),
                prepare: Some(rows.len() == 1),
            };
            let bounds = Bounds {
                rows: 0,
                bytes: 0,
                only_count: true,
            };
            match self.run(&statement, bounds).await {
                Ok(outcome) => count += outcome.count,
                Err(failed) => {
                    if is_own && self.is_clean() {
                        self.command("ROLLBACK").await?;
                    }
                    return Err(failed);
                }
            }
        }
        if is_own {
            self.command("COMMIT").await?;
        }
        Ok(count)
    }
}

/// The rows in the text form of `COPY`.
fn rows(insert: &Insert, types: &[u32]) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    for (row, number) in insert.rows.iter().zip(1..) {
        for (at, value) in row.iter().enumerate() {
            if at > 0 {
                text.push(b'\t');
            }
            let oid = types.get(at).copied().unwrap_or_default();
            let copied = copied(oid, value).map_err(|reason| {
                let column = insert.columns.get(at).map_or("", String::as_str);
                format!("`{column}` of row {number} {reason}")
            })?;
            match copied {
                None => text.extend_from_slice(b"\\N"),
                Some(bytes) => escape(&mut text, &bytes),
            }
        }
        text.push(b'\n');
    }
    Ok(text)
}

fn escape(text: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'\\' => text.extend_from_slice(b"\\\\"),
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\r' => text.extend_from_slice(b"\\r"),
            b'\t' => text.extend_from_slice(b"\\t"),
            byte => text.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::Value;

    #[test]
    fn rows_are_copied_as_text() {
        let text = |text: &[u8]| Value::Bytes(text.into());
        let mut insert = Insert {
            table: vec!["t".to_owned()],
            columns: vec!["id".to_owned(), "name".to_owned()],
            rows: vec![
                vec![Value::Integer(1), text(b"a\tb\\N\r\n")],
                vec![Value::Null, text(b"\\.")],
            ],
            on_conflict: None,
        };
        let copied = rows(&insert, &[20, 25]).unwrap();
        assert_eq!(copied, b"1\ta\\tb\\\\N\\r\\n\n\\N\t\\\\.\n");
        insert.rows[1][0] = text(b"x");
        let error = rows(&insert, &[20, 25]).unwrap_err();
        assert!(
            error.starts_with("`id` of row 2 is a string, and the parameter is bigint"),
            "{error}"
        );
    }
}
