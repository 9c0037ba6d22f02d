//! TLS and SASL against a real broker with certificates made here; and no password in anything that is shown.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::client::numbered;
use crate::support::daemon::{Daemon, moontide};
use crate::support::kafka::{Extras, Kafka, free_port};
use crate::support::project::{Project, RECORDING, from_beginning};
use crate::support::wait::{DEADLINE, stays};

const PLAIN: &str = "plain-p4ss $word";
const SCRAM: &str = "scram-p4ss-word";
const STORE: &str = "store-p4ss-word";

/// A broker with a listener for passwords over TLS, one for passwords alone, and one for clients with certificates.
struct Secure {
    kafka: Kafka,
    passwords: String,
    bare: String,
    certificates: String,
    /// `ca.pem` and `client.p12`.
    stores: PathBuf,
}

/// One for all tests here.
fn secure() -> Option<&'static Secure> {
    static SECURE: OnceLock<Option<Secure>> = OnceLock::new();
    SECURE.get_or_init(start).as_ref()
}

fn start() -> Option<Secure> {
    let ports = (free_port(), free_port(), free_port());
    let stores = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stores-{}", ports.0));
    let kafka = Kafka::start_for_all(|| {
        make_stores(&stores);
        extras(ports, &stores)
    })?;
    Some(Secure {
        kafka,
        passwords: format!("127.0.0.1:{}", ports.0),
        certificates: format!("localhost:{}", ports.1),
        bare: format!("127.0.0.1:{}", ports.2),
        stores,
    })
}

fn extras((passwords, certificates, bare): (u16, u16, u16), stores: &Path) -> Extras {
    let plain = "org.apache.kafka.common.security.plain.PlainLoginModule required";
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let store = |key: &str, file: &str| {
        format!(
            "ssl.{key}.location={}\nssl.{key}.password={STORE}\nssl.{key}.type=PKCS12\n",
            stores.join(file).display()
        )
    };
    let properties = format!(
        "
listeners=PLAINTEXT://127.0.0.1:@BROKER@,CONTROLLER://127.0.0.1:@CONTROLLER@,PASSWORDS://127.0.0.1:{passwords},CERTIFICATES://127.0.0.1:{certificates},BARE://127.0.0.1:{bare}
advertised.listeners=PLAINTEXT://127.0.0.1:@BROKER@,PASSWORDS://127.0.0.1:{passwords},CERTIFICATES://localhost:{certificates},BARE://127.0.0.1:{bare}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PASSWORDS:SASL_SSL,CERTIFICATES:SSL,BARE:SASL_PLAINTEXT
listener.name.bare.sasl.enabled.mechanisms=PLAIN
listener.name.bare.plain.sasl.jaas.config={plain} user_ada=\"{PLAIN}\";
listener.name.passwords.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.passwords.plain.sasl.jaas.config={plain} user_ada=\"{PLAIN}\";
listener.name.passwords.scram-sha-256.sasl.jaas.config={scram}
listener.name.passwords.scram-sha-512.sasl.jaas.config={scram}
listener.name.certificates.ssl.client.auth=required
{}{}",
        store("keystore", "broker.p12"),
        store("truststore", "clients.p12")
    );
    let user = |mechanism: &str| {
        [
            "--add-scram".to_owned(),
            format!("{mechanism}=[name=bob,password={SCRAM}]"),
        ]
    };
    Extras {
        properties,
        format: [user("SCRAM-SHA-256"), user("SCRAM-SHA-512")].concat(),
    }
}

/// The broker's key and certificate, the client's, and each one's certificate for the other side to trust.
fn make_stores(stores: &Path) {
    std::fs::create_dir_all(stores).unwrap();
    for (name, san) in [
        ("broker", "SAN=ip:127.0.0.1,dns:localhost"),
        ("client", "SAN=dns:client"),
    ] {
        let subject = format!("CN={name}");
        let made = [
            &[
                "-genkeypair",
                "-keyalg",
                "RSA",
                "-dname",
                &subject,
                "-ext",
                san,
            ][..],
            &["-exportcert", "-rfc", "-file", &format!("{name}.pem")],
        ];
        for arguments in made {
            keytool(stores, &format!("{name}.p12"), name, arguments);
        }
    }
    keytool(
        stores,
        "clients.p12",
        "client",
        &["-importcert", "-noprompt", "-file", "client.pem"],
    );
    std::fs::rename(stores.join("broker.pem"), stores.join("ca.pem")).unwrap();
}

