//! Calls that wait: through pcall, metamethods and coroutines of the handler's own.

use crate::lua::tests::*;
use crate::wait::Wait;

/// Answers every sleep until the call ends, and tells how many there were.
#[track_caller]
fn sleeps(body: &str) -> usize {
    let mut f = handler(body).build();
    let mut step = f.run();
    for sleeps in 0.. {
        match step {
            Step::Done => return sleeps,
            waiting => {
                let (id, Wait::Sleep(_)) = waits(waiting) else {
                    panic!("no sleep");
                };
                step = f.resume(id, Answer::Slept);
            }
        }
    }
    0
}

#[test]
fn a_wait_passes_through_pcall_and_xpcall() {
    assert_eq!(sleeps("assert(pcall(tide.sleep, 1))"), 1);
    assert_eq!(
        sleeps("assert(xpcall(function() tide.sleep(1) end, print))"),
        1
    );
    assert_eq!(
        sleeps(
            "local ok, e = pcall(function() tide.sleep(1) error('x', 0) end) assert(not ok and e == 'x')"
        ),
        1
    );
    assert_eq!(
        sleeps(
            "local a, b, c = xpcall(function(...) tide.sleep(1) return ... end, print, 7, 8) assert(a and b == 7 and c == 8)"
        ),
        1
    );
    assert_eq!(
        sleeps(
            "local ok, e = xpcall(function() tide.sleep(1) error('x', 0) end, function(e) return e .. '!' end) assert(not ok and e == 'x!')"
        ),
        1
    );
}

