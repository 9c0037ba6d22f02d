//! What computes too long, takes too much or runs too deep.

use crate::lua::FailureKind;
use crate::lua::tests::*;

/// Ends `body` by the watchdog, and sees that the VM still works.
#[track_caller]
pub(super) fn is_ended(body: &str) -> Failure {
    let mut setup = handler(&format!("if message.key then return end {body}"));
    setup.blocking = Duration::from_millis(150);
    let mut f = setup.build();
    let failure = failure(f.run());
    assert_eq!(failure.kind, FailureKind::Blocking, "{}", failure.message);
    assert!(
        f.pulse
            .take_slow()
            .is_none_or(|slow| slow >= Duration::from_millis(150))
    );
    let record = OwnedRecord {
        key: Some(Box::default()),
        ..OwnedRecord::default()
    };
    for _ in 0..3 {
        assert!(matches!(f.call(&record), Step::Done));
    }
    failure
}

#[test]
fn a_loop_is_ended_where_it_stands() {
    let failure = is_ended("\nlocal function spin() while true do end end\nspin()");
    assert_eq!(
        failure.message,
        "handlers/h.lua:3: computed for more than 150 ms without a pause (limits.blocking)"
    );
    let traceback = failure.traceback.unwrap();
    assert!(traceback.contains("handlers/h.lua:4: in"), "{traceback}");
}

#[test]
fn no_pcall_keeps_a_loop_alive() {
    is_ended("while true do pcall(function() while true do end end) end");
    is_ended(
        "while true do xpcall(function() while true do end end, function() while true do end end) end",
    );
    is_ended("while true do xpcall(error, function() while true do end end) end");
    is_ended("while true do xpcall(error, function() error() end) end");
    is_ended("xpcall(error, function() while true do pcall(error) end end)");
    is_ended("local function f() pcall(f) pcall(f) end f()");
    is_ended("local function f() xpcall(f, f) xpcall(f, f) end f()");
    is_ended("local function f() pcall(string.gsub, 'x', 'x', f) pcall(f) end f()");
}

#[test]
fn a_loop_in_a_coroutine_is_ended() {
    is_ended("coroutine.wrap(function() while true do end end)()");
    is_ended(
        "while true do coroutine.resume(coroutine.create(function() while true do pcall(error) end end)) end",
    );
    is_ended(
        "while true do pcall(coroutine.wrap(function() coroutine.wrap(function() while true do end end)() end)) end",
    );
    is_ended("while true do coroutine.wrap(function() coroutine.yield() end)() end");
    is_ended(
        "local f = coroutine.wrap(function() while true do coroutine.yield() end end) while true do f() end",
    );
    is_ended(
        "local function spin() pcall(coroutine.wrap(spin)) while true do pcall(error) end end spin()",
    );
    is_ended(
        "table.sort({ 3, 2, 1 }, function() while true do pcall(coroutine.wrap(function() while true do pcall(error) end end)) end end)",
    );
}

#[test]
fn a_loop_in_what_closes_is_ended() {
    let open = "local c <close> = setmetatable({}, { __close = function() while true do pcall(error) end end })";
    is_ended(&format!("do {open} end"));
    is_ended(&format!(
        "while true do pcall(function() {open} error('x') end) end"
    ));
    is_ended(&format!(
        "local co = coroutine.create(function() {open} coroutine.yield() end) coroutine.resume(co) while true do pcall(coroutine.close, co) end"
    ));
    is_ended(&format!(
        "while true do pcall(coroutine.wrap(function() {open} error('x') end)) end"
    ));
}

#[test]
fn the_place_is_that_of_the_loop_itself() {
    let failure = is_ended("\nlocal f = coroutine.wrap(function()\n while true do end end)\n\nf()");
    assert!(
        failure.message.starts_with("handlers/h.lua:4: computed"),
        "{}",
        failure.message
    );
}

