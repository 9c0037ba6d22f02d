//! `ctx.emit`: records that a call leaves behind at its end.

use super::*;
use crate::wait::Requested;
use crate::wait::send::Emitted;

fn app() -> Arc<App> {
    let noting = Noting {
        requests: Mutex::default(),
        answers: written,
    };
    Arc::new(App::default().with_producers(Arc::new(Source(Arc::new(noting)))))
}

fn fixture(body: &str) -> Fixture {
    let built = handler(body).build_with(&app());
    built.unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn emitted(step: Step) -> Emitted {
    match step {
        Step::Emitted(emitted) => Arc::unwrap_or_clone(emitted),
        step => panic!("{step:?}"),
    }
}

fn values(emitted: &Emitted) -> Vec<Vec<String>> {
    let value = |record: &Outgoing| {
        let value = record.value.clone().unwrap_or_default();
        String::from_utf8(value).unwrap()
    };
    let requests = emitted.requests.iter();
    requests
        .map(|request| request.records.iter().map(value).collect())
        .collect()
}

#[test]
fn what_a_call_emits_leaves_at_its_end_in_its_order() {
    let mut f = fixture(
        "ctx.emit{ topic = 'a', value = '1' }
         ctx:emit{ topic = 'b', messages = { { value = '2', key = 'k' }, { value = tide.null } } }
         ctx.emit{ topic = 'a', value = '3', producer = 'audit' }
         ctx.emit{ topic = 'a', value = '4' }",
    );
    let emitted = emitted(f.run());
    // One producer keeps the order of one request.
    assert_eq!(values(&emitted), [vec!["1", "2", ""], vec!["3"], vec!["4"]]);
    let first = &emitted.requests[0];
    assert_eq!((first.function, first.listener), ("ctx.emit", Some(0)));
    assert_eq!(first.records[1].key.as_deref(), Some(&b"k"[..]));
    assert_eq!(first.records[2].value, None);
    assert_eq!(emitted.requests[1].producer.as_deref(), Some("audit"));
}

#[test]
fn a_call_that_emits_nothing_is_done_as_ever() {
    let mut f = fixture("local emit = ctx.emit");
    assert!(matches!(f.run(), Step::Done));
}

#[test]
fn a_call_that_fails_or_gives_a_verdict_emits_nothing() {
    for end in [
        "error('no')",
        "return nil, 'no'",
        "ctx.skip('no')",
        "ctx.retry()",
        "ctx.deadLetter('no')",
    ] {
        let body = format!(
            "if not tide.app.getAttr('again') then
               tide.app.setAttr('again', true)
               ctx.emit{{ topic = 'a', value = 'first' }}
               {end}
             else
               ctx.emit{{ topic = 'a', value = 'second' }}
             end"
        );
        let mut f = fixture(&body);
        let step = f.run();
        assert!(matches!(step, Step::Failed(_) | Step::Asked(_)), "{step:?}");
        assert_eq!(values(&emitted(f.run())), [vec!["second"]], "{end}");
    }
}

#[test]
fn a_call_that_waits_emits_everything_at_its_end_and_one_that_is_given_up_nothing() {
    let mut f = fixture(
        "ctx.emit{ topic = 'a', value = '1' } tide.sleep(10) ctx.emit{ topic = 'a', value = '2' }",
    );
    let Step::Waits(id, _) = f.run() else {
        panic!("it does not wait");
    };
    // A call beside it has its own.
    let Step::Waits(other, _) = f.run() else {
        panic!("it does not wait");
    };
    let wait = f.vm.shared.last_wait();
    let step = f.vm.resume(&f.pulse, other, wait, Answer::Slept);
    assert_eq!(values(&emitted(step)), [vec!["1", "2"]]);
    f.vm.cancel(id);
    assert!(f.vm.shared.emitted.borrow().is_empty());
}

#[test]
fn a_commit_without_a_wait_follows_what_was_emitted_before_it() {
    let emit = "ctx.emit{ topic = 'a', value = '1' }";
    let commit = |offset| format!("ctx.commitOffsets({offset}, {{ wait = false }})");
    let mut f = fixture(&format!("{} {emit} {} {}", commit(3), commit(9), commit(7)));
    let emitted = emitted(f.run());
    let asked = |highest, last| Some(Requested { highest, last });
    assert_eq!(emitted.asked, asked(9, 7));
    assert_eq!(f.vm.take_requested(), asked(3, 3));
}

#[test]
fn an_awaited_commit_sends_what_was_emitted_before_it() {
    let mut f = fixture(
        "ctx.emit{ topic = 'a', value = '1' } ctx.commitOffsets(5) ctx.emit{ topic = 'a', value = '2' }",
    );
    let Step::Waits(id, waits) = f.run() else {
        panic!("it does not wait");
    };
    let [(_, Wait::EmitAndCommit(first, 5))] = &waits.begun[..] else {
        panic!("{waits:?}");
    };
    assert_eq!(values(first), [vec!["1"]]);
    let step = f.resume(id, Answer::Committed(Ok(5)));
    assert_eq!(values(&emitted(step)), [vec!["2"]]);
}

/// Records that a commit was to write first are never forgotten: the call cannot end as done without them.
#[test]
fn a_call_whose_records_a_commit_could_not_write_has_failed() {
    let body = "ctx.emit{ topic = 'a', value = '1' }
        local ok, err = pcall(ctx.commitOffsets, 5)
        assert(ok or tostring(err):find('too large', 1, true), tostring(err))
        if not ok then
          ok, err = pcall(ctx.commitOffsets, 5, { wait = false })
          assert(not ok and err:find('records that are not acknowledged', 1, true), err)
        end
        ctx.emit{ topic = 'a', value = '2' }";
    let unwritten = Answer::Unwritten(Fault::new("tooLarge", "`ctx.emit`: too large"));
    for (answer, is_done) in [
        (Answer::Committed(Ok(5)), true),
        (unwritten, false),
        (Answer::Lost, false),
    ] {
        let is_lost = matches!(answer, Answer::Lost);
        let body = if is_lost {
            body.replace("'too large'", "'given up'")
        } else {
            body.to_owned()
        };
        let mut f = fixture(&body);
        let Step::Waits(id, _) = f.run() else {
            panic!("it does not wait");
        };
        match f.resume(id, answer) {
            Step::Emitted(emitted) if is_done => assert_eq!(values(&emitted), [vec!["2"]]),
            Step::Failed(failure) if !is_done => assert!(
                failure
                    .message
                    .contains("records of this call that a commit"),
                "{failure:?}"
            ),
            step => panic!("{step:?}"),
        }
        assert!(f.vm.shared.emitted.borrow().is_empty());
        assert!(f.vm.shared.owing.borrow().is_empty());
    }
}

/// Its records would be lost with the branch that is given up.
#[test]
fn a_branch_that_is_given_up_in_a_commit_fails_the_call() {
    let mut f = fixture(
        "pcall(tide.parallel, {
           function() ctx.emit{ topic = 'a', value = '1' } ctx.commitOffsets(5) end,
           function() error('no') end,
         })",
    );
    let step = f.run();
    let Step::Failed(failure) = step else {
        panic!("{step:?}");
    };
    assert!(
        failure.message.contains("are not acknowledged"),
        "{failure:?}"
    );
}

