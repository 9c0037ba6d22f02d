//! `[http.client]`: the requests of handlers.

use std::collections::BTreeMap;
use std::time::Duration;

use super::certificates::{self, Certificate, Given, Secret};
use super::file::File;
use super::unit::{Millis, Size};
use super::{AllowList, Scene};

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
        ca: certificates::ca(client.ca.as_ref(), &PATH, scene),
        certificates: own_certificates(client, scene),
    }
}

fn own_certificates(
    client: &super::file::HttpClient,
    scene: &mut Scene<'_, '_>,
) -> BTreeMap<String, Certificate> {
    let mut found = BTreeMap::new();
    for (name, one) in &client.certificates {
        let given = Given {
            what: &format!("the client certificate `{name}`"),
            cert: one.cert.as_deref(),
            key: one.key.as_deref(),
            passphrase: one.passphrase.as_deref(),
        };
        let table = [&PATH[..], &["certificates", name]].concat();
        if let Some(certificate) = certificates::certificate(&given, &table, scene) {
            found.insert(name.clone(), certificate);
        }
    }
    found
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
pub(super) fn decoded(text: &str) -> Option<String> {
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
