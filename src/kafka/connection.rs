//! The connections of a client to the brokers: their steps, and the broker that an error of librdkafka names.
//!
//! Pure. librdkafka reports a failed attempt as an error. That a connection works again is seen from the steps alone,
//! and that the other side closes connections at once from a line of librdkafka's log alone.

use std::fmt;
use std::sync::Arc;

/// librdkafka's connection to the coordinator of the group. It has this name in the place of an address.
const COORDINATOR: &str = "GroupCoordinator";

/// A broker as librdkafka names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broker {
    /// The address of the broker, or [`COORDINATOR`].
    pub(crate) name: Arc<str>,
    /// -1 for an address of `brokers`, whose id is not known.
    pub(crate) id: i32,
}

/// A connection has come to this step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) broker: Broker,
    pub(crate) step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Idle,
    Down,
    /// TCP, TLS or authentication; librdkafka reports their failures itself.
    Connects,
    /// The first request of Kafka's protocol is sent: the versions of the requests.
    Asks,
    Up,
}

/// The security of a client's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Security {
    pub(crate) tls: bool,
    pub(crate) sasl: bool,
}

/// What shows that the other side is no broker that this client can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It does not answer the first request.
    Silent,
    /// It closes the connection without an answer to the first request.
    Unanswered,
    /// It closes the connection while the client authenticates.
    Refused,
    /// It closes the connection after the first answer, before that was of any use.
    Answered,
    /// It does not know the request for topics and brokers.
    WithoutTopics,
}

/// librdkafka's text of the error for a request that the other side does not know.
const UNSUPPORTED: &str = "Required feature not supported by broker";

/// How long a connection lasts at most that ends soon.
const SOON_MS: u64 = 2_000;

impl Broker {
    /// The broker in front of an error, and the rest of the error. librdkafka writes
    /// `ssl://HOST:PORT/ID: error`, `HOST:PORT/bootstrap: error` or `GroupCoordinator: HOST:PORT: error`.
    pub(super) fn of_error(text: &str) -> Option<(Self, &str)> {
        let (name, rest) = text.split_once(": ")?;
        if name == COORDINATOR {
            // Its address follows, once the coordinator is known.
            let address = rest.split_once(": ").filter(|(name, _)| is_address(name));
            let (name, rest) = address.unwrap_or((name, rest));
            return Some((Self::new(name, -1), rest));
        }
        let name = name.split_once("://").map_or(name, |(_, name)| name);
        let (address, id) = name.rsplit_once('/')?;
        let id = match id {
            "bootstrap" => -1,
            id => id.parse().ok()?,
        };
        is_address(address).then(|| (Self::new(address, id), rest))
    }

    /// `None` for the connection that librdkafka has to itself.
    pub(super) fn of_connection(host: &str, port: i32, id: i32) -> Option<Self> {
        match (host, port) {
            ("", _) => None,
            (name, 0) => Some(Self::new(name, -1)),
            (host, port) => Some(Self::new(&format!("{host}:{port}"), id)),
        }
    }

    pub(crate) fn new(name: &str, id: i32) -> Self {
        let name = name.into();
        Self { name, id }
    }
}

fn is_address(text: &str) -> bool {
    let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    matches!(port, Some(Ok(_)))
}

impl Step {
    pub(super) fn of(state: &str) -> Self {
        match state {
            "INIT" => Self::Idle,
            "DOWN" => Self::Down,
            "APIVERSION_QUERY" => Self::Asks,
            // A connection that authenticates again serves requests meanwhile.
            "UP" | "REAUTH" => Self::Up,
            _ => Self::Connects,
        }
    }
}

impl Unfit {
    /// From a line of librdkafka's log. With the facility `FAIL` it is
    /// `[thrd:NAME]: BROKER: Disconnected: REASON (after 42ms in state APIVERSION_QUERY)`, and with `METADATA`
    /// `[thrd:NAME]: BROKER: Metadata request failed: WHY: ERROR (0ms): Permanent`.
    pub(super) fn of_line(facility: &str, text: &str) -> Option<(Broker, Self)> {
        let text = text.strip_prefix("[thrd:").map_or(text, |rest| {
            rest.split_once("]: ").map_or(rest, |(_, text)| text)
        });
        let (broker, error) = Broker::of_error(text)?;
        let unfit = match facility {
            "FAIL" => Self::of_closed(error)?,
            "METADATA" if error.contains(UNSUPPORTED) => Self::WithoutTopics,
            _ => return None,
        };
        Some((broker, unfit))
    }

