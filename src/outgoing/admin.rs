//! The admin client of handlers, for `tide.kafka.admin`: that of the bundle in force, and of VMs that still drain.
//!
//! Each VM has the rights of its configuration. Configurations with the same connection share a client, which is made at
//! the first call. It ends when no VM has it any more.

mod reading;
mod trouble;
mod writing;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::endings::Endings;
use crate::config::{Config, Connection};
use crate::duration::short;
use crate::failpoint::failpoint;
use crate::kafka::admin_request::AdminRequests;
use crate::kafka::producer::{self, Producer, Way, is_of_connection};
use crate::log::log;
use crate::lua::AdminSource;
use crate::threads::supervisor::Supervisor;
use crate::wait::admin::{Admin, Asking, Question, Request};
use crate::wait::{Cancel, Fault, Value};

use trouble::Trouble;

/// The most requests of a client at once; each has a thread meanwhile.
const REQUESTS_MAX: usize = 16;
/// The time for an answer to pass through the threads.
const SLACK: Duration = Duration::from_secs(2);
/// How long a client that ends waits for a request that nobody wants any more.
const END_GRACE: Duration = Duration::from_secs(5);
/// The wait before a request is repeated that found a wrong broker.
const AGAIN: Duration = Duration::from_millis(200);

/// The admin clients of the process.
pub(crate) struct Admins {
    endings: Arc<Endings>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    clients: Vec<Weak<Client>>,
}

/// What one configuration allows, and the client for it.
struct Rights {
    /// `None` without brokers.
    client: Option<Arc<Client>>,
    allow: Vec<String>,
    /// The groups of the daemon's own consumers.
    groups: Vec<String>,
}

/// One connection of the configuration.
struct Client {
    connection: Connection,
    endings: Arc<Endings>,
    slots: Arc<Semaphore>,
    /// Held while the client is made.
    making: Mutex<()>,
    /// Held for a look only.
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    is_closed: bool,
    producer: Option<Arc<Producer>>,
}

impl Admins {
    pub(crate) fn new(supervisor: &Supervisor) -> Self {
        Self {
            endings: Arc::new(Endings::new(supervisor)),
            state: Mutex::default(),
        }
    }

    /// Ends every client; no further one is made. Returns whether all have ended.
    pub(crate) fn close(&self, deadline: Instant) -> bool {
        let clients: Vec<_> = {
            let mut state = self.lock();
            state.is_closed = true;
            state.clients.iter().filter_map(Weak::upgrade).collect()
        };
        for client in clients {
            client.close();
        }
        self.endings.close(deadline)
    }

    fn client(&self, connection: &Connection) -> Arc<Client> {
        let mut state = self.lock();
        state.clients.retain(|client| client.strong_count() > 0);
        let mut alive = state.clients.iter().filter_map(Weak::upgrade);
        if let Some(client) = alive.find(|client| client.connection == *connection) {
            return client;
        }
        let client = Arc::new(Client {
            connection: connection.clone(),
            endings: self.endings.clone(),
            slots: Arc::new(Semaphore::new(REQUESTS_MAX)),
            making: Mutex::default(),
            made: Mutex::default(),
        });
        client.look().is_closed = state.is_closed;
        state.clients.push(Arc::downgrade(&client));
        client
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AdminSource for Admins {
    fn open(&self, config: &Arc<Config>) -> Arc<dyn Admin> {
        let connection = config.connection.as_ref();
        let consumers = config.consumers.iter();
        Arc::new(Rights {
            client: connection.map(|connection| self.client(connection)),
            allow: config.admin.allow.clone(),
            groups: consumers.map(|one| one.group_id.clone()).collect(),
        })
    }
}

impl fmt::Debug for Admins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admins").finish_non_exhaustive()
    }
}

