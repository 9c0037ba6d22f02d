//! The threads of workers and consumers: the fleet starts them, hands them a new bundle, and joins them.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};

use crate::assignment::{ToConsumer, ToWorker};
use crate::bundle::Bundle;
use crate::clock::now_ms;
use crate::config::{self, Config};
use crate::consumer::{self, Consumer};
use crate::crash::exclusive::Exclusive;
use crate::crash::journal::{Journal, Page};
use crate::log::log;
use crate::lua::{App, Loader, Ticket, Unloaded, Vm, Watchdog};
use crate::outgoing::admin::Admins;
use crate::outgoing::clients::Clients;
use crate::outgoing::producers::Producers;
use crate::outgoing::required_topics::RequiredTopic;
use crate::rules::config_changes::Difference;
use crate::telemetry::metrics::{ConsumerSnapshot, ProducerSnapshot, WorkerSnapshot};
use crate::telemetry::status::{BundleStatus, ConsumerStatus};
use crate::threads::mailbox::Mailbox;
use crate::threads::outside::Snapshot;
use crate::threads::supervisor::{Ending, Handle, Kind, Supervisor};
use crate::worker::rates::Rates;
use crate::worker::{self, Worker};

use super::topics::Topics;
use super::{AFTER_DRAIN, StartError, load};

/// The longest turn of a consumer's loop before the watchdog reports that the thread stands still.
const CONSUMER_TURN: Duration = Duration::from_secs(10);
/// The longest swap of a worker: an older VM drains, and a call runs.
const SWAP: Duration = Duration::from_secs(60);
/// How long a thread may take to answer with its status.
const ANSWER: Duration = Duration::from_secs(1);
/// How long the last records of handlers wait for their answers when the daemon stops late.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

pub(super) struct Fleet {
    bundle: Arc<Bundle>,
    app: Arc<App>,
    producers: Arc<Producers>,
    admins: Arc<Admins>,
    watchdog: Arc<Watchdog>,
    loader: Loader,
    supervisor: Supervisor,
    epochs: Arc<AtomicU64>,
    workers: Vec<WorkerThread>,
    consumers: BTreeMap<String, ConsumerThread>,
    roster: Roster,
    topics: Topics,
}

struct WorkerThread {
    mailbox: Arc<Mailbox<ToWorker>>,
    thread: Handle,
}

struct ConsumerThread {
    inbox: Arc<Mailbox<ToConsumer>>,
    thread: Handle,
}

/// The mailboxes of all threads, for the status and for operator commands, also while a reload keeps the fleet busy.
#[derive(Clone, Default)]
pub(super) struct Roster(Arc<Mutex<Members>>);

#[derive(Default)]
struct Members {
    consumers: BTreeMap<String, Arc<Mailbox<ToConsumer>>>,
    workers: Vec<Arc<Mailbox<ToWorker>>>,
    config: Option<Arc<Config>>,
    journal: Option<Journal>,
    producers: Option<Arc<Producers>>,
    outside: Option<(Arc<App>, Arc<Clients>)>,
    /// The last answers of the workers, used while they are busy.
    said: Vec<WorkerSnapshot>,
}

impl Roster {
    /// Tells every consumer to drain. The call is idempotent.
    pub(super) fn close(&self, deadline: Instant) {
        let members = self.lock();
        if let Some(journal) = &members.journal {
            journal.stopping();
        }
        for worker in &members.workers {
            worker.send(ToWorker::EndTicks(deadline));
        }
        for inbox in members.consumers.values() {
            inbox.send(ToConsumer::Close(deadline));
        }
    }

    /// The snapshots of all threads. A consumer that does not answer in time is `silent`. A worker may be in a long
    /// call: then its last answer stands.
    pub(super) fn ask(&self) -> (Vec<ConsumerSnapshot>, Vec<WorkerSnapshot>) {
        let members = self.lock();
        let consumers = members.consumers.iter();
        let consumers: Vec<_> = consumers
            .map(|(name, inbox)| {
                let (sender, answer) = mpsc::channel();
                inbox.send(ToConsumer::Status(sender));
                (name.clone(), answer)
            })
            .collect();
        let workers = members.workers.iter();
        let workers: Vec<_> = workers
            .map(|mailbox| {
                let (sender, answer) = mpsc::channel();
                mailbox.send(ToWorker::Status(sender));
                answer
            })
            .collect();
        drop(members);
        let until = Instant::now() + ANSWER;
        let left = || until.saturating_duration_since(Instant::now());
        let consumers = consumers
            .into_iter()
            .map(|(name, answer)| {
                let answer = answer.recv_timeout(left());
                answer.unwrap_or_else(|_| silent(name))
            })
            .collect();
        let workers: Vec<_> = workers
            .into_iter()
            .map(|answer| answer.recv_timeout(left()).ok())
            .collect();
        (consumers, self.remember(workers))
    }

