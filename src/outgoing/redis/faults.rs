//! From the error replies of Redis to the errors of handlers. Pure.
//!
//! **The kind says whether the message is to blame.** A server that loads, has no memory left or is a replica would
//! refuse every message: such an error is one of `wait::AWAY`.

use super::reply::Reply;
use crate::config::Address;
use crate::wait::{Fault, Value};

/// The most characters of a server's sentence.
const TEXT_MAX: usize = 300;

/// Where a key of a cluster lies, as a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// From now on.
    Moved(u16, Address),
    /// For this one command.
    Ask(Address),
}

/// The code of an error reply: `WRONGTYPE`.
pub(super) fn code(error: &str) -> &str {
    let code = error.split(' ').next().unwrap_or_default();
    let is_code = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
    if !code.is_empty() && code.bytes().all(is_code) {
        code
    } else {
        "ERR"
    }
}

/// Where the server sends a command. It leaves its own host out, which is `asked`.
pub(super) fn redirect(reply: &Reply, asked: &Address) -> Option<Redirect> {
    let Reply::Error(error) = reply else {
        return None;
    };
    let mut words = error.split(' ');
    let kind = words.next()?;
    if !matches!(kind, "MOVED" | "ASK") {
        return None;
    }
    let slot = words.next()?.parse().ok()?;
    let (host, port) = words.next()?.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let to = Address {
        host: if host.is_empty() { &asked.host } else { host }.to_owned(),
        port: port.parse().ok()?,
    };
    Some(match kind {
        "MOVED" => Redirect::Moved(slot, to),
        _ => Redirect::Ask(to),
    })
}

/// Whether the connection is of no use any more behind this error: another one may reach another server, or log in.
pub(super) fn ends_connection(error: &str) -> bool {
    matches!(
        code(error),
        "NOAUTH" | "READONLY" | "MASTERDOWN" | "UNBLOCKED"
    )
}

/// The error of a handler for an error reply.
pub(super) fn of_reply(error: &str) -> Fault {
    let code = code(error);
    let text = match code {
        // The server's sentence has the key.
        "NOGROUP" => "no such key or consumer group",
        _ => error.strip_prefix(code).map_or(error, str::trim_start),
    };
    let kind = kind(code, text);
    let hint = match code {
        "CROSSSLOT" => {
            "; keys lie in one slot by an equal tag in braces, as `{user1}:name` and `{user1}:age`"
        }
        "MOVED" | "ASK" => "; the server is a part of a cluster: set `cluster = true` in its table",
        "NOAUTH" | "WRONGPASS" => "; `user` and `password` stand in its table, or in `url`",
        "READONLY" => "; the address is that of a replica",
        "OOM" => "; the server has no memory left for this command",
        _ => "",
    };
    Fault {
        kind,
        message: format!("{code} {}{hint}", harmless(text)),
        fields: vec![("code", Value::Bytes(code.as_bytes().into()))],
    }
}

fn kind(code: &str, text: &str) -> &'static str {
    match code {
        "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "MISCONF" | "MOVED" | "ASK" | "NOAUTH"
        | "NOREPLICAS" | "READONLY" | "WRONGPASS" => "unreachable",
        "BUSY" | "OOM" | "TRYAGAIN" => "busy",
        "UNBLOCKED" => "closed",
        "BUSYGROUP" | "BUSYKEY" => "conflict",
        "NOGROUP" | "NOSCRIPT" => "notFound",
        "CROSSSLOT" | "EXECABORT" | "WRONGTYPE" => "invalid",
        "ERR" => of_text(text),
        _ => "refused",
    }
}

/// Most errors have the code `ERR`, so their text decides.
fn of_text(text: &str) -> &'static str {
    let begins = |words: &[&str]| words.iter().any(|word| text.starts_with(word));
    if begins(&[
        "no such key",
        "The XGROUP subcommand requires the key to exist",
    ]) {
        "notFound"
    } else if begins(&["max number of clients"]) {
        "busy"
    } else if begins(&[
        "unknown",
        "wrong number of arguments",
        "syntax error",
        "value is",
        "hash value is",
        "invalid",
        "Invalid",
        "bit",
        "index out of range",
        "offset is out of range",
        "min or max",
        "timeout is",
        "increment",
        "resulting score",
        "DB index",
        "numkeys",
        "Number of keys",
    ]) {
        "invalid"
    } else {
        "refused"
    }
}

