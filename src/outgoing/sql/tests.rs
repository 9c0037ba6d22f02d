//! The client against a real server, which answers, refuses, is away, and stands still.

#[path = "../../../tests/it/support/mariadb.rs"]
mod mariadb;
#[path = "../../../tests/it/support/postgres.rs"]
mod server;
#[path = "../../../tests/it/support/sql_server.rs"]
mod sql_server;

mod given_up;
mod log_in;
mod mysql;
mod once;
mod proxy;
mod rows;
mod sqlite;
mod statements;

use std::time::Duration;

use super::*;
use crate::config::{Address, MySql as ConnectingToMySql, Postgres as Connecting, Secret};
use crate::telemetry::status::PoolStatus;
use crate::wait::sql::{Insert, OnConflict, Requesting, Shape, Statement};
use crate::wait::{AWAY, Value};
use mariadb::MariaDb;
use server::Postgres as Server;
use sql_server::SqlServer;

const SOON: Duration = Duration::from_secs(30);

/// A client of these settings, on a runtime as the outside has it.
struct Fixture {
    runtime: tokio::runtime::Runtime,
    clients: Arc<SqlClients>,
    handle: Handle,
}

/// A database of the server, with the defaults.
fn settings(server: &Server, database: &str) -> Settings {
    let mut settings = Settings::named("main");
    settings.location = Location::Postgres(Box::new(Connecting {
        address: Address {
            host: "127.0.0.1".to_owned(),
            port: server.port,
        },
        user: "postgres".to_owned(),
        password: Some(Secret(server::PASSWORD.to_owned())),
        database: database.to_owned(),
        tls: None,
        application: "moontide:main".to_owned(),
        options: None,
    }));
    settings
}

/// The same of MariaDB.
fn settings_of_mariadb(server: &MariaDb, database: &str) -> Settings {
    let mut settings = Settings::named("main");
    settings.location = Location::MySql(Box::new(ConnectingToMySql {
        address: Address {
            host: "127.0.0.1".to_owned(),
            port: server.port,
        },
        user: mariadb::USER.to_owned(),
        password: Some(Secret(server::PASSWORD.to_owned())),
        database: Some(database.to_owned()),
        tls: None,
        application: "moontide:main".to_owned(),
    }));
    settings
}

/// The same server by another port.
fn at_port(mut settings: Settings, port: u16) -> Settings {
    match &mut settings.location {
        Location::Postgres(postgres) => postgres.address.port = port,
        Location::MySql(mysql) => mysql.address.port = port,
        Location::Sqlite(_) => {}
    }
    settings
}

/// A new database of one kind of server, and how statements of that kind say what tests need.
struct Scene {
    server: &'static dyn SqlServer,
    database: String,
    settings: Settings,
    /// It runs until it is ended.
    endless: &'static str,
    endless_rows: &'static str,
    /// Within a transaction: nobody else inserts.
    lock_table: &'static str,
    /// Returns its argument as `v`, after a while.
    slow: &'static str,
    /// Inserts its argument.
    a_hundred_rows: &'static str,
}

/// Each kind of server that is there; of any other a line says that it is not.
fn scenes() -> Vec<Scene> {
    let postgres = server::shared().map(|server| {
        let database = server.database();
        Scene {
            server,
            settings: settings(server, &database),
            database,
            endless: "SELECT pg_sleep(600)",
            endless_rows: "SELECT repeat('x', 1000) FROM generate_series(1, 100000000)",
            lock_table: "LOCK TABLE t",
            slow: "SELECT $1::bigint AS v, pg_sleep(0.002)",
            a_hundred_rows: "INSERT INTO t SELECT $1 FROM generate_series(1, 100)",
        }
    });
    let mysql = mariadb::shared().map(|server| {
        let database = server.database();
        Scene {
            server,
            settings: settings_of_mariadb(server, &database),
            database,
            endless: "SELECT SLEEP(600)",
            endless_rows: "SELECT repeat('x', 1000) FROM seq_1_to_100000000",
            lock_table: "SELECT id FROM t FOR UPDATE",
            slow: "SELECT ? AS v, SLEEP(0.002)",
            a_hundred_rows: "INSERT INTO t SELECT ? FROM seq_1_to_100",
        }
    });
    postgres.into_iter().chain(mysql).collect()
}

