//! A database that is away, restarted, full, a replica, slow or locked: messages wait, and none is given up.

use crate::support::client::{Topic, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::postgres::Postgres;
use crate::support::project::{Project, from_beginning};
use crate::support::sql_server::SqlServer;
use crate::support::wait::DEADLINE;

pub(super) const HANDLER: &str = r#"
local record, tide = require "record", require "tide"
local db = tide.sql("main")
local M = {}
function M.put(message, ctx)
  local ok, err = pcall(db.execute, db, "INSERT INTO t VALUES ($1) ON CONFLICT DO NOTHING", message.offset)
  if not ok then
    record.line("fail", message, ctx, tostring(err.kind) .. " " .. tostring(err.sqlstate))
    error(err, 0)
  end
  record.line("done", message, ctx)
end
return M
"#;

/// A daemon whose messages each need the database once.
pub(super) struct Scene<S> {
    pub(super) project: Project,
    topic: Topic<'static>,
    pub(super) server: S,
    pub(super) database: String,
    pub(super) daemon: Daemon,
    sent: u64,
}

fn scene(policy: &str) -> Option<Scene<Postgres>> {
    let server = Postgres::start_own("")?;
    let role = "CREATE ROLE app LOGIN PASSWORD 'pw'; GRANT ALL ON t TO app";
    begun(server, "postgres", role, HANDLER, policy)
}

/// `role` makes the user `app`.
pub(super) fn begun<S: SqlServer>(
    server: S,
    scheme: &str,
    role: &str,
    handler: &str,
    policy: &str,
) -> Option<Scene<S>> {
    let kafka = kafka::shared()?;
    let (topic, database) = (kafka.topic("sql-away", 1), server.database());
    let table = "CREATE TABLE t (id bigint PRIMARY KEY)";
    server.sql(&database, &format!("{table}; {role}"));
    let project = Project::new(kafka).sections(&format!(
        "[sql.main]\nurl = \"{scheme}://app:pw@127.0.0.1:{}/{database}\"\nsize = 4\nconnectTimeout = \"2s\"\n\
         timeout = \"1s\"\n",
        server.port()
    ));
    project.handler("rows.lua", handler);
    project.config(
        &(from_beginning("rows", &topic.name, "rows.put") + "ordering = \"none\"\n" + policy),
    );
    let daemon = Daemon::start(&project);
    Some(Scene {
        project,
        topic,
        server,
        database,
        daemon,
        sent: 0,
    })
}

impl<S> Scene<S> {
    /// Ten messages meet the fault, until some have failed by these words; then it is over, and all of them are done.
    #[track_caller]
    pub(super) fn meets(
        &mut self,
        kinds: &[&str],
        fault: impl FnOnce(&Self),
        over: impl FnOnce(&Self),
    ) {
        let failed = self.project.entries_of("fail").len();
        fault(self);
        self.topic.produce(numbered(self.sent..self.sent + 10, 0));
        self.sent += 10;
        let project = &self.project;
        self.daemon.wait_for(&format!("{kinds:?}"), |_| {
            let fails = project.entries_of("fail");
            let mut fails = fails[failed..].iter();
            fails.any(|one| kinds.contains(&&*one.extra))
        });
        over(self);
        let count = usize::try_from(self.sent).unwrap();
        self.project.wait_for_entries("done", count, 2 * DEADLINE);
    }
}

impl Scene<Postgres> {
    /// Changes the role of the daemon, and ends its connections, which have the old settings.
    fn alter(&self, how: &str) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
        self.server
            .sql(&self.database, &format!("ALTER ROLE app {how}"));
        self.server.sql(&self.database, end);
    }
}

#[test]
fn a_database_that_is_away_costs_no_message_an_attempt() {
    let policy = "onError = \"deadLetter\"\ndeadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n\
                  retry = { attempts = 1, initialDelay = 20, maxDelay = 100 }\n";
    let Some(mut scene) = scene(policy) else {
        return;
    };
    scene.meets(
        &["unreachable nil", "unreachable 57P03", "closed nil"],
        |scene| scene.server.kill(),
        |scene| scene.server.start(),
    );
    scene.meets(
        &["busy 53300"],
        |scene| scene.alter("CONNECTION LIMIT 0"),
        |scene| scene.alter("CONNECTION LIMIT -1"),
    );
    scene.meets(
        &["unreachable 25006"],
        |scene| scene.alter("SET default_transaction_read_only = on"),
        |scene| scene.alter("RESET default_transaction_read_only"),
    );
    scene.meets(
        &["unreachable 28P01"],
        |scene| scene.alter("PASSWORD 'other'"),
        |scene| scene.alter("PASSWORD 'pw'"),
    );
    let done = scene.project.entries_of("done");
    assert!(done.iter().all(|one| one.attempt == 1), "{done:?}");
    assert_eq!(
        scene.server.sql(&scene.database, "SELECT count(*) FROM t"),
        "40"
    );
    scene.daemon.stop();
}

#[test]
fn a_database_that_is_slow_or_locked_is_a_time_out_and_loses_nothing() {
    let policy = "retry = { initialDelay = 20, maxDelay = 100 }\n";
    let Some(mut scene) = scene(policy) else {
        return;
    };
    scene.meets(
        // New connections do not come about.
        &["timeout nil", "unreachable nil"],
        |scene| scene.server.freeze(),
        |scene| scene.server.thaw(),
    );
    scene.meets(
        &["timeout nil"],
        |scene| {
            let statements = "BEGIN; LOCK TABLE t; SELECT pg_sleep(600)";
            let url = scene.server.url(&scene.database);
            hold_in_background(&url, statements);
            let is_held = || {
                let held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation = 't'::regclass";
                scene.server.sql(&scene.database, held) == "1"
            };
            crate::support::wait::wait_for("the table is locked", DEADLINE, is_held);
        },
        |scene| {
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%LOCK TABLE t; SELECT%' \
                AND pid <> pg_backend_pid()";
            scene.server.sql(&scene.database, end);
        },
    );
    let count = scene.server.sql(&scene.database, "SELECT count(*) FROM t");
    assert_eq!(count, "20");
    scene.daemon.stop();
}

/// Runs statements until their connection is ended.
fn hold_in_background(url: &str, statements: &str) {
    let (url, statements) = (url.to_owned(), statements.to_owned());
    std::thread::spawn(move || {
        let psql = std::process::Command::new("psql")
            .args(["-X", "-q", "-c", &statements, &url])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
        // It fails, since its connection is ended.
        drop(psql);
    });
}
