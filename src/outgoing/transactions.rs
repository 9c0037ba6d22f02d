//! The transactional producer of a consumer: each has a thread of its own, whose calls block.
//!
//! The owner sends calls and gets an answer to each start, end and abort. It never waits for the thread: a producer
//! whose call does not come back is left, and the thread ends by itself when the call does. **A transaction is
//! committed by one call, once.** Whatever that call answers but success leaves the end unknown.

mod id;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::failpoint::failpoint;
use crate::kafka::producer::is_of_connection;
use crate::kafka::property::Value;
use crate::kafka::transactional::{Consequence, Transactional, Trouble};
use crate::kafka::{Client, Refusal, TopicPartition};
use crate::log::log;
use crate::message::Outgoing;
use crate::rules::transaction::{Answer, Why};
use crate::threads::mailbox::Mailbox;
use crate::threads::progress::Beat;
use crate::threads::supervisor::{Handle, Kind, Supervisor};
use crate::wait::send::Emitted;

pub(crate) use id::Id;

/// How often the reports of records are read while no call comes.
const POLL: Duration = Duration::from_millis(100);
/// The pause before the offsets are sent again.
const AGAIN: Duration = Duration::from_millis(50);
const TRIES: usize = 5;
/// The time beyond the sum of its calls after which a turn of the thread counts as a hang.
const TURN_GRACE: Duration = Duration::from_secs(30);

/// What one listener has emitted for a message.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) listener: Arc<str>,
    /// The worker keeps it too: it may have to come again.
    pub(crate) emitted: Arc<Emitted>,
}

/// The records of a message.
pub(crate) type Parts = Arc<[Part]>;

/// The settings of a producer.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) consumer: Arc<str>,
    /// All properties of librdkafka.
    pub(crate) properties: BTreeMap<String, String>,
    /// How long the brokers keep an open transaction.
    pub(crate) timeout: Duration,
    /// How long a call may take.
    pub(crate) call: Duration,
}

/// The end of a transaction.
pub(crate) struct End {
    pub(crate) offsets: Vec<TopicPartition>,
    /// The member whose offsets these are.
    pub(crate) client: Arc<Client>,
    /// In a group that assigns everything anew: the generation of the assignment.
    pub(crate) generation: Option<i32>,
}

enum Call {
    Begin,
    /// `alone`: the records of each part are acknowledged before the next ones leave, so that a refused one is known.
    Put {
        parts: Vec<Parts>,
        alone: bool,
    },
    End(End),
    Abort,
    Quit,
}

/// Gets the answers, with their text for the log.
pub(crate) type Then = Box<dyn Fn(Answer, Option<String>) + Send>;

/// The owner's end of a producer. Its drop ends the producer, without a wait.
pub(crate) struct Producer {
    calls: Arc<Mailbox<Call>>,
    is_poisoned: Arc<AtomicBool>,
    thread: Handle,
}

impl Settings {
    /// Those of the consumer's connection and of the default producer, and what transactions need.
    pub(crate) fn new(
        consumer: &Arc<str>,
        connection: &BTreeMap<String, Value>,
        producer: Option<&BTreeMap<String, Value>>,
        id: &str,
        timeout: Duration,
        call: Duration,
    ) -> Self {
        let of_connection = connection.iter().filter(|(name, _)| is_of_connection(name));
        let of_producer = producer.into_iter().flatten();
        let of_producer = of_producer.filter(|(name, _)| !is_of_connection(name));
        let all = of_producer.chain(of_connection);
        let mut properties: BTreeMap<String, String> = all
            .map(|(name, value)| (name.clone(), value.text.clone()))
            .collect();
        let timeout_ms = timeout.as_millis();
        let own = [
            ("transactional.id", id.to_owned()),
            ("transaction.timeout.ms", timeout_ms.to_string()),
            ("message.timeout.ms", timeout_ms.to_string()),
            // The silence of a broker is seen before librdkafka repeats a request.
            ("socket.timeout.ms", (call * 3 / 2).as_millis().to_string()),
            ("enable.idempotence", "true".to_owned()),
            ("acks", "all".to_owned()),
            ("linger.ms", "5".to_owned()),
            ("retry.backoff.ms", "20".to_owned()),
            ("reconnect.backoff.max.ms", "1000".to_owned()),
            ("allow.auto.create.topics", "false".to_owned()),
            // A report of an acknowledged record says nothing that the end of its transaction does not say.
            ("delivery.report.only.error", "true".to_owned()),
            ("queue.buffering.max.messages", "0".to_owned()),
            ("queue.buffering.max.kbytes", "262144".to_owned()),
            ("enable.metrics.push", "false".to_owned()),
        ];
        properties.remove("retries");
        properties.remove("message.send.max.retries");
        properties.extend(own.map(|(name, value)| (name.to_owned(), value)));
        Self {
            consumer: consumer.clone(),
            properties,
            timeout,
            call,
        }
    }
}

