//! Calls that are given up at any moment leave nothing behind: no connection half used, no statement, no transaction.

use std::future::Future;

use super::proxy::Proxy;
use super::*;

/// Work that begins, and is given up when the condition holds.
fn give_up<T: Send + 'static>(
    fixture: &Fixture,
    work: impl Future<Output = T> + Send + 'static,
    when: impl FnOnce(),
) {
    let task = fixture.runtime.spawn(work);
    when();
    task.abort();
    let ended = fixture.ended(task);
    assert!(
        ended.is_err_and(|error| error.is_cancelled()),
        "it has ended before"
    );
}

fn is_gone(server: &Server, database: &str) {
    server.wait_for_activity(database, |now| {
        !now.contains("active") && !now.contains("transaction")
    });
}

#[test]
fn while_it_connects_and_while_it_waits() {
    let Some(server) = server::shared() else {
        return;
    };
    let database = server.database();
    let mut settings = settings(server, &database);
    settings.size = 1;
    // It accepts and never answers.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let fixture = Fixture::new(&at_port(
        settings.clone(),
        mute.local_addr().unwrap().port(),
    ));
    let connecting = fixture.begin(run("SELECT 1", &[], Shape::Rows));
    give_up(&fixture, connecting, || {
        fixture.settles("it connects", |pool| pool.open == 1);
    });
    fixture.is_at_rest();

    let fixture = Fixture::new(&settings);
    let transaction = fixture.begun();
    let waiting = fixture.begin(run("SELECT 1", &[], Shape::Rows));
    give_up(&fixture, waiting, || {
        fixture.settles("it waits", |pool| pool.waiting == 1);
    });
    transaction.end();
    fixture.is_at_rest();
    assert_eq!(fixture.pool().open, 1);
}

#[test]
fn in_a_statement_and_in_its_result() {
    let Some(server) = server::shared() else {
        return;
    };
    let database = server.database();
    let mut settings = settings(server, &database);
    (settings.max_rows, settings.max_result) = (usize::MAX >> 33, 1 << 30);
    let fixture = Fixture::new(&settings);
    for statement in [
        "SELECT pg_sleep(600)",
        "SELECT repeat('x', 1000) FROM generate_series(1, 100000000)",
    ] {
        let work = fixture.begin(run(statement, &[], Shape::Rows));
        give_up(&fixture, work, || {
            server.wait_for_activity(&database, |now| now.contains("active"));
        });
        fixture.is_at_rest();
        is_gone(server, &database);
    }
    // One that waits for a lock, too.
    fixture.execute("CREATE TABLE t (id int)", &[]);
    let transaction = fixture.begun();
    fixture.within(&transaction, "LOCK TABLE t").unwrap();
    let work = fixture.begin(run("INSERT INTO t VALUES (1)", &[], Shape::Count));
    give_up(&fixture, work, || {
        server.wait_for_activity(&database, |now| now.contains("active 1"));
    });
    server.wait_for_activity(&database, |now| !now.contains("active"));
    drop(transaction);
    fixture.is_at_rest();
    assert_eq!(
        field(&fixture.one("SELECT count(*) AS n FROM t", &[]), "n"),
        Value::Integer(0)
    );
}

#[test]
fn in_a_transaction() {
    let Some(server) = server::shared() else {
        return;
    };
    let database = server.database();
    let fixture = Fixture::new(&settings(server, &database));
    fixture.execute("CREATE TABLE t (id int)", &[]);
    // Behind BEGIN, and nobody ends it but its drop, on a thread without a runtime.
    let transaction = fixture.begun();
    fixture
        .within(&transaction, "INSERT INTO t VALUES (1)")
        .unwrap();
    std::thread::spawn(move || drop(transaction))
        .join()
        .unwrap();
    fixture.is_at_rest();
    is_gone(server, &database);
    // In a statement: the transaction is lost with it.
    let transaction = fixture.begun();
    fixture
        .within(&transaction, "INSERT INTO t VALUES (1)")
        .unwrap();
    let work = transaction.request(request(run("SELECT pg_sleep(600)", &[], Shape::Rows)));
    give_up(&fixture, work.unwrap().requesting, || {
        server.wait_for_activity(&database, |now| now.contains("active"));
    });
    let fault = fixture
        .within(&transaction, "INSERT INTO t VALUES (2)")
        .unwrap_err();
    assert_eq!(fault.kind, "closed");
    assert!(
        fault.message.contains("the transaction is lost"),
        "{}",
        fault.message
    );
    assert_eq!(fixture.commit(&transaction).unwrap_err().kind, "closed");
    drop(transaction);
    fixture.is_at_rest();
    is_gone(server, &database);
    // A transaction that is told to end while a statement runs ends behind it.
    let holder = fixture.begun();
    fixture
        .within(&holder, "SELECT pg_advisory_xact_lock(7)")
        .unwrap();
    let transaction = fixture.begun();
    let work = run("SELECT pg_advisory_xact_lock(7)", &[], Shape::Count);
    let work = transaction.request(request(work)).unwrap().requesting;
    let running = fixture.runtime.spawn(work);
    server.wait_for_activity(&database, |now| now.contains("active"));
    transaction.end();
    drop(holder);
    fixture.ended(running).unwrap().unwrap();
    fixture.is_at_rest();
    is_gone(server, &database);
    assert_eq!(
        field(&fixture.one("SELECT count(*) AS n FROM t", &[]), "n"),
        Value::Integer(0)
    );
}

