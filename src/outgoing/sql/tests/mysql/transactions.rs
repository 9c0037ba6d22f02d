//! Transactions, rows, `once`, and log-ins.

use super::*;

#[test]
fn a_transaction_is_whole_or_nothing() {
    let Some((_, _, fixture)) = fixture(|_| {}) else {
        return;
    };
    fixture.execute("CREATE TABLE t (id int PRIMARY KEY)", &[]);
    let count = || field(&fixture.one("SELECT count(*) AS n FROM t", &[]), "n");
    let kept = fixture.begun();
    fixture.within(&kept, "INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(count(), number(0));
    // A failed statement is undone alone.
    let fault = fixture
        .within(&kept, "INSERT INTO t VALUES (2), (1)")
        .unwrap_err();
    assert_eq!(fault.kind, "conflict");
    assert_eq!(fixture.commit(&kept), Ok(Value::Nil));
    assert_eq!(count(), number(1));
    let dropped = fixture.begun();
    fixture
        .within(&dropped, "INSERT INTO t VALUES (2)")
        .unwrap();
    drop(dropped);
    fixture.is_at_rest();
    assert_eq!(count(), number(1));
    // SQL ends the transaction behind its back.
    for statement in ["COMMIT", "CREATE TABLE another (id int)"] {
        let ended = fixture.begun();
        let fault = fixture.within(&ended, statement).unwrap_err();
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
    }
    // It fails, and has committed before that.
    let ended = fixture.begun();
    let fault = fixture
        .within(&ended, "CREATE TABLE t (id int)")
        .unwrap_err();
    assert!(
        fault.message.contains("has ended the transaction"),
        "{}",
        fault.message
    );
    drop(ended);
    fixture.is_at_rest();
    assert_eq!(fixture.pool().open, 2, "every connection was put back");
}

/// The server has rolled back: nothing that follows in the body is committed by itself.
#[test]
fn a_deadlock_ends_the_whole_transaction() {
    let Some((server, database, fixture)) = fixture(|_| {}) else {
        return;
    };
    fixture.execute("CREATE TABLE t (id int PRIMARY KEY, n int)", &[]);
    fixture.execute("INSERT INTO t VALUES (1, 0), (2, 0)", &[]);
    let (one, other) = (fixture.begun(), fixture.begun());
    fixture
        .within(&one, "UPDATE t SET n = 1 WHERE id = 1")
        .unwrap();
    fixture
        .within(&other, "UPDATE t SET n = 2 WHERE id = 2")
        .unwrap();
    let work = |transaction: &Arc<dyn Transaction>, id: i64| {
        let statement = format!("UPDATE t SET n = n + 10 WHERE id = {id}");
        let work = request(run(&statement, &[], Shape::Count));
        transaction.request(work).unwrap().requesting
    };
    let waiting = fixture.runtime.spawn(work(&one, 2));
    server.wait_for_activity(&database, |now| now.contains("active"));
    let second = fixture.ended(work(&other, 1));
    let first = fixture.ended(waiting).unwrap();
    let (lost, kept) = match (first, second) {
        (Err(fault), Ok(_)) | (Ok(_), Err(fault)) if fault.kind != "conflict" => {
            panic!("{fault:?}")
        }
        (Err(_), Ok(_)) => (&one, &other),
        (Ok(_), Err(_)) => (&other, &one),
        both => panic!("{both:?}"),
    };
    let fault = fixture
        .within(lost, "INSERT INTO t VALUES (3, 0)")
        .unwrap_err();
    assert!(
        fault.message.contains("has rolled it back"),
        "{}",
        fault.message
    );
    let fault = fixture.commit(lost).unwrap_err();
    assert!(
        fault.message.contains("has failed, so it is rolled back"),
        "{}",
        fault.message
    );
    fixture.commit(kept).unwrap();
    let row = fixture.one("SELECT count(*) AS n FROM t", &[]);
    assert_eq!(field(&row, "n"), number(2));
    fixture.is_at_rest();
}

#[test]
fn a_transaction_has_its_isolation() {
    let Some((_, _, fixture)) = fixture(|_| {}) else {
        return;
    };
    fixture.execute("CREATE TABLE t (id int)", &[]);
    let begin = |isolation, is_read_only| {
        let transaction = fixture.transaction(Begin {
            isolation: Some(isolation),
            is_read_only,
            ..plain()
        });
        fixture.ended(transaction.begin().requesting).unwrap();
        transaction
    };
    let reading = begin(crate::wait::sql::Isolation::RepeatableRead, true);
    let count = || fixture.within(&reading, "SELECT * FROM t").unwrap();
    assert_eq!(count(), number(0));
    fixture.execute("INSERT INTO t VALUES (1)", &[]);
    assert_eq!(count(), number(0));
    let fault = fixture
        .within(&reading, "INSERT INTO t VALUES (2)")
        .unwrap_err();
    // Its own option, and not the server.
    assert_eq!(fault.kind, "invalid");
    drop(reading);
    let committed = begin(crate::wait::sql::Isolation::ReadCommitted, false);
    assert_eq!(
        fixture.within(&committed, "SELECT * FROM t").unwrap(),
        number(1)
    );
    fixture.execute("INSERT INTO t VALUES (3)", &[]);
    assert_eq!(
        fixture.within(&committed, "SELECT * FROM t").unwrap(),
        number(2)
    );
}

const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, name text, raw blob, at datetime(3), own int DEFAULT 7)";

