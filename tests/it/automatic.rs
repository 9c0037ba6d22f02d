//! Automatic listeners: when they commit by count and by time, and how much of a topic runs at once.

use std::time::{Duration, Instant};

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::http::{address, scrape};
use crate::support::kafka;
use crate::support::project::{Project, RECORDING, from_beginning};
use crate::support::wait::{DEADLINE, stays};

/// S10: neither interval nor threshold: committed when a partition has nothing left to do.
#[test]
fn an_idle_partition_is_committed() {
    committed_without_an_end("");
}

/// S10: … and one that has more to come is busy, however often it has run what the last fetch brought.
#[test]
fn a_backlog_is_committed_once_a_second() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("backlog", 1);
    let project = Project::new(kafka)
        .sections("[log]\nformat = \"json\"\n[http]\nlisten = \"127.0.0.1:0\"\n")
        // A few of the producer's batches a fetch.
        .consumer("maxBytesPerPartition = 1024\nlibrdkafka = { 'queued.min.messages' = 1 }");
    project.handler("orders.lua", "return function() end");
    project.config(&from_beginning("orders", &topic.name, "orders"));
    topic.produce_with(&[("batch.num.messages", "10")], numbered(0..5000, 0));
    let began = Instant::now();
    let mut daemon = Daemon::start(&project);
    let address = address(&mut daemon);
    let of = [("topic", topic.name.as_str())];
    let samples = daemon.wait_some("all is committed", |_| {
        let samples = scrape(&address);
        (samples.get("moontide_committed_offset", &of) == Some(5000.0)).then_some(samples)
    });
    let commits: f64 = samples.all("moontide_commits_total", &[]).sum();
    // The start, each second, and the end.
    let most = began.elapsed().as_secs_f64() + 3.0;
    assert!(
        commits <= most,
        "{commits} commits where {most} were expected at most"
    );
    daemon.stop();
}

/// S10: by count.
#[test]
fn a_threshold_commits_by_count() {
    committed_without_an_end(
        "runConfig = { autoCommitInterval = \"1h\", autoCommitThreshold = 3 }\n",
    );
}

/// S10: … and the rest when there is not, be there ever so much in the log that is no message.
#[test]
fn a_threshold_commits_what_a_transaction_ends() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("marker", 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.config(
        &(from_beginning("orders", &topic.name, "orders.handle")
            + "runConfig = { autoCommitThreshold = 1000 }\n"),
    );
    topic.produce_in_transactions(numbered(0..3, 0));
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("what is handled is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(6)
    });
    daemon.stop();
}

/// S10: … exactly so many, as long as there is more to do; and the rest when there is not.
#[test]
fn a_threshold_commits_at_exactly_its_count() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("threshold", 1);
    let project = Project::new(kafka);
    project.handler(
        "orders.lua",
        r#"
        local record = require "record"
        local tide = require "tide"
        return function(message, ctx)
          while not io.open("gate-" .. message.value) do tide.sleep(10) end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("orders", &topic.name, "orders")
            + "runConfig = { autoCommitThreshold = 3 }\n"),
    );
    topic.produce(numbered(0..8, 0));
    let committed = || kafka.committed(&project.group, &topic.name, 0).unwrap_or(0);
    let mut daemon = Daemon::start(&project);
    for (done, expected) in [(1, 0), (2, 0), (3, 3), (5, 3), (6, 6), (7, 6)] {
        for message in 0..done {
            project.write(&format!("gate-{message}"), "");
        }
        project.wait_for_entries("done", done, DEADLINE);
        daemon.wait_for("committed by count", |_| committed() >= expected);
        stays("and no further", Duration::from_millis(300), || {
            committed() == expected
        });
    }
    project.write("gate-7", "");
    daemon.wait_for("all is done, and committed", |_| committed() == 8);
    daemon.stop();
}

/// S10: … and not with every message.
#[test]
fn an_interval_alone_commits_no_sooner() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("interval", 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.config(
        &(from_beginning("orders", &topic.name, "orders.handle")
            + "runConfig = { autoCommitInterval = \"1h\" }\n"),
    );
    topic.produce(numbered(0..5, 0));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("done", 5, DEADLINE);
    stays("the hour is not over", Duration::from_secs(1), || {
        kafka.committed(&project.group, &topic.name, 0).unwrap_or(0) == 0
    });
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(5));
}

