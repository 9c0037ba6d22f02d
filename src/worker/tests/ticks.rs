//! Ticks of a worker, by a virtual clock.

use super::*;
use crate::telemetry::metrics::TickCounts;

/// A listener whose file has `timers` at its top level.
fn fixture(timers: &str) -> Fixture {
    let handler = format!("local tide = require \"tide\"\n{timers}\nreturn function() end");
    Fixture::new("", &handler)
}

impl Fixture {
    /// The counts of the one timer.
    #[track_caller]
    fn counts(&self) -> TickCounts {
        let timers = self.worker.snapshot().timers;
        assert_eq!(timers.len(), 1, "{timers:?}");
        assert_eq!(&*timers[0].timer, "handlers/orders.lua:2");
        timers[0].counts
    }
}

fn counts(done: u64, failed: u64, missed: u64) -> TickCounts {
    TickCounts {
        done,
        failed,
        missed,
    }
}

#[test]
fn a_tick_comes_once_a_period() {
    let mut fixture = fixture("tide.every('10s', function() end)");
    fixture.pass(Duration::from_secs(9));
    assert_eq!(fixture.counts(), counts(0, 0, 0));
    fixture.pass(Duration::from_secs(91));
    assert_eq!(fixture.counts(), counts(10, 0, 0));
}

#[test]
fn a_timer_of_one_tick_has_one() {
    let mut fixture = fixture("tide.after('10s', function() end)");
    fixture.pass(Duration::from_secs(100));
    assert_eq!(fixture.counts(), counts(1, 0, 0));
}

#[test]
fn a_tick_that_is_due_while_the_last_one_waits_is_missed() {
    let mut fixture = fixture("tide.every('10s', function() tide.sleep('25s') end)");
    fixture.pass(Duration::from_secs(36));
    assert_eq!(fixture.counts(), counts(1, 0, 2));
    fixture.pass(Duration::from_secs(30));
    assert_eq!(fixture.counts(), counts(2, 0, 4));
}

#[test]
fn a_failed_tick_is_counted_and_the_next_one_comes() {
    let mut fixture = fixture(
        "local n = 0 tide.every('10s', function() n = n + 1 if n == 2 then error('boom') end end)",
    );
    fixture.pass(Duration::from_secs(30));
    assert_eq!(fixture.counts(), counts(2, 1, 0));
}

#[test]
fn a_tick_that_waits_too_long_is_given_up() {
    let mut fixture = fixture("tide.every('10m', function() tide.sleep('1h') end)");
    fixture.pass(Duration::from_secs(10 * 60 + 299));
    assert_eq!(fixture.counts(), counts(0, 0, 0));
    fixture.pass(Duration::from_secs(2));
    assert_eq!(fixture.counts(), counts(0, 1, 0));
    fixture.pass(Duration::from_secs(10 * 60));
    assert_eq!(fixture.counts(), counts(0, 2, 0));
}

#[test]
fn a_tick_cancels_its_timer() {
    let mut fixture = fixture("local t t = tide.every('10s', function() t.cancel() end)");
    fixture.pass(Duration::from_secs(100));
    assert_eq!(fixture.counts(), counts(1, 0, 0));
}

#[test]
fn a_tick_that_computes_too_long_costs_the_vm_and_the_timer_goes_on() {
    let mut fixture = fixture(
        "ticks = (ticks or 0) tide.every('10s', function() if not tide.app.getAttr('ran') then tide.app.setAttr('ran', true) while true do end end end)",
    );
    fixture.pass(Duration::from_secs(30));
    assert_eq!(fixture.counts(), counts(2, 1, 0));
    assert_eq!(fixture.worker.snapshot().vms_replaced, 1);
}

/// A handler that has no memory in its first run; `again` is the code of its other runs.
fn without_memory(keys: &str, timers: &str, again: &str) -> Fixture {
    let handler = format!(
        r#"
        local tide = require "tide"
        {timers}
        return function()
          local runs = (tide.app.getAttr("runs") or 0) + 1
          tide.app.setAttr("runs", runs)
          if runs == 1 then
            local all = {{}}
            while true do all[#all + 1] = string.rep("x", 100000) .. #all end
          end
          {again}
        end
        "#
    );
    let keys = format!("{keys}\n[lua]\nmemory = \"16MiB\"");
    Fixture::new(&keys, &handler)
}

/// A failure beside a tick would count against the message that was to run alone.
#[test]
fn no_tick_begins_beside_a_message_that_runs_alone() {
    let timers = "tide.every('10s', function() end)";
    let mut fixture = without_memory("", timers, "tide.sleep('25s')");
    let ticks = |fixture: &Fixture| fixture.worker.snapshot().timers[0].counts;
    fixture.send(&["a"]);
    fixture.pass(Duration::from_secs(24));
    assert_eq!(fixture.worker.snapshot().vms_replaced, 1);
    assert_eq!(ticks(&fixture), counts(0, 0, 0));
    fixture.pass(Duration::from_secs(2));
    assert_eq!(fixture.finished, [0]);
    assert_eq!(ticks(&fixture), counts(1, 0, 1));
}

/// The ticks of the two timers overlap, from 10 s on. The message waits for those that run, and for no other.
#[test]
fn ticks_that_overlap_do_not_put_off_a_message_that_is_to_run_alone() {
    let timers = "tide.every('10s', function() tide.sleep('12s') end)
        tide.every('20s', function() tide.sleep('15s') end)";
    let keys = "retry = { initialDelay = \"31s\", maxDelay = \"31s\", jitter = 0.0 }";
    let mut fixture = without_memory(keys, timers, "if runs == 2 then error('once') end");
    fixture.send(&["a"]);
    assert_eq!(fixture.finish(), Duration::from_secs(42));
}

/// The deadline of a stop gives up the tick that waits; one that ends before is done.
#[test]
fn a_stop_waits_for_ticks_until_its_deadline() {
    for (sleep, expected) in [("5s", counts(1, 0, 0)), ("1h", counts(0, 1, 0))] {
        let mut fixture = fixture(&format!(
            "tide.every('10s', function() tide.sleep('{sleep}') end)"
        ));
        fixture.pass(Duration::from_secs(11));
        let now = fixture.worker.clock.now();
        fixture
            .letters
            .push(ToWorker::EndTicks(now + Duration::from_secs(20)));
        fixture.pass(Duration::from_secs(19));
        let is_done = sleep == "5s";
        assert_eq!(fixture.worker.ticks.is_idle(), is_done);
        // No other has begun meanwhile.
        assert_eq!(fixture.counts(), counts(u64::from(is_done), 0, 0));
        fixture.letters.push(ToWorker::Stop);
        let took = loop {
            match fixture.turn() {
                Turn::Busy => {}
                Turn::Until(at) => fixture.clock.advance_to(at),
                Turn::Stopped => break fixture.worker.clock.since(now),
            }
        };
        assert_eq!(fixture.counts(), expected);
        assert!(took <= Duration::from_secs(20), "{took:?}");
    }
}