fn keytool(stores: &Path, store: &str, alias: &str, arguments: &[&str]) {
    let output = Command::new("keytool")
        .args(arguments)
        .args(["-keystore", store, "-storetype", "PKCS12", "-alias", alias])
        .args(["-storepass", STORE])
        .current_dir(stores)
        .output()
        .expect("keytool comes with Java");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

impl Secure {
    /// A project with these lines in `[kafkaConfig]`, and a topic with three messages.
    fn project(&self, address: &str, lines: &str) -> (Project, String) {
        let topic = self.kafka.topic("secure", 1);
        topic.produce(numbered(0..3, 0));
        let project = Project::new(&self.kafka).sections(
            "[log]\nformat = \"json\"\nlevel = \"debug\"\n[daemon]\ndrainDeadline = \"5s\"",
        );
        project.handler("orders.lua", RECORDING);
        project.write("password", &format!("{SCRAM}\n"));
        std::fs::copy(self.stores.join("ca.pem"), project.path("ca.pem")).unwrap();
        let text = project
            .config_text(&from_beginning("orders", &topic.name, "orders.handle"))
            .replace(&self.kafka.bootstrap(), address)
            .replace("[kafkaConfig]\n", &format!("[kafkaConfig]\n{lines}\n"));
        project.write("config.toml", &text);
        (project, topic.name)
    }

    /// Consumes and commits through a connection of this kind, and shows no secret anywhere.
    fn works(&self, address: &str, lines: &str) {
        let (project, topic) = self.project(address, lines);
        let daemon = Daemon::start(&project);
        project.wait_for_entries("done", 3, DEADLINE);
        assert_shows_no_secret(&daemon, &project);
        daemon.stop();
        assert_eq!(self.kafka.committed(&project.group, &topic, 0), Some(3));
    }

    /// Is told as an ERROR or WARN that has one of `words`, ends nothing, and shows no secret.
    fn is_refused(&self, address: &str, lines: &str, words: &[&str]) {
        let (project, _) = self.project(address, lines);
        let mut daemon = Daemon::start(&project);
        let said = |text: &str| {
            let text = text.to_lowercase();
            words.iter().any(|word| text.contains(word))
        };
        daemon.wait_line("why there is no connection", |line| {
            matches!(line.field("level").as_str(), "WARN" | "ERROR") && said(&format!("{line:?}"))
        });
        daemon.wait_for("the status says why", |daemon| {
            daemon
                .try_status()
                .and_then(|status| status["consumers"][0]["error"].as_str().map(said))
                == Some(true)
        });
        stays(
            "it goes on trying",
            std::time::Duration::from_secs(1),
            || !daemon.ended(),
        );
        assert_shows_no_secret(&daemon, &project);
        assert_eq!(project.entries(), []);
        daemon.stop();
    }
}

fn assert_shows_no_secret(daemon: &Daemon, project: &Project) {
    let config = project.path("config.toml");
    let mut shown = daemon.log_text();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["check"],
        &["check", "--json"],
    ] {
        let output = moontide(&[arguments, &["--config"]].concat(), &config);
        shown += &String::from_utf8_lossy(&output.stdout);
        shown += &String::from_utf8_lossy(&output.stderr);
    }
    for secret in [PLAIN, SCRAM, STORE, "wrong-p4ss-word", "PRIVATE KEY"] {
        let line = shown.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "`{secret}` is shown");
    }
}

#[test]
fn scram_over_tls_with_an_authority_from_a_path() {
    let Some(secure) = secure() else { return };
    secure.works(
        &secure.passwords,
        "ssl = { ca = \"ca.pem\" }\n\
         sasl = { mechanism = \"scram-sha-256\", username = \"bob\", password = \"${file:password}\" }",
    );
}

#[test]
fn plain_over_tls_with_an_authority_as_text() {
    let Some(secure) = secure() else { return };
    let pem = std::fs::read_to_string(secure.stores.join("ca.pem")).unwrap();
    secure.works(
        &secure.passwords,
        &format!(
            "ssl = {{ ca = \"\"\"\n{pem}\"\"\" }}\n\
             sasl = {{ mechanism = \"plain\", username = \"ada\", password = \"{PLAIN}\" }}"
        ),
    );
}

#[test]
fn an_authority_from_a_file_by_reference_and_a_list_of_them() {
    let Some(secure) = secure() else { return };
    secure.works(
        &secure.passwords,
        "ssl = { ca = [\"${file:ca.pem}\", \"ca.pem\"] }\n\
         sasl = { mechanism = \"scram-sha-512\", username = \"bob\", password = \"${file:password}\" }",
    );
}

