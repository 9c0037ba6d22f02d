//! The wait between two attempts to reach a server that is away. Pure, but for the jitter.
//!
//! While it lasts, calls fail at once with the reason of the last attempt. Then one call tries, and the others do not:
//! so a server that comes back is not met by all of them.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Address;
use crate::duration::short;
use crate::wait::Fault;

const FIRST: Duration = Duration::from_millis(50);
const MOST: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(in crate::outgoing) struct BackOff(HashMap<Address, Failing>);

#[derive(Debug)]
struct Failing {
    attempts: u32,
    /// No attempt begins before.
    until: Instant,
    /// The one attempt has begun.
    is_trying: bool,
    reason: Fault,
}

impl BackOff {
    /// Begins an attempt, or tells why there is none now.
    pub(in crate::outgoing) fn begin(
        &mut self,
        address: &Address,
        now: Instant,
    ) -> Result<(), Fault> {
        let Some(failing) = self.0.get_mut(address) else {
            return Ok(());
        };
        if now < failing.until {
            let reason = failing.reason.clone();
            let (wait, message) = (short(failing.until - now), &reason.message);
            let message = format!("{message}; the next attempt is in {wait}");
            return Err(Fault { message, ..reason });
        }
        // Others wait as if it had failed.
        failing.is_trying = true;
        failing.until = now + delay(failing.attempts);
        Ok(())
    }

    pub(in crate::outgoing) fn failed(&mut self, address: &Address, now: Instant, reason: &Fault) {
        let failing = self.0.entry(address.clone()).or_insert_with(|| Failing {
            attempts: 0,
            until: now,
            is_trying: true,
            reason: reason.clone(),
        });
        failing.reason = reason.clone();
        // Attempts that began together are one.
        failing.attempts += u32::from(std::mem::take(&mut failing.is_trying));
        failing.until = now + delay(failing.attempts);
    }

    pub(in crate::outgoing) fn succeeded(&mut self, address: &Address) {
        self.0.remove(address);
    }
}

/// Doubles with each attempt; half of it is jitter.
fn delay(attempts: u32) -> Duration {
    let most = FIRST.saturating_mul(1 << attempts.min(10)).min(MOST);
    most.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason() -> Fault {
        Fault::new("unreachable", "nobody")
    }

    #[test]
    fn attempts_are_far_between_until_one_succeeds() {
        let address = Address {
            host: "h".to_owned(),
            port: 1,
        };
        let start = Instant::now();
        let mut back_off = BackOff::default();
        let (mut now, mut attempts) = (start, 0);
        while now < start + Duration::from_secs(60) {
            if back_off.begin(&address, now).is_ok() {
                attempts += 1;
                back_off.failed(&address, now, &reason());
            }
            now += Duration::from_millis(1);
        }
        assert!((30..80).contains(&attempts), "{attempts} in a minute");
        let wait = back_off.begin(&address, now).unwrap_err().message;
        assert!(
            wait.starts_with("nobody; the next attempt is in "),
            "{wait}"
        );
        back_off.succeeded(&address);
        assert!(back_off.begin(&address, now).is_ok());
    }

    #[test]
    fn one_call_at_a_time_tries_again() {
        let address = Address {
            host: "h".to_owned(),
            port: 1,
        };
        let now = Instant::now();
        let mut back_off = BackOff::default();
        // Many begin before the first of them has failed.
        (0..100).for_each(|_| back_off.begin(&address, now).unwrap());
        (0..100).for_each(|_| back_off.failed(&address, now, &reason()));
        let later = now + Duration::from_millis(200);
        let begun = (0..100).filter(|_| back_off.begin(&address, later).is_ok());
        assert_eq!(begun.count(), 1);
    }
}
