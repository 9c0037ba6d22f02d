//! `ctx.commitOffsets(offset, { wait = false })`: what a handler asks for and does not wait for.

use crate::lua::tests::*;
use crate::wait::{Requested, Wait};

/// Runs `body` and tells what it asked for.
#[track_caller]
fn requested(body: &str) -> (Step, Option<(i64, i64)>) {
    let f = &mut handler(body).build();
    let step = f.run();
    (step, taken(f))
}

fn taken(f: &Fixture) -> Option<(i64, i64)> {
    let asked = f.vm.take_requested();
    assert_eq!(f.vm.take_requested(), None, "it is taken once");
    asked.map(|Requested { highest, last }| (highest, last))
}

#[test]
fn it_returns_at_once_and_nothing() {
    for body in [
        "assert(select('#', ctx.commitOffsets(7, { wait = false })) == 0)",
        "ctx:commitOffsets('7', { wait = false })",
        "return ctx.commitOffsets(7.0, { wait = false })",
        "local o = { wait = false } ctx.commitOffsets(6, o) ctx.commitOffsets(7, o)",
        "coroutine.wrap(function() ctx.commitOffsets(7, { wait = false }) end)()",
        // Where nothing can wait.
        "table.sort({ 2, 1 }, function(a, b) ctx.commitOffsets(7, { wait = false }) return a < b end)",
    ] {
        let (step, asked) = requested(body);
        assert!(matches!(step, Step::Done), "{body}: {step:?}");
        assert_eq!(asked, Some((7, 7)), "{body}");
    }
}

#[test]
fn it_waits_unless_told_otherwise() {
    for options in ["nil", "{}", "{ wait = true }", "{ wait = nil }"] {
        let (step, asked) = requested(&format!("ctx.commitOffsets(7, {options})"));
        assert!(matches!(waits(step), (_, Wait::Commit(7))), "{options}");
        assert_eq!(asked, None);
    }
}

#[test]
fn the_highest_and_the_last_of_a_slice_are_kept() {
    let (_, asked) = requested(
        "for _, offset in ipairs { 3, 9, 4 } do ctx.commitOffsets(offset, { wait = false }) end",
    );
    assert_eq!(asked, Some((9, 4)));
}

#[test]
fn it_stands_whatever_becomes_of_the_call() {
    let ask = "ctx.commitOffsets(7, { wait = false })";
    for end in [
        "error('x')",
        "return nil, 'x'",
        "ctx.skip()",
        "tide.sleep(1)",
    ] {
        let (step, asked) = requested(&format!("{ask} {end}"));
        assert!(!matches!(step, Step::Done));
        assert_eq!(asked, Some((7, 7)), "{end}");
    }
    let mut setup = handler(&format!("{ask} while true do end"));
    setup.blocking = Duration::from_millis(50);
    let mut f = setup.build();
    assert!(matches!(f.run(), Step::Failed(_)));
    assert_eq!(taken(&f), Some((7, 7)), "the watchdog ended it");
}

#[test]
fn each_slice_has_its_own() {
    let mut f = handler(
        "ctx.commitOffsets(1, { wait = false }) tide.sleep(1) if message.offset == 0 then ctx.commitOffsets(2, { wait = false }) end",
    )
    .build();
    let Step::Waits(id, _) = f.run() else {
        panic!()
    };
    assert_eq!(taken(&f), Some((1, 1)));
    let step = f.resume(id, Answer::Slept);
    assert!(matches!(step, Step::Done));
    assert_eq!(taken(&f), Some((2, 2)));
    let record = OwnedRecord {
        offset: 1,
        ..OwnedRecord::default()
    };
    // What nobody took is not the next slice's.
    let Step::Waits(id, _) = f.call(&record) else {
        panic!()
    };
    f.resume(id, Answer::Slept);
    assert_eq!(taken(&f), None);
}

#[test]
fn what_is_asked_for_after_a_verdict_does_not_count() {
    let body = "local guard <close> = setmetatable({}, { __close = function() ctx.commitOffsets(7, { wait = false }) end }) ctx.skip()";
    let (step, asked) = requested(body);
    assert!(matches!(step, Step::Asked(_)), "{step:?}");
    assert_eq!(asked, None);
}

#[test]
fn the_options_are_checked() {
    for (arguments, problem) in [
        (
            "7, false",
            "`ctx.commitOffsets` takes options as a table, as `{ wait = false }`, not a boolean",
        ),
        (
            "7, { wiat = false }",
            "`ctx.commitOffsets` knows no `wiat`, did you mean `wait`?",
        ),
        (
            "7, { timeout = 5 }",
            "`ctx.commitOffsets` knows no `timeout`, there are `wait`",
        ),
        (
            "7, { wait = 0 }",
            "`wait` of `ctx.commitOffsets` is true or false, not a number",
        ),
        (
            "7, { 'wait' }",
            "the options of `ctx.commitOffsets` have names as keys, not a number; there is `wait`",
        ),
        (
            "-1, { wait = false }",
            "`ctx.commitOffsets` takes an offset of 0 or more, not -1",
        ),
    ] {
        let mut f = handler(&format!("ctx.commitOffsets({arguments})")).build();
        let message = failure(f.run()).message;
        assert_eq!(message, format!("handlers/h.lua:2: {problem}"));
        assert_eq!(taken(&f), None);
    }
}
