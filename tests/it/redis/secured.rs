//! TLS to a real server: by its authority, with and without a certificate of the daemon's own.

use super::{all_pass, chunks};
use crate::support::client::Message;
use crate::support::daemon::{Daemon, moontide};
use crate::support::kafka;
use crate::support::project::Project;
use crate::support::redis::Redis;
use crate::support::web::Identity;

const CHUNKS: [&str; 4] = [
    r#"
        assert(cache:set("k", ("x"):rep(300000)) == "OK" and #cache:get("k") == 300000)
        assert(cache:call("ACL", "WHOAMI") == "alice")
        assert(cache:call("CLIENT", "INFO"):find(" db=2 ", 1, true))
        for i = 1, 50 do assert(cache:call("ECHO", i) == tostring(i)) end
        "#,
    // The server wants a certificate.
    r#"
        local bare = tide.redis("bare")
        fails("unreachable", nil, bare.get, bare, "k")
        "#,
    r#"
        local untrusted = tide.redis("untrusted")
        local text = fails("unreachable", nil, untrusted.get, untrusted, "k")
        assert(text:find("the certificate of 127.0.0.1:", 1, true) and text:find("is not valid: ", 1, true), text)
        "#,
    r#"
        local plain = tide.redis("plain")
        fails("unreachable", nil, plain.get, plain, "k")
        "#,
];

#[test]
fn tls_checks_both_sides() {
    let Some(kafka) = kafka::shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    // Each is its own authority.
    let [server, client, stranger] = ["127.0.0.1", "moontide", "stranger"].map(Identity::new);
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let ca = write("server.pem", &server.cert_pem());
    let key = write("server.key", &server.key_pem());
    let own_cert = write("client.pem", &client.cert_pem());
    let own_key = write("client.key", &client.key_pem_of("pass"));
    let other = write("other.pem", &stranger.cert_pem());
    let port = kafka::free_port().to_string();
    let arguments = [
        "--tls-port",
        &port,
        "--tls-cert-file",
        &ca,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &own_cert,
        "--user",
        "alice",
        "on",
        ">pa:ss@word",
        "~*",
        "&*",
        "+@all",
    ];
    let Some(redis) = Redis::start_own(&arguments) else {
        return;
    };
    let topic = kafka.topic("redis-tls", 1);
    let project = Project::new(kafka).sections(&format!(
        "[redis.good]\nurl = \"rediss://alice:pa%3Ass%40word@127.0.0.1:{port}/2\"\n\
         tls = {{ ca = \"{ca}\", cert = \"{own_cert}\", key = \"{own_key}\", passphrase = \"pass\" }}\n\
         [redis.bare]\nurl = \"redis://127.0.0.1:{port}\"\ntls = {{ ca = \"{ca}\" }}\n\
         [redis.untrusted]\nurl = \"rediss://127.0.0.1:{port}\"\ntls = {{ ca = \"{other}\" }}\n\
         [redis.plain]\nurl = \"redis://127.0.0.1:{port}\"\nconnectTimeout = \"2s\"\n"
    ));
    chunks(&project, &topic.name, "good");
    topic.produce(
        CHUNKS
            .iter()
            .map(|chunk| Message::value(chunk).partition(0)),
    );
    let daemon = Daemon::start(&project);
    all_pass(&project, &CHUNKS);
    let log = daemon.log_text();
    assert!(!log.contains("pa:ss@word") && !log.contains("pa%3Ass"));
    let checked = moontide(&["check", "--config"], &project.path("config.toml"));
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(text.contains("redis good at 127.0.0.1"), "{text}");
    assert!(!text.contains("pa:ss"), "{text}");
    daemon.stop();
    drop(redis);
}
