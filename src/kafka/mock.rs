//! An embedded broker: librdkafka's mock cluster, on a loopback port of its own.
//!
//! The cluster lives in this process's memory and ends with it. It keeps 5 MiB a partition and deletes older messages
//! silently. So it is for tests and for trying handlers, never for data. It must not know its clients: they get
//! [`Broker::address`] like any other broker's.
#![expect(
    unsafe_code,
    reason = "the delay of a group's first join is set by a call that rdkafka does not wrap"
)]

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::types::RDKafkaType;
#[cfg(test)]
pub(crate) use rdkafka_sys::RDKafkaErrorCode as Code;

/// Bytes of keys, values and headers that a partition certainly keeps: 5 MiB without the overhead of records.
pub(crate) const PARTITION_BYTES_MAX: usize = 4 << 20;

pub(crate) struct Broker {
    /// Owns the cluster: both end together.
    client: Client<DefaultClientContext>,
    address: String,
    topics: Mutex<BTreeSet<String>>,
}

impl Broker {
    /// Starts one broker, which is ready for clients at once.
    pub(crate) fn start() -> Result<Self> {
        let mut config = ClientConfig::new();
        config.set("test.mock.num.brokers", "1");
        let native = config.create_native_config().context("embedded broker")?;
        let client = Client::new(
            &config,
            native,
            RDKafkaType::RD_KAFKA_PRODUCER,
            DefaultClientContext,
        )
        .context("embedded broker")?;
        let Some(cluster) = client.mock_cluster() else {
            bail!("embedded broker: the client has no mock cluster");
        };
        let address = cluster.bootstrap_servers();
        drop(cluster);
        // A real group waits for further members before its first assignment, the mock cluster for 3 s. A trial of a
        // handler has one member.
        // SAFETY: the handle is the client's own and alive, and so is the cluster, which it owns; the call takes the
        // cluster's lock and sets one integer.
        unsafe {
            let cluster = rdkafka_sys::rd_kafka_handle_mock_cluster(client.native_ptr());
            rdkafka_sys::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0);
        }
        Ok(Self {
            client,
            address,
            topics: Mutex::default(),
        })
    }

    /// The value of `bootstrap.servers`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Creates a topic, unless it was created here before.
    pub(crate) fn create_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if topics.contains(topic) {
            return Ok(());
        }
        let cluster = self
            .client
            .mock_cluster()
            .context("embedded broker: it has ended")?;
        cluster
            .create_topic(topic, partitions, 1)
            .with_context(|| {
                format!("embedded broker: topic `{topic}` with {partitions} partitions")
            })?;
        topics.insert(topic.to_owned());
        Ok(())
    }

    /// Answers the next produce requests with these codes, one each.
    #[cfg(test)]
    pub(crate) fn refuse(&self, codes: &[Code]) {
        let native = |code: &Code| (*code as i32).try_into().unwrap();
        let codes: Vec<_> = codes.iter().map(native).collect();
        let cluster = self.client.mock_cluster().unwrap();
        cluster.request_errors(rdkafka_sys::RDKafkaApiKey::Produce, &codes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::message::Message as _;

    use super::*;
    use crate::kafka::producer::{Outgoing, Producer};
    use crate::kafka::property::Value;

    #[test]
    fn a_group_reads_what_was_produced() {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 1).unwrap();
        let address = Value {
            text: broker.address().to_owned(),
            secret: false,
        };
        let properties = BTreeMap::from([("bootstrap.servers".to_owned(), address)]);
        let producer = Producer::new(&properties, Duration::from_secs(20)).unwrap();
        let record = Outgoing {
            topic: "orders".into(),
            value: Some(b"a kite".to_vec()),
            ..Outgoing::default()
        };
        producer.send(&record).unwrap();

        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", broker.address());
        config
            .set("group.id", "readers")
            .set("auto.offset.reset", "earliest");
        let consumer: BaseConsumer = config.create().unwrap();
        consumer.subscribe(&["orders"]).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let message = loop {
            assert!(Instant::now() < until, "nothing was read");
            if let Some(message) = consumer.poll(Duration::from_millis(100)) {
                break message.unwrap();
            }
        };
        assert_eq!(message.payload(), Some(&b"a kite"[..]));
    }
}
