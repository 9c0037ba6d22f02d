//! The daemon: it starts all threads, reloads the bundle, and stops.
//!
//! Start and reload take the same road (`load`, then the `fleet`). A thread that ends unasked ends the daemon with
//! its reason; the other threads drain and commit as at any stop.

mod fleet;
mod last_resort;
mod load;
mod loading;
mod operator_commands;
mod reload;
mod reloads;
mod responses;
mod rest;
mod topics;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};

use crate::clock::now_ms;
use crate::config::Config;
use crate::failpoint::failpoint;
use crate::log::log;
use crate::service::control::{Ask, Server};
use crate::service::signals::{self, Reactions, Shutdown, Signals, Trigger};
use crate::service::systemd::Notifier;
use crate::service::watch::Watch;
use crate::telemetry::http;
use crate::telemetry::logging::{self, Audience};
use crate::telemetry::status::{Request, Response, Status};
use crate::threads::supervisor::{Ending, Supervisor};

use fleet::{Fleet, Roster};
use last_resort::LastResort;
use operator_commands::OperatorCommands;
use reloads::Reloads;
use responses::{Responses, gather};

/// The interval between two checks for dropped log lines, and between two status lines for systemd.
const TICK: Duration = Duration::from_secs(2);
/// The time of a stop after the drain: the last commit, and leaving the group.
const AFTER_DRAIN: Duration = Duration::from_secs(15);
/// The deadline of the drain after a client has failed, or when a handler cannot be ended.
const DRAIN_AFTER_FAILURE: Duration = Duration::from_secs(5);
/// The time after that until the process ends, even if a thread still blocks it.
const LAST_RESORT: Duration = Duration::from_secs(2);
/// The most requests that wait on the control socket.
const REQUESTS: usize = 16;

/// Rewrites every loaded configuration.
pub(crate) type Adjust = Arc<dyn Fn(&mut Config) + Send + Sync>;

pub(crate) struct Options {
    pub(crate) config: PathBuf,
    /// At the start and at each reload it puts the embedded broker in place of the config's brokers.
    pub(crate) adjust: Option<Adjust>,
    pub(crate) audience: Audience,
    /// The exit code for a stop that does not complete.
    pub(crate) code: fn(&Ended) -> u8,
}

/// How a daemon that ran has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Stopped,
    ByMessage(String),
    /// The brokers lack topics that the configuration needs.
    BadConfig(String),
    Failed(String),
}

