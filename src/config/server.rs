//! What the tables of servers of handlers have in common: an address, TLS, and the limits of a pool.

use std::fmt;

use super::certificates::{self, Certificate, Given, Secret};
use super::file;
use super::scene::Scene;
use super::unit::Millis;

const SIZE_MAX: u32 = 10_000;
const HOUR: Millis = Millis(3_600_000);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Address {
    /// `port` counts where none is written.
    pub(super) fn parse(authority: &str, port: u16) -> Option<Self> {
        let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
            let (host, rest) = rest.split_once(']')?;
            let port = match rest.strip_prefix(':') {
                None if rest.is_empty() => port,
                port => port?.parse().ok()?,
            };
            (host, port)
        } else {
            match authority.split_once(':') {
                None => (authority, port),
                Some((host, port)) => (host, port.parse().ok()?),
            }
        };
        let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        (!host.is_empty() && host.bytes().all(is_usual) && port > 0).then(|| Self {
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Trusted CA certificates as PEM; `None`: those of the system.
    pub(crate) ca: Option<Secret>,
    pub(crate) certificate: Option<Certificate>,
}

/// One table, as errors name its keys.
pub(super) struct Table<'t> {
    pub(super) path: [&'t str; 2],
}

impl Table<'_> {
    pub(super) fn error(
        &self,
        keys: &[&str],
        message: impl Into<String>,
        scene: &mut Scene<'_, '_>,
    ) {
        let at = scene.at_keys(&self.path, keys);
        scene.report.error(at, message);
    }

    pub(super) fn check_size(&self, size: u32, scene: &mut Scene<'_, '_>) {
        if size == 0 || size > SIZE_MAX {
            let message = format!("`size` is {size}, not from 1 to {SIZE_MAX}");
            self.error(&["size"], message, scene);
        }
    }

    pub(super) fn check_times(&self, times: &[(&str, Millis)], scene: &mut Scene<'_, '_>) {
        for (key, found) in times {
            if found.0 == 0 || *found > HOUR {
                let message = format!("`{key}` is {found}, not from 1 ms to 1 h");
                self.error(&[key], message, scene);
            }
        }
    }

    /// `tls` of the table. `says_tls` is the part of the address that says so, if one does.
    pub(super) fn tls(
        &self,
        written: Option<&file::Tls>,
        says_tls: Option<&str>,
        scene: &mut Scene<'_, '_>,
    ) -> Option<Tls> {
        let system = || Tls {
            ca: None,
            certificate: None,
        };
        match written {
            None => says_tls.map(|_| system()),
            Some(file::Tls::On(true)) => Some(system()),
            Some(file::Tls::On(false)) => {
                if let Some(part) = says_tls {
                    let message = format!("`tls` is false, but `url` {part}; remove one of them");
                    self.error(&["tls"], message, scene);
                }
                None
            }
            Some(file::Tls::Table(certificates)) => {
                let inner = [self.path[0], self.path[1], "tls"];
                let given = Given {
                    what: "the client certificate",
                    cert: certificates.cert.as_deref(),
                    key: certificates.key.as_deref(),
                    passphrase: certificates.passphrase.as_deref(),
                };
                let has_certificate = given.cert.is_some() || given.key.is_some();
                Some(Tls {
                    ca: certificates::ca(certificates.ca.as_ref(), &inner, scene),
                    certificate: has_certificate
                        .then(|| certificates::certificate(&given, &inner, scene))
                        .flatten(),
                })
            }
        }
    }
}
