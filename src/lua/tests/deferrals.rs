//! `ctx.defer`: an object that finishes its message later.

use crate::lua::tests::*;
use crate::lua::{Deferral, Given};

#[track_caller]
fn deferred(step: Step) -> Deferral {
    match step {
        Step::Deferred(deferral, None) => deferral,
        step => panic!("{step:?}"),
    }
}

fn keep() -> Setup {
    Setup::new().handler("h")
}

fn kept(later: &str) -> Fixture {
    let text = format!(
        "local tide = require 'tide'\nlocal kept\nreturn function(message, ctx)\n  if not kept then\n    kept = ctx.defer{{ timeout = '30s' }}\n    return\n  end\n  {later}\nend"
    );
    keep().file("h.lua", &text).build()
}

#[test]
fn a_call_that_defers_says_for_how_long_and_where() {
    let mut f = kept("");
    let deferral = deferred(f.run());
    assert_eq!(deferral.timeout, Some(Duration::from_secs(30)));
    assert_eq!(&*deferral.position, "handlers/h.lua:5");
    assert!(f.vm.take_given().is_empty());
}

#[test]
fn later_code_of_the_vm_finishes_it_once() {
    for (later, given) in [
        ("assert(kept:done() and not kept.done())", Given::Done),
        (
            "assert(kept.fail('no') and not kept:fail())",
            Given::Failed("no".to_owned()),
        ),
        (
            "local done = kept.done assert(done() and not done())",
            Given::Done,
        ),
        ("tide.parallel{ function() kept:done() end }", Given::Done),
        ("kept:fail{ code = 7 }", Given::Failed(String::new())),
        ("kept = nil collectgarbage()", Given::Collected),
    ] {
        let mut f = kept(later);
        let id = deferred(f.run()).id;
        assert!(matches!(f.run(), Step::Done), "{later}");
        let told = f.vm.take_given();
        let [(of, told)] = &told[..] else {
            panic!("{later}: {told:?}")
        };
        assert_eq!(*of, id);
        match (told, &given) {
            (Given::Failed(text), Given::Failed(expected)) if expected.is_empty() => {
                assert!(text.starts_with("table: "), "{text}");
            }
            (told, given) => assert_eq!(told, given, "{later}"),
        }
    }
}

#[test]
fn an_answer_after_the_end_says_that_it_does_not_count() {
    let mut f = kept("assert(not kept:done() and not kept:fail('no'))");
    let id = deferred(f.run()).id;
    f.vm.forget_deferral(id);
    assert!(matches!(f.run(), Step::Done));
    assert!(f.vm.take_given().is_empty());
}

#[test]
fn an_answer_before_the_return_is_the_result_of_the_call() {
    assert!(matches!(
        handler("ctx.defer():done()").build().run(),
        Step::Done
    ));
    assert_eq!(fails("ctx.defer():fail('no')").message, "no");
    let error = fails("ctx.defer() collectgarbage()");
    assert!(
        error.message.contains("Lua collected the object"),
        "{}",
        error.message
    );
}

#[test]
fn a_call_that_fails_has_deferred_nothing() {
    let text = "local kept\nreturn function(message, ctx)\n  if kept then assert(not kept:done()) return end\n  kept = ctx.defer()\n  error('no')\nend";
    let mut failing = keep().file("h.lua", text).build();
    assert!(failure(failing.run()).message.contains("no"));
    assert!(matches!(failing.run(), Step::Done));
    assert!(failing.vm.take_given().is_empty());
}

#[test]
fn a_wrong_use_says_what_is_right() {
    for (body, expected) in [
        (
            "ctx.defer() ctx.defer()",
            "`ctx.defer`: the message of this call is deferred already; keep the object of the first call of it",
        ),
        (
            "ctx.defer(30)",
            "`ctx.defer` takes options as a table, as `{ timeout = \"30s\" }`, not a number",
        ),
        (
            "ctx.defer{ timeot = '30s' }",
            "`ctx.defer` knows no `timeot`, did you mean `timeout`?",
        ),
        ("ctx.defer{ timeout = '8d' }", "`timeout` of `ctx.defer` is"),
        ("ctx.defer{ timeout = 0 }", "`timeout` of `ctx.defer` is"),
        (
            "local later = ctx.defer() later.finish()",
            "`deferral` has no field `finish`",
        ),
        (
            "ctx.defer() ctx.commitOffsets(1)",
            "`ctx.commitOffsets`: the message is deferred, and its offset is committed once it is finished; write `{ wait \
             = false }`, or commit before `ctx.defer`",
        ),
    ] {
        let found = fails(body).message;
        assert!(found.contains(expected), "{body}: {found}");
    }
}

#[test]
fn emit_is_over_when_the_handler_has_returned() {
    let text = "local kept\nreturn function(message, ctx)\n  if not kept then kept = { ctx, ctx.defer() } return end\n  kept[1].emit{ topic = 'a', value = '1' }\nend";
    let mut f = keep().file("h.lua", text).build();
    deferred(f.run());
    let error = failure(f.run()).message;
    assert!(
        error.contains(
            "what a handler emits leaves when it returns, also that of a deferred message: later code sends records by \
             `tide.kafka.send`"
        ),
        "{error}"
    );
}

/// Each VM has its own, and the end of a VM tells nothing.
#[test]
fn the_end_of_a_vm_collects_what_it_has() {
    let mut f = kept("");
    deferred(f.run());
    drop(f);
}