/// A server's sentence without control characters, and without the arguments that it repeats.
pub(super) fn harmless(text: &str) -> String {
    let text = text.split(", with args beginning with").next();
    let mut shown: String = text
        .unwrap_or_default()
        .escape_debug()
        .take(TEXT_MAX)
        .collect();
    // Quotation marks are no harm.
    shown = shown.replace("\\'", "'").replace("\\\"", "\"");
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_its_kind_and_code() {
        for (error, kind, code) in [
            (
                "LOADING Redis is loading the dataset in memory",
                "unreachable",
                "LOADING",
            ),
            ("NOAUTH Authentication required.", "unreachable", "NOAUTH"),
            (
                "WRONGPASS invalid username-password pair",
                "unreachable",
                "WRONGPASS",
            ),
            (
                "READONLY You can't write against a read only replica.",
                "unreachable",
                "READONLY",
            ),
            (
                "MISCONF Redis is configured to save RDB snapshots",
                "unreachable",
                "MISCONF",
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                "busy",
                "OOM",
            ),
            ("BUSY Redis is busy running a script.", "busy", "BUSY"),
            (
                "TRYAGAIN Multiple keys request during rehashing of slot",
                "busy",
                "TRYAGAIN",
            ),
            ("ERR max number of clients reached", "busy", "ERR"),
            (
                "BUSYGROUP Consumer Group name already exists",
                "conflict",
                "BUSYGROUP",
            ),
            (
                "NOGROUP No such key 'k' or consumer group 'g'",
                "notFound",
                "NOGROUP",
            ),
            ("ERR no such key", "notFound", "ERR"),
            ("WRONGTYPE Operation against a key", "invalid", "WRONGTYPE"),
            (
                "ERR value is not an integer or out of range",
                "invalid",
                "ERR",
            ),
            (
                "ERR wrong number of arguments for 'get' command",
                "invalid",
                "ERR",
            ),
            (
                "CROSSSLOT Keys in request don't hash to the same slot",
                "invalid",
                "CROSSSLOT",
            ),
            ("NOPERM this user has no permissions", "refused", "NOPERM"),
            ("ERR something else", "refused", "ERR"),
            ("MY_CODE of a script", "refused", "MY_CODE"),
            ("of a script without a code", "refused", "ERR"),
        ] {
            let fault = of_reply(error);
            let fields = vec![("code", Value::Bytes(code.as_bytes().into()))];
            assert_eq!((fault.kind, fault.fields), (kind, fields), "{error}");
        }
    }

    #[test]
    fn an_error_shows_no_arguments_and_no_control_characters() {
        let error = "ERR unknown command 'FOO', with args beginning with: 'secret' ";
        let message = of_reply(error).message;
        assert_eq!(message, "ERR unknown command 'FOO'");
        let message = of_reply("NOGROUP No such key 'secret' or consumer group 'g'").message;
        assert!(!message.contains("secret"), "{message}");
        let message = of_reply("ERR a\x1b[2J\"b\"\n").message;
        assert_eq!(message, "ERR a\\u{1b}[2J\"b\"\\n");
        assert!(
            of_reply(&format!("ERR {}", "x".repeat(5_000)))
                .message
                .len()
                < 400
        );
    }

    #[test]
    fn a_redirect_is_read() {
        let asked = Address {
            host: "one".to_owned(),
            port: 1,
        };
        let read = |text: &str| redirect(&Reply::Error(text.to_owned()), &asked);
        let to = |host: &str, port| Address {
            host: host.to_owned(),
            port,
        };
        let moved = read("MOVED 12182 127.0.0.1:7001");
        assert_eq!(moved, Some(Redirect::Moved(12_182, to("127.0.0.1", 7001))));
        assert_eq!(read("ASK 5 :7002"), Some(Redirect::Ask(to("one", 7002))));
        let six = read("MOVED 5 ::1:7002");
        assert_eq!(six, Some(Redirect::Moved(5, to("::1", 7002))));
        for text in ["MOVED", "MOVED x h:1", "MOVED 1 h", "ASKED 1 h:1", "ERR x"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