impl Producer {
    /// The first answer is that of the start.
    pub(crate) fn start(
        settings: Settings,
        then: Then,
        supervisor: &Supervisor,
    ) -> anyhow::Result<Self> {
        let calls = Arc::new(Mailbox::default());
        let is_poisoned = Arc::<AtomicBool>::default();
        let name = format!("transactions-{}", settings.consumer);
        let most = settings.timeout * 3 + settings.call * 3 + TURN_GRACE;
        let thread = supervisor.spawn(&name, Kind::Observed(most), {
            let (calls, is_poisoned) = (calls.clone(), is_poisoned.clone());
            move |beat| serve(&settings, &calls, is_poisoned, &then, &beat)
        })?;
        Ok(Self {
            calls,
            is_poisoned,
            thread,
        })
    }

    pub(crate) fn begin(&self) {
        self.is_poisoned.store(false, Ordering::Release);
        self.calls.send(Call::Begin);
    }

    pub(crate) fn put(&self, parts: Vec<Parts>, alone: bool) {
        self.calls.send(Call::Put { parts, alone });
    }

    pub(crate) fn end(&self, end: End) {
        self.calls.send(Call::End(end));
    }

    /// The transaction under way must not be committed any more.
    pub(crate) fn poison(&self) {
        self.is_poisoned.store(true, Ordering::Release);
    }

    pub(crate) fn abort(&self) {
        self.calls.send(Call::Abort);
    }

    /// The producer ends by itself, as soon as its call has come back.
    pub(crate) fn leave(self) -> Left {
        self.thread.may_end();
        self.is_poisoned.store(true, Ordering::Release);
        self.calls.send(Call::Quit);
        Left(self.thread)
    }
}

/// A producer that ends by itself.
pub(crate) struct Left(Handle);

impl Left {
    pub(crate) fn has_ended(&self) -> bool {
        self.0.has_ended()
    }

    /// Waits for its end, up to the deadline.
    pub(crate) fn join(self, deadline: Instant) {
        self.0.join(deadline);
    }
}

fn serve(
    settings: &Settings,
    mailbox: &Mailbox<Call>,
    is_poisoned: Arc<AtomicBool>,
    then: &Then,
    beat: &Beat,
) {
    let Some(mut calls) = Calls::start(settings, is_poisoned, then) else {
        // The owner tries another one.
        return wait_for_quit(mailbox, beat);
    };
    let mut letters = Vec::new();
    loop {
        beat.turn();
        mailbox.wait(&mut letters, Instant::now() + POLL);
        calls.handle.poll(Duration::ZERO);
        for letter in letters.drain(..) {
            match letter {
                Call::Begin => calls.begin(),
                Call::Put { parts, alone } => calls.put(&parts, alone),
                Call::End(end) => {
                    let (answer, text) = calls.end(&end);
                    then(answer, text);
                }
                Call::Abort => {
                    let (answer, text) = calls.abort();
                    then(answer, text);
                }
                Call::Quit => return,
            }
        }
    }
}

fn wait_for_quit(mailbox: &Mailbox<Call>, beat: &Beat) {
    let mut letters = Vec::new();
    loop {
        beat.turn();
        mailbox.wait(&mut letters, Instant::now() + Duration::from_secs(1));
        if letters.drain(..).any(|letter| matches!(letter, Call::Quit)) {
            return;
        }
    }
}

/// The calls of one producer, on its thread.
struct Calls<'a> {
    settings: &'a Settings,
    handle: Transactional,
    is_poisoned: Arc<AtomicBool>,
    /// The parts of the transaction so far: a part's number is that of its records.
    parts: usize,
    /// The transaction cannot be committed.
    broken: Option<String>,
}

impl<'a> Calls<'a> {
    fn start(settings: &'a Settings, is_poisoned: Arc<AtomicBool>, then: &Then) -> Option<Self> {
        let properties = settings.properties.iter();
        let properties = properties.map(|(name, value)| (name.as_str(), value.as_str()));
        let handle = match Transactional::new(properties) {
            Ok(handle) => handle,
            Err(error) => {
                let is_fenced = false;
                then(Answer::NotStarted { is_fenced }, Some(error.to_string()));
                return None;
            }
        };
        failpoint!("transaction-init");
        match handle.init(settings.timeout * 2) {
            Ok(()) => then(Answer::Started, None),
            Err(trouble) => {
                let is_fenced = trouble.is_fenced;
                then(Answer::NotStarted { is_fenced }, Some(trouble.text));
                return None;
            }
        }
        Some(Self {
            settings,
            handle,
            is_poisoned,
            parts: 0,
            broken: None,
        })
    }

    fn begin(&mut self) {
        self.parts = 0;
        self.broken = self.handle.begin().err().map(|trouble| trouble.text);
    }

