//! A dead-letter topic that takes nothing, or not everything: messages wait, and nothing is committed beyond them.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::Message as _;
use rdkafka::consumer::BaseConsumer;

use super::side::{HANDLED, Ledger, forget, topic};
use crate::dice::Dice;
use crate::stage::Stage;
use crate::support::client::Message;
use crate::support::kafka::unique;

/// The dead-letter topic needs both of its replicas, and one of them stops; the other topics have one to spare.
pub(crate) fn refuse(stage: &mut Stage, dice: &mut Dice) {
    stage.cluster.nodes[0].stop();
    let time = stage.short(8000..10_000, 10_000..40_000);
    stage.pass(dice.time(time));
    let owed = stage.oracle().owed();
    if !owed.is_empty() {
        stage.fail(&format!("committed, and no dead letter: {owed:?}"));
    }
    stage.cluster.start_missing();
    stage.cluster.wait_in_sync();
}

const PARTITIONS: i32 = 2;
const BATCH: u32 = 48;
/// What its dead-letter topic takes, and what it does not.
const BYTES_MAX: &str = "20000";
const LARGE: usize = 30_000;
/// Long enough for a dead letter that is sent again and again.
const STAYS: Duration = Duration::from_secs(2);

/// What is to become of a message of this fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    Letter,
    /// … without its value.
    LargeLetter,
    /// A compacted topic takes no record without a key.
    Refused,
}

impl Fate {
    fn of(number: u32) -> Self {
        match number % 8 {
            3 => Self::Refused,
            5 => Self::LargeLetter,
            one if one % 2 == 0 => Self::Fine,
            _ => Self::Letter,
        }
    }
}

/// Compacted dead-letter and retry topics, which refuse some records for good. `deadLetter.refused` is "block" for the
/// first batch, until a reload makes it "skip".
pub(crate) fn refuse_for_good(stage: &mut Stage, dice: &mut Dice) {
    let name = unique("refused");
    let dead = format!("{name}.dead");
    let retry = format!("{name}.{}.retry.1s", stage.fleet.group);
    let compacted = [
        ("cleanup.policy", "compact"),
        ("max.message.bytes", BYTES_MAX),
    ];
    stage.cluster.create_topic(&name, PARTITIONS, &[]);
    stage.cluster.create_topic(&dead, PARTITIONS, &compacted);
    stage
        .cluster
        .create_topic(&retry, PARTITIONS, &compacted[..1]);
    stage.fleet.side_topic = Some(name.clone());
    listen(stage, "block");
    let mut ledger = Ledger::new(stage, &name, PARTITIONS);
    let mut found = Found::new(stage, &dead);

    produce(stage, &mut ledger, "first");
    found.wait_for(stage, "first");
    if dice.below(2) == 0 {
        let index = dice.one_of(&stage.fleet.recruits());
        stage.stop(index);
        stage.fleet.members[index].start(&[]);
    }
    let is_waiting = |value: &String| value.starts_with("fails");
    stage.wait("all but the refused is handled", HANDLED, |stage| {
        ledger.unhandled(stage).iter().all(is_waiting)
    });
    stage.pass(STAYS);
    let unhandled = ledger.unhandled(stage);
    let refused = (0..BATCH).filter(|number| Fate::of(*number) == Fate::Refused);
    assert_eq!(unhandled.len(), refused.count(), "{unhandled:?}");

    ledger.forgive(|value| value.starts_with("fails"));
    listen(stage, "skip");
    produce(stage, &mut ledger, "second");
    ledger.forgive(|value| value.starts_with("fails"));
    for member in &stage.fleet.members {
        let reloaded = member.command(&["reload"]);
        assert!(reloaded.status.success(), "{reloaded:?}");
        // Where nothing is halted, it says so.
        member.command(&["retry", "side"]);
    }
    found.wait_for(stage, "second");
    ledger.wait(stage, "everything that can be");
    ledger.wait_for_commits(stage);
    forget(stage);
    for topic in [name, dead, retry] {
        stage.cluster.delete_topic(&topic);
    }
}

fn listen(stage: &mut Stage, refused: &str) {
    stage.fleet.side_policy = format!(
        "ordering = \"none\"\nbreaker = false\nretry = {{ topics = [\"1s\"] }}\n\
         deadLetter = {{ topic = \"{{topic}}.dead\", refused = \"{refused}\", tooLarge = \"dropValue\", \
         maxPerMinute = 60000 }}\n"
    );
    stage.fleet.write_all();
}

/// One batch a partition.
fn produce(stage: &Stage, ledger: &mut Ledger, word: &str) {
    let cluster = stage.cluster.clone();
    let topic = topic(&cluster, ledger.name());
    let messages: Vec<Message> = (0..BATCH).map(|number| message(word, number)).collect();
    let places = topic.produce(messages.clone());
    for (number, (message, place)) in (0..).zip(messages.iter().zip(places)) {
        if matches!(Fate::of(number), Fate::Fine | Fate::Refused) {
            let value = message.value.as_deref().unwrap_or_default();
            ledger.owe(place, &String::from_utf8_lossy(value));
        }
    }
}

fn message(word: &str, number: u32) -> Message {
    let fate = Fate::of(number);
    let key = format!("{word}-{number}");
    let mut value = match fate {
        Fate::Fine => key.clone(),
        _ => format!("fails-{key}-"),
    };
    if fate == Fate::LargeLetter {
        value.extend(std::iter::repeat_n('x', LARGE));
    }
    let message = Message::value(value).partition((number / 8) as i32 % PARTITIONS);
    match fate {
        Fate::Refused => message,
        _ => message.key(key),
    }
}

/// The dead letters so far: by key, whether it has a value.
struct Found {
    reader: BaseConsumer,
    letters: BTreeMap<String, bool>,
}

impl Found {
    fn new(stage: &Stage, dead: &str) -> Self {
        Self {
            reader: stage.cluster.reader_of(dead, PARTITIONS),
            letters: BTreeMap::new(),
        }
    }

    /// Every letter of the batch that can be there.
    fn wait_for(&mut self, stage: &mut Stage, word: &str) {
        stage.wait("the other dead letters are there", HANDLED, |_| {
            self.read();
            (0..BATCH).all(|number| {
                let has_value = self.letters.get(&format!("{word}-{number}"));
                match Fate::of(number) {
                    Fate::Letter => has_value == Some(&true),
                    Fate::LargeLetter => has_value == Some(&false),
                    Fate::Fine | Fate::Refused => has_value.is_none(),
                }
            })
        });
    }

    fn read(&mut self) {
        while let Some(polled) = self.reader.poll(Duration::from_millis(10)) {
            // Errors are of brokers that are away: they come back.
            if let Ok(letter) = polled {
                let key = String::from_utf8_lossy(letter.key().unwrap_or_default());
                let has_value = letter.payload().is_some_and(|value| !value.is_empty());
                self.letters.insert(key.into_owned(), has_value);
            }
        }
    }
}
