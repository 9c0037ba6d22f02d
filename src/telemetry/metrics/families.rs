//! Every metric: name, type, labels and meaning. docs/reference/metrics.md has the same content; a test compares
//! them.
//!
//! Names follow Prometheus: base units, the unit last, `_total` after counters (added when the page is written).
//! **Label values are bounded**: consumers and listeners of the config, assigned partitions, words of the code.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
}

#[derive(Debug)]
pub(crate) struct Family {
    /// Without the `_total` of a counter or the `_info` of an info.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

const PARTITION: &[&str] = &["consumer", "topic", "partition"];
const LISTENER: &[&str] = &["listener"];
const PRODUCER: &[&str] = &["producer"];

macro_rules! families {
    ($($constant:ident: $kind:ident $name:literal $labels:expr, $help:literal;)*) => {
        $(pub(crate) const $constant: Family = Family {
            name: $name, kind: Kind::$kind, labels: $labels, help: $help,
        };)*
        #[cfg(test)]
        pub(crate) const ALL: &[Family] = &[$($constant),*];
    };
}

families! {
    RECEIVED: Counter "moontide_messages_received" PARTITION,
        "Messages received from the partition in this assignment";
    FINISHED: Counter "moontide_messages_finished" &["consumer", "topic", "partition", "outcome"],
        "Messages with an outcome, in this assignment";
    IN_FLIGHT: Gauge "moontide_messages_in_flight" PARTITION,
        "Messages received that have no outcome yet";
    IN_FLIGHT_BYTES: Gauge "moontide_in_flight_bytes" PARTITION,
        "Bytes of the messages in flight";
    DEFERRED: Gauge "moontide_messages_deferred" PARTITION,
        "Deferred messages: their handlers have returned, and done() or fail() finishes them later";
    LAG: Gauge "moontide_lag_messages" PARTITION,
        "Offsets between the position and the end of the partition";
    LAG_UNKNOWN: Gauge "moontide_lag_unknown_seconds" PARTITION,
        "Time for which the end of the partition, and so the lag, is not known; 0 while it is known";
    FAILING: Gauge "moontide_partition_failing" PARTITION,
        "1 while an error of the partition keeps its messages from the consumer";
    LAG_SECONDS: Gauge "moontide_lag_seconds" PARTITION,
        "Age of the oldest message without an outcome, by its timestamp; 0 without lag";
    OLDEST_UNFINISHED: Gauge "moontide_oldest_unfinished_seconds" PARTITION,
        "Time since the oldest message in flight was received; 0 without one";
    STANDSTILL: Gauge "moontide_standstill_seconds" PARTITION,
        "Time for which the position stands still although messages wait";
    POSITION: Gauge "moontide_position_offset" PARTITION,
        "The position: every message before it has its outcome or was passed over by a seek";
    COMMITTED: Gauge "moontide_committed_offset" PARTITION,
        "The committed offset of the group; missing while it is not known";
    BLOCKED: Gauge "moontide_partition_blocked" PARTITION,
        "1 while a failed message blocks its lane";
    PAUSED: Gauge "moontide_partition_paused" PARTITION,
        "1 while the partition waits: its budget or a rate limit is used up, no message is due, or its listener or a handler has paused it";

    RUN: Histogram "moontide_handler_run_seconds" LISTENER,
        "Time from the start of a call to its end, waits included; every run counts";
    WAIT: Histogram "moontide_handler_wait_seconds" LISTENER,
        "Time from the receipt of a message to its first run";
    FAILURES: Counter "moontide_handler_failures" LISTENER,
        "Calls that failed";
    RETRIES: Counter "moontide_handler_retries" LISTENER,
        "Runs of a message after its first run";
    OUTCOMES: Counter "moontide_listener_outcomes" &["listener", "outcome"],
        "Outcomes of messages in this listener";
    LIMIT_KILLS: Counter "moontide_limit_kills" &["listener", "limit"],
        "Calls that a limit ended";
    UNACKNOWLEDGED: Gauge "moontide_records_unacknowledged" LISTENER,
        "Messages whose dead letter or retry record the broker has not acknowledged yet";
    BREAKER: Gauge "moontide_breaker_state" &["listener", "state"],
        "1 for the present state of the breaker";
    LISTENER_PAUSED: Gauge "moontide_listener_paused" LISTENER,
        "1 while an operator has paused the listener";
    RATE_LIMIT_HOLDS: Counter "moontide_rate_limit_holds" LISTENER,
        "Times that the rate limit of the listener has held a lane";
    TICKS: Counter "moontide_timer_ticks" &["timer", "result"],
        "Ticks of the timer by result; missed ones were due while the last one ran";

    ASSIGNED: Gauge "moontide_consumer_assigned" &["consumer"],
        "1 while the consumer is connected, and a member of its group with its partitions";
    REBALANCES: Counter "moontide_rebalances" &["consumer", "kind"],
        "Rebalances of the consumer";
    COMMITS: Counter "moontide_commits" &["consumer", "result"],
        "Commits with an answer of the broker, each of one or several partitions";
    TRANSACTIONS: Counter "moontide_transactions" &["consumer", "result"],
        "Transactions of a consumer with exactlyOnce by result; the end of an unknown one was read from the group's offsets";
    TRANSACTION_WAITING: Gauge "moontide_transaction_waiting_messages" &["consumer"],
        "Messages with an outcome that no transaction has committed yet";
    TRANSACTION_WAITING_BYTES: Gauge "moontide_transaction_waiting_bytes" &["consumer"],
        "Bytes of these messages and of their records";
    TRANSACTION_PRODUCERS_REPLACED: Counter "moontide_transaction_producers_replaced" &["consumer"],
        "Transactional producers in whose place another one came, after a request without an answer";
    TRANSACTION_PRODUCERS_LEFT: Gauge "moontide_transaction_producers_left" &["consumer"],
        "Replaced producers whose call has not come back; each keeps a thread and its memory";
    KAFKA_ERRORS: Counter "moontide_kafka_errors" &["consumer"],
        "Errors of brokers, group and partitions";
    MESSAGES_LOST: Counter "moontide_messages_lost" &["consumer"],
        "Messages that retention deleted before they were handled, deferred ones that were to run again included; an upper bound";
    PASSED_OVER: Counter "moontide_messages_passed_over" &["consumer"],
        "Messages that seeks of handlers passed over; an upper bound";
    TOPICS_MISSING: Gauge "moontide_topics_missing" &["consumer"],
        "Subscribed topics that do not exist or may not be read";
    PARTITIONS_RECREATED: Counter "moontide_partitions_recreated" &["consumer"],
        "Partitions that started at the beginning because their topic was deleted and created again";
    SENDS: Histogram "moontide_send_seconds" PRODUCER,
        "Time from the start of a send to its end, the wait for room included";
    SENT: Counter "moontide_records_sent" &["producer", "result"],
        "Records of ended sends, by whether a broker acknowledged them in time";
    SENDS_QUEUED: Gauge "moontide_sends_queued" PRODUCER,
        "Sends that wait for room in bufferMemory";
    SENT_IN_FLIGHT: Gauge "moontide_sent_records_in_flight" PRODUCER,
        "Records of sends without an acknowledgement";
    SENT_BYTES: Gauge "moontide_sent_in_flight_bytes" PRODUCER,
        "Bytes of these records";
    OUTSIDE: Counter "moontide_outside_calls" &["function", "result"],
        "Calls of functions that wait outside, by their end";
    OUTSIDE_TIMES: Histogram "moontide_outside_call_seconds" &["function"],
        "Time from the start of such a call to its end";
    HTTP_REQUESTS: Counter "moontide_http_requests" &["host", "result"],
        "Requests of handlers by HTTP, by the class of their status or the kind of their error";
    HTTP_TIMES: Histogram "moontide_http_request_seconds" &["host"],
        "Time from the start of a request to its whole response, the wait for a connection included";
    HTTP_CONNECTIONS: Gauge "moontide_http_connections" &["state"],
        "Connections of requests";
    HTTP_SIZE: Gauge "moontide_http_connections_max" &[],
        "The most connections; after a reload those of the pools that drain, too";
    HTTP_WAITING: Gauge "moontide_http_requests_waiting" &[],
        "Requests that wait for a connection";
    REDIS_CONNECTIONS: Gauge "moontide_redis_connections" &["redis", "state"],
        "Connections to a Redis server or a cluster; blocking ones have a command that waits in the server";
    REDIS_SIZE: Gauge "moontide_redis_connections_max" &["redis"],
        "The most connections beside the blocking ones; after a reload those of the pools that drain, too";
    REDIS_WAITING: Gauge "moontide_redis_calls_waiting" &["redis"],
        "Calls that wait for a connection";
    KV_ENTRIES: Gauge "moontide_kv_entries" &["kv"],
        "Entries of a store in memory or in a file";
    KV_BYTES: Gauge "moontide_kv_bytes" &["kv"],
        "Bytes of keys and values of a store in memory or in a file; an entry counts 96 bytes besides";
    CACHE_ENTRIES: Gauge "moontide_cache_entries" &["cache"],
        "Results that a cache keeps";
    CACHE_CALLS: Counter "moontide_cache_calls" &["cache", "result"],
        "Calls of a cached function, by hit or miss, since the cache was made";
    SQL_CONNECTIONS: Gauge "moontide_sql_connections" &["sql", "state"],
        "Connections to a database; those in a transaction are in use, too";
    SQL_SIZE: Gauge "moontide_sql_connections_max" &["sql"],
        "The most connections; after a reload those of the pools that drain, too";
    SQL_WAITING: Gauge "moontide_sql_calls_waiting" &["sql"],
        "Calls that wait for a connection to a database";
    READY: Gauge "moontide_ready" &[],
        "1 while /ready answers 200";
    BUNDLE: Gauge "moontide_bundle_number" &[],
        "The bundle in force";
    DISK_BAD: Gauge "moontide_disk_bad" &[],
        "1 while a restart would fail because of the files on disk";
    LOAD_STUCK: Gauge "moontide_load_stuck" &[],
        "1 while the code of a load that was given up still runs: no reload is possible";
    RELOADS: Counter "moontide_reloads" &["result"],
        "Reloads by result";
    LUA_MEMORY: Gauge "moontide_lua_memory_bytes" &["worker"],
        "Memory of the worker's VMs";
    VMS_REPLACED: Counter "moontide_vms_replaced" &["worker"],
        "VMs replaced because a call exceeded a limit";
    DROPPED_LINES: Counter "moontide_log_lines_dropped" &[],
        "Log lines dropped because their sink was too slow or failed";
    BUILD: Info "moontide_build" &["version", "librdkafka"],
        "What runs";
    CPU: Counter "process_cpu_seconds" &[],
        "CPU time of the process, user and system";
    RESIDENT: Gauge "process_resident_memory_bytes" &[],
        "Memory that is held now";
    VIRTUAL: Gauge "process_virtual_memory_bytes" &[],
        "Address space";
    OPEN_FDS: Gauge "process_open_fds" &[],
        "Open file descriptors";
    MAX_FDS: Gauge "process_max_fds" &[],
        "File descriptors that may be open";
    THREADS: Gauge "process_threads" &[],
        "Threads";
    START_TIME: Gauge "process_start_time_seconds" &[],
        "Start of the process, since the epoch";
}
