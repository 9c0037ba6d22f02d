//! `tide.url`: addresses in their parts, and percent-encoding, RFC 3986.

use super::form;
use super::options::{Fields, integer, kind};
use crate::lua::api::arguments::{Arguments, Results};
use crate::lua::api::module::{Body, Entry, Module};
use crate::rules::hex;
use crate::wait::{Fault, Value};

const PARTS: [&str; 8] = [
    "scheme", "user", "password", "host", "port", "path", "query", "fragment",
];

pub(super) const MODULE: Module = Module {
    path: "tide.url",
    about: "Addresses and percent-encoding.",
    entries: &[
        Entry {
            name: "build",
            path: "tide.url.build",
            types: &[
                "Returns the URL of these parts; a table as `query` is encoded.",
                "@param parts { scheme?: string, user?: string, password?: string, host?: string, port?: integer, path?: string, query?: string|table<string, any>, fragment?: string }",
                "@return string",
            ],
            body: Body::Now(build),
        },
        Entry {
            name: "decode",
            path: "tide.url.decode",
            types: &[
                "Reads percent-encoding.",
                "@param text string",
                "@param options? { plus?: boolean } whether `+` is a space, as in forms",
                "@return string",
            ],
            body: Body::Now(decode),
        },
        Entry {
            name: "encode",
            path: "tide.url.encode",
            types: &[
                "Writes every byte but letters, digits and `-._~` as `%XX`.",
                "@param text string",
                "@return string",
            ],
            body: Body::Now(|arguments| {
                let mut encoded = String::new();
                form::encode(&mut encoded, arguments.bytes(1, "text")?);
                Ok(encoded.into())
            }),
        },
        Entry {
            name: "parse",
            path: "tide.url.parse",
            types: &[
                "Returns the parts of a URL, encoded as they stand there.",
                "@param text string",
                "@return { scheme?: string, user?: string, password?: string, host?: string, port?: integer, path: string, query?: string, fragment?: string }",
            ],
            body: Body::Now(parse),
        },
        Entry {
            name: "parseQuery",
            path: "tide.url.parseQuery",
            types: &[
                "Returns the decoded fields of a query or a form; the values of a repeated name are a list.",
                "@param query string",
                "@return table<string, string|string[]>",
            ],
            body: Body::Now(parse_query),
        },
        Entry {
            name: "query",
            path: "tide.url.query",
            types: &[
                "Writes fields as a query or a form, in the order of their names.",
                "@param fields table<string, any>",
                "@return string",
            ],
            body: Body::Now(query),
        },
    ],
};

fn decode(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let text = arguments.bytes(1, "text")?;
    let plus = arguments.options(2, &["plus"])?.boolean("plus");
    let plus = plus.map_err(|message| Fault::new("invalid", message))?;
    decoded(text, plus.unwrap_or(false))
        .map(Results::from)
        .map_err(|at| {
            arguments.invalid(format!(
                "no two hexadecimal digits behind the `%` at byte {at}"
            ))
        })
}

/// An error is the position of a `%` without its digits.
fn decoded(text: &[u8], plus: bool) -> Result<Vec<u8>, usize> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'%' => {
                let digit = |at| text.get(at).copied().and_then(hex::digit);
                let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
                    return Err(at + 1);
                };
                bytes.push(high << 4 | low);
                at += 2;
            }
            b'+' if plus => bytes.push(b' '),
            other => bytes.push(other),
        }
        at += 1;
    }
    Ok(bytes)
}

fn query(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let fields = match arguments.value(1)? {
        Value::Table(pairs) => form::encoded(pairs),
        other => {
            let message = format!(
                "`fields` is {}, not a table such as {{ page = 2 }}",
                kind(&other)
            );
            return Err(arguments.invalid(message));
        }
    };
    fields
        .map(Results::from)
        .map_err(|reason| arguments.invalid(format!("`fields` has {reason}")))
}

fn parse_query(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let query = arguments.bytes(1, "query")?;
    let mut names = std::collections::HashMap::new();
    let mut fields: Vec<(Value, Vec<Value>)> = Vec::new();
    let mut at = 1;
    for pair in query.split(|byte| *byte == b'&') {
        let start = at;
        at += pair.len() + 1;
        if pair.is_empty() {
            continue;
        }
        let end = pair.iter().position(|byte| *byte == b'=');
        let (name, value) = match end {
            Some(end) => (&pair[..end], &pair[end + 1..]),
            None => (pair, &pair[..0]),
        };
        let text = |part: &[u8], before: usize| {
            decoded(part, true).map_err(|at| {
                let at = start + before + at - 1;
                arguments.invalid(format!(
                    "no two hexadecimal digits behind the `%` at byte {at}"
                ))
            })
        };
        let value = Value::Bytes(text(value, name.len() + 1)?.into());
        let name = text(name, 0)?;
        let index = *names.entry(name.clone()).or_insert_with(|| {
            fields.push((Value::Bytes(name.into()), Vec::new()));
            fields.len() - 1
        });
        fields[index].1.push(value);
    }
    let fields = fields.into_iter().map(|(name, mut values)| {
        let value = match values.len() {
            1 => values.remove(0),
            _ => Value::Table((1..).map(Value::Integer).zip(values).collect()),
        };
        (name, value)
    });
    Ok(Value::Table(fields.collect()).into())
}

