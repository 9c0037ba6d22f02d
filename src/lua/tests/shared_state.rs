//! `tide.kv`, `tide.once`, `tide.cache` and `tide.limit`, in several VMs that share the state of the process.

mod caches;
mod flights;
mod limits;
mod stores;

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use crate::lua::tests::*;
use crate::wait::{Cancel, Reply, WaitId, Waits};

const SOON: Duration = Duration::from_secs(20);

type Waiting = (usize, CallId, WaitId);

/// VMs of one process, with any number of calls at once. A sleep ends when nothing else goes on.
struct Crowd {
    app: Arc<App>,
    pulse: Pulse,
    _watchdog: Watchdog,
    vms: Vec<Vm>,
    /// The calls under way, with the offset of each.
    calls: HashMap<(usize, CallId), i64>,
    sleeps: VecDeque<Waiting>,
    outside: Vec<(Waiting, Cancel)>,
    sender: Sender<(Waiting, Answer)>,
    answers: Receiver<(Waiting, Answer)>,
    /// Offsets of calls that have ended, with the reason of those that failed.
    ended: Vec<(i64, Option<String>)>,
}

impl Crowd {
    fn new(setup: &Setup, vms: usize) -> Self {
        Self::with(Arc::default(), setup, vms)
    }

    fn with(app: Arc<App>, setup: &Setup, vms: usize) -> Self {
        let watchdog = Watchdog::start(&Supervisor::without_daemon()).unwrap();
        let pulse = watchdog.watch_current_thread("test");
        let (sender, answers) = mpsc::channel();
        let mut crowd = Self {
            app,
            pulse,
            _watchdog: watchdog,
            vms: Vec::new(),
            calls: HashMap::new(),
            sleeps: VecDeque::new(),
            outside: Vec::new(),
            sender,
            answers,
            ended: Vec::new(),
        };
        for _ in 0..vms {
            crowd.add(setup);
        }
        crowd
    }

    /// A further VM; its index.
    fn add(&mut self, setup: &Setup) -> usize {
        let vm = Vm::build(&setup.bundle(), &self.app, &self.pulse);
        self.vms.push(vm.unwrap_or_else(|error| panic!("{error}")));
        self.vms.len() - 1
    }

    /// Starts the call of a message with this offset.
    fn start(&mut self, vm: usize, offset: i64) -> Option<CallId> {
        let record = OwnedRecord {
            offset,
            ..OwnedRecord::default()
        };
        let topic: Arc<str> = "orders".into();
        let call = Call {
            listener: 0,
            topic: &topic,
            partition: 3,
            record: &record,
            attempt: 1,
            is_retry: false,
        };
        let step = self.vms[vm].call(&self.pulse, &call);
        self.follow(vm, offset, step)
    }

    fn follow(&mut self, vm: usize, offset: i64, step: Step) -> Option<CallId> {
        let reason = match step {
            Step::Waits(call, waits) => {
                self.calls.insert((vm, call), offset);
                self.begin(vm, call, waits);
                return Some(call);
            }
            Step::Done => None,
            Step::Failed(failure) => Some(failure.message),
            step => panic!("{step:?}"),
        };
        self.ended.push((offset, reason));
        None
    }

    fn begin(&mut self, vm: usize, call: CallId, waits: Waits) {
        for id in waits.given_up {
            self.forget(|waiting| *waiting == (vm, call, id));
        }
        for (id, wait) in waits.begun {
            let waiting = (vm, call, id);
            match wait {
                Wait::Sleep(_) => self.sleeps.push_back(waiting),
                Wait::Outside(job) => {
                    let sender = self.sender.clone();
                    let reply = Reply::new(move |answer| _ = sender.send((waiting, answer)));
                    let cancel = self.app.outside.begin(job, reply);
                    self.outside.push((waiting, cancel));
                }
                wait => panic!("{wait:?}"),
            }
        }
    }

    fn forget(&mut self, is_it: impl Fn(&Waiting) -> bool) {
        self.outside.retain(|(waiting, _)| !is_it(waiting));
        self.sleeps.retain(|waiting| !is_it(waiting));
    }

    /// Gives a call up, as a time-out or a revocation does.
    fn cancel(&mut self, vm: usize, call: CallId) {
        self.calls.remove(&(vm, call));
        self.vms[vm].cancel(call);
        self.forget(|(one, other, _)| (*one, *other) == (vm, call));
    }

    /// Runs all calls to their end.
    fn run(&mut self) {
        while self.step() {}
    }

    /// One answer; false when no call waits any more.
    fn step(&mut self) -> bool {
        loop {
            // A flight ends only with its leader, so a sleep does not wait for what is outside.
            let patience = if self.sleeps.is_empty() {
                SOON
            } else {
                Duration::from_millis(2)
            };
            let next = if self.outside.is_empty() && self.sleeps.is_empty() {
                return false;
            } else {
                self.answers.recv_timeout(patience).ok()
            };
            let (waiting, answer) = match next {
                Some(next) => next,
                None => match self.sleeps.pop_front() {
                    Some(waiting) => (waiting, Answer::Slept),
                    None => panic!("no answer comes"),
                },
            };
            self.outside.retain(|(one, _)| *one != waiting);
            let (vm, call, id) = waiting;
            // The answer to a call that was given up.
            let Some(offset) = self.calls.remove(&(vm, call)) else {
                continue;
            };
            let step = self.vms[vm].resume(&self.pulse, call, id, answer);
            self.follow(vm, offset, step);
            return true;
        }
    }

    fn leases(&self) -> usize {
        self.vms.iter().map(|vm| vm.shared.states.leases()).sum()
    }

    /// The attribute of the process, which handlers count by.
    fn count(&self, name: &str) -> i64 {
        match self.app.get(name.as_bytes()).as_deref() {
            Some(crate::wait::Value::Integer(count)) => *count,
            _ => 0,
        }
    }

    #[track_caller]
    fn all_done(&self, count: usize) {
        let failed = self.ended.iter().find(|(_, reason)| reason.is_some());
        assert_eq!(failed, None);
        assert_eq!(self.ended.len(), count);
        assert_eq!(self.leases(), 0);
    }
}

/// A handler with `message`, `ctx` and `add`, which counts for the test.
fn counting(head: &str, body: &str) -> Setup {
    let text = format!(
        "local tide = require 'tide'
         local function add(name, by)
           tide.app.setAttr(name, (tide.app.getAttr(name) or 0) + (by or 1))
         end
         {head}
         return function(message, ctx) {body}\nend"
    );
    Setup::new().file("h.lua", &text).handler("h")
}

/// Runs `body`, which asserts for itself.
#[track_caller]
fn passes(body: &str) {
    let mut crowd = Crowd::new(&counting("", body), 1);
    crowd.start(0, 0);
    crowd.run();
    crowd.all_done(1);
}

#[track_caller]
fn error(body: &str) -> String {
    let mut crowd = Crowd::new(&counting("", body), 1);
    crowd.start(0, 0);
    crowd.run();
    let (_, reason) = crowd.ended.pop().expect("the call ends");
    reason.expect("the call fails")
}
