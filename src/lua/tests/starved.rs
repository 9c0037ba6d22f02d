//! The limit of computing time on a busy machine.

#![expect(unsafe_code, reason = "a test runs on one CPU")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::lua::tests::*;

/// Threads of the same CPU take most of its time. The handler computes for less than its limit, and is not ended,
/// although more time passes.
#[test]
fn the_time_without_a_cpu_does_not_count() {
    let body = "local n = 0 for i = 1, message.partition == 3 and #message.value * 1000000 or 0 do n = n + i end";
    let run = |f: &mut Fixture, size: usize| {
        let record = OwnedRecord {
            value: Some(vec![b'x'; size].into()),
            ..OwnedRecord::default()
        };
        let begun = Instant::now();
        let step = f.call(&record);
        (step, begun.elapsed())
    };
    let mut setup = handler(body);
    setup.blocking = Duration::from_mins(1);
    let mut f = setup.build();
    let (_, passed) = run(&mut f, 10);
    let size = (4.0_f64 / passed.as_secs_f64()).ceil() as usize;

    setup.blocking = Duration::from_secs(1);
    let mut f = setup.build();
    let ends = Arc::new(AtomicBool::new(false));
    on_one_cpu();
    let others: Vec<_> = (0..9)
        .map(|_| {
            let ends = Arc::clone(&ends);
            // A new thread has the CPUs of the one that starts it.
            std::thread::spawn(move || while !ends.load(Ordering::Relaxed) {})
        })
        .collect();
    let (step, passed) = run(&mut f, size);
    ends.store(true, Ordering::Relaxed);
    for one in others {
        one.join().unwrap();
    }
    assert!(matches!(step, Step::Done), "{step:?} after {passed:?}");
    assert!(
        passed > Duration::from_secs(1),
        "the machine was not busy: {passed:?}"
    );
}

/// Lets this thread run on one CPU only.
fn on_one_cpu() {
    // SAFETY: the set is a local value, and 0 means the calling thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let size = std::mem::size_of_val(&set);
        assert_eq!(libc::sched_getaffinity(0, size, &raw mut set), 0);
        let first = (0..libc::CPU_SETSIZE as usize).find(|cpu| libc::CPU_ISSET(*cpu, &set));
        libc::CPU_ZERO(&mut set);
        libc::CPU_SET(first.unwrap(), &mut set);
        assert_eq!(libc::sched_setaffinity(0, size, &raw const set), 0);
    }
}
