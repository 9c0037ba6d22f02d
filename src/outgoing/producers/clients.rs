//! The clients of one producer: `acks` and `compression` belong to a client, so each pair that is used has its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config;
use crate::failpoint::failpoint;
use crate::kafka::producer::{self, Producer, Way, is_of_connection};
use crate::log::log;
use crate::wait::Fault;
use crate::wait::send::{Acks, Compression};

use crate::outgoing::endings::Endings;

use super::hearing::Hearing;
use super::routes::Routes;

/// Each client has threads and connections.
const PAIRS_MAX: usize = 8;
/// The time beyond the deadline of its records after which a client is given up.
const END_GRACE: Duration = Duration::from_secs(2);
/// The property that a topic's limit lowers.
const BATCH: &str = "batch.size";
/// The most clients for emitted records: one for each size of batches.
const EMITTED_MAX: usize = 8;
/// How long emitted records wait for others of their batch, unless the producer has a time of its own. No handler
/// waits for them.
const LINGER: (&str, &str) = ("linger.ms", "5");
/// The time beyond the producer's own after which librdkafka gives up an emitted record. Who waits for it says why first.
const LATE: Duration = Duration::from_secs(1);

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Records whose handler waits; with batches of so many bytes at most.
    Awaited(usize),
    /// Records whose handler has returned, in batches of just so many bytes. A topic keeps its client, and with it the
    /// order of its records.
    Emitted(usize),
    /// Records that are sent again, each in a request of its own.
    Alone,
}

impl Use {
    fn way(self) -> Way {
        match self {
            Self::Awaited(_) | Self::Emitted(_) => Way::Together,
            Self::Alone => Way::Alone,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) acks: Acks,
    pub(super) compression: Compression,
}

pub(super) struct Clients {
    settings: config::Producer,
    endings: Arc<Endings>,
    /// Hears of emitted records.
    hearing: Arc<Hearing>,
    /// Those of the clients for emitted records.
    pub(super) routes: Arc<Routes>,
    /// Held while a client is made.
    making: Mutex<()>,
    /// Held for a look only.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    made: Vec<Made>,
    emitted: Vec<Client>,
}

struct Made {
    pair: Pair,
    awaited: Option<Client>,
    alone: Option<Client>,
}

impl State {
    fn find(&self, pair: Pair, purpose: Use) -> Option<&Client> {
        let made = || self.made.iter().find(|made| made.pair == pair);
        match purpose {
            Use::Awaited(largest) => made()?.awaited.as_ref().filter(|one| one.batch <= largest),
            Use::Emitted(batch) => self.emitted.iter().find(|one| one.batch == batch),
            Use::Alone => made()?.alone.as_ref(),
        }
    }

    /// Returns the client in whose place the new one comes.
    fn put(&mut self, pair: Pair, purpose: Use, client: Client) -> Option<Client> {
        if let Use::Emitted(batch) = purpose {
            let old = self.emitted.iter_mut().find(|one| one.batch == batch);
            if let Some(old) = old {
                return Some(std::mem::replace(old, client));
            }
            self.emitted.push(client);
            return None;
        }
        let found = self.made.iter().position(|made| made.pair == pair);
        let index = found.unwrap_or_else(|| {
            self.made.push(Made {
                pair,
                awaited: None,
                alone: None,
            });
            self.made.len() - 1
        });
        let made = &mut self.made[index];
        match purpose {
            Use::Alone => made.alone.replace(client),
            _ => made.awaited.replace(client),
        }
    }

    fn has_room(&self, pair: Pair, purpose: Use) -> bool {
        match purpose {
            Use::Emitted(batch) => {
                self.emitted.len() < EMITTED_MAX
                    || self.emitted.iter().any(|one| one.batch == batch)
            }
            _ => self.made.len() < PAIRS_MAX || self.made.iter().any(|made| made.pair == pair),
        }
    }

