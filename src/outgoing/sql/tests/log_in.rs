//! The ways to log in at a real server, and one who stands between.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::pin::Pin;

use openssl::ssl::{Ssl, SslAcceptor, SslConnector, SslMethod, SslVerifyMode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_openssl::SslStream;

use super::*;
use crate::config::{Certificate, Tls};
use crate::outgoing::http::tests::web::Identity;

/// Who logs in how.
const METHODS: &str = "\
hostssl all cert_user 127.0.0.1/32 cert
hostssl all plain_user 127.0.0.1/32 password
host all md5_user 127.0.0.1/32 md5
host all all 127.0.0.1/32 scram-sha-256
";

const ROLES: &str = "\
SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN PASSWORD 'of md5';
SET password_encryption = 'scram-sha-256'; CREATE ROLE plain_user LOGIN PASSWORD 'of plain';
CREATE ROLE odd_user LOGIN PASSWORD 'IX'; CREATE ROLE cert_user LOGIN";

struct Secured {
    server: Server,
    own: Identity,
    client: Identity,
}

impl Secured {
    fn start(folder: &tempfile::TempDir) -> Option<Self> {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (own, client) = (Identity::new("127.0.0.1"), Identity::new("cert_user"));
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let key = write("server.key", &own.key_pem());
        if !server::own_key(&key) {
            return None;
        }
        let (cert, ca) = (
            write("server.pem", &own.cert_pem()),
            write("client.pem", &client.cert_pem()),
        );
        let methods = write("pg_hba.conf", METHODS);
        let server = Server::start_own(&format!(
            "ssl = on\nssl_cert_file = '{cert}'\nssl_key_file = '{key}'\nssl_ca_file = '{ca}'\nhba_file = '{methods}'"
        ))?;
        server.sql("postgres", ROLES);
        Some(Self {
            server,
            own,
            client,
        })
    }

    /// The user that the server knows, and whether the connection has TLS.
    fn log_in(&self, change: impl FnOnce(&mut Connecting)) -> Result<(Value, Value), Fault> {
        let mut settings = settings(&self.server, "postgres");
        if let Location::Postgres(postgres) = &mut settings.location {
            change(postgres);
        }
        let fixture = Fixture::new(&settings);
        let statement =
            "SELECT current_user::text AS name, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let row = fixture.run(statement, &[], Shape::One)?;
        Ok((field(&row, "name"), field(&row, "ssl")))
    }

    fn tls(&self) -> Tls {
        Tls {
            ca: Some(Secret(self.own.cert_pem())),
            certificate: None,
        }
    }
}

fn secret(text: &str) -> Secret {
    Secret(text.to_owned())
}

#[test]
fn each_way_to_log_in_works_and_one_who_stands_between_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let Some(secured) = Secured::start(&folder) else {
        return;
    };
    // The name and password of the settings: SCRAM, with the certificate of the server and without.
    let found = secured.log_in(|one| one.tls = Some(secured.tls()));
    assert_eq!(found, Ok((text("postgres"), Value::Boolean(true))));
    let found = secured.log_in(|_| {});
    assert_eq!(found, Ok((text("postgres"), Value::Boolean(false))));
    for (name, password, is_tls) in [
        ("md5_user", "of md5", true),
        ("md5_user", "of md5", false),
        ("plain_user", "of plain", true),
        // The same password for SASLprep: a Roman numeral, and a soft hyphen.
        ("odd_user", "IX", false),
        ("odd_user", "\u{2168}", false),
        ("odd_user", "I\u{ad}X", true),
    ] {
        let change = |one: &mut Connecting| {
            name.clone_into(&mut one.user);
            one.password = Some(secret(password));
            one.tls = is_tls.then(|| secured.tls());
        };
        let found = secured.log_in(change);
        assert_eq!(found, Ok((text(name), Value::Boolean(is_tls))));
        let fault = secured.log_in(|one| {
            change(one);
            one.password = Some(secret("another"));
        });
        let message = fault.unwrap_err().message;
        assert!(message.contains("28P01"), "{message}");
    }
    let found = secured.log_in(|one| {
        "cert_user".clone_into(&mut one.user);
        one.password = None;
        let certificate = Some(Certificate {
            cert: Secret(secured.client.cert_pem()),
            key: Secret(secured.client.key_pem()),
            passphrase: None,
        });
        one.tls = Some(Tls {
            certificate,
            ..secured.tls()
        });
    });
    assert_eq!(found, Ok((text("cert_user"), Value::Boolean(true))));
    one_who_stands_between(&secured);
}

/// Its certificate is trusted, and it passes everything on: only the proof of SCRAM tells.
fn one_who_stands_between(secured: &Secured) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let between = Identity::new("127.0.0.1");
    let port = stand_between(runtime.handle(), &between, secured.server.port);
    let trusting = |one: &mut Connecting| {
        one.address.port = port;
        one.tls = Some(Tls {
            ca: Some(Secret(between.cert_pem())),
            certificate: None,
        });
    };
    let fault = secured.log_in(trusting).unwrap_err();
    assert_eq!(fault.kind, "unreachable");
    let expected = "SCRAM channel binding check failed";
    assert!(fault.message.contains(expected), "{}", fault.message);
    let found = secured.log_in(|one| {
        trusting(one);
        "plain_user".clone_into(&mut one.user);
        one.password = Some(secret("of plain"));
    });
    assert_eq!(found, Ok((text("plain_user"), Value::Boolean(true))));
}

fn stand_between(runtime: &tokio::runtime::Handle, own: &Identity, server: u16) -> u16 {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_private_key(&own.key).unwrap();
    acceptor.set_certificate(&own.cert).unwrap();
    let acceptor = acceptor.build();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // The client tells how that has ended.
                let _ = pass_on(client, server, &acceptor).await;
            });
        }
    });
    port
}

async fn pass_on(
    mut client: TcpStream,
    server: u16,
    acceptor: &SslAcceptor,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
    let mut request = [0; 8];
    client.read_exact(&mut request).await?;
    server.write_all(&request).await?;
    client.write_u8(server.read_u8().await?).await?;
    let mut client = SslStream::new(Ssl::new(acceptor.context())?, client)?;
    Pin::new(&mut client).accept().await?;
    let mut connector = SslConnector::builder(SslMethod::tls_client())?;
    connector.set_verify(SslVerifyMode::NONE);
    let mut server = SslStream::new(connector.build().configure()?.into_ssl("server")?, server)?;
    Pin::new(&mut server).connect().await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