/// S10: by time.
#[test]
fn an_interval_commits_by_time() {
    committed_without_an_end("runConfig = { autoCommitInterval = \"300ms\" }\n");
}

fn committed_without_an_end(run_config: &str) {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("committed", 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.config(&(from_beginning("orders", &topic.name, "orders.handle") + run_config));
    topic.produce(numbered(0..3, 0));
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("what is handled is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(3)
    });
    let partition = daemon.wait_some("the status has the partition", |daemon| {
        daemon.try_status()?["consumers"][0]["partitions"]
            .get(0)
            .cloned()
    });
    assert_eq!(
        (&partition["committed"], &partition["inFlight"]),
        (&3.into(), &0.into()),
        "{partition}"
    );
    daemon.stop();
}

/// S10: `partitionsConsumedConcurrently = 1`: one partition at a time.
#[test]
fn partitions_can_be_consumed_one_at_a_time() {
    assert_eq!(
        most_partitions_at_once("runConfig = { partitionsConsumedConcurrently = 1 }\n", ""),
        1
    );
}

/// S10: … of all workers together, not of each.
#[test]
fn the_limit_of_partitions_is_that_of_all_workers() {
    let workers = "[lua]\nworkers = 3";
    for limit in [1, 2] {
        let run_config = format!("runConfig = {{ partitionsConsumedConcurrently = {limit} }}\n");
        assert!(most_partitions_at_once(&run_config, workers) <= limit);
    }
}

/// `maxInFlight` bounds what is handled at once, of one topic.
#[test]
fn messages_in_flight_have_a_limit() {
    assert!(most_partitions_at_once("maxInFlight = 2\n", "") <= 2);
}

/// S10: by default all assigned partitions at once.
#[test]
fn partitions_are_consumed_concurrently() {
    assert!(most_partitions_at_once("", "") > 1);
}

/// What is finished is committed while the lane goes on, be its messages ever so slow.
#[test]
fn slow_messages_do_not_hold_back_the_position() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("slow", 1);
    let project = Project::new(kafka);
    project.handler(
        "slow.lua",
        r#"
        local record = require "record"
        local tide = require "tide"
        return function(message, ctx)
          -- Meanwhile all others come in.
          if message.offset == 0 then tide.sleep(1500) end
          local start = os.clock()
          while os.clock() - start < 0.02 do end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("slow", &topic.name, "slow")
            + "runConfig = { autoCommitInterval = 100 }\n"),
    );
    topic.produce(numbered(0..240, 0));
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("committed", |_| {
        kafka
            .committed(&project.group, &topic.name, 0)
            .is_some_and(|position| position > 0)
    });
    let done = project.entries().len();
    assert!(done < 150, "nothing was committed before message {done}");
    daemon.stop();
}

fn most_partitions_at_once(run_config: &str, sections: &str) -> usize {
    // As many as with a limit of one: nothing to complain of.
    let Some(kafka) = kafka::shared() else {
        return usize::from(run_config.is_empty()) + 1;
    };
    let topic = kafka.topic("concurrent", 4);
    let project = Project::new(kafka).sections(sections);
    project.handler(
        "slow.lua",
        r#"
        local record = require "record"
        local tide = require "tide"
        return function(message, ctx)
          record.line("begin", message, ctx)
          tide.sleep(40)
          record.line("end", message, ctx)
        end
        "#,
    );
    project.config(&(from_beginning("slow", &topic.name, "slow") + run_config));
    topic.produce((0..40).map(|number| Message::value(number.to_string()).partition(number % 4)));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("end", 40, DEADLINE);
    daemon.stop();
    let (mut running, mut most) = (Vec::new(), 0);
    for entry in project.entries() {
        if entry.event == "begin" {
            assert!(
                !running.contains(&entry.partition),
                "two messages of one partition at once"
            );
            running.push(entry.partition);
        } else {
            running.retain(|partition| *partition != entry.partition);
        }
        most = most.max(running.len());
    }
    most
}
