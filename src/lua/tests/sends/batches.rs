//! Batches: their table, the methods of `ctx` in them, and the messages to which records belong.

use super::*;
use crate::lua::control::Holdable;
use crate::lua::{BatchCall, BatchEnd, How, Verdict};
use crate::message::Record;
use crate::wait::send::Emitted;

struct Own;

impl Holdable for Own {
    fn set_held(&self, _: bool) -> bool {
        false
    }

    fn is_over(&self) -> bool {
        false
    }
}

struct Scene {
    f: Fixture,
    app: Arc<App>,
    auto_resolve: bool,
}

fn scene(body: &str) -> Scene {
    let noting = Noting {
        requests: Mutex::default(),
        answers: written,
    };
    let app = Arc::new(App::default().with_producers(Arc::new(Source(Arc::new(noting)))));
    let text = format!("local tide = require \"tide\"\nreturn function(batch, ctx) {body}\nend");
    let f = Setup::new()
        .file("h.lua", &text)
        .handler("h")
        .build_with(&app);
    Scene {
        f: f.unwrap_or_else(|error| panic!("{error}")),
        app,
        auto_resolve: true,
    }
}

impl Scene {
    /// The offsets 5, 7 and 8, of a partition whose end is 20.
    fn run(&mut self) -> Step {
        let records = [5, 7, 8].map(|offset| OwnedRecord {
            offset,
            timestamp_ms: 1,
            key: Some(format!("k{offset}").as_bytes().into()),
            value: Some(format!("v{offset}").as_bytes().into()),
            headers: vec![(
                b"traceparent"[..].into(),
                Some(
                    format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333{offset}-01")
                        .as_bytes()
                        .into(),
                ),
            )],
        });
        let records = records.each_ref().map(|one| one as &dyn Record);
        let batch = BatchCall {
            call: Call {
                listener: 0,
                topic: &self.f.topic,
                partition: 3,
                record: records[0],
                attempt: 1,
                is_retry: false,
            },
            records: &records,
            high_watermark: 20,
            auto_resolve: self.auto_resolve,
        };
        self.f.vm.call_batch(&self.f.pulse, &batch)
    }

    #[track_caller]
    fn end(&mut self) -> BatchEnd {
        ended(self.run())
    }
}

#[track_caller]
fn ended(step: Step) -> BatchEnd {
    match step {
        Step::Batch(end) => *end,
        step => panic!("{step:?}"),
    }
}

#[track_caller]
fn passes(body: &str) -> BatchEnd {
    let end = scene(body).end();
    assert!(matches!(end.how, How::Returned), "{end:?}");
    end
}

