//! Keys and values of kafkajs and of other programs, and their replacement here.
//!
//! A name is listed where "unknown key" alone would not help. The scope is the name of the table's type in `file`.

use toml::de::DeValue;

const RETRY_FACTOR: &str = "kafkajs gives it another meaning; write `multiplier` (growth of the delay) and `jitter` (its variation)";
const RETRY_RETRIES: &str =
    "kafkajs counts the runs after the first; write `attempts`, which counts all runs";

/// The hint for a key that is not supported, or not yet.
pub(super) fn key(scope: &str, key: &str) -> Option<&'static str> {
    let own = match scope {
        "File" => file(key),
        "Client" | "Consumer" => client(key).or_else(|| consumer(key)),
        "Producer" => client(key).or_else(|| producer(key)),
        "SslTable" => ssl(key),
        "Sasl" => sasl(key),
        "ClientRetry" => client_retry(key),
        "Listener" | "Policies" => listener(key),
        "Subscription" => subscription(key),
        "RunConfig" => run_config(key),
        "Retry" => retry(key),
        "DeadLetter" => dead_letter(key),
        "BreakerTable" => breaker(key),
        "Limits" => limits(key),
        "RateLimitTable" => rate_limit(key),
        "Http" => http(key),
        "HttpClient" => http_client(key),
        "Redis" => redis(key),
        "Kv" => kv(key),
        "Sql" => sql(key),
        "Daemon" => daemon(key),
        _ => None,
    };
    own.or_else(|| policies_key_in_defaults(scope, key))
}

fn policies_key_in_defaults(scope: &str, key: &str) -> Option<&'static str> {
    (scope == "Policies" && matches!(key, "name" | "topic" | "topics" | "handler"))
        .then_some("it belongs to one listener; write it in its `[[listeners]]`")
}

/// Whether an unsupported key is harmless, because it asks for the only behaviour that there is.
pub(super) fn is_harmless(key: &str, value: &DeValue<'_>) -> bool {
    matches!(key, "enforceRequestTimeout" | "eachBatchAutoResolve") && value.as_bool() == Some(true)
}

/// The right form of a key whose value often has a wrong type.
pub(super) fn form(key: &str) -> Option<&'static str> {
    Some(match key {
        "brokers" => "brokers = [\"localhost:9092\"]",
        "topic" => "topics = [\"orders\", \"returns\"]` for several, or `topic = \"orders\"",
        "topics" => "topics = [\"orders\"]` or `topic = \"orders\"",
        "deadLetter" => "deadLetter = { topic = \"{topic}.dead\" }",
        "retry" => "retry = { attempts = 5 }",
        "limits" => "limits = { timeout = \"5min\" }",
        "subscription" => "subscription = { fromBeginning = true }",
        "runConfig" => "runConfig = { autoCommit = true }",
        "librdkafka" => "librdkafka.\"socket.keepalive.enable\" = true",
        _ => return None,
    })
}

/// The hint for a value that is not supported, or not yet.
pub(super) fn value(key: &str, value: &str) -> Option<&'static str> {
    match (key, value) {
        (
            "onError",
            "dlq" | "dlt" | "dead-letter" | "deadletter" | "deadLetterQueue" | "dead_letter",
        ) => Some("write \"deadLetter\""),
        ("onError", "ignore" | "log" | "continue" | "drop") => {
            Some("write \"skip\", which logs the failure and continues with the next message")
        }
        ("onError", "block" | "fail" | "halt") => Some(
            "write \"retry\", which blocks the lane until the message succeeds, or \"stop\", which ends the daemon",
        ),
        ("ordering", "unordered" | "parallel") => Some("write \"none\""),
        ("ordering", "keys" | "byKey" | "perKey") => Some("write \"key\""),
        ("mechanism", "aws") => Some(
            "librdkafka does not support the AWS mechanism; use \"scram-sha-512\" or \"oauthbearer\"",
        ),
        ("mechanism", "gssapi") => {
            Some("this program is built without Kerberos; use \"scram-sha-512\" or \"oauthbearer\"")
        }
        _ => None,
    }
}

fn file(key: &str) -> Option<&'static str> {
    match key {
        "metrics" | "prometheus" | "health" | "healthcheck" | "status" => {
            Some("write `[http]` with `listen`; it serves /metrics, /live, /ready and /status")
        }
        "listener" | "handlers" | "topics" => {
            Some("write a `[[listeners]]` for each topic and handler")
        }
        "admin" => Some("write `[kafka.admin]` with `allow`, the functions that handlers may call"),
        "producer" => Some("write `[producerConfig]`, or a further producer as `[producers.NAME]`"),
        "subscription" | "runConfig" | "ordering" | "onError" | "retry" | "deadLetter"
        | "breaker" | "limits" | "rateLimit" | "delay" | "share" => {
            Some("write it in `[listenerDefaults]` or in a `[[listeners]]`")
        }
        _ => None,
    }
}

