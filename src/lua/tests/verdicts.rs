//! `ctx.retry`, `ctx.deadLetter`, `ctx.skip`: the first word counts, and nothing undoes it.

use crate::lua::tests::*;
use crate::lua::{FailureKind, Verdict};
use crate::wait::Wait;

#[track_caller]
fn verdict(step: Step) -> Verdict {
    match step {
        Step::Asked(verdict) => verdict,
        step => panic!("{step:?}"),
    }
}

fn skip(reason: &str) -> Verdict {
    Verdict::Skip {
        reason: Some(reason.to_owned()),
    }
}

fn keyed() -> OwnedRecord {
    OwnedRecord {
        key: Some(Box::default()),
        ..OwnedRecord::default()
    }
}

/// Runs `body`, which asks to skip for the reason "x", and sees that nothing of it went on and that the VM still works.
#[track_caller]
fn skips(body: &str) -> Fixture {
    let before = "if message.key then assert(not after, 'it went on') return end";
    let mut setup = handler(&format!("{before} {body} after = true"));
    setup.blocking = Duration::from_secs(10);
    let mut f = setup.build();
    assert_eq!(verdict(f.run()), skip("x"), "{body}");
    for _ in 0..3 {
        match f.call(&keyed()) {
            Step::Done => {}
            step => panic!("{body}: {step:?}"),
        }
    }
    f
}

#[test]
fn a_handler_says_what_becomes_of_its_message() {
    let retry = |after: Option<u64>, reason: Option<&str>| Verdict::Retry {
        after: after.map(Duration::from_millis),
        reason: reason.map(str::to_owned),
    };
    let dead_letter = |reason: Option<&str>| Verdict::DeadLetter {
        reason: reason.map(str::to_owned),
    };
    for (body, expected) in [
        ("ctx.retry()", retry(None, None)),
        ("ctx.retry(nil)", retry(None, None)),
        ("ctx:retry()", retry(None, None)),
        ("ctx.retry{}", retry(None, None)),
        ("ctx.retry('busy')", retry(None, Some("busy"))),
        ("ctx:retry('busy')", retry(None, Some("busy"))),
        (
            "ctx.retry{ after = '5s', reason = 'busy' }",
            retry(Some(5000), Some("busy")),
        ),
        ("ctx:retry{ after = 250 }", retry(Some(250), None)),
        ("ctx.retry{ after = 0 }", retry(Some(0), None)),
        ("ctx.retry{ after = '24h' }", retry(Some(86_400_000), None)),
        ("ctx.retry{ reason = 'busy' }", retry(None, Some("busy"))),
        ("ctx.deadLetter()", dead_letter(None)),
        ("ctx.deadLetter('bad')", dead_letter(Some("bad"))),
        ("ctx:deadLetter('bad')", dead_letter(Some("bad"))),
        ("ctx.skip()", Verdict::Skip { reason: None }),
        ("ctx:skip('x')", skip("x")),
    ] {
        assert_eq!(verdict(handler(body).build().run()), expected, "{body}");
    }
}

#[test]
fn a_long_reason_is_cut_and_bytes_become_text() {
    let reason = |body| verdict(handler(body).build().run());
    let long = reason("ctx.skip(('x'):rep(100000))");
    assert!(long.reason().unwrap().len() < 9000);
    assert_eq!(reason("ctx.skip('a\\xff')").reason(), Some("a\u{fffd}"));
}

