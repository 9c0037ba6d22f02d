//! `db:once`: each message changes the database once, whatever ends: the daemon, the database, or both.

use std::time::Duration;

use super::main_table;
use crate::support::client::numbered;
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::mariadb::MariaDb;
use crate::support::postgres::Postgres;
use crate::support::project::{Project, from_beginning};
use crate::support::sql_server::SqlServer;
use crate::support::wait::{DEADLINE, wait_for};

const HANDLER: &str = r#"
local tide = require "tide"
local db = tide.sql("main")
return function(message, ctx)
  db:once(function(tx)
    tx:execute("UPDATE total SET n = n + 1 WHERE id = $1", message.partition * 10 + message.offset % 10)
    tx:execute("INSERT INTO seen VALUES ($1, $2)", message.partition, message.offset)
  end)
end
"#;

/// The number of messages.
fn count() -> u64 {
    let count = std::env::var("MOONTIDE_TEST_SQL_MESSAGES").ok();
    count.and_then(|count| count.parse().ok()).unwrap_or(3_000)
}

/// By turns: a kill of the daemon, of the database, and of a member that has joined meanwhile.
#[test]
fn each_message_counts_once_through_kills_of_the_daemon_and_of_the_database() {
    let Some(server) = Postgres::start_own("") else {
        return;
    };
    each_message_counts_once(&server, HANDLER, 4, count());
}

/// The same in short: one kill of each.
#[test]
fn each_message_counts_once_through_kills_of_the_daemon_and_of_mariadb() {
    let Some(server) = MariaDb::start_own(&[]) else {
        return;
    };
    let handler = HANDLER.replace("$1", "?").replace("$2", "?");
    each_message_counts_once(&server, &handler, 2, count() / 2);
}

fn each_message_counts_once(server: &dyn SqlServer, handler: &str, rounds: u64, count: u64) {
    let Some(kafka) = kafka::shared() else { return };
    let (database, topic) = (server.database(), kafka.topic("sql-once", 2));
    let zeros: Vec<_> = (0..20).map(|id| format!("({id}, 0)")).collect();
    server.sql(
        &database,
        &format!(
            "CREATE TABLE total (id int PRIMARY KEY, n bigint); CREATE TABLE seen (p int, o bigint); INSERT INTO \
             total VALUES {}",
            zeros.join(", ")
        ),
    );
    let project = Project::new(kafka).sections(&main_table(
        server,
        &database,
        "size = 8\nconnectTimeout = \"2s\"",
    ));
    project.handler("once.lua", handler);
    let policy = "ordering = \"none\"\nonError = \"deadLetter\"\n\
                  deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n\
                  retry = { attempts = 1, initialDelay = 20, maxDelay = 100 }\n";
    project.config(&(from_beginning("once", &topic.name, "once") + policy));
    topic.produce((0..2).flat_map(|partition| numbered(0..count / 2, partition)));
    let seen = || -> u64 {
        let seen = server.try_sql(&database, "SELECT count(*) FROM seen");
        seen.ok()
            .and_then(|seen| seen.parse().ok())
            .unwrap_or_default()
    };
    // For more messages than usual: a hundred a second are few on any machine.
    let patience = 3 * DEADLINE + Duration::from_millis(10 * count);
    // A kill for so many messages at least.
    let rounds = rounds.max(count / 40_000);
    let place = project.another_member();
    let mut daemon = Daemon::start(&project);
    for round in 1..=rounds {
        let enough = round * count / (rounds + 2);
        wait_for("some are in the database", patience, || seen() >= enough);
        match round % 3 {
            1 => {
                daemon.kill();
                daemon = Daemon::start(&project);
            }
            2 => {
                server.kill();
                std::thread::sleep(Duration::from_millis(200));
                server.start();
            }
            _ => Daemon::join(&place).kill(),
        }
    }
    wait_for("all are in the database", patience, || seen() >= count);
    let lag = |partition| kafka.committed(&project.group, &topic.name, partition);
    wait_for("all are committed", DEADLINE, || {
        (0..2).all(|partition| lag(partition) == Some((count / 2) as i64))
    });
    daemon.stop();
    let sums = server.sql(&database, "SELECT sum(n) FROM total");
    let rows = server.sql(&database, "SELECT count(*) FROM seen");
    let different = "SELECT count(*) FROM (SELECT DISTINCT p, o FROM seen) s";
    assert_eq!(sums, count.to_string());
    assert_eq!(rows, count.to_string());
    assert_eq!(server.sql(&database, different), count.to_string());
    assert_eq!(
        server.sql(&database, "SELECT count(*) FROM moontide_once"),
        count.to_string()
    );
    let dead = format!("{}.dead", topic.name);
    let letters = |dead: &str| kafka.existing_topic(dead).watermarks(0).1;
    assert!(kafka.topics_with(&dead).is_empty() || letters(&dead) == 0);
}
