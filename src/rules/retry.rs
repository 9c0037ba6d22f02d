//! The wait of a failed message before its next run, or the end of its attempts. Pure.

use std::time::Duration;

use crate::config::Retry;

/// The wait after run number `attempt` (from 1) failed; `None` when it was the last. `random` lies in 0..1.
pub(crate) fn delay(policy: &Retry, attempt: u32, random: f64) -> Option<Duration> {
    if policy.attempts.is_some_and(|attempts| attempt >= attempts) {
        return None;
    }
    Some(wait(policy, attempt, random))
}

/// The same, whatever the number of attempts.
pub(crate) fn wait(policy: &Retry, attempt: u32, random: f64) -> Duration {
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let grown = policy.initial_delay.as_secs_f64() * policy.multiplier.powi(exponent);
    let capped = grown.min(policy.max_delay.as_secs_f64());
    let varied = capped * (1.0 + policy.jitter * (2.0 * random - 1.0));
    Duration::from_secs_f64(varied.min(policy.max_delay.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(attempts: Option<u32>) -> Retry {
        Retry {
            attempts,
            initial_delay: Duration::from_millis(300),
            max_delay: Duration::from_secs(30),
            multiplier: 2.0,
            jitter: 0.2,
            topics: Vec::new(),
            infrastructure: crate::config::Infrastructure::Wait,
            create_topics: false,
        }
    }

    #[track_caller]
    fn check(attempt: u32, random: f64, expected_ms: u64) {
        let found = delay(&policy(None), attempt, random).unwrap();
        assert_eq!((found.as_secs_f64() * 1000.0).round() as u64, expected_ms);
    }

    #[test]
    fn it_doubles_up_to_the_cap() {
        check(1, 0.5, 300);
        check(2, 0.5, 600);
        check(5, 0.5, 4800);
        check(8, 0.5, 30_000);
        check(4_000_000_000, 0.5, 30_000);
    }

    #[test]
    fn jitter_varies_it_either_way_and_never_beyond_the_cap() {
        check(1, 0.0, 240);
        check(1, 1.0, 360);
        check(20, 1.0, 30_000);
    }

    #[test]
    fn the_last_attempt_has_no_delay() {
        assert_eq!(delay(&policy(Some(1)), 1, 0.5), None);
        assert!(delay(&policy(Some(3)), 2, 0.5).is_some());
        assert_eq!(delay(&policy(Some(3)), 3, 0.5), None);
    }

    proptest! {
        #[test]
        fn a_wait_is_bounded_and_never_shrinks_without_jitter(
            attempts in prop::option::of(1_u32..20),
            initial_ms in 0_u64..100_000,
            max_ms in 1_u64..10_000_000,
            multiplier in 1.0_f64..100.0,
            jitter in 0.0_f64..=1.0,
            attempt in 1_u32..=u32::MAX,
            random in 0.0_f64..1.0,
        ) {
            let policy = Retry {
                initial_delay: Duration::from_millis(initial_ms),
                max_delay: Duration::from_millis(max_ms),
                multiplier,
                jitter,
                ..policy(attempts)
            };
            let found = delay(&policy, attempt, random);
            prop_assert_eq!(found.is_none(), attempts.is_some_and(|attempts| attempt >= attempts));
            if let Some(found) = found {
                prop_assert!(found <= policy.max_delay);
                let steady = Retry { jitter: 0.0, attempts: None, ..policy.clone() };
                let middle = delay(&steady, attempt, random).unwrap().as_secs_f64();
                let least = middle * (1.0 - jitter);
                prop_assert!(found.as_secs_f64() >= least - 1e-6);
                prop_assert!(found.as_secs_f64() <= middle * (1.0 + jitter) + 1e-6);
                let next = delay(&steady, attempt.saturating_add(1), random).unwrap();
                prop_assert!(next.as_secs_f64() >= middle);
            }
        }
    }
}
