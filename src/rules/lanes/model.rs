//! Lanes in random histories, driven as a worker drives them: order within a key, nothing lost, nothing run twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::rules::lanes::*;

/// What a call comes to.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Done,
    Waits,
    Fails,
}

#[derive(Clone, Debug)]
enum Step {
    /// Messages of these keys.
    Push(Vec<u64>),
    /// One turn: at most one message begins or goes on.
    Turn(Outcome),
    /// A call that waited comes back.
    Back(prop::sample::Index, Outcome),
    /// Back-offs are over.
    Tick,
    /// Another set of listeners.
    Reload(usize),
    Copy,
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        3 => Just(Outcome::Done),
        2 => Just(Outcome::Waits),
        1 => Just(Outcome::Fails),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => prop::collection::vec(0_u64..5, 1..6).prop_map(Step::Push),
        8 => outcome().prop_map(Step::Turn),
        4 => (any::<prop::sample::Index>(), outcome()).prop_map(|(at, how)| Step::Back(at, how)),
        2 => Just(Step::Tick),
        1 => (1_usize..4).prop_map(Step::Reload),
        1 => Just(Step::Copy),
    ]
}

const NAMES: [&str; 3] = ["a", "b", "c"];

struct Worker {
    lanes: Lanes<u64>,
    /// The key of each message, by its number.
    keys: Vec<u64>,
    listeners: usize,
    now: Instant,
    /// (number, listener) → done runs.
    done: BTreeMap<(u64, String), u32>,
    finished: BTreeSet<u64>,
    /// Calls that wait: lane and listener.
    waiting: Vec<(u64, String)>,
}

impl Worker {
    fn new() -> Self {
        Self {
            lanes: Lanes::new(),
            keys: Vec::new(),
            listeners: 2,
            now: Instant::now(),
            done: BTreeMap::new(),
            finished: BTreeSet::new(),
            waiting: Vec::new(),
        }
    }

