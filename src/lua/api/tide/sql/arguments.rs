//! From the arguments of a function to a request. Pure: plain data in, plain data out.
//!
//! An error is the part of a sentence behind the name of the function.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::options::{Fields, kind, list, shown, timeout};
use crate::nearest::suggestion;
use crate::wait::Value;
use crate::wait::sql::{Insert, Isolation, OnConflict, Shape, Statement, Work};

const ISOLATIONS: [&str; 3] = ["readCommitted", "repeatableRead", "serializable"];

/// What a function has read.
#[derive(Debug, PartialEq)]
pub(super) struct Read {
    pub(super) work: Work,
    pub(super) timeout: Option<Duration>,
}

/// The options of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) isolation: Option<Isolation>,
    pub(super) is_read_only: bool,
}

fn text(value: Value, what: &str) -> Result<String, String> {
    match value {
        Value::Bytes(text) if text.is_empty() => Err(format!(": {what} is empty")),
        Value::Bytes(text) => {
            String::from_utf8(text.into_vec()).map_err(|_| format!(": {what} is not UTF-8"))
        }
        other => Err(format!(": {what} is {}, not a string", kind(&other))),
    }
}

/// A statement, or a table with it and its options, and then its arguments.
pub(super) fn statement(values: Vec<Value>, shape: Shape) -> Result<Read, String> {
    let mut values = values.into_iter();
    let (mut prepare, mut within) = (None, None);
    let text = match values.next().unwrap_or(Value::Nil) {
        options @ Value::Table(_) => {
            let what = "a statement and its arguments";
            let names = ["text", "timeout", "prepare"];
            let mut fields = Fields::of(options, String::new(), what, &names)?;
            prepare = match fields.take("prepare") {
                Value::Nil => None,
                Value::Boolean(prepare) => Some(prepare),
                other => {
                    return fields
                        .error(format!("`prepare` is {}, not true or false", kind(&other)));
                }
            };
            within = timeout(&mut fields)?;
            text(fields.take("text"), "`text`")?
        }
        other => text(other, "the statement")?,
    };
    let statement = Statement {
        text,
        arguments: values.collect(),
        prepare,
    };
    Ok(Read {
        work: Work::Run(statement, shape),
        timeout: within,
    })
}

/// `insert(table, rows, options?)`.
pub(super) fn insert(values: Vec<Value>) -> Result<Read, String> {
    let mut values = values.into_iter();
    let table = text(values.next().unwrap_or(Value::Nil), "the name of the table")?;
    let table: Vec<String> = table.split('.').map(str::to_owned).collect();
    if table.len() > 2 || table.iter().any(String::is_empty) {
        return Err(format!(
            ": the table is {:?}, not as \"orders\" or \"app.orders\"",
            table.join(".")
        ));
    }
    let rows = rows(values.next().unwrap_or(Value::Nil))?;
    let mut columns = BTreeSet::new();
    for row in &rows {
        for (name, _) in row {
            if !columns.contains(name) {
                columns.insert(name.clone());
            }
        }
    }
    let columns: Vec<String> = columns.into_iter().collect();
    if columns.is_empty() && !rows.is_empty() {
        return Err(": the rows have no columns".to_owned());
    }
    let options = match values.next().unwrap_or(Value::Nil) {
        Value::Nil => Value::Table(Vec::new()),
        options => options,
    };
    let what = "a table of options behind the rows";
    let mut fields = Fields::of(options, String::new(), what, &["onConflict", "timeout"])?;
    let on_conflict = on_conflict(fields.take("onConflict"), &columns)?;
    let timeout = timeout(&mut fields)?;
    let rows = rows
        .into_iter()
        .map(|row| in_order(row, &columns))
        .collect();
    let insert = Insert {
        table,
        columns,
        rows,
        on_conflict,
    };
    Ok(Read {
        work: Work::Insert(insert),
        timeout,
    })
}

type Row = Vec<(String, Value)>;

fn rows(value: Value) -> Result<Vec<Row>, String> {
    let form = "a list of rows, such as { { id = 1, name = \"a\" }, { id = 2, name = \"b\" } }";
    let is_row = |value: &Value| matches!(value, Value::Table(pairs) if matches!(pairs.first(), Some((Value::Bytes(_), _))));
    if is_row(&value) {
        return Ok(vec![row(value, 1)?]);
    }
    let items = list(value).map_err(|found| format!(" takes a table and {form}, not {found}"))?;
    items
        .into_iter()
        .zip(1..)
        .map(|(item, number)| row(item, number))
        .collect()
}

