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

fn is_gone(scene: &Scene) {
    scene.wait_for_activity(|now| !now.contains("active") && !now.contains("transaction"));
}

fn count(fixture: &Fixture) -> Value {
    field(&fixture.one("SELECT count(*) AS n FROM t", &[]), "n")
}

#[test]
fn while_it_connects_and_while_it_waits() {
    for scene in scenes() {
        let mut settings = scene.settings.clone();
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
}

#[test]
fn in_a_statement_and_in_its_result() {
    for scene in scenes() {
        let mut settings = scene.settings.clone();
        (settings.max_rows, settings.max_result) = (usize::MAX >> 33, 1 << 30);
        let fixture = Fixture::new(&settings);
        fixture.execute("CREATE TABLE t (id int)", &[]);
        for statement in [scene.endless, scene.endless_rows] {
            let work = fixture.begin(run(statement, &[], Shape::Rows));
            give_up(&fixture, work, || {
                scene.wait_for_activity(|now| now.contains("active"));
            });
            fixture.is_at_rest();
            is_gone(&scene);
        }
        // One that waits for a lock, too.
        let transaction = fixture.begun();
        fixture.within(&transaction, scene.lock_table).unwrap();
        let work = fixture.begin(run("INSERT INTO t VALUES (1)", &[], Shape::Count));
        give_up(&fixture, work, || {
            scene.wait_for_activity(|now| now.contains("active 1"));
        });
        scene.wait_for_activity(|now| !now.contains("active"));
        drop(transaction);
        fixture.is_at_rest();
        assert_eq!(count(&fixture), Value::Integer(0));
    }
}

#[test]
fn in_a_transaction() {
    for scene in scenes() {
        let fixture = Fixture::new(&scene.settings);
        fixture.execute("CREATE TABLE t (id int)", &[]);
        fixture.execute("CREATE TABLE locks (id int PRIMARY KEY)", &[]);
        fixture.execute("INSERT INTO locks VALUES (7)", &[]);
        // Behind BEGIN, and nobody ends it but its drop, on a thread without a runtime.
        let transaction = fixture.begun();
        fixture
            .within(&transaction, "INSERT INTO t VALUES (1)")
            .unwrap();
        std::thread::spawn(move || drop(transaction))
            .join()
            .unwrap();
        fixture.is_at_rest();
        is_gone(&scene);
        a_statement_takes_its_transaction_with_it(&scene, &fixture);
        // A transaction that is told to end while a statement runs ends behind it.
        let lock = "SELECT id FROM locks WHERE id = 7 FOR UPDATE";
        let holder = fixture.begun();
        fixture.within(&holder, lock).unwrap();
        let transaction = fixture.begun();
        let work = run(lock, &[], Shape::Count);
        let work = transaction.request(request(work)).unwrap().requesting;
        let running = fixture.runtime.spawn(work);
        scene.wait_for_activity(|now| now.contains("active"));
        transaction.end();
        drop(holder);
        fixture.ended(running).unwrap().unwrap();
        fixture.is_at_rest();
        is_gone(&scene);
        assert_eq!(count(&fixture), Value::Integer(0));
    }
}

fn a_statement_takes_its_transaction_with_it(scene: &Scene, fixture: &Fixture) {
    let transaction = fixture.begun();
    fixture
        .within(&transaction, "INSERT INTO t VALUES (1)")
        .unwrap();
    let work = transaction.request(request(run(scene.endless, &[], Shape::Rows)));
    give_up(fixture, work.unwrap().requesting, || {
        scene.wait_for_activity(|now| now.contains("active"));
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
    is_gone(scene);
}

#[test]
fn a_commit_without_an_answer_is_neither_done_nor_undone() {
    scenes().iter().for_each(commits_without_an_answer);
}

fn commits_without_an_answer(scene: &Scene) {
    let direct = Fixture::new(&scene.settings);
    direct.execute("CREATE TABLE t (id int)", &[]);
    let proxy = Proxy::start(direct.runtime.handle(), scene.server.port());
    let mut settings = at_port(scene.settings.clone(), proxy.port);
    settings.timeout = Duration::from_millis(400);
    let fixture = Fixture::new(&settings);
    let count = || count(&direct);
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
    is_gone(scene);
}

fn seed() -> u64 {
    let seed = std::env::var("MOONTIDE_SQL_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok());
    seed.unwrap_or_else(|| fastrand::u64(..))
}

/// One call, which tells whether it saw what is not its own.
async fn any(
    handle: Arc<Handle>,
    [slow, a_hundred_rows]: [&'static str; 2],
    number: i64,
    dice: u32,
) -> Result<(), String> {
    let send = |work| handle.request("main", request(work)).unwrap().requesting;
    let own = Value::Integer(number);
    match dice % 4 {
        0 => {
            let work = run(slow, std::slice::from_ref(&own), Shape::One);
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
                let work = run(a_hundred_rows, std::slice::from_ref(&own), Shape::Count);
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
fn at_a_thousand_random_moments() {
    let seed = seed();
    eprintln!("MOONTIDE_SQL_SEED={seed}");
    for scene in scenes() {
        at_random_moments(&scene, seed);
    }
}

fn at_random_moments(scene: &Scene, seed: u64) {
    let mut settings = scene.settings.clone();
    settings.size = 6;
    let fixture = Fixture::new(&settings);
    fixture.execute("CREATE TABLE t (id bigint)", &[]);
    let words = [scene.slow, scene.a_hundred_rows];
    let mut random = fastrand::Rng::with_seed(seed);
    let handle = Arc::new(Handle(vec![fixture.clients.client(&settings)]));
    let mut tasks = Vec::new();
    for number in 0..1000 {
        let (dice, after) = (random.u32(..), random.f64().powi(3) * 0.5);
        let (work, pause) = (
            any(handle.clone(), words, number, dice),
            random.f64() * 0.004,
        );
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
    assert!((75..975).contains(&given_up), "seed {seed}: {given_up}");
    fixture.is_at_rest();
    is_gone(scene);
    // Each transaction is whole or nothing.
    let parts = "SELECT count(*) AS n FROM (SELECT id FROM t GROUP BY id HAVING count(*) <> 200) s";
    assert_eq!(
        field(&fixture.one(parts, &[]), "n"),
        Value::Integer(0),
        "seed {seed}"
    );
    let open = scene.server.activity(&scene.database);
    assert_eq!(open, format!("idle {}", fixture.pool().open), "seed {seed}");
}
