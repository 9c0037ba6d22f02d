//! Many rows in one go.

use super::*;

fn insert(rows: Vec<Vec<Value>>, on_conflict: Option<OnConflict>) -> Work {
    Work::Insert(Insert {
        table: vec!["t".to_owned()],
        columns: ["id", "name", "raw", "at"].map(str::to_owned).to_vec(),
        rows,
        on_conflict,
    })
}

fn row(id: i64, name: &str) -> Vec<Value> {
    let raw = Value::Bytes(b"\0\\\n\xff".as_slice().into());
    vec![
        Value::Integer(id),
        text(name),
        raw,
        Value::Integer(1_709_210_096_789),
    ]
}

const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, name text, raw bytea, at timestamptz, own int DEFAULT 7)";

/// The same for every kind of database. Not each one tells which row it refuses.
pub(super) fn rows_are_copied(fixture: &Fixture, place: &str) {
    let put = |work| fixture.ended(fixture.begin(work));
    assert_eq!(put(insert(Vec::new(), None)), Ok(Value::Integer(0)));
    let odd = "a\tb\\N\r\n\\.\u{1F600}";
    let mut rows: Vec<_> = (0..3_000).map(|id| row(id, odd)).collect();
    rows[5][1] = Value::Null;
    assert_eq!(put(insert(rows, None)), Ok(Value::Integer(3_000)));
    let found = fixture.one("SELECT id, name, raw, at, own FROM t WHERE id = 4", &[]);
    let [id, name, raw, at] = row(4, odd).try_into().unwrap();
    let expected = [
        ("id", id),
        ("name", name),
        ("raw", raw),
        ("at", at),
        ("own", Value::Integer(7)),
    ];
    assert_eq!(found, table(expected.to_vec()));
    let null = fixture.one("SELECT count(*) AS n FROM t WHERE name IS NULL", &[]);
    assert_eq!(field(&null, "n"), Value::Integer(1));

    // All or nothing, and the row is named.
    let fault = put(insert(
        vec![row(5_000, "x"), row(5_001, "x"), row(7, "x")],
        None,
    ))
    .unwrap_err();
    assert_eq!(fault.kind, "conflict");
    assert!(fault.message.contains(place), "{}", fault.message);
    let fault = put(insert(vec![row(5_000, "x"), vec![Value::Nil; 4]], None)).unwrap_err();
    assert!(
        fault.message.contains("`id` of row 2 is nil"),
        "{}",
        fault.message
    );
    let count = || field(&fixture.one("SELECT count(*) AS n FROM t", &[]), "n");
    assert_eq!(count(), Value::Integer(3_000));

    let ignore = || OnConflict {
        columns: Vec::new(),
        update: Vec::new(),
    };
    let rows: Vec<_> = (2_000..4_500).map(|id| row(id, "new")).collect();
    assert_eq!(put(insert(rows, Some(ignore()))), Ok(Value::Integer(1_500)));
    assert_eq!(count(), Value::Integer(4_500));
    let update = OnConflict {
        columns: vec!["id".to_owned()],
        update: vec!["name".to_owned()],
    };
    let rows: Vec<_> = (4_000..6_000).map(|id| row(id, "newer")).collect();
    assert_eq!(put(insert(rows, Some(update))), Ok(Value::Integer(2_000)));
    let newer = fixture.one("SELECT count(*) AS n FROM t WHERE name = 'newer'", &[]);
    assert_eq!(field(&newer, "n"), Value::Integer(2_000));
    fixture.is_at_rest();
}

