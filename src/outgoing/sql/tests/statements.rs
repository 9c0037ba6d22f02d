//! Statements, their values, and their errors.

use super::*;

fn number(number: i64) -> Value {
    Value::Integer(number)
}

#[test]
fn every_type_comes_back_as_it_went() {
    let Some(server) = server::shared() else {
        return;
    };
    let fixture = Fixture::new(&settings(server, &server.database()));
    let bytes: Vec<u8> = (0..=255).collect();
    let bytes = Value::Bytes(bytes.into());
    let document = table(vec![
        (
            "a",
            list(vec![number(1), Value::Null, Value::Boolean(true)]),
        ),
        ("b", Value::Number(0.5)),
    ]);
    for (cast, value) in [
        ("bigint", number(i64::MAX)),
        ("bigint", number(i64::MIN)),
        ("smallint", number(-7)),
        ("integer", number(7)),
        ("double precision", Value::Number(0.1)),
        ("real", Value::Number(0.5)),
        ("boolean", Value::Boolean(false)),
        ("text", text("a\tb\\N'\"ä€😀")),
        ("numeric", text("12345678901234567890.1234567890")),
        ("uuid", text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
        ("bytea", bytes),
        ("jsonb", document),
        ("json", Value::Boolean(true)),
        ("timestamptz", number(1_709_210_096_789)),
        ("timestamp", number(-1)),
        ("date", number(86_400_000)),
        ("timestamptz", Value::Number(f64::INFINITY)),
        (
            "bigint[]",
            list(vec![number(1), Value::Null, number(i64::MIN)]),
        ),
        (
            "text[]",
            list(vec![text("a,b"), text("\"{}\\"), text("NULL")]),
        ),
        (
            "bytea[]",
            list(vec![Value::Bytes(b"\0\xff".as_slice().into())]),
        ),
        (
            "integer[]",
            list(vec![list(vec![number(1)]), list(vec![number(2)])]),
        ),
        ("inet", text("10.0.0.1")),
        ("interval", text("01:00:00")),
    ] {
        let found = fixture.one(
            &format!("SELECT $1::{cast} AS v"),
            std::slice::from_ref(&value),
        );
        assert_eq!(field(&found, "v"), value, "{cast}");
        let null = fixture.one(&format!("SELECT $1::{cast} AS v, 1 AS n"), &[Value::Null]);
        assert_eq!(
            (field(&null, "v"), field(&null, "n")),
            (Value::Nil, number(1)),
            "{cast}"
        );
    }
}

#[test]
fn rows_are_a_list_with_their_columns_and_one_is_one() {
    let Some(server) = server::shared() else {
        return;
    };
    let fixture = Fixture::new(&settings(server, &server.database()));
    let found = fixture.query(
        "SELECT n, NULL AS nothing FROM generate_series(1, 2) AS n",
        &[],
    );
    let rows = list(vec![
        table(vec![("n", number(1))]),
        table(vec![("n", number(2))]),
    ]);
    let Value::Table(mut expected) = rows else {
        unreachable!()
    };
    expected.push((text("columns"), list(vec![text("n"), text("nothing")])));
    assert_eq!(found, Value::Table(expected));
    assert_eq!(fixture.one("SELECT 1 WHERE false", &[]), Value::Nil);
    let several = fixture
        .run("SELECT generate_series(1, 3)", &[], Shape::One)
        .unwrap_err();
    assert_eq!(several.kind, "invalid");
    assert!(
        several.message.contains("more than one row"),
        "{}",
        several.message
    );
    assert_eq!(
        fixture.execute("CREATE TABLE t (id int PRIMARY KEY)", &[]),
        0
    );
    assert_eq!(
        fixture.execute("INSERT INTO t SELECT generate_series(1, 5)", &[]),
        5
    );
    assert_eq!(
        fixture.execute("UPDATE t SET id = id + 10 WHERE id > $1", &[number(3)]),
        2
    );
    assert_eq!(
        fixture.execute("DELETE FROM t WHERE id > 10 RETURNING id", &[]),
        2
    );
    let added = fixture.one("INSERT INTO t VALUES (9) RETURNING id", &[]);
    assert_eq!(field(&added, "id"), number(9));
    assert_eq!(fixture.pool().open, 1);
}

#[test]
fn timestamps_are_strings_by_option() {
    let Some(server) = server::shared() else {
        return;
    };
    let mut settings = settings(server, &server.database());
    settings.timestamps = crate::config::Timestamps::String;
    let fixture = Fixture::new(&settings);
    let found = fixture.one(
        "SELECT $1::timestamptz AS v, '2024-02-29'::date AS d",
        &[number(0)],
    );
    // In the zone of the session.
    assert_eq!(field(&found, "v"), text("1970-01-01 08:00:00+08"));
    assert_eq!(field(&found, "d"), text("2024-02-29"));
}

#[test]
fn an_error_has_its_kind_its_state_and_a_place() {
    let Some(server) = server::shared() else {
        return;
    };
    let fixture = Fixture::new(&settings(server, &server.database()));
    fixture.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL CHECK (n > 0))",
        &[],
    );
    fixture.execute("INSERT INTO t VALUES (1, 1)", &[]);
    for (statement, kind, state, part) in [
        (
            "INSERT INTO t VALUES (1, 1)",
            "conflict",
            "23505",
            "INSERT in `main`: duplicate key",
        ),
        (
            "INSERT INTO t VALUES (2, 0)",
            "invalid",
            "23514",
            "violates check constraint",
        ),
        (
            "SELECT * FROM nosuch",
            "notFound",
            "42P01",
            "does not exist",
        ),
        (
            "SELEC 1",
            "invalid",
            "42601",
            "SELEC in `main`: syntax error",
        ),
        (
            "SELECT 1; SELECT 2",
            "invalid",
            "42601",
            "cannot insert multiple commands",
        ),
        ("SELECT 1/0", "invalid", "22012", "division by zero"),
        (
            "DO $$ BEGIN RAISE EXCEPTION 'mine'; END $$",
            "refused",
            "P0001",
            "mine (P0001)",
        ),
    ] {
        let fault = fixture.fails(statement, &[]);
        assert_eq!(fault.kind, kind, "{}", fault.message);
        assert!(fault.message.contains(part), "{}", fault.message);
        assert!(
            fault.fields.contains(&("sqlstate", text(state))),
            "{fault:?}"
        );
    }
    let fault = fixture.fails("INSERT INTO t VALUES (1, 1)", &[]);
    assert!(
        fault.fields.contains(&("constraint", text("t_pkey"))),
        "{fault:?}"
    );
}

