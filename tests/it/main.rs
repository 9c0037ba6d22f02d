//! The built binary, from outside: one `mod` a behaviour.

#![expect(clippy::unwrap_used, reason = "a test ends by a panic")]

mod support;

mod admin; // topics, groups and settings by `tide.kafka.admin`
mod at_once; // functions of `tide` that answer at once
mod automatic; // when automatic listeners commit, and how much of a topic runs at once
mod batches; // handlers that get batches, and the message that fails one
mod check; // what `moontide check` refuses, word for word, and what it prints
mod commits; // what is committed, and when
mod connect; // which servers `moontide check --connect` reaches
mod context; // what a handler is given
mod control; // what code requests of its consumer: pause, resume, seek
mod crowd; // several listeners and groups on one topic
mod data; // what can stand in a topic
mod databases; // statements of handlers to PostgreSQL and SQLite, well and away
mod deferred; // messages that later code finishes
mod delays; // topics whose messages run when they are old enough
mod dev; // init, dev and send, as a newcomer meets them
mod distress; // when all handlers fail, or no dead letter can be sent
mod docs; // what the documents show is what the program takes
mod emits; // records that leave with their message
mod ends; // offsets at the end of a partition that carry no message
mod exactly_once; // what messages emit is committed with them
mod examples; // every example does what its README says
mod failures; // handlers that fail
mod fairness; // what a partition that is held up costs the others
mod faults; // kills, outages and storms of members under load
mod hands; // skip, retry, pause, resume
mod http; // metrics and probes
mod keys; // lanes by key: who waits for whom, and what a restart does not run again
mod letters; // what becomes of messages that are given up
mod licences; // what dependencies may be
mod lifecycle; // start and stop
mod limits; // handlers that never return or eat all memory
mod listeners; // which handler gets which message
mod log; // the log file, lines that are left out or dropped, and signals
mod membership; // static ids, what waits when a partition goes, the last commit of a stop
mod metrics; // the numbers of listeners
mod modules; // what handlers may require: LuaRocks trees, C modules
mod newest; // a short list of tests against the newest Kafka
mod notify; // what the service manager is told: ready, status, reloads, watchdog, the end
mod observers; // functions that run when partitions come and go
mod operators; // what an operator meets: exit codes, log lines, status, a second daemon
mod outcomes; // what a handler says of a message, and what a whole call may take
mod outside; // waits outside: time-outs, rebalances, reloads, panics, a stop, many at once
mod places; // errors of partitions, groups and brokers: what is said of them, and until when
mod poison; // messages that kill the process
mod poisonous; // what a message that never ends costs the others
mod positions; // where a partition starts
mod protocols; // how a group shares its partitions: assignors, KIP-848, a drain before each revocation
mod rates; // rate limits of listeners
mod redis; // Redis commands of handlers, one server and a cluster, well and away
mod reload; // files that change while the daemon runs
mod requests; // requests of handlers by HTTP, and infrastructure that is away
mod retries; // messages that wait in retry topics
mod secrets; // how often the file of a secret is opened
mod secure; // TLS and SASL against a real broker, and that no secret is shown
mod sends; // records that handlers send
mod shares; // topics that share a busy consumer
mod state; // state that handlers share and keep, in memory, in a file and in Redis
mod systemd; // the shipped units under a real systemd
mod threads; // our own threads: panics end the daemon, hangs are seen, outages are neither
mod tidy; // rules of ARCHITECTURE.md that a look at the files can hold
mod timers; // functions that run by the clock
mod topics; // topics that must exist before a message fails, are deleted, created again, or created late
mod trace; // where the trace context of a message goes, and where it is seen
