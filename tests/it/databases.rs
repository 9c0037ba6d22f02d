//! Statements that handlers run by `tide.sql`, against real databases.

mod away;
mod mysql;
mod once;
mod secured;

use crate::support::client::{Message, numbered};
use crate::support::daemon::{Daemon, moontide};
use crate::support::http::{address, scrape};
use crate::support::kafka;
use crate::support::postgres;
use crate::support::project::{Project, from_beginning};
use crate::support::sql_server::SqlServer;
use crate::support::wait::DEADLINE;

/// Runs the value of each message as a chunk, with `db`, `file` and `fails(kind, f, ...)`, and records its error.
pub(super) const CHUNKS: &str = r#"
local record, tide = require "record", require "tide"
local env = setmetatable({ tide = tide, db = tide.sql("main"), file = tide.sql("file") }, { __index = _G })
function env.fails(kind, f, ...)
  local ok, err = pcall(f, ...)
  assert(not ok, "it did not fail")
  assert(tide.error.is(err, kind), tostring(err))
  return tostring(err), err
end
return function(message, ctx)
  env.ctx = ctx
  local chunk, err = load(message.value, "=chunk", "t", env)
  local ok = chunk
  if chunk then ok, err = pcall(chunk) end
  local where = { topic = message.topic, partition = 0, offset = message.offset, value = "" }
  record.line("chunk", where, ctx, ok and "ok" or (tostring(err):gsub("%s+", " ")))
end
"#;

/// `[sql.main]` for this database, with further lines.
pub(super) fn main_table(server: &dyn SqlServer, database: &str, lines: &str) -> String {
    format!("[sql.main]\nurl = \"{}\"\n{lines}\n", server.url(database))
}

