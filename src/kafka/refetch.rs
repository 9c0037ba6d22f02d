//! Fetches single messages again, by a client of its own: it is no member of the group, and assigns one partition at a
//! time. So the member's own partitions never go back.
//!
//! The client and its thread are made at the first request, and the client is dropped when nothing was asked for some
//! time. Requests take turns. One whose partition answers nothing waits with a back-off, and is given up when nobody
//! needs it any more.

mod reading;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::failpoint::failpoint;
use crate::log::log;
use crate::threads::mailbox::Mailbox;
use crate::threads::progress::Beat;
use crate::threads::supervisor::{Handle, Kind, Supervisor};

use super::property::Value;
use super::{Client, Error, Event, Message, Taken, TopicPartition};
use reading::{GAP, Job, Reading};

/// The most messages that are taken at once.
const BATCH: usize = 256;
/// How long a partition may give nothing before others have their turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same after an error.
const PATIENCE_IN_TROUBLE: Duration = Duration::from_secs(3);
/// How long a query may take.
const QUERY: Duration = Duration::from_secs(3);
/// The longest time between two turns, so that a hang is detected.
const TURN: Duration = Duration::from_secs(1);
const TURN_MAX: Duration = Duration::from_secs(30);
/// The pauses after a failure, at first and at most.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The client is dropped after so long without a request.
const IDLE: Duration = Duration::from_secs(60);
/// The time that the thread has to end.
const END: Duration = Duration::from_secs(10);

/// Differences from the properties of the consumer. A few messages are needed, and those behind them are not.
const PROPERTIES: [(&str, &str); 6] = [
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "true"),
    ("enable.auto.commit", "false"),
    ("fetch.min.bytes", "1"),
    ("queued.min.messages", "1000"),
    ("queued.max.messages.kbytes", "4096"),
];
/// Properties of a member of a group.
const LEFT_OUT: [&str; 3] = [
    "group.instance.id",
    "group.protocol",
    "group.remote.assignor",
];

/// What is known of a request.
pub(crate) enum News {
    /// It is tried again later.
    Troubled(String),
    /// Each with its message, detached, or none if the log does not have it any more. Those without an entry are to be
    /// asked for again.
    Found(Vec<(i64, Option<Message>)>),
}

/// A request for messages of one partition.
pub(crate) struct Wanted {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    /// Ascending.
    pub(crate) offsets: VecDeque<i64>,
    /// Whether nobody needs the answer any more.
    pub(crate) is_over: Box<dyn Fn() -> bool + Send>,
    /// Called once with what was found, and before that any number of times. It must not block.
    pub(crate) tell: Box<dyn Fn(News) + Send>,
}

enum ToFetcher {
    Wanted(Wanted),
    Stop,
}

/// The fetches of one consumer.
pub(crate) struct Refetch {
    supervisor: Supervisor,
    /// The name of the consumer.
    name: String,
    properties: BTreeMap<String, Value>,
    mailbox: Arc<Mailbox<ToFetcher>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    thread: Option<Handle>,
    is_closed: bool,
}

impl Refetch {
    /// `name` and `properties` are the consumer's.
    pub(crate) fn new(
        name: &str,
        properties: &BTreeMap<String, Value>,
        supervisor: &Supervisor,
    ) -> Self {
        Self {
            supervisor: supervisor.clone(),
            name: name.to_owned(),
            properties: properties.clone(),
            mailbox: Arc::default(),
            state: Mutex::default(),
        }
    }

    /// Asks for messages, without waiting.
    pub(crate) fn ask(&self, wanted: Wanted) {
        let mut state = self.lock();
        if state.is_closed {
            return;
        }
        if state.thread.is_none() {
            match self.start() {
                Ok(thread) => state.thread = Some(thread),
                Err(error) => (wanted.tell)(News::Troubled(format!("{error:#}"))),
            }
        }
        self.mailbox.send(ToFetcher::Wanted(wanted));
    }

    fn start(&self) -> anyhow::Result<Handle> {
        let name = format!("refetch-{}", self.name);
        let mut properties = self.properties.clone();
        properties.retain(|name, _| !LEFT_OUT.contains(&name.as_str()));
        for (name, text) in PROPERTIES {
            let value = Value {
                text: text.to_owned(),
                secret: false,
            };
            properties.insert(name.to_owned(), value);
        }
        let (mailbox, consumer) = (self.mailbox.clone(), self.name.clone());
        self.supervisor
            .spawn(&name, Kind::Counted(TURN_MAX), move |beat| {
                let fetcher = Fetcher {
                    consumer,
                    properties,
                    mailbox,
                    reading: None,
                    client: None,
                    jobs: VecDeque::new(),
                    letters: Vec::new(),
                    used: Instant::now(),
                    beat,
                };
                fetcher.run();
            })
    }