#[test]
fn many_records_are_several_requests_and_a_large_trace_counts() {
    let mut f = fixture("for _ = 1, 3 do ctx.emit{ topic = 'a', value = ('v'):rep(600000) } end");
    let emitted = emitted(f.run());
    assert_eq!(emitted.requests.len(), 3);
    let header = |name: &[u8], value: &[u8]| (name.into(), Some(value.into()));
    let message = OwnedRecord {
        headers: vec![header(b"baggage", &[b'b'; 100_000])],
        ..OwnedRecord::default()
    };
    let mut f = fixture(
        "local messages = {}
         for index = 1, 100 do messages[index] = { value = 'v' } end
         local ok, err = pcall(ctx.emit, { topic = 'a', messages = messages })
         assert(not ok and tide.error.is(err, 'tooLarge'), tostring(err))",
    );
    assert!(matches!(f.call(&message), Step::Done));
}

#[test]
fn an_emit_carries_the_trace_on() {
    let header = |name: &[u8], value: &[u8]| (name.into(), Some(value.into()));
    let message = OwnedRecord {
        headers: vec![header(b"traceparent", b"p")],
        ..OwnedRecord::default()
    };
    let mut f =
        fixture("tide.sleep(1) ctx.emit{ topic = 'a', value = '1', headers = { h = 'x' } }");
    let Step::Waits(id, _) = f.call(&message) else {
        panic!("it does not wait");
    };
    let emitted = emitted(f.resume(id, Answer::Slept));
    let headers = &emitted.requests[0].records[0].headers;
    let names: Vec<_> = headers
        .iter()
        .map(|(name, _)| name.escape_ascii().to_string())
        .collect();
    assert_eq!(names, ["h", "traceparent"]);
}

/// The error of the one `emit`, with its kind.
#[track_caller]
fn refused(options: &str) -> String {
    let mut f = fixture(&format!(
        "local ok, err = pcall(ctx.emit, {options})
         assert(not ok)
         error(err.kind .. ' ' .. err.message, 0)"
    ));
    match f.run() {
        Step::Failed(failure) => failure.message,
        step => panic!("{step:?}"),
    }
}

#[test]
fn what_is_wrong_with_an_emit_is_told_at_once() {
    for (options, expected) in [
        (
            "nil",
            "invalid `ctx.emit` takes a table of options, not nil",
        ),
        (
            "{ topic = 'a', value = 'v', acks = 1 }",
            "invalid `ctx.emit` knows no option `acks`",
        ),
        (
            "{ topic = 'a', vlaue = 'v' }",
            "invalid `ctx.emit` knows no option `vlaue`, did you mean `value`?",
        ),
        (
            "{ topic = 'a', value = 'v', producer = 7 }",
            "invalid `ctx.emit`: `producer` is an integer, not a name",
        ),
        (
            "{ topic = 'a', value = ('v'):rep(8 * 1024 * 1024) }",
            "tooLarge `ctx.emit`: the records of this call have 83",
        ),
    ] {
        let error = refused(options);
        assert!(error.contains(expected), "{options}: {error}");
    }
}

#[test]
fn a_ctx_emits_for_its_own_call_alone() {
    let mut f = fixture(
        "if kept then
           local ok, err = pcall(kept.emit, { topic = 'a', value = '1' })
           assert(not ok and tostring(err):find('belongs to another call', 1, true), tostring(err))
         end
         rawset(_G, 'kept', ctx)",
    );
    assert!(matches!(f.run(), Step::Done));
    assert!(matches!(f.run(), Step::Done));
}