const STATEMENTS: &[&str] = &[
    r#"
    db:execute("CREATE TABLE orders (id bigint PRIMARY KEY, who text NOT NULL, doc jsonb, at timestamptz, raw bytea)")
    local doc = { lines = { { sku = "a", n = 1 } }, note = tide.null }
    local put = "INSERT INTO orders VALUES ($1, $2, $3, $4, $5)"
    assert(db:execute(put, math.maxinteger, "ada", doc, 1709210096789, "\0\255") == 1)
    local row = db:one("SELECT * FROM orders WHERE id = $1", math.maxinteger)
    assert(row.id == math.maxinteger and row.who == "ada" and row.at == 1709210096789 and row.raw == "\0\255")
    assert(row.doc.lines[1].sku == "a" and row.doc.lines[1].n == 1 and row.doc.note == tide.null)
    assert(db:execute(put, 1, "bob", tide.null, tide.null, tide.null) == 1)
    row = db:one("SELECT id, doc FROM orders WHERE id = 1")
    assert(row.id == 1 and row.doc == nil)
    local rows = db:query("SELECT id, who FROM orders ORDER BY id")
    assert(#rows == 2 and rows[1].who == "bob" and rows.columns[2] == "who")
    assert(db:one("SELECT 1 WHERE false") == nil and #db:query("SELECT 1 WHERE false") == 0)
    local text, err = fails("conflict", db.execute, db, put, 1, "bob", tide.null, tide.null, tide.null)
    assert(err.sqlstate == "23505" and err.constraint == "orders_pkey", text)
    text = fails("invalid", db.execute, db, put, 2, nil, nil, nil, nil)
    assert(text:find("`sql:execute`: INSERT in `main`: argument $2 is nil; write `tide.null` for NULL", 1, true), text)
    text = fails("timeout", db.query, db, { text = "SELECT pg_sleep(60)", timeout = "50ms" })
    assert(text:find("no result within 50ms", 1, true), text)
    "#,
    r#"
    db:execute("CREATE TABLE stock (id text PRIMARY KEY, n int)")
    db:insert("stock", { { id = "a", n = 5 }, { id = "b", n = 1 } })
    local left, what = db:transaction(function(tx)
      assert(tx:execute("UPDATE stock SET n = n - 1 WHERE id = $1", "a") == 1)
      assert(db:one("SELECT n FROM stock WHERE id = 'a'").n == 5)
      tide.sleep(5)
      return tx:one("SELECT n FROM stock WHERE id = $1", "a").n, "left"
    end, { isolation = "repeatableRead" })
    assert(left == 4 and what == "left")
    local ok, err = pcall(db.transaction, db, function(tx)
      tx:execute("DELETE FROM stock")
      error("no")
    end)
    assert(not ok and err:find("no$"), err)
    assert(db:one("SELECT count(*) AS n FROM stock").n == 2)
    -- Statements of one transaction that run at once take turns.
    db:transaction(function(tx)
      local calls = {}
      for i = 1, 20 do calls[i] = function() return tx:one("SELECT $1::int AS v", i).v end end
      local got = tide.parallel(calls)
      for i = 1, 20 do assert(got[i] == i) end
    end)
    local text = fails("invalid", db.transaction, db, function(tx)
      pcall(tx.execute, tx, "INSERT INTO stock VALUES ('a', 1)")
    end)
    assert(text:find("so it is rolled back", 1, true), text)
    "#,
    r#"
    db:execute("CREATE TABLE readings (sensor text, at timestamptz, value float8, PRIMARY KEY (sensor, at))")
    local rows = {}
    for i = 1, 5000 do rows[i] = { sensor = "s" .. i % 7, at = i, value = i / 2 } end
    assert(db:insert("readings", rows) == 5000)
    local sum = db:one("SELECT count(*) AS n, sum(value) AS s FROM readings")
    assert(sum.n == 5000 and sum.s == 5000 * 5001 / 4, tostring(sum.s))
    assert(db:insert("readings", rows, { onConflict = "ignore" }) == 0)
    for i = 1, 10 do rows[i].value = -1 end
    assert(db:insert("readings", rows, { onConflict = { columns = { "sensor", "at" }, update = true } }) == 5000)
    assert(db:one("SELECT count(*) AS n FROM readings WHERE value = -1").n == 10)
    "#,
    r#"
    db:execute("CREATE TABLE seen (n int)")
    local ran, a = db:once(function(tx) tx:execute("INSERT INTO seen VALUES (1)") return "a" end)
    assert(ran == true and a == "a")
    ran, a = db:once(function(tx) tx:execute("INSERT INTO seen VALUES (2)") return "b" end)
    assert(ran == true and a == "b")
    assert(db:one("SELECT count(*) AS n FROM moontide_once WHERE id LIKE $1", "%/1").n == 1)
    "#,
    r#"
    file:execute("CREATE TABLE t (id INTEGER PRIMARY KEY, doc TEXT)")
    assert(file:insert("t", { { id = 1, doc = { a = 1 } }, { id = 2, doc = "two" } }) == 2)
    assert(file:one("SELECT doc ->> '$.a' AS a FROM t WHERE id = ?", 1).a == 1)
    file:transaction(function(tx) tx:execute("INSERT INTO t VALUES (?, ?)", 3, tide.null) end)
    local ok = pcall(file.transaction, file, function(tx) tx:execute("DELETE FROM t") error("no") end)
    assert(not ok and #file:query("SELECT * FROM t") == 3)
    assert(file:once(function(tx) tx:execute("DELETE FROM t WHERE id = 3") end) == true)
    local text, err = fails("conflict", file.execute, file, "INSERT INTO t VALUES (1, '')")
    assert(err.sqlstate == "23505" and err.constraint == "t.id", text)
    "#,
    // Many at once, over few connections.
    r#"
    local calls = {}
    for i = 1, 200 do calls[i] = function() return db:one("SELECT $1::int AS v", i).v end end
    local got = tide.parallel(calls)
    for i = 1, 200 do assert(got[i] == i) end
    local text = fails("busy", db.transaction, db, function(tx)
      tide.parallel{ function() db:transaction(function() tide.sleep(2000) end) end,
        function() db:transaction(function() tide.sleep(2000) end) end,
        function() tide.sleep(200) db:query("SELECT 1") end }
    end)
    assert(text:find("use the functions of `tx` there", 1, true), text)
    "#,
];

/// Data in, data out: the API as its page says.
#[test]
fn statements_do_what_their_page_says() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(server) = postgres::shared() else {
        return;
    };
    let (topic, database) = (kafka.topic("sql-statements", 1), server.database());
    let project = Project::new(kafka).sections(&format!(
        "{}[sql.file]\nurl = \"sqlite:data.db\"\n",
        main_table(server, &database, "size = 3\nacquireTimeout = \"1s\"")
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

const UPSERT: &str = r#"
local record, tide = require "record", require "tide"
local db = tide.sql("main")
local M = {}
function M.upsert(message, ctx)
  db:execute([[INSERT INTO counts VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET n = counts.n + 1]],
    message.offset % 10)
  record.line("done", message, ctx)
end
function M.slow(message, ctx)
  record.line("begun", message, ctx)
  db:transaction(function(tx)
    tx:execute("INSERT INTO slow VALUES ($1)", ctx.attempt)
    tx:query("SELECT pg_sleep(600)")
  end)
end
return M
"#;

/// Status and metrics, while one statement of a transaction is under way.
#[track_caller]
fn shows_the_transaction(project: &Project, http: &str) {
    let text = moontide(&["status", "--config"], &project.path("config.toml")).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("sql       main: 1 of 4 connections in use"),
        "{text}"
    );
    assert!(text.contains("1 in a transaction"), "{text}");
    assert!(text.contains("slow waits for sql main SELECT"), "{text}");
    let samples = scrape(http);
    let labels = [("sql", "main"), ("state", "in_transaction")];
    assert_eq!(samples.get("moontide_sql_connections", &labels), Some(1.0));
    let labels = [("function", "sql.execute"), ("result", "ok")];
    assert!(samples.get("moontide_outside_calls_total", &labels) >= Some(201.0));
}

/// Upserts count, status and metrics show the pool, and a reload and a stop end what is under way.
#[test]
fn rows_are_counted_and_what_is_under_way_ends_with_a_reload_and_a_stop() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(server) = postgres::shared() else {
        return;
    };
    let (topic, slow) = (kafka.topic("sql-upserts", 2), kafka.topic("sql-slow", 1));
    let database = server.database();
    server.sql(
        &database,
        "CREATE TABLE counts (id int PRIMARY KEY, n int); CREATE TABLE slow (n int)",
    );
    let sections = |size: u32| {
        let table = main_table(
            server,
            &database,
            &format!("size = {size}\ntimeout = \"1h\""),
        );
        format!(
            "[http]\nlisten = \"127.0.0.1:0\"\n[daemon]\nwatch = false\ndrainDeadline = \"200ms\"\n{table}"
        )
    };
    let project = Project::new(kafka).sections(&sections(4));
    project.handler("upserts.lua", UPSERT);
    let listeners = from_beginning("upsert", &topic.name, "upserts.upsert")
        + "ordering = \"none\"\n"
        + &from_beginning("slow", &slow.name, "upserts.slow");
    project.config(&listeners);
    topic.produce((0..2).flat_map(|partition| numbered(0..100, partition)));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("done", 200, DEADLINE);
    assert_eq!(
        server.sql(&database, "SELECT count(*), min(n), max(n) FROM counts"),
        "10|20|20"
    );

    slow.produce([Message::value("x").partition(0)]);
    let http = address(&mut daemon);
    let mut seen = serde_json::Value::Null;
    daemon.wait_for("the statement is under way", |daemon| {
        seen = daemon.status()["sql"][0].clone();
        seen["transactions"] == 1 && server.activity(&database).contains("active 1")
    });
    assert_eq!(
        (&seen["name"], &seen["size"]),
        (&"main".into(), &4.into()),
        "{seen}"
    );
    shows_the_transaction(&project, &http);

    // The old bundle's call ends in the old pool; what comes now has the new one.
    let config = project
        .config_text(&listeners)
        .replace("size = 4", "size = 2");
    project.write("config.toml", &config);
    let (code, text) = daemon.reload();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("databases changed: `main`"), "{text}");
    topic.produce(numbered(100..110, 0));
    project.wait_for_entries("done", 210, DEADLINE);
    server.wait_for_activity(&database, |now| now.contains("active 1"));
    let jobs = daemon.stop_counted();
    assert!(jobs.ended_in_order(), "{jobs:?}");
    server.wait_for_activity(&database, str::is_empty);
    assert_eq!(server.sql(&database, "SELECT count(*) FROM slow"), "0");
}
