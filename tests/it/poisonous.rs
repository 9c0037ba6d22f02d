//! Every so often a message that would take the VM for ever, or all of its memory: what it costs the others.

use crate::support::client::{Message, Topic, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::DEADLINE;

/// What a message says is done at each of its attempts.
const HANDLERS: &str = r#"
local record = require "record"
local function recurse() return 1 + recurse() end
return function(message, ctx)
  record.line("try", message, ctx)
  if message.value == "loop" then while true do end end
  if message.value == "pcall loop" then while true do pcall(function() while true do end end) end end
  if message.value == "bomb" then
    local all = {}
    while true do all[#all + 1] = string.rep("x", 100000) .. #all end
  end
  if message.value == "recursion" then recurse() end
  record.line("end", message, ctx)
end
"#;

const POISONS: [&str; 4] = ["loop", "bomb", "recursion", "pcall loop"];

/// Each of them is run so often as it may, then dead-lettered; every other message runs once, as a first attempt, also
/// those of its lane; and while one of them holds its worker, the lanes of another worker go on.
#[test]
fn what_never_ends_is_dead_lettered_and_the_others_lose_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let (partitions, each) = (4, 60);
    let topic = kafka.topic("poisonous", partitions as usize);
    let dead = kafka.topic_named(format!("{}.dead", topic.name), partitions as usize);
    let project = Project::new(kafka).sections("[lua]\nworkers = 2\nmemory = \"24MiB\"");
    project.handler("handlers.lua", HANDLERS);
    project.config(
        &(from_beginning("handlers", &topic.name, "handlers")
            + "limits = { blocking = \"2s\" }\nbreaker = false\n\
               retry = { attempts = 2, initialDelay = 10 }\n\
               deadLetter = { topic = \"{topic}.dead\" }\n"),
    );
    produce(&topic, partitions, each);

    let mut daemon = Daemon::start(&project);

    daemon.wait_for("each message has its outcome", |_| {
        (0..partitions)
            .all(|number| kafka.committed(&project.group, &topic.name, number) == Some(each as i64))
    });
    let ends = project.wait_for_entries("end", partitions as usize * (each as usize - 2), DEADLINE);
    assert!(
        ends.iter().all(|one| one.attempt == 1),
        "nobody lost an attempt"
    );
    let letters = kafka.read(&dead.name, partitions, 2 * partitions as usize);
    assert_eq!(letters.len(), 2 * partitions as usize);
    for letter in &letters {
        assert_eq!(letter.header("moontide-attempts"), "2", "{letter:?}");
        let value = String::from_utf8(letter.value.clone().unwrap()).unwrap();
        let words = match &*value {
            // The stack of Lua has a limit too, which takes more memory than there is here.
            "bomb" | "recursion" => "not enough memory",
            _ => "limits.blocking",
        };
        assert!(
            letter.header("moontide-error").contains(words),
            "{letter:?}"
        );
    }
    daemon.stop();
}

/// While a loop holds one worker, the lanes of the other one go on.
#[test]
fn a_loop_does_not_hold_up_the_other_worker() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("loop", 2);
    let project = Project::new(kafka).sections("[lua]\nworkers = 2");
    project.handler("handlers.lua", HANDLERS);
    project.config(
        &(from_beginning("handlers", &topic.name, "handlers")
            + "limits = { blocking = \"10m\", timeout = \"10m\" }\nonError = \"skip\"\n"),
    );
    topic.produce(["loop", "after"].map(|value| Message::value(value).partition(0)));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("try", 1, DEADLINE);

    // Each is handled before the next one is produced.
    for number in 0..3 {
        topic.produce(numbered(number..number + 1, 1));
        daemon.wait_for("the other worker goes on", |_| {
            project.values_of("end").contains(&number.to_string())
        });
    }
    daemon.wait_for("and commits", |_| {
        kafka.committed(&project.group, &topic.name, 1) == Some(3)
    });
    daemon.kill();
    assert_eq!(project.values_of("try"), ["loop", "0", "1", "2"]);
}

/// Two of each partition are poison.
fn produce(topic: &Topic<'_>, partitions: i32, each: u64) {
    for partition in 0..partitions {
        let mut messages = numbered(0..each, partition);
        for (index, place) in [each / 3, 2 * each / 3].into_iter().enumerate() {
            let poison = POISONS[(partition as usize + 2 * index) % POISONS.len()];
            messages[place as usize] = Message::value(poison).partition(partition);
        }
        topic.produce(messages);
    }
}

/// A call that is given up commits nothing, and neither does giving up its message: a manual listener's position is what
/// its other calls have asked for.
#[test]
fn a_cancelled_call_of_a_manual_listener_commits_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("given-up", 1);
    let project = Project::new(kafka);
    project.handler(
        "manual.lua",
        r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          record.line("try", message, ctx)
          if message.value ~= "0" then
            pcall(tide.sleep, "1h")
            record.line("woke", message, ctx)
          end
          ctx.commitOffsets(message.offset + 1)
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("manual", &topic.name, "manual")
            + "runConfig = { autoCommit = false }\nonError = \"skip\"\n\
               limits = { timeout = \"300ms\", blocking = \"300ms\" }\n"),
    );
    topic.produce(numbered(0..3, 0));

    let mut daemon = Daemon::start(&project);

    daemon.wait_for("the last one is given up", |daemon| {
        daemon.count(|line| line.mentions("message skipped")) == 2
    });
    assert_eq!(project.values_of("try"), ["0", "1", "2"]);
    assert_eq!(project.values_of("done"), ["0"]);
    assert!(project.values_of("woke").is_empty());
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(1));
}

/// `limits.timeout` while the answer to a commit is out: the call is given up and its message runs again; the answer that
/// comes later is nobody's.
#[test]
fn a_call_that_is_given_up_amid_its_commit_harms_nobody() {
    let Some(kafka) = kafka::Kafka::start_own() else {
        return;
    };
    let topic = kafka.topic("amid", 1);
    let project = Project::new(&kafka).consumer("sessionTimeout = \"45s\"");
    project.handler(
        "manual.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          record.line("try", message, ctx)
          if message.value ~= "0" and not io.open("gate") then error("the gate is closed") end
          local stands = ctx.commitOffsets(message.offset + 1)
          record.line("done", message, ctx, stands)
        end
        "#,
    );
    project.config(
        &(from_beginning("manual", &topic.name, "manual")
            + "runConfig = { autoCommit = false }\nretry = { initialDelay = 50, maxDelay = 100 }\n\
               limits = { timeout = \"500ms\", blocking = \"300ms\" }\n"),
    );
    topic.produce(numbered(0..1, 0));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("done", 1, DEADLINE);
    topic.produce(numbered(1..4, 0));
    daemon.wait_for("it has the next one", |_| {
        project.entries_of("try").len() > 1
    });
    kafka.freeze();
    project.open_gate();
    daemon.wait_line("a call is given up", |line| line.mentions("limits.timeout"));
    kafka.thaw();

    daemon.wait_for("the rest is done", |_| project.values_of("done").len() == 4);
    let done: Vec<_> = project
        .entries_of("done")
        .into_iter()
        .map(|one| (one.value, one.extra))
        .collect();
    let expected = [("0", "1"), ("1", "2"), ("2", "3"), ("3", "4")];
    assert_eq!(
        done,
        expected.map(|(value, stands)| (value.to_owned(), stands.to_owned()))
    );
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(4));
}