impl Scene {
    fn wait_for_activity(&self, is_it: impl Fn(&str) -> bool) {
        sql_server::wait_for_activity(self.server, &self.database, &is_it);
    }
}

impl Fixture {
    fn new(settings: &Settings) -> Self {
        let clients = Arc::new(SqlClients::default());
        let handle = Handle(vec![clients.client(settings)]);
        Self {
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            clients,
            handle,
        }
    }

    fn begin(&self, work: Work) -> Requesting {
        self.handle
            .request("main", request(work))
            .unwrap()
            .requesting
    }

    fn ended<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(SOON, work).await })
            .expect("the work ends")
    }

    fn run(&self, text: &str, arguments: &[Value], shape: Shape) -> Result<Value, Fault> {
        let work = self.begin(run(text, arguments, shape));
        self.ended(work)
    }

    #[track_caller]
    fn query(&self, text: &str, arguments: &[Value]) -> Value {
        self.run(text, arguments, Shape::Rows).unwrap()
    }

    #[track_caller]
    fn one(&self, text: &str, arguments: &[Value]) -> Value {
        self.run(text, arguments, Shape::One).unwrap()
    }

    #[track_caller]
    fn execute(&self, text: &str, arguments: &[Value]) -> i64 {
        match self.run(text, arguments, Shape::Count).unwrap() {
            Value::Integer(count) => count,
            other => panic!("no count: {other:?}"),
        }
    }

    #[track_caller]
    fn fails(&self, text: &str, arguments: &[Value]) -> Fault {
        self.run(text, arguments, Shape::Rows).unwrap_err()
    }

    fn transaction(&self, begin: Begin) -> Arc<dyn Transaction> {
        self.handle.transaction("main", begin).unwrap()
    }

    /// One that has begun.
    #[track_caller]
    fn begun(&self) -> Arc<dyn Transaction> {
        let transaction = self.transaction(plain());
        let begun = transaction.begin().requesting;
        assert_eq!(self.ended(begun), Ok(Value::Boolean(true)));
        transaction
    }

    fn within(&self, transaction: &Arc<dyn Transaction>, text: &str) -> Result<Value, Fault> {
        let work = request(run(text, &[], Shape::Count));
        let work = transaction.request(work).unwrap().requesting;
        self.ended(work)
    }

    fn commit(&self, transaction: &Arc<dyn Transaction>) -> Result<Value, Fault> {
        self.ended(transaction.commit().requesting)
    }

    fn pool(&self) -> PoolStatus {
        self.clients.status()[0].pool
    }

    /// Waits until the pool has these numbers.
    #[track_caller]
    fn settles(&self, what: &str, is_settled: impl Fn(PoolStatus) -> bool) {
        let until = std::time::Instant::now() + SOON;
        while !is_settled(self.pool()) {
            let now = self.pool();
            assert!(std::time::Instant::now() < until, "{what}: {now:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Nothing is in use any more, and no socket is left behind.
    #[track_caller]
    fn is_at_rest(&self) {
        self.settles("at rest", |pool| {
            pool.in_use == 0 && pool.waiting == 0 && pool.open == pool.idle
        });
        assert_eq!(self.clients.status()[0].transactions, 0);
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let other = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        std::mem::replace(&mut self.runtime, other).shutdown_background();
    }
}

fn run(text: &str, arguments: &[Value], shape: Shape) -> Work {
    let statement = Statement {
        text: text.to_owned(),
        arguments: arguments.to_vec(),
        prepare: None,
    };
    Work::Run(statement, shape)
}

fn request(work: Work) -> Request {
    Request {
        function: "sql:query",
        work,
        timeout: None,
        within_transaction: false,
    }
}

fn plain() -> Begin {
    Begin {
        function: "sql:transaction",
        isolation: None,
        is_read_only: false,
        identity: None,
        within_transaction: false,
    }
}

fn text(text: &str) -> Value {
    Value::Bytes(text.as_bytes().into())
}

fn list(values: Vec<Value>) -> Value {
    Value::Table((1..).map(Value::Integer).zip(values).collect())
}

fn table(pairs: Vec<(&str, Value)>) -> Value {
    let pairs = pairs.into_iter().map(|(key, value)| (text(key), value));
    Value::Table(pairs.collect())
}

fn field(value: &Value, name: &str) -> Value {
    let Value::Table(pairs) = value else {
        panic!("no table: {value:?}");
    };
    let found = pairs.iter().find(|(key, _)| *key == text(name));
    found.map_or(Value::Nil, |(_, value)| value.clone())
}

#[test]
fn a_database_that_does_not_exist_is_told_with_the_nearest() {
    let fixture = Fixture::new(&Settings::named("main"));
    let fault = fixture
        .handle
        .request("mian", request(run("SELECT 1", &[], Shape::Rows)))
        .err()
        .unwrap();
    assert!(
        fault
            .message
            .contains("no table `[sql.mian]`, did you mean `main`?"),
        "{}",
        fault.message
    );
}

#[test]
fn unreachable_busy_and_slow_are_three_errors() {
    scenes().iter().for_each(three_errors);
}

fn three_errors(scene: &Scene) {
    let mut settings = scene.settings.clone();
    settings.size = 2;
    settings.acquire_timeout = Duration::from_millis(50);
    settings.timeout = Duration::from_millis(300);
    // Nobody listens at a port that was just given back.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = Fixture::new(&at_port(
        settings.clone(),
        free.local_addr().unwrap().port(),
    ));
    drop(free);
    let fault = nobody.fails("SELECT 1", &[]);
    assert_eq!(fault.kind, "unreachable");
    assert!(
        fault.message.contains("no connection to 127.0.0.1:"),
        "{}",
        fault.message
    );

    let fixture = Fixture::new(&settings);
    let (one, _two) = (fixture.begun(), fixture.begun());
    let fault = fixture.fails("SELECT 1", &[]);
    assert_eq!(fault.kind, "busy");
    let expected =
        "all 2 connections are in use, 2 of them by transactions, and none became free within 50ms";
    assert!(fault.message.contains(expected), "{}", fault.message);
    one.end();

    let fault = fixture.fails(scene.endless, &[]);
    assert_eq!(fault.kind, "timeout");
    let expected =
        "`sql:query`: SELECT in `main`: no result within 300ms; the statement is cancelled";
    assert!(fault.message.contains(expected), "{}", fault.message);
    // Not only here: the server does not go on with it.
    scene.wait_for_activity(|now| !now.contains("active"));
}

#[test]
fn a_log_in_that_fails_says_why_and_is_not_the_messages_fault() {
    let Some(server) = server::shared() else {
        return;
    };
    let wrong = |change: fn(&mut Connecting)| {
        let mut settings = settings(server, "postgres");
        if let Location::Postgres(postgres) = &mut settings.location {
            change(postgres);
        }
        let fault = Fixture::new(&settings).fails("SELECT 1", &[]);
        assert!(AWAY.contains(&fault.kind), "{fault:?}");
        assert!(!fault.message.contains("secret"), "{}", fault.message);
        fault.message
    };
    let message = wrong(|one| one.password = Some(Secret("another secret".to_owned())));
    assert!(
        message.contains("password authentication failed"),
        "{message}"
    );
    let message = wrong(|one| one.password = None);
    assert!(message.contains("write `password`"), "{message}");
    let message = wrong(|one| one.database = "nosuch".to_owned());
    assert!(
        message.contains("database \"nosuch\" does not exist (3D000)"),
        "{message}"
    );
    let message = wrong(|one| {
        one.tls = Some(crate::config::Tls {
            ca: None,
            certificate: None,
        });
    });
    assert!(message.contains("has no TLS"), "{message}");
}