#[test]
fn a_commit_without_an_answer_is_neither_done_nor_undone() {
    let Some(server) = server::shared() else {
        return;
    };
    let database = server.database();
    let direct = Fixture::new(&settings(server, &database));
    direct.execute("CREATE TABLE t (id int)", &[]);
    let proxy = Proxy::start(direct.runtime.handle(), server.port);
    let mut settings = at_port(settings(server, &database), proxy.port);
    settings.timeout = Duration::from_millis(400);
    let fixture = Fixture::new(&settings);
    let count = || field(&direct.one("SELECT count(*) AS n FROM t", &[]), "n");
    let begun = || {
        let transaction = fixture.begun();
        fixture
            .within(&transaction, "INSERT INTO t VALUES (1)")
            .unwrap();
        transaction
    };
    // No answer comes in time.
    proxy.swallow_commits(true);
    let transaction = begun();
    let fault = fixture.commit(&transaction).unwrap_err();
    assert_eq!(fault.kind, "unknown");
    assert!(
        fault
            .message
            .contains("COMMIT has no answer: none within 400ms"),
        "{}",
        fault.message
    );
    drop(transaction);
    fixture.is_at_rest();
    assert_eq!(count(), Value::Integer(1));
    // The connection ends before it.
    proxy.swallow_commits(true);
    let transaction = begun();
    let committing = fixture.runtime.spawn(transaction.commit().requesting);
    let until = std::time::Instant::now() + SOON;
    while !proxy.has_swallowed() {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(Duration::from_millis(1));
    }
    proxy.cut(true);
    let fault = fixture.ended(committing).unwrap().unwrap_err();
    assert_eq!(fault.kind, "unknown", "{}", fault.message);
    assert!(AWAY.contains(&fault.kind));
    proxy.cut(false);
    drop(transaction);
    fixture.is_at_rest();
    assert_eq!(count(), Value::Integer(2));
    // The call is given up meanwhile.
    proxy.swallow_commits(true);
    let transaction = begun();
    let committing = transaction.commit().requesting;
    give_up(&fixture, committing, || {
        while !proxy.has_swallowed() {
            assert!(std::time::Instant::now() < until);
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    drop(transaction);
    fixture.is_at_rest();
    is_gone(server, &database);
}

fn seed() -> u64 {
    let seed = std::env::var("MOONTIDE_SQL_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok());
    seed.unwrap_or_else(|| fastrand::u64(..))
}

/// One call, which tells whether it saw what is not its own.
async fn any(handle: Arc<Handle>, number: i64, dice: u32) -> Result<(), String> {
    let send = |work| handle.request("main", request(work)).unwrap().requesting;
    let own = Value::Integer(number);
    match dice % 4 {
        0 => {
            let work = run(
                "SELECT $1::bigint AS v, pg_sleep(0.002)",
                std::slice::from_ref(&own),
                Shape::One,
            );
            match send(work).await {
                Ok(found) if field(&found, "v") == own => Ok(()),
                Ok(found) => Err(format!("{number}: {found:?}")),
                Err(fault) => Err(fault.message),
            }
        }
        1 => {
            let rows = (0..200).map(|_| vec![own.clone()]).collect();
            let insert = Insert {
                table: vec!["t".to_owned()],
                columns: vec!["id".to_owned()],
                rows,
                on_conflict: None,
            };
            send(Work::Insert(insert))
                .await
                .map(drop)
                .map_err(|fault| fault.message)
        }
        _ => {
            let begin = if dice.is_multiple_of(2) {
                plain()
            } else {
                once::identified(&format!("{}", number / 2))
            };
            let transaction = handle.transaction("main", begin).unwrap();
            let runs = transaction.begin().requesting.await;
            if runs.map_err(|fault| fault.message)? == Value::Boolean(false) {
                return Ok(());
            }
            for _ in 0..2 {
                let work = run(
                    "INSERT INTO t SELECT $1 FROM generate_series(1, 100)",
                    std::slice::from_ref(&own),
                    Shape::Count,
                );
                let work = transaction.request(request(work)).unwrap().requesting;
                work.await.map_err(|fault| fault.message)?;
            }
            transaction
                .commit()
                .requesting
                .await
                .map(drop)
                .map_err(|fault| fault.message)
        }
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "the seed of a failed run")]
fn at_some_hundred_random_moments() {
    let Some(server) = server::shared() else {
        return;
    };
    let database = server.database();
    let mut settings = settings(server, &database);
    settings.size = 6;
    let fixture = Fixture::new(&settings);
    fixture.execute("CREATE TABLE t (id bigint)", &[]);
    let seed = seed();
    eprintln!("MOONTIDE_SQL_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let handle = Arc::new(Handle(vec![fixture.clients.client(&settings)]));
    let mut tasks = Vec::new();
    for number in 0..400 {
        let (dice, after) = (random.u32(..), random.f64().powi(3) * 0.5);
        let (work, pause) = (any(handle.clone(), number, dice), random.f64() * 0.004);
        tasks.push(fixture.runtime.spawn(async move {
            tokio::time::timeout(Duration::from_secs_f64(after), work).await
        }));
        std::thread::sleep(Duration::from_secs_f64(pause));
    }
    let mut given_up = 0;
    for task in tasks {
        match fixture.ended(task).unwrap() {
            Ok(ended) => ended.unwrap(),
            Err(_) => given_up += 1,
        }
    }
    assert!((30..390).contains(&given_up), "seed {seed}: {given_up}");
    fixture.is_at_rest();
    is_gone(server, &database);
    // Each transaction is whole or nothing.
    let parts = "SELECT count(*) AS n FROM (SELECT id FROM t GROUP BY id HAVING count(*) <> 200) s";
    assert_eq!(
        field(&fixture.one(parts, &[]), "n"),
        Value::Integer(0),
        "seed {seed}"
    );
    let open = server.activity(&database);
    assert_eq!(open, format!("idle {}", fixture.pool().open), "seed {seed}");
}
