//! `tide.every` and `tide.after`: where they may be called, and what a tick may do.

use crate::lua::FailureKind;
use crate::lua::tests::*;
use crate::rules::timers::{Each, Kind};

/// A VM with this text at the top level of a file, whose handler has `body`.
fn file(text: &str, body: &str) -> Setup {
    Setup::new()
        .file(
            "h.lua",
            &format!(
                "local tide = require \"tide\"\n{text}\nreturn function(message, ctx) {body}\nend"
            ),
        )
        .handler("h")
}

#[test]
fn a_file_and_init_lua_declare_timers_with_their_position() {
    let mut f = file("tide.every('10s', print)\ntide.after(5, print)", "")
        .file(
            "init.lua",
            "local tide = require 'tide'\nreturn function()\n  tide.every('1m', print, { each = 'worker' })\nend",
        )
        .build();
    f.vm.start(&f.pulse).unwrap();
    let timers = f.vm.come_into_force(0);
    let told: Vec<_> = timers
        .iter()
        .map(|(index, timer, position)| {
            let ms = timer.duration.as_millis();
            (*index, timer.kind, ms, timer.each, position.to_string())
        })
        .collect();
    assert_eq!(
        told,
        [
            (
                0,
                Kind::Every,
                10_000,
                Each::Process,
                "handlers/h.lua:2".to_owned()
            ),
            (
                1,
                Kind::After,
                5,
                Each::Process,
                "handlers/h.lua:3".to_owned()
            ),
            (
                2,
                Kind::Every,
                60_000,
                Each::Worker,
                "handlers/init.lua:3".to_owned()
            ),
        ]
    );
    assert_eq!(timers[0].1.file, "handlers/h.lua");
}

#[test]
fn equal_timers_are_told_apart_by_their_order_and_lines_do_not_count() {
    let f = file(
        "for _ = 1, 3 do tide.every(5, print) end\ntide.every(5, print)",
        "",
    )
    .build();
    let ordinals: Vec<_> =
        f.vm.come_into_force(0)
            .iter()
            .map(|(_, timer, _)| timer.ordinal)
            .collect();
    assert_eq!(ordinals, [0, 1, 2, 3]);
}

#[test]
fn a_timer_is_refused_once_its_bundle_is_in_force() {
    let late = "comes too late, since its bundle is in force";
    for name in ["every", "after"] {
        let message = fails(&format!("tide.{name}(5, print)")).message;
        assert!(message.starts_with("handlers/h.lua:2: "), "{message}");
        assert!(
            message.contains(&format!("`tide.{name}` {late}")),
            "{message}"
        );
    }
    let mut f = file("tide.every(5, function() tide.after(5, print) end)", "").build();
    let message = failure(f.vm.tick(&f.pulse, 0)).message;
    assert!(message.contains(late), "{message}");
    // A file that a handler requires first.
    let mut f = file("", "require 'later'")
        .file("later.lua", "require 'tide'.every(5, print)")
        .build();
    let message = failure(f.run()).message;
    assert!(
        message.contains("handlers/later.lua:1: ") && message.contains(late),
        "{message}"
    );
    let mut f = file("", "")
        .file(
            "init.lua",
            "return { shutdown = function() require 'tide'.every(5, print) end }",
        )
        .build();
    let message = f.vm.shutdown(&f.pulse).unwrap_err().to_string();
    assert!(message.contains(late), "{message}");
}

