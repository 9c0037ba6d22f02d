//! `tide.once`: one run a key over VMs, and the calls that wait for it.

use super::*;
use crate::lua::FailureKind;

#[test]
fn a_function_runs_once_and_its_result_is_recorded() {
    passes(
        "local runs = 0
        local function run() runs = runs + 1 return { n = runs } end
        local ran, result = tide.once('k', '1h', run)
        assert(ran == true and result.n == 1)
        ran, result = tide.once('k', '1h', run)
        assert(ran == false and result.n == 1 and runs == 1)
        -- Another store has other keys, and its own entries are not those of `once`.
        local kv = tide.kv('sessions')
        assert(tide.once('k', 1000, run, { store = kv }) == true and runs == 2)
        assert(kv:get('k') == nil and kv:get('once:k').n == 2)
        -- nil is a result.
        assert(tide.once('nil', 1000, function() end) == true)
        ran, result = tide.once('nil', 1000, error)
        assert(ran == false and result == nil)",
    );
}

#[test]
fn an_error_is_not_recorded() {
    passes(
        "local ok, err = pcall(tide.once, 'k', '1h', function() error('no', 0) end)
        assert(not ok and err == 'no')
        ok, err = pcall(tide.once, 'k', '1h', function() tide.sleep(1) error('late', 0) end)
        assert(not ok and err == 'late')
        ok, err = pcall(tide.once, 'k', '1h', function() return print end)
        assert(not ok and err.kind == 'invalid')
        assert(tide.once('k', '1h', function() tide.sleep(1) return 1 end) == true)
        assert(tide.once('k', '1h', error) == false)",
    );
}

#[test]
fn calls_of_several_vms_wait_for_one_run() {
    let body = "
        local ran, result = tide.once('k', '1h', function()
          add('runs')
          tide.sleep(1)
          tide.parallel{ function() tide.sleep(1) end, function() tide.sleep(1) end }
          return 'r'
        end)
        assert(result == 'r')
        if ran then add('ran') end";
    let mut crowd = Crowd::new(&counting("", body), 2);
    for offset in 0..100 {
        crowd.start(offset as usize % 2, offset);
    }
    assert_eq!(
        crowd.outside.len(),
        99,
        "one leads, and the others wait outside"
    );
    crowd.run();
    crowd.all_done(100);
    assert_eq!((crowd.count("runs"), crowd.count("ran")), (1, 1));
}

/// The first call leads and sleeps. It ends as `end` does; then the others have one run more.
fn passes_on(body: &str, end: impl FnOnce(&mut Crowd, Option<CallId>), failed: usize) {
    let mut crowd = Crowd::new(&counting("", body), 2);
    let leader = crowd.start(0, 0);
    for offset in 1..10 {
        crowd.start(offset as usize % 2, offset);
    }
    // Of two that come after each other, one is given up, too.
    let gone = crowd.start(1, 10).expect("it waits");
    crowd.cancel(1, gone);
    end(&mut crowd, leader);
    crowd.run();
    let reasons: Vec<_> = crowd
        .ended
        .iter()
        .filter(|(_, reason)| reason.is_some())
        .collect();
    assert_eq!(reasons.len(), failed, "{reasons:?}");
    assert_eq!(crowd.leases(), 0);
    assert_eq!(crowd.count("runs"), 2);
    assert_eq!(crowd.count("done"), 9);
}

#[test]
fn a_leader_that_is_given_up_lets_the_next_lead() {
    let body = "
        tide.once('k', '1h', function() add('runs') tide.sleep(1) return 1 end)
        add('done')";
    passes_on(body, |crowd, leader| crowd.cancel(0, leader.unwrap()), 0);
}

#[test]
fn a_leader_that_raises_lets_the_next_lead() {
    let body = "
        tide.once('k', '1h', function()
          add('runs')
          tide.sleep(1)
          if message.offset == 0 then error('no', 0) end
          return 1
        end)
        add('done')";
    passes_on(body, |_, _| {}, 1);
}

#[test]
fn a_leader_whose_sibling_fails_lets_the_next_lead() {
    let body = "
        local function once() tide.once('k', '1h', function() add('runs') tide.sleep(1) return 1 end) end
        if message.offset > 0 then once() add('done') return end
        tide.parallel{ once, function() tide.sleep(1) error('no', 0) end }";
    // Its own sleep comes first, and then it would land; the error of the sibling comes before.
    let end = |crowd: &mut Crowd, _| {
        crowd.sleeps.swap(0, 1);
    };
    passes_on(body, end, 1);
}

#[test]
fn a_leader_that_computes_too_long_lets_the_next_lead() {
    let body = "
        tide.once('k', '1h', function()
          add('runs')
          tide.sleep(1)
          if message.offset == 0 then while true do end end
          return 1
        end)
        add('done')";
    let mut setup = counting("", body);
    setup.blocking = Duration::from_millis(50);
    let mut crowd = Crowd::new(&setup, 2);
    let leader = crowd.start(0, 0).unwrap();
    crowd.start(1, 1);
    let waiting = crowd.sleeps.pop_front().unwrap();
    crowd.calls.remove(&(0, leader));
    let step = crowd.vms[0].resume(&crowd.pulse, leader, waiting.2, Answer::Slept);
    assert_eq!(failure(step).kind, FailureKind::Blocking);
    crowd.run();
    crowd.all_done(1);
    assert_eq!(crowd.count("done"), 1);
}

#[test]
fn the_end_of_a_vm_lets_the_next_lead() {
    let body = "
        tide.once('k', '1h', function() add('runs') tide.sleep(1) return 1 end)
        add('done')";
    let mut crowd = Crowd::new(&counting("", body), 2);
    crowd.start(1, 0);
    crowd.start(0, 1);
    crowd.forget(|(vm, _, _)| *vm == 1);
    crowd.calls.retain(|(vm, _), _| *vm == 0);
    drop(crowd.vms.pop());
    crowd.run();
    crowd.all_done(1);
    assert_eq!(crowd.count("runs"), 2);
}

#[test]
fn a_coroutine_that_is_left_gives_the_lead_back_with_its_call() {
    let body = "
        if message.offset == 0 then
          left = coroutine.wrap(function() tide.once('k', '1h', function() coroutine.yield() end) end)
          left()
        else
          assert(tide.once('k', '1h', function() return 1 end) == true)
        end";
    let mut crowd = Crowd::new(&counting("", body), 1);
    crowd.start(0, 0);
    crowd.start(0, 1);
    crowd.run();
    crowd.all_done(2);
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (body, expected) in [
        (
            "tide.once()",
            " takes a key, which is a string, not no value",
        ),
        (
            "tide.once('k', 'soon', print)",
            " takes the time for which a result is kept, milliseconds or a string such as \"300ms\", \"1.5s\", \"5m\", \"1h\" or \"1d\", not \"soon\"",
        ),
        (
            "tide.once('k', 0, print)",
            " keeps a result for 1 ms to 10 years, not for 0ms",
        ),
        (
            "tide.once('k', 1, 2)",
            " takes a function to run, not a number",
        ),
        (
            "tide.once('k', 1, print, { stor = 1 })",
            " knows no option `stor`, did you mean `store`?",
        ),
        (
            "tide.once('k', 1, print, { store = {} })",
            ": `store` is a store of `tide.kv`, not a table",
        ),
    ] {
        let expected = format!("handlers/h.lua:6: `tide.once`{expected}");
        assert_eq!(error(body), expected.replace("not no value", "not nil"));
    }
}