fn row(value: Value, number: usize) -> Result<Row, String> {
    let Value::Table(pairs) = value else {
        return Err(format!(
            ": row {number} is {}, not a table of columns",
            kind(&value)
        ));
    };
    let columns = pairs.into_iter().map(|(name, value)| match name {
        Value::Bytes(name) if !name.is_empty() && !name.contains(&0) => {
            let name = String::from_utf8(name.into_vec());
            let name =
                name.map_err(|_| format!(": row {number} has a column whose name is not UTF-8"))?;
            Ok((name, value))
        }
        other => Err(format!(
            ": row {number} has {} as the name of a column",
            shown(&other)
        )),
    });
    columns.collect()
}

/// A column that the row has not is NULL.
fn in_order(row: Row, columns: &[String]) -> Vec<Value> {
    let mut values = vec![Value::Null; columns.len()];
    for (name, value) in row {
        if let Ok(at) = columns.binary_search(&name) {
            values[at] = value;
        }
    }
    values
}

fn on_conflict(value: Value, columns: &[String]) -> Result<Option<OnConflict>, String> {
    let fields = match value {
        Value::Nil => return Ok(None),
        Value::Bytes(word) if *word == *b"ignore" => {
            return Ok(Some(OnConflict {
                columns: Vec::new(),
                update: Vec::new(),
            }));
        }
        fields @ Value::Table(_) => fields,
        other => {
            return Err(format!(
                ": `onConflict` is {}, not \"ignore\" or a table such as {{ columns = \"id\", update = true }}",
                shown(&other)
            ));
        }
    };
    let place = ": `onConflict`".to_owned();
    let mut fields = Fields::of(fields, place.clone(), "a table", &["columns", "update"])?;
    let of = match fields.take("columns") {
        Value::Nil => Vec::new(),
        value => names(value, &format!("{place}: `columns`"))?,
    };
    let update = match fields.take("update") {
        Value::Nil | Value::Boolean(false) => Vec::new(),
        Value::Boolean(true) => {
            let others = columns.iter().filter(|name| !of.contains(name));
            others.cloned().collect()
        }
        value => names(value, &format!("{place}: `update`"))?,
    };
    if !update.is_empty() && of.is_empty() {
        return fields.error("`columns` names the unique columns, which an update needs");
    }
    Ok(Some(OnConflict {
        columns: of,
        update,
    }))
}

/// A name, or a list of them.
fn names(value: Value, place: &str) -> Result<Vec<String>, String> {
    let name = |value: Value| match value {
        Value::Bytes(name) => String::from_utf8(name.into_vec())
            .ok()
            .filter(|name| !name.contains('\0')),
        _ => None,
    };
    let items = match value {
        one @ Value::Bytes(_) => vec![one],
        value => list(value)
            .map_err(|found| format!("{place} is {found}, not a name or a list of names"))?,
    };
    let names: Option<Vec<String>> = items.into_iter().map(name).collect();
    names.ok_or_else(|| format!("{place} has a value that is no name"))
}

