//! Batches, by a virtual clock: which messages run together, and what becomes of those that fail.

use super::*;

/// `batch.messages` as text, a line of `tide.app` for each run: `[a b c]`.
const RUNS: &str = r#"
    local tide = require("tide")
    local runs, seen = {}, {}
    local function ran(batch)
      local values = {}
      for i, message in ipairs(batch.messages) do
        values[i] = message.value
        seen[message.value] = (seen[message.value] or 0) + 1
      end
      runs[#runs + 1] = "[" .. table.concat(values, " ") .. "]"
      tide.app.setAttr("runs", table.concat(runs, " "))
    end
"#;

fn fixture(listener: &str, body: &str) -> Fixture {
    let handler = format!("{RUNS}\nreturn function(batch, ctx) ran(batch) {body} end");
    Fixture::new(&format!("eachBatch = true\n{listener}"), &handler)
}

fn runs(fixture: &Fixture) -> String {
    let runs = fixture.worker.app.get(b"runs");
    runs.and_then(|value| value.text().map(str::to_owned))
        .unwrap_or_default()
}

fn go_on(fixture: &mut Fixture) {
    while fixture.turn() == Turn::Busy {}
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_batch_runs_when_it_is_full_or_when_its_first_message_has_waited() {
    let mut f = fixture("batch = { messages = 3, wait = \"50ms\" }", "");
    f.send(&["a", "b"]);
    go_on(&mut f);
    assert_eq!(runs(&f), "");
    f.send(&["c", "d"]);
    go_on(&mut f);
    assert_eq!(runs(&f), "[a b c]");
    assert_eq!(f.finish(), 50 * MS);
    assert_eq!(runs(&f), "[a b c] [d]");
    assert_eq!(f.finished, [0, 1, 2, 3]);
    let snapshot = f.worker.snapshot();
    let counts = &snapshot.listeners[0].counts;
    assert_eq!((counts.run.count(), counts.outcomes.done), (2, 4));
    assert_eq!(counts.wait.count(), 4);
}

#[test]
fn a_batch_is_sized_by_bytes() {
    let mut f = fixture("batch = { bytes = 10, wait = 0 }", "");
    f.send(&["aaaa", "bbbb", "cccc", "dddddddddddddddd", "e"]);
    f.finish();
    assert_eq!(runs(&f), "[aaaa bbbb] [cccc] [dddddddddddddddd] [e]");
}

#[test]
fn a_partition_that_is_revoked_while_a_batch_fills_runs_nothing() {
    let mut f = fixture("", "");
    f.send(&["a", "b"]);
    go_on(&mut f);
    f.letters.push(ToWorker::Release(f.partition.clone()));
    f.pass(Duration::from_secs(1));
    assert!(f.is_drained);
    assert_eq!(runs(&f), "");
    assert!(f.finished.is_empty());
}

#[test]
fn a_call_that_waits_finishes_its_batch() {
    let mut f = fixture("batch = { messages = 2, wait = 0 }", "tide.sleep('1s')");
    f.send(&["a", "b", "c"]);
    assert_eq!(f.finish(), Duration::from_secs(2));
    assert_eq!(runs(&f), "[a b] [c]");
    assert_eq!(f.finished, [0, 1, 2]);
}

#[test]
fn what_is_resolved_before_an_error_is_done_and_the_rest_comes_again() {
    let mut f = fixture(
        "batch = { wait = 0 }\nretry = { initialDelay = \"1s\", jitter = 0.0 }",
        r#"
        if #runs == 1 then
          ctx.resolveOffset(batch.messages[2].offset)
          error("once")
        end
        "#,
    );
    f.send(&["a", "b", "c", "d"]);
    go_on(&mut f);
    assert_eq!(f.finished, [0, 1]);
    assert_eq!(f.finish(), Duration::from_secs(1));
    assert_eq!(runs(&f), "[a b c d] [c d]");
}

#[test]
fn without_auto_resolve_the_rest_of_a_return_comes_again_at_once() {
    let mut f = fixture(
        "batch = { wait = 0 }\nrunConfig = { eachBatchAutoResolve = false }",
        "ctx.resolveOffset(batch.firstOffset())",
    );
    f.send(&["a", "b", "c"]);
    assert_eq!(f.finish(), Duration::ZERO);
    assert_eq!(runs(&f), "[a b c] [b c] [c]");
}

#[test]
fn a_return_that_resolves_nothing_is_a_failed_run() {
    let mut f = fixture(
        "batch = { wait = 0 }\nretry = { initialDelay = \"1s\", jitter = 0.0 }\n\
         runConfig = { eachBatchAutoResolve = false }",
        "if #runs == 2 then ctx.resolveOffset(batch:lastOffset()) end",
    );
    f.send(&["a", "b"]);
    assert_eq!(f.finish(), Duration::from_secs(1));
    assert_eq!(runs(&f), "[a b] [a b]");
    assert_eq!(f.worker.snapshot().listeners[0].counts.failures, 1);
}

#[test]
fn an_error_behind_the_last_message_counts_and_costs_none() {
    let mut f = fixture(
        "batch = { wait = 0 }",
        "ctx.resolveOffset(batch.lastOffset()) error('late')",
    );
    f.send(&["a", "b"]);
    assert_eq!(f.finish(), Duration::ZERO);
    let snapshot = f.worker.snapshot();
    let counts = &snapshot.listeners[0].counts;
    assert_eq!((counts.outcomes.done, counts.failures), (2, 1));
}

/// Fails with the message `bad`.
const POISON: &str = r#"
    for _, message in ipairs(batch.messages) do
      if message.value == "bad" then error("bad") end
    end
"#;

#[test]
fn a_failed_batch_is_halved_from_its_second_run_on_and_only_the_bad_message_fails() {
    let mut f = fixture(
        "batch = { wait = 0 }\nonError = \"skip\"\nretry = { attempts = 2, initialDelay = \"1s\", multiplier = 1.0, jitter = 0.0 }",
        POISON,
    );
    f.send(&["a", "b", "bad", "d"]);
    assert_eq!(f.finish(), Duration::from_secs(2));
    assert_eq!(
        runs(&f),
        "[a b bad d] [a b bad d] [a b] [bad] [bad] [d]",
        "the last but one is its second attempt"
    );
    let snapshot = f.worker.snapshot();
    let outcomes = snapshot.listeners[0].counts.outcomes;
    assert_eq!((outcomes.done, outcomes.skipped), (3, 1));
}

#[test]
fn a_poison_among_1000_is_found_in_11_of_its_runs() {
    for ordering in ["partition", "none"] {
        for place in [0, 1, 499, 500, 777, 999] {
            let mut f = fixture(
                &format!(
                    "batch = {{ messages = 1000, wait = 0 }}\nonError = \"skip\"\nretry = {{ attempts = 1 }}\nordering = \"{ordering}\""
                ),
                &format!("tide.app.setAttr('bad', seen.bad) {POISON}"),
            );
            let mut values = vec!["x"; 1000];
            values[place] = "bad";
            f.send(&values);
            f.finish();
            let bad = f.worker.app.get(b"bad");
            assert!(
                matches!(bad.as_deref(), Some(crate::wait::Value::Integer(1..=11))),
                "{ordering} {place}: {bad:?}"
            );
            let snapshot = f.worker.snapshot();
            let outcomes = snapshot.listeners[0].counts.outcomes;
            assert_eq!((outcomes.done, outcomes.skipped), (999, 1));
        }
    }
}

#[test]
fn if_both_halves_fail_all_wait_without_the_loss_of_an_attempt_and_the_breaker_counts() {
    let mut f = fixture(
        "batch = { wait = 0 }\nordering = \"none\"\nonError = \"skip\"\nbreaker = false\n\
         retry = { attempts = 1, initialDelay = \"1s\", multiplier = 2.0, jitter = 0.0 }",
        "if tide.now() < 1700000002000 then error('away') end",
    );
    f.send(&["a", "b", "c", "d"]);
    assert_eq!(f.finish(), Duration::from_secs(3));
    assert_eq!(runs(&f), "[a b c d] [a b c d] [a b] [c d] [a] [b c d]");
    let outcomes = f.worker.snapshot().listeners[0].counts.outcomes;
    assert_eq!((outcomes.done, outcomes.skipped), (4, 0));
}

#[test]
fn the_breaker_opens_when_all_fail_and_probes_with_one_message() {
    let mut f = fixture(
        "batch = { wait = 0 }\nordering = \"none\"\nonError = \"retry\"\n\
         retry = { initialDelay = \"1s\", jitter = 0.0 }\n\
         breaker = { failureRatio = 0.5, minimumRuns = 4, window = \"1m\", pause = \"1m\", probes = 1 }",
        "if tide.now() < 1700000050000 then error('away') end",
    );
    f.send(&["a", "b", "c", "d"]);
    let took = f.finish();
    let runs = runs(&f);
    assert!(
        runs.starts_with("[a b c d] [a b c d] [a b] [c d] [a]"),
        "{runs}"
    );
    assert!(took > Duration::from_secs(60), "{took:?}");
    let outcomes = f.worker.snapshot().listeners[0].counts.outcomes;
    assert_eq!(outcomes.done, 4);
}

#[test]
fn fail_at_names_the_message_and_those_behind_it_lose_no_attempt() {
    let mut f = fixture(
        "batch = { wait = 0 }\nonError = \"skip\"\nretry = { attempts = 2, initialDelay = \"1s\", jitter = 0.0 }",
        r#"
        for i, message in ipairs(batch.messages) do
          if message.value == "bad" then ctx.failAt(i, "no good") end
        end
        "#,
    );
    f.send(&["a", "bad", "c", "d"]);
    assert_eq!(f.finish(), Duration::from_secs(1));
    assert_eq!(runs(&f), "[a bad c d] [bad] [c d]");
    assert_eq!(f.finished, [0, 1, 2, 3]);
}

#[test]
fn lanes_by_key_behind_a_failed_message_wait_and_others_go_on() {
    let mut f = fixture(
        "batch = { wait = 0 }\nordering = \"key\"\nonError = \"skip\"\nretry = { attempts = 2, initialDelay = \"1s\", jitter = 0.0 }",
        r#"
        for i, message in ipairs(batch.messages) do
          if message.value == "bad" then ctx.failAt(i) end
        end
        "#,
    );
    f.send_keyed(&[("k", "a"), ("k", "bad"), ("k", "c"), ("l", "d")]);
    go_on(&mut f);
    assert_eq!(runs(&f), "[a bad c d] [d]");
    assert_eq!(f.finished, [0, 3]);
    f.send_keyed(&[("k", "e"), ("l", "f")]);
    go_on(&mut f);
    assert_eq!(runs(&f), "[a bad c d] [d] [f]");
    f.finish();
    assert_eq!(runs(&f), "[a bad c d] [d] [f] [bad] [c e]");
}

#[test]
fn a_key_is_in_one_batch_at_a_time_and_others_run_beside_it() {
    let mut f = fixture(
        "batch = { wait = 0, messages = 2 }\nordering = \"key\"",
        "tide.sleep('1s')",
    );
    f.send_keyed(&[("k", "a"), ("l", "b"), ("k", "c"), ("m", "d"), ("k", "e")]);
    go_on(&mut f);
    assert_eq!(runs(&f), "[a b] [d]");
    assert_eq!(f.finish(), Duration::from_secs(2));
    assert_eq!(runs(&f), "[a b] [d] [c e]");
}

#[test]
fn a_timeout_fails_what_is_not_resolved() {
    let mut f = fixture(
        "batch = { wait = 0 }\nlimits = { timeout = \"10s\" }\nretry = { initialDelay = \"1s\", jitter = 0.0 }",
        "if #runs == 1 then ctx.resolveOffset(0) tide.sleep('1h') end",
    );
    f.send(&["a", "b"]);
    assert_eq!(f.finish(), Duration::from_secs(11));
    assert_eq!(runs(&f), "[a b] [b]");
    assert_eq!(
        f.worker.snapshot().listeners[0].counts.limit_kills.timeout,
        1
    );
}

#[test]
fn a_rate_limit_counts_messages() {
    let mut f = fixture("batch = { wait = 0 }\nrateLimit = { messages = 2 }", "");
    f.send(&["a", "b", "c", "d", "e"]);
    assert_eq!(f.finish(), 1950 * MS);
    assert_eq!(runs(&f), "[a b] [c d] [e]");
}

#[test]
fn what_is_resolved_counts_as_done_by_commit_offsets_if_necessary() {
    let mut f = fixture(
        "batch = { wait = 0 }",
        r#"
        ctx.resolveOffset(1)
        assert(ctx.uncommittedOffsets().topics[1].partitions[1].offset == 2)
        assert(ctx.commitOffsetsIfNecessary() == 2)
        assert(#ctx.uncommittedOffsets().topics == 0)
        tide.sleep("1s")
        "#,
    );
    f.send(&["a", "b", "c"]);
    f.pass(500 * MS);
    assert_eq!(f.finished, [0, 1]);
    assert_eq!(f.finish(), Duration::from_secs(1));
    assert!(f.asked.is_empty());
}

#[test]
fn a_listener_with_manual_commits_commits_what_is_resolved() {
    for (ordering, asked) in [("partition", vec![2]), ("none", vec![2, 2])] {
        let mut f = fixture(
            &format!(
                "batch = {{ wait = 0 }}\nrunConfig = {{ autoCommit = false }}\nordering = \"{ordering}\""
            ),
            "ctx.resolveOffset(1) assert(ctx.commitOffsetsIfNecessary() == 2)",
        );
        f.send(&["a", "b", "c"]);
        f.finish();
        assert_eq!(f.asked, asked, "{ordering}");
    }
}

#[test]
fn an_operator_skips_a_message_of_a_search_and_not_of_a_running_batch() {
    let mut f = fixture(
        "batch = { wait = 0 }\nretry = { initialDelay = \"1h\", maxDelay = \"1h\" }",
        "if #runs == 1 then error('once') end",
    );
    f.send(&["a", "b"]);
    go_on(&mut f);
    let (reply, told) = std::sync::mpsc::channel();
    f.letters
        .push(ToWorker::Order(crate::assignment::Order::Skip {
            message: crate::assignment::Handle {
                topic: "orders".to_owned(),
                partition: 0,
                offset: 0,
            },
            listener: None,
            dead_letter: false,
            reason: "test".to_owned(),
            reply,
        }));
    f.finish();
    assert!(told.recv().unwrap().is_ok());
    assert_eq!(runs(&f), "[a b] [b]");
}

#[test]
fn an_operator_ends_the_wait_of_a_search() {
    let mut f = fixture(
        "batch = { wait = 0 }\nretry = { initialDelay = \"1h\", maxDelay = \"1h\" }",
        "if #runs == 1 then error('once') end",
    );
    f.send(&["a", "b"]);
    go_on(&mut f);
    let (reply, told) = std::sync::mpsc::channel();
    let listener = None;
    f.letters
        .push(ToWorker::Order(crate::assignment::Order::Retry {
            listener,
            reply,
        }));
    assert_eq!(f.finish(), Duration::ZERO);
    assert_eq!(told.recv(), Ok(1));
}

/// The watchdog ends the call, so the VM is replaced: a batch that waits in the old one is given up after a while.
#[test]
fn a_batch_that_is_given_up_with_its_vm_loses_no_attempt() {
    let mut f = fixture(
        "batch = { wait = 0, messages = 1 }\nordering = \"none\"\nonError = \"skip\"\n\
         limits = { blocking = \"50ms\", timeout = \"1h\" }\nretry = { attempts = 1 }",
        r#"
        if batch.messages[1].value == "loop" then while true do end end
        if tide.now() < 1700000020000 then tide.sleep("50m") end
        "#,
    );
    f.send(&["a", "loop"]);
    f.finish();
    let outcomes = f.worker.snapshot().listeners[0].counts.outcomes;
    assert_eq!((outcomes.done, outcomes.skipped), (1, 1));
    assert!(f.worker.clock.since(f.began) < Duration::from_secs(60));
}
