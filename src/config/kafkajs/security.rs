//! TLS and authentication: `ssl` and `sasl` as librdkafka's properties.

use std::io;
use std::path::Path;

use super::{Complaint, Mapping, complain};
use crate::config::error::words;
use crate::config::file::{Client, Mechanism, OneOrMany, Sasl, Ssl, SslTable};

impl Mapping<'_> {
    pub(super) fn security(&mut self, client: &Client) {
        let ssl = client
            .ssl
            .as_ref()
            .is_some_and(|ssl| !matches!(ssl, Ssl::On(false)));
        let protocol = match (ssl, client.sasl.is_some()) {
            (false, false) => "plaintext",
            (true, false) => "ssl",
            (false, true) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        };
        self.set(
            "security.protocol",
            protocol,
            if ssl { &["ssl"] } else { &["sasl"] },
        );
    }

    pub(super) fn ssl(&mut self, ssl: Option<&Ssl>) -> Result<(), Complaint> {
        let table = match ssl {
            None | Some(Ssl::On(false)) => return Ok(()),
            Some(Ssl::On(true)) => &SslTable::default(),
            Some(Ssl::Table(table)) => table,
        };
        match &table.ca {
            // OpenSSL is our own copy, which does not know where this system keeps its certificates.
            None => self.set("ssl.ca.location", "probe", &["ssl"]),
            Some(OneOrMany::One(ca)) => {
                self.pem("ssl.ca.pem", "ssl.ca.location", ca, &["ssl", "ca"])?;
            }
            Some(OneOrMany::Many(list)) => {
                let mut all = String::new();
                for ca in list {
                    let pem = if is_pem(ca) {
                        ca.clone()
                    } else {
                        let path = self.folder.join(ca);
                        crate::files::regular_file::read_to_string(&path).or_else(|error| {
                            complain(&["ssl", "ca"], unreadable("ssl.ca", &path, &error))
                        })?
                    };
                    all.push_str(pem.trim_end());
                    all.push('\n');
                }
                self.set("ssl.ca.pem", all, &["ssl", "ca"]);
            }
        }
        if !table.reject_unauthorized {
            self.set(
                "enable.ssl.certificate.verification",
                false,
                &["ssl", "rejectUnauthorized"],
            );
        }
        let identity = if table.check_server_identity {
            "https"
        } else {
            "none"
        };
        self.set(
            "ssl.endpoint.identification.algorithm",
            identity,
            &["ssl", "checkServerIdentity"],
        );
        if let Some(ciphers) = &table.ciphers {
            self.set("ssl.cipher.suites", ciphers, &["ssl", "ciphers"]);
        }
        self.own_certificate(table)
    }

    fn own_certificate(&mut self, table: &SslTable) -> Result<(), Complaint> {
        if let Some(pfx) = &table.pfx {
            if table.cert.is_some() || table.key.is_some() {
                return complain(
                    &["ssl", "pfx"],
                    "`ssl.pfx` holds a certificate and its key; remove `ssl.cert` and `ssl.key`",
                );
            }
            self.file("ssl.keystore.location", pfx, &["ssl", "pfx"])?;
            if let Some(passphrase) = &table.passphrase {
                self.set("ssl.keystore.password", passphrase, &["ssl", "passphrase"]);
            }
            return Ok(());
        }
        match (&table.cert, &table.key) {
            (Some(cert), Some(key)) => {
                self.pem(
                    "ssl.certificate.pem",
                    "ssl.certificate.location",
                    cert,
                    &["ssl", "cert"],
                )?;
                self.pem("ssl.key.pem", "ssl.key.location", key, &["ssl", "key"])?;
            }
            (Some(_), None) => {
                return complain(&["ssl", "cert"], "`ssl.cert` is set without `ssl.key`");
            }
            (None, Some(_)) => {
                return complain(&["ssl", "key"], "`ssl.key` is set without `ssl.cert`");
            }
            (None, None) if table.passphrase.is_some() => {
                return complain(
                    &["ssl", "passphrase"],
                    "`ssl.passphrase` is set without `ssl.key` or `ssl.pfx`",
                );
            }
            (None, None) => {}
        }
        if let Some(passphrase) = &table.passphrase {
            self.set("ssl.key.password", passphrase, &["ssl", "passphrase"]);
        }
        Ok(())
    }

    fn pem(
        &mut self,
        text: &str,
        location: &str,
        value: &str,
        keys: &'static [&'static str],
    ) -> Result<(), Complaint> {
        if !is_pem(value) {
            return self.file(location, value, keys);
        }
        self.set(text, value, keys);
        Ok(())
    }

    /// A file that librdkafka reads itself, which says of a missing one only that OpenSSL failed.
    fn file(
        &mut self,
        location: &str,
        value: &str,
        keys: &'static [&'static str],
    ) -> Result<(), Complaint> {
        let path = self.folder.join(value);
        if let Err(error) = crate::files::regular_file::open(&path) {
            return complain(keys, unreadable(&keys.join("."), &path, &error));
        }
        self.set(location, path.display(), keys);
        Ok(())
    }

    pub(super) fn sasl(&mut self, sasl: &Sasl) -> Result<(), Complaint> {
        let Some(mechanism) = sasl.mechanism else {
            return complain(&["sasl", "mechanism"], "`sasl.mechanism` is missing");
        };
        let name = match mechanism {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
            Mechanism::Oauthbearer => "OAUTHBEARER",
        };
        self.set("sasl.mechanisms", name, &["sasl", "mechanism"]);
        let oauth = sasl.client_id.is_some()
            || sasl.client_secret.is_some()
            || sasl.token_endpoint_url.is_some()
            || sasl.scope.is_some()
            || !sasl.extensions.is_empty();
        if mechanism == Mechanism::Oauthbearer {
            if sasl.username.is_some() || sasl.password.is_some() {
                return complain(
                    &["sasl"],
                    "oauthbearer takes `sasl.clientId` and `sasl.clientSecret`, not a user name and password",
                );
            }
            return self.oauth(sasl);
        }
        if oauth {
            return complain(
                &["sasl"],
                "only oauthbearer takes clientId, clientSecret, tokenEndpointUrl, scope and extensions",
            );
        }
        let Some(username) = sasl.username.as_ref().filter(|name| !name.is_empty()) else {
            return complain(&["sasl", "username"], "`sasl.username` is missing or empty");
        };
        let Some(password) = sasl.password.as_ref().filter(|word| !word.is_empty()) else {
            return complain(&["sasl", "password"], "`sasl.password` is missing or empty");
        };
        self.set("sasl.username", username, &["sasl", "username"]);
        self.set("sasl.password", password, &["sasl", "password"]);
        Ok(())
    }

    fn oauth(&mut self, sasl: &Sasl) -> Result<(), Complaint> {
        let Some(id) = &sasl.client_id else {
            return complain(&["sasl", "clientId"], "`sasl.clientId` is missing");
        };
        let Some(secret) = &sasl.client_secret else {
            return complain(&["sasl", "clientSecret"], "`sasl.clientSecret` is missing");
        };
        let Some(url) = &sasl.token_endpoint_url else {
            return complain(
                &["sasl", "tokenEndpointUrl"],
                "`sasl.tokenEndpointUrl` is missing",
            );
        };
        if !url.starts_with("https://") && !url.starts_with("http://") {
            return complain(
                &["sasl", "tokenEndpointUrl"],
                "`sasl.tokenEndpointUrl` is not a URL with http or https",
            );
        }
        self.set("sasl.oauthbearer.method", "oidc", &["sasl", "mechanism"]);
        self.set("sasl.oauthbearer.client.id", id, &["sasl", "clientId"]);
        self.set(
            "sasl.oauthbearer.client.secret",
            secret,
            &["sasl", "clientSecret"],
        );
        self.set(
            "sasl.oauthbearer.token.endpoint.url",
            url,
            &["sasl", "tokenEndpointUrl"],
        );
        self.set("https.ca.location", "probe", &["sasl", "tokenEndpointUrl"]);
        if let Some(scope) = &sasl.scope {
            self.set("sasl.oauthbearer.scope", scope, &["sasl", "scope"]);
        }
        if !sasl.extensions.is_empty() {
            let pairs: Vec<String> = sasl
                .extensions
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            self.set(
                "sasl.oauthbearer.extensions",
                pairs.join(","),
                &["sasl", "extensions"],
            );
        }
        Ok(())
    }
}

fn unreadable(key: &str, path: &Path, error: &io::Error) -> String {
    // What should have been PEM may be a key: it is not for the log.
    let path = match key {
        "ssl.key" => String::new(),
        _ => format!(" `{}`:", path.display()),
    };
    let reason = words(error);
    format!("`{key}` is neither PEM text nor a file that can be read:{path} {reason}")
}

fn is_pem(text: &str) -> bool {
    text.trim_start().starts_with("-----BEGIN")
}