    fn clients(&mut self) -> impl Iterator<Item = Client> {
        let made = std::mem::take(&mut self.made).into_iter();
        let made = made.flat_map(|made| made.awaited.into_iter().chain(made.alone));
        made.chain(std::mem::take(&mut self.emitted))
    }
}

struct Client {
    producer: Arc<Producer>,
    /// The most bytes of its batches.
    batch: usize,
}

impl Clients {
    pub(super) fn new(
        settings: &config::Producer,
        endings: &Arc<Endings>,
        hearing: Hearing,
        routes: Arc<Routes>,
    ) -> Self {
        Self {
            settings: settings.clone(),
            endings: endings.clone(),
            hearing: Arc::new(hearing),
            routes,
            making: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// The client of a pair for this purpose, if it is there. Emitted records have one pair.
    pub(super) fn present(&self, pair: Pair, purpose: Use) -> Result<Option<Arc<Producer>>, Fault> {
        let state = self.open()?;
        let client = state.find(pair, purpose);
        let alive = client.filter(|client| !client.producer.is_dead());
        Ok(alive.map(|client| client.producer.clone()))
    }

    /// As `present`, but makes a client that is not there; the one in whose place it comes ends. **The call blocks**
    /// while librdkafka makes it. Whoever looks at the clients does not wait for that.
    pub(super) fn get(&self, pair: Pair, purpose: Use) -> Result<Arc<Producer>, Fault> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = self.present(pair, purpose)? {
            return Ok(producer);
        }
        let name = &self.settings.name;
        if !self.lock().has_room(pair, purpose) {
            let message = format!(
                "producer `{name}` has a client for each of {PAIRS_MAX} pairs of `acks` and `compression`, and no room \
                 for a further pair"
            );
            return Err(Fault::new("refused", message));
        }
        // librdkafka takes no batch of 0 bytes.
        let batch = match purpose {
            Use::Awaited(largest) => self.batch().min(largest).max(1),
            Use::Emitted(batch) => batch,
            Use::Alone => self.batch(),
        };
        let producer = self.make(pair, purpose, batch).map_err(|error| {
            let message = format!("producer `{name}` cannot be made: {error:#}");
            Fault::new("refused", message)
        })?;
        let producer = Arc::new(producer);
        let client = Client {
            producer: producer.clone(),
            batch,
        };
        let mut state = match self.open() {
            Ok(state) => state,
            // The producer was closed meanwhile.
            Err(fault) => {
                self.end(client);
                return Err(fault);
            }
        };
        let old = state.put(pair, purpose, client);
        drop(state);
        if let Some(old) = old {
            self.end(old);
        }
        Ok(producer)
    }

    /// The size of the batches for a topic with this limit. There are few of them, and none is above the limit.
    pub(super) fn batch_of_emitted(&self, limit: usize) -> usize {
        let most = self.batch();
        if limit >= most {
            return most;
        }
        1 << limit.max(1).ilog2()
    }

    /// The most bytes of a batch, whatever the topic.
    pub(super) fn batch(&self) -> usize {
        let size = self.settings.properties.get(BATCH);
        size.and_then(|size| size.text.parse().ok())
            .unwrap_or(usize::MAX)
    }

    fn make(&self, pair: Pair, purpose: Use, batch: usize) -> anyhow::Result<Producer> {
        let settings = &self.settings;
        let is_idempotent = settings.is_idempotent && pair.acks == Acks::All;
        let (acks, batch) = (pair.acks.number().to_string(), batch.to_string());
        let own = settings.properties.iter();
        let own = own.filter(|(name, _)| !is_of_connection(name));
        let mut extra: Vec<_> = own
            .map(|(name, value)| (name.as_str(), value.text.as_str()))
            .collect();
        extra.extend([
            ("acks", acks.as_str()),
            (
                "enable.idempotence",
                if is_idempotent { "true" } else { "false" },
            ),
            ("compression.codec", pair.compression.word()),
            (BATCH, batch.as_str()),
        ]);
        let own = settings.properties.get(LINGER.0);
        let late = (settings.timeout + LATE).as_millis().to_string();
        if matches!(purpose, Use::Emitted(_)) {
            extra.push(("message.timeout.ms", &late));
            if own.is_none_or(|own| own.text == "0") {
                extra.push(LINGER);
            }
        }
        failpoint!("client-make");
        let producer = Producer::with(&producer::Settings {
            supervisor: &self.endings.supervisor,
            name: &format!("send-{}", settings.name),
            properties: &settings.properties,
            deadline: settings.timeout,
            way: purpose.way(),
            extra: &extra,
            numbers: match purpose {
                Use::Emitted(_) => Some(self.hearing.clone()),
                _ => None,
            },
        })?;
        log!(
            debug,
            kafka,
            producer = settings.name,
            acks,
            compression = pair.compression.word(),
            batch,
            purpose = ?purpose,
            "a client of a producer was made"
        );
        Ok(producer)
    }

    pub(super) fn count(&self) -> usize {
        let state = self.lock();
        let made = state.made.iter();
        let made = made
            .map(|made| usize::from(made.awaited.is_some()) + usize::from(made.alone.is_some()));
        made.sum::<usize>() + state.emitted.len()
    }

    /// Takes back the emitted records that are in no request yet.
    pub(super) fn take_back(&self) {
        for client in &self.lock().emitted {
            client.producer.take_back();
        }
    }

    /// Ends every client when its records have their answers; no further one is made.
    pub(super) fn close(&self) {
        let clients: Vec<_> = {
            let mut state = self.lock();
            state.is_closed = true;
            state.clients().collect()
        };
        for client in clients {
            self.end(client);
        }
    }

    fn end(&self, client: Client) {
        self.routes.forget(&client.producer);
        let within = self.settings.timeout + END_GRACE;
        self.endings
            .end(&self.settings.name, client.producer, within);
    }

    /// The state, unless the producer is closing.
    fn open(&self) -> Result<MutexGuard<'_, State>, Fault> {
        let state = self.lock();
        if state.is_closed {
            let message = format!("producer `{}` is closing", self.settings.name);
            return Err(Fault::new("closed", message));
        }
        Ok(state)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.close();
    }
}