#[test]
fn a_client_certificate_from_a_pkcs12_file() {
    let Some(secure) = secure() else { return };
    let client = secure.stores.join("client.p12");
    secure.works(
        &secure.certificates,
        &format!(
            "ssl = {{ ca = \"ca.pem\", pfx = \"{}\", passphrase = \"{STORE}\" }}",
            client.display()
        ),
    );
}

#[test]
fn a_wrong_password_is_said_and_tried_again() {
    let Some(secure) = secure() else { return };
    secure.is_refused(
        &secure.passwords,
        "ssl = { ca = \"ca.pem\" }\n\
         sasl = { mechanism = \"scram-sha-256\", username = \"bob\", password = \"wrong-p4ss-word\" }",
        &["authentication"],
    );
}

#[test]
fn a_broker_that_nobody_vouches_for_is_refused() {
    let Some(secure) = secure() else { return };
    secure.is_refused(
        &secure.passwords,
        "ssl = true\n\
         sasl = { mechanism = \"plain\", username = \"ada\", password = \"wrong-p4ss-word\" }",
        &["certificate"],
    );
}

/// The admin client of handlers has the connection of `[kafkaConfig]`.
#[test]
fn the_admin_client_asks_through_scram_over_tls() {
    let Some(secure) = secure() else { return };
    let (project, _) = secure.project(
        &secure.passwords,
        "ssl = { ca = \"ca.pem\" }\n\
         sasl = { mechanism = \"scram-sha-256\", username = \"bob\", password = \"${file:password}\" }",
    );
    project.replace_handler(
        "orders.lua",
        r#"
        local record, tide = require "record", require "tide"
        return { handle = function(message, ctx)
          assert(#tide.kafka.admin.listTopics() > 0)
          record.line("done", message, ctx, #tide.kafka.admin.describeCluster().brokers)
        end }
        "#,
    );
    let daemon = Daemon::start(&project);
    let done = project.wait_for_entries("done", 3, DEADLINE);
    assert!(done.iter().all(|one| one.extra == "1"), "{done:?}");
    assert_shows_no_secret(&daemon, &project);
    daemon.stop();
}

/// A wrong password is an error of the call, with its reason.
#[test]
fn an_admin_client_with_a_wrong_password_raises_unreachable() {
    let Some(secure) = secure() else { return };
    let (project, _) = secure.project(
        &secure.passwords,
        "ssl = { ca = \"ca.pem\" }\n\
         sasl = { mechanism = \"scram-sha-256\", username = \"bob\", password = \"wrong-p4ss-word\" }",
    );
    project.handler(
        "init.lua",
        r#"
        local tide = require "tide"
        return { start = function()
          local ok, err = pcall(tide.kafka.admin.listTopics, { timeout = "3s" })
          error("seen " .. err.kind .. ": " .. err.message, 0)
        end }
        "#,
    );
    let mut daemon = Daemon::spawn(&project);
    let code = daemon.exit_code(DEADLINE);
    assert_ne!(code, 0);
    let log = daemon.log_text();
    assert!(log.contains("seen unreachable"), "{log}");
    assert!(log.to_lowercase().contains("authentication"), "{log}");
    assert!(!log.contains("wrong-p4ss-word"), "{log}");
}

/// A client without TLS at a port with TLS, and the other way.
#[test]
fn a_port_with_another_security_is_told_with_the_key_that_may_be_wrong() {
    let Some(secure) = secure() else { return };
    secure.is_refused(&secure.certificates, "", &["`ssl` is not set", "set `ssl`"]);
    let plain = secure.kafka.bootstrap();
    secure.is_refused(&plain, "ssl = true", &["without tls, but `ssl` is set"]);
    secure.is_refused(&secure.bare, "", &["`sasl` is not set"]);
    secure.is_refused(
        &plain,
        "sasl = { mechanism = \"plain\", username = \"ada\", password = \"wrong-p4ss-word\" }",
        &["but `sasl` is set"],
    );
}

/// kafkajs' `rejectUnauthorized`: TLS without a look at the certificate.
#[test]
fn a_broker_that_nobody_vouches_for_may_be_accepted() {
    let Some(secure) = secure() else { return };
    secure.works(
        &secure.passwords,
        "ssl = { rejectUnauthorized = false }\n\
         sasl = { mechanism = \"scram-sha-512\", username = \"bob\", password = \"${file:password}\" }",
    );
}
