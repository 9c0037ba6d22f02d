//! Observers of partitions that come and go, by a virtual clock.

use super::*;
use crate::assignment::Observed;
use crate::lua::control::observers::PartitionEvent;
use crate::wait::Value;

const SECOND: Duration = Duration::from_secs(1);

/// A listener whose handler sleeps as long as the value says, and whose file observes with `body`. It notes what
/// happens in `app`, a line each.
fn fixture(event: &str, body: &str) -> Fixture {
    let handler = format!(
        r#"
        local tide = require "tide"
        local function note(text)
          tide.app.setAttr("notes", (tide.app.getAttr("notes") or "") .. text .. ";")
        end
        tide.on("{event}", function(event) {body} end)
        return function(message)
          tide.sleep(message.value)
          note("handled")
        end
        "#
    );
    Fixture::new("", &handler)
}

impl Fixture {
    /// An event of the partition, 10 s long.
    fn tell(&mut self, event: PartitionEvent) {
        let now = self.worker.clock.now();
        self.letters.push(ToWorker::Observe(Arc::new(Observed {
            id: 7,
            event,
            argument: Arc::new(Value::Table(vec![(
                Value::Bytes(b"consumer".as_slice().into()),
                Value::Bytes(b"default".as_slice().into()),
            )])),
            epochs: vec![self.partition.epoch],
            begins_at: now + 5 * SECOND,
            ends_at: now + 10 * SECOND,
            inbox: Some(self.partition.inbox.clone()),
        })));
    }

    /// The partition goes.
    fn revoke(&mut self) {
        self.partition.end();
        self.letters.push(ToWorker::Release(self.partition.clone()));
        self.tell(PartitionEvent::Revoked);
    }

    fn notes(&self) -> String {
        let notes = self.worker.app.get(b"notes");
        match notes.as_deref() {
            Some(Value::Bytes(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
            _ => String::new(),
        }
    }
}

#[test]
fn an_observer_of_a_revocation_runs_after_the_calls_of_the_partition() {
    let mut fixture = fixture("revoked", "note(event.consumer)");
    fixture.send(&["3s"]);
    fixture.pass(SECOND);
    fixture.revoke();
    fixture.pass(SECOND);
    assert_eq!((fixture.notes().as_str(), fixture.observed), ("", 0));
    fixture.pass(SECOND);
    assert_eq!(fixture.notes(), "handled;default;");
    assert_eq!(fixture.observed, 1);
    assert!(fixture.is_drained);
}

#[test]
fn a_call_that_takes_long_does_not_keep_the_observer_from_its_time() {
    let mut fixture = fixture("revoked", "note('observed')");
    fixture.send(&["8s"]);
    fixture.pass(SECOND);
    fixture.revoke();
    fixture.pass(4 * SECOND);
    assert_eq!(fixture.notes(), "");
    fixture.pass(SECOND);
    assert_eq!(
        (fixture.notes().as_str(), fixture.observed),
        ("observed;", 1)
    );
}

#[test]
fn the_end_of_an_observer_is_told_once_it_has_waited() {
    let mut fixture = fixture("revoked", "tide.sleep('4s') note('observed')");
    fixture.revoke();
    fixture.pass(3 * SECOND);
    assert_eq!(fixture.observed, 0);
    fixture.pass(SECOND);
    assert_eq!(
        (fixture.notes().as_str(), fixture.observed),
        ("observed;", 1)
    );
}

#[test]
fn an_observer_that_waits_too_long_is_given_up_and_one_that_fails_ends() {
    let mut long = fixture("revoked", "tide.sleep('1h')");
    long.revoke();
    long.pass(9 * SECOND);
    assert_eq!(long.observed, 0);
    long.pass(SECOND);
    assert_eq!(long.observed, 1);
    let mut failing = fixture("revoked", "error('boom')");
    failing.revoke();
    failing.pass(SECOND);
    assert_eq!(failing.observed, 1);
}

/// A message of a partition that has come runs after the first stretch of the observer.
#[test]
fn an_observer_of_an_assignment_begins_before_the_first_message() {
    let mut fixture = fixture("assigned", "note('assigned')");
    fixture.tell(PartitionEvent::Assigned);
    fixture.send(&["1ms"]);
    fixture.finish();
    assert_eq!(fixture.notes(), "assigned;handled;");
}

#[test]
fn an_event_without_an_observer_is_over_at_once() {
    let mut fixture = fixture("lost", "note('lost')");
    fixture.tell(PartitionEvent::Revoked);
    fixture.turn();
    assert_eq!((fixture.notes().as_str(), fixture.observed), ("", 1));
}
