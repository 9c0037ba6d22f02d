//! `ctx.consumer`, on a consumer without a thread.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::lua::control::{Holdable, What};
use crate::lua::tests::*;
use crate::wait::sql::Positions as _;
use crate::wait::{Fault, Value};

#[derive(Default)]
struct Held(AtomicBool);

impl Holdable for Held {
    fn set_held(&self, is_held: bool) -> bool {
        self.0.swap(is_held, Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        false
    }
}

/// A handler, and the partitions 3 and 4 of its topic.
fn fixture(body: &str) -> (Fixture, Arc<App>, [Arc<Held>; 2]) {
    let app = Arc::new(App::default());
    let f = handler(body).build_with(&app);
    let f = f.unwrap_or_else(|error| panic!("{error}"));
    let control = app.consumers.of("default");
    let held = [(); 2].map(|()| Arc::new(Held::default()));
    for (one, number) in held.iter().zip(3..) {
        let weak = Arc::downgrade(one);
        control.begin("orders", number, weak);
    }
    (f, app, held)
}

/// Runs `body`, which asserts for itself; the partitions that are held afterwards.
#[track_caller]
fn held(body: &str) -> [bool; 2] {
    let (mut f, _app, held) = fixture(body);
    match f.run() {
        Step::Done => held.map(|one| one.0.load(Ordering::Relaxed)),
        step => panic!("{step:?}"),
    }
}

#[test]
fn a_pause_holds_the_partition_at_once_in_every_form() {
    for (arguments, expected) in [
        ("()", [true, false]),
        ("{ topic = 'orders' }", [true, true]),
        ("{ partition = 4 }", [false, true]),
        ("{ partitions = { 3, 4 } }", [true, true]),
        (
            "{ { topic = 'orders', partitions = { 4 } } }",
            [false, true],
        ),
        // A list of nothing.
        ("{}", [false, false]),
    ] {
        assert_eq!(
            held(&format!("ctx.consumer.pause{arguments}")),
            expected,
            "{arguments}"
        );
        let colon = format!("ctx.consumer:pause{arguments}");
        assert_eq!(held(&colon), expected, "{colon}");
    }
    let resumed = "ctx.consumer.pause{ topic = 'orders' } ctx.consumer.resume()";
    assert_eq!(held(resumed), [false, true]);
}

/// A call that fails after its seek, or seeks again, leaves the last word.
#[test]
fn a_seek_holds_the_partition_at_once_and_the_last_one_counts() {
    use crate::rules::seek::Target;
    let body = "ctx.consumer.seek{ offset = 5 } ctx.consumer:seek{ offset = 'end' } ctx.consumer.resume() error('boom')";
    let (mut f, app, held) = fixture(body);
    failure(f.run());
    let held = held.map(|one| one.0.load(Ordering::Relaxed));
    assert_eq!(held, [true, false], "a resume does not end it");
    let control = app.consumers.of("default");
    let seeks = control.seeks();
    assert_eq!((seeks.len(), seeks[0].target), (1, Target::End));
    assert!(
        seeks[0]
            .by
            .who
            .starts_with("listener `h`, handlers/h.lua:2"),
        "{}",
        seeks[0].by.who
    );
    assert!(control.take_seek("orders", 3, seeks[0].id - 1).is_none());
    assert!(control.take_seek("orders", 3, seeks[0].id).is_some());
    assert!(control.seeks().is_empty());
}

#[test]
fn the_paused_partitions_of_the_assignment_are_listed() {
    let body = "local c = ctx.consumer assert(#c.paused() == 0) c.pause{ topic = 'orders' } local p = c.paused() assert(#p == 1 and p[1].topic == 'orders' and table.concat(p[1].partitions, ',') == '3,4')";
    assert_eq!(held(body), [true, true]);
}

#[test]
fn a_partition_that_is_not_ours_is_refused_with_its_kind_and_nothing_is_done() {
    let body = |call: &str, kind: &str, text: &str| {
        format!(
            "local ok, e = pcall(function() {call} end) assert(not ok) assert(tide.error.is(e, '{kind}'), tostring(e)) assert(tostring(e):find('{text}', 1, true), tostring(e)) assert(e.message:find('handlers/h.lua:2: ', 1, true) == 1, e.message)"
        )
    };
    for (call, kind, text) in [
        (
            "ctx.consumer.pause{ partitions = { 3, 9 } }",
            "notFound",
            "partition orders[9] is not assigned to this daemon now",
        ),
        (
            "ctx.consumer.resume{ partition = 9 }",
            "notFound",
            "partition orders[9] is not assigned",
        ),
        (
            "ctx.consumer.pause{ topic = 'order' }",
            "notFound",
            "takes topic `order`, did you mean `orders`?",
        ),
        (
            "ctx.consumer.lag{ partition = 9 }",
            "notFound",
            "partition orders[9] is not assigned",
        ),
        (
            "ctx.consumer.lag{ topic = 'orders' }",
            "invalid",
            "needs a `partition` of topic `orders`",
        ),
        (
            "ctx.consumer.pause{ topics = 1 }",
            "invalid",
            "knows no `topics`, did you mean `topic`?",
        ),
        (
            "ctx.consumer.seek{ offset = 5, partition = 9 }",
            "notFound",
            "partition orders[9] is not assigned",
        ),
        (
            "ctx.consumer.seek{ offset = -3 }",
            "invalid",
            "is an integer from 0",
        ),
        ("ctx.consumer.pause(print)", "invalid", "takes plain data"),
    ] {
        assert_eq!(held(&body(call, kind, text)), [false, false], "{call}");
    }
}

#[test]
fn a_message_of_a_retry_topic_names_topic_and_partition() {
    let body = "local ok, e = pcall(ctx.consumer.pause) assert(tide.error.is(e, 'invalid') and tostring(e):find('retry topic'), tostring(e)) ctx.consumer.pause{ topic = 'orders', partition = 4 }";
    let (mut f, _app, held) = fixture(body);
    let record = OwnedRecord::default();
    let call = Call {
        listener: 0,
        topic: &f.topic.clone(),
        partition: 3,
        record: &record,
        attempt: 2,
        is_retry: true,
    };
    match f.vm.call(&f.pulse, &call) {
        Step::Done => {}
        step => panic!("{step:?}"),
    }
    assert!(!held[0].0.load(Ordering::Relaxed) && held[1].0.load(Ordering::Relaxed));
}

#[test]
fn a_question_waits_for_the_consumer_and_its_answer_is_returned_or_raised() {
    let body = "if message.key then local ok, e = pcall(ctx.consumer.committed) assert(tide.error.is(e, 'notFound')) return end assert(ctx.consumer.lag{ partition = 4 } == 7)";
    let (mut f, app, _held) = fixture(body);
    let control = app.consumers.of("default");
    let question = |control: &crate::lua::control::Control| {
        let mut news = control.take_news().expect("there is news");
        assert_eq!(news.questions.len(), 1);
        news.questions.remove(0)
    };
    let (id, wait) = waits(f.run());
    assert!(matches!(wait, Wait::Outside(_)));
    let asked = question(&control);
    assert_eq!((asked.key.1, asked.what), (4, What::Lag));
    assert!(matches!(
        f.resume(id, Answer::Outside(Ok(Value::Integer(7)))),
        Step::Done
    ));
    let record = OwnedRecord {
        key: Some(Box::default()),
        ..OwnedRecord::default()
    };
    let (id, _) = waits(f.call(&record));
    assert_eq!(question(&control).what, What::Committed);
    let fault = Fault::new("notFound", "gone");
    assert!(matches!(
        f.resume(id, Answer::Outside(Err(fault))),
        Step::Done
    ));
}

#[test]
fn the_committed_offset_is_known_of_a_partition_that_is_here() {
    let (_f, app, _held) = fixture("");
    let control = app.consumers.of("default");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    for (answer, expected) in [
        (Ok(Value::Integer(7)), Some(7)),
        (Ok(Value::Nil), None),
        (Err(Fault::new("notFound", "gone")), None),
    ] {
        let committed = control.committed("orders", 3);
        let question = control.take_news().unwrap().questions.remove(0);
        assert_eq!((question.key.1, question.what), (3, What::Committed));
        question.reply.send(answer).unwrap();
        assert_eq!(runtime.block_on(committed), expected);
    }
    assert_eq!(runtime.block_on(control.committed("orders", 9)), None);
    assert!(control.take_news().is_none());
}

#[test]
fn the_control_of_a_consumer_is_a_calls_and_not_a_files() {
    let error = Setup::new()
        .file("h.lua", "require 'tide'.now() return function(m, ctx) c = c or ctx.consumer if m.key then c.pause() end end")
        .handler("h");
    let app = Arc::new(App::default());
    let mut f = error
        .build_with(&app)
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(f.run(), Step::Done));
    let record = OwnedRecord {
        key: Some(Box::default()),
        ..OwnedRecord::default()
    };
    let message = failure(f.call(&record)).message;
    assert!(
        message.contains("this `ctx.consumer` belongs to another call"),
        "{message}"
    );
    let message = fails("ctx.consumer.pausd()").message;
    assert!(
        message.contains("`consumer` has no field `pausd`, did you mean `pause"),
        "{message}"
    );
    let message = fails("tide.kafka.consumer('defalt')").message;
    assert!(
        message.contains("no consumer of the configuration is named `defalt`"),
        "{message}"
    );
    let message = fails("tide.error.is({}, 'notfound')").message;
    assert!(
        message.contains("there is no kind `notfound`, did you mean `notFound`?"),
        "{message}"
    );
}