#[test]
fn arguments_are_checked_and_a_bad_one_is_a_failure() {
    for (body, expected) in [
        (
            "ctx.retry{ aftr = 5 }",
            "`ctx.retry` knows no `aftr`, did you mean `after`?",
        ),
        (
            "ctx.retry{ 5 }",
            "the table of `ctx.retry` has names as keys, not a number; there are `after`, `reason`",
        ),
        (
            "ctx.retry{ after = '25h' }",
            "`after` of `ctx.retry` is milliseconds or a string such as \"300ms\", \"1.5s\", \"5m\", \"1h\" or \"1d\", from 0 to 24 h, not 90000 s",
        ),
        (
            "ctx.retry{ after = -1 }",
            "`after` of `ctx.retry` is milliseconds or a string such as \"300ms\", \"1.5s\", \"5m\", \"1h\" or \"1d\", from 0 to 24 h, not -1",
        ),
        (
            "ctx.retry{ after = '5 years' }",
            "`after` of `ctx.retry` is milliseconds or a string such as \"300ms\", \"1.5s\", \"5m\", \"1h\" or \"1d\", from 0 to 24 h, not \"5 years\"",
        ),
        (
            "ctx.retry{ reason = {} }",
            "the reason of `ctx.retry` is a string, not a table; `tostring` makes one",
        ),
        (
            "ctx.retry(5000)",
            "`ctx.retry` takes a reason, or a table as `{ after = \"5s\", reason = \"…\" }`, not a number",
        ),
        (
            "ctx.retry('5s')",
            "`ctx.retry` takes a reason; write a delay as a named field: `ctx.retry{ after = \"5s\" }`",
        ),
        (
            "ctx.deadLetter({})",
            "the reason of `ctx.deadLetter` is a string, not a table; `tostring` makes one",
        ),
        (
            "ctx:skip(1)",
            "the reason of `ctx.skip` is a string, not a number; `tostring` makes one",
        ),
        (
            "ctx.deadletter('x')",
            "`ctx` has no field `deadletter`, did you mean `deadLetter`?",
        ),
    ] {
        let failure = fails(body);
        assert_eq!(failure.kind, FailureKind::Raised);
        assert_eq!(failure.message, format!("handlers/h.lua:2: {expected}"));
    }
}

#[test]
fn no_pcall_undoes_it() {
    skips("ctx.skip('x')");
    skips("pcall(ctx.skip, 'x') error('y')");
    skips("pcall(pcall, pcall, ctx.skip, 'x')");
    skips("xpcall(ctx.skip, function() after = true end, 'x')");
    skips("xpcall(function() ctx.skip('x') end, function() while true do end end)");
    skips("for _ = 1, 10 do pcall(function() ctx.skip('x') end) end ctx.deadLetter('y')");
    skips("while true do pcall(function() pcall(ctx.skip, 'x') while true do end end) end");
}

#[test]
fn no_coroutine_undoes_it() {
    skips("coroutine.wrap(function() ctx.skip('x') end)() error('y')");
    skips("coroutine.wrap(ctx.skip)('x')");
    skips("coroutine.resume(coroutine.create(function() pcall(ctx.skip, 'x') after = true end))");
    skips(
        "pcall(coroutine.wrap(function() pcall(coroutine.wrap(function() ctx.skip('x') end)) after = true end)) ctx.retry()",
    );
    skips("local f = coroutine.wrap(function() coroutine.yield() ctx.skip('x') end) f() f() f()");
}

#[test]
fn no_callback_of_a_c_function_undoes_it() {
    for callback in [
        "ctx.skip('x')",
        "pcall(ctx.skip, 'x') after = true",
        "pcall(ctx.skip, 'x') while true do pcall(error) end",
        "coroutine.wrap(ctx.skip)('x') after = true",
        "pcall(coroutine.wrap(function() pcall(ctx.skip, 'x') after = true end)) after = true",
        "xpcall(ctx.skip, function() while true do end end, 'x') after = true",
    ] {
        for call in [
            "table.sort({ 3, 2, 1 }, f)",
            "pcall(table.sort, { 3, 2, 1 }, f)",
            "string.gsub('abc', '.', f)",
            "while true do pcall(string.gsub, 'abc', '.', f) end",
            "coroutine.wrap(function() table.sort({ 3, 2, 1 }, f) end)()",
            "pcall(coroutine.wrap(table.sort), { 3, 2, 1 }, f)",
            "local t = setmetatable({}, { __index = f }) local _ = t.x",
            "load(f)",
            "tostring(setmetatable({}, { __tostring = f }))",
            "coroutine.close(setmetatable({}, { __close = f }) and (function() local co = coroutine.create(function() local c <close> = setmetatable({}, { __close = f }) coroutine.yield() end) coroutine.resume(co) return co end)())",
            "error(setmetatable({}, { __tostring = f }))",
            "local c <close> = setmetatable({}, { __close = f })",
            "local c <close> = setmetatable({}, { __close = f }) error('y')",
            "local c <close> = setmetatable({}, { __close = f }) coroutine.wrap(error)('y')",
        ] {
            skips(&format!("local function f() {callback} end do {call} end"));
        }
    }
}