fn client(key: &str) -> Option<&'static str> {
    match key {
        "reauthenticationThreshold" => Some("librdkafka re-authenticates by itself; remove it"),
        "enforceRequestTimeout" => Some("`requestTimeout` is always enforced; remove it"),
        "socketFactory" => Some(
            "librdkafka makes the sockets; set `librdkafka.\"socket.keepalive.enable\"` or `librdkafka.\"socket.nagle.disable\"`",
        ),
        "logCreator" => Some("`[log]` configures the log"),
        _ => None,
    }
}

fn consumer(key: &str) -> Option<&'static str> {
    match key {
        "fromBeginning" => Some(
            "write `subscription.fromBeginning` in a `[[listeners]]` or in `[listenerDefaults]`",
        ),
        "autoCommit"
        | "autoCommitInterval"
        | "autoCommitThreshold"
        | "eachBatchAutoResolve"
        | "partitionsConsumedConcurrently" => {
            Some("write it under `runConfig` in a `[[listeners]]` or in `[listenerDefaults]`")
        }
        _ => None,
    }
}

fn producer(key: &str) -> Option<&'static str> {
    match key {
        "createPartitioner" => Some(
            "a configuration cannot hold a function; keys are mapped as by Java's clients (murmur2), and a record may have \
             a `partition`",
        ),
        "transactionalId" => Some(
            "a consumer with `exactlyOnce = true` has transactions, and an id of its own for each; remove it",
        ),
        "transactionTimeout" => Some(
            "write `transaction = { timeout = … }` in `[consumerConfig]`, beside `exactlyOnce = true`",
        ),
        "lingerMs" | "linger" => {
            Some("an awaited record leaves at once, and an emitted one within 5 ms; remove it")
        }
        "batchSize" => Some("write `librdkafka.\"batch.size\"`"),
        "requestTimeoutMs" | "deliveryTimeout" => Some("write `timeout`"),
        _ => None,
    }
}

fn ssl(key: &str) -> Option<&'static str> {
    match key {
        "servername" | "host" => Some(
            "librdkafka checks the host name that it connects to; `checkServerIdentity = false` turns the check off",
        ),
        "minVersion" | "maxVersion" | "secureProtocol" | "secureOptions" | "secureContext" => {
            Some("the configuration of OpenSSL sets the TLS versions; remove it")
        }
        _ => None,
    }
}

fn sasl(key: &str) -> Option<&'static str> {
    match key {
        "oauthBearerProvider" => Some(
            "a configuration cannot hold a function; write `clientId`, `clientSecret` and `tokenEndpointUrl`",
        ),
        "authorizationIdentity" | "accessKeyId" | "secretAccessKey" | "sessionToken" => {
            value("mechanism", "aws")
        }
        "authenticationProvider" => {
            Some("librdkafka knows plain, scram-sha-256, scram-sha-512 and oauthbearer")
        }
        _ => None,
    }
}

fn client_retry(key: &str) -> Option<&'static str> {
    match key {
        "factor" | "multiplier" => {
            Some("librdkafka doubles its back-off with 20 % jitter; remove it")
        }
        "restartOnFailure" => {
            Some("a fatal error of a consumer ends the daemon, and systemd restarts it; remove it")
        }
        _ => None,
    }
}