/// The options of `transaction`, and of `once`, which changes something.
pub(super) fn options(value: Value, is_once: bool) -> Result<Options, String> {
    let names: &[&str] = if is_once {
        &["isolation"]
    } else {
        &["isolation", "readOnly"]
    };
    let value = match value {
        Value::Nil => return Ok(Options::default()),
        value => value,
    };
    let mut fields = Fields::of(
        value,
        String::new(),
        "a function and a table of options",
        names,
    )?;
    let isolation = match fields.take("isolation") {
        Value::Nil => None,
        value => match value.text() {
            Some("readCommitted") => Some(Isolation::ReadCommitted),
            Some("repeatableRead") => Some(Isolation::RepeatableRead),
            Some("serializable") => Some(Isolation::Serializable),
            Some(word) => {
                let nearest = suggestion(word, &ISOLATIONS);
                return fields.error(format!(
                    "there is no `isolation` {}, {nearest}",
                    shown(&value)
                ));
            }
            None => return fields.error(format!("`isolation` is {}, not a string", kind(&value))),
        },
    };
    let is_read_only = match fields.take("readOnly") {
        Value::Nil => false,
        Value::Boolean(value) => value,
        other => return fields.error(format!("`readOnly` is {}, not true or false", kind(&other))),
    };
    Ok(Options {
        isolation,
        is_read_only,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Bytes(text.as_bytes().into())
    }

    fn table(pairs: Vec<(&str, Value)>) -> Value {
        let pairs = pairs.into_iter().map(|(key, value)| (text(key), value));
        Value::Table(pairs.collect())
    }

    fn items(values: Vec<Value>) -> Value {
        Value::Table((1..).map(Value::Integer).zip(values).collect())
    }

    #[test]
    fn a_statement_has_its_arguments_and_options() {
        let read = statement(vec![text("select $1"), Value::Null], Shape::One).unwrap();
        let Work::Run(plain, Shape::One) = read.work else {
            panic!("another work");
        };
        assert_eq!(
            (plain.text.as_str(), plain.arguments, plain.prepare),
            ("select $1", vec![Value::Null], None)
        );
        let options = table(vec![
            ("text", text("select 1")),
            ("timeout", text("1s")),
            ("prepare", Value::Boolean(false)),
        ]);
        let read = statement(vec![options], Shape::Rows).unwrap();
        assert_eq!(read.timeout, Some(Duration::from_secs(1)));
        assert!(matches!(
            read.work,
            Work::Run(
                Statement {
                    prepare: Some(false),
                    ..
                },
                Shape::Rows
            )
        ));
        for (value, expected) in [
            (Value::Nil, ": the statement is nil, not a string"),
            (text(""), ": the statement is empty"),
            (
                table(vec![("tex", text("x"))]),
                " knows no option `tex`, did you mean `text`?",
            ),
            (table(vec![]), ": `text` is nil, not a string"),
        ] {
            assert_eq!(statement(vec![value], Shape::Rows).unwrap_err(), expected);
        }
    }

    #[test]
    fn rows_have_the_columns_of_all() {
        let rows = items(vec![
            table(vec![("b", Value::Integer(1)), ("a", text("x"))]),
            table(vec![("c", Value::Null), ("a", text("y"))]),
        ]);
        let conflict = table(vec![
            ("columns", text("a")),
            ("update", Value::Boolean(true)),
        ]);
        let options = table(vec![("onConflict", conflict)]);
        let read = insert(vec![text("app.t"), rows, options]).unwrap();
        let expected = Insert {
            table: vec!["app".to_owned(), "t".to_owned()],
            columns: ["a", "b", "c"].map(str::to_owned).to_vec(),
            rows: vec![
                vec![text("x"), Value::Integer(1), Value::Null],
                vec![text("y"), Value::Null, Value::Null],
            ],
            on_conflict: Some(OnConflict {
                columns: vec!["a".to_owned()],
                update: vec!["b".to_owned(), "c".to_owned()],
            }),
        };
        assert_eq!(read.work, Work::Insert(expected));
        let one = insert(vec![text("t"), table(vec![("a", Value::Integer(1))])]).unwrap();
        assert!(matches!(one.work, Work::Insert(insert) if insert.rows.len() == 1));
        let none = insert(vec![text("t"), items(Vec::new())]).unwrap();
        assert!(matches!(none.work, Work::Insert(insert) if insert.rows.is_empty()));
    }

    #[test]
    fn what_is_no_row_is_told() {
        let row = || table(vec![("a", Value::Integer(1))]);
        let with = |options| vec![text("t"), row(), table(vec![("onConflict", options)])];
        for (values, expected) in [
            (vec![text("a.b.c"), row()], ": the table is \"a.b.c\""),
            (
                vec![text("t"), text("x")],
                " takes a table and a list of rows",
            ),
            (
                vec![text("t"), items(vec![text("x")])],
                ": row 1 is a string",
            ),
            (
                vec![text("t"), items(vec![items(vec![text("x")])])],
                ": row 1 has 1 as the name",
            ),
            (
                vec![text("t"), items(vec![table(Vec::new())])],
                ": the rows have no columns",
            ),
            (
                vec![text("t"), row(), table(vec![("onconflict", text("x"))])],
                "did you mean `onConflict`?",
            ),
            (with(text("nothing")), ": `onConflict` is \"nothing\""),
            (
                with(table(vec![("update", Value::Boolean(true))])),
                "`columns` names the unique columns",
            ),
            (
                with(table(vec![("columns", Value::Integer(1))])),
                "`columns` is an integer",
            ),
        ] {
            let error = insert(values).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_transaction_has_options() {
        let read = options(
            table(vec![
                ("isolation", text("serializable")),
                ("readOnly", Value::Boolean(true)),
            ]),
            false,
        );
        let expected = Options {
            isolation: Some(Isolation::Serializable),
            is_read_only: true,
        };
        assert_eq!(read, Ok(expected));
        assert_eq!(options(Value::Nil, true), Ok(Options::default()));
        let error = options(table(vec![("isolation", text("serialisable"))]), false).unwrap_err();
        assert!(error.contains("did you mean `serializable`?"), "{error}");
        let error = options(table(vec![("readOnly", Value::Boolean(true))]), true).unwrap_err();
        assert!(error.contains("knows no option `readOnly`"), "{error}");
    }
}
