//! `tide.parallel`, and waits outside by the module `tide.echo`.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use crate::lua::FailureKind;
use crate::lua::tests::*;
use crate::wait::{Cancel, Reply, Value, WaitId};

const SOON: Duration = Duration::from_secs(20);

/// Serves the waits of one call as a worker does, with a clock that jumps to the next sleep.
struct Served {
    app: Arc<App>,
    f: Fixture,
    /// Sleeps by their end, in milliseconds of that clock.
    sleeps: Vec<(u64, WaitId)>,
    now_ms: u64,
    outside: Vec<(WaitId, Cancel)>,
    sender: Sender<(WaitId, Answer)>,
    answers: Receiver<(WaitId, Answer)>,
    ready: VecDeque<(WaitId, Answer)>,
}

impl Served {
    fn new(setup: &Setup) -> Self {
        let app = Arc::new(App::default());
        let f = setup
            .build_with(&app)
            .unwrap_or_else(|error| panic!("{error}"));
        let (sender, answers) = mpsc::channel();
        Self {
            app,
            f,
            sleeps: Vec::new(),
            now_ms: 0,
            outside: Vec::new(),
            sender,
            answers,
            ready: VecDeque::new(),
        }
    }

    fn begin(&mut self, waits: crate::wait::Waits) {
        self.outside.retain(|(id, _)| !waits.given_up.contains(id));
        self.sleeps.retain(|(_, id)| !waits.given_up.contains(id));
        for (id, wait) in waits.begun {
            match wait {
                Wait::Sleep(duration) => {
                    let due = self.now_ms + duration.as_millis() as u64;
                    self.sleeps.push((due, id));
                }
                Wait::Commit(offset) => {
                    self.ready.push_back((id, Answer::Committed(Ok(offset))));
                }
                Wait::EmitAndCommit(..) | Wait::Settle { .. } => panic!("nothing is emitted"),
                Wait::Outside(job) => {
                    let sender = self.sender.clone();
                    let reply = Reply::new(move |answer| _ = sender.send((id, answer)));
                    self.outside.push((id, self.app.outside.begin(job, reply)));
                }
            }
        }
    }

    fn next(&mut self) -> (WaitId, Answer) {
        if let Some(ready) = self.ready.pop_front() {
            return ready;
        }
        if !self.outside.is_empty() {
            let (id, answer) = self.answers.recv_timeout(SOON).expect("an answer comes");
            self.outside.retain(|(one, _)| *one != id);
            return (id, answer);
        }
        let first = (0..self.sleeps.len()).min_by_key(|at| self.sleeps[*at].0);
        let (due, id) = self
            .sleeps
            .remove(first.expect("the call waits for something"));
        self.now_ms = due;
        (id, Answer::Slept)
    }

    /// Runs a call to its end.
    fn run(&mut self) -> Step {
        let mut step = self.f.run();
        loop {
            match step {
                Step::Waits(call, waits) => {
                    self.begin(waits);
                    let (wait, answer) = self.next();
                    step = self.f.vm.resume(&self.f.pulse, call, wait, answer);
                }
                step => return step,
            }
        }
    }

    /// Runs a call until it has begun its first waits.
    fn begun(&mut self) -> CallId {
        match self.f.run() {
            Step::Waits(call, waits) => {
                self.begin(waits);
                call
            }
            step => panic!("{step:?}"),
        }
    }
}

/// Runs `body`, which asserts for itself; the milliseconds that its sleeps took.
#[track_caller]
fn passes(body: &str) -> u64 {
    let mut served = Served::new(&handler(body));
    match served.run() {
        Step::Done => served.now_ms,
        step => panic!("{step:?}"),
    }
}

#[track_caller]
fn fails(body: &str) -> String {
    failure(Served::new(&handler(body)).run()).message
}

