//! The parts that all VMs of the process share: attributes, the runtime of the outside, producers, admin clients, the
//! schedule of timers, the state of handlers, and the clock.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::clock::Clock;
use crate::config::Config;
use crate::rules::timers::Timers;
use crate::state::State;
use crate::threads::outside::Outside;
use crate::wait::Value;
use crate::wait::admin::Admin;
use crate::wait::http::Http;
use crate::wait::redis::Redis;
use crate::wait::send::Senders;
use crate::wait::sql::Databases;

use super::control::Consumers;
use super::outside_calls::OutsideCalls;

/// Where VMs get the producers of their configuration from.
pub(crate) trait ProducerSource: fmt::Debug + Send + Sync {
    /// Connects to no broker yet.
    fn open(&self, config: &Arc<Config>) -> Arc<dyn Senders>;
}

/// Where VMs get the admin client of their configuration from.
pub(crate) trait AdminSource: fmt::Debug + Send + Sync {
    /// Connects to no broker yet.
    fn open(&self, config: &Arc<Config>) -> Arc<dyn Admin>;
}

/// Where VMs get the HTTP client of their configuration from.
pub(crate) trait HttpSource: fmt::Debug + Send + Sync {
    /// Connects to nothing yet.
    fn open(&self, config: &Arc<Config>) -> Arc<dyn Http>;
}

/// Where VMs get the Redis clients of their configuration from.
pub(crate) trait RedisSource: fmt::Debug + Send + Sync {
    /// Connects to nothing yet.
    fn open(&self, config: &Arc<Config>) -> Arc<dyn Redis>;
}

/// Where VMs get the databases of their configuration from.
pub(crate) trait SqlSource: fmt::Debug + Send + Sync {
    /// Connects to nothing yet.
    fn open(&self, config: &Arc<Config>) -> Arc<dyn Databases>;
}

/// Shared by all workers and bundles.
#[derive(Debug, Default)]
pub(crate) struct App {
    /// The clock of every VM, and of its worker.
    clock: Clock,
    /// The runtime that serves the handlers' waits for work outside.
    pub(crate) outside: Outside,
    /// The calls of functions that wait for it.
    pub(crate) outside_calls: Arc<OutsideCalls>,
    /// The requests of handlers to consumers.
    pub(crate) consumers: Consumers,
    /// Which ticks of the handlers' timers are due.
    pub(crate) timers: Mutex<Timers>,
    /// `None` where no handler runs: in `moontide check`.
    producers: Option<Arc<dyn ProducerSource>>,
    /// `None` there, too.
    admins: Option<Arc<dyn AdminSource>>,
    /// `None` there, too.
    http: Option<Arc<dyn HttpSource>>,
    /// `None` there, too.
    redis: Option<Arc<dyn RedisSource>>,
    /// The stores, caches and limits of handlers.
    pub(crate) state: Arc<State>,
    /// `None` there, too.
    sql: Option<Arc<dyn SqlSource>>,
    attributes: RwLock<Attributes>,
}

/// Plain data by name, for `app.setAttr` and `app.getAttr`. They lie outside of the VMs and their limit.
#[derive(Debug, Default)]
struct Attributes {
    by_name: HashMap<Box<[u8]>, (Arc<Value>, usize)>,
    /// The bytes of all names and values.
    bytes: usize,
}

/// The most bytes of all attributes.
pub(super) const BYTES_MAX: usize = 64 << 20;
/// What a name costs beside its bytes.
const NAME_BYTES: usize = 96;

impl App {
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "tests hand in another clock than the system's")
    )]
    pub(crate) fn with_clock(clock: Clock) -> Self {
        Self {
            state: Arc::new(State::new(clock.clone())),
            clock,
            ..Self::default()
        }
    }

    pub(crate) fn with_producers(self, producers: Arc<dyn ProducerSource>) -> Self {
        Self {
            producers: Some(producers),
            ..self
        }
    }

    #[must_use]
    pub(crate) fn with_admins(self, admins: Arc<dyn AdminSource>) -> Self {
        Self {
            admins: Some(admins),
            ..self
        }
    }

    #[must_use]
    pub(crate) fn with_http(self, http: Arc<dyn HttpSource>) -> Self {
        Self {
            http: Some(http),
            ..self
        }
    }

    #[must_use]
    pub(crate) fn with_redis(self, redis: Arc<dyn RedisSource>) -> Self {
        Self {
            redis: Some(redis),
            ..self
        }
    }

    #[must_use]
    pub(crate) fn with_sql(self, sql: Arc<dyn SqlSource>) -> Self {
        Self {
            sql: Some(sql),
            ..self
        }
    }

    pub(super) fn sql(&self, config: &Arc<Config>) -> Option<Arc<dyn Databases>> {
        self.sql.as_ref().map(|source| source.open(config))
    }

    pub(super) fn redis(&self, config: &Arc<Config>) -> Option<Arc<dyn Redis>> {
        self.redis.as_ref().map(|source| source.open(config))
    }

    pub(super) fn http(&self, config: &Arc<Config>) -> Option<Arc<dyn Http>> {
        self.http.as_ref().map(|source| source.open(config))
    }

    pub(super) fn admin(&self, config: &Arc<Config>) -> Option<Arc<dyn Admin>> {
        self.admins.as_ref().map(|source| source.open(config))
    }

    pub(crate) fn senders(&self, config: &Arc<Config>) -> Option<Arc<dyn Senders>> {
        self.producers.as_ref().map(|source| source.open(config))
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// `Nil` removes the attribute. `bytes` is the size of the value. Fails when all attributes together would be too
    /// large; the attribute then keeps its old value.
    pub(super) fn set(&self, key: Box<[u8]>, value: Value, bytes: usize) -> Result<(), String> {
        let mut attributes = self
            .attributes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let old = attributes.by_name.get(&key).map_or(0, |(_, bytes)| *bytes);
        let others = attributes.bytes - old;
        let bytes = match value {
            Value::Nil => 0,
            _ => bytes + key.len() + NAME_BYTES,
        };
        if bytes > BYTES_MAX - others {
            return Err(format!(
                "`app.setAttr`: all attributes would have {} bytes, at most {BYTES_MAX} are allowed; set attributes to \
                 nil that are no longer needed",
                others + bytes
            ));
        }
        attributes.bytes = others + bytes;
        let old = match value {
            Value::Nil => attributes.by_name.remove(&key),
            value => attributes.by_name.insert(key, (Arc::new(value), bytes)),
        };
        // A large value is freed without the lock.
        drop(attributes);
        drop(old);
        Ok(())
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Arc<Value>> {
        let attributes = self
            .attributes
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        attributes.by_name.get(key).map(|(value, _)| value.clone())
    }
}
