//! Deferred messages, by a virtual clock; the test is the log from which they are fetched again.

use super::*;
use crate::assignment::{Observed, Order};
use crate::kafka::refetch::News;
use crate::lua::control::observers::PartitionEvent;
use crate::wait::Value;

const SECOND: Duration = Duration::from_secs(1);

/// Notes each run in `app`: `a1` is the first attempt of `a`. `body` is the handler behind that, and `top` the top level
/// of its file, where `kept` is a table for deferrals by value.
fn handler(top: &str, body: &str) -> String {
    format!(
        r#"
        local tide = require("tide")
        local kept = {{}}
        local function note(text)
          tide.app.setAttr("notes", (tide.app.getAttr("notes") or "") .. text .. " ")
        end
        {top}
        return function(message, ctx)
          note(message.value .. ctx.attempt)
          {body}
        end
        "#
    )
}

fn fixture(listener: &str, top: &str, body: &str) -> Fixture {
    Fixture::new(listener, &handler(top, body))
}

impl Fixture {
    fn noted(&self) -> String {
        let notes = self.worker.app.get(b"notes");
        match notes.as_deref() {
            Some(Value::Bytes(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
            _ => String::new(),
        }
    }

    /// Answers what is asked for from the log, where the message at each offset has that offset as value. Returns the
    /// offsets.
    fn fetch(&mut self, is_there: impl Fn(i64) -> bool) -> Vec<i64> {
        let mut all = Vec::new();
        for wanted in self.partition.refetch.take_asked() {
            let message = |offset: i64| {
                Message::of(OwnedRecord {
                    offset,
                    timestamp_ms: NOON_MS,
                    value: Some(offset.to_string().as_bytes().into()),
                    ..OwnedRecord::default()
                })
            };
            let found = wanted.offsets.iter().copied();
            let found = found.map(|offset| (offset, is_there(offset).then(|| message(offset))));
            (wanted.tell)(News::Found(found.collect()));
            all.extend(wanted.offsets);
        }
        all
    }

    /// `send` with the offsets of the messages as their values.
    fn send_numbered(&mut self, count: u64) {
        let values: Vec<_> = (self.sent..self.sent + count)
            .map(|one| one.to_string())
            .collect();
        self.send(&values.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn shown(&self) -> Option<String> {
        Some(self.partition.blocked()?.error)
    }

    /// Another VM of the same bundle takes over.
    fn swap(&mut self) {
        let bundle = self.worker.engine.bundle().clone();
        let pulse = self.watchdog.watch_current_thread("test");
        let vm = Vm::build(&bundle, &self.worker.app, &pulse);
        let vm = vm.unwrap_or_else(|error| panic!("{error}"));
        let (done, _) = std::sync::mpsc::channel();
        self.letters.push(ToWorker::Swap {
            bundle,
            vm: Box::new(vm),
            done,
        });
    }
}

const KEEP: &str = "kept[message.value] = ctx.defer{ timeout = '1m' }";

#[test]
fn the_lane_goes_on_and_a_timer_finishes_what_is_deferred() {
    let mut fixture = fixture(
        "",
        "tide.every('10s', function()
           for _, one in pairs(kept) do assert(one:done() and not one:done()) end
           kept = {}
         end)",
        KEEP,
    );
    fixture.send_numbered(3);
    fixture.pass(9 * SECOND);
    assert_eq!(fixture.noted(), "01 11 21 ");
    assert_eq!(fixture.moved, [0, 1, 2].map(Moved::Away));
    assert!(fixture.finished.is_empty());
    let snapshot = fixture.worker.snapshot();
    assert_eq!(snapshot.listeners[0].counts.outcomes.done, 0);
    let deferred = snapshot.partitions[0].deferred.clone().unwrap();
    assert_eq!((deferred.messages, deferred.offset), (3, 0));
    assert!(deferred.holds_position);
    assert_eq!(deferred.at, "handlers/orders.lua:13");
    fixture.pass(2 * SECOND);
    assert_eq!(fixture.finished.len(), 3);
    let snapshot = fixture.worker.snapshot();
    assert_eq!(snapshot.listeners[0].counts.outcomes.done, 3);
    assert_eq!(snapshot.partitions[0].outcomes.done, 3);
    assert_eq!(snapshot.partitions[0].deferred, None);
    assert!(fixture.partition.refetch.take_asked().is_empty());
}

/// A message in the middle is done: those beyond the lowest unfinished one are reported all the same.
#[test]
fn messages_finish_in_any_order() {
    let mut fixture = fixture(
        "",
        "",
        "if message.value == '0' then kept[1] = ctx.defer() end
         if message.value == '2' then kept[1]:done() end",
    );
    fixture.send_numbered(3);
    fixture.finish();
    assert_eq!(fixture.finished, [1, 2, 0]);
    assert_eq!(fixture.moved, [Moved::Away(0)]);
}

#[test]
fn without_an_answer_in_time_the_attempt_has_failed() {
    let mut fixture = fixture(
        "retry = { initialDelay = \"5s\", jitter = 0.0 }",
        "",
        "if ctx.attempt == 1 and message.value == '1' then kept[1] = ctx.defer{ timeout = '30s' } end",
    );
    fixture.send_numbered(3);
    fixture.pass(29 * SECOND);
    assert_eq!(fixture.finished, [0, 2]);
    assert!(fixture.fetch(|_| true).is_empty());
    fixture.pass(2 * SECOND);
    assert_eq!(fixture.fetch(|_| true), [1]);
    fixture.pass(SECOND);
    let shown = fixture.shown().unwrap();
    assert_eq!(
        shown,
        "handlers/orders.lua:10: neither `done` nor `fail` came within 30s after the handler had returned; raise \
         `timeout` of `ctx.defer`, or finish the message earlier"
    );
    assert_eq!(fixture.moved, [Moved::Away(1), Moved::Again(1)]);
    assert_eq!(fixture.noted(), "01 11 21 ");
    fixture.pass(5 * SECOND);
    assert_eq!(fixture.noted(), "01 11 21 12 ");
    assert_eq!((fixture.finished.len(), fixture.shown()), (3, None));
}

/// The default time-out is that of a call.
#[test]
fn the_time_of_a_call_is_that_of_a_deferral() {
    let mut fixture = fixture(
        "limits = { timeout = \"2m\" }",
        "",
        "if ctx.attempt == 1 then kept[1] = ctx.defer() end",
    );
    fixture.send_numbered(1);
    fixture.pass(119 * SECOND);
    assert!(fixture.fetch(|_| true).is_empty());
    fixture.pass(2 * SECOND);
    assert_eq!(fixture.fetch(|_| true), [0]);
}

#[test]
fn one_that_has_failed_follows_the_policy_with_its_reason() {
    let mut fixture = fixture(
        "onError = \"skip\"\nretry = { attempts = 2, initialDelay = \"1s\", jitter = 0.0 }",
        "",
        "local later = ctx.defer()
         kept[message.value] = later
         if message.value == '1' then
           assert(kept['0']:fail('no room'))
           assert(not kept['0']:fail() and not kept['0']:done())
           later:done()
         end",
    );
    fixture.send_numbered(2);
    fixture.pass(SECOND);
    assert_eq!(fixture.finished, [1]);
    assert_eq!(fixture.fetch(|_| true), [0]);
    fixture.turn();
    assert_eq!(fixture.shown().as_deref(), Some("no room"));
    fixture.pass(2 * SECOND);
    assert_eq!(fixture.noted(), "01 11 02 ");
    // The second attempt is deferred too, for five minutes.
    fixture.pass(300 * SECOND);
    assert_eq!(fixture.fetch(|_| true), [0]);
    fixture.pass(SECOND);
    assert_eq!(fixture.finished, [1, 0]);
    let outcomes = fixture.worker.snapshot().listeners[0].counts.outcomes;
    assert_eq!((outcomes.done, outcomes.skipped), (1, 1));
    assert_eq!(fixture.worker.snapshot().listeners[0].counts.failures, 2);
}

#[test]
fn an_object_that_lua_collects_has_failed() {
    let mut fixture = fixture(
        "",
        "",
        "if message.value == '0' and ctx.attempt == 1 then ctx.defer() else collectgarbage() end",
    );
    fixture.send_numbered(2);
    fixture.pass(SECOND);
    assert_eq!(fixture.fetch(|_| true), [0]);
    fixture.turn();
    let shown = fixture.shown().unwrap();
    assert!(
        shown.starts_with("handlers/orders.lua:10: Lua collected the object"),
        "{shown}"
    );
    fixture.pass(60 * SECOND);
    assert_eq!(fixture.noted(), "01 11 02 ");
    assert_eq!(fixture.finished, [1, 0]);
}

/// In a partition that is one lane, what comes later does not wait for it.
#[test]
fn a_deferred_message_runs_again_beside_its_lane() {
    let mut fixture = fixture(
        "retry = { initialDelay = \"1h\", maxDelay = \"1h\", jitter = 0.0 }",
        "",
        "if message.value == '0' and ctx.attempt == 1 then kept[1] = ctx.defer{ timeout = '1s' } end",
    );
    fixture.send_numbered(1);
    fixture.pass(2 * SECOND);
    assert_eq!(fixture.fetch(|_| true), [0]);
    fixture.pass(SECOND);
    fixture.send_numbered(2);
    fixture.pass(SECOND);
    assert_eq!(fixture.finished, [1, 2]);
    fixture.pass(3600 * SECOND);
    assert_eq!(fixture.finished, [1, 2, 0]);
}

#[test]
fn a_partition_with_too_many_deferred_messages_waits_and_says_so() {
    let mut fixture = fixture(
        "maxDeferred = 2",
        "tide.every('10s', function() local key = next(kept) kept[key]:done() kept[key] = nil end)",
        KEEP,
    );
    fixture.send_numbered(4);
    fixture.pass(9 * SECOND);
    assert_eq!(fixture.noted(), "01 11 ");
    let shown = fixture.shown().unwrap();
    assert!(
        shown.starts_with("2 messages are deferred (maxDeferred): no call begins"),
        "{shown}"
    );
    assert!(shown.ends_with("handlers/orders.lua:10"), "{shown}");
    fixture.pass(2 * SECOND);
    assert_eq!(fixture.noted(), "01 11 21 ");
    assert_eq!(fixture.finished.len(), 1);
    fixture.finish();
    fixture.pass(SECOND);
    assert_eq!(fixture.shown(), None);
}

#[test]
fn a_vm_that_ends_loses_no_attempt_of_what_it_deferred() {
    let mut fixture = fixture(
        "",
        "",
        "if message.value == '0' and not tide.app.getAttr('again') then
           kept[1] = ctx.defer{ timeout = '1h' }
           tide.app.setAttr('again', true)
         end",
    );
    fixture.send_numbered(2);
    fixture.pass(SECOND);
    fixture.swap();
    fixture.pass(SECOND);
    assert_eq!(fixture.fetch(|_| true), [0]);
    fixture.pass(SECOND);
    assert_eq!(fixture.noted(), "01 11 01 ");
    assert_eq!(fixture.finished, [1, 0]);
    assert_eq!(fixture.worker.snapshot().listeners[0].counts.failures, 0);
}

/// A call that computes for too long ends its VM, and not the deferrals of others.
#[test]
fn a_vm_that_a_limit_ends_loses_no_attempt_of_what_it_deferred() {
    let mut fixture = fixture(
        "limits = { blocking = \"50ms\" }\nordering = \"none\"\n\
         retry = { initialDelay = \"1s\", jitter = 0.0 }",
        "",
        "if message.value == '0' and not tide.app.getAttr('again') then
           kept[1] = ctx.defer{ timeout = '1h' }
           tide.app.setAttr('again', true)
         end
         if message.value == '1' and ctx.attempt == 1 then while true do end end",
    );
    fixture.send_numbered(2);
    fixture.pass(SECOND / 2);
    assert_eq!(fixture.fetch(|_| true), [0]);
    fixture.pass(SECOND);
    assert_eq!(fixture.noted(), "01 11 01 12 ");
    assert_eq!(fixture.finished, [0, 1]);
    assert_eq!(fixture.worker.snapshot().vms_replaced, 1);
}

#[test]
fn a_call_that_waits_in_the_old_vm_may_still_finish_what_it_deferred() {
    let mut fixture = fixture(
        "ordering = \"none\"",
        "",
        "if message.value == '0' then kept[1] = ctx.defer{ timeout = '1h' } return end
         tide.sleep('10s')
         assert(kept[1]:done())",
    );
    fixture.send_numbered(2);
    fixture.pass(SECOND);
    fixture.swap();
    fixture.pass(11 * SECOND);
    assert!(fixture.fetch(|_| true).is_empty());
    assert_eq!(fixture.finished.len(), 2);
}

#[test]
fn a_message_that_the_log_has_lost_is_skipped() {
    let mut fixture = fixture("", "", "kept[1] = ctx.defer{ timeout = '1s' }");
    fixture.send_numbered(1);
    fixture.pass(2 * SECOND);
    assert_eq!(fixture.fetch(|_| false), [0]);
    fixture.pass(SECOND);
    assert_eq!(fixture.finished, [0]);
    assert_eq!(fixture.moved, [Moved::Away(0), Moved::Lost(0)]);
    let outcomes = fixture.worker.snapshot().partitions[0].outcomes;
    assert_eq!((outcomes.done, outcomes.skipped), (0, 1));
}

#[test]
fn a_handler_that_raises_has_deferred_nothing() {
    let mut fixture = fixture(
        "retry = { initialDelay = \"1s\", jitter = 0.0 }",
        "",
        "if ctx.attempt == 1 then
           kept[1] = ctx.defer()
           error('no')
         end
         assert(not kept[1]:done())",
    );
    fixture.send_numbered(1);
    fixture.finish();
    assert_eq!(fixture.noted(), "01 02 ");
    assert!(fixture.moved.is_empty());
    assert_eq!(fixture.worker.snapshot().listeners[0].counts.failures, 1);
}

#[test]
fn a_deferral_that_is_done_before_its_handler_returns_is_none() {
    let mut fixture = fixture(
        "onError = \"skip\"\nretry = { attempts = 1 }",
        "",
        "local later = ctx.defer()
         if message.value == '0' then later:done() else later:fail('no') end",
    );
    fixture.send_numbered(2);
    fixture.finish();
    assert!(fixture.moved.is_empty());
    let outcomes = fixture.worker.snapshot().listeners[0].counts.outcomes;
    assert_eq!((outcomes.done, outcomes.skipped), (1, 1));
}

#[test]
fn a_partition_that_goes_gives_its_deferred_messages_up() {
    let mut fixture = fixture(
        "",
        "tide.every('5s', function() note(tostring(kept['0']:done())) end)",
        KEEP,
    );
    fixture.send_numbered(1);
    fixture.pass(SECOND);
    fixture.partition.end();
    let partition = fixture.partition.clone();
    fixture.letters.push(ToWorker::Release(partition));
    fixture.pass(SECOND);
    assert!(fixture.is_drained);
    fixture.pass(4 * SECOND);
    assert_eq!(fixture.noted(), "01 false ");
    assert!(fixture.finished.is_empty() && fixture.fetch(|_| true).is_empty());
}

/// The last commit waits for the observers, so what they finish is committed.
#[test]
fn an_observer_of_the_revocation_may_finish_deferred_messages() {
    let mut fixture = fixture(
        "",
        "tide.on('revoked', function() tide.sleep('1s') assert(kept['0']:done()) end)
         tide.every('20s', function() note(tostring(kept['1']:done())) end)",
        KEEP,
    );
    fixture.send_numbered(2);
    fixture.pass(SECOND);
    let now = fixture.worker.clock.now();
    fixture.letters.push(ToWorker::Observe(Arc::new(Observed {
        id: 7,
        event: PartitionEvent::Revoked,
        argument: Arc::new(Value::Table(Vec::new())),
        epochs: vec![fixture.partition.epoch],
        begins_at: now + 5 * SECOND,
        ends_at: now + 10 * SECOND,
        inbox: Some(fixture.partition.inbox.clone()),
    })));
    fixture.partition.end();
    let partition = fixture.partition.clone();
    fixture.letters.push(ToWorker::Release(partition));
    while fixture.observed == 0 {
        fixture.pass(SECOND / 10);
    }
    assert_eq!(fixture.finished, [0]);
    assert!(fixture.is_drained);
    fixture.pass(20 * SECOND);
    assert_eq!(fixture.noted(), "01 11 false ");
}

#[test]
fn an_operator_skips_a_deferred_message() {
    let mut fixture = fixture("", "", KEEP);
    fixture.send_numbered(2);
    fixture.pass(SECOND);
    let (reply, answers) = std::sync::mpsc::channel();
    fixture.letters.push(ToWorker::Order(Order::Skip {
        message: crate::assignment::Handle {
            topic: "orders".to_owned(),
            partition: 0,
            offset: 1,
        },
        listener: None,
        dead_letter: false,
        reason: "known".to_owned(),
        reply,
    }));
    fixture.pass(SECOND);
    let answer = answers.try_recv().unwrap();
    assert_eq!(
        answer.as_deref(),
        Ok("message 1 of orders[0] is skipped in listener `orders`")
    );
    assert_eq!(fixture.finished, [1]);
    let outcomes = fixture.worker.snapshot().partitions[0].outcomes;
    assert_eq!((outcomes.done, outcomes.skipped), (0, 1));
}

/// Its handler does not request the commit: without a wait it is kept until the message is done.
#[test]
fn a_commit_by_hand_is_requested_as_ever() {
    let mut fixture = fixture(
        "runConfig = { autoCommit = false }",
        "",
        "if message.value == '0' then kept[1] = ctx.defer() end
         ctx.commitOffsets(message.offset + 1, { wait = false })
         if message.value == '2' then kept[1]:done() end",
    );
    fixture.send_numbered(3);
    fixture.finish();
    assert_eq!(fixture.asked.last(), Some(&3));
    assert_eq!(fixture.moved, [Moved::Away(0)]);
}
