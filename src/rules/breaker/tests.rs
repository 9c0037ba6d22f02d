//! The breaker by table, and against a list of all that happened.

use proptest::prelude::*;

use crate::rules::breaker::*;

const POLICY: config::Breaker = config::Breaker {
    ratio: 0.5,
    window: Duration::from_secs(10),
    runs_min: 4,
    pause: Duration::from_secs(5),
    probes: 2,
};

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One that opened at `now`.
fn open(now: Instant) -> Breaker {
    let mut breaker = Breaker::new(Some(POLICY), None);
    for _ in 0..3 {
        assert_eq!(breaker.failed(now.checked_sub(s(1)).unwrap()), None);
    }
    assert!(breaker.failed(now).is_some());
    breaker
}

/// `runs` at their second, true where they succeeded; whether the last one opens it.
#[track_caller]
fn check(runs: &[(u64, bool)], opens: bool) {
    let (mut breaker, begin) = (Breaker::new(Some(POLICY), None), Instant::now());
    let mut opened = None;
    for &(at, succeeds) in runs {
        assert_eq!(opened, None);
        if succeeds {
            breaker.done(1, begin + s(at));
        } else {
            opened = breaker.failed(begin + s(at));
        }
    }
    assert_eq!(opened.is_some(), opens);
    assert_eq!(breaker.is_closed(), !opens);
}

#[test]
fn too_few_runs_never_open_it() {
    check(&[(0, false), (0, false), (0, false)], false);
}

#[test]
fn a_burst_within_a_tenth_of_the_window_does_not_open_it() {
    check(&[(0, false); 50], false);
    check(
        &[(0, false), (0, false), (0, false), (0, false), (1, false)],
        true,
    );
    check(
        &[
            (0, true),
            (11, false),
            (11, false),
            (11, false),
            (11, false),
        ],
        false,
    );
}

#[test]
fn the_share_of_failures_opens_it() {
    check(&[(0, true), (0, true), (0, false), (1, false)], true);
    check(&[(0, true), (0, true), (0, true), (1, false)], false);
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    check(&[(0, false), (0, false), (0, false), (10, false)], false);
    check(&[(0, false), (0, false), (0, false), (9, false)], true);
    check(
        &[
            (0, true),
            (0, true),
            (0, true),
            (12, false),
            (12, false),
            (12, false),
            (13, false),
        ],
        true,
    );
}

#[test]
fn many_successes_at_once_count_as_many() {
    let (mut breaker, now) = (Breaker::new(Some(POLICY), None), Instant::now());
    breaker.done(1_000, now);
    breaker.done(u32::MAX, now);
    for _ in 0..1_000 {
        assert_eq!(breaker.failed(now), None);
    }
}

#[test]
fn open_it_waits_and_then_probes_one_at_a_time() {
    let now = Instant::now();
    let mut breaker = open(now);
    assert_eq!(breaker.gate(now + s(4)), Gate::Wait(now + s(5)));
    assert_eq!(breaker.gate(now + s(5)), Gate::Probe);
    breaker.probing();
    assert!(matches!(breaker.gate(now + s(5)), Gate::Wait(_)));
    assert!(!breaker.done(1, now + s(6)));
    assert_eq!(breaker.gate(now + s(6)), Gate::Probe);
    breaker.probing();
    assert!(breaker.done(1, now + s(6)));
    assert_eq!(breaker.gate(now + s(6)), Gate::Pass);
    // Its runs are forgotten.
    assert_eq!(breaker.failed(now + s(6)), None);
}

#[test]
fn a_failed_probe_opens_it_again_and_the_successes_count_anew() {
    let now = Instant::now();
    let mut breaker = open(now);
    breaker.gate(now + s(5));
    breaker.probing();
    breaker.done(1, now + s(5));
    breaker.probing();
    let opened = breaker.failed(now + s(6)).unwrap();
    assert!(opened.is_again);
    assert_eq!(opened.until, now + s(11));
    assert_eq!(breaker.gate(now + s(11)), Gate::Probe);
    let State::HalfOpen {
        since, succeeded, ..
    } = breaker.state()
    else {
        panic!("it is not half-open")
    };
    assert_eq!((since, succeeded), (now, 0));
}

#[test]
fn a_cancelled_probe_is_neither() {
    let now = Instant::now();
    let mut breaker = open(now);
    breaker.gate(now + s(5));
    breaker.probing();
    breaker.cancelled();
    assert_eq!(breaker.gate(now + s(5)), Gate::Probe);
}

#[test]
fn what_began_before_it_opened_changes_nothing() {
    let now = Instant::now();
    let mut breaker = open(now);
    assert!(!breaker.done(100, now));
    assert_eq!(breaker.failed(now), None);
    assert_eq!(breaker.gate(now), Gate::Wait(now + s(5)));
}

