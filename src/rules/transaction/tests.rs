//! Single steps of the machine.

use super::*;

const LANE: Lane = Lane { epoch: 1, lane: 7 };

/// Everything fits, but the numbers of the list.
struct All(Vec<u64>);

impl Positions for All {
    fn begin(&mut self) {}

    fn enter(&mut self, _: u64, numbers: &[u64]) -> Enters {
        if !numbers.iter().any(|number| self.0.contains(number)) {
            return Enters::Yes;
        }
        match numbers {
            [_] => Enters::Later,
            _ => Enters::Blocked,
        }
    }
}

fn settings() -> Settings {
    Settings {
        interval: Duration::from_millis(100),
        messages: 4,
        partition_bytes: 1_000,
        bytes: 2_000,
        timeout: Duration::from_secs(15),
        call: Duration::from_secs(4),
    }
}

fn item(number: u64) -> Item<&'static str> {
    Item {
        lane: LANE,
        number,
        others: Vec::new(),
        is_of_batches: false,
        bytes: 10,
        load: "records",
    }
}

struct Bench {
    machine: Machine<&'static str>,
    now: Instant,
    full: Vec<u64>,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            machine: Machine::new(settings()),
            now: Instant::now(),
            full: Vec::new(),
        };
        assert_eq!(bench.step(), [Action::Start]);
        assert_eq!(bench.answer(Answer::Started), []);
        bench
    }

    fn step(&mut self) -> Vec<Action<&'static str>> {
        self.look(false, false)
    }

    fn look(&mut self, has_moved: bool, is_hurried: bool) -> Vec<Action<&'static str>> {
        self.machine.step(Step {
            now: self.now,
            positions: &mut All(self.full.clone()),
            has_moved,
            is_hurried,
        })
    }

    fn answer(&mut self, answer: Answer) -> Vec<Action<&'static str>> {
        self.machine.answered(answer, self.now)
    }

    fn finish(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.machine.finished(item(number));
        }
    }

    /// A transaction with these messages is about to end.
    fn ending(numbers: std::ops::Range<u64>) -> Self {
        let mut bench = Self::new();
        bench.finish(numbers);
        bench.step();
        bench.now += Duration::from_millis(100);
        let actions = bench.step();
        assert!(matches!(actions[..], [Action::End(_)] | []), "{actions:?}");
        bench
    }
}