/// Why the daemon did not start.
#[derive(Debug)]
pub(crate) enum StartError {
    /// The files on disk are bad.
    Config(String),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for StartError {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Runs the daemon until it is stopped.
pub(crate) fn run(options: Options) -> Result<Ended, StartError> {
    // The last resort outlives all values whose drop may block the end.
    let (ended, _last_resort) = start_and_run(options)?;
    Ok(ended)
}

fn start_and_run(options: Options) -> Result<(Ended, LastResort), StartError> {
    let notifier = Arc::new(Notifier::of_environment());
    let loaded =
        load::bundle(&options.config, 1, options.adjust.as_ref()).map_err(StartError::Config)?;
    let config = loaded.config.clone();
    let guard = Arc::new(logging::start(&config.log, options.audience)?);
    let (trigger, shutdown) = signals::channel();
    let (reload_sender, signals) = mpsc::channel(1);
    let drain = Arc::new(Mutex::new(config.daemon.drain_deadline));
    let (endings_sender, endings) = mpsc::unbounded_channel();
    let supervisor = Supervisor::new(endings_sender);
    let reactions = Reactions {
        trigger: trigger.clone(),
        drain: read(drain.clone()),
        reopen: Box::new(guard.reopener()),
        reloads: reload_sender,
        flush: {
            let flush = guard.flush();
            Box::new(move || flush.now())
        },
    };
    let _signals = Signals::listen(reactions, &supervisor)?;
    let server = Server::bind(&config.daemon.runtime_directory, &config.path)?;
    let http = http_server(&config)?;
    for warning in &config.warnings {
        log!(warn, daemon, "{warning}");
    }
    // A full channel holds an end that is still to be told, which covers this one as well.
    let (late_end, late_ends) = mpsc::channel(1);
    let at_late_end = move || _ = late_end.try_send(());
    let fleet = Fleet::start(loaded, supervisor.clone(), at_late_end)?;
    let watch = watch(&config, &supervisor)?;
    let roster = fleet.roster();
    let status = Arc::new(Mutex::new(first_status(&fleet)));
    let reloads = Reloads::new(
        options.config,
        options.adjust,
        fleet,
        reloads::Around {
            notifier: notifier.clone(),
            supervisor: supervisor.clone(),
            guard: guard.clone(),
            status: status.clone(),
            drain: drain.clone(),
        },
    );
    say_ready(&config);
    notifier.ready();
    let daemon = Daemon {
        notifier,
        supervisor,
        guard,
        trigger,
        shutdown,
        hands: OperatorCommands::new(roster.clone(), status.clone()),
        roster,
        status,
        drain,
        code: options.code,
        reloads,
    };
    let inputs = Inputs {
        watch,
        signals,
        late_ends,
        endings,
    };
    let ended = runtime()?.block_on(daemon.run(server, http, inputs));
    failpoint!("stopped");
    Ok(ended)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// `None` where only requests reload.
fn watch(config: &Config, supervisor: &Supervisor) -> anyhow::Result<Option<Watch>> {
    if !config.daemon.watch {
        return Ok(None);
    }
    let (path, handlers) = (config.path.clone(), config.lua.handlers.clone());
    Watch::start(path, handlers, supervisor).map(Some)
}

fn say_ready(config: &Config) {
    log!(
        info,
        daemon,
        version = env!("CARGO_PKG_VERSION"),
        librdkafka = crate::kafka::version(),
        bundle = 1,
        consumers = config.consumers.len(),
        listeners = config.listeners.len(),
        "ready"
    );
}

/// Reads the value at the time of each call.
fn read(shared: Arc<Mutex<Duration>>) -> Box<dyn Fn() -> Duration + Send> {
    Box::new(move || *shared.lock().unwrap_or_else(PoisonError::into_inner))
}

fn http_server(config: &Config) -> anyhow::Result<Option<http::Server>> {
    let http = config.http.as_ref();
    http.map(|http| http::Server::bind(http.listen)).transpose()
}

fn first_status(fleet: &Fleet) -> Status {
    let config = &fleet.bundle().config.path;
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        // The client may run in another folder.
        config: std::path::absolute(config)
            .as_ref()
            .unwrap_or(config)
            .display()
            .to_string(),
        started_at: now_ms(),
        bundle: fleet.bundle_status(),
        watches: Some(fleet.bundle().config.daemon.watch),
        ..Status::default()
    }
}

/// The state of the main thread.
struct Daemon {
    notifier: Arc<Notifier>,
    supervisor: Supervisor,
    guard: Arc<logging::Guard>,
    trigger: Trigger,
    shutdown: Shutdown,
    roster: Roster,
    status: Arc<Mutex<Status>>,
    hands: OperatorCommands,
    /// `drainDeadline` of the bundle in force.
    drain: Arc<Mutex<Duration>>,
    code: fn(&Ended) -> u8,
    reloads: Reloads,
}

/// What begins a reload, or ends the daemon.
struct Inputs {
    /// `None` where only requests reload.
    watch: Option<Watch>,
    signals: mpsc::Receiver<()>,
    late_ends: mpsc::Receiver<()>,
    endings: mpsc::UnboundedReceiver<Ending>,
}

impl Daemon {
    async fn run(
        mut self,
        server: Server,
        http: Option<http::Server>,
        mut inputs: Inputs,
    ) -> (Ended, LastResort) {
        let (ask, mut asked) = mpsc::channel::<Ask>(REQUESTS);
        let control = tokio::spawn(server.serve(ask));
        let http = http.map(|http| tokio::spawn(http.serve(self.responses().source())));
        let mut tick = tokio::time::interval(TICK);
        let mut ending = None;
        let (shutdown, supervisor) = (self.shutdown.clone(), self.supervisor.clone());
        let notifier = self.notifier.clone();
        let feeder = tokio::spawn({
            let notifier = notifier.clone();
            async move { notifier.watch(supervisor.counted()).await }
        });
        loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => break,
                Some(first) = inputs.endings.recv() => {
                    ending = Some(first);
                    break;
                }
                done = self.reloads.done() => self.reloads.take(done, inputs.watch.as_ref()),
                Some(Ask { request, who, answer }) = asked.recv() => match request {
                    Request::Reload => self.reloads.reload(true, Some(answer)),
                    Request::Status => self.answer_status(answer),
                    Request::Order(order) => self.hands.carry_out(order, who, answer),
                },
                Some(()) = inputs.signals.recv() => self.reloads.reload(true, None),
                Some(()) = changed(&mut inputs.watch) => self.reloads.reload(false, None),
                Some(()) = inputs.late_ends.recv() => self.reloads.late_end(),
                _ = tick.tick() => {
                    self.guard.look(Instant::now());
                    self.say_hangs();
                    self.tell_status(&notifier);
                }
            }
        }
        let (mut ended, last_resort) = self.stop(&notifier, ending).await;
        if ended == Ended::Stopped
            && let Some(reason) = panicked_meanwhile(&mut inputs.endings)
        {
            log!(error, daemon, reason, "stopped with errors");
            ended = Ended::Failed(reason);
        }
        feeder.abort();
        control.abort();
        if let Some(http) = http {
            http.abort();
        }
        (ended, last_resort)
    }

