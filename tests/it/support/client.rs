//! The tests' own Kafka client: produces, and asks the broker what a group has committed.
//!
//! It joins no group, so that asking never disturbs what is tested, and everything that it produces is acknowledged
//! when it returns.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::groups::GroupList;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList};

use super::kafka::{Kafka, unique};
use super::wait::{DEADLINE, wait_for, wait_some};

const REQUEST: Duration = Duration::from_secs(20);

/// What to produce; every field as Kafka has it, null apart from empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(crate) partition: Option<i32>,
    pub(crate) timestamp: Option<i64>,
}

impl Message {
    pub(crate) fn value(value: impl AsRef<[u8]>) -> Self {
        Self {
            value: Some(value.as_ref().to_vec()),
            ..Self::default()
        }
    }

    pub(crate) fn key(self, key: impl AsRef<[u8]>) -> Self {
        Self {
            key: Some(key.as_ref().to_vec()),
            ..self
        }
    }

    pub(crate) fn partition(self, partition: i32) -> Self {
        Self {
            partition: Some(partition),
            ..self
        }
    }

    pub(crate) fn header(mut self, name: impl AsRef<[u8]>, value: Option<&[u8]>) -> Self {
        self.headers
            .push((name.as_ref().to_vec(), value.map(<[u8]>::to_vec)));
        self
    }
}

/// `0`, `1`, … as values, all to one partition.
pub(crate) fn numbered(range: std::ops::Range<u64>, partition: i32) -> Vec<Message> {
    range
        .map(|number| Message::value(number.to_string()).partition(partition))
        .collect()
}

/// A topic of its test alone, and what can be done to it from outside.
pub(crate) struct Topic<'a> {
    kafka: &'a Kafka,
    pub(crate) name: String,
}

impl Kafka {
    pub(crate) fn topic(&self, name: &str, partitions: usize) -> Topic<'_> {
        self.topic_named(unique(name), partitions)
    }

    /// One that was created elsewhere.
    #[allow(dead_code, reason = "of the binaries that share this, one uses it")]
    pub(crate) fn existing_topic(&self, name: &str) -> Topic<'_> {
        Topic {
            kafka: self,
            name: name.to_owned(),
        }
    }

    /// For names that a pattern is to match.
    pub(crate) fn topic_named(&self, name: String, partitions: usize) -> Topic<'_> {
        self.topic_with(name, partitions, &[])
    }

    /// With settings of its own.
    pub(crate) fn topic_with(
        &self,
        name: String,
        partitions: usize,
        settings: &[(&str, &str)],
    ) -> Topic<'_> {
        let mut topic = NewTopic::new(&name, partitions as i32, TopicReplication::Fixed(1));
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        let created = block_on(self.admin().create_topics([&topic], &options())).unwrap();
        for result in created {
            result.expect("the topic is created");
        }
        let topic = Topic { kafka: self, name };
        // A broker says yes before every topic can be used.
        wait_for("the topic has its leaders", DEADLINE, || {
            (0..partitions).all(|partition| topic.try_watermarks(partition as i32).is_ok())
        });
        topic
    }

    /// What `group` has committed in a partition.
    pub(crate) fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        Committed::new(self, group).of(topic, partition)
    }

    /// Sets a group's offset as an administrator would; nobody may be in the group.
    pub(crate) fn commit(&self, group: &str, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .unwrap();
        wait_some("the offset is set", DEADLINE, || {
            self.asker(group).commit(&list, CommitMode::Sync).ok()
        });
    }

    /// … with metadata of somebody else's.
    pub(crate) fn commit_with(
        &self,
        group: &str,
        (topic, partition): (&str, i32),
        offset: i64,
        metadata: &str,
    ) {
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(topic, partition);
        element.set_offset(Offset::Offset(offset)).unwrap();
        element.set_metadata(metadata);
        wait_some("the offset is set", DEADLINE, || {
            self.asker(group).commit(&list, CommitMode::Sync).ok()
        });
    }

    /// The offset and the metadata of a group's commit.
    pub(crate) fn committed_with(
        &self,
        group: &str,
        topic: &str,
        partition: i32,
    ) -> Option<(i64, String)> {
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        let committed = wait_some("the committed offset is told", DEADLINE, || {
            self.asker(group)
                .committed_offsets(list.clone(), REQUEST)
                .ok()
        });
        let element = committed.find_partition(topic, partition)?;
        match element.offset() {
            Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
            _ => None,
        }
    }

    /// Member ids and client ids of a group of the classic protocol.
    pub(crate) fn members(&self, group: &str) -> BTreeMap<String, String> {
        let list: GroupList = wait_some("the group can be described", DEADLINE, || {
            self.asker("nobody")
                .fetch_group_list(Some(group), REQUEST)
                .ok()
        });
        let members = list
            .groups()
            .iter()
            .flat_map(rdkafka::groups::GroupInfo::members);
        members
            .map(|member| (member.id().to_owned(), member.client_id().to_owned()))
            .collect()
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().unwrap()
    }

    fn asker(&self, group: &str) -> BaseConsumer {
        self.client()
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .create()
            .unwrap()
    }

    /// How many partitions a topic has; `None` where it is not there.
    pub(crate) fn partitions(&self, topic: &str) -> Option<usize> {
        let topics = self.topics_with(topic);
        topics
            .into_iter()
            .find_map(|(name, count)| (name == topic).then_some(count))
    }

    /// The topics whose names begin so, with the numbers of their partitions.
    pub(crate) fn topics_with(&self, prefix: &str) -> Vec<(String, usize)> {
        let asker = self.asker("nobody");
        let metadata = wait_some("the topics are told", DEADLINE, || {
            asker.fetch_metadata(None, REQUEST).ok()
        });
        let topics = metadata.topics().iter();
        topics
            .filter(|one| one.name().starts_with(prefix))
            .map(|one| (one.name().to_owned(), one.partitions().len()))
            .collect()
    }

    pub(super) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.bootstrap())
            .set("log_level", "0");
        config
    }
}