#[test]
fn it_is_not_undone_by_a_return_straight_from_a_c_function() {
    let body = "return pcall(table.sort, { 3, 2, 1 }, function() ctx.skip('x') end)";
    assert_eq!(verdict(handler(body).build().run()), skip("x"));
}

#[test]
fn it_may_follow_a_wait() {
    let mut f = handler(
        "assert(pcall(coroutine.wrap(function() tide.sleep(1) ctx.commitOffsets(5) end))) pcall(ctx.skip, 'x') error('y')",
    )
    .build();
    for _ in 0..2 {
        let (id, Wait::Sleep(_)) = waits(f.run()) else {
            panic!()
        };
        let (id, Wait::Commit(5)) = waits(f.resume(id, Answer::Slept)) else {
            panic!()
        };
        let step = f.resume(id, Answer::Committed(Ok(5)));
        assert_eq!(verdict(step), skip("x"));
        assert_eq!(f.vm.waiting(), 0);
    }
}

#[test]
fn it_ends_its_own_call_alone() {
    let mut f = handler("if message.key then ctx.skip('x') end tide.sleep(1)").build();
    let Step::Waits(id, _) = f.run() else {
        panic!()
    };
    assert_eq!(verdict(f.call(&keyed())), skip("x"));
    assert_eq!(f.vm.waiting(), 1);
    assert!(matches!(f.resume(id, Answer::Slept), Step::Done));
}

#[test]
fn what_a_handler_left_open_is_closed() {
    let open = "local c <close> = setmetatable({}, { __close = function() for i = 1, 100 do pcall(error) end closed = (closed or 0) + 1 end })";
    let seen = "if message.key then assert(closed == 2, closed) return end";
    for body in [
        format!("{open} {open} ctx.skip('x')"),
        format!("{open} coroutine.wrap(function() {open} ctx.skip('x') end)()"),
        format!("{open} pcall(coroutine.wrap(function() {open} pcall(ctx.skip, 'x') end))"),
        format!("{open} {open} table.sort({{ 3, 2, 1 }}, function() ctx.skip('x') end)"),
        format!(
            "{open} table.sort({{ 3, 2, 1 }}, function() coroutine.wrap(function() {open} ctx.skip('x') end)() end)"
        ),
    ] {
        let mut f = handler(&format!("{seen} {body}")).build();
        assert_eq!(verdict(f.run()), skip("x"));
        match f.call(&keyed()) {
            Step::Done => {}
            step => panic!("{body}: {step:?}"),
        }
    }
}

#[test]
fn what_closes_may_neither_wait_nor_say_another_word() {
    let body = "if message.key then assert(#seen == 3) return end seen = {} local function close() seen[#seen + 1] = select(2, pcall(ctx.retry)) tide.sleep(1) end local a <close> = setmetatable({}, { __close = close }) local b <close> = setmetatable({}, { __close = close }) local c <close> = setmetatable({}, { __close = close }) ctx.skip('x')";
    let mut f = handler(body).build();
    assert_eq!(verdict(f.run()), skip("x"));
    assert!(matches!(f.call(&keyed()), Step::Done));
}

#[test]
fn what_closes_without_end_is_ended() {
    for body in [
        "local c <close> = setmetatable({}, { __close = function() while true do pcall(error) end end }) ctx.skip('x')",
        "coroutine.wrap(function() local c <close> = setmetatable({}, { __close = function() while true do pcall(error) end end }) ctx.skip('x') end)()",
        "local c <close> = setmetatable({}, { __close = function() while true do pcall(error) end end }) pcall(table.sort, { 3, 2, 1 }, function() pcall(ctx.skip, 'x') while true do end end) while true do end",
        "local c <close> = setmetatable({}, { __close = function() while true do pcall(error) end end }) table.sort({ 3, 2, 1 }, function() pcall(ctx.skip, 'x') while true do end end)",
    ] {
        let mut setup = handler(&format!("if message.key then return end {body}"));
        setup.blocking = Duration::from_millis(150);
        let mut f = setup.build();
        assert_eq!(verdict(f.run()), skip("x"));
        assert!(matches!(f.call(&keyed()), Step::Done));
    }
}