#[test]
fn a_loop_of_c_functions_is_ended() {
    is_ended("while true do local s = string.rep('x', 100000) end");
    is_ended("local s = '' while true do s = s .. 'x' if #s > 10000 then s = '' end end");
    is_ended(
        "local t = {} for i = 1, 10000 do t[i] = 'x' end while true do pcall(table.concat, t) end",
    );
    is_ended("local s = string.rep('ab', 1000) while true do s:find('(a.-)c') end");
    is_ended("local s = string.rep('ab', 1000) while true do s:gsub('%w+', '%0') end");
    is_ended("for _ in string.gmatch(string.rep('x', 100), '') do while true do end end");
    is_ended("load(function() while true do pcall(error) end end)");
    is_ended("while true do string.gsub('xxxxxxxx', 'x', function() return 'y' end) end");
    is_ended(
        "string.gsub(string.rep('x', 10), 'x', function() while true do pcall(error) end end)",
    );
    is_ended(
        "table.sort({ 3, 2, 1 }, function(a, b) while true do pcall(function() while true do end end) end end)",
    );
    is_ended(
        "setmetatable({}, { __index = function() while true do end end }).x = nil local t = setmetatable({}, { __index = function() while true do end end }) return t.x",
    );
}

#[test]
fn a_loop_in_an_error_value_is_ended() {
    is_ended("error(setmetatable({}, { __tostring = function() while true do end end }))");
    is_ended(
        "local x <close> = setmetatable({}, { __close = function() while true do pcall(error) end end }) error('x')",
    );
}

#[test]
fn a_loop_at_the_top_level_is_ended() {
    let mut setup = Setup::new()
        .file(
            "h.lua",
            "while true do pcall(function() while true do end end) end",
        )
        .handler("h");
    setup.blocking = Duration::from_millis(150);
    let error = setup.error();
    assert!(
        error.starts_with("handlers/h.lua:1: computed for more than 150 ms"),
        "{error}"
    );
}

#[test]
fn c_code_at_the_top_level_that_ends_late_is_told_as_such() {
    let mut setup = Setup::new()
        .file(
            "h.lua",
            "return string.find(string.rep('a', 21), string.rep('a?', 21) .. string.rep('a', 21))",
        )
        .handler("h");
    setup.blocking = Duration::from_millis(20);
    let error = setup.error();
    assert_eq!(
        error,
        "handlers/h.lua: computed for more than 20 ms without a pause (limits.blocking)"
    );
}

#[test]
fn the_limit_counts_from_each_wait_anew() {
    let mut setup = handler(
        "local t = os.clock() while os.clock() - t < 0.05 do end tide.sleep(1) t = os.clock() while os.clock() - t < 0.05 do end",
    );
    setup.blocking = Duration::from_secs(2);
    let mut f = setup.build();
    let Step::Waits(id, _) = f.run() else {
        panic!()
    };
    assert!(matches!(f.resume(id, Answer::Slept), Step::Done));
}

/// Runs `body`, which takes more than the VM may have, and sees that the VM still answers.
#[track_caller]
fn takes_too_much(body: &str) {
    let mut setup = handler(&format!("if message.key then return end {body}"));
    setup.memory = 8 << 20;
    let mut f = setup.build();
    let record = OwnedRecord {
        key: Some(Box::default()),
        ..OwnedRecord::default()
    };
    for _ in 0..2 {
        let failure = failure(f.run());
        assert_eq!(
            failure.kind,
            FailureKind::Memory,
            "{body}: {}",
            failure.message
        );
        assert_eq!(
            failure.message,
            "not enough memory: the vm has 8 MiB ([lua] memory)"
        );
        assert!(failure.traceback.is_none());
        assert!(matches!(f.call(&record), Step::Done), "{body}");
    }
}

#[test]
fn a_memory_bomb_is_an_outcome() {
    takes_too_much("local t = {} for i = 1, 1e9 do t[i] = i end");
    takes_too_much("local t = {} while true do t[#t + 1] = {} end");
    takes_too_much("local t = {} while true do t[{}] = t end");
    takes_too_much("local s = 'x' while true do s = s .. s end");
    takes_too_much("local s = 'x' while true do s = s:gsub('x', 'xx') end");
    takes_too_much("string.rep('x', 1 << 28)");
    takes_too_much("string.rep('x', 1 << 30)");
    takes_too_much(
        "local t = {} for i = 1, 1000 do t[i] = string.rep('x', 1000) end table.concat(t, string.rep('y', 10000))",
    );
    takes_too_much("string.format('%s%s', string.rep('x', 5 << 20), string.rep('y', 5 << 20))");
    takes_too_much("local f = {} while true do local g = f f = function() return g end end");
}

