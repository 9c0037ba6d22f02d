//! `[http.client]`: the requests of handlers. The files that it names are read here, so a reload reads them again.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use openssl::pkey::PKey;
use openssl::x509::X509;

use super::AllowList;
use super::Scene;
use super::error::words;
use super::file::{ClientCertificate, File, OneOrMany};
use super::unit::{Millis, Size};

const PATH: [&str; 2] = ["http", "client"];
const SIZE_MAX: u32 = 10_000;
const HOUR: Millis = Millis(3_600_000);
const BODY_MAX: Size = Size(1 << 30);

/// The client of `tide.http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpClient {
    pub(crate) allow: AllowList,
    /// The most connections at once.
    pub(crate) size: usize,
    pub(crate) acquire_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// Of a whole request.
    pub(crate) timeout: Duration,
    /// Bytes of the body of a response.
    pub(crate) max_body: usize,
    pub(crate) proxy: Option<Proxy>,
    /// Hosts that are reached without the proxy.
    pub(crate) no_proxy: AllowList,
    /// Trusted CA certificates as PEM; `None`: those of the system.
    pub(crate) ca: Option<Secret>,
    pub(crate) certificates: BTreeMap<String, Certificate>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `user:password`.
    pub(crate) credentials: Option<Secret>,
}

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

#[cfg(test)]
impl Default for HttpClient {
    fn default() -> Self {
        let client = super::file::HttpClient::default();
        Self {
            allow: AllowList::default(),
            size: client.size as usize,
            acquire_timeout: client.acquire_timeout.duration(),
            connect_timeout: client.connect_timeout.duration(),
            timeout: client.timeout.duration(),
            max_body: client.max_body.0 as usize,
            proxy: None,
            no_proxy: AllowList::of(Some(&[])).unwrap_or_default(),
            ca: None,
            certificates: BTreeMap::new(),
        }
    }
}

pub(super) fn resolve(file: &File, scene: &mut Scene<'_, '_>) -> HttpClient {
    let defaults = super::file::HttpClient::default();
    let client = file.http.as_ref().map_or(&defaults, |http| &http.client);
    if client.size == 0 || client.size > SIZE_MAX {
        let found = client.size;
        error(
            scene,
            &["size"],
            format!("`size` is {found}, not from 1 to {SIZE_MAX}"),
        );
    }
    for (key, found) in [
        ("acquireTimeout", client.acquire_timeout),
        ("connectTimeout", client.connect_timeout),
        ("timeout", client.timeout),
    ] {
        if found.0 == 0 || found > HOUR {
            error(
                scene,
                &[key],
                format!("`{key}` is {found}, not from 1 ms to 1 h"),
            );
        }
    }
    if client.max_body.0 == 0 || client.max_body > BODY_MAX {
        let found = client.max_body;
        error(
            scene,
            &["maxBody"],
            format!("`maxBody` is {found}, not from 1 B to 1 GiB"),
        );
    }
    let proxy = client.proxy.as_deref().and_then(|text| {
        let proxy = proxy(text);
        if proxy.is_none() {
            let message = "`proxy` is not the address of an HTTP proxy such as \"http://proxy.example:3128\" or \
                           \"http://user:password@proxy.example:3128\"";
            error(scene, &["proxy"], message);
        }
        proxy
    });
    if client.proxy.is_none() && client.no_proxy.is_some() {
        error(scene, &["noProxy"], "`noProxy` is set without `proxy`");
    }
    HttpClient {
        allow: hosts("allow", client.allow.as_deref(), scene),
        size: client.size as usize,
        acquire_timeout: client.acquire_timeout.duration(),
        connect_timeout: client.connect_timeout.duration(),
        timeout: client.timeout.duration(),
        max_body: client.max_body.0 as usize,
        proxy,
        no_proxy: hosts(
            "noProxy",
            Some(client.no_proxy.as_deref().unwrap_or_default()),
            scene,
        ),
        ca: ca(client.ca.as_ref(), scene),
        certificates: client
            .certificates
            .iter()
            .filter_map(|(name, one)| Some((name.clone(), certificate(name, one, scene)?)))
            .collect(),
    }
}

