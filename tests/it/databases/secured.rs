//! TLS to a real server, `check`, and `check --connect`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::client::Message;
use crate::support::daemon::{Daemon, moontide};
use crate::support::kafka;
use crate::support::postgres::{self, Postgres};
use crate::support::project::{Project, from_beginning};
use crate::support::wait::DEADLINE;
use crate::support::web::Identity;

const HANDLER: &str = r#"
local record, tide = require "record", require "tide"
return function(message, ctx)
  local db = tide.sql("secured")
  local row = db:one("SELECT ssl, length(repeat('x', 300000)) AS n FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
  assert(row.ssl == true and row.n == 300000)
  assert(#db:one("SELECT repeat('x', 300000) AS x").x == 300000)
  local ok, err = pcall(function() tide.sql("untrusted"):query("SELECT 1") end)
  assert(not ok and err.kind == "unreachable" and tostring(err):find("the certificate of 127.0.0.1:", 1, true), tostring(err))
  record.line("done", message, ctx)
end
"#;

#[test]
fn tls_checks_the_server() {
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
    if !postgres::own_key(&key) {
        return;
    }
    let settings = format!("ssl = on\nssl_cert_file = '{cert}'\nssl_key_file = '{key}'");
    let Some(server) = Postgres::start_own(&settings) else {
        return;
    };
    let (database, topic) = (server.database(), kafka.topic("sql-tls", 1));
    let url = server.url(&database);
    let project = Project::new(kafka).sections(&format!(
        "[sql.secured]\nurl = \"{url}?sslmode=verify-full\"\ntls = {{ ca = \"{cert}\" }}\n\
         [sql.untrusted]\nurl = \"{url}\"\ntls = {{ ca = \"{other}\" }}\n\
         [sql.file]\nurl = \"sqlite:nosuch/data.db\"\n"
    ));
    project.handler("tls.lua", HANDLER);
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
        format!("sql secured at postgres://{address}/{database}\n"),
        "as postgres, with a password, with TLS; statements stay prepared".to_owned(),
        "at most 8 connections, waited for 5s at most; 5s to connect, 30s for a statement"
            .to_owned(),
        "once keeps its rows in moontide_once for 168h".to_owned(),
        format!("database secured at {address}: reached in "),
        format!("database untrusted at {address}: not reached after "),
        "cannot be opened: unable to open database file".to_owned(),
    ] {
        assert!(text.contains(&part), "{part}\n{text}");
    }
    assert!(
        !text.contains("secret") && !text.contains("%73%65"),
        "{text}"
    );
    let output = moontide(&["check", "--json", "--config"], &config);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = json["sql"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].clone())
        .collect();
    assert_eq!(names, ["file", "secured", "untrusted"]);
    assert_eq!(
        (&json["sql"][1]["password"], &json["sql"][1]["tls"]),
        (&true.into(), &true.into())
    );
}