/// A finalizer that the building of an error runs leaves an error of its own.
#[test]
fn an_error_is_its_own_whatever_finalizers_do_meanwhile() {
    let body = "
        local consumer = ctx.consumer
        local mt = { __gc = function() pcall(consumer.pause, { topic = 'finalized' }) end }
        for number = 1, 3000 do
          for _ = 1, 5 do setmetatable({}, mt) end
          local ok, err = pcall(consumer.pause, { topic = 'wanted' .. number })
          local topic = 'topic `wanted' .. number .. '`'
          assert(not ok and err.kind == 'notFound' and err.message:find(topic, 1, true), err.message)
        end";
    assert_eq!(held(body), [false, false]);
}

/// Its bundle may still be rejected, and another worker's `start` may fail.
#[test]
fn what_start_requests_happens_once_its_vm_is_in_force() {
    let app = Arc::new(App::default());
    let init = "return function() require('tide').kafka.consumer().pause{ topic = 'orders' } end";
    let setup = handler("").file("init.lua", init);
    let mut f = setup
        .build_with(&app)
        .unwrap_or_else(|error| panic!("{error}"));
    let partition = Arc::new(Held::default());
    let weak = Arc::downgrade(&partition);
    app.consumers.of("default").begin("orders", 3, weak);
    f.vm.start(&f.pulse).unwrap();
    assert!(!partition.0.load(Ordering::Relaxed));
    f.vm.come_into_force(0);
    assert!(partition.0.load(Ordering::Relaxed));

    let seek = "return function() require('tide').kafka.consumer().seek{ topic = 'orders', partition = 3, offset = 5 } end";
    let mut f = handler("").file("init.lua", seek).build();
    let error = f.vm.start(&f.pulse).unwrap_err().to_string();
    assert!(error.contains("is not for `start` of init.lua"), "{error}");
}
