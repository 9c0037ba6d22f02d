//! `tide.sql` against MariaDB: values, transactions, many rows, a database that is away, and TLS.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::away;
use super::{CHUNKS, main_table};
use crate::support::client::Message;
use crate::support::daemon::{Daemon, moontide};
use crate::support::kafka;
use crate::support::mariadb::{self, MariaDb};
use crate::support::project::{Project, from_beginning};
use crate::support::wait::DEADLINE;
use crate::support::web::Identity;

const STATEMENTS: &[&str] = &[
    r#"
    db:execute("CREATE TABLE orders (id bigint PRIMARY KEY, who text NOT NULL, doc json, at datetime(3), raw blob)")
    local doc = { lines = { { sku = "a", n = 1 } }, note = tide.null }
    local put = "INSERT INTO orders VALUES (?, ?, ?, FROM_UNIXTIME(? / 1000), ?)"
    assert(db:execute(put, math.maxinteger, "ada", doc, 1709210096789, "\0\255") == 1)
    local row = db:one("SELECT * FROM orders WHERE id = ?", math.maxinteger)
    assert(row.id == math.maxinteger and row.who == "ada" and row.at == 1709210096789 and row.raw == "\0\255")
    assert(row.doc.lines[1].sku == "a" and row.doc.lines[1].n == 1 and row.doc.note == tide.null)
    assert(db:insert("orders", { id = 1, who = "bob", at = 1709210096789 }) == 1)
    row = db:one("SELECT id, doc, at FROM orders WHERE id = 1")
    assert(row.id == 1 and row.doc == nil and row.at == 1709210096789)
    local text, err = fails("conflict", db.execute, db, put, 1, "bob", tide.null, tide.null, tide.null)
    assert(err.sqlstate == "23000" and err.constraint == "PRIMARY", text)
    text = fails("timeout", db.query, db, { text = "SELECT SLEEP(60)", timeout = "50ms" })
    assert(text:find("no result within 50ms", 1, true), text)
    "#,
    r#"
    db:execute("CREATE TABLE stock (id varchar(9) PRIMARY KEY, n int)")
    db:insert("stock", { { id = "a", n = 5 }, { id = "b", n = 1 } })
    local left = db:transaction(function(tx)
      assert(tx:execute("UPDATE stock SET n = n - 1 WHERE id = ?", "a") == 1)
      assert(db:one("SELECT n FROM stock WHERE id = 'a'").n == 5)
      tide.sleep(5)
      return tx:one("SELECT n FROM stock WHERE id = ?", "a").n
    end, { isolation = "readCommitted" })
    assert(left == 4)
    local ok = pcall(db.transaction, db, function(tx) tx:execute("DELETE FROM stock") error("no") end)
    assert(not ok and db:one("SELECT count(*) AS n FROM stock").n == 2)
    local update = { onConflict = { columns = "id", update = true } }
    assert(db:insert("stock", { { id = "a", n = 7 }, { id = "c", n = 7 } }, update) == 2)
    assert(db:insert("stock", { { id = "a", n = 8 }, { id = "d", n = 8 } }, { onConflict = "ignore" }) == 1)
    assert(db:one("SELECT count(*) AS n FROM stock WHERE n = 7").n == 2)
    db:execute("CREATE TABLE seen (n int)")
    local ran, a = db:once(function(tx) tx:execute("INSERT INTO seen VALUES (1)") return "a" end)
    assert(ran == true and a == "a")
    assert(db:one("SELECT count(*) AS n FROM moontide_once WHERE id LIKE ?", "%/1").n == 1)
    "#,
];

/// Data in, data out: the API as its page says.
#[test]
fn statements_do_what_their_page_says() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(server) = mariadb::shared() else {
        return;
    };
    let (topic, database) = (kafka.topic("mysql-statements", 1), server.database());
    let project = Project::new(kafka).sections(&format!(
        "{}[sql.file]\nurl = \"sqlite:data.db\"\n",
        main_table(server, &database, "size = 3")
    ));
    project.handler("chunks.lua", CHUNKS);
    project.config(&from_beginning("chunks", &topic.name, "chunks"));
    topic.produce(
        STATEMENTS
            .iter()
            .map(|one| Message::value(one).partition(0)),
    );

    let daemon = Daemon::start(&project);

    let found = project.wait_for_entries("chunk", STATEMENTS.len(), DEADLINE);
    for entry in found {
        assert_eq!(entry.extra, "ok", "{}", STATEMENTS[entry.offset as usize]);
    }
    let log = daemon.log_text();
    assert!(!log.contains("a secret") && !log.contains("a%20secret"));
    daemon.stop();
    server.wait_for_activity(&database, str::is_empty);
}

/// Changes the user of the daemon, and ends its connections, which have the old settings.
fn alter(scene: &away::Scene<MariaDb>, how: &str) {
    let sql = |text: &str| scene.server.sql("mysql", text);
    sql(&format!("ALTER USER app {how}"));
    sql("KILL USER app");
}