#[test]
fn functions_wait_at_once_and_their_results_keep_their_order() {
    let body = "
        local results = tide.parallel{
            function() tide.sleep(300) return 'a', 'dropped' end,
            function() tide.sleep(100) end,
            function() return 'c' end,
        }
        assert(results[1] == 'a' and results[2] == nil and results[3] == 'c' and results.n == 3)
        assert(#tide.parallel({}) == 0 and tide.parallel({}).n == 0)";
    assert_eq!(passes(body), 300);
}

#[test]
fn a_list_is_worked_off_by_so_many_at_once() {
    let body = "
        local running, most = 0, 0
        local results = tide.parallel({ 10, 20, 30, 40, 50, 60, 70, 80 }, function(value, index)
            running = running + 1
            most = math.max(most, running)
            tide.sleep(100)
            running = running - 1
            return value + index
        end, { concurrency = 4 })
        assert(most == 4 and #results == 8)
        for index = 1, 8 do assert(results[index] == 11 * index) end";
    assert_eq!(passes(body), 200);
}

#[test]
fn a_long_list_makes_no_more_coroutines_than_run() {
    let body = "
        local running, most, list = 0, 0, {}
        for index = 1, 10000 do list[index] = index end
        local results = tide.parallel(list, function(value)
            running = running + 1
            most = math.max(most, running)
            tide.sleep(1)
            running = running - 1
            return value
        end)
        assert(most == 64 and results.n == 10000 and results[9999] == 9999)";
    passes(body);
}

#[test]
fn many_begin_in_parts_and_other_calls_have_their_turn_between() {
    let body = "
        local list = {}
        for index = 1, 1000 do list[index] = index end
        local running, most = 0, 0
        local results = tide.parallel(list, function(value)
            running = running + 1
            most = math.max(most, running)
            tide.sleep(100)
            running = running - 1
            return value
        end, { concurrency = 1000 })
        assert(most == 1000 and results.n == 1000 and results[999] == 999)";
    let mut served = Served::new(&handler(body));
    let mut step = served.f.run();
    let mut slices = 0;
    while let Step::Waits(call, waits) = step {
        assert!(waits.begun.len() <= 65, "{}", waits.begun.len());
        slices += usize::from(!waits.begun.is_empty());
        served.begin(waits);
        let (wait, answer) = served.next();
        step = served.f.vm.resume(&served.f.pulse, call, wait, answer);
    }
    assert!(matches!(step, Step::Done), "{step:?}");
    assert_eq!((slices, served.now_ms), (16, 100));
}

#[test]
fn a_failure_during_the_pause_gives_it_up() {
    let body = "
        local list = {}
        for index = 1, 100 do list[index] = index end
        local begun = 0
        local ok, reason = pcall(tide.parallel, list, function(value)
            begun = begun + 1
            if value == 1 then tide.sleep(0) error('first') end
            tide.sleep(100)
        end, { concurrency = 100 })
        assert(not ok and reason:find('first'), reason)
        assert(begun == 64, begun)
        tide.sleep(1)";
    assert_eq!(passes(body), 1);
}

#[test]
fn it_nests_and_passes_through_coroutines_and_pcall() {
    let body = "
        local results = tide.parallel({ 1, 2, 3 }, function(outer)
            local wrapped = coroutine.wrap(function()
                return tide.parallel({ 1, 2, 3 }, function(inner)
                    assert(pcall(tide.sleep, 30))
                    return 10 * outer + inner
                end)
            end)
            return wrapped()
        end)
        for outer = 1, 3 do
            for inner = 1, 3 do assert(results[outer][inner] == 10 * outer + inner) end
        end";
    assert_eq!(passes(body), 30);
}

#[test]
fn the_first_error_closes_the_others_and_gives_up_their_waits() {
    let body = "
        local closed = 0
        local function wait_for_ever()
            local guard <close> = setmetatable({}, { __close = function() closed = closed + 1 end })
            coroutine.wrap(function()
                local inner <close> = setmetatable({}, { __close = function() closed = closed + 1 end })
                tide.sleep(1e6)
            end)()
        end
        local ok, err = pcall(tide.parallel, {
            wait_for_ever,
            function() tide.sleep(10) error({ code = 7 }) end,
            function() tide.echo.stubborn() end,
            wait_for_ever,
        })
        assert(not ok and err.code == 7, err)
        assert(closed >= 2, closed)
        tide.sleep(5)";
    let mut served = Served::new(&handler(body));
    let call = served.begun();
    assert_eq!((served.sleeps.len(), served.outside.len()), (3, 1));
    // The outside never answers: the sleep of 10 ms is next.
    let at = served
        .sleeps
        .iter()
        .position(|(due, _)| *due == 10)
        .unwrap();
    let (_, id) = served.sleeps.remove(at);
    let step = served.f.vm.resume(&served.f.pulse, call, id, Answer::Slept);
    let Step::Waits(_, waits) = step else {
        panic!("{step:?}");
    };
    assert_eq!((waits.begun.len(), waits.given_up.len()), (1, 3));
    served.begin(waits);
    assert_eq!((served.sleeps.len(), served.outside.len()), (1, 0));
    let (id, answer) = served.next();
    let step = served.f.vm.resume(&served.f.pulse, call, id, answer);
    assert!(matches!(step, Step::Done), "{step:?}");
}

#[test]
fn a_wait_that_no_host_has_begun_vanishes_with_its_function() {
    let body = "
        local ok, err = pcall(tide.parallel, { function() tide.sleep(1e6) end, function() error('no') end })
        assert(not ok and err:find('no'), err)
        local nothing <close> = setmetatable({}, { __close = function() end })";
    assert_eq!(passes(body), 0);
}

#[test]
fn wrong_arguments_are_named() {
    for (arguments, expected) in [
        (
            "",
            "takes a list of functions, or a list and a function, not nil",
        ),
        ("{ 1 }", "takes a list of functions; value 1 is a number"),
        ("{}, 'each'", "is a function for each value, not a string"),
        (
            "{}, print, 8",
            "takes options as a table, as `{ concurrency = 8 }`, not a number",
        ),
        (
            "{}, print, { concurency = 8 }",
            "knows no `concurency`, did you mean `concurrency`?",
        ),
        ("{}, print, { concurrency = 0 }", "is an integer from 1"),
        ("{}, print, { concurrency = 1.5 }", "is an integer from 1"),
        ("{}, print, { 8 }", "have names as keys, not a number"),
        (
            "{ coroutine.yield }",
            "attempt to yield from a function of `tide.parallel`",
        ),
    ] {
        let message = fails(&format!("tide.parallel({arguments})"));
        assert!(message.contains(expected), "{arguments}: {message}");
    }
    let message = fails("table.sort({ 2, 1 }, function() tide.parallel{} end)");
    assert!(
        message.contains("`tide.parallel` waits, which cannot be done inside"),
        "{message}"
    );
}

#[test]
fn a_function_that_computes_for_too_long_ends_the_call() {
    let setup = handler(
        "tide.parallel{ function() tide.sleep(1) while true do end end, function() tide.sleep(1e6) end }",
    );
    let mut served = Served::new(&Setup {
        blocking: Duration::from_millis(50),
        ..setup
    });
    let failure = failure(served.run());
    assert_eq!(failure.kind, FailureKind::Blocking, "{failure:?}");
}

#[test]
fn a_verdict_within_ends_the_call() {
    let mut served = Served::new(&handler(
        "tide.parallel{ function() tide.sleep(1e6) end, function() tide.sleep(1) ctx.skip('enough') end } error('never')",
    ));
    assert!(matches!(served.run(), Step::Asked(_)));
}

#[test]
fn values_come_back_from_outside_as_they_went() {
    passes(
        r"
        local function same(a, b)
            if type(a) ~= 'table' then return math.type(a) == math.type(b) and a == b end
            for key, value in pairs(a) do if not same(value, b[key]) then return false end end
            for key in pairs(b) do if a[key] == nil then return false end end
            return true
        end
        local value = { 'bin\0\255', 2^53 + 1, math.mininteger, 0.5, true, { deep = { 1, 2, 3 } }, null = tide.json.null }
        assert(same(value, tide.echo.later(value)))
        assert(same(value, coroutine.wrap(function() return tide.echo.later(value, 5) end)()))
        assert(tide.echo.later() == nil)",
    );
}

#[test]
fn an_error_of_outside_is_a_table_with_a_kind() {
    passes(
        "local ok, err = pcall(function() tide.echo.fault() end)
        assert(not ok and err.kind == 'timeout', tostring(err))
        assert(tostring(err):find('^handlers/h.lua:2: no answer within 10 ms'), tostring(err))",
    );
    assert!(fails("tide.echo.fault()").starts_with("handlers/h.lua:2: no answer"));
    assert!(fails("tide.echo.later(print)").contains("argument 1: a function cannot be copied"));
    assert!(fails("tide.echo.later(1, -1)").contains("as an integer from 0"));
}

#[test]
fn a_panic_in_a_module_is_an_error_of_that_call() {
    for outside in ["true", "false"] {
        let message = fails(&format!("tide.echo.panic({outside})"));
        assert!(
            message.contains("a bug of Moontide"),
            "{outside}: {message}"
        );
    }
}

#[test]
fn a_call_that_is_given_up_tells_its_work_and_closes_what_it_has_open() {
    let body = "
        local function guard(name)
            return setmetatable({}, { __close = function() print(name) app.setAttr(name, true) end })
        end
        tide.parallel{
            function() local a <close> = guard('a') tide.echo.later(1, 3600000) end,
            function() coroutine.wrap(function() local b <close> = guard('b') tide.echo.later(1, 3600000) end)() end,
            function() tide.parallel{ function() local c <close> = guard('c') tide.echo.later(1, 3600000) end } end,
        }";
    let setup = handler(&format!("local app = tide.app\n{body}"));
    let mut served = Served::new(&setup);
    let call = served.begun();
    assert_eq!(served.app.outside.snapshot().open, 3);
    served.f.vm.cancel(call);
    for name in ["a", "b", "c"] {
        let closed = served.app.get(name.as_bytes());
        assert_eq!(closed.as_deref(), Some(&Value::Boolean(true)), "{name}");
    }
    served.outside.clear();
    assert!(served.app.outside.drain(Instant::now() + SOON));
    let snapshot = served.app.outside.snapshot();
    assert_eq!((snapshot.told, snapshot.dropped), (3, 0));
}

#[test]
fn memory_that_ends_while_an_answer_lands_is_an_error_of_that_call() {
    let setup = handler(
        "local big = tide.echo.later(('x'):rep(1 << 20))
        local list = {}
        for index = 1, 64 do list[index] = tide.echo.later(big) end",
    );
    let mut served = Served::new(&Setup {
        memory: 16 << 20,
        ..setup
    });
    let failure = failure(served.run());
    assert_eq!(failure.kind, FailureKind::Memory, "{failure:?}");
}

#[test]
fn functions_of_init_wait_for_everything_that_handlers_do() {
    let init = "
        local tide = require 'tide'
        local function start()
            local results = tide.parallel({ 1, 2, 3 }, function(value)
                tide.sleep(5)
                return tide.echo.later(value, 5)
            end)
            assert(results[1] == 1 and results[3] == 3)
        end
        return { start = start }";
    let mut f = Setup::new()
        .file("init.lua", init)
        .file("h.lua", "return function() end")
        .handler("h")
        .build();
    f.vm.start(&f.pulse).unwrap();
}
