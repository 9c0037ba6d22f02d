//! A handler that emits and defers: the message waits for both.

use super::*;
use crate::rules::offsets::Moved;

/// Emits, and defers until a message `done` comes.
const BODY: &str = "
    kept = kept or {}
    if message.value == 'done' then
      for _, one in ipairs(kept) do tide.app.setAttr('counts', one:done()) end
    else
      kept[#kept + 1] = ctx.defer{ timeout = '1m' }
      ctx.emit{ topic = 'out', value = message.value .. ctx.attempt }
    end";

impl Scene {
    fn counts(&self) -> Option<bool> {
        match self.fixture.worker.app.get(b"counts").as_deref() {
            Some(crate::wait::Value::Boolean(counts)) => Some(*counts),
            _ => None,
        }
    }

    fn done(&self) -> u64 {
        let snapshot = self.fixture.worker.snapshot();
        snapshot.listeners[0].counts.outcomes.done
    }
}

#[test]
fn a_message_goes_away_when_its_records_are_acknowledged() {
    let mut scene = Scene::new("ordering = \"none\"", BODY);
    scene.send(&["a"]);
    assert_eq!(scene.ahead(), "a1");
    assert!(scene.fixture.moved.is_empty(), "its lane may go back to it");
    scene.acknowledge("a1");
    assert_eq!(scene.fixture.moved, [Moved::Away(0)]);
    assert!(scene.finished().is_empty());
    assert_eq!(scene.done(), 1);
    scene.send(&["done"]);
    assert_eq!(scene.counts(), Some(true));
    assert_eq!((scene.finished(), scene.done()), (&[1, 0][..], 2));
}

#[test]
fn one_that_is_done_before_waits_for_its_records() {
    let mut scene = Scene::new("ordering = \"none\"", BODY);
    scene.send(&["a", "done"]);
    assert_eq!(scene.finished(), [1]);
    scene.acknowledge("a1");
    assert_eq!((scene.finished(), scene.done()), (&[1, 0][..], 2));
    assert!(scene.fixture.moved.is_empty());
}

/// The lane goes back for the records, and no handler runs again.
#[test]
fn records_that_are_written_again_leave_the_deferral_alone() {
    let mut scene = Scene::new("", BODY);
    scene.send(&["a", "b"]);
    scene.fail("a1");
    scene.write("a1");
    scene.write("b1");
    assert_eq!(scene.fixture.moved, [Moved::Away(0), Moved::Away(1)]);
    assert_eq!(scene.runs(), "a1 b1");
    scene.send(&["done"]);
    let mut finished = scene.finished().to_vec();
    finished.sort_unstable();
    assert_eq!(finished, [0, 1, 2]);
}

/// The run has failed: what it deferred has no say, and the next run defers anew.
#[test]
fn a_refused_record_ends_the_deferral() {
    let mut scene = Scene::new(
        "retry = { initialDelay = \"1ms\", jitter = 0.0 }\nordering = \"none\"",
        BODY,
    );
    scene.send(&["a"]);
    scene.answer("a1", refused());
    scene.answer_waited("a1", refused());
    scene.fixture.pass(Duration::from_millis(10));
    assert_eq!(scene.runs(), "a1 a2");
    scene.write("a2");
    assert_eq!(scene.fixture.moved, [Moved::Away(0)]);
    assert_eq!(scene.fixture.worker.deferrals.len(), 1);
    scene.send(&["done"]);
    assert_eq!(scene.counts(), Some(true));
    assert_eq!(scene.finished(), [1, 0]);
}