fn error(scene: &mut Scene<'_, '_>, keys: &[&str], message: impl Into<String>) {
    let at = scene.at_keys(&PATH, keys);
    scene.report.error(at, message);
}

fn hosts(key: &str, entries: Option<&[String]>, scene: &mut Scene<'_, '_>) -> AllowList {
    AllowList::of(entries).unwrap_or_else(|bad| {
        let message = format!(
            "`{key}` has `{bad}`, which is no host, no network and not \"public\"; write \"api.example.com\", \
             \"*.example.com\", \"api.example.com:8443\" or \"10.0.0.0/8\""
        );
        error(scene, &[key], message);
        AllowList::default()
    })
}

fn proxy(text: &str) -> Option<Proxy> {
    let rest = text.strip_prefix("http://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (credentials, address) = match rest.rsplit_once('@') {
        None => (None, rest),
        Some((credentials, address)) => (Some(decoded(credentials)?), address),
    };
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    (!host.is_empty() && host.bytes().all(is_usual)).then_some(())?;
    Some(Proxy {
        host: host.to_ascii_lowercase(),
        port: port.parse().ok().filter(|port| *port > 0)?,
        credentials: credentials.map(Secret),
    })
}

/// The text of which `%40` and the like stand for characters.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest
            .get(..2)
            .and_then(|two| std::str::from_utf8(two).ok())?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

fn ca(ca: Option<&OneOrMany>, scene: &mut Scene<'_, '_>) -> Option<Secret> {
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
            Ok(_) => error(scene, &["ca"], "`ca` has no certificate in PEM"),
            Err(reason) => {
                let message =
                    format!("`ca` is neither PEM text nor a file that can be read: {reason}");
                error(scene, &["ca"], message);
            }
        }
    }
    Some(Secret(all))
}

fn is_chain(text: &str) -> bool {
    X509::stack_from_pem(text.as_bytes()).is_ok_and(|chain| !chain.is_empty())
}

fn certificate(
    name: &str,
    one: &ClientCertificate,
    scene: &mut Scene<'_, '_>,
) -> Option<Certificate> {
    let (Some(cert), Some(key)) = (&one.cert, &one.key) else {
        let message = format!("the client certificate `{name}` needs `cert` and `key`");
        error(scene, &["certificates", name], message);
        return None;
    };
    let cert = match pem(cert, scene.folder) {
        Ok(text) if is_chain(&text) => text,
        Ok(_) => {
            error(
                scene,
                &["certificates", name, "cert"],
                "`cert` has no certificate in PEM",
            );
            return None;
        }
        Err(reason) => {
            let message =
                format!("`cert` is neither PEM text nor a file that can be read: {reason}");
            error(scene, &["certificates", name, "cert"], message);
            return None;
        }
    };
    // What should have been PEM may be a key: it is not for the log.
    let Ok(key) = pem(key, scene.folder) else {
        let message = "`key` is neither PEM text nor a file that can be read";
        error(scene, &["certificates", name, "key"], message);
        return None;
    };
    let passphrase = one.passphrase.clone().unwrap_or_default();
    let read = PKey::private_key_from_pem_passphrase(key.as_bytes(), passphrase.as_bytes());
    let Ok(private) = read else {
        let message = "`key` is no private key in PEM, or `passphrase` does not open it";
        error(scene, &["certificates", name, "key"], message);
        return None;
    };
    let public = X509::from_pem(cert.as_bytes()).and_then(|cert| cert.public_key());
    if !public.is_ok_and(|public| public.public_eq(&private)) {
        let message = "`key` is not the key of `cert`";
        error(scene, &["certificates", name, "key"], message);
        return None;
    }
    Some(Certificate {
        cert: Secret(cert),
        key: Secret(key),
        passphrase: one.passphrase.clone().map(Secret),
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
