//! The same against a file.

use super::*;

fn settings(folder: &tempfile::TempDir) -> Settings {
    let mut settings = Settings::named("main");
    settings.location = Location::Sqlite(folder.path().join("data.db"));
    settings
}

fn count(fixture: &Fixture) -> Value {
    field(&fixture.one("SELECT count(*) AS n FROM t", &[]), "n")
}

#[test]
fn values_come_back_as_they_went() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(&settings(&folder));
    for value in [
        Value::Integer(i64::MIN),
        Value::Number(0.1),
        text("a\0ä€"),
        Value::Bytes(b"\0\xff".as_slice().into()),
    ] {
        let found = fixture.one("SELECT $1 AS v", std::slice::from_ref(&value));
        assert_eq!(field(&found, "v"), value);
    }
    assert_eq!(
        field(&fixture.one("SELECT ? AS v", &[Value::Null]), "v"),
        Value::Nil
    );
    assert_eq!(
        field(&fixture.one("SELECT ?1 AS v", &[Value::Boolean(true)]), "v"),
        Value::Integer(1)
    );
    let document = table(vec![("a", list(vec![Value::Integer(1)]))]);
    let found = fixture.one("SELECT ?1 ->> '$.a[0]' AS v", &[document]);
    assert_eq!(field(&found, "v"), Value::Integer(1));
    for (statement, arguments, part) in [
        (
            "SELECT ?",
            vec![Value::Nil],
            "argument 1 is nil; write `tide.null`",
        ),
        ("SELECT ?", vec![Value::Number(f64::NAN)], "NaN"),
        (
            "SELECT ?",
            Vec::new(),
            "has 1 parameters, and the call has 0 arguments",
        ),
        ("SELECT 1; SELECT 2", Vec::new(), "several statements"),
        (" -- nothing", Vec::new(), "no statement"),
        ("SELEC", Vec::new(), "syntax error"),
        ("BEGIN", Vec::new(), "use `transaction`"),
    ] {
        let fault = fixture.fails(statement, &arguments);
        assert_eq!(fault.kind, "invalid");
        assert!(fault.message.contains(part), "{}", fault.message);
    }
    assert_eq!(fixture.fails("SELECT * FROM nosuch", &[]).kind, "notFound");
    fixture.is_at_rest();
}

#[test]
fn it_changes_rows_and_keeps_what_is_committed() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(&settings(&folder));
    assert_eq!(
        fixture.execute(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, n INT NOT NULL DEFAULT 0)",
            &[]
        ),
        0
    );
    assert_eq!(
        fixture.execute("INSERT INTO t (id) VALUES (1), (2), (3)", &[]),
        3
    );
    assert_eq!(fixture.execute("CREATE TABLE u (id INT)", &[]), 0);
    // A query that writes goes to the connection that does.
    let found = fixture.query("UPDATE t SET n = 7 WHERE id < 3 RETURNING n", &[]);
    assert_eq!(field(&found, "columns"), list(vec![text("n")]));
    assert_eq!(fixture.execute("UPDATE t SET n = 8 WHERE id > 9", &[]), 0);
    let fault = fixture.fails("INSERT INTO t (id) VALUES (1)", &[]);
    assert_eq!(
        (fault.kind, &fault.fields[0]),
        ("conflict", &("sqlstate", text("23505")))
    );
    assert_eq!(fault.fields[1], ("constraint", text("t.id")));

    let kept = fixture.begun();
    fixture
        .within(&kept, "INSERT INTO t (id) VALUES (4)")
        .unwrap();
    // Another statement reads meanwhile, and sees nothing of it.
    assert_eq!(count(&fixture), Value::Integer(3));
    // A failed statement is undone alone.
    assert_eq!(
        fixture
            .within(&kept, "INSERT INTO t (id) VALUES (1)")
            .unwrap_err()
            .kind,
        "conflict"
    );
    fixture.commit(&kept).unwrap();
    assert_eq!(count(&fixture), Value::Integer(4));
    let dropped = fixture.begun();
    fixture.within(&dropped, "DELETE FROM t").unwrap();
    drop(dropped);
    fixture.is_at_rest();
    assert_eq!(count(&fixture), Value::Integer(4));
    let reading = fixture.transaction(Begin {
        is_read_only: true,
        ..plain()
    });
    fixture.ended(reading.begin().requesting).unwrap();
    assert_eq!(
        fixture.within(&reading, "DELETE FROM t").unwrap_err().kind,
        "unreachable"
    );
    fixture.commit(&reading).unwrap();
    assert_eq!(fixture.execute("DELETE FROM t", &[]), 4);
}

