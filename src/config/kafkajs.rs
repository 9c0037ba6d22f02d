//! kafkajs' names as librdkafka's properties.
//!
//! The one place that knows both. It decides nothing about groups or listeners; what librdkafka itself would refuse is
//! asked of librdkafka.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::path::Path;

use super::error::words;
use super::file::{
    Assigner, Client, Consumer, GroupProtocol, LogLevel, Mechanism, OneOrMany, Sasl, Ssl, SslTable,
};

/// A property, and the keys of the file below the consumer's table that it comes from.
pub(super) struct Mapped {
    pub(super) value: String,
    pub(super) keys: &'static [&'static str],
}

pub(super) type Properties = BTreeMap<String, Mapped>;

/// A complaint about keys that cannot be mapped.
pub(super) struct Complaint {
    pub(super) keys: &'static [&'static str],
    pub(super) message: String,
}

fn complain<T>(keys: &'static [&'static str], message: impl Into<String>) -> Result<T, Complaint> {
    let message = message.into();
    Err(Complaint { keys, message })
}

/// Between two attempts to connect, unless `retry` says otherwise.
const RECONNECT_MAX_MS: u64 = 3_000;

struct Mapping<'a> {
    folder: &'a Path,
    properties: Properties,
}

/// Everything that librdkafka is told of a consumer but its pass-through table.
pub(super) fn consumer(consumer: &Consumer, folder: &Path) -> (Properties, Vec<Complaint>) {
    let mut mapping = Mapping {
        folder,
        properties: Properties::new(),
    };
    let mut complaints = Vec::new();
    mapping.always();
    mapping.client(&consumer.client);
    complaints.extend(mapping.ssl(consumer.client.ssl.as_ref()).err());
    if let Some(sasl) = &consumer.client.sasl {
        complaints.extend(mapping.sasl(sasl).err());
    }
    mapping.security(&consumer.client);
    mapping.group(consumer);
    mapping.fetch(consumer);
    (mapping.properties, complaints)
}

