//! Handlers in a real VM: one `Fixture` a test, handlers as text.

mod admin;
mod calls;
mod commits;
mod consumer;
mod context;
mod deferrals;
mod docs;
mod env;
mod files;
mod hints;
mod http;
mod inherited;
mod interrupts;
mod json;
mod limits;
mod loads;
mod log_lines;
mod observers;
mod parallel;
mod plain;
mod records;
mod redis;
mod regex;
mod sends;
mod shared_state;
mod sql;
mod starved;
mod tampering;
mod time;
mod timers;
mod trace;
mod verdicts;
mod waits;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::build::Error;
use super::{App, Call, CallId, Failure, Pulse, Step, Vm, Watchdog};
use crate::bundle::Bundle;
use crate::config::{
    Config, Consumer, Daemon, EnvNames, Handler, Limits, Listener, Log, LogFormat, Lua, NullKeys,
    OnError, Ordering, Producer, Retry, Rotation, Run, Topic,
};
use crate::message::OwnedRecord;
use crate::threads::supervisor::Supervisor;
use crate::wait::{Answer, Wait};

/// A VM on the test's own thread.
struct Fixture {
    vm: Vm,
    pulse: Pulse,
    topic: Arc<str>,
    _watchdog: Watchdog,
}

#[derive(Clone)]
struct Setup {
    files: BTreeMap<String, Arc<[u8]>>,
    handlers: Vec<String>,
    blocking: Duration,
    memory: usize,
    path: String,
    cpath: String,
    env: EnvNames,
    producers: Vec<Producer>,
}

impl Setup {
    fn new() -> Self {
        Self {
            files: BTreeMap::new(),
            handlers: Vec::new(),
            blocking: Duration::from_secs(5),
            memory: 256 << 20,
            path: String::new(),
            cpath: String::new(),
            env: EnvNames::default(),
            producers: Vec::new(),
        }
    }

    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.as_bytes().into());
        self
    }

    fn handler(mut self, text: &str) -> Self {
        self.handlers.push(text.to_owned());
        self
    }

    fn bundle(&self) -> Bundle {
        let listeners = self
            .handlers
            .iter()
            .map(|text| listener(text, self.blocking))
            .collect();
        Bundle {
            number: 1,
            hash: 0,
            loaded_at: 0,
            config: Arc::new(config(self, listeners)),
            sources: Arc::new(self.files.clone().into_iter().collect()),
        }
    }

    fn build_with(&self, app: &Arc<App>) -> Result<Fixture, Error> {
        let watchdog = Watchdog::start(&Supervisor::without_daemon()).unwrap();
        let pulse = watchdog.watch_current_thread("test");
        let vm = Vm::build(&self.bundle(), app, &pulse)?;
        Ok(Fixture {
            vm,
            pulse,
            topic: "orders".into(),
            _watchdog: watchdog,
        })
    }

    #[track_caller]
    fn build(&self) -> Fixture {
        self.build_with(&Arc::default())
            .unwrap_or_else(|error| panic!("{error}"))
    }

    #[track_caller]
    fn error(&self) -> String {
        match self.build_with(&Arc::default()) {
            Ok(_) => panic!("the bundle loads"),
            Err(error) => error.to_string(),
        }
    }
}

impl Fixture {
    fn call(&mut self, record: &OwnedRecord) -> Step {
        self.call_listener(0, record)
    }

    fn call_listener(&mut self, listener: usize, record: &OwnedRecord) -> Step {
        let call = Call {
            listener,
            topic: &self.topic,
            partition: 3,
            record,
            attempt: 1,
            is_retry: false,
        };
        self.vm.call(&self.pulse, &call)
    }

    fn run(&mut self) -> Step {
        self.call(&OwnedRecord::default())
    }

    /// Answers the one wait of a call.
    fn resume(&mut self, id: CallId, answer: Answer) -> Step {
        let wait = self.vm.shared.last_wait();
        self.vm.resume(&self.pulse, id, wait, answer)
    }
}

/// A VM whose one handler has `body`, with `message` and `ctx`.
fn handler(body: &str) -> Setup {
    Setup::new()
        .file(
            "h.lua",
            &format!("local tide = require \"tide\"\nreturn function(message, ctx) {body}\nend"),
        )
        .handler("h")
}