    fn of_closed(error: &str) -> Option<Self> {
        let (_, after) = error.strip_prefix("Disconnected")?.rsplit_once("(after ")?;
        let (ms, state) = after.split_once("ms in state ")?;
        Some(match state.split([',', ')']).next()? {
            "APIVERSION_QUERY" => Self::Unanswered,
            "AUTH_LEGACY" | "AUTH_HANDSHAKE" | "AUTH_REQ" => Self::Refused,
            "UP" if ms.parse::<u64>().ok()? < SOON_MS => Self::Answered,
            _ => return None,
        })
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "the other side accepts the connection, but does not answer",
            Self::Unanswered => "the other side closes the connection without an answer",
            Self::Refused => "the other side closes the connection during the authentication",
            Self::Answered => "the other side closes the connection after its first answer",
            Self::WithoutTopics => {
                "the other side knows no request for topics: it may be a KRaft controller; write the address of a broker"
            }
        })
    }
}

/// The first bytes of an answer that librdkafka takes for the length of a response.
fn foreign_answer(error: &str) -> Option<[u8; 4]> {
    let (_, size) = error.split_once("Invalid response size ")?;
    let size = size.split_whitespace().next()?;
    Some(size.parse::<i32>().ok()?.to_be_bytes())
}

/// The begin of a TLS alert.
const TLS_ALERT: [u8; 2] = [0x15, 3];

impl Security {
    /// From the value of `security.protocol`.
    pub(crate) fn of(protocol: &str) -> Self {
        let protocol = protocol.to_ascii_lowercase();
        Self {
            tls: protocol.ends_with("ssl"),
            sasl: protocol.starts_with("sasl"),
        }
    }