impl Mapping<'_> {
    fn set(&mut self, name: &str, value: impl Display, keys: &'static [&'static str]) {
        self.properties.insert(
            name.to_owned(),
            Mapped {
                value: value.to_string(),
                keys,
            },
        );
    }

    /// The properties that delivery guarantees and throughput need; the file cannot change them.
    fn always(&mut self) {
        self.set("enable.auto.commit", false, &[]);
        self.set("enable.auto.offset.store", false, &[]);
        // Where to start is decided at the assignment; underneath, a truncated log repeats rather than skips.
        self.set("auto.offset.reset", "earliest", &[]);
        // Larger zstd batches never arrive. An HTTP answer, read as a size, is larger still, and so is refused.
        self.set("receive.message.max.bytes", 1 << 30, &[]);
        // The end of a partition is the only word about offsets without a message (see `consumer/ends.rs`).
        self.set("enable.partition.eof", true, &[]);
        // The default of a second costs most of the throughput, and 5 ms a sixth of it with several partitions: each of
        // them is backed off by itself. Shorter ones wake librdkafka's threads more often than that is worth.
        self.set("fetch.queue.backoff.ms", 2, &[]);
        self.set("queued.max.messages.kbytes", 16_384, &[]);
        // Some milliseconds at full speed, on top of what the fetch under way brings. Small messages cost librdkafka
        // several times their bytes, which the limit in kilobytes does not see, and what waits long in its queue has left
        // the processor's caches when it is handled.
        self.set("queued.min.messages", 10_000, &[]);
    }

    fn client(&mut self, client: &Client) {
        if !client.brokers.is_empty() {
            self.set("bootstrap.servers", brokers(client).join(","), &["brokers"]);
        }
        self.set("client.id", &client.client_id, &["clientId"]);
        // librdkafka's limit includes TLS and authentication.
        let setup = client
            .connection_timeout
            .0
            .saturating_add(client.authentication_timeout.0);
        self.set(
            "socket.connection.setup.timeout.ms",
            setup,
            &["connectionTimeout"],
        );
        self.set(
            "socket.timeout.ms",
            client.request_timeout.0,
            &["requestTimeout"],
        );
        // librdkafka's own 10 s would leave a group idle for twice that after a broker is back.
        let initial = client.retry.initial_retry_time.map_or(0, |time| time.0);
        self.set(
            "reconnect.backoff.max.ms",
            RECONNECT_MAX_MS.max(initial),
            &[],
        );
        if let Some(time) = client.retry.initial_retry_time {
            self.set("retry.backoff.ms", time.0, &["retry", "initialRetryTime"]);
            self.set(
                "reconnect.backoff.ms",
                time.0,
                &["retry", "initialRetryTime"],
            );
        }
        if let Some(time) = client.retry.max_retry_time {
            self.set("retry.backoff.max.ms", time.0, &["retry", "maxRetryTime"]);
            self.set(
                "reconnect.backoff.max.ms",
                time.0,
                &["retry", "maxRetryTime"],
            );
        }
        if let Some(requests) = client.max_in_flight_requests {
            self.set(
                "max.in.flight.requests.per.connection",
                requests,
                &["maxInFlightRequests"],
            );
        }
        let level = match client.log_level {
            LogLevel::Nothing => 0,
            LogLevel::Error => 3,
            LogLevel::Warn => 4,
            LogLevel::Info => 6,
            LogLevel::Debug => 7,
        };
        self.set("log_level", level, &["logLevel"]);
        if client.log_level == LogLevel::Debug {
            self.set("debug", "broker,cgrp,topic", &["logLevel"]);
        }
    }

    fn security(&mut self, client: &Client) {
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

    fn ssl(&mut self, ssl: Option<&Ssl>) -> Result<(), Complaint> {
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

    fn sasl(&mut self, sasl: &Sasl) -> Result<(), Complaint> {
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

    fn group(&mut self, consumer: &Consumer) {
        if let Some(id) = &consumer.group_id {
            self.set("group.id", id, &["groupId"]);
        }
        self.set(
            "max.poll.interval.ms",
            consumer.rebalance_timeout.0,
            &["rebalanceTimeout"],
        );
        match consumer.group_protocol {
            GroupProtocol::Consumer => self.set("group.protocol", "consumer", &["groupProtocol"]),
            GroupProtocol::Classic => {
                self.set(
                    "session.timeout.ms",
                    consumer.session_timeout.0,
                    &["sessionTimeout"],
                );
                self.set(
                    "heartbeat.interval.ms",
                    consumer.heartbeat_interval.0,
                    &["heartbeatInterval"],
                );
                let names: Vec<&str> = consumer
                    .partition_assigners
                    .iter()
                    .copied()
                    .map(assigner)
                    .collect();
                self.set(
                    "partition.assignment.strategy",
                    names.join(","),
                    &["partitionAssigners"],
                );
            }
        }
    }

    fn fetch(&mut self, consumer: &Consumer) {
        let age = consumer.metadata_max_age.0;
        self.set(
            "topic.metadata.refresh.interval.ms",
            age,
            &["metadataMaxAge"],
        );
        // librdkafka's own proportion: what is known outlives two refreshes that fail.
        self.set(
            "metadata.max.age.ms",
            age.saturating_mul(3).min(86_400_000),
            &["metadataMaxAge"],
        );
        self.set(
            "allow.auto.create.topics",
            consumer.allow_auto_topic_creation,
            &["allowAutoTopicCreation"],
        );
        self.set(
            "max.partition.fetch.bytes",
            consumer.max_bytes_per_partition.0,
            &["maxBytesPerPartition"],
        );
        self.set("fetch.min.bytes", consumer.min_bytes.0, &["minBytes"]);
        self.set("fetch.max.bytes", consumer.max_bytes.0, &["maxBytes"]);
        self.set(
            "fetch.wait.max.ms",
            consumer.max_wait_time_in_ms.0,
            &["maxWaitTimeInMs"],
        );
        let isolation = if consumer.read_uncommitted {
            "read_uncommitted"
        } else {
            "read_committed"
        };
        self.set("isolation.level", isolation, &["readUncommitted"]);
        if !consumer.rack_id.is_empty() {
            self.set("client.rack", &consumer.rack_id, &["rackId"]);
        }
    }
}

/// Every broker by itself: a variable may hold several, separated by commas.
pub(super) fn brokers(client: &Client) -> Vec<&str> {
    client
        .brokers
        .iter()
        .flat_map(|entry| entry.split(','))
        .map(str::trim)
        .collect()
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

fn assigner(assigner: Assigner) -> &'static str {
    match assigner {
        Assigner::CooperativeSticky => "cooperative-sticky",
        Assigner::RoundRobin => "roundrobin",
        Assigner::Range => "range",
    }
}