    /// Logs hangs of the threads without which messages are still processed.
    fn say_hangs(&self) {
        let observed = self.supervisor.observed();
        for thread in observed.newly_stalled(Instant::now()) {
            log!(error, daemon, %thread, "a thread stands still");
        }
    }

    fn responses(&self) -> Responses {
        Responses {
            roster: self.roster.clone(),
            status: self.status.clone(),
            supervisor: self.supervisor.clone(),
            guard: self.guard.clone(),
        }
    }

    fn answer_status(&self, answer: oneshot::Sender<Response>) {
        let (roster, status) = (self.roster.clone(), self.status.clone());
        tokio::task::spawn_blocking(move || {
            // The peer may have closed its connection.
            let _ = answer.send(Response::Status(Box::new(gather(&roster, &status).status)));
        });
    }

    fn tell_status(&self, notifier: &Arc<Notifier>) {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return;
        }
        let (roster, status, notifier) =
            (self.roster.clone(), self.status.clone(), notifier.clone());
        tokio::task::spawn_blocking(move || {
            notifier.status(&gather(&roster, &status).status.sentence());
        });
    }

    /// Drains, within the deadline, and joins every thread.
    async fn stop(self, notifier: &Notifier, ending: Option<Ending>) -> (Ended, LastResort) {
        notifier.stopping();
        self.supervisor.stopping();
        let drain = *self.drain.lock().unwrap_or_else(PoisonError::into_inner);
        self.trigger.request(match ending {
            Some(Ending::Failed(_)) => drain.min(DRAIN_AFTER_FAILURE),
            _ => drain,
        });
        let mut ended = Ended::from(ending);
        let deadline = self.shutdown.deadline().unwrap_or_else(Instant::now);
        let last = deadline + AFTER_DRAIN + LAST_RESORT;
        notifier.extend_timeout(last.saturating_duration_since(Instant::now()));
        let code = (self.code)(&ended);
        let mut last_resort = LastResort::arm(last, code, self.guard.flush(), &self.supervisor);
        match &ended {
            // The signal has been logged already.
            Ended::Stopped => {}
            Ended::ByMessage(reason) => log!(
                error,
                daemon,
                reason,
                "stopping: a handler failed and `onError` is \"stop\""
            ),
            Ended::BadConfig(reason) | Ended::Failed(reason) => {
                log!(error, daemon, reason, "stopping");
            }
        }
        self.roster.close(deadline);
        if let Some(fleet) = self.reloads.stop().await {
            let stopped = tokio::task::spawn_blocking(move || fleet.stop(deadline)).await;
            if let Ok(true) = stopped {
                log!(info, daemon, "stopped");
            } else {
                last_resort.keep();
                let reason = "stopped without draining: the deadline has passed";
                log!(error, daemon, "{reason}");
                // The end that was asked for is not the one that came.
                if ended == Ended::Stopped {
                    ended = Ended::Failed(reason.to_owned());
                }
            }
        }
        (ended, last_resort)
    }
}

impl From<Option<Ending>> for Ended {
    /// `None`: a signal requested the stop.
    fn from(ending: Option<Ending>) -> Self {
        match ending {
            None => Self::Stopped,
            Some(Ending::Message(sentence)) => Self::ByMessage(sentence),
            Some(Ending::Config(sentence)) => Self::BadConfig(sentence),
            Some(Ending::Failed(reason) | Ending::Thread(reason)) => Self::Failed(reason),
        }
    }
}

/// The first thread that panicked during a stop.
fn panicked_meanwhile(endings: &mut mpsc::UnboundedReceiver<Ending>) -> Option<String> {
    let mut endings = std::iter::from_fn(|| endings.try_recv().ok());
    endings.find_map(|ending| match ending {
        Ending::Thread(reason) => Some(reason),
        _ => None,
    })
}

/// Waits for a change of the files; without a watch, forever.
async fn changed(watch: &mut Option<Watch>) -> Option<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}