#[test]
fn an_argument_or_a_statement_that_is_wrong_costs_no_connection() {
    let Some(server) = server::shared() else {
        return;
    };
    let fixture = Fixture::new(&settings(server, &server.database()));
    fixture.execute("CREATE TABLE t (id int PRIMARY KEY)", &[]);
    for (arguments, part) in [
        (
            vec![text("1")],
            "argument $1 is a string, and the parameter is integer",
        ),
        (
            vec![Value::Nil],
            "argument $1 is nil; write `tide.null` for NULL",
        ),
        (
            Vec::new(),
            "the statement has 1 parameters, and the call has 0 arguments",
        ),
    ] {
        let fault = fixture.fails("SELECT * FROM t WHERE id = $1", &arguments);
        assert_eq!(fault.kind, "invalid");
        assert!(fault.message.contains(part), "{}", fault.message);
    }
    for (statement, part) in [
        ("COPY t FROM STDIN", "`insert` copies rows"),
        ("COPY t TO STDOUT", "write a query"),
        ("BEGIN", "use `transaction`"),
    ] {
        let fault = fixture.run(statement, &[], Shape::Count).unwrap_err();
        assert!(fault.message.contains(part), "{}", fault.message);
    }
    fixture.is_at_rest();
    assert_eq!(fixture.pool().open, 1, "no error costs a connection");
}