    /// Ends the thread. What is asked for has no answer.
    pub(crate) fn close(&self, deadline: Instant) {
        let thread = {
            let mut state = self.lock();
            state.is_closed = true;
            state.thread.take()
        };
        if let Some(thread) = thread {
            thread.may_end();
            self.mailbox.send(ToFetcher::Stop);
            thread.join(deadline);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The requests that no thread has taken.
    #[cfg(test)]
    pub(crate) fn take_asked(&self) -> Vec<Wanted> {
        let mut letters = Vec::new();
        self.mailbox.take(&mut letters);
        let wanted = letters.into_iter().filter_map(|letter| match letter {
            ToFetcher::Wanted(wanted) => Some(wanted),
            ToFetcher::Stop => None,
        });
        wanted.collect()
    }

    /// Without a thread: a test answers, or nobody asks.
    #[cfg(any(test, feature = "micro"))]
    pub(crate) fn without_thread() -> Self {
        let supervisor = Supervisor::without_daemon();
        let own = Self::new("default", &BTreeMap::new(), &supervisor);
        let idle = supervisor.spawn("refetch", Kind::Job(TURN_MAX), |_| {});
        own.lock().thread = idle.ok();
        own
    }
}

impl Drop for Refetch {
    fn drop(&mut self) {
        self.close(Instant::now() + END);
    }
}

struct Fetcher {
    consumer: String,
    properties: BTreeMap<String, Value>,
    mailbox: Arc<Mailbox<ToFetcher>>,
    /// Its messages are dropped, hence declared, before their client.
    reading: Option<Reading>,
    client: Option<Client>,
    jobs: VecDeque<Job>,
    /// Not read yet.
    letters: Vec<ToFetcher>,
    /// When the client was last used.
    used: Instant,
    beat: Beat,
}

impl Fetcher {
    fn run(mut self) {
        let _closes = self.mailbox.close_on_drop();
        loop {
            self.beat.turn();
            failpoint!("refetch-turn");
            for letter in std::mem::take(&mut self.letters) {
                match letter {
                    ToFetcher::Stop => return,
                    ToFetcher::Wanted(wanted) => self.jobs.push_back(Job {
                        wanted,
                        found: Vec::new(),
                        bytes: 0,
                        tries: 0,
                        not_before: Instant::now(),
                    }),
                }
            }
            self.jobs.retain(|job| !(job.wanted.is_over)());
            let now = Instant::now();
            let due = self.jobs.iter().position(|job| job.not_before <= now);
            if let Some(mut job) = due.and_then(|at| self.jobs.remove(at)) {
                self.used = now;
                match self.serve(&mut job) {
                    Ok(true) => (job.wanted.tell)(News::Found(job.found)),
                    // Others have their turn first.
                    Ok(false) => self.jobs.push_back(job),
                    Err(error) => self.put_off(job, &error),
                }
                self.mailbox.take(&mut self.letters);
                continue;
            }
            let idle = now.duration_since(self.used);
            if self.reading.is_some() && idle >= TURN {
                self.stop_reading();
            }
            if self.client.is_some() && idle >= IDLE {
                self.client = None;
            }
            let next = self.jobs.iter().map(|job| job.not_before).min();
            let turn = now + TURN;
            let until = next.map_or(turn, |next| next.min(turn));
            self.mailbox.wait(&mut self.letters, until);
        }
    }

    fn put_off(&mut self, mut job: Job, error: &str) {
        job.tries += 1;
        let pause = (PAUSE * 2_u32.pow(job.tries.min(10) - 1)).min(PAUSE_MAX);
        job.not_before = Instant::now() + pause;
        if job.tries.is_power_of_two() {
            log!(
                warn,
                kafka,
                consumer = self.consumer,
                topic = &*job.wanted.topic,
                partition = job.wanted.partition,
                offset = job.wanted.offsets.front(),
                error,
                tries = job.tries,
                retry_in_ms = pause.as_millis() as u64,
                "deferred messages are not fetched again yet"
            );
        }
        (job.wanted.tell)(News::Troubled(error.to_owned()));
        if job.tries >= 3 {
            // The client may be what is wrong.
            self.reading = None;
            self.client = None;
        }
        self.jobs.push_back(job);
    }

    fn client(&mut self) -> Result<&Client, Error> {
        if self.client.is_none() {
            let mailbox = self.mailbox.clone();
            let properties = self.properties.iter();
            let properties = properties.map(|(name, value)| (name.as_str(), value.text.as_str()));
            let client = Client::new(properties, Arc::new(move || mailbox.ring()))?;
            self.client = Some(client);
        }
        self.client
            .as_ref()
            .ok_or_else(|| Error::closed("no client"))
    }

    /// Returns whether the request has its answer; if not, its turn is over.
    fn serve(&mut self, job: &mut Job) -> Result<bool, String> {
        let began = Instant::now();
        let mut last = None;
        while let Some(first) = job.wanted.offsets.front().copied() {
            self.begin_reading(job, first)
                .map_err(|error| error.to_string())?;
            match self.read(job, &mut last) {
                Read::Found if job.is_done() => return Ok(true),
                Read::Found => {}
                Read::OutOfRange => {
                    self.stop_reading();
                    self.pass_log_start(job)?;
                }
                Read::Nothing => {
                    self.stop_reading();
                    let error = last.map_or_else(
                        || "its leader gives nothing".to_owned(),
                        |error: Error| error.to_string(),
                    );
                    return Err(error);
                }
                Read::Over => return Ok(false),
            }
            if began.elapsed() >= PATIENCE && !job.wanted.offsets.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Assigns the partition, unless what was read last leads to the first wanted message.
    fn begin_reading(&mut self, job: &mut Job, first: i64) -> Result<(), Error> {
        if let Some(reading) = &mut self.reading
            && reading.goes_on_at(job, first)
        {
            reading.take_ahead(job);
            return Ok(());
        }
        self.stop_reading();
        let (topic, partition) = (job.wanted.topic.clone(), job.wanted.partition);
        let at = TopicPartition::at(&topic, partition, first, -1);
        self.client()?.assign(&[at])?;
        self.reading = Some(Reading {
            topic,
            partition,
            next: first,
            ahead: VecDeque::new(),
            is_broken: false,
        });
        Ok(())
    }

    fn stop_reading(&mut self) {
        self.reading = None;
        if let Some(client) = &self.client {
            // Whatever is left in the client's queue belongs to no later assignment.
            let _ = client.unassign_all();
        }
    }

    /// Reads from the first wanted message on.
    fn read(&mut self, job: &mut Job, last: &mut Option<Error>) -> Read {
        let mut heard = Instant::now();
        loop {
            self.beat.turn();
            if job.is_done() {
                return Read::Found;
            }
            let (Some(client), Some(reading)) = (&self.client, &mut self.reading) else {
                return Read::Nothing;
            };
            for event in client.events() {
                if let Event::Error(error) | Event::BrokerError(_, error) = event
                    && !error.is_summary()
                {
                    *last = Some(error);
                }
            }
            let mut out_of_range = false;
            let took = client.take(BATCH, |_, partition, taken, name| {
                if partition != job.wanted.partition || *name() != *job.wanted.topic {
                    return;
                }
                match taken {
                    Taken::Message(message) => reading.took(job, message),
                    Taken::End(end) => reading.ended(job, end),
                    Taken::Error(error) if error.is_out_of_range() => out_of_range = true,
                    Taken::Error(error) => {
                        reading.break_off();
                        *last = Some(error);
                    }
                }
            });
            let is_broken = reading.is_broken;
            let first = job.wanted.offsets.front();
            let is_far = first.is_some_and(|first| first - reading.next > GAP);
            if job.is_done() || is_far {
                return Read::Found;
            }
            if out_of_range {
                return Read::OutOfRange;
            }
            if is_broken {
                return Read::Nothing;
            }
            if (job.wanted.is_over)() {
                return Read::Over;
            }
            let now = Instant::now();
            if took > 0 {
                heard = now;
                continue;
            }
            let patience = match last {
                Some(_) => PATIENCE_IN_TROUBLE,
                None => PATIENCE,
            };
            let until = heard + patience;
            if now >= until {
                return Read::Nothing;
            }
            self.mailbox.wait(&mut self.letters, until.min(now + TURN));
            let mut letters = self.letters.iter();
            if letters.any(|one| matches!(one, ToFetcher::Stop)) {
                return Read::Over;
            }
        }
    }

    /// The first wanted message lies outside of the log. Those below its start are gone.
    fn pass_log_start(&mut self, job: &mut Job) -> Result<(), String> {
        let (topic, partition) = (job.wanted.topic.clone(), job.wanted.partition);
        let client = self.client().map_err(|error| error.to_string())?;
        let watermarks = client.watermarks(&topic, partition, QUERY);
        let (low, high) = watermarks.map_err(|error| error.to_string())?;
        let before = job.wanted.offsets.len();
        job.pass(low);
        if job.wanted.offsets.len() == before {
            return Err(format!("the log ends at offset {high}, before the message"));
        }
        Ok(())
    }
}

/// The end of one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// Everything, or the next message is far away.
    Found,
    OutOfRange,
    /// Nothing came, or an error in place of messages.
    Nothing,
    /// Nobody needs the messages any more, or the thread ends.
    Over,
}

#[cfg(test)]
mod tests;