    /// The key that may be wrong when the other side closes connections.
    pub(crate) fn hint_unfit(self, unfit: Unfit) -> Option<&'static str> {
        match (unfit, self.tls, self.sasl) {
            (Unfit::Unanswered, false, _) => Some(
                "the port may want TLS (`ssl` is not set), or it is not the port of a Kafka broker",
            ),
            (Unfit::Silent, ..) => {
                Some("it may not be the port of a Kafka broker, or the broker hangs")
            }
            (Unfit::Unanswered, true, _) => Some("it may not be the port of a Kafka broker"),
            (Unfit::Refused, ..) => Some("see `sasl`: mechanism, user name and password"),
            (Unfit::Answered, _, false) => {
                Some("the port may want authentication (`sasl` is not set)")
            }
            (Unfit::Answered, _, true) | (Unfit::WithoutTopics, ..) => None,
        }
    }

    /// The key that may be the cause of an error of librdkafka.
    pub(crate) fn hint(self, error: &str) -> Option<&'static str> {
        let has = |part: &str| error.contains(part);
        let answer = foreign_answer(error).unwrap_or_default();
        if answer == *b"HTTP" {
            Some("an HTTP server listens at this port, not a Kafka broker")
        } else if !self.tls && answer.starts_with(&TLS_ALERT) {
            Some("the port wants TLS: set `ssl`")
        } else if self.tls
            && (has("PLAINTEXT")
                || has("wrong version number")
                || (has("Disconnected") && has("in state SSL_HANDSHAKE")))
        {
            Some("the port may be one without TLS, but `ssl` is set")
        } else if self.sasl && has("not valid in current SASL state") {
            Some("the port may be one without authentication, but `sasl` is set")
        } else if self.sasl && has("handshake failed") && has("mechanism") {
            Some("the port may not have this `sasl` mechanism")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn of_error(text: &str, expected: Option<(&str, i32, &str)>) {
        let found = Broker::of_error(text);
        let found = found
            .as_ref()
            .map(|(broker, rest)| (&*broker.name, broker.id, *rest));
        assert_eq!(found, expected);
    }

    #[test]
    fn an_error_names_its_broker() {
        let refused = "Connect to ipv4#127.0.0.1:9092 failed: Connection refused";
        let text = |name: &str| format!("{name}: {refused}");
        of_error(
            &text("127.0.0.1:9092/bootstrap"),
            Some(("127.0.0.1:9092", -1, refused)),
        );
        of_error(
            &text("sasl_ssl://kafka-1.example:9093/12"),
            Some(("kafka-1.example:9093", 12, refused)),
        );
        of_error(
            &text("GroupCoordinator: 127.0.0.1:9092"),
            Some(("127.0.0.1:9092", -1, refused)),
        );
        of_error(
            "GroupCoordinator: timed out",
            Some((COORDINATOR, -1, "timed out")),
        );
    }

    #[test]
    fn an_error_without_a_broker_names_none() {
        for text in [
            "2/2 brokers are down",
            "Failed to acquire SASL OAUTHBEARER token: https://a/b: refused",
            "a/b: c",
            "",
        ] {
            of_error(text, None);
        }
    }

    #[test]
    fn a_connection_names_its_broker() {
        let of = |host, port, id| Broker::of_connection(host, port, id);
        assert_eq!(of("h", 9092, 3), Some(Broker::new("h:9092", 3)));
        assert_eq!(of(COORDINATOR, 0, 3), Some(Broker::new(COORDINATOR, -1)));
        assert_eq!(of("", 0, -1), None);
    }

    #[test]
    fn a_line_says_that_the_other_side_is_unfit() {
        let of_line = |facility: &str, text: &str| {
            Unfit::of_line(facility, text).map(|(broker, unfit)| (broker.id, unfit))
        };
        let of = |text: &str| of_line("FAIL", text);
        let line = "[thrd:main]: 127.0.0.1:1/bootstrap: Metadata request failed: connected: Local: Required feature not \
                    supported by broker (0ms): Permanent";
        assert_eq!(of_line("METADATA", line), Some((-1, Unfit::WithoutTopics)));
        assert_eq!(of(line), None);
        let line =
            "127.0.0.1:1/1: Metadata request failed: connected: Local: Timed out (0ms): Retry";
        assert_eq!(of_line("METADATA", line), None);
        let peer = "Disconnected: connection closed by peer: receive 0 after POLLIN";
        let line = format!(
            "[thrd:127.0.0.1:1/bootstrap]: 127.0.0.1:1/bootstrap: {peer} (after 42ms in state APIVERSION_QUERY, 12 \
             identical error(s) suppressed)"
        );
        assert_eq!(of(&line), Some((-1, Unfit::Unanswered)));
        let line = format!("127.0.0.1:1/4: {peer} (after 5ms in state AUTH_REQ)");
        assert_eq!(of(&line), Some((4, Unfit::Refused)));
        let line = "127.0.0.1:1/4: Disconnected: verify that security.protocol is correctly configured (after 7ms in \
                    state UP)";
        assert_eq!(of(line), Some((4, Unfit::Answered)));
        assert_eq!(
            of("127.0.0.1:1/4: Disconnected (after 5021ms in state UP)"),
            None
        );
        assert_eq!(
            of("127.0.0.1:1/4: Connection refused (after 0ms in state CONNECT)"),
            None
        );
    }

    #[test]
    fn an_answer_of_another_protocol_has_its_hint() {
        let [plain, tls, sasl] = ["plaintext", "ssl", "SASL_PLAINTEXT"].map(Security::of);
        let size = |bytes: [u8; 4]| {
            let size = i32::from_be_bytes(bytes);
            format!("Receive failed: Invalid response size {size} (0..100000000): increase")
        };
        let has = |hint: Option<&str>, word: &str| {
            assert!(hint.is_some_and(|hint| hint.contains(word)), "{hint:?}");
        };
        has(plain.hint(&size(*b"HTTP")), "HTTP");
        for alert in [[0x15, 3, 1, 0], [0x15, 3, 3, 0], [0x15, 3, 4, 0]] {
            has(plain.hint(&size(alert)), "set `ssl`");
        }
        assert_eq!(plain.hint(&size([7, 7, 7, 7])), None);
        let text = "SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?";
        has(tls.hint(text), "without TLS");
        // How it ends when the other side closes at once.
        let text = "Disconnected: SSL connection closed by peer (after 0ms in state SSL_HANDSHAKE)";
        has(tls.hint(text), "without TLS");
        let text = "SASL PLAIN mechanism handshake failed: Broker: Request not valid in current SASL state";
        has(sasl.hint(text), "without authentication");
        assert_eq!(plain.hint("Connection refused"), None);
    }
}