#[test]
fn a_result_has_bounds() {
    let Some(server) = server::shared() else {
        return;
    };
    let database = server.database();
    let mut settings = settings(server, &database);
    (settings.max_rows, settings.max_result) = (100, 1 << 20);
    let fixture = Fixture::new(&settings);
    let all = |count: i64| {
        fixture.run(
            "SELECT generate_series(1, $1::bigint)",
            &[number(count)],
            Shape::Rows,
        )
    };
    assert!(all(100).is_ok());
    let fault = all(101).unwrap_err();
    assert_eq!(fault.kind, "tooLarge");
    assert!(
        fault.message.contains("more than 100 rows"),
        "{}",
        fault.message
    );
    let fault = all(50_000_000).unwrap_err();
    assert_eq!(fault.kind, "tooLarge");
    assert_eq!(
        fixture.pool().open,
        1,
        "the server was not made to send them"
    );
    let fault = fixture.fails(
        "SELECT repeat('x', 200000) FROM generate_series(1, 50)",
        &[],
    );
    assert!(fault.message.contains("1048576 bytes"), "{}", fault.message);
    let fault = fixture.fails("SELECT repeat('x', 20000000)", &[]);
    assert_eq!(fault.kind, "tooLarge");
    assert_eq!(
        fixture.execute("SELECT generate_series(1, 5000)", &[]),
        5_000
    );
    fixture.is_at_rest();
}

#[test]
fn a_statement_stays_prepared_until_its_result_changes() {
    let Some(server) = server::shared() else {
        return;
    };
    let mut settings = settings(server, &server.database());
    settings.size = 1;
    let fixture = Fixture::new(&settings);
    fixture.execute("CREATE TABLE t (id int)", &[]);
    fixture.execute("INSERT INTO t VALUES (7)", &[]);
    let prepared =
        "SELECT count(*) AS n FROM pg_prepared_statements WHERE statement LIKE 'SELECT%FROM t'";
    for _ in 0..3 {
        assert_eq!(
            fixture.one("SELECT * FROM t", &[]),
            table(vec![("id", number(7))])
        );
    }
    assert_eq!(field(&fixture.one(prepared, &[]), "n"), number(1));
    fixture.execute("ALTER TABLE t ADD COLUMN name text DEFAULT 'x'", &[]);
    let both = table(vec![("id", number(7)), ("name", text("x"))]);
    assert_eq!(fixture.one("SELECT * FROM t", &[]), both);
    // A pool in front of the server may have another connection now.
    fixture.execute("DEALLOCATE ALL", &[]);
    assert_eq!(fixture.one("SELECT * FROM t", &[]), both);
    for n in 0..300 {
        fixture.query(&format!("SELECT {n} FROM t"), &[]);
    }
    let Value::Integer(count) = field(&fixture.one(prepared, &[]), "n") else {
        panic!("no number");
    };
    assert!((200..=256).contains(&count), "{count}");

    settings.prepare = false;
    let fixture = Fixture::new(&settings);
    for _ in 0..3 {
        fixture.query("SELECT * FROM t", &[]);
    }
    assert_eq!(field(&fixture.one(prepared, &[]), "n"), number(0));
}