    /// Replaces the earlier answers of the workers by newer ones.
    fn remember(&self, answers: Vec<Option<WorkerSnapshot>>) -> Vec<WorkerSnapshot> {
        let said = &mut self.lock().said;
        said.resize_with(answers.len(), WorkerSnapshot::default);
        for (last, answer) in said.iter_mut().zip(answers) {
            if let Some(answer) = answer {
                *last = answer;
            }
        }
        said.clone()
    }

    pub(super) fn status(&self) -> Vec<ConsumerStatus> {
        let (consumers, _) = self.ask();
        consumers.into_iter().map(|one| one.status).collect()
    }

    pub(super) fn workers(&self) -> Vec<Arc<Mailbox<ToWorker>>> {
        self.lock().workers.clone()
    }

    pub(super) fn consumers(&self) -> Vec<Arc<Mailbox<ToConsumer>>> {
        self.lock().consumers.values().cloned().collect()
    }

    pub(super) fn producers(&self) -> Vec<ProducerSnapshot> {
        let producers = self.lock().producers.clone();
        producers.map_or_else(Vec::new, |producers| producers.snapshots())
    }

    /// The waits outside, and the clients that serve them.
    pub(super) fn outside(&self) -> Option<(Arc<App>, Arc<Clients>)> {
        self.lock().outside.clone()
    }

