//! Parts of the hot path, laid open for the benchmark in bench/micro: only with the feature `micro`, which nothing else
//! has.
//!
//! A type is a fixture, a method one step of what the daemon does, by the daemon's own code. Nothing is measured here.
//! Invariant: what comes to anything else than it should panics, since its time would be that of another thing.

#![expect(
    clippy::must_use_candidate,
    reason = "the benchmark takes every result"
)]

mod handler;
mod lanes;
mod offsets;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::bundle::{self, Bundle, Snapshot};
use crate::config::{Sources, Written};
use crate::message::OwnedRecord;

pub use handler::Handler;
pub use lanes::{Lanes, Messages, Order};
pub use offsets::{Metadata, Offsets};
pub use worker::{Batch, Worker};

const CONFIG: &str = r#"
[kafkaConfig]
brokers = ["127.0.0.1:1"]

[consumerConfig]
groupId = "micro"

[[listeners]]
topic = "orders"
handler = "micro"

[kv.bench]
"#;
const TOPIC: &str = "orders";

/// What the messages of a benchmark have in common.
#[derive(Clone, Debug)]
pub struct Shape {
    pub value: Vec<u8>,
    /// How many, of a few bytes each.
    pub headers: usize,
}

impl Shape {
    fn record(&self, offset: i64) -> OwnedRecord {
        let header = |index| {
            let (name, value) = (format!("header-{index}"), *b"0123456789abcdef");
            (name.into_bytes().into(), Some(value.into()))
        };
        OwnedRecord {
            offset,
            timestamp_ms: 1_700_000_000_000 + offset,
            key: Some(format!("key-{offset}").into_bytes().into()),
            value: Some(self.value.as_slice().into()),
            headers: (0..self.headers).map(header).collect(),
        }
    }
}

/// One listener, whose handler's file has this text.
fn bundle(handler: &str) -> Bundle {
    let text = handler.as_bytes().into();
    let snapshot = Snapshot {
        written: Written::parse("/micro/config.toml".as_ref(), CONFIG, &|_| None),
        handlers: PathBuf::from("/micro/handlers"),
        sources: Arc::new(Sources {
            files: BTreeMap::from([("micro.lua".to_owned(), text)]),
            ..Sources::default()
        }),
        hash: 0,
    };
    bundle::check(snapshot, 1).unwrap_or_else(|errors| panic!("{errors}"))
}
