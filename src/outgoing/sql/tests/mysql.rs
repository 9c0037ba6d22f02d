//! The same against MariaDB, and what only MySQL and MariaDB have.

mod transactions;

use super::*;

const TYPES: &str = "CREATE TABLE v (tiny tinyint(1), small smallint unsigned, medium mediumint, big bigint, ubig bigint \
    unsigned, y year, f float, d double, dec_ decimal(30, 10), b bit(12), dt datetime(3), ts timestamp(6) NULL, da date, \
    ti time(1), c char(3), txt text, bin varbinary(300), bl blob, doc json, e enum('x', 'y'), s set('p', 'q'), u uuid)";

fn fixture(change: impl FnOnce(&mut Settings)) -> Option<(&'static MariaDb, String, Fixture)> {
    let server = mariadb::shared()?;
    let database = server.database();
    let mut settings = settings_of_mariadb(server, &database);
    change(&mut settings);
    let fixture = Fixture::new(&settings);
    Some((server, database, fixture))
}

fn number(number: i64) -> Value {
    Value::Integer(number)
}

/// The column, the argument, and the value that comes back.
fn values() -> Vec<(&'static str, Value, Value)> {
    let bytes: Vec<u8> = (0..=255).collect();
    let bytes = Value::Bytes(bytes.into());
    let document = table(vec![
        (
            "a",
            list(vec![number(1), Value::Null, Value::Boolean(true)]),
        ),
        ("b", Value::Number(0.5)),
    ]);
    vec![
        ("tiny", number(-7), number(-7)),
        ("tiny", Value::Boolean(true), number(1)),
        ("small", number(65_535), number(65_535)),
        ("medium", number(-8_388_608), number(-8_388_608)),
        ("big", number(i64::MIN), number(i64::MIN)),
        ("big", number(i64::MAX), number(i64::MAX)),
        (
            "ubig",
            text("18446744073709551615"),
            text("18446744073709551615"),
        ),
        ("ubig", number(i64::MAX), number(i64::MAX)),
        ("y", number(2024), number(2024)),
        ("f", Value::Number(0.1), Value::Number(0.1)),
        ("d", Value::Number(0.1), Value::Number(0.1)),
        (
            "dec_",
            text("12345678901234567890.1234567890"),
            text("12345678901234567890.1234567890"),
        ),
        ("b", number(4_095), number(4_095)),
        (
            "dt",
            text("2024-02-29 12:34:56.789"),
            number(1_709_210_096_789),
        ),
        ("ts", text("1970-01-02 00:00:00.001999"), number(86_400_001)),
        ("da", text("1969-12-31"), number(-86_400_000)),
        ("ti", text("-838:59:58.5"), text("-838:59:58.5")),
        ("c", text("ä€"), text("ä€")),
        ("txt", text("a\tb\\N'\"ä€😀\0?"), text("a\tb\\N'\"ä€😀\0?")),
        ("bin", bytes.clone(), bytes.clone()),
        ("bl", bytes.clone(), bytes),
        ("doc", document.clone(), document),
        ("doc", text("null"), Value::Null),
        ("e", text("y"), text("y")),
        ("s", text("p,q"), text("p,q")),
        (
            "u",
            text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ),
    ]
}

/// By a prepared statement and by its text.
#[test]
fn every_type_comes_back_as_it_went() {
    for prepare in [true, false] {
        let Some((_, _, fixture)) = fixture(|settings| {
            (settings.prepare, settings.max_result) = (prepare, 32 << 20);
        }) else {
            return;
        };
        fixture.execute(TYPES, &[]);
        for (column, given, found) in values() {
            fixture.execute("DELETE FROM v", &[]);
            fixture.execute(&format!("INSERT INTO v ({column}) VALUES (?)"), &[given]);
            let row = fixture.one(&format!("SELECT {column} AS v FROM v"), &[]);
            assert_eq!(field(&row, "v"), found, "{column}");
            fixture.execute(&format!("UPDATE v SET {column} = ?"), &[Value::Null]);
            let row = fixture.one(&format!("SELECT {column} AS v, 1 AS n FROM v"), &[]);
            assert_eq!(
                (field(&row, "v"), field(&row, "n")),
                (Value::Nil, number(1)),
                "{column}"
            );
        }
        // Where the length needs a further byte, and where the packet needs a second part.
        for length in [250, 251, 65_535, 65_536, 17 << 20] {
            let long = text(&"x".repeat(length));
            let row = fixture.one("SELECT ? AS v", std::slice::from_ref(&long));
            assert_eq!(field(&row, "v"), long);
        }
    }
}