    fn put(&mut self, all: &[Parts], alone: bool) {
        let mut records = Vec::new();
        for part in all.iter().flat_map(|parts| parts.iter()) {
            let own = part.emitted.requests.iter().flat_map(|one| &one.records);
            records.extend(own.map(|record| (record, self.parts)));
            if alone {
                self.put_all(&std::mem::take(&mut records));
                if self.broken.is_none() && self.handle.failed().is_none() {
                    self.handle.flush(self.settings.timeout);
                    if self.handle.failed().is_some() {
                        return;
                    }
                }
            }
            self.parts += 1;
        }
        self.put_all(&records);
        failpoint!("transaction-put");
    }

    fn put_all(&mut self, mut records: &[(&Outgoing, usize)]) {
        let until = Instant::now() + self.settings.timeout;
        while self.broken.is_none() {
            records = &records[self.handle.put(records)..];
            if records.is_empty() {
                return;
            }
            self.handle.poll(AGAIN);
            if Instant::now() >= until {
                self.broken = Some("the queue of the producer stays full".to_owned());
            }
        }
    }

    fn is_poisoned(&self) -> bool {
        self.is_poisoned.load(Ordering::Acquire)
    }

    fn end(&mut self, end: &End) -> (Answer, Option<String>) {
        let not = |text: String| (Answer::NotCommitted(Why::Transient), Some(text));
        if let Some(broken) = self.broken.take() {
            return not(broken);
        }
        if let Some(answer) = self.refused() {
            return answer;
        }
        // Fresh, and here: the generation may not be that of an assignment before a rebalance.
        let Some(membership) = end.client.membership() else {
            return not("the consumer is no member of its group".to_owned());
        };
        if end
            .generation
            .is_some_and(|one| one != membership.generation())
        {
            return not("the group has assigned its partitions anew".to_owned());
        }
        if self.is_poisoned() {
            return not("a partition was lost".to_owned());
        }
        let until = Instant::now() + self.settings.timeout;
        failpoint!("transaction-before-offsets");
        let mut tries = 0;
        while let Err(trouble) =
            self.handle
                .send_offsets(&end.offsets, &membership, self.settings.call)
        {
            tries += 1;
            let is_over = tries >= TRIES || Instant::now() >= until;
            match trouble.consequence {
                Consequence::AbortForMetadata => {
                    return (Answer::NotCommitted(Why::Metadata), Some(trouble.text));
                }
                Consequence::Abort => return self.refused().unwrap_or_else(|| not(trouble.text)),
                Consequence::Again if !is_over => {}
                Consequence::Again | Consequence::Unknown => return unknown(trouble),
            }
            std::thread::sleep(AGAIN);
        }
        failpoint!("transaction-after-offsets");
        if self.is_poisoned() {
            return not("a partition was lost".to_owned());
        }
        let left = until.saturating_duration_since(Instant::now());
        if !self.handle.flush(left) {
            let is_fenced = false;
            let text = "the records are not acknowledged in time".to_owned();
            return (Answer::Unknown { is_fenced }, Some(text));
        }
        if let Some(answer) = self.refused() {
            return answer;
        }
        if self.is_poisoned() {
            return not("a partition was lost".to_owned());
        }
        failpoint!("transaction-before-commit");
        let result = self.handle.commit(self.settings.call);
        failpoint!("transaction-after-commit");
        match result {
            Ok(()) => {
                let is_clean = self.handle.is_clean();
                (Answer::Committed { is_clean }, None)
            }
            Err(trouble) => unknown(trouble),
        }
    }

    /// A record that was not written: nothing of the transaction may be committed.
    fn refused(&self) -> Option<(Answer, Option<String>)> {
        let failed = self.handle.failed()?;
        let why = match failed.refusal {
            Refusal::Transient => Why::Transient,
            _ => Why::Refused {
                part: failed.number,
                text: failed.sentence.clone(),
            },
        };
        Some((Answer::NotCommitted(why), Some(failed.sentence)))
    }

    fn abort(&mut self) -> (Answer, Option<String>) {
        failpoint!("transaction-abort");
        match self.handle.abort(self.settings.timeout) {
            Ok(()) => {
                let is_clean = self.handle.is_clean();
                (Answer::Aborted { is_clean }, None)
            }
            Err(trouble) => {
                let is_fenced = trouble.is_fenced;
                (Answer::NotAborted { is_fenced }, Some(trouble.text))
            }
        }
    }
}

fn unknown(trouble: Trouble) -> (Answer, Option<String>) {
    let is_fenced = trouble.is_fenced;
    (Answer::Unknown { is_fenced }, Some(trouble.text))
}

impl Drop for Calls<'_> {
    fn drop(&mut self) {
        log!(
            debug,
            kafka,
            consumer = &*self.settings.consumer,
            "a transactional producer ends"
        );
    }
}