/// The parts of a URL, as they stand in it.
#[derive(Debug, Default, PartialEq)]
struct Parts {
    scheme: Option<String>,
    user: Option<String>,
    password: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    path: String,
    query: Option<String>,
    fragment: Option<String>,
}

impl Parts {
    /// An error is the part of a sentence behind "the URL".
    fn of(text: &str) -> Result<Self, String> {
        if let Some((at, found)) = text
            .char_indices()
            .find(|(_, c)| c.is_control() || *c == ' ')
        {
            let found = found.escape_default();
            return Err(format!(
                "has `{found}` at byte {}; `tide.url.encode` encodes it",
                at + 1
            ));
        }
        let mut parts = Self::default();
        let (rest, fragment) = cut(text, '#');
        parts.fragment = fragment;
        let (mut rest, query) = cut(rest, '?');
        parts.query = query;
        if let Some((scheme, behind)) = rest.split_once(':')
            && is_scheme(scheme)
        {
            parts.scheme = Some(scheme.to_ascii_lowercase());
            rest = behind;
        }
        if let Some(behind) = rest.strip_prefix("//") {
            let end = behind.find('/').unwrap_or(behind.len());
            parts.authority(&behind[..end])?;
            rest = &behind[end..];
        }
        rest.clone_into(&mut parts.path);
        Ok(parts)
    }

    fn authority(&mut self, authority: &str) -> Result<(), String> {
        let host = match authority.rsplit_once('@') {
            Some((user, host)) => {
                let (user, password) = cut(user, ':');
                self.user = Some(user.to_owned());
                self.password = password;
                host
            }
            None => authority,
        };
        let (host, port) = match host.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest
                    .split_once(']')
                    .ok_or("has a `[` without a `]` in its host")?;
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err("has brackets around what is no IPv6 address".to_owned());
                }
                (host, port)
            }
            None => host.split_at(host.find(':').unwrap_or(host.len())),
        };
        self.host = Some(host.to_ascii_lowercase());
        self.port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            Some("") => None,
            digits => {
                let digits = digits.filter(|digits| digits.bytes().all(|one| one.is_ascii_digit()));
                let port = digits.and_then(|digits| digits.parse().ok());
                Some(port.ok_or("has a port that is not from 0 to 65535")?)
            }
        };
        Ok(())
    }

    fn write(&self) -> String {
        let mut url = String::new();
        if let Some(scheme) = &self.scheme {
            url += scheme;
            url.push(':');
        }
        if let Some(host) = &self.host {
            url += "//";
            if let Some(user) = &self.user {
                url += user;
                if let Some(password) = &self.password {
                    url.push(':');
                    url += password;
                }
                url.push('@');
            }
            if host.contains(':') {
                url.extend(["[", host, "]"]);
            } else {
                url += host;
            }
            if let Some(port) = self.port {
                url.push(':');
                url += &port.to_string();
            }
        }
        url += &self.path;
        for (sign, part) in [('?', &self.query), ('#', &self.fragment)] {
            if let Some(part) = part {
                url.push(sign);
                url += part;
            }
        }
        url
    }
}

