//! What batches emit.

use super::*;

/// Emits the value of each message.
const EACH: &str = "for _, message in ipairs(batch.messages) do ctx.emit{ topic = 'out', value = message.value, of = message } end ";

#[test]
fn a_batch_is_done_when_its_records_are_acknowledged() {
    let mut scene = Scene::batches("", EACH);
    scene.send(&["a", "b"]);
    assert_eq!((&*scene.waited(), &*scene.ahead()), ("a b", ""));
    scene.send(&["c"]);
    assert_eq!(scene.waited(), "a b", "the lane waits");
    assert!(scene.finished().is_empty());
    scene.write("a b");
    assert_eq!(scene.finished(), [0, 1]);
    scene.write("c");
    assert_eq!(scene.finished(), [0, 1, 2]);
}

#[test]
fn a_batch_of_another_key_goes_on_while_records_wait() {
    let mut scene = Scene::batches("ordering = \"key\"", EACH);
    scene.fixture.send_keyed(&[("k", "a")]);
    scene.go_on();
    scene.fixture.send_keyed(&[("k", "b"), ("l", "c")]);
    scene.go_on();
    assert_eq!(scene.waited(), "a, c");
}

#[test]
fn a_refused_record_fails_the_batch_and_its_message_is_found() {
    let mut scene = Scene::batches(
        "onError = \"skip\"\nretry = { attempts = 1, initialDelay = 1, jitter = 0.0 }",
        EACH,
    );
    scene.send(&["a", "bad"]);
    scene.answer_waited("a bad", refused());
    scene.fixture.pass(Duration::from_millis(1));
    scene.answer_waited("a bad", refused());
    scene.write("a");
    assert_eq!(scene.finished(), [0]);
    scene.answer_waited("bad", refused());
    assert_eq!(scene.finished(), [0, 1]);
    let outcomes = scene.fixture.worker.snapshot().listeners[0].counts.outcomes;
    assert_eq!((outcomes.done, outcomes.skipped), (1, 1));
}

#[test]
fn what_is_resolved_in_the_middle_is_done_when_its_records_are_written() {
    let mut scene = Scene::batches(
        "",
        "ctx.emit{ topic = 'out', value = 'x' }
         ctx.resolveOffset(0)
         assert(ctx.commitOffsetsIfNecessary() == 1)
         tide.sleep('1h')",
    );
    scene.send(&["a", "b"]);
    assert_eq!(scene.waited(), "x");
    assert!(scene.finished().is_empty());
    scene.write("x");
    assert_eq!(scene.finished(), [0]);
}