#[test]
fn a_coroutine_that_asked_is_dead() {
    let seen = "if message.key then assert(coroutine.status(kept) == 'dead' and not coroutine.resume(kept)) return end";
    for body in [
        "kept = coroutine.create(function() ctx.skip('x') after = true end) coroutine.resume(kept)",
        "kept = coroutine.create(function() pcall(ctx.skip, 'x') after = true end) table.sort({ 3, 2, 1 }, function() coroutine.resume(kept) end)",
        "kept = coroutine.create(function() pcall(table.sort, { 3, 2, 1 }, function() ctx.skip('x') end) after = true end) coroutine.resume(kept)",
    ] {
        let mut f = handler(&format!("{seen} {body}")).build();
        assert_eq!(verdict(f.run()), skip("x"));
        match f.call(&keyed()) {
            Step::Done => {}
            step => panic!("{body}: {step:?}"),
        }
    }
}

#[test]
fn a_ctx_speaks_for_its_own_call() {
    let mut f = handler("if message.key then old.skip('x') end old = ctx tide.sleep(1)").build();
    assert!(matches!(f.run(), Step::Waits(..)));
    let message = failure(f.call(&keyed())).message;
    assert!(
        message.contains("this `ctx` belongs to another call"),
        "{message}"
    );
}

#[test]
fn the_top_level_of_a_file_has_no_message() {
    let mut f = Setup::new()
        .file(
            "h.lua",
            "return function(_, ctx) current = ctx require 'late' end",
        )
        .file("late.lua", "current.skip('x')")
        .handler("h")
        .build();
    let message = failure(f.run()).message;
    assert!(
        message.starts_with("handlers/late.lua:1: `ctx.skip` ends a handler's call, which cannot be done at the top level of a file; call it from the handler"),
        "{message}"
    );
}

#[test]
fn init_has_no_message() {
    let mut f = Setup::new()
        .file(
            "init.lua",
            "return { shutdown = function() kept.skip('x') end }",
        )
        .file("h.lua", "return function(_, ctx) kept = ctx end")
        .handler("h")
        .build();
    assert!(matches!(f.run(), Step::Done));
    let error = f.vm.shutdown(&f.pulse).unwrap_err().to_string();
    assert!(
        error.starts_with("handlers/init.lua:1: this `ctx` belongs to another call"),
        "{error}"
    );
}

#[test]
fn many_verdicts_leave_nothing_behind() {
    let mut f = handler(
        "if message.key then collectgarbage() return end local t = ('x'):rep(1000) pcall(table.sort, { 3, 2, 1 }, function() coroutine.wrap(function() ctx.retry(t) end)() end)",
    )
    .build();
    assert!(matches!(f.call(&keyed()), Step::Done));
    let before = f.vm.memory_used();
    for _ in 0..2000 {
        verdict(f.run());
    }
    assert!(matches!(f.call(&keyed()), Step::Done));
    assert!(f.vm.memory_used() < before + (64 << 10));
}

#[test]
fn a_verdict_and_a_given_up_call_have_words() {
    let failure = Failure::of_verdict(&skip("x"));
    assert_eq!(failure.message, "x");
    let none = Failure::of_verdict(&Verdict::DeadLetter { reason: None });
    assert_eq!(none.message, "the handler requested a dead letter");
    let timeout = Failure::timeout(Duration::from_secs(300));
    assert_eq!(timeout.kind, FailureKind::Timeout);
    assert_eq!(
        timeout.message,
        "took more than 300 s, its waits included (limits.timeout), and was given up; raise the limit, or wait for less"
    );
}
