//! Emitted records, with producers whose answers the test gives: each order of answers is one of a broker.

mod batches;
mod deferred;
mod scripted;
mod transactions;

use scripted::{Script, Scripted, values};

use super::*;
use crate::wait::Fault;

struct Scene {
    fixture: Fixture,
    script: Arc<Script>,
}

/// The run of each message, in order: `a1` is the first attempt of `a`.
const RUNS: &str = r#"
    local tide = require("tide")
    local runs = {}
    local function ran(message, ctx)
      runs[#runs + 1] = message.value .. ctx.attempt
      tide.app.setAttr("runs", table.concat(runs, " "))
    end
"#;

impl Scene {
    /// `body` is the handler's code behind the note of its run.
    fn new(listener: &str, body: &str) -> Self {
        let handler = format!("{RUNS}\nreturn function(message, ctx) ran(message, ctx) {body} end");
        Self::of(listener, &handler)
    }

    /// With batches.
    fn batches(listener: &str, body: &str) -> Self {
        let handler = format!("local tide = require 'tide' return function(batch, ctx) {body} end");
        let listener = format!("eachBatch = true\nbatch = {{ wait = 0 }}\n{listener}");
        Self::of(&listener, &handler)
    }

    fn of(listener: &str, handler: &str) -> Self {
        let scripted = Scripted::default();
        let clock = Virtual::at_ms(NOON_MS);
        let app = App::with_clock(Clock::Virtual(clock.clone()));
        let app = app.with_producers(Arc::new(scripted.clone()));
        Self {
            fixture: Fixture::of(listener, handler, clock, app),
            script: scripted.0,
        }
    }

    /// Emits its value, whatever it is.
    fn emitting(listener: &str) -> Self {
        Self::new(listener, "ctx.emit{ topic = 'out', value = message.value }")
    }

    fn send(&mut self, values: &[&str]) {
        self.fixture.send(values);
        self.go_on();
    }

    /// As many turns as there is work for.
    fn go_on(&mut self) {
        while self.fixture.turn() == Turn::Busy {
            assert!(self.script.has_left());
        }
        assert!(
            self.script.has_left(),
            "what is emitted leaves with its turn"
        );
    }

    /// The emissions that went ahead and have no answer.
    fn ahead(&self) -> String {
        let ahead = self.script.ahead.lock().unwrap();
        let values = ahead.iter().map(|(values, _)| values.as_str());
        values.collect::<Vec<_>>().join(", ")
    }

    /// Those that their lanes wait for.
    fn waited(&self) -> String {
        let waited = self.script.waited.lock().unwrap();
        let values = waited.iter().map(|(values, _)| values.as_str());
        values.collect::<Vec<_>>().join(", ")
    }

    /// The answer to the first emission with these records that went ahead.
    #[track_caller]
    fn answer(&mut self, values: &str, result: Result<(), Fault>) {
        let then = {
            let mut ahead = self.script.ahead.lock().unwrap();
            let found = ahead.iter().position(|(one, _)| one == values);
            ahead
                .remove(found.unwrap_or_else(|| panic!("{values} is not on its way")))
                .1
        };
        then(result);
        self.go_on();
    }

    fn acknowledge(&mut self, values: &str) {
        self.answer(values, Ok(()));
    }

    fn fail(&mut self, values: &str) {
        self.answer(values, Err(Fault::new("timeout", "no answer")));
    }

    /// The answer to the one emission that a lane waits for, by a thread of the outside.
    #[track_caller]
    fn answer_waited(&mut self, values: &str, result: Result<(), Fault>) {
        assert_eq!(self.waited(), values);
        let (_, answer) = self.script.waited.lock().unwrap().remove(0);
        answer.send(result).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        let mailbox = self.fixture.worker.mailbox.clone();
        mailbox.wait(&mut self.fixture.letters, until);
        self.go_on();
    }

    fn write(&mut self, values: &str) {
        self.answer_waited(values, Ok(()));
    }

    fn runs(&self) -> String {
        let runs = self.fixture.worker.app.get(b"runs");
        runs.and_then(|value| value.text().map(str::to_owned))
            .unwrap_or_default()
    }

    fn finished(&self) -> &[u64] {
        &self.fixture.finished
    }
}

fn refused() -> Result<(), Fault> {
    Err(Fault::new("tooLarge", "`ctx.emit`: too large"))
}

#[test]
fn a_lane_goes_on_and_its_messages_are_final_in_its_order() {
    let mut scene = Scene::emitting("");
    scene.send(&["a", "b", "c"]);
    assert_eq!(scene.ahead(), "a, b, c");
    assert!(scene.finished().is_empty());
    scene.acknowledge("b");
    assert!(scene.finished().is_empty());
    scene.acknowledge("a");
    assert_eq!(scene.finished(), [0, 1]);
    scene.acknowledge("c");
    assert_eq!(scene.finished(), [0, 1, 2]);
    let snapshot = scene.fixture.worker.snapshot();
    assert_eq!(snapshot.partitions[0].outcomes.done, 3);
}

#[test]
fn a_message_that_emits_nothing_waits_for_those_before_it() {
    let mut scene = Scene::new(
        "",
        "if message.value == 'a' then ctx.emit{ topic = 'out', value = 'a' } end",
    );
    scene.send(&["b", "a", "c"]);
    assert_eq!(scene.finished(), [0]);
    scene.acknowledge("a");
    assert_eq!(scene.finished(), [0, 1, 2]);
}

#[test]
fn a_call_that_waited_goes_ahead_too() {
    let mut scene = Scene::new(
        "",
        "tide.sleep(10) ctx.emit{ topic = 'out', value = message.value }",
    );
    scene.send(&["a", "b"]);
    scene.fixture.pass(Duration::from_millis(25));
    assert_eq!(scene.ahead(), "a, b");
    scene.acknowledge("b");
    scene.acknowledge("a");
    assert_eq!(scene.finished(), [0, 1]);
}

/// `b` is not acknowledged: it is written again, then `c`, and no handler runs again.
#[test]
fn a_lane_goes_back_and_writes_again_what_is_behind() {
    let mut scene = Scene::emitting("");
    scene.send(&["a", "b", "c"]);
    scene.fail("b");
    assert_eq!(scene.waited(), "b");
    scene.send(&["d"]);
    assert_eq!(scene.ahead(), "a, c", "d waits for its lane");
    // The answer to the first copy of `c` does not count any more.
    scene.acknowledge("c");
    scene.write("b");
    scene.acknowledge("a");
    assert_eq!(scene.finished(), [0, 1]);
    scene.write("c");
    assert_eq!(scene.finished(), [0, 1, 2]);
    assert_eq!(scene.ahead(), "d");
    scene.acknowledge("d");
    assert_eq!(scene.finished(), [0, 1, 2, 3]);
    assert_eq!(scene.runs(), "a1 b1 c1 d1");
}

/// Written first, `b` waits for `a` before it all the same.
#[test]
fn a_message_behind_an_unacknowledged_one_is_not_final_before_it() {
    let mut scene = Scene::emitting("");
    scene.send(&["a", "b"]);
    scene.fail("b");
    scene.write("b");
    assert!(scene.finished().is_empty());
    scene.acknowledge("a");
    assert_eq!(scene.finished(), [0, 1]);
}

/// The refused message runs again, and the lane waits there; those behind it do not run again.
#[test]
fn a_refused_record_fails_its_own_run_alone() {
    let mut scene = Scene::emitting("retry = { initialDelay = \"1s\", jitter = 0.0 }");
    scene.send(&["a", "b", "c"]);
    scene.fail("b");
    scene.answer_waited("b", refused());
    assert_eq!(
        (scene.waited(), scene.runs()),
        (String::new(), "a1 b1 c1".to_owned())
    );
    scene.fixture.pass(Duration::from_millis(1_100));
    assert_eq!(scene.runs(), "a1 b1 c1 b2");
    // Strict: it does not go ahead.
    assert_eq!(scene.ahead(), "a, c");
    scene.write("b");
    scene.write("c");
    scene.acknowledge("a");
    assert_eq!(scene.finished(), [0, 1, 2]);
    assert_eq!(scene.runs(), "a1 b1 c1 b2");
}

/// The call under way is given up, and runs again without the loss of an attempt.
#[test]
fn a_call_behind_runs_again_without_an_attempt_lost() {
    let mut scene = Scene::new(
        "",
        "if message.value == 'c' then tide.sleep('1m') end ctx.emit{ topic = 'out', value = message.value }",
    );
    scene.send(&["a", "b", "c"]);
    assert_eq!(
        (scene.ahead(), scene.runs()),
        ("a, b".to_owned(), "a1 b1 c1".to_owned())
    );
    scene.fail("a");
    assert_eq!(scene.ahead(), "b");
    scene.write("a");
    assert_eq!(scene.finished(), [0]);
    scene.write("b");
    assert_eq!(scene.runs(), "a1 b1 c1 c1");
    scene.fixture.pass(Duration::from_secs(61));
    assert_eq!(
        scene.ahead(),
        "b, c",
        "the first copy of b has no answer yet"
    );
    scene.acknowledge("c");
    assert_eq!(scene.finished(), [0, 1, 2]);
}

/// What ended in another way than done keeps its outcome.
#[test]
fn a_skipped_message_behind_does_not_run_again() {
    let mut scene = Scene::new(
        "",
        "if message.value == 'b' then ctx.skip('no') end ctx.emit{ topic = 'out', value = message.value }",
    );
    scene.send(&["a", "b", "c"]);
    assert_eq!(scene.ahead(), "a, c");
    scene.fail("a");
    scene.write("a");
    scene.write("c");
    assert_eq!(scene.finished(), [0, 1, 2]);
    assert_eq!(scene.runs(), "a1 b1 c1");
    let snapshot = scene.fixture.worker.snapshot();
    assert_eq!(snapshot.partitions[0].outcomes.skipped, 1);
    assert_eq!(snapshot.partitions[0].outcomes.done, 2);
}

#[test]
fn where_nothing_goes_ahead_the_lane_waits() {
    let mut scene = Scene::emitting("");
    *scene.script.is_unready.lock().unwrap() = true;
    scene.send(&["a", "b"]);
    assert_eq!(scene.waited(), "a");
    *scene.script.is_unready.lock().unwrap() = false;
    scene.write("a");
    assert_eq!(
        (scene.waited(), scene.ahead()),
        (String::new(), "b".to_owned())
    );
    scene.acknowledge("b");
    assert_eq!(scene.finished(), [0, 1]);
}

/// A partition that goes is drained when its records are acknowledged.
#[test]
fn a_release_waits_for_the_acknowledgement() {
    let mut scene = Scene::emitting("");
    scene.send(&["a", "b"]);
    let partition = scene.fixture.partition.clone();
    scene.fixture.letters.push(ToWorker::Release(partition));
    scene.go_on();
    scene.acknowledge("b");
    assert!(!scene.fixture.is_drained);
    scene.acknowledge("a");
    assert!(scene.fixture.is_drained);
    assert_eq!(scene.finished(), [0, 1]);
}

/// At the deadline nothing is finished that is not acknowledged, and answers that come later change nothing.
#[test]
fn a_cancel_finishes_nothing_that_is_not_acknowledged() {
    let mut scene = Scene::emitting("");
    scene.send(&["a", "b", "c"]);
    scene.acknowledge("a");
    scene.acknowledge("c");
    let partition = scene.fixture.partition.clone();
    scene
        .fixture
        .letters
        .push(ToWorker::Release(partition.clone()));
    scene.fixture.letters.push(ToWorker::Cancel(partition));
    scene.go_on();
    assert!(scene.fixture.is_drained);
    scene.acknowledge("b");
    assert_eq!(scene.finished(), [0]);
}

/// What its lanes have in the queue of a producer would be written behind the records of the next owner.
#[test]
fn at_the_deadline_what_is_not_acknowledged_is_taken_back() {
    for (is_acknowledged, is_ahead) in [(true, true), (false, true), (false, false)] {
        let mut scene = Scene::emitting("");
        *scene.script.is_unready.lock().unwrap() = !is_ahead;
        scene.send(&["a"]);
        if is_acknowledged {
            scene.acknowledge("a");
        }
        let partition = scene.fixture.partition.clone();
        scene.fixture.letters.push(ToWorker::Cancel(partition));
        scene.go_on();
        assert!(scene.fixture.is_drained);
        let taken_back = *scene.script.taken_back.lock().unwrap();
        assert_eq!(taken_back, usize::from(!is_acknowledged));
    }
}

/// Commits by hand follow what their lane has emitted before, awaited or not.
#[test]
fn a_commit_follows_the_records_of_its_lane() {
    let mut scene = Scene::new(
        "runConfig = { autoCommit = false }",
        "ctx.emit{ topic = 'out', value = message.value }
         ctx.commitOffsets(message.offset + 1, { wait = message.value == 'c' })",
    );
    scene.send(&["a", "b", "c"]);
    assert_eq!(
        (scene.ahead(), scene.waited()),
        ("a, b".to_owned(), String::new())
    );
    scene.acknowledge("b");
    assert!(scene.fixture.asked.is_empty());
    scene.acknowledge("a");
    assert_eq!(
        scene.fixture.asked,
        [2],
        "of two requests the later one counts"
    );
    // The records of `c` leave before its commit, and its call waits for both.
    scene.write("c");
    scene.go_on();
    assert_eq!(scene.fixture.asked, [2, 3]);
    assert_eq!(scene.finished(), [0, 1, 2]);
}

/// So many bytes are on their way that no further call begins.
#[test]
fn calls_wait_for_room() {
    let mut scene = Scene::new(
        "limits = { emit = \"64MiB\" }\nordering = \"none\"",
        "ctx.emit{ topic = 'out', value = message.value, headers = { h = ('x'):rep(20 * 1024 * 1024) } }",
    );
    scene.send(&["a", "b", "c"]);
    assert_eq!(scene.ahead(), "a, b");
    let blocked = scene.fixture.partition.blocked().unwrap();
    assert_eq!((blocked.offset, blocked.listener.as_str()), (2, "orders"));
    assert!(
        blocked.error.contains("are not acknowledged"),
        "{blocked:?}"
    );
    scene.acknowledge("a");
    assert_eq!(scene.fixture.partition.blocked(), None);
    assert_eq!(scene.ahead(), "b, c");
    scene.acknowledge("b");
    scene.acknowledge("c");
    assert_eq!(scene.finished().len(), 3);
}