impl Rights {
    fn may(&self, question: &Question) -> Result<(), Fault> {
        let name = question.name();
        if !self.allow.iter().any(|one| one == name) {
            let all = self.allow.iter().map(String::as_str).chain([name]);
            let all: Vec<&str> = all.collect();
            let message = format!(
                "`tide.kafka.admin.{name}` is not allowed; write `allow = [\"{}\"]` into `[kafka.admin]` of the \
                 configuration",
                all.join("\", \"")
            );
            return Err(Fault::new("refused", message));
        }
        let (Question::SetOffsets { group, .. } | Question::ResetOffsets { group, .. }) = question
        else {
            return Ok(());
        };
        if self.groups.contains(group) {
            let message = format!(
                "`tide.kafka.admin.{name}`: group `{group}` is that of a consumer of this daemon; `seek` of \
                 `tide.kafka.consumer` moves it"
            );
            return Err(Fault::new("refused", message));
        }
        Ok(())
    }
}

impl Admin for Rights {
    fn ask(&self, request: Request) -> Result<Asking, Fault> {
        self.may(&request.question)?;
        let Some(client) = self.client.clone() else {
            let message = format!(
                "`tide.kafka.admin.{}`: no brokers are known, since `brokers` is missing in `[kafkaConfig]`",
                request.question.name()
            );
            return Err(Fault::new("notFound", message));
        };
        Ok(Box::pin(ask(client, request)))
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rights").finish_non_exhaustive()
    }
}

/// A drop of the future ends the request soon.
async fn ask(client: Arc<Client>, request: Request) -> Result<Value, Fault> {
    let timeout = request.timeout.unwrap_or(client.connection.request_timeout);
    let deadline = Instant::now() + timeout;
    let name = request.question.name();
    let slot = client.slots.clone().acquire_owned();
    let Ok(Ok(slot)) = timeout_at(deadline.into(), slot).await else {
        let message = format!(
            "`tide.kafka.admin.{name}`: {REQUESTS_MAX} other requests were under way for {}; call it later",
            short(timeout)
        );
        return Err(Fault::new("busy", message));
    };
    let (cancel, told) = Cancel::new();
    let work = tokio::task::spawn_blocking(move || {
        let _slot = slot;
        client.answer(&request.question, (deadline, timeout), &|| !told.is_told())
    });
    // librdkafka keeps the deadline, but the making of a client has none.
    let answer = timeout_at((deadline + SLACK).into(), work).await;
    drop(cancel);
    let (kind, why) = match answer {
        Ok(Ok(answer)) => return answer,
        Ok(Err(error)) => ("internal", error.to_string()),
        Err(_) => ("timeout", format!("no answer within {}", short(timeout))),
    };
    Err(Fault::new(
        kind,
        format!("`tide.kafka.admin.{name}`: {why}"),
    ))
}