#[test]
fn rows_are_a_list_with_their_columns_and_counts_are_of_changed_rows() {
    let Some((_, _, fixture)) = fixture(|_| {}) else {
        return;
    };
    let found = fixture.query("SELECT seq AS n, NULL AS nothing FROM seq_1_to_2", &[]);
    let rows = list(vec![
        table(vec![("n", number(1))]),
        table(vec![("n", number(2))]),
    ]);
    let Value::Table(mut expected) = rows else {
        unreachable!()
    };
    expected.push((text("columns"), list(vec![text("n"), text("nothing")])));
    assert_eq!(found, Value::Table(expected));
    assert_eq!(
        fixture.one("SELECT 1 FROM dual WHERE false", &[]),
        Value::Nil
    );
    let several = fixture.run("SELECT seq FROM seq_1_to_3", &[], Shape::One);
    assert_eq!(several.unwrap_err().kind, "invalid");
    assert_eq!(
        fixture.execute("CREATE TABLE t (id int PRIMARY KEY)", &[]),
        0
    );
    let execute = |statement: &str, arguments: &[Value]| fixture.execute(statement, arguments);
    assert_eq!(execute("INSERT INTO t SELECT seq FROM seq_1_to_5", &[]), 5);
    let update = "UPDATE t SET id = id + 10 WHERE id > ?";
    assert_eq!(execute(update, &[number(3)]), 2);
    // A row that stays as it was is not changed.
    assert_eq!(execute("UPDATE t SET id = id", &[]), 0);
    assert_eq!(execute("DELETE FROM t WHERE id > 10 RETURNING id", &[]), 2);
    let added = fixture.one("INSERT INTO t VALUES (9) RETURNING id", &[]);
    assert_eq!(field(&added, "id"), number(9));
    // The first result of a procedure counts.
    let procedure = "CREATE PROCEDURE p() BEGIN SELECT 1 AS a; SELECT 2 AS b; DELETE FROM t; END";
    execute(procedure, &[]);
    assert_eq!(fixture.one("CALL p()", &[]), table(vec![("a", number(1))]));
    assert_eq!(execute("SELECT id FROM t", &[]), 0);
    assert_eq!(fixture.pool().open, 1);
}

#[test]
fn times_are_those_of_utc_and_strings_by_option() {
    let Some((_, _, fixture)) =
        fixture(|settings| settings.timestamps = crate::config::Timestamps::String)
    else {
        return;
    };
    for prepare in [None, Some(false)] {
        let statement = Statement {
            text: "SELECT FROM_UNIXTIME(0) AS v, DATE '2024-02-29' AS d, TIMESTAMP '2024-02-29 12:34:56.700' AS f"
                .to_owned(),
            arguments: Vec::new(),
            prepare,
        };
        let found = fixture.ended(fixture.begin(Work::Run(statement, Shape::One)));
        let found = found.unwrap();
        assert_eq!(field(&found, "v"), text("1970-01-01 00:00:00"));
        assert_eq!(field(&found, "d"), text("2024-02-29"));
        assert_eq!(field(&found, "f"), text("2024-02-29 12:34:56.700"));
    }
}