#[test]
fn a_memory_bomb_in_coroutines_is_an_outcome() {
    takes_too_much("local t = {} while true do t[#t + 1] = coroutine.create(print) end");
    takes_too_much(
        "local t = {} while true do local f = coroutine.wrap(coroutine.yield) f() t[#t + 1] = f end",
    );
    let bomb = "local t = {} while true do t[#t + 1] = {} end";
    takes_too_much(&format!("coroutine.wrap(function() {bomb} end)()"));
    takes_too_much(&format!(
        "coroutine.wrap(function() coroutine.wrap(function() {bomb} end)() end)()"
    ));
    takes_too_much(&format!(
        "local _, e = coroutine.resume(coroutine.create(function() {bomb} end)) error(e)"
    ));
}

#[test]
fn a_memory_bomb_in_a_callback_is_an_outcome() {
    let bomb = "local t = {} while true do t[#t + 1] = {} end";
    takes_too_much(&format!("table.sort({{ 3, 2, 1 }}, function() {bomb} end)"));
    takes_too_much(&format!("string.gsub('x', 'x', function() {bomb} end)"));
    takes_too_much(&format!("xpcall(error, function() {bomb} end) {bomb}"));
    takes_too_much(&format!(
        "local ok, e = pcall(function() {bomb} end) error(e)"
    ));
    takes_too_much(&format!(
        "local ok, e = pcall(function() {bomb} end) error(e, 0)"
    ));
    takes_too_much(&format!(
        "local c <close> = setmetatable({{}}, {{ __close = function() {bomb} end }})"
    ));
}

#[test]
fn memory_that_is_caught_and_let_go_is_no_failure() {
    let mut setup = handler(
        "for _ = 1, 5 do assert(not pcall(function() local t = {} while true do t[#t + 1] = {} end end)) end",
    );
    setup.memory = 8 << 20;
    let mut f = setup.build();
    for _ in 0..3 {
        assert!(matches!(f.run(), Step::Done));
    }
    assert!(f.vm.memory_used() < 8 << 20);
}

#[test]
fn memory_that_is_caught_for_ever_is_ended() {
    let mut setup = handler(
        "if message.key then return end local t = {} while true do pcall(function() while true do t[#t + 1] = {} end end) end",
    );
    setup.memory = 8 << 20;
    setup.blocking = Duration::from_millis(500);
    let mut f = setup.build();
    let failure = failure(f.run());
    assert_eq!(failure.kind, FailureKind::Blocking, "{}", failure.message);
    let record = OwnedRecord {
        key: Some(Box::default()),
        ..OwnedRecord::default()
    };
    assert!(matches!(f.call(&record), Step::Done));
}

#[test]
fn memory_that_is_used_up_at_the_top_level_is_an_error() {
    let mut setup = Setup::new()
        .file("h.lua", "local t = {} while true do t[#t + 1] = {} end")
        .handler("h");
    setup.memory = 4 << 20;
    assert_eq!(
        setup.error(),
        "handlers/h.lua: not enough memory: the vm has 4 MiB ([lua] memory)"
    );
}

#[test]
fn a_message_that_does_not_fit_is_an_outcome() {
    let mut setup = handler("");
    setup.memory = 4 << 20;
    let mut f = setup.build();
    let record = OwnedRecord {
        value: Some(vec![7; 8 << 20].into()),
        ..OwnedRecord::default()
    };
    assert_eq!(failure(f.call(&record)).kind, FailureKind::Memory);
    assert!(f.vm.memory_used() < 4 << 20);
}

#[test]
fn endless_recursion_is_an_ordinary_failure() {
    for body in [
        "local function f() return 1 + f() end f()",
        "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k] end return t.x",
        "local function f() return coroutine.wrap(f)() end f()",
        "local function f() string.gsub('x', 'x', f) end f()",
        "local function f() pcall(error) return tostring(setmetatable({}, { __tostring = f })) end f()",
        "local function f() local c <close> = setmetatable({}, { __close = f }) error('stack overflow') end f()",
        "local f f = coroutine.wrap(function() local function g() return 1 + g() end g() end) f()",
    ] {
        let mut f = handler(&format!("if message.key then return end {body}")).build();
        let record = OwnedRecord {
            key: Some(Box::default()),
            ..OwnedRecord::default()
        };
        let failure = failure(f.run());
        assert!(matches!(f.call(&record), Step::Done), "{body}");
        assert_eq!(failure.kind, FailureKind::Raised, "{body}");
        assert!(failure.message.contains("overflow"), "{}", failure.message);
        assert!(
            failure
                .traceback
                .is_some_and(|traceback| traceback.len() < 20_000)
        );
    }
}

