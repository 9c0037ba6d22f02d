//! The identity in the transaction of what was done.

use super::*;

pub(super) fn identified(identity: &str) -> Begin {
    Begin {
        function: "sql:once",
        identity: Some(identity.to_owned()),
        ..plain()
    }
}

/// The same for every kind of database.
pub(super) fn a_body_runs_once(fixture: &Fixture) {
    let begin = |identity: &str| {
        let transaction = fixture.transaction(identified(identity));
        let runs = fixture.ended(transaction.begin().requesting).unwrap();
        (transaction, runs == Value::Boolean(true))
    };
    let (first, runs) = begin("a");
    assert!(runs);
    fixture.within(&first, "INSERT INTO t VALUES (1)").unwrap();
    // Not committed: it has not happened.
    drop(first);
    let (second, runs) = begin("a");
    assert!(runs);
    fixture.within(&second, "INSERT INTO t VALUES (2)").unwrap();
    fixture.commit(&second).unwrap();
    let (third, runs) = begin("a");
    assert!(!runs);
    drop(third);
    assert!(begin("b").1);
    fixture.is_at_rest();
    let found = fixture.one("SELECT id FROM t", &[]);
    assert_eq!(field(&found, "id"), Value::Integer(2));
}

#[test]
fn a_body_whose_transaction_is_committed_does_not_run_again() {
    for scene in scenes() {
        let fixture = Fixture::new(&scene.settings);
        fixture.execute("CREATE TABLE t (id int)", &[]);
        a_body_runs_once(&fixture);
    }
}

/// The second one waits for the first, and learns of its commit.
#[test]
fn two_at_once_do_not_both_run() {
    for scene in scenes() {
        let fixture = Fixture::new(&scene.settings);
        let first = fixture.transaction(identified("a"));
        assert_eq!(
            fixture.ended(first.begin().requesting),
            Ok(Value::Boolean(true))
        );
        let second = fixture.transaction(identified("a"));
        let waiting = fixture.runtime.spawn(second.begin().requesting);
        scene.wait_for_activity(|now| now.contains("active"));
        fixture.commit(&first).unwrap();
        assert_eq!(fixture.ended(waiting).unwrap(), Ok(Value::Boolean(false)));
    }
}

/// Many wait for one that rolls back: one of them runs, and none fails.
#[test]
fn after_a_rollback_one_of_those_that_wait_runs() {
    for scene in scenes() {
        let fixture = Fixture::new(&scene.settings);
        let holder = fixture.transaction(identified("a"));
        fixture.ended(holder.begin().requesting).unwrap();
        let waiting: Vec<_> = (0..6)
            .map(|_| {
                let transaction = fixture.transaction(identified("a"));
                fixture.runtime.spawn(async move {
                    let runs = transaction.begin().requesting.await?;
                    if runs == Value::Boolean(true) {
                        transaction.commit().requesting.await?;
                    }
                    Ok::<_, Fault>(runs)
                })
            })
            .collect();
        scene.wait_for_activity(|now| now.contains("active 6"));
        drop(holder);
        let ran = waiting
            .into_iter()
            .map(|one| fixture.ended(one).unwrap().unwrap())
            .filter(|runs| *runs == Value::Boolean(true));
        assert_eq!(ran.count(), 1);
    }
}

#[test]
fn its_table_is_made_once_and_its_old_rows_are_deleted() {
    let Some(server) = server::shared() else {
        return;
    };
    let database = server.database();
    let mut settings = settings(server, &database);
    settings.once_table = vec!["app".to_owned(), "seen".to_owned()];
    settings.once_retention = Duration::from_secs(1);
    let fixture = Fixture::new(&settings);
    let begin = |identity: &str| {
        fixture.ended(fixture.transaction(identified(identity)).begin().requesting)
    };
    let fault = begin("a").unwrap_err();
    assert!(
        fault.message.contains("schema \"app\" does not exist"),
        "{}",
        fault.message
    );
    fixture.execute("CREATE SCHEMA app", &[]);
    begin("a").unwrap();
    fixture.execute("INSERT INTO app.seen SELECT n::text, now() - interval '1 h' FROM generate_series(1, 12000) n", &[]);
    fixture.execute("INSERT INTO app.seen VALUES ('new')", &[]);
    let until = std::time::Instant::now() + SOON;
    let old = "SELECT count(*) AS n FROM app.seen WHERE at < now() - interval '30 min'";
    while field(&fixture.one(old, &[]), "n") != Value::Integer(0) {
        assert!(std::time::Instant::now() < until);
        begin("a").unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn without_the_right_to_make_it_the_error_has_the_statements() {
    let Some(server) = server::shared() else {
        return;
    };
    let database = server.database();
    let role = format!("{database}_role");
    server.sql(
        &database,
        &format!("CREATE ROLE {role} LOGIN PASSWORD 'pw'"),
    );
    let mut settings = settings(server, &database);
    if let Location::Postgres(postgres) = &mut settings.location {
        postgres.user.clone_from(&role);
        postgres.password = Some(Secret("pw".to_owned()));
    }
    let fixture = Fixture::new(&settings);
    let begin = || fixture.ended(fixture.transaction(identified("a")).begin().requesting);
    let fault = begin().unwrap_err();
    assert_eq!(fault.kind, "refused");
    let (_, statements) = fault.message.split_once("run as its owner: ").unwrap();
    server.sql(&database, statements);
    server.sql(
        &database,
        &format!("GRANT SELECT, INSERT, DELETE ON moontide_once TO {role}"),
    );
    assert_eq!(begin(), Ok(Value::Boolean(true)));
}