#[test]
fn rows_are_inserted_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(&settings(&folder));
    fixture.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name, raw, at, own DEFAULT 7)",
        &[],
    );
    rows::rows_are_copied(&fixture, "row 3: ");
    let transaction = fixture.begun();
    let insert = |id: i64| {
        Work::Insert(Insert {
            table: vec!["t".to_owned()],
            columns: vec!["id".to_owned()],
            rows: vec![vec![Value::Integer(id + 1)], vec![Value::Integer(id)]],
            on_conflict: None,
        })
    };
    let put = |id| fixture.ended(transaction.request(request(insert(id))).unwrap().requesting);
    assert_eq!(put(10_000), Ok(Value::Integer(2)));
    // It undoes its own rows, and no others of the transaction.
    assert_eq!(put(9_999).unwrap_err().kind, "conflict");
    fixture.commit(&transaction).unwrap();
    let added = fixture.one("SELECT count(*) AS n FROM t WHERE id >= 9999", &[]);
    assert_eq!(field(&added, "n"), Value::Integer(2));
}

#[test]
fn a_body_whose_transaction_is_committed_does_not_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::new(&settings(&folder));
    fixture.execute("CREATE TABLE t (id INT)", &[]);
    once::a_body_runs_once(&fixture);
}

#[test]
fn old_rows_of_once_wait_for_the_commit() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&folder);
    settings.once_retention = Duration::from_secs(1);
    let fixture = Fixture::new(&settings);
    once::old_rows_wait_for_the_commit(&fixture, "moontide_once", "unixepoch() - 3600");
}

const ENDLESS: &str =
    "WITH RECURSIVE n(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM n) SELECT count(*) FROM n";

#[test]
fn slow_busy_and_given_up_work_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&folder);
    settings.timeout = Duration::from_millis(100);
    settings.acquire_timeout = Duration::from_millis(100);
    let fixture = Fixture::new(&settings);
    fixture.execute("CREATE TABLE t (id INT)", &[]);
    let fault = fixture.fails(ENDLESS, &[]);
    assert_eq!(fault.kind, "timeout");
    fixture.is_at_rest();
    let task = fixture
        .runtime
        .spawn(fixture.begin(run(ENDLESS, &[], Shape::Count)));
    fixture.settles("it runs", |pool| pool.in_use == 1);
    task.abort();
    fixture.is_at_rest();
    // One transaction writes at a time, and others are told so.
    let transaction = fixture.begun();
    fixture
        .within(&transaction, "INSERT INTO t VALUES (1)")
        .unwrap();
    let fault = fixture
        .run("INSERT INTO t VALUES (2)", &[], Shape::Count)
        .unwrap_err();
    assert_eq!(fault.kind, "busy");
    assert!(
        fault
            .message
            .contains("the one connection is in use, 1 of them by transactions"),
        "{}",
        fault.message
    );
    drop(transaction);
    fixture.is_at_rest();
    // Another process has the lock.
    let other = rusqlite::Connection::open(folder.path().join("data.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let fault = fixture
        .run("INSERT INTO t VALUES (2)", &[], Shape::Count)
        .unwrap_err();
    assert!(
        AWAY.contains(&fault.kind) || fault.kind == "timeout",
        "{fault:?}"
    );
    other.execute_batch("COMMIT").unwrap();
    fixture.execute("INSERT INTO t VALUES (3)", &[]);
    assert_eq!(count(&fixture), Value::Integer(1));
    fixture.is_at_rest();
}

#[test]
fn a_file_that_cannot_be_opened_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&folder);
    settings.location = Location::Sqlite(folder.path().join("nosuch/data.db"));
    let fault = Fixture::new(&settings).fails("SELECT 1", &[]);
    assert_eq!(fault.kind, "unreachable");
    assert!(
        fault
            .message
            .contains("nosuch/data.db` cannot be opened: unable to open"),
        "{}",
        fault.message
    );
}