/// Runs `body`, which asserts for itself.
#[track_caller]
fn passes(body: &str) {
    passes_with(body, &OwnedRecord::default());
}

#[track_caller]
fn passes_with(body: &str, record: &OwnedRecord) {
    match handler(body).build().call(record) {
        Step::Done => {}
        step => panic!("{step:?}"),
    }
}

/// Runs `body` and tells how it failed.
#[track_caller]
fn fails(body: &str) -> Failure {
    failure(handler(body).build().run())
}

/// The call and its one wait.
#[track_caller]
fn waits(step: Step) -> (CallId, Wait) {
    match step {
        Step::Waits(id, mut waits) if waits.begun.len() == 1 => {
            let (_, wait) = waits.begun.remove(0);
            (id, wait)
        }
        step => panic!("{step:?}"),
    }
}

#[track_caller]
fn failure(step: Step) -> Failure {
    match step {
        Step::Failed(failure) => failure,
        step => panic!("{step:?}"),
    }
}

fn listener(text: &str, blocking: Duration) -> Listener {
    let slash = text.rfind('/').map_or(0, |at| at + 1);
    let dot = text[slash..].find('.').map(|at| slash + at);
    Listener {
        name: text.to_owned(),
        consumer: "default".to_owned(),
        topics: vec![Topic::Literal("orders".to_owned())],
        handler: Handler {
            text: text.to_owned(),
            path: text[..dot.unwrap_or(text.len())].to_owned(),
            function: dot.map(|dot| text[dot + 1..].to_owned()),
        },
        from_beginning: false,
        run: Run {
            auto_commit: true,
            auto_commit_interval: None,
            auto_commit_threshold: None,
            partitions_consumed_concurrently: None,
        },
        max_in_flight: 1,
        max_deferred: 100_000,
        ordering: Ordering::Partition,
        null_keys: NullKeys::Parallel,
        dead_letter: None,
        breaker: None,
        on_error: OnError::Retry,
        retry: Retry {
            attempts: None,
            initial_delay: Duration::from_millis(300),
            max_delay: Duration::from_secs(30),
            multiplier: 2.0,
            jitter: 0.2,
            topics: Vec::new(),
            infrastructure: crate::config::Infrastructure::Wait,
            create_topics: false,
        },
        produces: None,
        limits: Limits {
            blocking,
            timeout: Duration::from_secs(300),
            emit: 8 << 20,
        },
        rate_limit: None,
        delay: None,
        share: None,
        batch: None,
    }
}

fn config(setup: &Setup, listeners: Vec<Listener>) -> Config {
    Config {
        path: PathBuf::from("/etc/moontide/config.toml"),
        consumers: vec![Consumer {
            name: "default".to_owned(),
            group_id: "g".to_owned(),
            properties: BTreeMap::new(),
            rebalance_timeout: Duration::from_secs(60),
            session_timeout: Duration::from_secs(45),
            metadata_max_age: Duration::from_secs(300),
            request_timeout: Duration::from_secs(30),
            transaction: None,
        }],
        producers: setup.producers.clone(),
        admin: crate::config::Admin { allow: Vec::new() },
        connection: None,
        listeners,
        lua: Lua {
            handlers: PathBuf::from("/etc/moontide/handlers"),
            workers: 1,
            memory: setup.memory,
            path: setup.path.clone(),
            cpath: setup.cpath.clone(),
            env: setup.env.clone(),
        },
        log: Log {
            level: "info".to_owned(),
            format: LogFormat::Auto,
            file: None,
            rotation: Rotation::Daily,
            keep: 1,
        },
        daemon: Daemon {
            drain_deadline: Duration::from_secs(20),
            state_directory: PathBuf::new(),
            crashes_max: 3,
            runtime_directory: PathBuf::new(),
            watch: true,
        },
        http: None,
        http_client: crate::config::HttpClient::default(),
        redis: vec![crate::config::Redis::named("cache")],
        kv: vec![crate::config::Kv::named("sessions")],
        sql: vec![crate::config::Sql::named("main")],
        warnings: Vec::new(),
    }
}
