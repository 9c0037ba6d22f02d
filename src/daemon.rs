//! The daemon: it starts all threads, reloads the bundle, and stops.
//!
//! Start and reload take the same road (`load`, then the `fleet`). A thread that ends unasked ends the daemon with
//! its reason; the other threads drain and commit as at any stop.

mod fleet;
mod last_resort;
mod load;
mod operator_commands;
mod reload;
mod responses;
mod topics;

use std::panic::{AssertUnwindSafe, catch_unwind};
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
use crate::telemetry::status::{ReloadReport, Request, Response, Status};
use crate::threads::supervisor::{Ending, Supervisor};

use fleet::{Fleet, Roster};
use last_resort::LastResort;
use operator_commands::OperatorCommands;
use reload::Reloader;
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
    let (reload_sender, reloads) = mpsc::channel(1);
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
    let fleet = Fleet::start(loaded, supervisor.clone())?;
    let (path, handlers) = (config.path.clone(), config.lua.handlers.clone());
    let watch = Watch::start(path, handlers, &supervisor)?;
    let roster = fleet.roster();
    let status = Arc::new(Mutex::new(first_status(&fleet)));
    let reloader = Reloader::new(
        options.config,
        options.adjust,
        fleet,
        guard.clone(),
        status.clone(),
        drain.clone(),
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
        reloader: Some(reloader),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(daemon.run(server, http, watch, reloads, endings));
    failpoint!("stopped");
    Ok(ended)
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
    /// `None` while a reload runs.
    reloader: Option<Reloader>,
}

/// Without a report, the reload panicked.
type Reloaded = (Reloader, Option<ReloadReport>);

/// A reload on its thread, and the peers that wait for its report.
struct Reloading {
    task: tokio::task::JoinHandle<Reloaded>,
    asked: Vec<oneshot::Sender<Response>>,
    /// Another request arrived meanwhile: reload again. `true`: a request forces it, also with unchanged bytes.
    again: Option<bool>,
}

impl Daemon {
    async fn run(
        mut self,
        server: Server,
        http: Option<http::Server>,
        mut watch: Watch,
        mut signals: mpsc::Receiver<()>,
        mut endings: mpsc::UnboundedReceiver<Ending>,
    ) -> (Ended, LastResort) {
        let (ask, mut asked) = mpsc::channel::<Ask>(REQUESTS);
        let control = tokio::spawn(server.serve(ask));
        let http = http.map(|http| tokio::spawn(http.serve(self.responses().source())));
        let mut tick = tokio::time::interval(TICK);
        let mut reloading: Option<Reloading> = None;
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
                Some(first) = endings.recv() => {
                    ending = Some(first);
                    break;
                }
                report = finished(&mut reloading) => self.reloaded(report, &mut reloading, &watch),
                Some(Ask { request, who, answer }) = asked.recv() => match request {
                    Request::Reload => self.reload(&mut reloading, true, Some(answer)),
                    Request::Status => self.answer_status(answer),
                    Request::Order(order) => self.hands.carry_out(order, who, answer),
                },
                Some(()) = signals.recv() => self.reload(&mut reloading, true, None),
                Some(()) = watch.changed() => self.reload(&mut reloading, false, None),
                _ = tick.tick() => {
                    self.guard.look(Instant::now());
                    self.say_hangs();
                    self.tell_status(&notifier);
                }
            }
        }
        let (mut ended, last_resort) = self.stop(&notifier, reloading, ending).await;
        if ended == Ended::Stopped
            && let Some(reason) = panicked_meanwhile(&mut endings)
        {
            log!(error, daemon, reason, "stopped, but not in order");
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

    /// Starts a reload, or joins the running one.
    fn reload(
        &mut self,
        reloading: &mut Option<Reloading>,
        force: bool,
        asked: Option<oneshot::Sender<Response>>,
    ) {
        if force {
            // At once: the service manager waits for this notification.
            self.notifier.reloading();
        }
        if let Some(reloading) = reloading {
            // The running reload may have read the files already. They are read again, and the peer gets that report.
            reloading.again = Some(force || reloading.again.unwrap_or(false));
            reloading.asked.extend(asked);
            return;
        }
        self.begin_reload(reloading, force, asked.into_iter().collect());
    }

    fn begin_reload(
        &mut self,
        reloading: &mut Option<Reloading>,
        force: bool,
        asked: Vec<oneshot::Sender<Response>>,
    ) {
        let Some(mut reloader) = self.reloader.take() else {
            return;
        };
        let task = tokio::task::spawn_blocking(move || {
            let report = catch_unwind(AssertUnwindSafe(|| reloader.reload(force)));
            (reloader, report.ok())
        });
        *reloading = Some(Reloading {
            task,
            asked,
            again: None,
        });
    }

    fn reloaded(
        &mut self,
        result: Result<Reloaded, tokio::task::JoinError>,
        reloading: &mut Option<Reloading>,
        watch: &Watch,
    ) {
        let Some(Reloading { asked, again, .. }) = reloading.take() else {
            return;
        };
        let report = result.ok().and_then(|(reloader, report)| {
            watch.rearm(reloader.handlers());
            self.reloader = Some(reloader);
            report
        });
        let Some(report) = report else {
            // The daemon may be about to end already.
            let ending = Ending::Thread("the reload panicked".to_owned());
            let _ = self.supervisor.endings().send(ending);
            return;
        };
        if let Some(force) = again {
            self.begin_reload(reloading, force, asked);
            return;
        }
        self.notifier.ready();
        for answer in asked {
            // The peer may have closed its connection.
            let _ = answer.send(Response::Reloaded(report.clone()));
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
    async fn stop(
        mut self,
        notifier: &Notifier,
        reloading: Option<Reloading>,
        ending: Option<Ending>,
    ) -> (Ended, LastResort) {
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
        if let Some(reloading) = reloading
            && let Ok((reloader, _)) = reloading.task.await
        {
            self.reloader = Some(reloader);
        }
        if let Some(reloader) = self.reloader.take() {
            let stopped =
                tokio::task::spawn_blocking(move || reloader.into_fleet().stop(deadline)).await;
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

/// Ends with the running reload; without one, never.
async fn finished(reloading: &mut Option<Reloading>) -> Result<Reloaded, tokio::task::JoinError> {
    match reloading {
        Some(reloading) => (&mut reloading.task).await,
        None => std::future::pending().await,
    }
}
