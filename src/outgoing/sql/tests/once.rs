//! The identity in the transaction of what was done.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use super::*;
use crate::wait::sql::{Committed, Identity, Positions};

/// A consumer that has the partition of all messages, and has committed them up to an offset.
#[derive(Debug, Default)]
struct Position {
    committed: AtomicI64,
    /// How often somebody wanted to know it.
    questions: AtomicUsize,
}

impl Positions for Position {
    fn committed(&self, topic: &str, partition: i32) -> Committed {
        assert_eq!((topic, partition), ("t", 0));
        self.questions.fetch_add(1, Ordering::SeqCst);
        let offset = self.committed.load(Ordering::SeqCst);
        Box::pin(async move { Some(offset) })
    }
}

pub(super) fn identified(identity: &str) -> Begin {
    identified_by(identity, Arc::<Position>::default())
}

fn identified_by(identity: &str, positions: Arc<Position>) -> Begin {
    let identity = Identity {
        text: identity.to_owned(),
        scope: "g/l/t/0".to_owned(),
        topic: "t".to_owned(),
        partition: 0,
        offset: 7,
        positions,
    };
    Begin {
        function: "sql:once",
        identity: Some(identity),
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
    old_rows_wait_for_the_commit(&fixture, "app.seen", "now() - interval '1 h'");
}

/// The same for both kinds of databases: a consumer stands still for longer than the retention, and then goes on.
pub(super) fn old_rows_wait_for_the_commit(fixture: &Fixture, table: &str, hour_ago: &str) {
    let position = Arc::new(Position::default());
    let put = |scope: &str, count: i64| {
        let text = format!(
            "INSERT INTO {table} (id, scope, message_offset, at) WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 \
             FROM s WHERE n < 109), t(n) AS (SELECT a.n * 110 + b.n FROM s a, s b) SELECT concat('{scope}/', n), \
             '{scope}', n, {hour_ago} FROM t WHERE n < {count}"
        );
        assert_eq!(fixture.execute(&text, &[]), count);
    };
    let left = |scope: &str| {
        let text = format!("SELECT count(*) AS n FROM {table} WHERE id LIKE '{scope}/%'");
        field(&fixture.one(&text, &[]), "n")
    };
    // Calls go on meanwhile, and with them the deletions.
    let until = |what: &str, is_so: &dyn Fn() -> bool| {
        let until = std::time::Instant::now() + SOON;
        while !is_so() {
            assert!(std::time::Instant::now() < until, "{what}");
            let transaction = fixture.transaction(identified_by("a", position.clone()));
            fixture.ended(transaction.begin().requesting).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    until("the first call", &|| {
        fixture
            .run(
                &format!("SELECT count(*) AS n FROM {table}"),
                &[],
                Shape::One,
            )
            .is_ok()
    });
    put("g/l/t/0", 12_000);
    // Of a partition that another daemon has.
    put("g/l/t/1", 10);
    let later = hour_ago.replace('-', "+");
    let young = format!(
        "INSERT INTO {table} (id, scope, message_offset, at) VALUES ('young', 'g/l/t/0', 1, {later})"
    );
    fixture.execute(&young, &[]);
    let questions = || position.questions.load(Ordering::SeqCst);
    let before = questions();
    until("two deletions", &|| questions() >= before + 3);
    assert_eq!(left("g/l/t/0"), Value::Integer(12_000));
    position.committed.store(9_000, Ordering::SeqCst);
    until("what is committed is deleted", &|| {
        left("g/l/t/0") != Value::Integer(12_000) && questions() >= before + 5
    });
    until("no more than that", &|| {
        left("g/l/t/0") == Value::Integer(3_000)
    });
    position.committed.store(12_000, Ordering::SeqCst);
    until("the rest is deleted", &|| {
        left("g/l/t/0") == Value::Integer(0)
    });
    assert_eq!(left("g/l/t/1"), Value::Integer(10));
    let found = format!("SELECT message_offset AS n FROM {table} WHERE id = 'young'");
    assert_eq!(field(&fixture.one(&found, &[]), "n"), Value::Integer(1));
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