#[test]
fn rows_are_copied_whole_or_not_at_all() {
    let Some(server) = server::shared() else {
        return;
    };
    let mut settings = settings(server, &server.database());
    settings.size = 1;
    let fixture = Fixture::new(&settings);
    fixture.execute(TABLE, &[]);
    rows_are_copied(&fixture, "row 3: ");
    let fault = fixture
        .ended(fixture.begin(insert(vec![vec![text("x"); 4]], None)))
        .unwrap_err();
    assert!(
        fault
            .message
            .contains("INSERT in `main`: `id` of row 1 is a string, and the parameter is bigint")
    );
    fixture.execute("DROP TABLE t", &[]);
    let fault = fixture
        .ended(fixture.begin(insert(vec![row(1, "x")], None)))
        .unwrap_err();
    assert_eq!(fault.kind, "notFound");
    assert_eq!(
        fixture.pool().open,
        1,
        "every error leaves the connection in order"
    );
}

#[test]
fn rows_are_copied_within_a_transaction() {
    let Some(server) = server::shared() else {
        return;
    };
    let fixture = Fixture::new(&settings(server, &server.database()));
    fixture.execute(TABLE, &[]);
    let transaction = fixture.begun();
    let work = transaction.request(request(insert(vec![row(1, "a"), row(2, "b")], None)));
    assert_eq!(
        fixture.ended(work.unwrap().requesting),
        Ok(Value::Integer(2))
    );
    drop(transaction);
    fixture.is_at_rest();
    let count = fixture.one("SELECT count(*) AS n FROM t", &[]);
    assert_eq!(field(&count, "n"), Value::Integer(0));
}

#[test]
fn rows_are_the_same_in_the_binary_form_and_as_text() {
    let Some(server) = server::shared() else {
        return;
    };
    let fixture = Fixture::new(&settings(server, &server.database()));
    let columns = "a bool, b smallint, c int, d bigint, e float8, f text, g varchar(9), h char(5), i bytea, j json, \
                   k jsonb, l timestamp, m timestamptz, n date";
    let values = |number: i64| {
        let odd = Value::Table(vec![(text("a"), Value::Number(0.5))]);
        vec![
            Value::Boolean(number == 0),
            Value::Integer(-number),
            Value::Integer(i64::from(i32::MIN) + number),
            Value::Integer(i64::MAX - number),
            Value::Number(0.1 + number as f64),
            text("a\tb\\N\u{1F600}"),
            text("\\."),
            text("ab"),
            Value::Bytes(b"\0\\\n\xff".as_slice().into()),
            text("{\"a\": 1}"),
            odd,
            Value::Integer(-1 - number),
            Value::Integer(1_709_210_096_789),
            Value::Integer(-86_400_001 + number),
        ]
    };
    let rows = || (0..3).map(values).chain([vec![Value::Null; 14]]);
    let put = |table: &str, more: Option<Value>| {
        let mut columns: Vec<_> = ('a'..='n').map(String::from).collect();
        columns.extend(more.is_some().then(|| "o".to_owned()));
        let rows = rows().map(|row| row.into_iter().chain(more.clone()).collect());
        let insert = Insert {
            table: vec![table.to_owned()],
            columns,
            rows: rows.collect(),
            on_conflict: None,
        };
        let put = fixture.ended(fixture.begin(Work::Insert(insert)));
        assert_eq!(put, Ok(Value::Integer(4)));
    };
    fixture.execute(&format!("CREATE TABLE t ({columns})"), &[]);
    put("t", None);
    // `numeric` has no binary form.
    fixture.execute(&format!("CREATE TABLE u ({columns}, o numeric)"), &[]);
    put("u", Some(Value::Integer(1)));
    let all = "SELECT a, b, c, d, e, f, g, h, i, j::text, k, l, m, n";
    let differs = format!("SELECT count(*) AS n FROM ({all} FROM t EXCEPT ALL {all} FROM u) x");
    let count = fixture.one(&differs, &[]);
    assert_eq!(field(&count, "n"), Value::Integer(0));
    let count = fixture.one(
        "SELECT count(*) AS n FROM t WHERE d IS NULL OR length(g) = 2",
        &[],
    );
    assert_eq!(field(&count, "n"), Value::Integer(4));
}