#[test]
fn more_dead_letters_a_minute_than_allowed_open_it_until_there_is_room() {
    let (mut breaker, now) = (Breaker::new(None, Some(2)), Instant::now());
    assert_eq!(breaker.failed(now), None);
    assert_eq!(breaker.dead_letter(now), DeadLetterPermit::Send);
    assert_eq!(breaker.dead_letter(now + s(10)), DeadLetterPermit::Send);
    let DeadLetterPermit::Wait {
        until,
        opened: Some(opened),
    } = breaker.dead_letter(now + s(10))
    else {
        panic!("the third is sent")
    };
    assert_eq!(until, now + s(60));
    assert_eq!(opened.why.to_string(), "more than 2 dead letters a minute");
    assert!(matches!(
        breaker.dead_letter(now + s(11)),
        DeadLetterPermit::Wait { opened: None, .. }
    ));
    assert_eq!(breaker.gate(now + s(60)), Gate::Probe);
    assert_eq!(breaker.dead_letter(now + s(60)), DeadLetterPermit::Send);
    breaker.probing();
    assert!(breaker.done(1, now + s(60)));
}

#[test]
fn no_dead_letter_leaves_while_it_is_open_and_one_a_pause_while_it_is_half_open() {
    let now = Instant::now();
    let mut breaker = open(now);
    let wait = |until| DeadLetterPermit::Wait {
        until,
        opened: None,
    };
    assert_eq!(breaker.dead_letter(now + s(1)), wait(now + s(5)));
    assert_eq!(breaker.dead_letter(now + s(5)), DeadLetterPermit::Send);
    assert_eq!(breaker.dead_letter(now + s(6)), wait(now + s(10)));
    assert_eq!(breaker.dead_letter(now + s(10)), DeadLetterPermit::Send);
}

#[test]
fn a_new_bundle_closes_it() {
    let now = Instant::now();
    let mut breaker = open(now);
    breaker.set_policy(Some(POLICY), None);
    assert_eq!(
        (breaker.gate(now), breaker.state()),
        (Gate::Pass, State::Closed)
    );
    assert_eq!(breaker.failed(now), None);
}

#[test]
fn it_says_why() {
    let State::Open { why, .. } = open(Instant::now()).state() else {
        panic!("it is not open")
    };
    assert_eq!(why.to_string(), "4 of 4 runs failed within 10s");
}

/// The same, from a list of all that happened.
#[derive(Default)]
struct Model {
    /// Sub-window, runs, failed.
    events: Vec<(u64, u64, u64)>,
}

impl Model {
    fn sums(&self, slot: u64) -> (u64, u64) {
        self.events
            .iter()
            .filter(|event| event.0 + SLOTS > slot)
            .fold((0, 0), |sum, event| (sum.0 + event.1, sum.1 + event.2))
    }
}

proptest! {
    #[test]
    fn it_opens_exactly_when_a_list_of_all_runs_says_so(
        steps in prop::collection::vec((0_u64..4_000, 0_u32..6, any::<bool>()), 1..200),
        ratio in 0.05_f64..1.0,
        runs_min in 1_u32..20,
    ) {
        let policy = config::Breaker { ratio, runs_min, ..POLICY };
        let mut breaker = Breaker::new(Some(policy), None);
        let (mut model, begin, mut at) = (Model::default(), Instant::now(), 0);
        for (step, runs, fails) in steps {
            // The first one begins the first sub-window.
            at += if model.events.is_empty() { 0 } else { step };
            let (now, slot) = (begin + Duration::from_millis(at), at / 1_000);
            if fails {
                model.events.push((slot, 1, 1));
                let (sum, failed) = model.sums(slot);
                let mut earlier = model.events.iter().filter(|event| event.0 + SLOTS > slot && event.0 < slot);
                let expected = sum >= u64::from(runs_min)
                    && failed as f64 >= ratio * sum as f64
                    && earlier.any(|event| event.1 > 0);
                let opened = breaker.failed(now);
                prop_assert_eq!(opened.is_some(), expected);
                if expected {
                    prop_assert!(matches!(breaker.gate(now), Gate::Wait(_)));
                    return Ok(());
                }
            } else {
                model.events.push((slot, u64::from(runs), 0));
                prop_assert!(!breaker.done(runs, now));
            }
            prop_assert!(breaker.is_closed());
        }
    }

    #[test]
    fn never_more_dead_letters_leave_within_nine_tenths_of_a_minute_than_a_minute_may_have(
        steps in prop::collection::vec((0_u64..20_000, any::<bool>()), 1..300),
        most in 1_u32..6,
    ) {
        let mut breaker = Breaker::new(None, Some(most));
        let (begin, mut at, mut sent) = (Instant::now(), 0, Vec::new());
        for (step, is_letter) in steps {
            at += step;
            let now = begin + Duration::from_millis(at);
            if is_letter {
                match breaker.dead_letter(now) {
                    DeadLetterPermit::Send => sent.push(at),
                    DeadLetterPermit::Wait { until, .. } => prop_assert!(until > now),
                }
                let recent = sent.iter().filter(|one| **one + 54_000 > at).count();
                prop_assert!(recent <= most as usize);
            } else if breaker.gate(now) == Gate::Probe {
                breaker.probing();
                prop_assert!(breaker.done(1, now));
            }
        }
    }
}
