//! Places at which a test can inject a fault. `MOONTIDE_FAILPOINT="name=N"` kills the process, as by a power cut, at
//! the Nth pass of the place. With `name=N:panic` the thread panics, with `name=N:hang` it hangs.
//!
//! Fail points exist only with the feature `failpoints`, which only the tests' own binary has; without it a place is
//! no code at all. This module must not know the meaning of the places.
#![cfg_attr(
    feature = "failpoints",
    expect(unsafe_code, reason = "a process kills itself by a call of libc")
)]

/// A place with a name that is unique in the process.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::pass($name);
    };
}

pub(crate) use failpoint;

/// The fault at the place.
#[cfg(feature = "failpoints")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Panic,
    Hang,
}

/// The panic reports the location of the place.
#[cfg(feature = "failpoints")]
#[track_caller]
pub(crate) fn pass(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    struct Armed {
        name: String,
        left: AtomicU64,
        fault: Fault,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let text = std::env::var("MOONTIDE_FAILPOINT").ok()?;
        let (name, passes, fault) = parse(&text)?;
        Some(Armed {
            name: name.to_owned(),
            left: AtomicU64::new(passes),
            fault,
        })
    });
    let Some(armed) = armed.as_ref().filter(|armed| armed.name == name) else {
        return;
    };
    if armed.left.fetch_sub(1, Ordering::Relaxed) != 1 {
        return;
    }
    match armed.fault {
        // SAFETY: no code of the process runs after it.
        Fault::Kill => _ = unsafe { libc::kill(libc::getpid(), libc::SIGKILL) },
        Fault::Panic => panic!("the fail point `{name}`"),
        Fault::Hang => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
    }
}

/// The name, the number of the pass, and the fault; `None` if the string is not valid.
#[cfg(feature = "failpoints")]
fn parse(text: &str) -> Option<(&str, u64, Fault)> {
    let (name, rest) = text.split_once('=')?;
    let (passes, fault) = match rest.split_once(':') {
        None => (rest, Fault::Kill),
        Some((passes, "panic")) => (passes, Fault::Panic),
        Some((passes, "hang")) => (passes, Fault::Hang),
        Some(_) => return None,
    };
    Some((name, passes.parse().ok()?, fault))
}

#[cfg(all(test, feature = "failpoints"))]
mod tests {
    use super::*;

    #[test]
    fn a_place_a_pass_and_what_happens_then() {
        assert_eq!(parse("a=3"), Some(("a", 3, Fault::Kill)));
        assert_eq!(parse("a-b=1:panic"), Some(("a-b", 1, Fault::Panic)));
        assert_eq!(parse("a=2:hang"), Some(("a", 2, Fault::Hang)));
        for text in ["", "a", "a=", "a=x", "a=1:", "a=1:sleep"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
