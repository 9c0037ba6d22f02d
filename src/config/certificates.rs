//! Certificates, keys and other secrets of clients. The files that a table names are read here, so a reload reads them
//! again.

use std::fmt;
use std::path::Path;

use openssl::pkey::PKey;
use openssl::x509::X509;

use super::Scene;
use super::error::words;
use super::file::OneOrMany;

/// A certificate of this client, with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) cert: Secret,
    pub(crate) key: Secret,
    pub(crate) passphrase: Option<Secret>,
}

/// Text that is never shown: a secret, or one that is of no use to a reader.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A certificate as it is written.
pub(super) struct Given<'g> {
    /// For errors.
    pub(super) what: &'g str,
    pub(super) cert: Option<&'g str>,
    pub(super) key: Option<&'g str>,
    pub(super) passphrase: Option<&'g str>,
}

fn error(scene: &mut Scene<'_, '_>, table: &[&str], keys: &[&str], message: impl Into<String>) {
    let at = scene.at_keys(table, keys);
    scene.report.error(at, message);
}

/// The trusted authorities of `ca` in this table.
pub(super) fn ca(
    ca: Option<&OneOrMany>,
    table: &[&str],
    scene: &mut Scene<'_, '_>,
) -> Option<Secret> {
    let list = match ca? {
        OneOrMany::One(one) => std::slice::from_ref(one),
        OneOrMany::Many(list) => list,
    };
    let mut all = String::new();
    for one in list {
        match pem(one, scene.folder) {
            Ok(text) if is_chain(&text) => {
                all.push_str(&text);
                all.push('\n');
            }
            Ok(_) => error(scene, table, &["ca"], "`ca` has no certificate in PEM"),
            Err(reason) => {
                let message =
                    format!("`ca` is neither PEM text nor a file that can be read: {reason}");
                error(scene, table, &["ca"], message);
            }
        }
    }
    Some(Secret(all))
}

fn is_chain(text: &str) -> bool {
    X509::stack_from_pem(text.as_bytes()).is_ok_and(|chain| !chain.is_empty())
}

/// `cert` and `key` of this table.
pub(super) fn certificate(
    given: &Given<'_>,
    table: &[&str],
    scene: &mut Scene<'_, '_>,
) -> Option<Certificate> {
    let (Some(cert), Some(key)) = (given.cert, given.key) else {
        let message = format!("{} needs `cert` and `key`", given.what);
        error(scene, table, &[], message);
        return None;
    };
    let cert = match pem(cert, scene.folder) {
        Ok(text) if is_chain(&text) => text,
        Ok(_) => {
            error(scene, table, &["cert"], "`cert` has no certificate in PEM");
            return None;
        }
        Err(reason) => {
            let message =
                format!("`cert` is neither PEM text nor a file that can be read: {reason}");
            error(scene, table, &["cert"], message);
            return None;
        }
    };
    // What should have been PEM may be a key: it is not for the log.
    let Ok(key) = pem(key, scene.folder) else {
        let message = "`key` is neither PEM text nor a file that can be read";
        error(scene, table, &["key"], message);
        return None;
    };
    let passphrase = given.passphrase.unwrap_or_default();
    let read = PKey::private_key_from_pem_passphrase(key.as_bytes(), passphrase.as_bytes());
    let Ok(private) = read else {
        let message = "`key` is no private key in PEM, or `passphrase` does not open it";
        error(scene, table, &["key"], message);
        return None;
    };
    let public = X509::from_pem(cert.as_bytes()).and_then(|cert| cert.public_key());
    if !public.is_ok_and(|public| public.public_eq(&private)) {
        error(scene, table, &["key"], "`key` is not the key of `cert`");
        return None;
    }
    Some(Certificate {
        cert: Secret(cert),
        key: Secret(key),
        passphrase: given.passphrase.map(|one| Secret(one.to_owned())),
    })
}

/// The text itself, or that of the file of this path.
fn pem(text: &str, folder: &Path) -> Result<String, String> {
    if text.trim_start().starts_with("-----BEGIN") {
        return Ok(text.to_owned());
    }
    let path = folder.join(text);
    crate::files::regular_file::read_to_string(&path)
        .map_err(|error| format!("`{}`: {}", path.display(), words(&error)))
}
