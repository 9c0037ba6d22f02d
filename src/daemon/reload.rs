//! A reload: the disk is read once, and its content comes into force completely or not at all.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::bundle;
use crate::clock::now_ms;
use crate::config::{Errors, Sources};
use crate::failpoint::failpoint;
use crate::log::log;
use crate::lua::{Ticket, Unloaded};
use crate::rules::config_changes::{self, Difference};
use crate::telemetry::logging::Guard;
use crate::telemetry::status::{ReloadReport, ReloadResult, Status, StuckLoad};

use super::fleet::Fleet;
use super::loading::Loading;
use super::{Adjust, load, rest, topics};

pub(super) struct Reloader {
    path: PathBuf,
    adjust: Option<Adjust>,
    fleet: Fleet,
    guard: Arc<Guard>,
    status: Arc<Mutex<Status>>,
    drain: Arc<Mutex<Duration>>,
    loading: Loading,
    /// The folder of handlers that the disk names now, even while its content is bad: the watch needs this one.
    handlers: PathBuf,
    /// Warnings of files that nothing can load, as they were logged last.
    unusable: BTreeSet<String>,
    /// The hash of the last rejected bytes, and their error: the same is not logged again.
    rejected: Option<(u64, String)>,
    /// The same of the last load that was given up: only a request loads these bytes again.
    stuck: Option<(u64, String)>,
}

/// The result of a reload.
enum Outcome {
    Applied(Box<Difference>),
    Unchanged,
    /// The hash of the bytes, if they could be read, and the reason for the rejection.
    Rejected(Option<u64>, String),
    /// An earlier load has not ended, so nobody knows whether these bytes are good: their hash, and the reason.
    Refused(u64, String),
    /// The load was cancelled: the disk has newer bytes, or the daemon stops.
    Superseded,
}

impl Reloader {
    pub(super) fn new(
        path: PathBuf,
        adjust: Option<Adjust>,
        fleet: Fleet,
        guard: Arc<Guard>,
        status: Arc<Mutex<Status>>,
        drain: Arc<Mutex<Duration>>,
        loading: Loading,
    ) -> Self {
        Self {
            handlers: fleet.bundle().config.lua.handlers.clone(),
            unusable: unusable(&fleet.bundle().sources, &fleet.bundle().config.lua.handlers),
            path,
            adjust,
            fleet,
            guard,
            status,
            drain,
            loading,
            rejected: None,
            stuck: None,
        }
    }

    pub(super) fn into_fleet(self) -> Fleet {
        self.fleet
    }

    /// The folder to watch.
    pub(super) fn handlers(&self) -> PathBuf {
        self.handlers.clone()
    }

    /// Blocks until the bundle is in force or rejected. `force` also reloads unchanged bytes, and logs that. No report
    /// means that newer bytes are to be loaded instead.
    pub(super) fn reload(&mut self, force: bool) -> Option<ReloadReport> {
        let outcome = self.try_reload(force);
        if matches!(outcome, Outcome::Superseded) {
            let why = if self.loading.is_stopping() {
                "the daemon stops"
            } else {
                "the files have changed again"
            };
            log!(info, reload, why, "load cancelled");
            return None;
        }
        let mut report = self.report(&outcome, force);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.bundle = self.fleet.bundle_status();
        // Under the lock: the end of the load clears it under the same lock.
        status.stuck_load = self.fleet.loader().stuck().map(|stuck| StuckLoad {
            why: stuck.why.clone(),
            since: stuck.since,
        });
        match &outcome {
            Outcome::Applied(difference) => {
                status.disk = None;
                status.waiting_for_restart.clone_from(&difference.restart);
            }
            Outcome::Unchanged => {
                status.disk = None;
                // The watch may have taken the change before the command that asks now.
                report
                    .waiting_for_restart
                    .clone_from(&status.waiting_for_restart);
            }
            Outcome::Rejected(_, error) => status.disk = Some(error.clone()),
            Outcome::Refused(..) => status.disk = None,
            Outcome::Superseded => {}
        }
        if force || !matches!(outcome, Outcome::Unchanged) {
            match outcome {
                Outcome::Applied(_) => status.reloads.applied += 1,
                Outcome::Unchanged => status.reloads.unchanged += 1,
                Outcome::Rejected(..) | Outcome::Refused(..) => status.reloads.rejected += 1,
                Outcome::Superseded => {}
            }
            status.last_reload = Some(report.clone());
        }
        Some(report)
    }