/// The text before the sign, and the text behind it.
fn cut(text: &str, sign: char) -> (&str, Option<String>) {
    match text.split_once(sign) {
        Some((before, behind)) => (before, Some(behind.to_owned())),
        None => (text, None),
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn parse(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let parts = Parts::of(arguments.text(1, "text")?)
        .map_err(|reason| arguments.invalid(format!("the URL {reason}")))?;
    let texts = [
        ("scheme", parts.scheme),
        ("user", parts.user),
        ("password", parts.password),
        ("host", parts.host),
        ("path", Some(parts.path)),
        ("query", parts.query),
        ("fragment", parts.fragment),
    ];
    let texts = texts
        .into_iter()
        .filter_map(|(name, text)| Some((name, bytes(&text?))));
    let port = parts.port.map(|port| ("port", Value::Integer(port.into())));
    let fields = texts.chain(port).map(|(name, value)| (bytes(name), value));
    Ok(Value::Table(fields.collect()).into())
}

fn bytes(text: &str) -> Value {
    Value::Bytes(text.as_bytes().into())
}

fn build(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let what = "a table of parts";
    let mut fields = arguments.fields(arguments.value(1)?, what, &PARTS)?;
    let parts = given(&mut fields).map_err(|message| Fault::new("invalid", message))?;
    let url = parts.write();
    // Read back, so that no part takes over what belongs to the next one.
    match Parts::of(&url) {
        Ok(read) if read == parts => Ok(url.into()),
        Ok(read) => Err(arguments.invalid(odd(&parts, &read))),
        Err(reason) => Err(arguments.invalid(format!("the URL {reason}"))),
    }
}

/// The part that the URL of the parts does not keep.
fn odd(parts: &Parts, read: &Parts) -> String {
    let texts = |parts: &Parts| {
        [
            parts.scheme.clone(),
            parts.user.clone(),
            parts.password.clone(),
            parts.host.clone(),
            Some(parts.path.clone()),
            parts.query.clone(),
            parts.fragment.clone(),
        ]
    };
    let names = [
        "scheme", "user", "password", "host", "path", "query", "fragment",
    ];
    let differs = std::iter::zip(texts(parts), texts(read)).position(|(one, other)| one != other);
    let name = differs
        .and_then(|index| names.get(index))
        .unwrap_or(&"port");
    let hint = match *name {
        "path" if parts.host.is_some() => "behind a host it begins with `/`",
        "user" | "password" if parts.host.is_none() => "it needs a `host`",
        "password" if parts.user.is_none() => "it needs a `user`",
        "port" => "it needs a `host`",
        _ => "`tide.url.encode` encodes the characters that separate parts",
    };
    format!("`{name}` cannot stand in a URL as it is; {hint}")
}

fn given(fields: &mut Fields) -> Result<Parts, String> {
    let query = match fields.take("query") {
        Value::Nil => None,
        Value::Table(pairs) => Some(
            form::encoded(pairs).or_else(|reason| fields.error(format!("`query` has {reason}")))?,
        ),
        value => Some(text(fields, "query", value)?),
    };
    let mut part = |name: &str| match fields.take(name) {
        Value::Nil => Ok(None),
        value => text(fields, name, value).map(Some),
    };
    Ok(Parts {
        scheme: part("scheme")?.map(|scheme| scheme.to_ascii_lowercase()),
        user: part("user")?,
        password: part("password")?,
        host: part("host")?.map(|host| host.to_ascii_lowercase()),
        path: part("path")?.unwrap_or_default(),
        fragment: part("fragment")?,
        port: integer(fields, "port", 0, 65_535)?.map(|port| port as u16),
        query,
    })
}

fn text(fields: &Fields, name: &str, value: Value) -> Result<String, String> {
    match value {
        Value::Bytes(bytes) => String::from_utf8(bytes.into_vec()).or_else(|_| {
            fields.error(format!(
                "`{name}` is not UTF-8; `tide.url.encode` encodes any bytes"
            ))
        }),
        other => fields.error(format!("`{name}` is {}, not a string", kind(&other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_built_as_it_was() {
        for text in [
            "https://user:p%40ss@host.example:8443/a/b%20c?x=1&y=a/b?c#top",
            "http://[::1]:80/",
            "mailto:a@b.example",
            "/only/a/path?q",
            "//host/x",
            "file:///etc/hosts",
            "urn:isbn:0451450523",
            "http://host?x#",
            "",
            "a/b:c",
        ] {
            let parts = Parts::of(text).unwrap();
            assert_eq!(parts.write(), text, "{parts:?}");
        }
        let parts = Parts::of("HTTPS://Host.Example/Path").unwrap();
        assert_eq!(parts.write(), "https://host.example/Path");
    }

    #[test]
    fn what_is_no_url_is_told() {
        for (text, expected) in [
            ("http://a b/", "has ` ` at byte 9"),
            ("http://a/\n", "has `\\n` at byte 10"),
            ("http://[::1/", "has a `[` without a `]`"),
            ("http://[x]/", "no IPv6 address"),
            ("http://h:70000/", "a port that is not from 0 to 65535"),
            ("http://h:x/", "a port that is not from 0 to 65535"),
            ("http://[::1]x/", "a port that is not from 0 to 65535"),
        ] {
            let error = Parts::of(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn bytes_are_decoded() {
        assert_eq!(decoded(b"a%20%C3%bc+", false).unwrap(), "a ü+".as_bytes());
        assert_eq!(decoded(b"a+%2B", true).unwrap(), b"a +");
        assert_eq!(decoded(b"ab%2", false), Err(3));
        assert_eq!(decoded(b"%zz", false), Err(1));
    }
}