fn listener(key: &str) -> Option<&'static str> {
    match key {
        "dlq" | "dlt" | "deadLetterQueue" => {
            Some("write `deadLetter = { topic = \"{topic}.dead\" }`")
        }
        "dlqTopic" | "dltTopic" | "deadLetterTopic" | "errorTopic" => {
            Some("write it as `deadLetter.topic`")
        }
        "maxRetries" | "retries" => {
            Some("write `retry.attempts`, which counts all runs: the first one and the retries")
        }
        "attempts" | "maxAttempts" => Some("write it as `retry.attempts`"),
        "retryTopics" => Some("write it as `retry.topics`"),
        "backoff" | "retryDelay" => {
            Some("write `retry.initialDelay`, `retry.maxDelay` and `retry.multiplier`")
        }
        "concurrency" | "parallelism" | "threads" | "workers" => Some(
            "write `maxInFlight` (messages at once), with `ordering` \"key\" or \"none\" for several of a partition, or \
             `runConfig.partitionsConsumedConcurrently`; VMs are `[lua] workers`",
        ),
        "order" | "orderBy" => Some("write `ordering` = \"partition\", \"key\" or \"none\""),
        "circuitBreaker" => Some("write `breaker`"),
        "delayMs" | "minAge" | "deliverAfter" | "delayed" => Some("write `delay = \"15m\"`"),
        "throttle" | "throttling" | "rate" | "maxRate" | "messagesPerSecond" => {
            Some("write `rateLimit = { messages = 100, per = \"1s\" }`")
        }
        "timeout" => Some("write it as `limits.timeout`"),
        "headerStyle" | "tooLarge" | "refused" | "maxPerMinute" => {
            Some("write it under `deadLetter`")
        }
        "eachBatchAutoResolve" => Some("write it as `runConfig.eachBatchAutoResolve`"),
        "batchSize" | "maxPollRecords" => Some("write `batch.messages`"),
        "fromBeginning" => Some("write it as `subscription.fromBeginning`"),
        "autoCommit" => Some("write it as `runConfig.autoCommit`"),
        "autoCommitInterval" => Some("write it as `runConfig.autoCommitInterval`"),
        "autoCommitThreshold" => Some("write it as `runConfig.autoCommitThreshold`"),
        "partitionsConsumedConcurrently" => {
            Some("write it as `runConfig.partitionsConsumedConcurrently`")
        }
        "groupId" => Some(
            "write it in `[consumerConfig]`, or in a `[consumers.NAME]` that the listener joins by `consumer`",
        ),
        _ => None,
    }
}

fn subscription(key: &str) -> Option<&'static str> {
    matches!(key, "topic" | "topics")
        .then_some("write it in the listener itself, not below `subscription`")
}

fn run_config(key: &str) -> Option<&'static str> {
    match key {
        "eachBatch" => Some("write `eachBatch = true` in the listener itself"),
        "eachMessage" => Some("the listener's `handler` names the function"),
        _ => None,
    }
}

fn retry(key: &str) -> Option<&'static str> {
    match key {
        "factor" => Some(RETRY_FACTOR),
        "retries" => Some(RETRY_RETRIES),
        "maxRetries" => {
            Some("write `attempts`, which counts all runs: the first one and the retries")
        }
        "maxAttempts" => Some("write `attempts`"),
        "backoff" | "delay" => Some("write `initialDelay`, `maxDelay` and `multiplier`"),
        "delays" => {
            Some("write `topics`; in the lane, waits grow from `initialDelay` to `maxDelay`")
        }
        "initialRetryTime" => {
            Some("`[kafkaConfig]` has this key, for requests to brokers; write `initialDelay`")
        }
        "maxRetryTime" => {
            Some("`[kafkaConfig]` has this key, for requests to brokers; write `maxDelay`")
        }
        "restartOnFailure" => client_retry(key),
        _ => None,
    }
}

fn dead_letter(key: &str) -> Option<&'static str> {
    match key {
        "name" | "topicName" | "suffix" => Some("write `topic`, as \"{topic}.dead\""),
        "attempts" | "maxAttempts" | "maxRetries" | "retries" => {
            Some("write `retry.attempts`: runs, the first included")
        }
        "partition" | "partitioner" => {
            Some("a dead letter goes to the partition of the same number; remove it")
        }
        "headers" => {
            Some("write `headerStyle` = \"moontide\", \"spring\", \"connect\" or \"kafka\"")
        }
        _ => None,
    }
}

fn breaker(key: &str) -> Option<&'static str> {
    match key {
        "enabled" => Some("write `breaker = true` or `breaker = false` instead of the table"),
        "threshold" | "failureRateThreshold" | "failureThreshold" => {
            Some("write `failureRatio`, a share above 0 to 1")
        }
        "minimumNumberOfCalls" | "minCalls" | "volumeThreshold" => Some("write `minimumRuns`"),
        "timeout" | "resetTimeout" | "cooldown" | "waitDuration" => Some("write `pause`"),
        "successThreshold" | "halfOpenCalls" => Some("write `probes`"),
        _ => None,
    }
}

fn limits(key: &str) -> Option<&'static str> {
    match key {
        "memory" => Some("memory is limited for a VM, not for a call; write `memory` in `[lua]`"),
        "cpu" => Some("write `blocking`: the longest computing without a pause"),
        _ => None,
    }
}

fn rate_limit(key: &str) -> Option<&'static str> {
    match key {
        "runs" | "limit" | "rate" | "count" | "max" => Some("write `messages`"),
        "interval" | "window" | "period" | "within" | "every" => Some("write `per`"),
        "burst" => Some("runs are spread evenly over `per`; remove it"),
        _ => None,
    }
}