impl Client {
    /// **The call blocks**, up to the deadline.
    fn answer(
        &self,
        question: &Question,
        (deadline, timeout): (Instant, Duration),
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Value, Fault> {
        let producer = self.producer().map_err(|fault| Fault {
            message: format!("`tide.kafka.admin.{}`: {}", question.name(), fault.message),
            ..fault
        })?;
        let requests = AdminRequests {
            client: &producer,
            deadline,
            is_wanted,
        };
        loop {
            let trouble = match answer(&requests, question) {
                Ok(value) => return Ok(value),
                Err(trouble) => trouble,
            };
            let has_time = Instant::now() + AGAIN < deadline && is_wanted();
            if !(has_time && trouble.is_passing()) {
                let addresses = self.connection.addresses();
                let reason = producer.last_error();
                return Err(trouble.fault(question.name(), addresses, timeout, reason));
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// **The call blocks** while librdkafka makes the client. Whoever looks at it does not wait for that.
    fn producer(&self) -> Result<Arc<Producer>, Fault> {
        let closed = || Fault::new("closed", "the admin client is closing");
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let made = self.look();
            if made.is_closed {
                return Err(closed());
            }
            if let Some(producer) = &made.producer {
                return Ok(producer.clone());
            }
        }
        failpoint!("admin-make");
        let made = self.make().map_err(|error| {
            let message = format!("the admin client cannot be made: {error:#}");
            Fault::new("refused", message)
        });
        let producer = Arc::new(made?);
        log!(debug, kafka, "the admin client was made");
        let mut made = self.look();
        if made.is_closed {
            drop(made);
            self.end(producer);
            return Err(closed());
        }
        made.producer = Some(producer.clone());
        Ok(producer)
    }

    fn make(&self) -> anyhow::Result<Producer> {
        let properties = &self.connection.properties;
        let own = properties
            .iter()
            .filter(|(name, _)| !is_of_connection(name));
        let mut extra: Vec<_> = own
            .map(|(name, value)| (name.as_str(), value.text.as_str()))
            .collect();
        extra.extend([
            // An idempotent producer would ask for an id, which is a right of its own.
            ("enable.idempotence", "false"),
            ("allow.auto.create.topics", "false"),
        ]);
        Producer::with(&producer::Settings {
            supervisor: &self.endings.supervisor,
            name: "admin",
            properties,
            deadline: self.connection.request_timeout,
            way: Way::Together,
            extra: &extra,
            numbers: None,
        })
    }

    fn close(&self) {
        let producer = {
            let mut made = self.look();
            made.is_closed = true;
            made.producer.take()
        };
        if let Some(producer) = producer {
            self.end(producer);
        }
    }

    fn end(&self, producer: Arc<Producer>) {
        self.endings.end("admin", producer, END_GRACE);
    }

    fn look(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.close();
    }
}

fn answer(requests: &AdminRequests<'_>, question: &Question) -> Result<Value, Trouble> {
    match question {
        Question::ListTopics => reading::topics(requests),
        Question::FetchTopicMetadata { topics } => reading::metadata(requests, topics.as_deref()),
        Question::FetchTopicOffsets { topic } => reading::offsets(requests, topic),
        Question::FetchTopicOffsetsByTimestamp { topic, ms } => {
            reading::offsets_at(requests, topic, *ms)
        }
        Question::FetchOffsets { group, topics } => {
            reading::committed(requests, group, topics.as_deref())
        }
        Question::DescribeCluster => reading::cluster(requests),
        Question::ListGroups => reading::groups(requests),
        Question::DescribeGroups { groups } => reading::describe_groups(requests, groups),
        Question::DescribeConfigs {
            resources,
            with_synonyms,
        } => reading::configs(requests, resources, *with_synonyms),
        Question::CreateTopics {
            topics,
            validate_only,
            wait_for_leaders,
        } => writing::create_topics(requests, topics, *validate_only, *wait_for_leaders),
        Question::CreatePartitions {
            topics,
            validate_only,
        } => writing::create_partitions(requests, topics, *validate_only),
        Question::DeleteTopics { topics } => writing::delete_topics(requests, topics),
        Question::DeleteTopicRecords { topic, partitions } => {
            writing::delete_records(requests, topic, partitions)
        }
        Question::SetOffsets {
            group,
            topic,
            partitions,
        } => writing::set_offsets(requests, group, topic, partitions),
        Question::ResetOffsets {
            group,
            topic,
            to_beginning,
        } => writing::reset_offsets(requests, group, topic, *to_beginning),
        Question::AlterConfigs {
            resources,
            validate_only,
        } => writing::alter_configs(requests, resources, *validate_only),
        Question::DeleteGroups { groups } => writing::delete_groups(requests, groups),
    }
}

/// Tables as kafkajs shapes them.
mod shape {
    use crate::wait::Value;

    pub(super) fn text(text: &str) -> Value {
        Value::Bytes(text.as_bytes().into())
    }

    pub(super) fn number(number: impl Into<i64>) -> Value {
        Value::Integer(number.into())
    }

    pub(super) fn table<const N: usize>(fields: [(&str, Value); N]) -> Value {
        let fields = fields.into_iter();
        let fields = fields.filter(|(_, value)| *value != Value::Nil);
        Value::Table(fields.map(|(name, value)| (text(name), value)).collect())
    }

    pub(super) fn list(values: impl IntoIterator<Item = Value>) -> Value {
        let numbered = values.into_iter().zip(1..);
        let pairs = numbered.map(|(value, index)| (Value::Integer(index), value));
        Value::Table(pairs.collect())
    }

    /// Values by names that are data.
    pub(super) fn by_name(pairs: impl IntoIterator<Item = (String, Value)>) -> Value {
        let pairs = pairs.into_iter();
        Value::Table(pairs.map(|(name, value)| (text(&name), value)).collect())
    }
}

#[cfg(test)]
mod tests;