    fn try_reload(&mut self, force: bool) -> Outcome {
        let current = self.fleet.bundle().clone();
        let ticket = Ticket::default();
        let unreadable = |errors: Errors| Outcome::Rejected(None, errors.to_string());
        let loading = self.loading.clone();
        let reading = loading.begin(&ticket);
        let text = match bundle::text(&self.path) {
            Ok(text) => text,
            Err(errors) => return unreadable(errors),
        };
        let snapshot = match bundle::read(&self.path, &text) {
            Ok(snapshot) => snapshot,
            Err(errors) => return unreadable(errors),
        };
        reading.found(snapshot.hash);
        self.handlers.clone_from(&snapshot.handlers);
        let unusable = unusable(&snapshot.sources, &self.handlers);
        warn_of_new(&mut self.unusable, unusable);
        let hash = snapshot.hash;
        if hash == current.hash && !force {
            return Outcome::Unchanged;
        }
        let rejected = |error| Outcome::Rejected(Some(hash), error);
        match &self.stuck {
            Some((stuck, error)) if *stuck == hash && !force => return rejected(error.clone()),
            _ => {}
        }
        if let Some(refusal) = self.fleet.loader().refusal() {
            return Outcome::Refused(hash, refusal);
        }
        let mut new = match load::check(snapshot, current.number + 1, self.adjust.as_ref()) {
            Ok(bundle) => bundle,
            Err(error) => return rejected(error),
        };
        let difference = config_changes::difference(&current.config, &new.config);
        new.config = Arc::new(config_changes::effective(&current.config, &new.config));
        let new = Arc::new(new);
        let vms = match self.fleet.load(&ticket, &new) {
            Ok(vms) => vms,
            Err(Unloaded::Failed(error)) => return rejected(error),
            Err(Unloaded::Stuck(error)) => {
                self.stuck = Some((hash, error.clone()));
                return rejected(error);
            }
            Err(Unloaded::Cancelled) => return Outcome::Superseded,
        };
        let found = topics::ask_for_new(&current.config, &new.config);
        if !found.missing.is_empty() {
            self.fleet.loader().discard(vms);
            return rejected(found.missing.join("\n"));
        }
        let open = found.open.into_iter().map(|(needed, _)| needed).collect();
        let drain = current.config.daemon.drain_deadline;
        if let Err(why) = rest::come_to_rest(&self.fleet.roster(), &current.config, &new, drain) {
            self.fleet.loader().discard(vms);
            return rejected(why);
        }
        failpoint!("before-swap");
        self.fleet.apply(&new, vms, &difference, open);
        failpoint!("after-swap");
        let known = |warning: &&String| {
            current.config.warnings.contains(*warning) || self.unusable.contains(*warning)
        };
        for warning in new.config.warnings.iter().filter(|one| !known(one)) {
            log!(warn, reload, "{warning}");
        }
        self.follow();
        Outcome::Applied(Box::new(difference))
    }

    /// Applies the live keys outside of the fleet.
    fn follow(&mut self) {
        let config = &self.fleet.bundle().config;
        if let Err(error) = self.guard.set_level(&config.log.level) {
            log!(warn, reload, %error, "log level not changed");
        }
        *self.drain.lock().unwrap_or_else(PoisonError::into_inner) = config.daemon.drain_deadline;
    }

    fn report(&mut self, outcome: &Outcome, force: bool) -> ReloadReport {
        let number = self.fleet.bundle().number;
        let was_rejected = self.rejected.take();
        let mut report = ReloadReport {
            at: now_ms(),
            result: ReloadResult::Unchanged,
            bundle: number,
            message: "nothing changed".to_owned(),
            waiting_for_restart: Vec::new(),
        };
        match outcome {
            Outcome::Unchanged if was_rejected.is_some() => {
                log!(
                    info,
                    reload,
                    bundle = number,
                    "the files match the running bundle again"
                );
            }
            Outcome::Unchanged | Outcome::Superseded => {}
            Outcome::Applied(difference) => {
                report.result = ReloadResult::Applied;
                report.message = difference.sentence();
                report.waiting_for_restart.clone_from(&difference.restart);
                log!(
                    info,
                    reload,
                    bundle = number,
                    changes = report.message,
                    "reloaded"
                );
                if !difference.restart.is_empty() {
                    log!(
                        warn,
                        reload,
                        keys = difference.restart.join(", "),
                        "these keys take effect at the next restart"
                    );
                }
            }
            Outcome::Rejected(None, error) => self.reject(&mut report, None, error, true),
            Outcome::Rejected(Some(hash), error) | Outcome::Refused(hash, error) => {
                let rejected = Some((*hash, error.clone()));
                let is_news = force || was_rejected != rejected;
                self.reject(&mut report, rejected, error, is_news);
            }
        }
        report
    }

    fn reject(
        &mut self,
        report: &mut ReloadReport,
        rejected: Option<(u64, String)>,
        error: &str,
        is_news: bool,
    ) {
        report.result = ReloadResult::Rejected;
        error.clone_into(&mut report.message);
        self.rejected = rejected;
        if is_news {
            log!(
                error,
                reload,
                bundle = report.bundle,
                error,
                "reload rejected: the old bundle stays in force"
            );
        }
    }
}

fn unusable(sources: &Sources, handlers: &Path) -> BTreeSet<String> {
    sources.warnings(handlers).collect()
}

/// Logs the files that nothing can load, each when it appears. They are no part of a bundle.
fn warn_of_new(known: &mut BTreeSet<String>, found: BTreeSet<String>) {
    for warning in found.difference(known) {
        log!(warn, reload, "{warning}");
    }
    *known = found;
}