#[test]
fn wrong_arguments_are_told_with_what_is_allowed() {
    for (arguments, expected) in [
        ("", "`tide.every` takes milliseconds or a string such as"),
        (
            "0, print",
            "`tide.every` takes a time of 1 ms or more, not 0",
        ),
        (
            "'400d', print",
            "`tide.every` takes a time of 366 days at most",
        ),
        ("'10', print", "not \"10\""),
        (
            "5, 'f'",
            "`tide.every` takes a function to run, not a string",
        ),
        (
            "5, print, 'worker'",
            "takes options as a table, as `{ each = \"worker\" }`, not a string",
        ),
        (
            "5, print, { each = 'vm' }",
            "`each` of `tide.every` is \"process\" or \"worker\", not \"vm\"",
        ),
        ("5, print, { each = 5 }", "not a number"),
        (
            "5, print, { eech = 5 }",
            "`tide.every` knows no `eech`, did you mean `each`?",
        ),
        (
            "5, print, { 'worker' }",
            "have names as keys, not a number; there is `each`",
        ),
    ] {
        let error = file(&format!("tide.every({arguments})"), "").error();
        assert!(error.starts_with("handlers/h.lua:2: "), "{error}");
        assert!(error.contains(expected), "{arguments}: {error}");
    }
    let error = file("for _ = 1, 1001 do tide.every(5, print) end", "").error();
    assert!(error.contains("a vm has at most 1000 timers"), "{error}");
    let error = file("print(tide.every(5, print).stop)", "").error();
    assert!(
        error.contains("`timer` has no field `stop`, there are `cancel`"),
        "{error}"
    );
}

#[test]
fn a_timer_that_is_cancelled_while_its_file_loads_is_none() {
    let f = file(
        "tide.every(5, print).cancel()\nlocal t = tide.after(5, print) t:cancel()",
        "",
    )
    .build();
    assert!(f.vm.come_into_force(0).is_empty());
}

#[test]
fn a_tick_waits_and_shares_the_state_of_its_file() {
    let text = "local ran = 0\ntide.every(5, function(...) assert(select('#', ...) == 0) tide.sleep(1) tide.parallel{ function() tide.sleep(2) end } ran = ran + 1 end)";
    let mut f = file(text, "assert(ran == 1)").build();
    let (id, Wait::Sleep(duration)) = waits(f.vm.tick(&f.pulse, 0)) else {
        panic!()
    };
    assert_eq!(duration, Duration::from_millis(1));
    let (id, _) = waits(f.resume(id, Answer::Slept));
    assert!(matches!(f.resume(id, Answer::Slept), Step::Done));
    assert!(matches!(f.run(), Step::Done));
}

/// As with a handler: only `nil, err` and `false, err` are a failure.
#[test]
fn a_tick_and_a_start_may_return_what_they_like() {
    for value in ["", "nil", "true", "false", "{}", "5, 'six'", "nil, nil"] {
        let body = format!("return {value}");
        let tick = file(&format!("tide.every(5, function() {body} end)"), "");
        let init = format!("return {{ start = function() {body} end }}");
        let mut f = tick.file("init.lua", &init).build();
        assert!(f.vm.start(&f.pulse).is_ok(), "{value}");
        assert!(matches!(f.vm.tick(&f.pulse, 0), Step::Done), "{value}");
    }
    let mut f = file("", "")
        .file(
            "init.lua",
            "return function() return false, 'no answer' end",
        )
        .build();
    let error = f.vm.start(&f.pulse).unwrap_err().to_string();
    assert_eq!(error, "handlers/init.lua: no answer");
}

#[test]
fn a_tick_fails_as_a_call_does() {
    let tick = |body: &str| {
        let mut setup = file(&format!("tide.every(5, function() {body} end)"), "");
        setup.memory = 8 << 20;
        let mut f = setup.build();
        failure(f.vm.tick(&f.pulse, 0))
    };
    let raised = tick("error('boom')");
    assert_eq!(
        (raised.kind, &*raised.message),
        (FailureKind::Raised, "handlers/h.lua:2: boom")
    );
    assert!(raised.traceback.is_some());
    let returned = tick("return nil, 'no answer'");
    assert_eq!(
        (returned.kind, &*returned.message),
        (FailureKind::Returned, "no answer")
    );
    assert_eq!(
        tick("local t = {} while true do t[#t + 1] = {} end").kind,
        FailureKind::Memory
    );
}

#[test]
fn a_tick_that_is_given_up_closes_what_it_left_open() {
    let text = "tide.every(5, function() local c <close> = setmetatable({}, { __close = function() closed = true end }) tide.sleep(1) end)";
    let mut f = file(text, "assert(closed)").build();
    let (id, _) = waits(f.vm.tick(&f.pulse, 0));
    f.vm.cancel(id);
    assert!(matches!(f.run(), Step::Done));
}