/// The values of what was emitted, in their order.
fn values(emitted: Option<&Emitted>) -> String {
    let requests = emitted.iter().flat_map(|one| &one.requests);
    let records = requests.flat_map(|request| &request.records);
    let value = |record: &Outgoing| String::from_utf8(record.value.clone().unwrap()).unwrap();
    records.map(value).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_batch_has_the_fields_and_functions_of_kafkajs() {
    passes(
        "assert(batch.topic == 'orders' and batch.partition == 3 and batch.highWatermark == 20)
         assert(#batch == 3 and #batch.messages == 3)
         assert(batch.messages[2].value == 'v7' and batch.messages[2].offset == 7)
         assert(batch.messages[3].topic == 'orders' and batch.messages[3].partition == 3)
         assert(batch.firstOffset() == 5 and batch:firstOffset() == 5)
         assert(batch.lastOffset() == 8 and batch:lastOffset() == 8)
         assert(batch.isEmpty() == false and not batch:isEmpty())
         assert(batch.offsetLag() == 11 and batch:offsetLagLow() == 14)
         assert(ctx.topic == 'orders' and ctx.partition == 3 and ctx.offset == 5 and ctx.message == nil)
         assert(next(ctx.trace) == nil)
         ctx.heartbeat() ctx:heartbeat()
         ctx.logger.info('a line')",
    );
    let end = scene("return batch.first").end();
    let How::Failed(failure) = end.how else {
        panic!("{end:?}");
    };
    assert!(
        failure
            .message
            .contains("`batch` has no field `first`, did you mean `firstOffset`?"),
        "{}",
        failure.message
    );
}

#[test]
fn a_return_resolves_all_unless_auto_resolve_is_off() {
    assert_eq!(passes("").done, 3);
    let mut scene = scene("ctx.resolveOffset('7')");
    scene.auto_resolve = false;
    let end = scene.end();
    assert!(matches!(end.how, How::Returned));
    assert_eq!(end.done, 2);
}

#[test]
fn an_error_leaves_done_what_was_resolved() {
    for (resolve, done) in [
        ("", 0),
        ("ctx.resolveOffset(4)", 0),
        ("ctx.resolveOffset(5)", 1),
        ("ctx:resolveOffset(99)", 3),
    ] {
        let end = scene(&format!("{resolve} error('no')")).end();
        assert!(matches!(end.how, How::Failed(_)), "{end:?}");
        assert_eq!(end.done, done, "{resolve}");
    }
}

#[test]
fn fail_at_ends_the_call_at_once() {
    let end =
        scene("pcall(function() ctx.failAt(2, 'no good') end) tide.app.setAttr('after', true)")
            .end();
    assert_eq!(end.done, 1);
    let How::Blamed(Verdict::FailAt { index, reason }) = end.how else {
        panic!("{end:?}");
    };
    assert_eq!((index, reason.as_deref()), (1, Some("no good")));
    for (arguments, words) in [
        ("4", "from 1 to 3, not 4"),
        ("0", "from 1 to 3, not 0"),
        ("'x'", "not a string"),
        ("1", "message 1 is resolved already"),
    ] {
        let end = scene(&format!("ctx.resolveOffset(5) ctx.failAt({arguments})")).end();
        let How::Failed(failure) = end.how else {
            panic!("{arguments}: {end:?}");
        };
        assert!(failure.message.contains(words), "{}", failure.message);
    }
}

#[test]
fn what_is_for_one_message_raises_in_a_batch_and_the_other_way_round() {
    for (call, words) in [
        ("ctx.retry()", "`ctx.failAt(i, reason)`"),
        ("ctx.skip('x')", "`ctx.failAt(i, reason)`"),
        ("ctx.deadLetter('x')", "`ctx.failAt(i, reason)`"),
        ("ctx.headers('x')", "read `message.headers`"),
    ] {
        let end = scene(call).end();
        let How::Failed(failure) = end.how else {
            panic!("{call}: {end:?}");
        };
        assert!(failure.message.contains(words), "{}", failure.message);
    }
    for call in [
        "ctx.resolveOffset(1)",
        "ctx.failAt(1)",
        "ctx.isRunning()",
        "ctx.pause()",
        "ctx.uncommittedOffsets()",
    ] {
        let failure = fails(call);
        assert!(
            failure.message.contains("set `eachBatch = true`"),
            "{}",
            failure.message
        );
    }
}

#[test]
fn records_belong_to_what_is_resolved_next_or_to_one_message() {
    let emit = |value: &str| format!("ctx.emit{{ topic = 'a', value = '{value}' }} ");
    let of = |place: u32, value: &str| {
        format!("ctx.emit{{ topic = 'a', value = '{value}', of = batch.messages[{place}] }} ")
    };
    let body =
        emit("a") + "ctx.resolveOffset(5) " + &emit("b") + &of(2, "c") + &of(1, "d") + &of(3, "e");
    for (end, done, expected) in [
        ("error('no')", 1, "a d"),
        ("ctx.resolveOffset(7) error('no')", 2, "a b c d"),
        ("ctx.failAt(3)", 2, "a c d"),
        ("", 3, "a b c d e"),
    ] {
        let ended = scene(&(body.clone() + end)).end();
        assert_eq!(ended.done, done, "{end}");
        assert_eq!(values(ended.emitted.as_ref()), expected, "{end}");
    }
    let mut one = scene(&(emit("a") + "ctx.resolveOffset(5) " + &emit("b")));
    one.auto_resolve = false;
    let end = one.end();
    assert_eq!(
        values(end.emitted.as_ref()),
        "a",
        "the return resolves nothing"
    );
    let failed = scene("ctx.emit{ topic = 'a', value = 'v', of = { offset = 6 } }").end();
    let How::Failed(failure) = failed.how else {
        panic!("{failed:?}");
    };
    assert!(
        failure
            .message
            .contains("`of` is a message of this batch, not one of another"),
        "{}",
        failure.message
    );
}

#[test]
fn a_record_of_one_message_carries_its_trace_on() {
    let end = passes(
        "ctx.emit{ topic = 'a', value = 'v' }
         ctx.emit{ topic = 'a', value = 'w', of = batch.messages[3] }",
    );
    let emitted = end.emitted.unwrap();
    let mut records = emitted.requests.iter().flat_map(|request| &request.records);
    assert!(records.next().unwrap().headers.is_empty());
    let (name, value) = &records.next().unwrap().headers[0];
    assert_eq!(name, b"traceparent");
    assert!(value.as_ref().unwrap().ends_with(b"3338-01"));
}

#[test]
fn commit_offsets_if_necessary_tells_the_host_of_what_is_resolved() {
    let mut scene = scene(
        "ctx.commitOffsetsIfNecessary()
         ctx.emit{ topic = 'a', value = 'x' }
         ctx.resolveOffset(7)
         ctx.emit{ topic = 'a', value = 'y' }
         assert(ctx.commitOffsetsIfNecessary() == 8)
         assert(#ctx.uncommittedOffsets().topics == 0)
         ctx.resolveOffset(8)
         local open = ctx.uncommittedOffsets()
         assert(open.topics[1].topic == 'orders' and open.topics[1].partitions[1].partition == 3)
         assert(ctx.commitOffsetsIfNecessary(open) == 9)",
    );
    let (id, wait) = waits(scene.run());
    let Wait::Settle {
        done,
        behind,
        emitted,
    } = wait
    else {
        panic!("{wait:?}");
    };
    assert_eq!((done, behind, &*values(emitted.as_deref())), (2, 8, "x"));
    let step = scene.f.resume(id, Answer::Committed(Ok(8)));
    let (id, wait) = waits(step);
    let Wait::EmitAndCommit(emitted, 9) = wait else {
        panic!("{wait:?}");
    };
    assert_eq!(values(Some(&*emitted)), "y");
    let end = ended(scene.f.resume(id, Answer::Committed(Ok(9))));
    assert!(matches!(end.how, How::Returned), "{end:?}");
    assert_eq!(end.done, 3);
    assert!(end.emitted.is_none());
}

#[test]
fn records_that_a_commit_could_not_write_fail_the_messages_to_which_they_belong() {
    for call in [
        "pcall(ctx.commitOffsetsIfNecessary)",
        "ctx.commitOffsetsIfNecessary()",
    ] {
        let mut scene = scene(&format!(
            "ctx.resolveOffset(5)
             ctx.commitOffsetsIfNecessary()
             ctx.emit{{ topic = 'a', value = 'x' }}
             ctx.resolveOffset(7)
             {call}"
        ));
        let (id, _) = waits(scene.run());
        let (id, _) = waits(scene.f.resume(id, Answer::Committed(Ok(6))));
        let refused = Answer::Unwritten(Fault::new("tooLarge", "too large"));
        let end = ended(scene.f.resume(id, refused));
        assert!(matches!(end.how, How::Failed(_)), "{end:?}");
        assert_eq!(end.done, 1, "{call}");
    }
}

#[test]
fn a_batch_knows_whether_its_partition_is_still_its_own() {
    let mut f = scene(
        "tide.app.setAttr('running', ctx.isRunning()) tide.app.setAttr('stale', ctx.isStale())
         if not ctx.isRunning() then return end
         local resume = ctx.pause()
         assert(ctx.consumer.paused()[1].partitions[1] == 3)
         resume()
         assert(#ctx.consumer.paused() == 0)
         ctx.consumer.seek{ offset = 0 }
         assert(ctx.isRunning() and ctx.isStale())",
    );
    let own = Arc::new(Own);
    let weak = Arc::downgrade(&own);
    f.app.consumers.of("default").begin("orders", 3, weak);
    let end = f.end();
    assert!(matches!(end.how, How::Returned), "{end:?}");
    let said = |f: &Scene, name: &[u8]| {
        f.app.get(name).as_deref() == Some(&crate::wait::Value::Boolean(true))
    };
    assert!(said(&f, b"running") && !said(&f, b"stale"));
    drop(own);
    let end = f.end();
    assert!(matches!(end.how, How::Returned), "{end:?}");
    assert!(!said(&f, b"running") && said(&f, b"stale"));
}

#[test]
fn a_batch_that_is_given_up_leaves_nothing_behind() {
    let mut scene =
        scene("ctx.emit{ topic = 'a', value = 'x' } ctx.resolveOffset(5) tide.sleep(10)");
    let (id, _) = waits(scene.run());
    scene.f.vm.cancel(id);
    assert!(scene.f.vm.shared.batches.borrow().is_empty());
    assert!(scene.f.vm.shared.emitted.borrow().is_empty());
    let (id, _) = waits(scene.run());
    let end = ended(
        scene
            .f
            .vm
            .fail(id, Failure::timeout(Duration::from_secs(1))),
    );
    assert_eq!((end.done, &*values(end.emitted.as_ref())), (1, "x"));
}