fn http(key: &str) -> Option<&'static str> {
    match key {
        "port" | "host" | "address" | "bind" => {
            Some("write `listen`, address and port, as \"127.0.0.1:9464\"")
        }
        "path" | "metricsPath" => {
            Some("the paths are /metrics, /live, /ready and /status; remove it")
        }
        "tls" | "ssl" => Some("this server speaks plain HTTP; put a proxy in front of it"),
        _ => None,
    }
}

fn http_client(key: &str) -> Option<&'static str> {
    match key {
        "allowlist" | "allowList" | "whitelist" | "hosts" => Some("write `allow`"),
        "pool" | "poolSize" | "connections" | "maxConnections" | "maxSockets" => {
            Some("write `size`")
        }
        "rejectUnauthorized" | "verify" | "insecure" => {
            Some("certificates are always checked; write the authority into `ca`")
        }
        "retry" | "retries" => Some("the retries are those of the listener; remove it"),
        "keepAlive" | "idleTimeout" => Some("idle connections are closed after 4 s; remove it"),
        _ => None,
    }
}

fn redis(key: &str) -> Option<&'static str> {
    match key {
        "urls" | "nodes" | "hosts" | "addresses" => {
            Some("write `url`, which takes a list of addresses, too")
        }
        "host" | "port" | "address" | "db" | "database" | "path" => {
            Some("write `url = \"redis://host:6379/0\"`")
        }
        "username" => Some("write `user`"),
        "pass" | "auth" => Some("write `password`"),
        "pool" | "poolSize" | "connections" | "maxConnections" => Some("write `size`"),
        "ssl" => Some("write `tls`"),
        "ca" | "cert" | "key" | "passphrase" => Some("write it below `tls`"),
        "commandTimeout" | "socketTimeout" => Some("write `timeout`"),
        "rejectUnauthorized" | "verify" | "insecure" => {
            Some("certificates are always checked; write the authority into `tls.ca`")
        }
        "retry" | "retries" | "maxRetriesPerRequest" => {
            Some("the retries are those of the listener; remove it")
        }
        "sentinels" | "sentinel" => {
            Some("Sentinel is not supported; write the address of the master")
        }
        _ => None,
    }
}

fn kv(key: &str) -> Option<&'static str> {
    match key {
        "type" | "store" | "kind" => Some("write `backend`"),
        "size" | "capacity" | "max" => Some("write `maxEntries` or `maxBytes`"),
        "path" | "file" | "dir" | "directory" => {
            Some("the file lies in `daemon.stateDirectory`; write `backend = \"file\"`")
        }
        "url" => Some("write it into a table `[redis.NAME]`, and its name into `redis`"),
        "ttl" | "expire" | "expires" => {
            Some("write it at the call, as `kv:set(key, value, { ttl = \"60s\" })`")
        }
        "eviction" | "evict" | "policy" => {
            Some("nothing is evicted: a store that is full refuses new entries; remove it")
        }
        _ => None,
    }
}

fn sql(key: &str) -> Option<&'static str> {
    match key {
        "host" | "port" | "address" | "db" | "database" | "dbname" | "path" | "file" | "driver"
        | "type" | "dialect" | "connectionString" | "dsn" => Some(
            "write `url = \"postgres://user@host:5432/database\"`, `url = \"mysql://user@host:3306/database\"`, or \
                 `url = \"sqlite:path\"`",
        ),
        "username" => Some("write `user`"),
        "pass" => Some("write `password`"),
        "pool" | "poolSize" | "max" | "connections" | "maxConnections" => Some("write `size`"),
        "ssl" | "sslmode" => Some("write `tls`"),
        "ca" | "cert" | "key" | "passphrase" => Some("write it below `tls`"),
        "statementTimeout" | "queryTimeout" => Some("write `timeout`"),
        "connectionTimeout" => Some("write `connectTimeout`"),
        "statementCache" | "preparedStatements" => Some("write `prepare`"),
        "rejectUnauthorized" | "verify" | "insecure" => {
            Some("certificates are always checked; write the authority into `tls.ca`")
        }
        "retry" | "retries" => Some("the retries are those of the listener; remove it"),
        "idleTimeout" => Some("idle connections are closed after a minute; remove it"),
        _ => None,
    }
}

fn daemon(key: &str) -> Option<&'static str> {
    match key {
        "maxCrashes" | "crashLimit" => Some("write `crashes`"),
        "http" | "port" => Some("write `[http]` with `listen`"),
        _ => None,
    }
}
