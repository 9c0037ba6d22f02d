//! What goes to the consumer for its transactions, and what comes back.

use super::*;
use crate::worker::tests::Handed;

/// Emits the value of each message.
const EACH: &str = "for _, message in ipairs(batch.messages) do ctx.emit{ topic = 'out', value = message.value } end ";

/// The messages of each call, `[a b]`, in `runs`.
const RUNS: &str = r#"
    local tide = require("tide")
    local runs = {}
    local function ran(batch)
      local values = {}
      for i, message in ipairs(batch.messages) do values[i] = message.value end
      runs[#runs + 1] = "[" .. table.concat(values, " ") .. "]"
      tide.app.setAttr("runs", table.concat(runs, " "))
    end
"#;

impl Scene {
    /// In a consumer with exactly once.
    fn exactly_once(mut self) -> Self {
        let mut partition = Partition::without_brokers(1, "orders");
        partition.is_exactly_once = true;
        self.fixture.partition = Arc::new(partition);
        self
    }

    fn calls(listener: &str, body: &str) -> Self {
        let handler = format!("{RUNS} return function(batch, ctx) ran(batch) {body} end");
        let listener = format!("eachBatch = true\nbatch = {{ wait = 0 }}\n{listener}");
        Self::of(&listener, &handler).exactly_once()
    }

    /// What has gone to the consumer since the last call: `0+1: a b` for two messages and their records.
    fn handed(&mut self) -> String {
        let handed = std::mem::take(&mut self.fixture.handed);
        let text = |one: &Handed| match one {
            Handed::Finished(numbers) => format!("finished {numbers:?}"),
            Handed::Back(Some(_)) => "a lane goes back".to_owned(),
            Handed::Back(None) => "all go back".to_owned(),
            Handed::Over(one) => {
                let others = one.others.iter().map(|one| format!("+{}", one.number));
                let requests = one.parts.iter().map(|part| values(&part.emitted.requests));
                let requests = requests.collect::<Vec<_>>().join(" ");
                format!("{}{}: {requests}", one.number, others.collect::<String>())
            }
        };
        handed.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    /// The lane of this message, as it was handed over.
    fn lane_of(&self, number: u64) -> u64 {
        let slot = &self.fixture.worker.slots[&1];
        let lanes = slot.unacknowledged.all_places();
        lanes.into_iter().find(|one| one.1 == number).unwrap().0
    }

    fn settle(&mut self, numbers: &[u64]) {
        let messages = numbers
            .iter()
            .map(|number| (self.lane_of(*number), *number));
        let messages = messages.collect();
        let letter = ToWorker::Settled { epoch: 1, messages };
        self.fixture.letters.push(letter);
        self.go_on();
    }

    fn refuse(&mut self, number: u64) {
        self.fixture.letters.push(ToWorker::RefusedRecord {
            partition: self.fixture.partition.clone(),
            lane: self.lane_of(number),
            number,
            listener: "orders".to_owned(),
            reason: "no key".to_owned(),
        });
        self.go_on();
    }
}

/// The consumer takes the lane's order from the order of the letters. A message that was finished without records, and
/// stood behind a refused one there, would be forgotten when the lane goes back.
#[test]
fn a_message_without_records_goes_to_the_consumer_before_those_behind_it() {
    let body = "if message.value == 'b' then ctx.emit{ topic = 'out', value = 'b' } end";
    let mut scene = Scene::new("", body).exactly_once();
    scene.send(&["a", "b", "c"]);
    assert_eq!(scene.handed(), "finished [0], 1: b, 2: ");
}

#[test]
fn the_messages_of_a_call_go_together_and_the_lane_goes_on() {
    let mut scene = Scene::calls("", EACH);
    scene.send(&["a", "b"]);
    scene.send(&["c"]);
    assert_eq!(scene.handed(), "0+1: a b, 2: c");
    assert!(scene.finished().is_empty());
    assert_eq!(scene.fixture.worker.slots[&1].batches.waiting_calls(), 2);
    scene.settle(&[0, 1]);
    assert_eq!(scene.finished(), [0, 1]);
    scene.settle(&[2]);
    assert_eq!(scene.finished(), [0, 1, 2]);
    assert_eq!(scene.fixture.worker.slots[&1].batches.waiting_calls(), 0);
}

#[test]
fn a_call_without_records_waits_only_behind_one_with_records() {
    let body = "for _, one in ipairs(batch.messages) do if one.value == 'b' then ctx.emit{ topic = 'out', value = 'b' } end end";
    let mut scene = Scene::calls("", body);
    scene.send(&["a"]);
    assert_eq!(scene.handed(), "finished [0]");
    scene.send(&["b"]);
    scene.send(&["c", "d"]);
    assert_eq!(scene.handed(), "1: b, 2+3: ");
}

#[test]
fn what_a_part_of_the_batch_has_resolved_goes_alone() {
    let body = "ctx.emit{ topic = 'out', value = 'x' }
         ctx.resolveOffset(1)
         ctx.emit{ topic = 'out', value = 'y' }
         if #batch.messages > 1 then ctx.failAt(3, 'no') end";
    let mut scene = Scene::calls("retry = { initialDelay = \"30s\" }", body);
    scene.send(&["a", "b", "c"]);
    assert_eq!(scene.handed(), "0+1: x");
}

#[test]
fn after_a_refused_record_the_messages_of_the_call_run_alone_until_one_is_to_blame() {
    let listener = "onError = \"skip\"\nretry = { attempts = 2, initialDelay = 1, jitter = 0.0 }";
    let mut scene = Scene::calls(listener, EACH);
    scene.send(&["a", "bad"]);
    scene.send(&["c"]);
    assert_eq!(scene.handed(), "0+1: a bad, 2: c");
    scene.refuse(0);
    assert_eq!(scene.handed(), "all go back, 0: a, 1: bad, 2: c");
    assert_eq!(scene.runs(), "[a bad] [c] [a] [bad] [c]");
    scene.settle(&[0]);
    scene.refuse(1);
    assert_eq!(scene.handed(), "finished [0], all go back");
    scene.fixture.pass(Duration::from_millis(1));
    assert_eq!(scene.handed(), "1: bad, 2: c");
    scene.refuse(1);
    assert_eq!(scene.handed(), "all go back, finished [1], 2: c");
    scene.settle(&[2]);
    assert_eq!(scene.finished(), [0, 1, 2]);
    assert_eq!(scene.runs(), "[a bad] [c] [a] [bad] [c] [bad] [c] [c]");
}

/// The lanes of a call lead to other calls, and these to further lanes: all of it runs anew.
#[test]
fn calls_of_other_keys_go_back_with_the_refused_one() {
    let mut scene = Scene::calls("ordering = \"key\"", EACH);
    scene.fixture.send_keyed(&[("k", "a"), ("l", "b")]);
    scene.go_on();
    scene.fixture.send_keyed(&[("l", "c"), ("m", "d")]);
    scene.go_on();
    scene.fixture.send_keyed(&[("m", "e")]);
    scene.go_on();
    assert_eq!(scene.handed(), "0+1: a b, 2+3: c d, 4: e");
    scene.refuse(0);
    let handed = scene.handed();
    assert!(handed.starts_with("all go back, "), "{handed}");
    let at = |what: &str| {
        handed
            .find(what)
            .unwrap_or_else(|| panic!("{what} in {handed}"))
    };
    assert!(at("0: a") > 0 && at("1: b") > 0);
    let (b, c, d, e) = (at(" b"), at(" c"), at(" d"), at(" e"));
    assert!(b < c && d < e, "each lane has its order: {handed}");
}

#[test]
fn a_call_that_waits_behind_a_refused_one_runs_again() {
    let body = format!("if batch.messages[1].value == 'c' then tide.sleep('1s') end {EACH}");
    let mut scene = Scene::calls("", &body);
    scene.send(&["a", "b"]);
    scene.send(&["c"]);
    assert_eq!(scene.handed(), "0+1: a b");
    scene.refuse(0);
    assert_eq!(scene.handed(), "all go back, 0: a, 1: b");
    scene.fixture.pass(Duration::from_secs(1));
    assert_eq!(scene.handed(), "2: c");
    assert_eq!(scene.runs(), "[a b] [c] [a] [b] [c]");
    assert_eq!(scene.fixture.worker.slots[&1].under_way, 0);
}

#[test]
fn a_call_that_does_not_fit_is_divided() {
    let mut scene = Scene::calls("", EACH);
    scene.send(&["a", "b", "c"]);
    let lane = scene.lane_of(0);
    let partition = scene.fixture.partition.clone();
    scene.fixture.letters.push(ToWorker::Divide {
        partition,
        lane,
        number: 0,
    });
    scene.go_on();
    assert_eq!(
        scene.handed(),
        "0+1+2: a b c, all go back, 0: a, 1: b, 2: c"
    );
}