/// A statement, the kind of its error, its SQLSTATE, and the constraint that it violates.
const WRONG: &[(&str, &str, &str, Option<&str>)] = &[
    (
        "INSERT INTO t VALUES (1, 1, 'b')",
        "conflict",
        "23000",
        Some("PRIMARY"),
    ),
    (
        "INSERT INTO t VALUES (2, 1, 'a')",
        "conflict",
        "23000",
        Some("by_name"),
    ),
    (
        "INSERT INTO t VALUES (2, 0, 'b')",
        "invalid",
        "23000",
        Some("positive"),
    ),
    (
        "INSERT INTO u VALUES (9)",
        "conflict",
        "23000",
        Some("of_t"),
    ),
    ("DELETE FROM t", "conflict", "23000", Some("of_t")),
    (
        "INSERT INTO t VALUES (2, NULL, 'b')",
        "invalid",
        "23000",
        None,
    ),
    (
        "INSERT INTO t VALUES (2, 1, 'long')",
        "invalid",
        "22001",
        None,
    ),
    (
        "INSERT INTO t VALUES (2, 'x', 'b')",
        "invalid",
        "22007",
        None,
    ),
    ("INSERT INTO t (id) VALUES (2)", "invalid", "HY000", None),
    ("SELECT * FROM nosuch", "notFound", "42S02", None),
    ("SELEC 1", "invalid", "42000", None),
    ("SELECT 1; SELECT 2", "invalid", "42000", None),
    (
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'mine'",
        "refused",
        "45000",
        None,
    ),
];

#[test]
fn an_error_has_its_kind_its_state_and_its_constraint() {
    let Some((_, _, fixture)) = fixture(|_| {}) else {
        return;
    };
    fixture.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, name varchar(3), UNIQUE KEY by_name (name), CONSTRAINT \
         positive CHECK (n > 0))",
        &[],
    );
    fixture.execute(
        "CREATE TABLE u (id int, CONSTRAINT of_t FOREIGN KEY (id) REFERENCES t (id))",
        &[],
    );
    fixture.execute("INSERT INTO t VALUES (1, 1, 'a')", &[]);
    fixture.execute("INSERT INTO u VALUES (1)", &[]);
    for &(statement, kind, state, constraint) in WRONG {
        let fault = fixture.fails(statement, &[]);
        assert_eq!(fault.kind, kind, "{}", fault.message);
        let state = ("sqlstate", text(state));
        assert!(fault.fields.contains(&state), "{fault:?}");
        let found = fault.fields.iter().find(|(name, _)| *name == "constraint");
        assert_eq!(found.map(|(_, value)| value.clone()), constraint.map(text));
    }
    fixture.is_at_rest();
    assert_eq!(fixture.pool().open, 1, "no error costs a connection");
}

#[test]
fn an_argument_or_a_statement_that_is_wrong_costs_no_connection() {
    let Some((_, _, fixture)) = fixture(|_| {}) else {
        return;
    };
    fixture.execute("CREATE TABLE t (id int PRIMARY KEY)", &[]);
    for (arguments, part) in [
        (
            vec![Value::Nil],
            "argument 1 is nil; write `tide.null` for NULL",
        ),
        (
            vec![Value::Number(f64::NAN)],
            "argument 1 is NaN, which MySQL has not",
        ),
        (
            Vec::new(),
            "the statement has 1 parameters, and the call has 0 arguments",
        ),
    ] {
        let fault = fixture.fails("SELECT * FROM t WHERE id = ?", &arguments);
        assert_eq!(fault.kind, "invalid");
        assert!(fault.message.contains(part), "{}", fault.message);
    }
    let file = fixture.run(
        "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE t",
        &[],
        Shape::Count,
    );
    assert_eq!(file.unwrap_err().kind, "refused");
    let begin = fixture.run("BEGIN", &[], Shape::Count).unwrap_err();
    assert!(
        begin.message.contains("use `transaction`"),
        "{}",
        begin.message
    );
    fixture.is_at_rest();
    assert_eq!(fixture.pool().open, 1, "no error costs a connection");
}