#[test]
fn a_wait_passes_through_coroutines() {
    let body = r"
        local co = coroutine.create(function(a)
            tide.sleep(1)
            local b = coroutine.yield(a + 1)
            tide.sleep(1)
            return b + 1
        end)
        local ok, two = coroutine.resume(co, 1)
        assert(ok and two == 2 and coroutine.status(co) == 'suspended')
        local ok, ten = coroutine.resume(co, 9)
        assert(ok and ten == 10 and coroutine.status(co) == 'dead')
        local seen = {}
        for i in coroutine.wrap(function() for i = 1, 3 do tide.sleep(i) coroutine.yield(i) end end) do seen[#seen + 1] = i end
        assert(table.concat(seen, ',') == '1,2,3')
    ";
    assert_eq!(sleeps(body), 5);
}

#[test]
fn a_wait_passes_through_two_levels_of_coroutines() {
    let body = r"
        local outer = coroutine.wrap(function()
            local inner = coroutine.wrap(function() tide.sleep(1) coroutine.yield('a') tide.sleep(1) return 'b' end)
            coroutine.yield(inner()) coroutine.yield(inner())
        end)
        assert(outer() == 'a' and outer() == 'b')
    ";
    assert_eq!(sleeps(body), 2);
}

#[test]
fn an_answer_reaches_the_inner_coroutine() {
    let mut f = handler(
        "local o = coroutine.wrap(function() return ctx.commitOffsets(5) end)() assert(o == 5)",
    )
    .build();
    let (id, Wait::Commit(5)) = waits(f.run()) else {
        panic!()
    };
    assert!(matches!(f.resume(id, Answer::Committed(Ok(5))), Step::Done));
}

#[test]
fn a_refused_commit_raises_where_it_was_asked_for() {
    let mut f = handler("local ok, e = pcall(ctx.commitOffsets, 5)\nassert(not ok and e == 'fenced', e)\ncoroutine.wrap(function() ctx:commitOffsets(6) end)()").build();
    let refused = || Answer::Committed(Err("fenced".to_owned()));
    let (id, Wait::Commit(5)) = waits(f.run()) else {
        panic!()
    };
    let (id, Wait::Commit(6)) = waits(f.resume(id, refused())) else {
        panic!()
    };
    let message = failure(f.resume(id, refused())).message;
    assert_eq!(message, "handlers/h.lua:4: handlers/h.lua:4: fenced");
}

#[test]
fn calls_that_wait_take_turns() {
    let mut f = handler("local n = message.offset for i = 1, 3 do tide.sleep(n) end assert(message.offset == n and ctx.message == message)").build();
    let mut waiting = Vec::new();
    for offset in 0..50 {
        let record = OwnedRecord {
            offset,
            ..OwnedRecord::default()
        };
        let (id, Wait::Sleep(duration)) = waits(f.call(&record)) else {
            panic!()
        };
        assert_eq!(duration, Duration::from_millis(offset as u64));
        waiting.push(id);
    }
    assert_eq!(f.vm.waiting(), 50);
    for _ in 0..2 {
        for &id in waiting.iter().rev() {
            assert!(matches!(f.resume(id, Answer::Slept), Step::Waits(same, _) if same == id));
        }
    }
    for id in waiting {
        assert!(matches!(f.resume(id, Answer::Slept), Step::Done));
    }
    assert_eq!(f.vm.waiting(), 0);
}

#[test]
fn a_cancelled_call_is_gone() {
    let mut f = handler("tide.sleep(1) after = true").build();
    let Step::Waits(id, _) = f.run() else {
        panic!()
    };
    f.vm.cancel(id);
    f.vm.cancel(id);
    assert_eq!(f.vm.waiting(), 0);
    assert!(
        failure(f.resume(id, Answer::Slept))
            .message
            .contains("does not wait")
    );
    assert!(matches!(f.run(), Step::Waits(other, _) if other != id));
}

#[test]
fn what_a_cancelled_call_left_open_is_closed() {
    let open = |name| {
        format!(
            "local {name} <close> = setmetatable({{}}, {{ __close = function() pcall(error) closed[#closed + 1] = '{name}' end }})"
        )
    };
    let (a, b, c) = (open("a"), open("b"), open("c"));
    let mut f = handler(&format!("if message.key then assert(table.concat(closed) == 'cba', table.concat(closed)) return end closed = {{}} {a} coroutine.wrap(function() {b} coroutine.wrap(function() {c} tide.sleep(1) tide.sleep(1) end)() end)()")).build();
    let (id, _) = waits(f.run());
    let (id, _) = waits(f.resume(id, Answer::Slept));
    f.vm.cancel(id);
    let record = OwnedRecord {
        key: Some(Box::default()),
        ..OwnedRecord::default()
    };
    match f.call(&record) {
        Step::Done => {}
        step => panic!("{step:?}"),
    }
}

#[test]
fn what_closes_a_cancelled_call_may_neither_wait_nor_say_a_word() {
    let body = "if message.key then assert(not ok1 and e1:find('waits, which') and not ok2 and e2:find('another call'), e2) return end local c <close> = setmetatable({}, { __close = function() ok1, e1 = pcall(tide.sleep, 1) ok2, e2 = pcall(ctx.skip) end }) tide.sleep(1)";
    let mut f = handler(body).build();
    let (id, _) = waits(f.run());
    f.vm.cancel(id);
    let record = OwnedRecord {
        key: Some(Box::default()),
        ..OwnedRecord::default()
    };
    match f.call(&record) {
        Step::Done => {}
        step => panic!("{step:?}"),
    }
}

#[test]
fn what_closes_cancelled_calls_without_end_is_ended_once() {
    let body = "if message.key then assert(closing == 1, closing) return end local c <close> = setmetatable({}, { __close = function() closing = (closing or 0) + 1 while true do pcall(error) end end }) tide.sleep(1)";
    let mut setup = handler(body);
    setup.blocking = Duration::from_millis(150);
    let mut f = setup.build();
    let ids: Vec<_> = (0..20).map(|_| waits(f.run()).0).collect();
    for id in ids {
        f.vm.cancel(id);
    }
    let record = OwnedRecord {
        key: Some(Box::default()),
        ..OwnedRecord::default()
    };
    match f.call(&record) {
        Step::Done => {}
        step => panic!("{step:?}"),
    }
}

#[test]
fn a_wait_inside_a_c_callback_raises() {
    for body in [
        "table.sort({ 3, 2, 1 }, function(a, b) tide.sleep(1) return a < b end)",
        "table.sort({ 3, 2, 1 }, function(a, b) coroutine.wrap(tide.sleep)(1) return a < b end)",
        "string.gsub('x', 'x', function() tide.sleep(1) end)",
    ] {
        let message = fails(body).message;
        assert!(
            message.contains(
                "`tide.sleep` waits, which cannot be done inside a callback of a C function"
            ),
            "{message}"
        );
    }
}

#[test]
fn a_wait_at_the_top_level_raises() {
    let error = Setup::new()
        .file("h.lua", "require 'tide'.sleep(1) return function() end")
        .handler("h")
        .error();
    assert_eq!(
        error,
        "handlers/h.lua:1: `tide.sleep` waits, which cannot be done at the top level of a file; call it from a handler, from a timer or from init.lua's `start`"
    );
}

#[test]
fn a_wait_at_the_top_level_of_a_late_module_raises() {
    let mut f = Setup::new()
        .file("h.lua", "return function() require 'late' end")
        .file("late.lua", "require 'tide'.sleep(1)")
        .handler("h")
        .build();
    let message = failure(f.run()).message;
    assert!(
        message.starts_with("handlers/late.lua:1: `tide.sleep` waits, which cannot be done at the top level of a file"),
        "{message}"
    );
}

#[test]
fn durations_are_milliseconds_or_have_a_unit() {
    for (argument, found) in [
        ("'5'", "\"5\""),
        ("-1", "-1"),
        ("0/0", "NaN"),
        ("{}", "a table"),
        ("", "no value"),
        ("nil", "nil"),
    ] {
        let message = fails(&format!("tide.sleep({argument})")).message;
        assert_eq!(
            message,
            format!(
                "handlers/h.lua:2: `tide.sleep` takes milliseconds or a string such as \"300ms\", \"1.5s\", \"5m\", \"1h\" or \"1d\", not {found}"
            )
        );
    }
}

/// The same strings as in the configuration.
#[test]
fn a_string_of_a_duration_is_one_of_the_common_grammar() {
    for (text, expected) in crate::duration::tests::STRINGS {
        let step = handler(&format!("tide.sleep({text:?})")).build().run();
        let Some(ms) = expected else {
            assert!(matches!(step, Step::Failed(_)), "{text:?}: {step:?}");
            continue;
        };
        let (_, Wait::Sleep(wait)) = waits(step) else {
            panic!("{text:?}");
        };
        assert_eq!(wait, Duration::from_millis(*ms), "{text:?}");
    }
}

#[test]
fn a_handlers_own_coroutine_is_not_lua_codes() {
    let message = fails("coroutine.yield(1)").message;
    assert!(
        message.contains("attempt to yield from outside a coroutine"),
        "{message}"
    );
    let body = "if shared then coroutine.resume(shared) else shared = coroutine.running() tide.sleep(1) end";
    let mut f = handler(body).build();
    assert!(matches!(f.run(), Step::Waits(..)));
    let message = failure(f.run()).message;
    assert!(
        message.contains("a handler's own coroutine cannot be resumed or closed"),
        "{message}"
    );
}

#[test]
fn a_coroutine_that_waits_is_not_another_calls_to_resume() {
    let body = r"
        local ok, e = coroutine.resume(shared, 7)
        assert(not ok and e == 'cannot resume non-suspended coroutine', e)
        assert(coroutine.status(shared) == 'normal')
        local ok, e = pcall(coroutine.close, shared)
        assert(not ok and e:find('cannot close a normal coroutine'), e)
    ";
    let first = "if not shared then shared = coroutine.create(function() return ctx.commitOffsets(5) end) assert(select(2, coroutine.resume(shared)) == 5) return end";
    let mut f = handler(&format!("{first} {body}")).build();
    let (id, _) = waits(f.run());
    assert!(matches!(f.run(), Step::Done));
    assert!(matches!(f.resume(id, Answer::Committed(Ok(5))), Step::Done));
}

#[test]
fn a_wrapped_coroutine_that_waits_is_not_another_calls_to_resume() {
    let mut f = handler("if not wrapped then wrapped = coroutine.wrap(function() tide.sleep(1) return 'through' end) assert(wrapped() == 'through') return end local ok, e = pcall(wrapped) assert(not ok and e:find('cannot resume non'), e)").build();
    let (id, _) = waits(f.run());
    assert!(matches!(f.run(), Step::Done));
    assert!(matches!(f.resume(id, Answer::Slept), Step::Done));
}

#[test]
fn no_commit_is_believed_after_its_call_was_given_up() {
    let body = "if not shared then shared = coroutine.create(function() return ctx.commitOffsets(5) end) coroutine.resume(shared) return end local ok, e = coroutine.resume(shared, 5) assert(not ok and e:find('dead coroutine'), e)";
    let mut f = handler(body).build();
    let (id, _) = waits(f.run());
    f.vm.cancel(id);
    assert!(matches!(f.run(), Step::Done));
}

#[test]
fn the_main_state_is_not_lua_codes() {
    let body = "local ok, e = pcall(coroutine.close, main) assert(not ok and e:find('own coroutine'), e) assert(not pcall(coroutine.resume, main))";
    let mut f = Setup::new()
        .file(
            "h.lua",
            &format!("main = coroutine.running() return function() {body} end"),
        )
        .handler("h")
        .build();
    assert!(matches!(f.run(), Step::Done));
}
