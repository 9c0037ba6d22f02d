//! The daemon: starts everything, supervises it, reloads it and stops it. **Alone spawns the long-lived threads.**
//!
//! Start and reload take the same road (`load`, then the `fleet`), and whatever ends one thread unasked ends the daemon,
//! with its reason.

mod fleet;
mod load;
mod operator_commands;
mod pages;
mod reload;
mod topics;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};

use crate::clock::now_ms;
use crate::config::Config;
use crate::log::log;
use crate::service::control::{Ask, Server};
use crate::service::signals::{self, Reactions, Shutdown, Signals, Trigger};
use crate::service::systemd::{Notifier, Progress};
use crate::service::watch::Watch;
use crate::telemetry::http;
use crate::telemetry::logging::{self, Audience};
use crate::telemetry::status::{ReloadReport, Request, Response, Status};
use crate::threads::supervisor::Ending;

use fleet::{Fleet, Roster};
use operator_commands::Hands;
use pages::{Pages, gather};
use reload::Reloader;

/// Between two looks at dropped log lines and two status lines for systemd.
const TICK: Duration = Duration::from_secs(2);
/// What a stop may take beyond the drain: the last commit, and leaving the group.
const AFTER_DRAIN: Duration = Duration::from_secs(15);
/// The drain when a thread or a client has failed.
const DRAIN_AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Requests that wait on the control socket.
const REQUESTS: usize = 16;

/// Rewrites every configuration that is loaded.
pub(crate) type Adjust = Arc<dyn Fn(&mut Config) + Send + Sync>;

/// Hears of the start.
pub(crate) type Started = Box<dyn FnOnce(&Config) + Send>;

pub(crate) struct Options {
    pub(crate) config: PathBuf,
    /// At the start and at each reload: the embedded broker in place of the config's.
    pub(crate) adjust: Option<Adjust>,
    pub(crate) audience: Audience,
    /// Called once everything runs.
    pub(crate) started: Option<Started>,
}

/// How a daemon that ran has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Stopped,
    ByMessage(String),
    /// The brokers lack what the configuration needs.
    BadConfig(String),
    Failed(String),
}

/// Why it did not start.
#[derive(Debug)]
pub(crate) enum StartError {
    /// What lies on disk is bad.
    Config(String),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for StartError {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Runs until it is stopped.
pub(crate) fn run(options: Options) -> Result<Ended, StartError> {
    let notifier = Arc::new(Notifier::of_environment());
    let loaded =
        load::bundle(&options.config, 1, options.adjust.as_ref()).map_err(StartError::Config)?;
    let config = loaded.config.clone();
    let guard = Arc::new(logging::start(&config.log, options.audience)?);
    let (trigger, shutdown) = signals::channel();
    let (reload_sender, reloads) = mpsc::channel(1);
    let drain = Arc::new(Mutex::new(config.daemon.drain_deadline));
    let _signals = Signals::listen(Reactions {
        trigger: trigger.clone(),
        drain: read(drain.clone()),
        reopen: Box::new(guard.reopener()),
        reloads: reload_sender,
        flush: {
            let flush = guard.flush();
            Box::new(move || flush.now())
        },
    })
    .context("cannot listen to signals")?;
    let server = Server::bind(&config.daemon.runtime_directory)?;
    let http = http_server(&config)?;
    for warning in &config.warnings {
        log!(warn, daemon, "{warning}");
    }
    let progress = Arc::new(Progress::default());
    let (endings_sender, endings) = mpsc::unbounded_channel();
    let fleet = Fleet::start(loaded, endings_sender, progress.clone())?;
    let watch = Watch::start(config.path.clone(), config.lua.handlers.clone());
    let roster = fleet.roster();
    let status = Arc::new(Mutex::new(first_status(&fleet)));
    let reloader = Reloader::new(
        options.config,
        options.adjust,
        fleet,
        guard.clone(),
        status.clone(),
        drain,
    );
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
    notifier.ready();
    if let Some(started) = options.started {
        started(&config);
    }
    let supervisor = Supervisor {
        notifier,
        progress,
        guard,
        trigger,
        shutdown,
        hands: Hands::new(roster.clone(), status.clone()),
        roster,
        status,
        reloader: Some(reloader),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    Ok(runtime.block_on(supervisor.run(server, http, watch, reloads, endings)))
}

/// The value at the time of each call.
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
        // Whoever asks may be in another folder.
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

/// What the main thread looks after.
struct Supervisor {
    notifier: Arc<Notifier>,
    progress: Arc<Progress>,
    guard: Arc<logging::Guard>,
    trigger: Trigger,
    shutdown: Shutdown,
    roster: Roster,
    status: Arc<Mutex<Status>>,
    hands: Hands,
    /// Away while a reload is under way.
    reloader: Option<Reloader>,
}

/// A reload on its thread, and who waits for its report.
struct Reloading {
    task: tokio::task::JoinHandle<(Reloader, ReloadReport)>,
    asked: Vec<oneshot::Sender<Response>>,
    /// Something came in meanwhile: look again, whatever the bytes say where it was asked for.
    again: Option<bool>,
}

impl Supervisor {
    async fn run(
        mut self,
        server: Server,
        http: Option<http::Server>,
        mut watch: Watch,
        mut signals: mpsc::Receiver<()>,
        mut endings: mpsc::UnboundedReceiver<Ending>,
    ) -> Ended {
        let (ask, mut asked) = mpsc::channel::<Ask>(REQUESTS);
        let control = tokio::spawn(server.serve(ask));
        let http = http.map(|http| tokio::spawn(http.serve(self.pages().source())));
        let mut tick = tokio::time::interval(TICK);
        let mut reloading: Option<Reloading> = None;
        let mut ended = Ended::Stopped;
        let (shutdown, progress) = (self.shutdown.clone(), self.progress.clone());
        let notifier = self.notifier.clone();
        let feeder = tokio::spawn({
            let notifier = notifier.clone();
            async move { notifier.watch(progress).await }
        });
        loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => break,
                Some(ending) = endings.recv() => {
                    ended = match ending {
                        Ending::Message(sentence) => Ended::ByMessage(sentence),
                        Ending::Config(sentence) => Ended::BadConfig(sentence),
                        Ending::Failed(reason) => Ended::Failed(reason),
                    };
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
                    self.tell_status(&notifier);
                }
            }
        }
        self.stop(&notifier, reloading, &ended).await;
        feeder.abort();
        control.abort();
        if let Some(http) = http {
            http.abort();
        }
        ended
    }

    fn pages(&self) -> Pages {
        Pages {
            roster: self.roster.clone(),
            status: self.status.clone(),
            progress: self.progress.clone(),
            guard: self.guard.clone(),
        }
    }

    /// Starts a reload, or joins the one under way.
    fn reload(
        &mut self,
        reloading: &mut Option<Reloading>,
        force: bool,
        asked: Option<oneshot::Sender<Response>>,
    ) {
        if force {
            // At once: the manager that asked waits for it.
            self.notifier.reloading();
        }
        if let Some(reloading) = reloading {
            // The files may have been read already: they are read again, and who asked hears of that.
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
            let report = reloader.reload(force);
            (reloader, report)
        });
        *reloading = Some(Reloading {
            task,
            asked,
            again: None,
        });
    }