#[test]
fn what_a_handler_left_open_is_closed_when_it_fails() {
    let body = "if not closed then local x <close> = setmetatable({}, { __close = function(_, e) closed = e end }) error('x', 0) end assert(closed == 'x')";
    let mut f = handler(body).build();
    failure(f.run());
    assert!(matches!(f.run(), Step::Done));
}

#[test]
fn a_vm_may_be_built_by_one_thread_and_run_by_another() {
    let watchdog = Watchdog::start(&Supervisor::without_daemon()).unwrap();
    let mut setup = handler("if message.key then while true do end end");
    setup.blocking = Duration::from_millis(150);
    let bundle = setup.bundle();
    let app = Arc::default();
    std::thread::scope(|scope| {
        let build = scope
            .spawn(|| Vm::build(&bundle, &app, &watchdog.watch_current_thread("build")).unwrap());
        let mut vm = build.join().unwrap();
        let pulse = watchdog.watch_current_thread("run");
        let record = OwnedRecord {
            key: Some(Box::default()),
            ..OwnedRecord::default()
        };
        let topic: Arc<str> = "t".into();
        let step = vm.call(
            &pulse,
            &Call {
                listener: 0,
                topic: &topic,
                partition: 0,
                record: &record,
                attempt: 1,
                is_retry: false,
            },
        );
        assert_eq!(failure(step).kind, FailureKind::Blocking);
    });
}

#[test]
fn a_slow_call_is_told() {
    let mut f =
        handler("if message.key then local t = os.clock() while os.clock() - t < 0.3 do end end")
            .build();
    let record = OwnedRecord {
        key: Some(Box::default()),
        ..OwnedRecord::default()
    };
    assert!(matches!(f.call(&record), Step::Done));
    assert!(f.pulse.take_slow().unwrap() >= Duration::from_millis(100));
    assert!(f.pulse.take_slow().is_none());
}

/// In the child process of the tests below: what no hook reaches.
#[test]
fn stuck() {
    let Ok(what) = std::env::var("MOONTIDE_TEST_STUCK") else {
        return;
    };
    let body = match what.as_str() {
        "c code" => "string.find(string.rep('a', 40), string.rep('a?', 40) .. string.rep('a', 40))",
        "a finalizer" => {
            "for _ = 1, 2 do kept = setmetatable({}, { __gc = function() while true do end end }) end"
        }
        _ => return,
    };
    let mut setup = handler(body);
    setup.blocking = Duration::from_millis(50);
    // A finalizer gets its turn when the VM goes.
    assert!(matches!(setup.build().run(), Step::Done));
}

#[track_caller]
fn ends_the_process(what: &str) {
    use std::os::unix::process::ExitStatusExt;
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lua::tests::limits::stuck"])
        .env("MOONTIDE_TEST_STUCK", what)
        .output()
        .unwrap();
    assert_eq!(child.status.signal(), Some(libc::SIGABRT), "{child:?}");
}

#[test]
fn c_code_that_nothing_interrupts_ends_the_process() {
    ends_the_process("c code");
}

#[test]
fn a_finalizer_that_does_not_end_ends_the_process() {
    ends_the_process("a finalizer");
}

#[test]
fn a_bound_on_memory_leaves_what_a_handler_frees() {
    // Blocks of every small size, and large ones that grow and shrink, far more than the limit in all.
    let mut setup = handler(
        r"
        for round = 1, 40 do
            local kept, all = {}, {}
            for size = 1, 900 do
                kept[size] = string.rep(string.char(size % 256), size)
                all[#all + 1] = size
            end
            for size = 1, 900 do
                assert(kept[size] == string.rep(string.char(size % 256), size))
                kept[size] = nil
            end
            coroutine.wrap(function() assert(#{ table.unpack(all) } == 900) end)()
        end
        ",
    );
    setup.memory = 4 << 20;
    let mut f = setup.build();
    for _ in 0..3 {
        assert!(matches!(f.run(), Step::Done));
    }
    assert!(f.vm.memory_used() <= 4 << 20);
}