#[test]
fn a_result_has_bounds_and_a_statement_too() {
    let Some((server, database, fixture)) = fixture(|settings| {
        (settings.max_rows, settings.max_result) = (100, 1 << 20);
    }) else {
        return;
    };
    let all = |count: u64| {
        let statement = format!("SELECT seq FROM seq_1_to_{count}");
        fixture.run(&statement, &[], Shape::Rows)
    };
    assert!(all(100).is_ok());
    let fault = all(101).unwrap_err();
    assert_eq!(fault.kind, "tooLarge");
    assert!(
        fault.message.contains("more than 100 rows"),
        "{}",
        fault.message
    );
    assert_eq!(fixture.pool().open, 1);
    // The rest is not read, and the server does not go on with it.
    let fault = all(4_000_000_000).unwrap_err();
    assert!(
        fault.message.contains("more than 100 rows"),
        "{}",
        fault.message
    );
    fixture.is_at_rest();
    server.wait_for_activity(&database, |now| !now.contains("active"));
    let fault = fixture.fails("SELECT repeat('x', 200000) FROM seq_1_to_50", &[]);
    assert!(fault.message.contains("1048576 bytes"), "{}", fault.message);
    // A row in several packets.
    let fault = fixture.fails("SELECT repeat('x', 20000000)", &[]);
    assert_eq!(fault.kind, "tooLarge");
    assert_eq!(
        fixture.execute("SELECT repeat('x', 15000000) FROM seq_1_to_3", &[]),
        3
    );
    let fault = fixture.fails("SELECT ?", &[text(&"x".repeat(33 << 20))]);
    assert_eq!(fault.kind, "tooLarge");
    assert!(
        fault.message.contains("`max_allowed_packet`"),
        "{}",
        fault.message
    );
    fixture.is_at_rest();
}

#[test]
fn a_statement_stays_prepared_until_another_one_needs_its_room() {
    let Some((server, _, fixture)) = fixture(|settings| settings.size = 1) else {
        return;
    };
    let prepared = |fixture: &Fixture| {
        let status =
            "SHOW SESSION STATUS WHERE variable_name IN ('Com_stmt_prepare', 'Com_stmt_close')";
        let Value::Table(rows) = fixture.query(status, &[]) else {
            panic!("no rows");
        };
        let value = |at: usize| match field(&rows[at].1, "Value") {
            Value::Bytes(text) => std::str::from_utf8(&text).unwrap().parse::<i64>().unwrap(),
            other => panic!("no number: {other:?}"),
        };
        (value(1), value(0))
    };
    fixture.execute("CREATE TABLE t (id int)", &[]);
    fixture.execute("INSERT INTO t VALUES (7)", &[]);
    let (before, _) = prepared(&fixture);
    for _ in 0..5 {
        let row = fixture.one("SELECT * FROM t", &[]);
        assert_eq!(row, table(vec![("id", number(7))]));
    }
    assert_eq!(prepared(&fixture), (before + 1, 0));
    fixture.execute("ALTER TABLE t ADD COLUMN name text DEFAULT 'x'", &[]);
    let both = table(vec![("id", number(7)), ("name", text("x"))]);
    assert_eq!(fixture.one("SELECT * FROM t", &[]), both);
    for n in 0..300 {
        fixture.query(&format!("SELECT {n} FROM t WHERE id = ?"), &[number(1)]);
    }
    let (opened, closed) = prepared(&fixture);
    // The server prepares the one of the changed table anew, and counts that.
    assert_eq!(opened - closed, 256 + 1, "{opened} {closed}");

    let mut settings = settings_of_mariadb(server, &server.database());
    settings.prepare = false;
    let fixture = Fixture::new(&settings);
    for _ in 0..3 {
        fixture.query("SELECT ?", &[number(1)]);
        fixture.query("SELECT 1", &[]);
    }
    assert_eq!(prepared(&fixture), (3, 3));
}
