//! The producers of handlers, for `tide.kafka.send`: those of the bundle in force, and of VMs that still drain.
//!
//! Each VM has the set of its configuration. Sets share the producers whose settings are equal, so that a reload makes
//! a new one only for a change. A producer that no set has any more ends when its records have their answers.

mod clients;
mod emission;
mod group;
mod hearing;
mod limits;
mod looking;
mod pending;
mod routes;
mod sending;
mod stats;
mod ways;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use super::endings::Endings;
use crate::config::{self, Config, DEFAULT_PRODUCER, Produced};
use crate::duration::short;
use crate::lua::ProducerSource;
use crate::message::Outgoing;
use crate::nearest::suggestion;
use crate::telemetry::metrics::ProducerSnapshot;
use crate::threads::supervisor::Supervisor;
use crate::wait::Fault;
use crate::wait::send::{
    Acknowledgements, Emission, Emitted, Few, Request, Senders, Sending, Troubled,
};

use group::Group;
use hearing::Receivers;
use stats::Stats;
use ways::Ways;

/// All producers of the process.
pub(crate) struct Producers {
    endings: Arc<Endings>,
    receivers: Arc<Receivers>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    groups: Vec<Weak<Group>>,
    /// By the name of the producer; they outlive a change of its settings.
    stats: BTreeMap<String, Arc<Stats>>,
    in_force: Option<Arc<Set>>,
}

/// The producers of one configuration, and what its listeners may send.
struct Set {
    groups: Vec<Arc<Group>>,
    listeners: Vec<(String, Option<Vec<Produced>>)>,
    receivers: Arc<Receivers>,
    /// A VM has its set for itself, so nobody waits for this lock.
    ways: Mutex<Ways>,
    /// By listener: the brokers of its consumer, where that has `exactlyOnce`.
    exactly_once: Vec<Option<String>>,
}

impl Producers {
    pub(crate) fn new(supervisor: &Supervisor) -> Self {
        Self {
            endings: Arc::new(Endings::new(supervisor)),
            receivers: Arc::default(),
            state: Mutex::default(),
        }
    }

    /// The configuration is in force: its producers that stand in the file connect, and its counts are shown. The
    /// first record of an idempotent producer would wait for that, up to half a second.
    pub(crate) fn put_in_force(&self, config: &Config) {
        let set = self.open_set(config);
        for group in &set.groups {
            if config.mentions(&group.settings) {
                group.connect();
            }
        }
        let mut state = self.lock();
        let names = |name: &String| config.producers.iter().any(|one| one.name == *name);
        state.stats.retain(|name, _| names(name));
        let old = state.in_force.replace(set);
        drop(state);
        drop(old);
    }

    /// The producers of the configuration in force.
    pub(crate) fn snapshots(&self) -> Vec<ProducerSnapshot> {
        let set = self.lock().in_force.clone();
        let groups = set.iter().flat_map(|set| &set.groups);
        groups.map(|group| group.snapshot()).collect()
    }

    /// Waits for the answers until `deadline`. Then every record without one is given up, and so is every later one.
    /// Returns whether all clients have ended.
    pub(crate) fn close(&self, deadline: Instant) -> bool {
        let groups: Vec<_> = {
            let mut state = self.lock();
            state.is_closed = true;
            state.groups.iter().filter_map(Weak::upgrade).collect()
        };
        for group in groups {
            group.close();
        }
        self.endings.close(deadline)
    }

    fn open_set(&self, config: &Config) -> Arc<Set> {
        let alive: Vec<_> = {
            let mut state = self.lock();
            state.groups.retain(|group| group.strong_count() > 0);
            state.groups.iter().filter_map(Weak::upgrade).collect()
        };
        let groups = config.producers.iter().map(|settings| {
            let mut alive = alive.iter();
            let found = alive.find(|group| group.settings == *settings).cloned();
            found.unwrap_or_else(|| self.new_group(settings))
        });
        let groups = groups.collect();
        let listeners = config.listeners.iter();
        Arc::new(Set {
            groups,
            listeners: listeners
                .map(|listener| (listener.name.clone(), listener.produces.clone()))
                .collect(),
            receivers: self.receivers.clone(),
            ways: Mutex::default(),
            exactly_once: looking::brokers_of_exactly_once(config),
        })
    }

    fn new_group(&self, settings: &config::Producer) -> Arc<Group> {
        let name = settings.name.clone();
        let stats = self.lock().stats.entry(name).or_default().clone();
        let group = Arc::new(Group::new(settings, stats, &self.endings, &self.receivers));
        let is_closed = {
            let mut all = self.lock();
            all.groups.push(Arc::downgrade(&group));
            all.is_closed
        };
        if is_closed {
            group.close();
        }
        group
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProducerSource for Producers {
    fn open(&self, config: &Arc<Config>) -> Arc<dyn Senders> {
        self.open_set(config)
    }
}

impl fmt::Debug for Producers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producers").finish_non_exhaustive()
    }
}