/// A group's committed offsets, asked again and again over one connection.
pub(crate) struct Committed(BaseConsumer);

impl Committed {
    pub(crate) fn new(kafka: &Kafka, group: &str) -> Self {
        Self(kafka.asker(group))
    }

    pub(crate) fn of(&self, topic: &str, partition: i32) -> Option<i64> {
        wait_some("the committed offset is told", DEADLINE, || {
            self.try_all(topic, partition + 1).ok()
        })
        .remove(&partition)
    }

    /// By partition, those that have none left out.
    pub(crate) fn try_all(
        &self,
        topic: &str,
        partitions: i32,
    ) -> Result<BTreeMap<i32, i64>, KafkaError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        let committed = self.0.committed_offsets(list, REQUEST)?;
        let mut offsets = BTreeMap::new();
        for element in committed.elements() {
            element.error()?;
            if let Offset::Offset(offset) = element.offset() {
                offsets.insert(element.partition(), offset);
            }
        }
        Ok(offsets)
    }
}

impl Topic<'_> {
    /// Returns partition and offset of each message, in their order.
    pub(crate) fn produce(&self, messages: impl IntoIterator<Item = Message>) -> Vec<(i32, i64)> {
        self.produce_with(&[], messages)
    }

    pub(crate) fn produce_with(
        &self,
        properties: &[(&str, &str)],
        messages: impl IntoIterator<Item = Message>,
    ) -> Vec<(i32, i64)> {
        let producer = self.producer(properties);
        let count = self.send(&producer, messages);
        self.delivered(&producer, count)
    }

    /// Between two of the messages lies a control record then: offsets have a gap.
    pub(crate) fn produce_in_transactions(&self, messages: impl IntoIterator<Item = Message>) {
        let producer = self.producer(&[("transactional.id", &unique("transactions"))]);
        producer.init_transactions(REQUEST).unwrap();
        for message in messages {
            producer.begin_transaction().unwrap();
            let count = self.send(&producer, [message]);
            let places = self.delivered(&producer, count);
            producer.commit_transaction(REQUEST).unwrap();
            self.wait_for_markers(&places);
        }
    }

    /// They stand in the log, and nobody is to see them.
    pub(crate) fn produce_in_vain(&self, messages: impl IntoIterator<Item = Message>) {
        let producer = self.producer(&[("transactional.id", &unique("transactions"))]);
        producer.init_transactions(REQUEST).unwrap();
        producer.begin_transaction().unwrap();
        let count = self.send(&producer, messages);
        let places = self.delivered(&producer, count);
        producer.abort_transaction(REQUEST).unwrap();
        self.wait_for_markers(&places);
    }

    /// The coordinator answers when it has decided, and writes the marker into each partition after that.
    fn wait_for_markers(&self, places: &[(i32, i64)]) {
        let last: BTreeMap<i32, i64> = places.iter().copied().collect();
        for (partition, offset) in last {
            wait_for("the end of the transaction", DEADLINE, || {
                self.watermarks(partition).1 > offset + 1
            });
        }
    }

    /// First offset and next offset.
    pub(crate) fn watermarks(&self, partition: i32) -> (i64, i64) {
        wait_some("the watermarks are told", DEADLINE, || {
            self.try_watermarks(partition).ok()
        })
    }

    pub(crate) fn add_partitions(&self, count: usize) {
        let partitions = NewPartitions::new(&self.name, count);
        let added = block_on(
            self.kafka
                .admin()
                .create_partitions([&partitions], &options()),
        )
        .unwrap();
        for result in added {
            result.expect("the partitions are added");
        }
        wait_for("the new partition has its leader", DEADLINE, || {
            self.try_watermarks(count as i32 - 1).is_ok()
        });
    }

    /// As retention does: everything below `offset` is gone.
    pub(crate) fn delete_records(&self, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, partition, Offset::Offset(offset))
            .unwrap();
        block_on(self.kafka.admin().delete_records(&list, &options())).unwrap();
        wait_for("the records are gone", DEADLINE, || {
            self.watermarks(partition).0 == offset
        });
    }

    pub(crate) fn delete(&self) {
        let deleted =
            block_on(self.kafka.admin().delete_topics(&[&self.name], &options())).unwrap();
        for result in deleted {
            result.expect("the topic is deleted");
        }
        wait_for("the topic is gone", DEADLINE, || {
            self.try_watermarks(0).is_err()
        });
    }

    fn try_watermarks(&self, partition: i32) -> Result<(i64, i64), KafkaError> {
        self.kafka
            .asker("nobody")
            .fetch_watermarks(&self.name, partition, REQUEST)
    }

    fn producer(&self, properties: &[(&str, &str)]) -> BaseProducer<Deliveries> {
        let mut config = self.kafka.client();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "5");
        config.set("message.max.bytes", "2000000");
        for (name, value) in properties {
            config.set(*name, *value);
        }
        config.create_with_context(Deliveries::default()).unwrap()
    }

    /// Returns how many.
    fn send(
        &self,
        producer: &BaseProducer<Deliveries>,
        messages: impl IntoIterator<Item = Message>,
    ) -> usize {
        let mut count = 0;
        for message in messages {
            let mut record = record(&self.name, &message, count);
            loop {
                match producer.send(record) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                        producer.poll(Duration::from_millis(10));
                        record = back;
                    }
                    Err((error, _)) => panic!("produce: {error}"),
                }
            }
            count += 1;
            producer.poll(Duration::ZERO);
        }
        count
    }

    fn delivered(&self, producer: &BaseProducer<Deliveries>, count: usize) -> Vec<(i32, i64)> {
        let deliveries = || producer.context().0.lock().unwrap();
        wait_for(
            &format!("everything is acknowledged in `{}`", self.name),
            DEADLINE * 2,
            || {
                producer.poll(Duration::from_millis(10));
                deliveries().len() == count
            },
        );
        std::mem::take(&mut *deliveries()).into_values().collect()
    }
}

