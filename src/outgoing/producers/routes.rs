//! Where emitted records go: a topic of one client.
//!
//! A topic has one client at a time, since two do not keep the order of its records.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::kafka::producer::{Producer, Topic};
use crate::log::log;

#[derive(Default)]
pub(super) struct Routes(Mutex<HashMap<String, Arc<Route>>>);

pub(super) struct Route {
    pub(super) topic: Topic,
    /// Records without an answer.
    open: AtomicUsize,
    /// The limit of the topic has to be looked up again.
    is_stale: AtomicBool,
    /// Until when the limit counts.
    until: Mutex<Instant>,
}

impl Route {
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }

    /// Comes before the records are given to the client.
    pub(super) fn sent(&self, records: usize) {
        self.open.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn reported(&self, records: usize) {
        self.open.fetch_sub(records, Ordering::Relaxed);
    }

    pub(super) fn make_stale(&self) {
        self.is_stale.store(true, Ordering::Relaxed);
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    fn until(&self) -> MutexGuard<'_, Instant> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Routes {
    /// The route of the topic by this client, unless another one has records of it.
    pub(super) fn of(
        &self,
        topic: &str,
        client: &Arc<Producer>,
        until: Instant,
    ) -> Option<Arc<Route>> {
        let mut routes = self.lock();
        match routes.get(topic) {
            Some(route) if route.topic.is_of(client) => {
                *route.until() = until;
                route.is_stale.store(false, Ordering::Relaxed);
                return Some(route.clone());
            }
            Some(route) if route.is_open() => return None,
            _ => {}
        }
        let handle = match client.topic(topic) {
            Ok(handle) => handle,
            // The record finds out by itself.
            Err(failure) => {
                log!(
                    debug,
                    kafka,
                    error = failure.sentence,
                    "librdkafka refused a topic"
                );
                return None;
            }
        };
        let route = Arc::new(Route {
            topic: handle,
            open: AtomicUsize::new(0),
            is_stale: AtomicBool::new(false),
            until: Mutex::new(until),
        });
        routes.insert(topic.to_owned(), route.clone());
        Some(route)
    }

    /// Whether another client has records of the topic.
    pub(super) fn has_others(&self, topic: &str, client: &Arc<Producer>) -> bool {
        let routes = self.lock();
        let route = routes.get(topic);
        route.is_some_and(|route| !route.topic.is_of(client) && route.is_open())
    }

    /// The client ends, with the answers to its records or without.
    pub(super) fn forget(&self, client: &Arc<Producer>) {
        self.lock().retain(|_, route| !route.topic.is_of(client));
    }

    /// So many records of the topic with this address have their answers.
    pub(super) fn reported(&self, address: usize, records: usize) -> Option<Arc<Route>> {
        let routes = self.lock();
        let mut all = routes.values();
        let route = all.find(|route| route.topic.address() == address)?.clone();
        drop(routes);
        route.reported(records);
        if Instant::now() >= *route.until() {
            route.make_stale();
        }
        Some(route)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Route>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