    fn names(&self) -> impl Iterator<Item = &'static str> + Clone + use<> {
        NAMES[..self.listeners].iter().copied()
    }

    fn push(&mut self, keys: &[u64]) {
        let first = self.keys.len() as u64;
        self.keys.extend(keys);
        self.lanes.push(first, first..first + keys.len() as u64);
    }

    /// Whether there was something to do.
    fn turn(&mut self, outcome: Outcome) -> bool {
        if let Some(key) = self.lanes.next_ready() {
            if let Some(lane) = self.lanes.take(key) {
                self.go_on(key, lane, outcome);
            }
            return true;
        }
        let Some((number, &message)) = self.lanes.fresh() else {
            return false;
        };
        assert_eq!(number, message);
        let key = self.keys[number as usize];
        if self.lanes.is_open(key) {
            self.lanes.defer_fresh(key);
        } else {
            let (number, message) = self.lanes.take_fresh().unwrap();
            let lane = Lane::new(number, message, self.names());
            self.go_on(key, lane, outcome);
        }
        true
    }

    fn go_on(&mut self, key: u64, mut lane: Lane<u64>, outcome: Outcome) {
        loop {
            match lane.state() {
                LaneState::Run(index) => self.run(key, &mut lane, index, outcome),
                LaneState::Finished => {
                    assert!(self.finished.insert(lane.number), "it finished before");
                    match lane.advance(self.names()) {
                        Some(next) => lane = next,
                        None => return,
                    }
                }
                LaneState::Busy | LaneState::Wait(_) | LaneState::Stuck => break,
                LaneState::Send(_) => panic!("nothing is sent here"),
            }
        }
        self.lanes.put(key, lane);
    }

    fn run(&mut self, key: u64, lane: &mut Lane<u64>, index: usize, outcome: Outcome) {
        assert_eq!(lane.number, lane.message);
        assert_eq!(self.keys[lane.number as usize], key);
        assert!(
            !self.waiting.iter().any(|(other, _)| *other == key),
            "two calls in one lane"
        );
        let earlier = (0..lane.number).filter(|number| self.keys[*number as usize] == key);
        for number in earlier {
            assert!(self.finished.contains(&number), "{number} is overtaken");
        }
        let progress = &mut lane.progress[index];
        progress.attempt += 1;
        progress.stage = Stage::Running;
        let listener = progress.listener.clone();
        assert!(
            !self.done.contains_key(&(lane.number, listener.clone())),
            "it runs twice"
        );
        match outcome {
            Outcome::Waits => self.waiting.push((key, listener)),
            Outcome::Done | Outcome::Fails => self.end(lane, index, outcome),
        }
    }

    fn end(&mut self, lane: &mut Lane<u64>, index: usize, outcome: Outcome) {
        let progress = &mut lane.progress[index];
        if matches!(outcome, Outcome::Fails) {
            progress.stage = Stage::BackOff(self.now + Duration::from_secs(1));
        } else {
            progress.stage = Stage::Final;
            let runs = self.done.entry((lane.number, progress.listener.clone()));
            *runs.or_default() += 1;
        }
    }

    fn back(&mut self, at: prop::sample::Index, outcome: Outcome) {
        if self.waiting.is_empty() || matches!(outcome, Outcome::Waits) {
            return;
        }
        let (key, listener) = self.waiting.swap_remove(at.index(self.waiting.len()));
        let mut lane = self.lanes.take(key).expect("a call keeps its lane");
        let index = lane.index_of(&listener).expect("a call keeps its listener");
        self.end(&mut lane, index, outcome);
        self.lanes.put(key, lane);
        self.lanes.wake(key);
    }

    fn tick(&mut self) {
        self.now += Duration::from_secs(2);
        let open: Vec<u64> = self.lanes.open().map(|(key, _)| key).collect();
        for key in open {
            self.lanes.get_mut(key).expect("it is open").tick(self.now);
        }
        self.lanes.wake_all();
    }

    fn reload(&mut self, listeners: usize) {
        self.listeners = listeners;
        let names = self.names();
        // One that goes and comes again is a new one.
        let stays = |listener: &str| names.clone().any(|name| name == listener);
        self.done.retain(|(_, listener), _| stays(listener));
        self.lanes.set_listeners(&names, |_, _| {});
        self.lanes.end_back_offs(None);
        self.lanes.wake_all();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push(keys) => self.push(&keys),
            Step::Turn(outcome) => {
                self.turn(outcome);
            }
            Step::Back(at, outcome) => self.back(at, outcome),
            Step::Tick => self.tick(),
            Step::Reload(listeners) => self.reload(listeners),
            Step::Copy => self.lanes.each_old(|_| {}),
        }
    }

    /// All that is here: each message once, finished ones not.
    fn here(&mut self) -> BTreeSet<u64> {
        let mut here = BTreeSet::new();
        let mut add = |message: &mut u64| assert!(here.insert(*message), "it is here twice");
        self.lanes.each_old(|_| {});
        self.lanes.each_old(&mut add);
        here
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn each_key_keeps_its_order_and_each_message_is_finished_once(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut worker = Worker::new();
        for step in steps {
            worker.step(step);
            let here = worker.here();
            let all = 0..worker.keys.len() as u64;
            for number in all {
                prop_assert!(here.contains(&number) != worker.finished.contains(&number));
            }
        }
        // Whatever has happened, all of it can come to its end.
        for _ in 0..2 {
            while !worker.waiting.is_empty() {
                let (key, listener) = worker.waiting[0].clone();
                let lane = worker.lanes.get(key).expect("a call keeps its lane");
                prop_assert!(lane.index_of(&listener).is_some());
                worker.waiting.swap_remove(0);
                let mut lane = worker.lanes.take(key).unwrap();
                let index = lane.index_of(&listener).unwrap();
                worker.end(&mut lane, index, Outcome::Done);
                worker.lanes.put(key, lane);
                worker.lanes.wake(key);
            }
            worker.tick();
            while worker.turn(Outcome::Done) {}
        }
        prop_assert!(worker.lanes.fresh().is_none() && !worker.lanes.has_open());
        prop_assert_eq!(worker.finished.len(), worker.keys.len());
        prop_assert!(worker.done.values().all(|runs| *runs == 1));
    }
}