/// Where each message went, by its number.
#[derive(Default)]
struct Deliveries(Mutex<BTreeMap<usize, (i32, i64)>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, delivery: &DeliveryResult<'_>, number: usize) {
        let message = delivery.as_ref().expect("the broker acknowledges");
        self.0
            .lock()
            .unwrap()
            .insert(number, (message.partition(), message.offset()));
    }
}

fn record<'a>(
    topic: &'a str,
    message: &'a Message,
    number: usize,
) -> BaseRecord<'a, [u8], [u8], usize> {
    let mut record = BaseRecord::with_opaque_to(topic, number);
    record.key = message.key.as_deref();
    record.payload = message.value.as_deref();
    record.partition = message.partition;
    record.timestamp = message.timestamp;
    if !message.headers.is_empty() {
        let headers = message
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (name, value)| {
                insert_header(headers, name, value.as_deref())
            });
        record.headers = Some(headers);
    }
    record
}

/// Kafka's header names should be UTF-8, and nobody enforces it: neither does this.
fn insert_header(headers: OwnedHeaders, name: &[u8], value: Option<&[u8]>) -> OwnedHeaders {
    if let Ok(key) = std::str::from_utf8(name) {
        return headers.insert(Header { key, value });
    }
    raw_header::insert(headers, name, value)
}

mod raw_header {
    #![expect(unsafe_code, reason = "the safe call takes only names that are UTF-8")]

    use rdkafka::message::OwnedHeaders;

    pub(super) fn insert(headers: OwnedHeaders, name: &[u8], value: Option<&[u8]>) -> OwnedHeaders {
        let (data, length) = value.map_or((std::ptr::null(), -1), |value| {
            (value.as_ptr(), value.len() as isize)
        });
        let list = std::ptr::from_ref(headers.as_borrowed()).cast_mut().cast();
        // SAFETY: `BorrowedHeaders` is librdkafka's own list behind its pointer, which `headers` owns and nobody else
        // holds; librdkafka copies name and value.
        let error = unsafe {
            rdkafka_sys::rd_kafka_header_add(
                list,
                name.as_ptr().cast(),
                name.len() as isize,
                data.cast(),
                length,
            )
        };
        assert_eq!(
            error,
            rdkafka_sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        );
        headers
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(REQUEST))
        .operation_timeout(Some(REQUEST))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}