fn numbers(action: &Action<&'static str>) -> Vec<u64> {
    match action {
        Action::Put(items) | Action::Committed(items) => {
            items.iter().map(|item| item.number).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_transaction_is_open_for_its_interval_and_takes_what_finishes_meanwhile() {
    let mut bench = Bench::new();
    assert_eq!(bench.step(), []);
    bench.finish(0..1);
    let actions = bench.step();
    assert_eq!(actions[0], Action::Begin);
    assert_eq!(numbers(&actions[1]), [0]);
    bench.finish(1..2);
    assert_eq!(numbers(&bench.step()[0]), [1]);
    let at = bench.machine.deadline().unwrap();
    assert_eq!(at - bench.now, Duration::from_millis(100));
    bench.now = at;
    assert_eq!(bench.step(), [Action::End(vec![1])]);
    // What finishes while it ends goes into the next one.
    bench.finish(2..3);
    assert_eq!(bench.step(), []);
    let actions = bench.answer(Answer::Committed { is_clean: true });
    assert_eq!(numbers(&actions[0]), [0, 1]);
    assert_eq!(numbers(&bench.step()[1]), [2]);
}

#[test]
fn a_transaction_ends_at_once_when_it_is_full_heavy_or_in_the_way() {
    let mut bench = Bench::new();
    bench.finish(0..5);
    let actions = bench.step();
    assert_eq!(numbers(&actions[1]), [0, 1, 2, 3]);
    assert_eq!(actions[2], Action::End(vec![1]));

    let mut bench = Bench::new();
    bench.machine.finished(Item {
        bytes: 2_500,
        ..item(0)
    });
    assert!(matches!(bench.step()[2], Action::End(_)));

    let mut bench = Bench::new();
    assert_eq!(bench.look(true, true), [Action::Begin, Action::End(vec![])]);
}

#[test]
fn a_message_that_does_not_fit_holds_those_behind_it_until_something_has_changed() {
    let mut bench = Bench::new();
    bench.full = vec![0];
    bench.finish(0..2);
    assert_eq!(bench.step(), [Action::Begin]);
    bench.now += Duration::from_millis(100);
    assert_eq!(bench.step(), [Action::End(vec![])]);
    bench.answer(Answer::Committed { is_clean: true });
    bench.full.clear();
    assert_eq!(numbers(&bench.step()[1]), [0, 1]);
}

#[test]
fn a_producer_with_a_request_without_an_answer_ends_after_its_transaction() {
    let mut bench = Bench::ending(0..1);
    let actions = bench.answer(Answer::Committed { is_clean: false });
    assert_eq!(numbers(&actions[0]), [0]);
    assert_eq!(actions[1], Action::Start);
    assert_eq!(bench.answer(Answer::Started), []);
}

#[test]
fn an_unknown_end_is_read_back_after_the_next_producer_has_started() {
    let is_fenced = false;
    for (found, expected) in [(Found::Wanted, 1), (Found::Before, 0)] {
        let mut bench = Bench::ending(0..1);
        assert_eq!(bench.answer(Answer::Unknown { is_fenced }), [Action::Start]);
        // A late answer of the old one does not count: its number is another one.
        assert_eq!(bench.answer(Answer::NotStarted { is_fenced }), []);
        bench.now += Duration::from_secs(1);
        assert_eq!(bench.step(), [Action::Start]);
        assert_eq!(bench.answer(Answer::Started), [Action::ReadBack]);
        bench.machine.read_back(Found::Unreachable, bench.now);
        bench.now += Duration::from_secs(1);
        assert_eq!(bench.step(), [Action::ReadBack]);
        bench.machine.read_back(found, bench.now);
        let counts = bench.machine.counts();
        assert_eq!((counts.committed, counts.unknown), (expected, 1));
        assert_eq!(counts.replaced, 2);
        let actions = bench.step();
        assert_eq!(actions.is_empty(), found == Found::Wanted, "{actions:?}");
    }
}

#[test]
fn a_call_that_does_not_come_back_is_left() {
    let mut bench = Bench::ending(0..1);
    bench.now = bench.machine.deadline().unwrap();
    assert_eq!(bench.step(), [Action::Start]);
    assert_eq!(bench.machine.counts().replaced, 1);
    assert_eq!(bench.answer(Answer::Started), [Action::ReadBack]);
}

#[test]
fn a_lost_partition_ends_its_transaction() {
    let mut bench = Bench::new();
    bench.finish(0..1);
    bench.step();
    let mut actions = Vec::new();
    bench.machine.lost(1, &mut actions, bench.now);
    assert_eq!(actions, [Action::Abort]);
    assert_eq!(
        bench.answer(Answer::Aborted { is_clean: true }),
        [Action::Requeued]
    );
    assert_eq!(bench.step(), [], "nothing of it is left");

    let mut bench = Bench::ending(0..1);
    let mut actions = Vec::new();
    bench.machine.lost(1, &mut actions, bench.now);
    bench.machine.lost(1, &mut actions, bench.now);
    assert_eq!(actions, [Action::Poison]);
}

/// A refused record: in halves, until its message is alone. Then it has failed, and its lane waits for it.
#[test]
fn a_refused_record_is_found_by_halves() {
    let mut bench = Bench::ending(0..4);
    let refuse = || {
        Answer::NotCommitted(Why::Refused {
            part: 0,
            text: "too large".to_owned(),
        })
    };
    assert_eq!(bench.answer(refuse()), [Action::Abort]);
    bench.answer(Answer::Aborted { is_clean: true });
    assert_eq!(numbers(&bench.step()[1]), [0, 1]);
    bench.answer(refuse());
    bench.answer(Answer::Aborted { is_clean: true });
    assert!(bench.machine.is_alone());
    assert_eq!(numbers(&bench.step()[1]), [0]);
    bench.answer(refuse());
    let actions = bench.answer(Answer::Aborted { is_clean: true });
    assert!(matches!(actions[1], Action::Refused { ref item, .. } if item.number == 0));
    // Whatever the lane sent before it knew does not count.
    bench.finish(4..5);
    assert_eq!(bench.step(), []);
    bench.machine.went_back(LANE);
    bench.finish(0..2);
    assert_eq!(numbers(&bench.step()[1]), [0]);
    assert!(!bench.machine.owes(2) && bench.machine.owes(1));
}

/// Twice within a minute, and with transactions that the brokers had no reason to end.
#[test]
fn a_second_process_is_noticed() {
    let is_fenced = true;
    let fence = |bench: &mut Bench| {
        bench.finish(0..1);
        bench.step();
        bench.now += Duration::from_millis(100);
        bench.step();
        let actions = bench.answer(Answer::Unknown { is_fenced });
        bench.answer(Answer::Started);
        bench.machine.read_back(Found::Wanted, bench.now);
        actions.contains(&Action::SecondProcess)
    };
    let mut bench = Bench::new();
    assert!(!fence(&mut bench));
    bench.now += Duration::from_secs(61);
    assert!(!fence(&mut bench));
    bench.now += Duration::from_secs(10);
    assert!(fence(&mut bench));

    // The process was frozen.
    let mut bench = Bench::new();
    for _ in 0..2 {
        bench.finish(0..1);
        bench.step();
        bench.now += Duration::from_secs(10);
        bench.step();
        let actions = bench.answer(Answer::Unknown { is_fenced });
        assert!(!actions.contains(&Action::SecondProcess));
        bench.answer(Answer::Started);
        bench.machine.read_back(Found::Wanted, bench.now);
    }
}

/// The position of partition 1 waits for message 1, that of partition 2 for message 2; nothing else fits.
struct Lowest;

impl Positions for Lowest {
    fn begin(&mut self) {}

    fn enter(&mut self, _: u64, numbers: &[u64]) -> Enters {
        if numbers[0] < 10 {
            Enters::Yes
        } else {
            Enters::Later
        }
    }
}

/// Each lane has a message that does not fit in one partition, and before it the lowest of the other one.
#[test]
fn two_lanes_do_not_wait_for_each_other_over_two_partitions() {
    let entered = |epochs: [u64; 2]| {
        let mut machine = Machine::new(settings());
        let now = Instant::now();
        let step = |machine: &mut Machine<()>| {
            machine.step(Step {
                now,
                positions: &mut Lowest,
                has_moved: false,
                is_hurried: false,
            })
        };
        step(&mut machine);
        machine.answered(Answer::Started, now);
        let [one, other] = epochs;
        for (epoch, lane, number) in [(other, 7, 20), (one, 7, 1), (one, 8, 10), (other, 8, 2)] {
            machine.finished(Item {
                lane: Lane { epoch, lane },
                number,
                others: Vec::new(),
                is_of_batches: false,
                bytes: 1,
                load: (),
            });
        }
        let actions = step(&mut machine);
        let put = actions.into_iter().find_map(|action| match action {
            Action::Put(items) => Some(items.len()),
            _ => None,
        });
        put.unwrap_or(0)
    };
    assert_eq!(entered([1, 2]), 2);
    assert_eq!(
        entered([1, 1]),
        0,
        "with one queue for a lane of both they would"
    );
}

/// A call has finished these messages, each with its lane.
fn call(members: &[(u64, u64)]) -> Item<&'static str> {
    let (lane, number) = members[0];
    let others = members[1..].iter();
    Item {
        lane: Lane { lane, ..LANE },
        number,
        others: others
            .map(|&(lane, number)| Member { lane, number })
            .collect(),
        is_of_batches: true,
        bytes: 10,
        load: "records",
    }
}

fn all_put(actions: &[Action<&'static str>]) -> Vec<u64> {
    let put = actions.iter().filter_map(|action| match action {
        Action::Put(items) => Some(items.iter().map(|one| one.number)),
        _ => None,
    });
    put.flatten().collect()
}

#[test]
fn a_call_enters_when_it_is_the_first_of_all_its_lanes_and_counts_all_its_messages() {
    let mut bench = Bench::new();
    bench.full = vec![1];
    bench.machine.finished(call(&[(7, 1)]));
    bench.machine.finished(call(&[(7, 2), (8, 3), (8, 4)]));
    bench.machine.finished(call(&[(8, 5)]));
    bench.machine.finished(call(&[(9, 6)]));
    assert_eq!(all_put(&bench.step()), [6], "the others wait for the first");
    assert_eq!(bench.machine.waiting(), (6, 40));
    bench.full.clear();
    bench.look(false, true);
    bench.answer(Answer::Committed { is_clean: true });
    let actions = bench.step();
    assert_eq!(all_put(&actions), [1, 2]);
    // Four messages are the most of a transaction.
    assert!(matches!(actions.last(), Some(Action::End(_))));
    bench.answer(Answer::Committed { is_clean: true });
    assert_eq!(all_put(&bench.step()), [5]);
}

#[test]
fn what_comes_back_stands_before_a_call_in_each_of_its_lanes() {
    let mut bench = Bench::new();
    bench.machine.finished(call(&[(8, 1)]));
    bench.machine.finished(call(&[(7, 2), (8, 3)]));
    assert_eq!(all_put(&bench.look(false, true)), [1, 2]);
    bench.machine.finished(call(&[(7, 4), (8, 5)]));
    bench.answer(Answer::NotCommitted(Why::Transient));
    bench.answer(Answer::Aborted { is_clean: true });
    assert_eq!(all_put(&bench.step()), [1, 2, 4]);
}

#[test]
fn after_a_refused_call_all_of_its_partition_comes_anew_but_what_has_no_records() {
    let mut bench = Bench::new();
    bench.machine.finished(call(&[(7, 1), (8, 2)]));
    bench.look(false, true);
    bench.machine.finished(call(&[(9, 3)]));
    bench.machine.finished(Item {
        is_of_batches: false,
        ..call(&[(10, 4)])
    });
    let why = Why::Refused {
        part: 0,
        text: "no".to_owned(),
    };
    bench.answer(Answer::NotCommitted(why.clone()));
    bench.answer(Answer::Aborted { is_clean: true });
    // Alone now.
    bench.step();
    bench.answer(Answer::NotCommitted(why));
    let actions = bench.answer(Answer::Aborted { is_clean: true });
    assert!(matches!(&actions[..], [_, Action::Refused { item, .. }] if item.number == 1));
    bench.machine.finished(call(&[(8, 5)]));
    assert_eq!(all_put(&bench.step()), [4]);
    bench.answer(Answer::Committed { is_clean: true });
    bench.machine.partition_went_back(LANE.epoch);
    bench.machine.finished(call(&[(9, 3)]));
    assert_eq!(all_put(&bench.step()), [3]);
}

#[test]
fn a_call_that_never_fits_is_divided_when_nothing_of_its_partition_is_on_its_way() {
    let mut bench = Bench::new();
    bench.full = vec![2];
    bench.machine.finished(call(&[(9, 3)]));
    bench.machine.finished(call(&[(7, 1), (8, 2)]));
    let actions = bench.look(false, true);
    assert_eq!(all_put(&actions), [3]);
    assert!(!actions.iter().any(|one| matches!(one, Action::Divide(_))));
    bench.answer(Answer::Committed { is_clean: true });
    let actions = bench.step();
    assert!(
        actions
            .iter()
            .any(|one| matches!(one, Action::Divide(item) if item.number == 1))
    );
    assert_eq!(bench.machine.waiting(), (0, 0));
}
