//! The search for poison against a handler that fails for certain messages, in a partition of many lanes or of one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

/// What a search needed.
#[derive(Debug, Default)]
struct Seen {
    runs: usize,
    /// Runs with this message, by its number.
    runs_of: BTreeMap<u64, usize>,
    found: Vec<u64>,
    finished: Vec<u64>,
    waits: usize,
    outages: usize,
}

/// The messages of a partition, in batches of at most `size`. The handler fails for a batch with poison, after it has
/// resolved what is before it if `resolves`.
fn search(members: &[Member], size: usize, poison: &BTreeSet<u64>, resolves: bool) -> Seen {
    let mut seen = Seen::default();
    let mut fresh: VecDeque<Member> = members.iter().copied().collect();
    let mut trial: Option<Trial> = None;
    while trial.is_some() || !fresh.is_empty() {
        assert!(seen.runs < 100_000, "no end");
        let run = match &trial {
            Some(trial) => trial.run().to_vec(),
            None => fresh.drain(..size.min(fresh.len())).collect(),
        };
        assert!(!run.is_empty());
        in_order(&run, trial.as_ref(), &fresh);
        seen.runs += 1;
        for one in &run {
            *seen.runs_of.entry(one.number).or_default() += 1;
        }
        let first = run.iter().position(|one| poison.contains(&one.number));
        let done = match first {
            None => run.len(),
            Some(at) if resolves => at,
            Some(_) => 0,
        };
        seen.finished
            .extend(run[..done].iter().map(|one| one.number));
        let verdict = match (&mut trial, first) {
            (None, None) => continue,
            (None, Some(_)) if run.len() == 1 => {
                seen.found.push(run[0].number);
                continue;
            }
            (None, Some(_)) => {
                trial = Some(Trial::new(run[done..].to_vec()));
                seen.waits += 1;
                continue;
            }
            (Some(trial), None) => trial.passed(),
            (Some(trial), Some(_)) => trial.failed(done),
        };
        seen.found.extend(verdict.found.map(|one| one.number));
        for one in verdict.released.into_iter().rev() {
            fresh.push_front(one);
        }
        match verdict.then {
            Then::Over => trial = None,
            Then::Run => {}
            Then::Outage(_) => seen.outages += 1,
        }
    }
    seen
}

/// No message runs before an earlier one of its lane.
fn in_order(run: &[Member], trial: Option<&Trial>, fresh: &VecDeque<Member>) {
    assert!(run.windows(2).all(|two| two[0].number < two[1].number));
    let open = trial
        .into_iter()
        .flat_map(|trial| &trial.suspects)
        .chain(fresh);
    let mut first: BTreeMap<u64, u64> = BTreeMap::new();
    for one in open {
        let lowest = first.entry(one.lane).or_insert(one.number);
        *lowest = (*lowest).min(one.number);
    }
    let last_of_lane: BTreeSet<u64> = run.iter().map(|one| one.number).collect();
    for one in run {
        if let Some(lowest) = first.get(&one.lane) {
            assert!(last_of_lane.contains(lowest) || *lowest > one.number);
        }
    }
}

fn members(count: u64, lane: impl Fn(u64) -> u64) -> Vec<Member> {
    let member = |number| Member {
        number,
        lane: lane(number),
        offset: number as i64,
    };
    (0..count).map(member).collect()
}

#[track_caller]
fn check(seen: &Seen, count: u64, poison: &BTreeSet<u64>) {
    let (mut found, mut finished) = (seen.found.clone(), seen.finished.clone());
    found.sort_unstable();
    finished.sort_unstable();
    assert!(found.iter().eq(poison), "{found:?}");
    assert!(
        finished
            .iter()
            .copied()
            .eq((0..count).filter(|one| !poison.contains(one)))
    );
}

#[test]
fn a_poison_among_1000_is_found_in_11_of_its_runs_and_every_other_message_is_done_once() {
    let lanes: [fn(u64) -> u64; 3] = [|_| 0, |number| number, |number| number % 37];
    for (lane, most) in lanes.into_iter().zip([13, 22, 22]) {
        let members = members(1000, lane);
        for number in (0..1000).filter(|number| number % 7 == 0 || *number == 999) {
            let poison = BTreeSet::from([number]);
            let seen = search(&members, 1000, &poison, false);
            check(&seen, 1000, &poison);
            assert!(seen.runs_of[&number] <= 11, "{number}: {seen:?}");
            assert_eq!((seen.waits, seen.outages), (1, 0));
            // Behind the poison, what is left runs together.
            assert!(seen.runs <= most + 1, "{number}: {}", seen.runs);
        }
    }
}

#[test]
fn if_both_halves_fail_all_wait() {
    let mut trial = Trial::new(members(8, |number| number));
    assert_eq!(trial.run().len(), 8);
    assert_eq!(trial.failed(0).then, Then::Run);
    assert_eq!(trial.run().len(), 4);
    assert_eq!(trial.failed(0).then, Then::Run);
    assert_eq!(trial.run().first().map(|one| one.number), Some(4));
    let verdict = trial.failed(0);
    assert_eq!(verdict.then, Then::Outage(8));
    assert!(verdict.found.is_none() && verdict.released.is_empty());
    assert_eq!(trial.waits(), 2);
    // It works again: nothing is suspected any more.
    assert_eq!(trial.run().len(), 2);
    let verdict = trial.passed();
    assert_eq!((verdict.then, verdict.released.len()), (Then::Over, 6));
}

#[test]
fn a_failure_that_passes_costs_one_run_more() {
    let mut trial = Trial::new(members(8, |_| 0));
    assert_eq!(trial.passed().then, Then::Over);
}

#[test]
fn one_key_is_halved_in_its_order() {
    let mut trial = Trial::new(members(5, |_| 0));
    trial.failed(0);
    assert_eq!(trial.run().len(), 2);
    let verdict = trial.failed(0);
    assert_eq!((verdict.then, verdict.released.len()), (Then::Run, 3));
    assert_eq!(trial.run().len(), 1);
    let verdict = trial.failed(0);
    assert_eq!(verdict.found.map(|one| one.number), Some(0));
    assert_eq!((verdict.then, verdict.released.len()), (Then::Over, 1));
}

proptest! {
    /// Any number of poisonous messages is found, and all others are done once.
    #[test]
    fn every_search_ends(
        lanes in prop::collection::vec(0_u64..9, 1..80),
        size in 1_usize..40,
        poison in prop::collection::btree_set(0_u64..80, 0..12),
        resolves: bool,
        kind in 0..3,
    ) {
        let count = lanes.len() as u64;
        let lane = |number: u64| match kind {
            0 => 0,
            1 => number,
            _ => lanes[number as usize],
        };
        let members = members(count, lane);
        let poison: BTreeSet<u64> = poison.into_iter().filter(|one| *one < count).collect();
        let seen = search(&members, size, &poison, resolves);
        check(&seen, count, &poison);
    }
}