#[test]
fn rows_are_inserted_whole_or_not_at_all() {
    let Some((_, _, fixture)) = fixture(|settings| settings.size = 1) else {
        return;
    };
    fixture.execute(TABLE, &[]);
    rows::rows_are_copied(&fixture, "Duplicate entry for key 'PRIMARY'");
    let rows = |rows: Vec<Vec<Value>>| {
        Work::Insert(Insert {
            table: vec!["t".to_owned()],
            columns: vec!["id".to_owned(), "name".to_owned()],
            rows,
            on_conflict: None,
        })
    };
    let count = || field(&fixture.one("SELECT count(*) AS n FROM t", &[]), "n");
    fixture.execute("DELETE FROM t", &[]);
    // Several statements, and the last row of them is there already.
    let mut many: Vec<_> = (0..2_500).map(|id| vec![number(id), Value::Null]).collect();
    many.push(vec![number(0), Value::Null]);
    assert_eq!(
        fixture
            .ended(fixture.begin(rows(many.clone())))
            .unwrap_err()
            .kind,
        "conflict"
    );
    assert_eq!(count(), number(0));
    let transaction = fixture.begun();
    let put = |work| fixture.ended(transaction.request(request(work)).unwrap().requesting);
    assert_eq!(put(rows(vec![many[7].clone()])), Ok(number(1)));
    // It undoes its own rows, and no others of the transaction.
    assert_eq!(put(rows(many[1_000..].to_vec())).unwrap(), number(1_501));
    assert_eq!(put(rows(many)).unwrap_err().kind, "conflict");
    fixture.commit(&transaction).unwrap();
    assert_eq!(count(), number(1_502));
    // More bytes than one packet of the server has.
    fixture.execute("DELETE FROM t", &[]);
    fixture.execute("ALTER TABLE t MODIFY name longtext", &[]);
    let long = text(&"x".repeat(1 << 20));
    let many = (0..40).map(|id| vec![number(id), long.clone()]).collect();
    assert_eq!(fixture.ended(fixture.begin(rows(many))), Ok(number(40)));
    let found = fixture.one("SELECT sum(length(name)) AS n FROM t", &[]);
    assert_eq!(field(&found, "n"), text(&(40 << 20).to_string()));
    let wrong = vec![vec![number(100), text("x")], vec![text("x"), text("y")]];
    let fault = fixture.ended(fixture.begin(rows(wrong))).unwrap_err();
    assert!(
        fault.message.contains("row 2: Incorrect integer"),
        "{}",
        fault.message
    );
    assert_eq!(
        fixture.pool().open,
        1,
        "every error leaves the connection in order"
    );
}

