//! Log lines of Moontide's own: one macro, and the fixed list of their targets.
//!
//! A target is a word of `[log] level`. It says which part of the daemon logs, and stays when a file moves.

/// Writes one line: `log!(warn, consumer, topic, partition, "the message")`.
///
/// The level is that of a `tracing` macro, the target one of [`target`]; fields and message follow as in `tracing`.
macro_rules! log {
    ($level:ident, $target:ident, $($line:tt)+) => {
        tracing::$level!(target: $crate::log::target::$target, $($line)+)
    };
}

pub(crate) use log;

macro_rules! targets {
    ($($name:ident: $about:literal)+) => {
        /// The targets.
        #[expect(non_upper_case_globals, reason = "a target reads as it is written in the configuration")]
        pub(crate) mod target {
            $(#[doc = $about] pub(crate) const $name: &str = stringify!($name);)+
        }

        /// Every target, in the order of the alphabet.
        pub(crate) const TARGETS: &[&str] = &[$(stringify!($name)),+];
    };
}

targets! {
    consumer: "group membership, partitions, commits"
    control: "the control socket and the commands of operators"
    crash: "the journal of running messages"
    daemon: "start, supervision and stop"
    dev: "the command `moontide dev`"
    handler: "the handlers: `ctx.logger`, `print`"
    http: "the HTTP server of metrics and probes"
    kafka: "producers and clients of Kafka"
    librdkafka: "librdkafka's own lines"
    log: "the log itself"
    lua: "Lua VMs and their watchdog"
    panic: "panics"
    reload: "reloads of configuration and handlers"
    signals: "signals of the process"
    systemd: "notifications to systemd"
    topics: "topics that must exist"
    watch: "changes of files"
    worker: "messages and their outcomes"
}
