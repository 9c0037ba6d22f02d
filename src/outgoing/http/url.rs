//! The address of a request: `http` and `https`, nothing else. Pure.
//!
//! **What is checked is what is connected to**: one parser serves the allow-list, the connection and the request. So it
//! refuses what parsers read in several ways, instead of repairing it.

use std::fmt;
use std::fmt::Write as _;

const HOST_BYTES_MAX: usize = 253;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) origin: Origin,
    /// The path and the query, with a `/` first.
    pub(super) target: String,
}

/// What a connection belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) is_tls: bool,
    /// In lower case; an IPv6 address without its brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Origin {
    /// The value of the `Host` header: without the port that the scheme implies.
    pub(super) fn authority(&self) -> String {
        let usual = if self.is_tls { 443 } else { 80 };
        if self.port == usual {
            self.shown_host()
        } else {
            self.with_port()
        }
    }

    pub(super) fn with_port(&self) -> String {
        format!("{}:{}", self.shown_host(), self.port)
    }

    fn shown_host(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }
}

/// For errors and logs. The path is left out: some have a secret in it.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl Url {
    /// An error is the part of a sentence behind "the URL".
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("begins with neither `http://` nor `https://`".to_owned());
        };
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err("begins with neither `http://` nor `https://`".to_owned()),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        Ok(Self {
            origin: origin(is_tls, authority)?,
            target: target(rest)?,
        })
    }

    /// The address that a `Location` header names, seen from this one.
    pub(super) fn join(&self, location: &str) -> Result<Self, String> {
        let is_absolute = location.split_once(':').is_some_and(|(scheme, _)| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        });
        if is_absolute {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            let scheme = if self.origin.is_tls { "https" } else { "http" };
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        let own_path = self.target.split('?').next().unwrap_or("/");
        let joined = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{own_path}{location}")
        } else if location.is_empty() || location.starts_with('#') {
            self.target.clone()
        } else {
            let folder = own_path.rfind('/').map_or("/", |at| &own_path[..=at]);
            format!("{folder}{location}")
        };
        let end = joined.find(['?', '#']).unwrap_or(joined.len());
        let (path, rest) = joined.split_at(end);
        Ok(Self {
            origin: self.origin.clone(),
            target: target(&format!("{}{rest}", without_dots(path)))?,
        })
    }
}

fn origin(is_tls: bool, authority: &str) -> Result<Origin, String> {
    if authority.contains('@') {
        return Err(
            "has a user before its host; write the header `Authorization` instead".to_owned(),
        );
    }
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let Some((host, port)) = rest.split_once(']') else {
            return Err("has a `[` without a `]`".to_owned());
        };
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err("has brackets around what is no IPv6 address".to_owned());
        }
        (host, port)
    } else {
        let end = authority.find(':').unwrap_or(authority.len());
        let (host, port) = authority.split_at(end);
        is_name(host)?;
        (host, port)
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return Err("has something behind the `]` that is no port".to_owned()),
        Some("") => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let number = digits.parse::<u16>().ok().filter(|port| *port > 0);
            Some(number.ok_or("has a port that is not from 1 to 65535")?)
        }
        Some(_) => return Err("has a port that is no number".to_owned()),
    };
    Ok(Origin {
        is_tls,
        // A dot at the end makes a name absolute, and no other one.
        host: host.trim_end_matches('.').to_ascii_lowercase(),
        port: port.unwrap_or(if is_tls { 443 } else { 80 }),
    })
}

fn is_name(host: &str) -> Result<(), String> {
    if host.trim_end_matches('.').is_empty() {
        return Err("has no host".to_owned());
    }
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !host.is_ascii() {
        return Err("has a host with other letters than a to z; write its form with `xn--`".into());
    }
    if host.len() > HOST_BYTES_MAX || !host.bytes().all(is_usual) {
        return Err("has a host that is no valid name".to_owned());
    }
    Ok(())
}

/// The path and the query, without the fragment. Bytes that are not allowed there are encoded.
fn target(rest: &str) -> Result<String, String> {
    let rest = rest.split('#').next().unwrap_or_default();
    let mut target = String::with_capacity(rest.len() + 1);
    if !rest.starts_with('/') {
        target.push('/');
    }
    for byte in rest.bytes() {
        match byte {
            0..=b' ' | 0x7f => {
                return Err("has a space or a control character; `%20` is a space, and `query` encodes values".into());
            }
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => {
                encode(&mut target, byte);
            }
            _ => target.push(char::from(byte)),
        }
    }
    Ok(target)
}

fn encode(text: &mut String, byte: u8) {
    // Writing to a string cannot fail.
    let _ = write!(text, "%{byte:02X}");
}

/// Resolves `.` and `..` of a path.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/').skip(1) {
        match part {
            "." => {}
            ".." => _ = kept.pop(),
            part => kept.push(part),
        }
    }
    let ends_open = path.ends_with("/.") || path.ends_with("/..");
    let end = if ends_open && !kept.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{end}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn parsed(text: &str) -> (String, String) {
        let url = Url::parse(text).unwrap();
        (url.origin.to_string(), url.target)
    }

    #[test]
    fn a_url_has_an_origin_and_a_target() {
        let check = |text, origin: &str, target: &str| {
            assert_eq!(
                parsed(text),
                (origin.to_owned(), target.to_owned()),
                "{text}"
            );
        };
        check("http://a.example", "http://a.example", "/");
        check(
            "HTTPS://A.Example:443/x?y=1#z",
            "https://a.example",
            "/x?y=1",
        );
        check("https://a.example.:8443?y", "https://a.example:8443", "/?y");
        check("http://[::1]:8080/ä", "http://[::1]:8080", "/%C3%A4");
        check("http://10.0.0.1/a{b}", "http://10.0.0.1", "/a%7Bb%7D");
    }

    #[test]
    fn what_parsers_read_in_several_ways_is_refused() {
        for text in [
            "ftp://a.example/",
            "a.example/x",
            "http://",
            "http:///x",
            "http://user:secret@a.example/",
            "http://good.example\\@bad.example/",
            "http://a.example:0/",
            "http://a.example:99999/",
            "http://a.example:8x/",
            "http://[::1/",
            "http://[a.example]/",
            "http://a b.example/",
            "http://a.example/x y",
            "http://a.example/x\r\nHost: b",
            "http://b\u{fc}cher.example/",
        ] {
            let error = Url::parse(text).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_location_is_seen_from_the_address_before() {
        let base = Url::parse("https://a.example/one/two?q=1").unwrap();
        for (location, expected) in [
            ("/x", "https://a.example/x"),
            ("x?y", "https://a.example/one/x?y"),
            ("../x", "https://a.example/x"),
            ("../../../x/./y/..", "https://a.example/x/"),
            ("?z", "https://a.example/one/two?z"),
            ("", "https://a.example/one/two?q=1"),
            ("//b.example/x", "https://b.example/x"),
            ("http://b.example:8080/x", "http://b.example:8080/x"),
        ] {
            let url = base.join(location).unwrap();
            assert_eq!(
                format!("{}{}", url.origin, url.target),
                expected,
                "{location}"
            );
        }
        assert!(base.join("javascript:alert(1)").is_err());
    }
}