    /// The configuration in force.
    pub(super) fn config(&self) -> Option<Arc<Config>> {
        self.lock().config.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fleet {
    /// Loads the bundle's VMs and starts all threads. `at_late_end` runs when a load ends that was given up.
    pub(super) fn start(
        bundle: Bundle,
        supervisor: Supervisor,
        at_late_end: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let watchdog = Arc::new(Watchdog::start(&supervisor)?);
        let mut loader = Loader::new(watchdog.clone(), supervisor.clone(), at_late_end);
        let producers = Arc::new(Producers::new(&supervisor));
        let admins = Arc::new(Admins::new(&supervisor));
        let clients = Arc::new(Clients::default());
        let app = App::default().with_producers(producers.clone());
        let app = Arc::new(clients.join(app.with_admins(admins.clone())));
        let bundle = Arc::new(bundle);
        let vms = match load::vms(&mut loader, &Ticket::default(), &bundle, &app) {
            Ok(vms) => vms,
            Err(Unloaded::Failed(error) | Unloaded::Stuck(error)) => {
                return Err(StartError::Config(error));
            }
            Err(Unloaded::Cancelled) => {
                return Err(anyhow!("the start was cancelled").into());
            }
        };
        let topics = Topics::start(&bundle.config, &supervisor)?;
        let mut fleet = Self {
            bundle,
            app,
            producers,
            admins,
            watchdog,
            loader,
            supervisor,
            epochs: Arc::default(),
            workers: Vec::new(),
            consumers: BTreeMap::new(),
            roster: Roster::default(),
            topics,
        };
        {
            let mut members = fleet.roster.lock();
            members.config = Some(fleet.bundle.config.clone());
            members.producers = Some(fleet.producers.clone());
            members.outside = Some((fleet.app.clone(), clients));
        }
        load::put_in_force(&fleet.producers, &fleet.app, &fleet.bundle.config);
        fleet.start_workers(vms)?;
        for settings in &fleet.bundle.config.consumers.clone() {
            fleet.start_consumer(settings)?;
        }
        Ok(fleet)
    }

    pub(super) fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    pub(super) fn loader(&mut self) -> &mut Loader {
        &mut self.loader
    }

    /// Builds the VMs of another bundle.
    pub(super) fn load(
        &mut self,
        ticket: &Ticket,
        bundle: &Arc<Bundle>,
    ) -> Result<Vec<Vm>, Unloaded> {
        load::vms(&mut self.loader, ticket, bundle, &self.app)
    }

    pub(super) fn roster(&self) -> Roster {
        self.roster.clone()
    }

    pub(super) fn bundle_status(&self) -> BundleStatus {
        BundleStatus {
            number: self.bundle.number,
            hash: format!("{:016x}", self.bundle.hash),
            loaded_at: self.bundle.loaded_at,
        }
    }

    fn start_workers(&mut self, vms: Vec<Vm>) -> anyhow::Result<()> {
        let count = vms.len();
        let daemon = &self.bundle.config.daemon;
        let (journal, pages) = Journal::start(&daemon.state_directory, count, daemon.crashes_max);
        let mailboxes: Vec<_> = vms.iter().map(|_| Arc::new(Mailbox::default())).collect();
        let solo = Arc::new(Exclusive::new(mailboxes.clone()));
        let rates = Arc::new(Rates::new(Instant::now()));
        {
            let mut members = self.roster.lock();
            members.journal = journal;
            members.workers.clone_from(&mailboxes);
        }
        let parts = vms.into_iter().zip(pages).zip(mailboxes);
        for (index, ((vm, page), mailbox)) in parts.enumerate() {
            let shared = (solo.clone(), rates.clone());
            self.start_worker((index, count), vm, page, mailbox, shared)?;
        }
        Ok(())
    }

    fn start_worker(
        &mut self,
        (index, count): (usize, usize),
        vm: Vm,
        page: Page,
        mailbox: Arc<Mailbox<ToWorker>>,
        (solo, rates): (Arc<Exclusive<ToWorker>>, Arc<Rates>),
    ) -> anyhow::Result<()> {
        let name = format!("worker-{index}");
        let kind = Kind::Counted(worker::turn_max(&self.bundle.config));
        let (app, bundle, watchdog) =
            (self.app.clone(), self.bundle.clone(), self.watchdog.clone());
        let (endings, inbox) = (self.supervisor.endings(), mailbox.clone());
        let thread = self.supervisor.spawn(&name, kind, move |beat| {
            let pulse = watchdog.watch_current_thread(&format!("worker-{index}"));
            let start = worker::Start {
                index,
                count,
                mailbox: inbox,
                endings,
                beat,
                app,
                pulse,
                bundle,
                vm,
                page,
                solo,
                rates,
                chance: fastrand::Rng::new(),
            };
            Worker::new(start).run();
        })?;
        self.workers.push(WorkerThread { mailbox, thread });
        Ok(())
    }

    fn start_consumer(&mut self, settings: &config::Consumer) -> anyhow::Result<()> {
        let inbox = Arc::new(Mailbox::default());
        let name = format!("consumer-{}", settings.name);
        let consumer = Consumer::new(consumer::Start {
            settings: settings.clone(),
            bundle: self.bundle.clone(),
            inbox: inbox.clone(),
            workers: self
                .workers
                .iter()
                .map(|worker| worker.mailbox.clone())
                .collect(),
            supervisor: self.supervisor.clone(),
            control: self.app.consumers.of(&settings.name),
            epochs: self.epochs.clone(),
            topics: self.topics.mailbox(),
        })
        .with_context(|| format!("consumer `{}`", settings.name))?;
        let kind = Kind::Counted(CONSUMER_TURN);
        let thread = self
            .supervisor
            .spawn(&name, kind, move |beat| consumer.run(&beat))?;
        self.consumers.insert(
            settings.name.clone(),
            ConsumerThread {
                inbox: inbox.clone(),
                thread,
            },
        );
        let name = settings.name.clone();
        self.roster.lock().consumers.insert(name, inbox);
        Ok(())
    }

    /// Puts another bundle in force; its VMs are already built. The order: first, the removed parts of the old bundle
    /// finish with the routes that they began with. Then the workers swap between two calls. At last the consumers
    /// follow, and take the new parts.
    pub(super) fn apply(
        &mut self,
        bundle: &Arc<Bundle>,
        vms: Vec<Vm>,
        difference: &Difference,
        open: Vec<RequiredTopic>,
    ) {
        let drain = self.bundle.config.daemon.drain_deadline;
        let deadline = Instant::now() + drain;
        self.retire(bundle, deadline);
        for name in difference.removed.iter().chain(&difference.rejoin) {
            self.close_consumer(name, deadline);
        }
        self.swap(bundle, vms);
        self.bundle = bundle.clone();
        load::put_in_force(&self.producers, &self.app, &bundle.config);
        self.topics.follow(&bundle.config, open);
        self.roster.lock().config = Some(bundle.config.clone());
        for consumer in self.consumers.values() {
            consumer.inbox.send(ToConsumer::Reload(bundle.clone()));
        }
        for settings in &bundle.config.consumers {
            if !self.consumers.contains_key(&settings.name)
                && let Err(error) = self.start_consumer(settings)
            {
                // The new bundle is in force: without one of its consumers the daemon would do only part of its work.
                let ending = Ending::Failed(format!("{error:#}"));
                let _ = self.supervisor.endings().send(ending);
            }
        }
    }

    fn retire(&self, bundle: &Arc<Bundle>, deadline: Instant) {
        let waits: Vec<_> = self
            .consumers
            .values()
            .map(|consumer| {
                let (done, waits) = mpsc::channel();
                consumer.inbox.send(ToConsumer::Retire {
                    bundle: bundle.clone(),
                    done,
                });
                waits
            })
            .collect();
        for wait in waits {
            // The consumer has its own, shorter deadline; the watchdog detects a consumer that is stuck.
            let _ =
                wait.recv_timeout(deadline.saturating_duration_since(Instant::now()) + AFTER_DRAIN);
        }
    }

    fn swap(&self, bundle: &Arc<Bundle>, vms: Vec<Vm>) {
        let mut waits = Vec::new();
        for (worker, vm) in self.workers.iter().zip(vms) {
            let (done, wait) = mpsc::channel();
            worker.mailbox.send(ToWorker::Swap {
                bundle: bundle.clone(),
                vm: Box::new(vm),
                done,
            });
            waits.push(wait);
        }
        for wait in waits {
            // Without an answer, the worker has ended, which ends the daemon, or an old VM drains beyond its limit.
            let _ = wait.recv_timeout(SWAP);
        }
    }

    fn close_consumer(&mut self, name: &str, deadline: Instant) {
        self.roster.lock().consumers.remove(name);
        if let Some(consumer) = self.consumers.remove(name) {
            consumer.thread.may_end();
            consumer.inbox.send(ToConsumer::Close(deadline));
            consumer.thread.join(deadline + AFTER_DRAIN);
        }
    }

    /// Drains and joins all threads. Returns whether all of them ended in time.
    pub(super) fn stop(mut self, deadline: Instant) -> bool {
        for consumer in self.consumers.values() {
            consumer.inbox.send(ToConsumer::Close(deadline));
        }
        let mut in_time = true;
        for (_, consumer) in std::mem::take(&mut self.consumers) {
            in_time &= consumer.thread.join(deadline + AFTER_DRAIN);
        }
        // Not earlier: a draining message may wait for a topic that is still to be created.
        let topics = self.topics.stop();
        for worker in &self.workers {
            worker.mailbox.send(ToWorker::Stop);
        }
        for worker in std::mem::take(&mut self.workers) {
            in_time &= worker.thread.join(deadline + AFTER_DRAIN);
        }
        in_time &= topics.join(deadline + AFTER_DRAIN);
        in_time &= end_outside(&self.app, deadline + AFTER_DRAIN);
        in_time &= self.admins.close(deadline);
        in_time
            & self
                .producers
                .close(deadline.max(Instant::now() + LAST_ANSWERS))
    }
}

/// Each worker has given up its calls, and thereby their waits outside.
fn end_outside(app: &App, deadline: Instant) -> bool {
    let in_time = app.outside.drain(deadline);
    let Snapshot {
        open,
        begun,
        answered,
        told,
        dropped,
        lost,
    } = app.outside.snapshot();
    if begun > 0 {
        log!(
            info,
            daemon,
            begun,
            answered,
            told,
            dropped,
            lost,
            open,
            "jobs outside have ended"
        );
    }
    in_time
}

/// The status entry of a consumer that did not answer.
fn silent(name: String) -> ConsumerSnapshot {
    ConsumerSnapshot {
        status: ConsumerStatus {
            name,
            state: "silent".to_owned(),
            state_since: now_ms(),
            ..ConsumerStatus::default()
        },
        ..ConsumerSnapshot::default()
    }
}