    fn reloaded(
        &mut self,
        result: Result<(Reloader, ReloadReport), tokio::task::JoinError>,
        reloading: &mut Option<Reloading>,
        watch: &Watch,
    ) {
        let Some(Reloading { asked, again, .. }) = reloading.take() else {
            return;
        };
        let (reloader, report) = match result {
            Ok(result) => result,
            Err(error) => {
                log!(error, daemon, %error, "the reload ended unasked");
                self.trigger.request(Duration::ZERO);
                return;
            }
        };
        watch.rearm(reloader.handlers());
        self.reloader = Some(reloader);
        if let Some(force) = again {
            self.begin_reload(reloading, force, asked);
            return;
        }
        self.notifier.ready();
        for answer in asked {
            // Whoever asked may have gone.
            let _ = answer.send(Response::Reloaded(report.clone()));
        }
    }

    fn answer_status(&self, answer: oneshot::Sender<Response>) {
        let (roster, status) = (self.roster.clone(), self.status.clone());
        tokio::task::spawn_blocking(move || {
            // Whoever asked may have gone.
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
    async fn stop(mut self, notifier: &Notifier, reloading: Option<Reloading>, ended: &Ended) {
        notifier.stopping();
        let drain = self
            .reloader
            .as_ref()
            .map_or(TICK, Reloader::drain_deadline);
        // Where a thread is gone, what waits for it drains in vain.
        let drain = match ended {
            Ended::Failed(_) => drain.min(DRAIN_AFTER_FAILURE),
            _ => drain,
        };
        self.trigger.request(drain);
        let deadline = self.shutdown.deadline().unwrap_or_else(Instant::now);
        notifier.extend_timeout(deadline.saturating_duration_since(Instant::now()) + AFTER_DRAIN);
        match ended {
            // The signal has said so.
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
        if let Some(reloading) = reloading {
            match reloading.task.await {
                Ok((reloader, _)) => self.reloader = Some(reloader),
                Err(error) => log!(error, daemon, %error, "the reload ended unasked"),
            }
        }
        if let Some(reloader) = self.reloader.take() {
            let stopped =
                tokio::task::spawn_blocking(move || reloader.into_fleet().stop(deadline)).await;
            match stopped {
                Ok(true) => log!(info, daemon, "stopped"),
                Ok(false) | Err(_) => {
                    log!(
                        error,
                        daemon,
                        "stopped without draining: the deadline has passed"
                    );
                }
            }
        }
    }
}

/// The reload that is under way, or never.
async fn finished(
    reloading: &mut Option<Reloading>,
) -> Result<(Reloader, ReloadReport), tokio::task::JoinError> {
    match reloading {
        Some(reloading) => (&mut reloading.task).await,
        None => std::future::pending().await,
    }
}