#[test]
fn a_transaction_is_whole_or_nothing() {
    let Some(server) = server::shared() else {
        return;
    };
    let fixture = Fixture::new(&settings(server, &server.database()));
    fixture.execute(
        "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES t DEFERRABLE INITIALLY DEFERRED)",
        &[],
    );
    let count = || field(&fixture.one("SELECT count(*) AS n FROM t", &[]), "n");
    let kept = fixture.begun();
    fixture.within(&kept, "INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(count(), number(0));
    assert_eq!(fixture.commit(&kept), Ok(Value::Nil));
    assert_eq!(count(), number(1));
    let after = fixture
        .within(&kept, "INSERT INTO t VALUES (2)")
        .unwrap_err();
    assert!(
        after.message.contains("the transaction has ended"),
        "{}",
        after.message
    );

    let dropped = fixture.begun();
    fixture
        .within(&dropped, "INSERT INTO t VALUES (2)")
        .unwrap();
    drop(dropped);
    fixture.is_at_rest();
    assert_eq!(count(), number(1));

    // A failed statement that was caught does not lead to a commit.
    let failed = fixture.begun();
    fixture.within(&failed, "INSERT INTO t VALUES (3)").unwrap();
    assert_eq!(
        fixture
            .within(&failed, "INSERT INTO t VALUES (1)")
            .unwrap_err()
            .kind,
        "conflict"
    );
    let fault = fixture
        .within(&failed, "INSERT INTO t VALUES (4)")
        .unwrap_err();
    assert!(
        fault
            .message
            .contains("an earlier statement of the transaction has failed"),
        "{}",
        fault.message
    );
    let fault = fixture.commit(&failed).unwrap_err();
    assert!(
        fault.message.contains("has failed, so it is rolled back"),
        "{}",
        fault.message
    );
    drop(failed);

    fixture.is_at_rest();
    assert_eq!(count(), number(1));
    assert_eq!(fixture.pool().open, 2, "every connection was put back");
}

#[test]
fn a_transaction_that_ends_otherwise_is_told() {
    let Some(server) = server::shared() else {
        return;
    };
    let fixture = Fixture::new(&settings(server, &server.database()));
    let table =
        "CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES t DEFERRABLE INITIALLY DEFERRED)";
    fixture.execute(table, &[]);

    // A constraint that is checked at the end.
    let deferred = fixture.begun();
    fixture
        .within(&deferred, "INSERT INTO t VALUES (5, 99)")
        .unwrap();
    let fault = fixture.commit(&deferred).unwrap_err();
    assert_eq!(fault.kind, "conflict");
    assert!(
        fault.fields.contains(&("sqlstate", text("23503"))),
        "{fault:?}"
    );
    drop(deferred);

    // SQL ends the transaction behind its back.
    let ended = fixture.begun();
    let fault = fixture.within(&ended, "COMMIT").unwrap_err();
    assert!(
        fault.message.contains("has ended the transaction"),
        "{}",
        fault.message
    );
    let fault = fixture.commit(&ended).unwrap_err();
    assert!(
        fault.message.contains("was ended by a statement of it"),
        "{}",
        fault.message
    );
    drop(ended);
    fixture.is_at_rest();
    let count = fixture.one("SELECT count(*) AS n FROM t", &[]);
    assert_eq!(field(&count, "n"), number(0));
    assert_eq!(fixture.pool().open, 1, "every connection was put back");
}

#[test]
fn a_transaction_has_its_isolation() {
    let Some(server) = server::shared() else {
        return;
    };
    let fixture = Fixture::new(&settings(server, &server.database()));
    fixture.execute("CREATE TABLE t (id int)", &[]);
    let transaction = fixture.transaction(Begin {
        isolation: Some(crate::wait::sql::Isolation::RepeatableRead),
        is_read_only: true,
        ..plain()
    });
    fixture.ended(transaction.begin().requesting).unwrap();
    let count = || fixture.within(&transaction, "SELECT * FROM t").unwrap();
    assert_eq!(count(), number(0));
    fixture.execute("INSERT INTO t VALUES (1)", &[]);
    assert_eq!(count(), number(0));
    let fault = fixture
        .within(&transaction, "INSERT INTO t VALUES (2)")
        .unwrap_err();
    assert!(
        fault.message.contains("read-only transaction"),
        "{}",
        fault.message
    );
}
