//! A worker without its thread: turn by turn, by a virtual clock that moves on wherever the worker would wait.

mod answers;
mod away;
mod batches;
mod deferred;
mod emissions;
mod observers;
mod ticks;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::*;
use crate::assignment::HandedOver;
use crate::bundle::{self, Snapshot};
use crate::clock::Virtual;
use crate::config::Written;
use crate::crash::journal::Journal;
use crate::lua::Watchdog;
use crate::lua::control::Holdable as _;
use crate::message::OwnedRecord;
use crate::rules::breaker;
use crate::rules::offsets::Moved;
use crate::telemetry::status::Pause;
use crate::threads::progress::Progress;
use crate::threads::supervisor::Ending;
use crate::threads::supervisor::Supervisor;

const NOON_MS: i64 = 1_700_000_000_000;

/// The topic `orders` in one partition, for one listener.
struct Fixture {
    worker: Worker,
    clock: Arc<Virtual>,
    began: Instant,
    letters: Vec<ToWorker>,
    partition: Arc<Partition>,
    plan: Arc<Plan>,
    sent: u64,
    /// Numbers that were reported as finished, in that order.
    finished: Vec<u64>,
    /// Offsets whose commit was requested, in that order.
    asked: Vec<i64>,
    /// What went to the consumer for its transactions, in that order.
    handed: Vec<Handed>,
    is_drained: bool,
    /// What deferred messages did, in that order.
    moved: Vec<Moved>,
    /// Events whose observers have ended.
    observed: usize,
    _endings: UnboundedReceiver<Ending>,
    _journal: Option<Journal>,
    _folder: tempfile::TempDir,
    watchdog: Watchdog,
}

enum Handed {
    /// Without records.
    Finished(Vec<u64>),
    Over(HandedOver),
    Back(Option<u64>),
}

fn bundle(listener: &str, handler: &str) -> Bundle {
    let text = format!(
        "[kafkaConfig]\nbrokers = [\"127.0.0.1:1\"]\n\n[consumerConfig]\ngroupId = \"test\"\n\n\
         [[listeners]]\ntopic = \"orders\"\nhandler = \"orders\"\n{listener}\n"
    );
    let sources = [("orders.lua".to_owned(), handler.as_bytes().into())];
    let snapshot = Snapshot {
        written: Written::parse("/test/config.toml".as_ref(), &text, &|_| None),
        handlers: PathBuf::from("/test/handlers"),
        sources: Arc::new(sources.into_iter().collect()),
        hash: 0,
    };
    bundle::check(snapshot, 1).unwrap_or_else(|errors| panic!("{errors}"))
}

impl Fixture {
    /// `listener` has further keys of the listener's table.
    fn new(listener: &str, handler: &str) -> Self {
        let clock = Virtual::at_ms(NOON_MS);
        let app = App::with_clock(Clock::Virtual(clock.clone()));
        Self::of(listener, handler, clock, app)
    }

    fn of(listener: &str, handler: &str, clock: Arc<Virtual>, app: App) -> Self {
        let bundle = Arc::new(bundle(listener, handler));
        let plan = route::plan(&bundle.config, "default", "orders").unwrap();
        let watchdog = Watchdog::start(&Supervisor::without_daemon()).unwrap();
        let pulse = watchdog.watch_current_thread("test");
        let app = Arc::new(app);
        let began = app.clock().now();
        let vm = Vm::build(&bundle, &app, &pulse).unwrap_or_else(|error| panic!("{error}"));
        let folder = tempfile::tempdir().unwrap();
        let (journal, mut pages) = Journal::start(folder.path(), 1, 3);
        let mailbox = Arc::new(Mailbox::default());
        let (endings, told) = mpsc::unbounded_channel();
        let worker = Worker::new(Start {
            index: 0,
            count: 1,
            mailbox: mailbox.clone(),
            endings,
            beat: Progress::default().register("test", Duration::from_secs(10)),
            app,
            pulse,
            bundle,
            vm,
            page: pages.pop().unwrap(),
            solo: Arc::new(Exclusive::new(vec![mailbox])),
            rates: Arc::new(Rates::new(began)),
            chance: fastrand::Rng::with_seed(7),
        });
        Self {
            worker,
            clock,
            began,
            letters: Vec::new(),
            partition: Arc::new(Partition::without_brokers(1, "orders")),
            plan: Arc::new(plan),
            sent: 0,
            finished: Vec::new(),
            asked: Vec::new(),
            handed: Vec::new(),
            is_drained: false,
            moved: Vec::new(),
            observed: 0,
            _endings: told,
            _journal: journal,
            _folder: folder,
            watchdog,
        }
    }

