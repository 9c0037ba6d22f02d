//! Reloads, one at a time: a request during a reload begins another one after it, and cancels a load that it supersedes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};

use crate::log::log;
use crate::service::systemd::Notifier;
use crate::service::watch::Watch;
use crate::telemetry::logging::Guard;
use crate::telemetry::status::{ReloadReport, Response, Status};
use crate::threads::supervisor::{Ending, Supervisor};

use super::Adjust;
use super::fleet::Fleet;
use super::loading::Loading;
use super::reload::Reloader;

pub(super) struct Reloads {
    config: PathBuf,
    notifier: Arc<Notifier>,
    supervisor: Supervisor,
    status: Arc<Mutex<Status>>,
    loading: Loading,
    /// `None` while a reload runs.
    reloader: Option<Reloader>,
    running: Option<Running>,
}

/// The parts of the daemon that a reload changes or tells.
pub(super) struct Around {
    pub(super) notifier: Arc<Notifier>,
    pub(super) supervisor: Supervisor,
    pub(super) guard: Arc<Guard>,
    pub(super) status: Arc<Mutex<Status>>,
    pub(super) drain: Arc<Mutex<Duration>>,
}

/// How a reload ended.
enum Ended {
    Reported(ReloadReport),
    /// Newer bytes are to be loaded.
    Superseded,
    Panicked,
}

/// A reload on its thread, and the peers that wait for its report.
struct Running {
    task: JoinHandle<(Reloader, Ended)>,
    force: bool,
    asked: Vec<oneshot::Sender<Response>>,
    /// Another request arrived meanwhile: reload again. `true`: a request forces it, also with unchanged bytes.
    again: Option<bool>,
}

/// The end of the task of a reload.
pub(super) struct Done(Result<(Reloader, Ended), JoinError>);

impl Reloads {
    pub(super) fn new(
        config: PathBuf,
        adjust: Option<Adjust>,
        fleet: Fleet,
        around: Around,
    ) -> Self {
        let loading = Loading::default();
        let reloader = Reloader::new(
            config.clone(),
            adjust,
            fleet,
            around.guard,
            around.status.clone(),
            around.drain,
            loading.clone(),
        );
        Self {
            config,
            notifier: around.notifier,
            supervisor: around.supervisor,
            status: around.status,
            loading,
            reloader: Some(reloader),
            running: None,
        }
    }

    /// Starts a reload, or joins the running one.
    pub(super) fn reload(&mut self, force: bool, asked: Option<oneshot::Sender<Response>>) {
        if force {
            // At once: the service manager waits for this notification.
            self.notifier.reloading();
        }
        if let Some(running) = &mut self.running {
            // The running reload may have read the files already. They are read again, and the peer gets that report.
            running.again = Some(force || running.again.unwrap_or(false));
            running.asked.extend(asked);
            let (loading, config) = (self.loading.clone(), self.config.clone());
            tokio::task::spawn_blocking(move || loading.cancel_if_superseded(&config));
            return;
        }
        self.begin(force, asked.into_iter().collect());
    }

    /// A load that was given up has ended: reloads are possible again.
    pub(super) fn late_end(&mut self) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let stuck = status.stuck_load.take();
        let watches = status.watches == Some(true);
        drop(status);
        if let Some(stuck) = stuck {
            log!(
                info,
                reload,
                error = stuck.why,
                "the load that was given up has ended: reloads are possible again"
            );
        }
        if watches {
            // A save may have been refused meanwhile.
            self.reload(false, None);
        }
    }

    fn begin(&mut self, force: bool, asked: Vec<oneshot::Sender<Response>>) {
        let Some(mut reloader) = self.reloader.take() else {
            return;
        };
        let task = tokio::task::spawn_blocking(move || {
            let ended = match catch_unwind(AssertUnwindSafe(|| reloader.reload(force))) {
                Ok(Some(report)) => Ended::Reported(report),
                Ok(None) => Ended::Superseded,
                Err(_) => Ended::Panicked,
            };
            (reloader, ended)
        });
        self.running = Some(Running {
            task,
            force,
            asked,
            again: None,
        });
    }

    /// Waits for the end of the running reload; without one, forever.
    pub(super) async fn done(&mut self) -> Done {
        match &mut self.running {
            Some(running) => Done((&mut running.task).await),
            None => std::future::pending().await,
        }
    }

    pub(super) fn take(&mut self, Done(result): Done, watch: Option<&Watch>) {
        let Some(Running {
            asked,
            again,
            force,
            ..
        }) = self.running.take()
        else {
            return;
        };
        let ended = result.map_or(Ended::Panicked, |(reloader, ended)| {
            if let Some(watch) = watch {
                watch.rearm(reloader.handlers());
            }
            self.reloader = Some(reloader);
            ended
        });
        let report = match ended {
            Ended::Reported(report) => report,
            Ended::Superseded => return self.begin(force || again == Some(true), asked),
            Ended::Panicked => {
                // The daemon may be about to end already.
                let ending = Ending::Thread("the reload panicked".to_owned());
                let _ = self.supervisor.endings().send(ending);
                return;
            }
        };
        if let Some(force) = again {
            return self.begin(force, asked);
        }
        self.notifier.ready();
        for answer in asked {
            // The peer may have closed its connection.
            let _ = answer.send(Response::Reloaded(report.clone()));
        }
    }

    /// The fleet, once no reload uses it. A load is not waited for.
    pub(super) async fn stop(mut self) -> Option<Fleet> {
        self.loading.stop();
        if let Some(running) = self.running.take()
            && let Ok((reloader, _)) = running.task.await
        {
            self.reloader = Some(reloader);
        }
        self.reloader.map(Reloader::into_fleet)
    }
}
