//! Places at which a test may have the process killed, as by a power cut: `MOONTIDE_FAILPOINT="name=N"` kills it when
//! the place is passed for the Nth time.
//!
//! Only with the feature `failpoints`, which nothing but the tests' own binary has; without it a place is no code at
//! all. It must not know what the places mean.
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

#[cfg(feature = "failpoints")]
pub(crate) fn pass(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Armed {
        name: String,
        left: AtomicU64,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let text = std::env::var("MOONTIDE_FAILPOINT").ok()?;
        let (name, count) = text.split_once('=')?;
        Some(Armed {
            name: name.to_owned(),
            left: AtomicU64::new(count.parse().ok()?),
        })
    });
    let Some(armed) = armed.as_ref().filter(|armed| armed.name == name) else {
        return;
    };
    if armed.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        // SAFETY: nothing of ours runs after it.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}