    /// The next messages of the partition, one for each value.
    fn send(&mut self, values: &[&str]) {
        let values: Vec<_> = values.iter().map(|value| (None, *value)).collect();
        self.send_all(&values);
    }

    /// The same, with keys.
    fn send_keyed(&mut self, messages: &[(&str, &str)]) {
        let messages = messages.iter().map(|(key, value)| (Some(*key), *value));
        self.send_all(&messages.collect::<Vec<_>>());
    }

    fn send_all(&mut self, values: &[(Option<&str>, &str)]) {
        let first = self.sent;
        let message = |((key, value), offset): (&(Option<&str>, &str), u64)| {
            Message::of(OwnedRecord {
                offset: offset as i64,
                timestamp_ms: NOON_MS,
                key: key.map(|key| key.as_bytes().into()),
                value: Some(value.as_bytes().into()),
                headers: Vec::new(),
            })
        };
        let messages: Vec<_> = values.iter().zip(first..).map(message).collect();
        self.sent += messages.len() as u64;
        self.letters.push(ToWorker::Batch {
            messages,
            first,
            taken: self.worker.clock.now(),
            plan: self.plan.clone(),
            partition: self.partition.clone(),
        });
    }

    fn turn(&mut self) -> Turn {
        self.worker.mailbox.take(&mut self.letters);
        let turn = self.worker.turn(&mut self.letters);
        let mut letters = Vec::new();
        self.partition.inbox.take(&mut letters);
        for letter in letters {
            match letter {
                ToConsumer::Finished { finished, asked } => {
                    let numbers = finished.into_iter().map(|(_, numbers)| numbers);
                    let numbers: Vec<u64> = numbers.flatten().collect();
                    self.finished.extend(&numbers);
                    self.handed.push(Handed::Finished(numbers));
                    let asks = asked.into_iter().flat_map(|one| one.asks);
                    self.asked.extend(asks.map(|ask| ask.offset));
                }
                ToConsumer::Commit { ask, reply, .. } => {
                    self.asked.push(ask.offset);
                    reply.committed(Ok(ask.offset));
                }
                ToConsumer::HandedOver(all) => {
                    self.handed.extend(all.into_iter().map(Handed::Over));
                }
                ToConsumer::WentBack { lane, .. } => self.handed.push(Handed::Back(lane)),
                ToConsumer::Deferred { moved, .. } => self.moved.extend(moved),
                ToConsumer::Drained(_) => self.is_drained = true,
                ToConsumer::Observed { .. } => self.observed += 1,
                _ => {}
            }
        }
        turn
    }

    /// Takes turns until this much time has passed.
    fn pass(&mut self, time: Duration) {
        let end = self.worker.clock.now() + time;
        loop {
            match self.turn() {
                Turn::Busy => {}
                Turn::Until(at) if at <= end => self.clock.advance_to(at),
                Turn::Until(_) if self.worker.clock.now() < end => self.clock.advance_to(end),
                Turn::Until(_) => return,
                Turn::Stopped => panic!("the worker has stopped"),
            }
        }
    }

    /// Takes turns until every message is finished, and moves the clock on where the worker would wait. How long that
    /// took, by the clock.
    #[track_caller]
    fn finish(&mut self) -> Duration {
        for _ in 0..100_000 {
            match self.turn() {
                _ if self.finished.len() as u64 == self.sent => {
                    return self.worker.clock.since(self.began);
                }
                Turn::Busy => {}
                Turn::Until(at) => self.clock.advance_to(at),
                Turn::Stopped => panic!("the worker has stopped"),
            }
        }
        panic!("{} of {} are finished", self.finished.len(), self.sent);
    }
}