impl Set {
    fn group(&self, request: &Request) -> Result<&Arc<Group>, Fault> {
        let name = request.producer.as_deref().unwrap_or(DEFAULT_PRODUCER);
        let mut groups = self.groups.iter();
        groups
            .find(|group| group.settings.name == name)
            .ok_or_else(|| {
                let function = request.function;
                let message = if name == DEFAULT_PRODUCER {
                    format!(
                        "`{function}`: there is no default producer, since `brokers` is missing in `[kafkaConfig]`"
                    )
                } else {
                    format!("`{function}`: the configuration has no producer `{name}`")
                };
                Fault::new("notFound", message)
            })
    }

    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the listener of the request may send to these topics.
    fn may_send(&self, request: &Request) -> Result<(), Fault> {
        let listener = request.listener.and_then(|index| self.listeners.get(index));
        let Some((listener, Some(produces))) = listener else {
            return Ok(());
        };
        let mut topics = request.records.iter().map(|record| &record.topic);
        let Some(topic) = topics.find(|topic| !produces.iter().any(|one| one.has(topic))) else {
            return Ok(());
        };
        let texts: Vec<&str> = produces.iter().map(|one| one.text.as_str()).collect();
        let known = if texts.is_empty() {
            "is empty".to_owned()
        } else {
            format!("has not this one: {}", suggestion(topic, &texts))
        };
        let message = format!(
            "`{}`: listener `{listener}` may not send to topic `{topic}`: its `produces` {known}",
            request.function
        );
        Err(Fault::new("refused", message))
    }
}

impl Senders for Set {
    fn send(&self, request: Request) -> Result<Sending, Fault> {
        let group = self.group(&request)?;
        self.may_send(&request)?;
        looking::may_send(&self.exactly_once, group, &request)?;
        let (function, settings) = (request.function, &group.settings);
        let most = settings.timeout;
        let timeout = request.timeout.unwrap_or(most);
        if timeout > most {
            let message = format!(
                "`{function}`: `timeout` is {}, more than the {} of producer `{}`; raise `timeout` in its table",
                short(timeout),
                short(most),
                settings.name
            );
            return Err(Fault::new("invalid", message));
        }
        let bytes: usize = request.records.iter().map(Outgoing::size).sum();
        let fits = u32::try_from(bytes).ok();
        let Some(bytes) = fits.filter(|_| bytes <= settings.buffer_memory) else {
            let message = format!(
                "`{function}`: the records have {bytes} bytes, more than the {} of `bufferMemory` of producer `{}`; send \
                 them in several calls, or raise it",
                settings.buffer_memory, settings.name
            );
            return Err(Fault::new("tooLarge", message));
        };
        let counted = group.count(bytes).map_err(|fault| Fault {
            message: format!("`{function}`: {}", fault.message),
            ..fault
        })?;
        Ok(Box::pin(sending::send(
            group.clone(),
            request,
            timeout,
            (counted, bytes),
            sending::Kind::Awaited,
        )))
    }

    fn may_emit(&self, request: &Request) -> Result<(), Fault> {
        let group = self.group(request)?;
        self.may_send(request)?;
        looking::may_emit(&self.exactly_once, request)?;
        let bytes: usize = request.records.iter().map(Outgoing::size).sum();
        let most = group.settings.buffer_memory;
        if bytes > most {
            let message = format!(
                "`{}`: the records have {bytes} bytes, more than the {most} of `bufferMemory` of producer `{}`; raise it",
                request.function, group.settings.name
            );
            return Err(Fault::new("tooLarge", message));
        }
        Ok(())
    }

    fn emit_now(&self, emitted: &Arc<Emitted>, first: u64, to: &Arc<dyn Acknowledgements>) -> bool {
        let mut ways = self.ways();
        let first = first | ways.base_of(to, &self.receivers);
        // Where a record has no way, the slow way says why.
        let group = |request: &Request| self.group(request).ok().cloned();
        ways.send(emitted, first, group)
    }

    fn flush(&self) {
        self.ways().flush();
    }

    fn take_back(&self) {
        for group in &self.groups {
            group.take_back();
        }
    }

    fn fit(&self, requests: &[Request]) -> bool {
        let fits = |request| {
            self.group(request)
                .is_ok_and(|group| looking::fit(group, request))
        };
        requests.iter().all(fits)
    }

    fn look_at_topics(&self, requests: &[Request], troubled: Troubled) -> Emission {
        let of_group = |request| Ok((self.group(request)?.clone(), looking::Records::of(request)));
        let groups: Result<Vec<_>, Fault> = requests.iter().map(of_group).collect();
        Box::pin(async move { looking::look(groups?, troubled).await })
    }

    fn emit(&self, requests: Few<Request>, troubled: Troubled) -> Emission {
        let of_group = |request| Ok((self.group(&request)?.clone(), request));
        let requests: Result<Vec<_>, Fault> = requests.into_iter().map(of_group).collect();
        Box::pin(async move { emission::emit(requests?, troubled).await })
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Set").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
