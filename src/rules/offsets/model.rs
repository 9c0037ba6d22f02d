//! The tracker against a model that remembers everything, in random histories.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::rules::offsets::*;

/// What a history does next. Indices choose among what is there.
#[derive(Clone, Debug)]
enum Step {
    /// A message this many offsets further, in one of a few lanes.
    Arrive(i64, u64),
    /// A message that came before comes again.
    Repeat(prop::sample::Index),
    /// So many messages from an unfinished one on.
    Finish(prop::sample::Index, u64),
    /// A listener asks, so many offsets off an unfinished message of its lane.
    Ask(usize, prop::sample::Index, i64),
    /// The same, and it is told after that message is finished.
    AskAndFinish(usize, prop::sample::Index, i64),
    Pause,
    /// The partition ends so many offsets behind the next expected one.
    Pass(i64),
    /// So many listeners are manual now, and another one is automatic, or none.
    Reload(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_i64..4, 0_u64..4).prop_map(|(gap, lane)| Step::Arrive(gap, lane)),
        1 => any::<prop::sample::Index>().prop_map(Step::Repeat),
        5 => (any::<prop::sample::Index>(), 1_u64..4).prop_map(|(at, count)| Step::Finish(at, count)),
        4 => (0_usize..3, any::<prop::sample::Index>(), -3_i64..4)
            .prop_map(|(who, at, by)| Step::Ask(who, at, by)),
        4 => (0_usize..3, any::<prop::sample::Index>(), -3_i64..4)
            .prop_map(|(who, at, by)| Step::AskAndFinish(who, at, by)),
        1 => Just(Step::Pause),
        2 => (-2_i64..5).prop_map(Step::Pass),
        1 => (0_usize..4, any::<bool>()).prop_map(|(set, others)| Step::Reload(set, others)),
    ]
}

#[derive(Clone, Debug)]
struct Seen {
    offset: i64,
    lane: u64,
    finished: bool,
    /// The expected offset when it came.
    before: i64,
    /// Of a seed: it has no number.
    number: Option<u64>,
}

/// Per listener, by lane: what no request covers, and what was asked back.
#[derive(Clone, Debug, Default)]
struct Wishes {
    uncovered: Vec<(i64, u64)>,
    /// Where the listener began.
    start: i64,
}

#[derive(Debug)]
struct Model {
    start: i64,
    /// No message lies between the last one and this offset.
    end: i64,
    seen: Vec<Seen>,
    seeds: Vec<Range<i64>>,
    manual: BTreeMap<usize, Wishes>,
    has_automatic: bool,
    /// What those that are not manual asked for, ahead of a reload, in order: who, for which message, its lane, how far.
    ahead: Vec<(usize, i64, u64, i64)>,
}

impl Model {
    fn received(&self) -> i64 {
        self.seen.last().map_or(self.start, |one| one.offset + 1)
    }

    fn expected(&self) -> i64 {
        self.received().max(self.end)
    }

    /// Where the partition would go on if it ended with the first message that is not finished: an end that was told
    /// before that message came lies before it, and has moved the position too.
    fn position(&self) -> i64 {
        match self.seen.iter().position(|one| !one.finished) {
            None => self.expected(),
            Some(index) => self.seen[index].before,
        }
    }

    fn pass(&mut self, by: i64) -> i64 {
        let end = self.expected() + by;
        self.end = self.end.max(end);
        end
    }

    fn is_seeded(&self, offset: i64) -> bool {
        self.seeds.iter().any(|seed| seed.contains(&offset))
    }

    fn arrive(&mut self, offset: i64, lane: u64, number: u64) -> Arrival {
        let (finished, before) = (self.is_seeded(offset), self.expected());
        self.seen.push(Seen {
            offset,
            lane,
            finished,
            before,
            number: (!finished).then_some(number),
        });
        if finished {
            return Arrival::Finished;
        }
        for wishes in self.manual.values_mut() {
            wishes.uncovered.push((offset, lane));
        }
        Arrival::New(number)
    }

    fn unfinished(&self) -> Vec<&Seen> {
        self.seen.iter().filter(|one| !one.finished).collect()
    }

    fn finish(&mut self, numbers: &Range<u64>) {
        for one in &mut self.seen {
            one.finished |= one.number.is_some_and(|number| numbers.contains(&number));
        }
    }

    /// The lane's first unfinished message: the one that runs.
    fn runs(&self, lane: u64) -> Seen {
        let mut seen = self.seen.iter();
        let found = seen.find(|one| one.lane == lane && !one.finished);
        found.unwrap().clone()
    }

    /// Asked by the handler of that message.
    fn ask(&mut self, who: usize, lane: u64, offset: i64) {
        let at = self.runs(lane).offset;
        if !self.manual.contains_key(&who) {
            self.ahead.push((who, at, lane, offset));
        }
        self.wish(who, at, lane, offset);
    }