#[test]
fn an_hour_of_sleep_takes_no_time() {
    let mut fixture = Fixture::new(
        "limits = { timeout = \"2h\" }",
        r#"
        local tide = require("tide")
        return function(message, ctx)
          local before = tide.now()
          assert(before == ctx.startTime)
          tide.sleep("1h")
          assert(tide.now() == before + 3600000, tide.now() - before)
        end
        "#,
    );
    let began = Instant::now();
    fixture.send(&["a"]);
    assert_eq!(fixture.finish(), Duration::from_secs(3600));
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_back_off_passes_by_the_clock_that_is_handed_in() {
    let mut fixture = Fixture::new(
        "retry = { initialDelay = \"30s\", maxDelay = \"1m\", jitter = 0.0 }",
        r#"
        local tide = require("tide")
        local runs = {}
        return function(message)
          runs[#runs + 1] = tide.now()
          if #runs < 3 then error("not yet") end
          assert(runs[2] - runs[1] == 30000 and runs[3] - runs[2] == 60000)
        end
        "#,
    );
    fixture.send(&["a", "b"]);
    assert_eq!(fixture.finish(), Duration::from_secs(90));
    assert_eq!(fixture.finished, [0, 1]);
}

#[test]
fn a_call_is_given_up_after_its_timeout() {
    let mut fixture = Fixture::new(
        "limits = { timeout = \"10m\" }\nretry = { attempts = 2, initialDelay = \"20m\", maxDelay = \"20m\", jitter = 0.0 }\nonError = \"skip\"",
        r#"
        local tide = require("tide")
        return function() tide.sleep("1h") end
        "#,
    );
    fixture.send(&["a"]);
    assert_eq!(fixture.finish(), Duration::from_secs((10 + 20 + 10) * 60));
}

/// Runs fail at 0, 1, 2 and 3 s, which opens the breaker. After its pause a probe with a message that has failed before
/// waits for a fresh one first.
#[test]
fn an_open_breaker_lets_a_probe_pass_after_its_pause() {
    let mut fixture = Fixture::new(
        "retry = { initialDelay = \"1s\", multiplier = 1.0, jitter = 0.0 }\n\
         breaker = { failureRatio = 0.5, minimumRuns = 4, window = \"10s\", pause = \"1m\", probes = 1 }",
        r#"
        local runs = 0
        return function()
          runs = runs + 1
          if runs < 5 then error("not yet") end
        end
        "#,
    );
    fixture.send(&["a"]);
    assert_eq!(fixture.finish(), Duration::from_millis(63_500));
}

/// Behind a restart, the messages are left that fail: the breaker waits for others. The last one opens it.
#[test]
fn messages_that_were_left_open_no_breaker() {
    for (left, is_closed) in [(7, true), (0, false)] {
        let mut fixture = Fixture::new(
            "retry = { initialDelay = \"1s\", multiplier = 1.0, jitter = 0.0 }\nordering = \"none\"\n\
             breaker = { failureRatio = 0.5, minimumRuns = 4, window = \"10s\", pause = \"1m\", probes = 1 }",
            "return function() error('hopeless') end",
        );
        fixture.partition.set_left_below(left);
        fixture.send(&["a", "b", "c", "d", "e", "f", "g"]);
        fixture.pass(Duration::from_secs(4));
        let found = fixture.worker.gates.states().next().unwrap().breaker;
        assert_eq!(matches!(found, breaker::State::Closed), is_closed, "{left}");
    }
}

/// 4 a second: a run each 250 ms. The third run, a retry, counts too.
#[test]
fn a_rate_limit_counts_every_run() {
    let mut fixture = Fixture::new(
        "rateLimit = { messages = 4 }\nretry = { initialDelay = \"1ms\", maxDelay = \"1ms\", jitter = 0.0 }",
        r#"
        local failed = false
        return function(message)
          if message.value == "bad" and not failed then failed = true error("once") end
        end
        "#,
    );
    fixture.send(&["a", "bad", "c", "d"]);
    let took = fixture.finish();
    // One may begin a twentieth of a second early.
    assert_eq!(took, Duration::from_millis(4 * 250 - 50));
    assert_eq!(fixture.finished, [0, 1, 2, 3]);
    let snapshot = fixture.worker.snapshot();
    assert_eq!(snapshot.listeners[0].counts.rate_limit_holds, 4);
    assert_eq!(snapshot.listeners[0].counts.run.count(), 5);
}

#[test]
fn a_call_that_waits_takes_one_run_of_the_limit() {
    let mut fixture = Fixture::new(
        "rateLimit = { messages = 1, per = \"10s\" }\nordering = \"none\"\nlimits = { timeout = \"1h\" }",
        r#"
        local tide = require("tide")
        return function() tide.sleep("1m") tide.sleep("1m") end
        "#,
    );
    fixture.send(&["a", "b", "c"]);
    assert_eq!(fixture.finish(), Duration::from_millis(19_500 + 120_000));
}

/// A slow limit holds a position for hours: it does not stand still, and it says why it waits.
#[test]
fn a_partition_that_a_rate_limit_holds_says_so() {
    let mut fixture = Fixture::new(
        "rateLimit = { messages = 1, per = \"2h\" }",
        "return function() end",
    );
    fixture.send(&["a", "b"]);
    while fixture.turn() == Turn::Busy {}
    let partition = fixture.worker.snapshot().partitions.remove(0);
    assert_eq!(partition.waits, Some(Pause::RateLimit));
    assert_eq!(partition.held_until, Some(NOON_MS));
    assert!(fixture.worker.snapshot().listeners[0].status.rate_limited);
    fixture.finish();
    let snapshot = fixture.worker.snapshot();
    assert_eq!(snapshot.partitions[0].waits, None);
    assert!(!snapshot.listeners[0].status.rate_limited);
}

/// A handler has paused the partition: its message does not wait for the rate limit, whose turn it had.
#[test]
fn a_partition_that_a_handler_has_paused_waits_for_no_rate_limit() {
    for ordering in ["partition", "key"] {
        let mut fixture = Fixture::new(
            &format!("rateLimit = {{ messages = 1, per = \"10s\" }}\nordering = \"{ordering}\""),
            "return function() end",
        );
        fixture.send(&["a", "b"]);
        while fixture.turn() == Turn::Busy {}
        assert!(fixture.worker.snapshot().listeners[0].status.rate_limited);
        fixture.partition.set_held(true);
        fixture.pass(Duration::from_secs(60));
        let snapshot = fixture.worker.snapshot();
        assert_eq!(snapshot.partitions[0].waits, None, "{ordering}");
        assert!(!snapshot.listeners[0].status.rate_limited, "{ordering}");
        assert!(snapshot.partitions[0].held_until < Some(NOON_MS + 60_000));

        fixture.partition.set_held(false);
        fixture
            .letters
            .push(ToWorker::Wake(fixture.partition.clone()));
        fixture.finish();
        assert_eq!(fixture.finished, [0, 1], "{ordering}");
    }
}

/// After the hours it waits for something else: only that counts.
#[test]
fn a_message_counts_as_standing_still_from_its_run_on() {
    let mut fixture = Fixture::new(
        "rateLimit = { messages = 1, per = \"1h\" }\nlimits = { timeout = \"3h\" }",
        r#"
        local tide = require("tide")
        return function(message) if message.value == "slow" then tide.sleep("2h") end end
        "#,
    );
    fixture.send(&["a", "slow"]);
    let hour = Duration::from_secs(3600);
    while fixture.worker.clock.since(fixture.began) < 2 * hour {
        if let Turn::Until(at) = fixture.turn() {
            fixture.clock.advance_to(at);
        }
    }
    let partition = fixture.worker.snapshot().partitions.remove(0);
    let admitted = NOON_MS + 57 * 60_000;
    assert_eq!(
        (partition.waits, partition.held_until),
        (None, Some(admitted))
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut fixture = Fixture::new(
            "retry = { initialDelay = \"1s\", jitter = 0.5 }",
            r#"
            local runs = 0
            return function()
              runs = runs + 1
              if runs < 8 then error("not yet") end
            end
            "#,
        );
        fixture.send(&["a"]);
        fixture.finish()
    };
    let first = run();
    assert!(first > Duration::from_secs(1));
    assert_eq!(run(), first);
}

#[test]
fn a_worker_that_has_nothing_to_do_waits_for_its_next_look() {
    let mut fixture = Fixture::new("", "return function() end");
    let now = fixture.worker.clock.now();
    assert_eq!(fixture.turn(), Turn::Until(now + TURN));
    fixture.letters.push(ToWorker::Stop);
    assert_eq!(fixture.turn(), Turn::Stopped);
}

#[test]
fn the_shares_of_all_workers_are_the_limit() {
    for (limit, count) in [(1, 1), (1, 4), (7, 3), (1000, 2)] {
        assert_eq!(
            (0..count)
                .map(|index| share(limit, index, count))
                .sum::<usize>(),
            limit
        );
    }
}
