//! Lanes whose messages wait, as in a worker: a message begins or queues when it arrives, and leaves its lane when it
//! ends.
//!
//! It runs no handler: between the two steps, a worker has a call.

use std::collections::VecDeque;

use crate::config::{NullKeys, Ordering};
use crate::kafka::Message;
use crate::message::OwnedRecord;
use crate::rules::lanes::{self, Lane, LaneState, Stage};

/// The rule that assigns messages to lanes.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    Partition,
    /// This many keys, in turn.
    Keys(u64),
    None,
}

pub struct Lanes {
    order: Order,
    inner: lanes::Lanes<Message>,
    next: u64,
    /// Lanes whose heads run, in the order in which these end.
    running: VecDeque<u64>,
}

/// Messages that have not arrived yet.
pub struct Messages(Vec<Message>);

const NAMES: [&str; 1] = ["orders"];
const SEED: u64 = 7;

impl Lanes {
    pub fn new(order: Order) -> Self {
        Self {
            order,
            inner: lanes::Lanes::new(),
            next: 0,
            running: VecDeque::new(),
        }
    }

    /// The next messages; they must arrive before the next request for messages.
    pub fn messages(&self, count: u64) -> Messages {
        let keys = match self.order {
            Order::Keys(keys) => keys,
            Order::Partition | Order::None => u64::MAX,
        };
        let message = |number| {
            let key = format!("key-{}", number % keys);
            Message::of(OwnedRecord {
                offset: number as i64,
                key: Some(key.into_bytes().into()),
                ..OwnedRecord::default()
            })
        };
        Messages((self.next..self.next + count).map(message).collect())
    }

    /// Messages that arrive while others wait.
    pub fn arrive(&mut self, messages: Messages) {
        self.push(messages);
        self.begin();
    }

    /// This many calls end, the oldest first, and the messages that wait for them begin.
    pub fn finish(&mut self, messages: u64) {
        for _ in 0..messages {
            let key = self.running.pop_front().expect("something runs");
            let mut lane = self.inner.take(key).expect("what runs is open");
            lane.progress[0].stage = Stage::Final;
            assert_eq!(lane.state(), LaneState::Finished);
            if let Some(next) = lane.advance(NAMES.into_iter()) {
                self.inner.put(key, next);
                self.inner.wake(key);
            }
            match self.inner.next_ready() {
                Some(key) => {
                    let lane = self.inner.take(key).expect("what is ready is open");
                    assert_eq!(lane.state(), LaneState::Run(0));
                    self.run(key, lane);
                }
                None => self.begin(),
            }
        }
    }

    /// Messages that arrive and are done at once, with any `Order`: none gets a lane.
    pub fn pass(&mut self, messages: Messages) {
        self.push(messages);
        while self.inner.fresh().is_some() {
            self.inner.take_fresh();
        }
    }

    /// Each new message begins, or queues behind the running one of its lane. If the lane is the whole partition, the
    /// message stays in place.
    fn begin(&mut self) {
        let ordering = match self.order {
            Order::Partition => Ordering::Partition,
            Order::Keys(_) => Ordering::Key,
            Order::None => Ordering::None,
        };
        while let Some((number, message)) = self.inner.fresh() {
            if ordering == Ordering::Partition && self.inner.has_open() {
                return;
            }
            let key = lanes::lane_of(ordering, NullKeys::Parallel, SEED, message, number);
            if self.inner.is_open(key) {
                self.inner.defer_fresh(key);
            } else if let Some((number, message)) = self.inner.take_fresh() {
                self.run(key, Lane::new(number, message, NAMES.into_iter()));
            }
        }
    }

    fn push(&mut self, messages: Messages) {
        let first = self.next;
        self.next += messages.0.len() as u64;
        self.inner.push(first, messages.0);
    }

    fn run(&mut self, key: u64, mut lane: Lane<Message>) {
        lane.progress[0].attempt = 1;
        lane.progress[0].stage = Stage::Running;
        self.inner.put(key, lane);
        self.running.push_back(key);
    }
}