#[test]
fn a_database_that_is_away_costs_no_message_an_attempt() {
    let Some(server) = MariaDb::start_own(&[]) else {
        return;
    };
    let role = "CREATE USER app IDENTIFIED BY 'pw'; GRANT SELECT, INSERT, UPDATE ON t TO app";
    let handler = away::HANDLER.replace(
        "INSERT INTO t VALUES ($1) ON CONFLICT DO NOTHING",
        "INSERT INTO t VALUES (?) ON DUPLICATE KEY UPDATE id = id",
    );
    let policy = "onError = \"deadLetter\"\ndeadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n\
                  retry = { attempts = 1, initialDelay = 20, maxDelay = 100 }\n";
    let Some(mut scene) = away::begun(server, "mysql", role, &handler, policy) else {
        return;
    };
    scene.meets(
        &["unreachable nil", "unreachable 08S01", "closed nil"],
        |scene| scene.server.kill(),
        |scene| scene.server.start(),
    );
    scene.meets(
        &["unreachable HY000"],
        |scene| drop(scene.server.sql("mysql", "SET GLOBAL read_only = 1")),
        |scene| drop(scene.server.sql("mysql", "SET GLOBAL read_only = 0")),
    );
    scene.meets(
        &["unreachable 28000"],
        |scene| alter(scene, "IDENTIFIED BY 'other'"),
        |scene| alter(scene, "IDENTIFIED BY 'pw'"),
    );
    let done = scene.project.entries_of("done");
    assert!(done.iter().all(|one| one.attempt == 1), "{done:?}");
    let count = scene.server.sql(&scene.database, "SELECT count(*) FROM t");
    assert_eq!(count, "30");
    scene.daemon.stop();
}

const SECURED: &str = r#"
local record, tide = require "record", require "tide"
return function(message, ctx)
  local db = tide.sql("secured")
  local row = db:one("SHOW STATUS LIKE 'Ssl_cipher'")
  assert(row.Value ~= "", "no TLS")
  assert(#db:one("SELECT repeat('x', 300000) AS x").x == 300000)
  for name, part in pairs{ untrusted = "the certificate of 127.0.0.1:", anonymous = "Access denied for user" } do
    local ok, err = pcall(function() tide.sql(name):query("SELECT 1") end)
    assert(not ok and err.kind == "unreachable" and tostring(err):find(part, 1, true), tostring(err))
  end
  record.line("done", message, ctx)
end
"#;

#[test]
fn tls_checks_the_server_and_the_client() {
    let Some(kafka) = kafka::shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // Each is its own authority.
    let [own, stranger] = ["127.0.0.1", "stranger"].map(Identity::new);
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (cert, other) = (
        write("server.pem", &own.cert_pem()),
        write("other.pem", &stranger.cert_pem()),
    );
    let key = write("server.key", &own.key_pem());
    if !mariadb::own_key(&key) {
        return;
    }
    let options = [
        format!("--ssl-cert={cert}"),
        format!("--ssl-key={key}"),
        format!("--ssl-ca={cert}"),
    ];
    let Some(server) = MariaDb::start_own(&options.each_ref().map(String::as_str)) else {
        return;
    };
    let user = mariadb::USER;
    server.sql("mysql", &format!("ALTER USER {user} REQUIRE X509"));
    let (database, topic) = (server.database(), kafka.topic("mysql-tls", 1));
    let url = server.url(&database);
    let project = Project::new(kafka).sections(&format!(
        "[sql.secured]\nurl = \"{url}?ssl-mode=VERIFY_IDENTITY\"\ntls = {{ ca = \"{cert}\", cert = \"{cert}\", key = \"{key}\" }}\n\
         [sql.anonymous]\nurl = \"{url}\"\ntls = {{ ca = \"{cert}\" }}\n\
         [sql.untrusted]\nurl = \"{url}\"\ntls = {{ ca = \"{other}\" }}\n"
    ));
    project.handler("tls.lua", SECURED);
    project.config(&from_beginning("tls", &topic.name, "tls"));
    topic.produce([Message::value("x").partition(0)]);
    let daemon = Daemon::start(&project);
    project.wait_for_entries("done", 1, DEADLINE);
    daemon.stop();

    let config = project.path("config.toml");
    let output = moontide(&["check", "--connect", "--config"], &config);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(78), "{text}");
    let address = format!("127.0.0.1:{}", server.port);
    for part in [
        format!("sql secured at mysql://{address}/{database}\n"),
        "as moontide, with a password, with TLS; statements stay prepared".to_owned(),
        format!("database secured at {address}: reached in "),
        format!("database untrusted at {address}: not reached after "),
    ] {
        assert!(text.contains(&part), "{part}\n{text}");
    }
    assert!(
        !text.contains("secret") && !text.contains("%73%65"),
        "{text}"
    );
}
