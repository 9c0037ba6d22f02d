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

/// Each client has threads and connections.
const PAIRS_MAX: usize = 8;
/// The time beyond the deadline of its records after which a client is given up.
const END_GRACE: Duration = Duration::from_secs(2);
/// The property that a topic's limit lowers.
const BATCH: &str = "batch.size";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) acks: Acks,
    pub(super) compression: Compression,
}

pub(super) struct Clients {
    settings: config::Producer,
    endings: Arc<Endings>,
    /// Held while a client is made.
    making: Mutex<()>,
    /// Held for a look only.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    made: Vec<Made>,
}

struct Made {
    pair: Pair,
    together: Option<Client>,
    alone: Option<Client>,
}

impl Made {
    fn slot(&self, way: Way) -> Option<&Client> {
        match way {
            Way::Together => self.together.as_ref(),
            Way::Alone => self.alone.as_ref(),
        }
    }

    fn slot_mut(&mut self, way: Way) -> &mut Option<Client> {
        match way {
            Way::Together => &mut self.together,
            Way::Alone => &mut self.alone,
        }
    }
}

struct Client {
    producer: Arc<Producer>,
    /// The most bytes of its batches.
    batch: usize,
}

impl Clients {
    pub(super) fn new(settings: &config::Producer, endings: &Arc<Endings>) -> Self {
        Self {
            settings: settings.clone(),
            endings: endings.clone(),
            making: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// The client of a pair, if it is there. Its batches have at most `largest` bytes.
    pub(super) fn present(
        &self,
        pair: Pair,
        way: Way,
        largest: usize,
    ) -> Result<Option<Arc<Producer>>, Fault> {
        let state = self.open()?;
        let made = state.made.iter().find(|made| made.pair == pair);
        let Some(client) = made.and_then(|made| made.slot(way)) else {
            return Ok(None);
        };
        let fits = way == Way::Alone || client.batch <= largest;
        Ok((fits && !client.producer.is_dead()).then(|| client.producer.clone()))
    }

    /// As `present`, but makes a client that is not there; one whose batches are larger ends. **The call blocks** while
    /// librdkafka makes it. Whoever looks at the clients does not wait for that.
    pub(super) fn get(&self, pair: Pair, way: Way, largest: usize) -> Result<Arc<Producer>, Fault> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = self.present(pair, way, largest)? {
            return Ok(producer);
        }
        self.has_room(pair)?;
        let name = &self.settings.name;
        // librdkafka takes no batch of 0 bytes.
        let batch = self.batch().min(largest).max(1);
        let producer = self.make(pair, way, batch).map_err(|error| {
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
        let found = state.made.iter().position(|made| made.pair == pair);
        let index = found.unwrap_or_else(|| {
            state.made.push(Made {
                pair,
                together: None,
                alone: None,
            });
            state.made.len() - 1
        });
        let old = state.made[index].slot_mut(way).replace(client);
        drop(state);
        if let Some(old) = old {
            self.end(old);
        }
        Ok(producer)
    }

    fn has_room(&self, pair: Pair) -> Result<(), Fault> {
        let state = self.lock();
        if state.made.len() < PAIRS_MAX || state.made.iter().any(|made| made.pair == pair) {
            return Ok(());
        }
        let message = format!(
            "producer `{}` has a client for each of {PAIRS_MAX} pairs of `acks` and `compression`, and no room for a \
             further pair",
            self.settings.name
        );
        Err(Fault::new("refused", message))
    }

    /// The most bytes of a batch, whatever the topic.
    pub(super) fn batch(&self) -> usize {
        let size = self.settings.properties.get(BATCH);
        size.and_then(|size| size.text.parse().ok())
            .unwrap_or(usize::MAX)
    }

    fn make(&self, pair: Pair, way: Way, batch: usize) -> anyhow::Result<Producer> {
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
        failpoint!("client-make");
        let producer = Producer::with(&producer::Settings {
            supervisor: &self.endings.supervisor,
            name: &format!("send-{}", settings.name),
            properties: &settings.properties,
            deadline: settings.timeout,
            way,
            extra: &extra,
        })?;
        log!(
            debug,
            kafka,
            producer = settings.name,
            acks,
            compression = pair.compression.word(),
            batch,
            alone = way == Way::Alone,
            "a client of a producer was made"
        );
        Ok(producer)
    }

    pub(super) fn count(&self) -> usize {
        let state = self.lock();
        let made = state.made.iter();
        made.map(|made| usize::from(made.together.is_some()) + usize::from(made.alone.is_some()))
            .sum()
    }

    /// Ends every client when its records have their answers; no further one is made.
    pub(super) fn close(&self) {
        let made = {
            let mut state = self.lock();
            state.is_closed = true;
            std::mem::take(&mut state.made)
        };
        for made in made {
            let both = made.together.into_iter().chain(made.alone);
            both.for_each(|client| self.end(client));
        }
    }

    fn end(&self, client: Client) {
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