#[test]
fn the_table_of_once_is_made_and_its_old_rows_are_deleted() {
    let Some((_, _, fixture)) = fixture(|settings| {
        settings.once_retention = Duration::from_secs(1);
    }) else {
        return;
    };
    // Letters differ by their case, and by their accents.
    for identity in ["a", "A", "ä"] {
        let transaction = fixture.transaction(once::identified(identity));
        assert_eq!(
            fixture.ended(transaction.begin().requesting),
            Ok(Value::Boolean(true))
        );
        fixture.commit(&transaction).unwrap();
    }
    once::old_rows_wait_for_the_commit(&fixture, "moontide_once", "NOW() - INTERVAL 1 HOUR");
}

#[test]
fn without_the_right_to_make_it_the_error_has_the_statement() {
    let Some(server) = mariadb::shared() else {
        return;
    };
    let database = server.database();
    let user = format!("{database}_user");
    let sql = |text: &str| server.sql(&database, text);
    sql(&format!(
        "CREATE USER {user} IDENTIFIED BY 'pw'; GRANT SELECT ON {database}.* TO {user}"
    ));
    let mut settings = settings_of_mariadb(server, &database);
    if let Location::MySql(mysql) = &mut settings.location {
        mysql.user.clone_from(&user);
        mysql.password = Some(Secret("pw".to_owned()));
    }
    let fixture = Fixture::new(&settings);
    let begin = || {
        fixture.ended(
            fixture
                .transaction(once::identified("a"))
                .begin()
                .requesting,
        )
    };
    let fault = begin().unwrap_err();
    assert_eq!(fault.kind, "refused");
    let (_, statement) = fault.message.split_once("run as its owner: ").unwrap();
    sql(statement);
    sql(&format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.moontide_once TO {user}"
    ));
    assert_eq!(begin(), Ok(Value::Boolean(true)));
}

#[test]
fn a_log_in_that_fails_says_why_and_is_not_the_messages_fault() {
    let Some(server) = mariadb::shared() else {
        return;
    };
    let wrong = |change: fn(&mut ConnectingToMySql)| {
        let mut settings = settings_of_mariadb(server, "mysql");
        if let Location::MySql(mysql) = &mut settings.location {
            change(mysql);
        }
        let fault = Fixture::new(&settings).fails("SELECT 1", &[]);
        assert!(AWAY.contains(&fault.kind), "{fault:?}");
        assert!(!fault.message.contains("secret"), "{}", fault.message);
        fault.message
    };
    let message = wrong(|one| one.password = Some(Secret("another secret".to_owned())));
    assert!(
        message.contains("Access denied for user 'moontide'"),
        "{message}"
    );
    let message = wrong(|one| one.password = None);
    assert!(
        message.contains("`user` and `password` stand in its table"),
        "{message}"
    );
    let message = wrong(|one| one.database = Some("nosuch".to_owned()));
    assert!(
        message.contains("Unknown database 'nosuch' (1049, 42000)"),
        "{message}"
    );
    let message = wrong(|one| {
        one.tls = Some(crate::config::Tls {
            ca: None,
            certificate: None,
        });
    });
    assert!(message.contains("has no TLS"), "{message}");
    // None of a server is such.
    let mut settings = settings_of_mariadb(server, "mysql");
    if let Location::MySql(mysql) = &mut settings.location {
        mysql.database = None;
    }
    let fixture = Fixture::new(&settings);
    assert_eq!(
        fixture.one("SELECT DATABASE() AS v", &[]),
        table(Vec::new())
    );
}
