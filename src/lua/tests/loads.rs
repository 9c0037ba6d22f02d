//! Loads that do not end: what the watchdog gives up, what a ticket ends, and what follows.

use std::sync::mpsc;
use std::time::Instant;

use crate::lua::tests::*;
use crate::lua::{Loader, Ticket, Unloaded};

/// Its last deadline is five seconds after its limit.
fn file(text: &str) -> Setup {
    let mut setup = Setup::new().file("h.lua", text).handler("h");
    setup.blocking = Duration::from_millis(50);
    setup
}

/// A loader, and the late ends that it tells.
fn loader() -> (Loader, mpsc::Receiver<()>) {
    let supervisor = Supervisor::without_daemon();
    let watchdog = Arc::new(Watchdog::start(&supervisor).unwrap());
    let (sender, late_ends) = mpsc::channel();
    let loader = Loader::new(watchdog, supervisor, move || _ = sender.send(()));
    (loader, late_ends)
}

fn load(loader: &mut Loader, ticket: &Ticket, setup: &Setup) -> Result<(), Unloaded> {
    let bundle = setup.bundle();
    loader.run(ticket, move |pulse| {
        let vm = Vm::build(&bundle, &Arc::default(), pulse);
        vm.map(drop).map_err(|error| error.to_string())
    })
}

#[track_caller]
fn is_given_up(text: &str, position: &str) {
    match load(&mut loader().0, &Ticket::default(), &file(text)) {
        Err(Unloaded::Stuck(why)) => {
            let expected = format!("{position}: code that nothing can interrupt");
            assert!(why.starts_with(&expected), "{text}: {why}");
            // The watchdog's own measure: time without a CPU, beside other tests that compute, does not count.
            let counted = why.split_once("has run for ").unwrap().1;
            let seconds: u64 = counted.split(' ').next().unwrap().parse().unwrap();
            assert!((5..15).contains(&seconds), "{why}");
        }
        other => panic!("{text}: {other:?}"),
    }
}

/// The same of code that sleeps: it has a CPU when it wants one, so that no more time passes than counts.
#[track_caller]
fn is_given_up_by_the_clock(text: &str, position: &str) {
    let began = Instant::now();
    is_given_up(text, position);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[test]
fn code_that_blocks_in_c_is_given_up_with_its_position() {
    is_given_up_by_the_clock("\nos.execute('sleep 12')", "handlers/h.lua:2");
}

#[test]
fn a_read_that_blocks_is_given_up() {
    let text = "local function read()\n io.popen('sleep 12'):read()\nend\nread()";
    is_given_up_by_the_clock(text, "handlers/h.lua:2");
}

#[test]
fn a_coroutine_that_blocks_is_given_up() {
    let text = "coroutine.wrap(function()\n os.execute('sleep 12')\nend)()";
    is_given_up_by_the_clock(text, "handlers/h.lua:2");
}

#[test]
fn a_finalizer_that_loops_is_given_up() {
    // The position is that of the method or that of the collection, by the moment.
    let method = "setmetatable({}, { __gc = function() while true do pcall(error) end end })";
    let text = format!("\n{method} collectgarbage()");
    is_given_up(&text, "handlers/h.lua:2");
}

#[test]
fn a_finalizer_of_a_files_garbage_is_given_up() {
    let text = "setmetatable({}, { __gc = function()\n while true do pcall(error) end end })\nreturn print";
    is_given_up(text, "handlers/h.lua:2");
}

#[test]
fn a_pattern_that_takes_years_is_given_up() {
    let text = "local s = ('a'):rep(2000)\ns:find(('.-'):rep(12) .. 'b')";
    is_given_up(text, "handlers/h.lua:2");
}

#[test]
fn another_load_begins_when_the_code_of_a_stuck_one_has_ended() {
    let (mut loader, late_ends) = loader();
    let ticket = Ticket::default();
    let good = file("return print");
    let Err(Unloaded::Stuck(why)) = load(&mut loader, &ticket, &file("\nos.execute('sleep 7')"))
    else {
        panic!("it is stuck");
    };
    assert_eq!(loader.stuck().map(|stuck| &stuck.why), Some(&why));
    let refused = load(&mut loader, &Ticket::default(), &good);
    let Err(Unloaded::Stuck(refusal)) = refused else {
        panic!("{refused:?}");
    };
    assert!(refusal.starts_with("handlers/h.lua:2: ") && refusal.contains("no reload is possible"));

    late_ends.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(loader.stuck(), None);
    assert_eq!(load(&mut loader, &Ticket::default(), &good), Ok(()));
    assert_eq!(late_ends.try_recv(), Err(mpsc::TryRecvError::Empty));
}

#[test]
fn a_cancelled_load_ends_at_once() {
    let mut setup = file("while true do end");
    setup.blocking = Duration::from_secs(60);
    let (mut loader, _) = loader();
    let ticket = Ticket::default();
    let cancels = std::thread::spawn({
        let ticket = ticket.clone();
        move || {
            std::thread::sleep(Duration::from_millis(50));
            ticket.cancel();
        }
    });
    assert_eq!(load(&mut loader, &ticket, &setup), Err(Unloaded::Cancelled));
    cancels.join().unwrap();
    // One that was cancelled before it began.
    assert_eq!(load(&mut loader, &ticket, &setup), Err(Unloaded::Cancelled));
    assert_eq!(loader.stuck(), None);
    assert_eq!(
        load(&mut loader, &Ticket::default(), &file("return print")),
        Ok(())
    );
}

#[test]
fn nobody_waits_for_a_load_that_is_left() {
    let (mut loader, late_ends) = loader();
    let ticket = Ticket::default();
    let leaves = std::thread::spawn({
        let ticket = ticket.clone();
        move || {
            std::thread::sleep(Duration::from_millis(50));
            ticket.leave();
        }
    });
    let began = Instant::now();
    let result = load(&mut loader, &ticket, &file("os.execute('sleep 3')"));
    assert_eq!(result, Err(Unloaded::Cancelled));
    assert!(began.elapsed() < Duration::from_secs(2));
    leaves.join().unwrap();
    late_ends.recv_timeout(Duration::from_secs(20)).unwrap();
}

#[test]
fn what_a_load_says_is_its_own() {
    let (mut loader, _) = loader();
    let result = load(&mut loader, &Ticket::default(), &file("error('boom')"));
    let expected = "handlers/h.lua:1: boom".to_owned();
    assert_eq!(result, Err(Unloaded::Failed(expected)));
    let panics = loader.run(&Ticket::default(), |_| -> Result<(), String> {
        panic!("on purpose")
    });
    assert!(matches!(panics, Err(Unloaded::Failed(_))), "{panics:?}");
}