    fn wish(&mut self, who: usize, at: i64, lane: u64, offset: i64) {
        if let Some(wishes) = self.manual.get_mut(&who) {
            wishes
                .uncovered
                .retain(|one| one.1 != lane || one.0 >= offset);
            if offset <= at && !wishes.uncovered.contains(&(offset, lane)) {
                wishes.uncovered.push((offset, lane));
            }
        }
    }

    fn target(&self) -> i64 {
        let of = |wishes: &Wishes| wishes.uncovered.iter().map(|one| one.0).min();
        let manual = self.manual.values();
        let asked = manual
            .map(|wishes| of(wishes).unwrap_or_else(|| self.received().max(wishes.start)))
            .min();
        let own = (self.has_automatic || asked.is_none()).then(|| self.position());
        asked.into_iter().chain(own).min().unwrap()
    }
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The manual ones, and one that never asks.
fn names(set: usize, has_automatic: bool) -> [Vec<Arc<str>>; 2] {
    let automatic = if has_automatic {
        &["automatic"][..]
    } else {
        &[]
    };
    [&NAMES[..set], automatic].map(|names| names.iter().map(|&name| name.into()).collect())
}

fn reload(model: &mut Model, set: usize, has_automatic: bool) {
    model.has_automatic = has_automatic;
    let unfinished = model.unfinished();
    let unfinished: Vec<_> = unfinished
        .iter()
        .map(|one| (one.offset, one.lane))
        .collect();
    let start = model.expected();
    model.manual.retain(|who, _| *who < set);
    for (who, at, lane, offset) in std::mem::take(&mut model.ahead) {
        if who < set && unfinished.contains(&(at, lane)) {
            let uncovered = unfinished.clone();
            model
                .manual
                .entry(who)
                .or_insert(Wishes { uncovered, start });
            model.wish(who, at, lane, offset);
        }
    }
    for who in 0..set {
        let uncovered = unfinished.clone();
        model
            .manual
            .entry(who)
            .or_insert(Wishes { uncovered, start });
    }
}

impl Tracker {
    /// The handler of that message asks, so many offsets off it. One that is not manual here is so in its worker.
    fn asks_ahead(&mut self, listener: &str, runs: &Seen, by: i64) {
        self.ask_ahead(&Ask {
            listener: listener.into(),
            lane: runs.lane,
            at: runs.offset,
            offset: runs.offset + by,
        });
    }
}

/// What the tracker says agrees with the model.
fn agree(tracker: &Tracker, model: &Model) -> Result<(), TestCaseError> {
    let position = model.position();
    prop_assert_eq!(tracker.finished().offset, position);
    prop_assert_eq!(tracker.expected(), model.expected());
    prop_assert_eq!(tracker.unfinished(), model.unfinished().len());
    prop_assert_eq!(tracker.bytes(), model.unfinished().len());
    prop_assert_eq!(tracker.target().offset, model.target());
    let beyond = tracker.beyond().ranges;
    for pair in beyond.windows(2) {
        prop_assert!(pair[0].end < pair[1].start);
    }
    let is_beyond = |offset: i64| beyond.iter().any(|range| range.contains(&offset));
    for one in &model.seen {
        let expected = one.finished && one.offset >= position;
        prop_assert_eq!(is_beyond(one.offset), expected, "offset {}", one.offset);
    }
    let end = model.seeds.last().map_or(0, |seed| seed.end);
    for offset in model.expected()..end {
        prop_assert_eq!(
            is_beyond(offset),
            model.is_seeded(offset),
            "offset {}",
            offset
        );
    }
    let last = beyond.last().map_or(0, |range| range.end);
    prop_assert!(last <= model.expected().max(end));
    prop_assert!(beyond.first().is_none_or(|range| range.start >= position));
    Ok(())
}

fn run(steps: Vec<Step>, seeds: Vec<Range<i64>>, listeners: usize) -> Result<(), TestCaseError> {
    let start = Position {
        offset: 100,
        leader_epoch: 1,
    };
    let [manual, automatic] = names(listeners, listeners == 0);
    let mut tracker = Tracker::new(start, manual, automatic, true);
    let mut model = Model {
        start: 100,
        end: 100,
        seen: Vec::new(),
        seeds: seeds.clone(),
        manual: (0..listeners).map(|who| (who, Wishes::default())).collect(),
        has_automatic: listeners == 0,
        ahead: Vec::new(),
    };
    tracker.seed(Finished {
        ranges: seeds,
        leader_epoch: 1,
    });
    let mut next = 0;
    for step in steps {
        match step {
            Step::Arrive(gap, lane) => {
                let offset = model.expected() + gap;
                let expected = model.arrive(offset, lane, next);
                next += u64::from(expected == Arrival::New(next));
                prop_assert_eq!(tracker.arrive(offset, 1, 1, |_| lane), expected);
            }
            Step::Repeat(at) if !model.seen.is_empty() => {
                let one = at.get(&model.seen);
                let found = tracker.arrive(one.offset, 1, 1, |_| 9);
                prop_assert!(matches!(found, Arrival::Repeated | Arrival::WentBack));
                // What is unfinished is never taken for a new epoch.
                prop_assert!(one.finished || found == Arrival::Repeated);
            }
            Step::Finish(at, count) if !model.unfinished().is_empty() => {
                let unfinished = model.unfinished();
                let first = at.get(&unfinished).number.unwrap();
                let numbers = first..first + count;
                tracker.finish(numbers.clone());
                model.finish(&numbers);
            }
            Step::Ask(who, at, by) if !model.unfinished().is_empty() => {
                let runs = model.runs(at.get(&model.unfinished()).lane);
                tracker.asks_ahead(NAMES[who], &runs, by);
                model.ask(who, runs.lane, runs.offset + by);
            }
            Step::AskAndFinish(who, at, by) if !model.unfinished().is_empty() => {
                let runs = model.runs(at.get(&model.unfinished()).lane);
                let number = runs.number.unwrap();
                tracker.finish(number..number + 1);
                tracker.asks_ahead(NAMES[who], &runs, by);
                model.ask(who, runs.lane, runs.offset + by);
                model.finish(&(number..number + 1));
            }
            Step::Pause => tracker.pause(),
            Step::Pass(by) => tracker.pass(model.pass(by)),
            Step::Reload(set, others) => {
                let others = others || set == 0;
                let [manual, automatic] = names(set, others);
                tracker.set_listeners(manual, automatic);
                reload(&mut model, set, others);
            }
            Step::Repeat(_) | Step::Finish(..) | Step::Ask(..) | Step::AskAndFinish(..) => {}
        }
        agree(&tracker, &model)?;
    }
    Ok(())
}

fn seeds() -> impl Strategy<Value = Vec<Range<i64>>> {
    prop::collection::vec((1_i64..5, 1_i64..5), 0..5).prop_map(|steps| {
        let mut at = 100;
        let range = |(gap, length): (i64, i64)| {
            let start = at + gap;
            at = start + length;
            start..at
        };
        steps.into_iter().map(range).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn an_automatic_position_is_where_the_model_says(
        steps in prop::collection::vec(step(), 1..80),
        seeds in seeds(),
    ) {
        let steps = steps.into_iter().filter(|step| !matches!(step, Step::Reload(..))).collect();
        run(steps, seeds, 0)?;
    }

    #[test]
    fn manual_positions_are_where_the_model_says(
        steps in prop::collection::vec(step(), 1..80),
        listeners in 0_usize..4,
    ) {
        run(steps, Vec::new(), listeners)?;
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    /// Random places in a large window, so that finished entries are swept out.
    #[test]
    fn sweeping_changes_nothing(
        picks in prop::collection::vec(any::<prop::sample::Index>(), 4_000),
    ) {
        let start = Position { offset: 0, leader_epoch: -1 };
        let mut tracker = Tracker::new(start, Vec::new(), vec!["a".into()], true);
        for offset in 0..4_000 {
            tracker.arrive(offset * 2, -1, 1, |number| number);
        }
        let mut left: Vec<u64> = (0..4_000).collect();
        let mut done = vec![false; 4_000];
        for (count, pick) in picks.into_iter().enumerate() {
            let number = left.swap_remove(pick.index(left.len()));
            tracker.finish(number..number + 1);
            done[number as usize] = true;
            prop_assert_eq!(tracker.unfinished(), left.len());
            if count % 1_000 == 999 {
                let first = done.iter().position(|done| !done).unwrap_or(4_000);
                let position = (first as i64 * 2 - 1).max(0);
                prop_assert_eq!(tracker.target().offset, position);
                let beyond = tracker.beyond().ranges;
                for (number, done) in done.iter().enumerate().skip(first) {
                    let offset = number as i64 * 2;
                    prop_assert_eq!(beyond.iter().any(|one| one.contains(&offset)), *done);
                }
            }
            prop_assert!(tracker.entries.len() <= 2 * left.len() + SWEEP_MIN + 1);
        }
        prop_assert_eq!(tracker.target().offset, 7_999);
    }
}

#[test]
fn a_slow_lane_costs_no_memory_for_what_others_finish() {
    let start = Position {
        offset: 0,
        leader_epoch: -1,
    };
    let mut tracker = Tracker::new(start, Vec::new(), vec!["a".into()], true);
    for offset in 0..200_000 {
        let Arrival::New(number) = tracker.arrive(offset, -1, 1, |number| number) else {
            panic!("it is new")
        };
        if offset > 0 {
            tracker.finish(number..number + 1);
        }
        assert!(tracker.entries.len() <= SWEEP_MIN + 2);
    }
    assert_eq!(tracker.beyond().ranges.len(), 1);
    tracker.finish(0..1);
    assert_eq!(tracker.target().offset, 200_000);
}
