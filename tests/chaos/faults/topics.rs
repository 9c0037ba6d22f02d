//! What happens to topics: they grow, are made anew, lose what was read, and hold whatever somebody has put there.
//!
//! Each but the first has a topic beside the load.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use rdkafka::admin::TopicReplication;

use super::members::{start_all, stop_all};
use super::side::{HANDLED, forget, listen, listen_to, produce, topic, wait_for};
use crate::dice::Dice;
use crate::driver::PARTITIONS_MAX;
use crate::stage::Stage;
use crate::support::client::Message;
use crate::support::kafka::{send_signal, unique};

/// Of a topic that is deleted and created again at once.
const PARTITIONS: i32 = 2;

pub(crate) fn add_partitions(stage: &mut Stage, _: &mut Dice) {
    let count = stage.load().partitions.load(Ordering::SeqCst) + 2;
    if count as usize > PARTITIONS_MAX {
        return;
    }
    stage.cluster.add_partitions(&stage.topic, count);
    stage.load().partitions.store(count, Ordering::SeqCst);
    let new = count as usize - 1;
    // Its messages count as everybody's; here somebody has to have taken it.
    stage.wait("the new partition is consumed", HANDLED, |stage| {
        stage.oracle().floors()[new] > 0
    });
}

/// Deleted and created again, with messages that stand at the same offsets as others before.
pub(crate) fn recreate(stage: &mut Stage, _: &mut Dice) {
    let topic = listen(stage, "anew", 2, &[]);
    for life in 0..2 {
        produce(stage, &topic, &format!("life{life}"), 0..200);
        wait_for(stage, &topic, &format!("life{life}"), 0..200);
        stage.cluster.delete_topic(&topic);
        if life == 0 {
            stage.cluster.create_topic(&topic, 2, &[]);
        }
    }
    forget(stage);
}

/// Deleted and created again at once, amid messages, or while every member stands still: what was acknowledged after the
/// creation is handled, whatever the group has committed before.
pub(crate) fn recreate_at_once(stage: &mut Stage, dice: &mut Dice) {
    let name = listen(stage, "hurried", PARTITIONS, &[]);
    // Each life is longer than the one before: the old position is an offset of the new topic too.
    let mut count = 100 + dice.below(200) as u32;
    produce(stage, &name, "life0", 0..count);
    wait_for(stage, &name, "life0", 0..count);
    for life in 1..=stage.short(2, 4) {
        // Some of them may be unhandled when the topic goes, and go with it.
        produce(stage, &name, "last", 0..dice.below(400) as u32);
        let is_unseen = dice.below(2) == 0;
        if is_unseen {
            signal_all(stage, libc::SIGSTOP);
        }
        stage.cluster.delete_topic(&name);
        stage.cluster.create_topic(&name, PARTITIONS, &[]);
        wait_until_empty(stage, &name);
        count = 2 * count + 400;
        let word = format!("life{life}");
        produce(stage, &name, &word, 0..count / 2);
        if is_unseen {
            signal_all(stage, libc::SIGCONT);
        }
        if dice.below(2) == 0 {
            wait_for(stage, &name, &word, 0..count / 2);
            let index = dice.one_of(&stage.fleet.recruits());
            stage.fleet.members[index].kill();
            stage.fleet.members[index].start(&[]);
        }
        produce(stage, &name, &word, count / 2..count);
        wait_for(stage, &name, &word, 0..count);
    }
    forget(stage);
    stage.cluster.delete_topic(&name);
}

fn signal_all(stage: &Stage, signal: i32) {
    for index in stage.fleet.members_alive() {
        send_signal(stage.fleet.members[index].pid(), signal);
    }
}

/// Every broker has forgotten the old topic: what is acknowledged from now on stands in the new one.
fn wait_until_empty(stage: &mut Stage, name: &str) {
    stage.wait("the new topic is empty", HANDLED, |stage| {
        (0..PARTITIONS).all(|partition| {
            let watermarks = stage.cluster.watermarks(name, partition);
            watermarks.is_ok_and(|watermarks| watermarks == (0, 0))
        })
    });
}

/// While nobody looks, the broker deletes what the group has not read yet; what is left is read.
pub(crate) fn retention(stage: &mut Stage, _: &mut Dice) {
    let topic = listen(stage, "retention", 1, &[]);
    produce(stage, &topic, "read", 0..200);
    wait_for(stage, &topic, "read", 0..200);
    stop_all(stage);
    produce(stage, &topic, "late", 0..400);
    stage.cluster.delete_records(&topic, 0, 400);
    start_all(stage);
    wait_for(stage, &topic, "late", 200..400);
    forget(stage);
    stage.cluster.delete_topic(&topic);
}

/// A replica that had fallen behind leads: what only the other one had is gone, and offsets are given out again.
pub(crate) fn truncate(stage: &mut Stage, dice: &mut Dice) {
    let nodes = stage.cluster.nodes.len();
    let ahead = dice.below(nodes);
    let behind = (ahead + 1) % nodes;
    let name = unique("unclean");
    let replicas = [ahead as i32 + 1, behind as i32 + 1];
    stage.cluster.create_topic_on(
        &name,
        1,
        TopicReplication::Variable(&[&replicas]),
        &[
            ("min.insync.replicas", "1"),
            ("unclean.leader.election.enable", "true"),
        ],
    );
    listen_to(stage, &name);
    produce(stage, &name, "both", 0..200);
    wait_for(stage, &name, "both", 0..200);
    stage.cluster.nodes[behind].kill();
    stage.wait("one replica is alone", HANDLED, |stage| {
        stage.cluster.replicas_in_sync(&name) == Some(1)
    });
    produce(stage, &name, "one", 0..300);
    wait_for(stage, &name, "one", 0..300);
    stage.cluster.nodes[ahead].kill();
    stage.cluster.nodes[behind].start();
    stage.wait("the other one leads", HANDLED, |stage| {
        stage.cluster.leader(&name, 0) == Some(behind)
    });
    produce(stage, &name, "other", 0..100);
    stage.cluster.start_missing();
    wait_for(stage, &name, "other", 0..100);
    produce(stage, &name, "after", 0..400);
    wait_for(stage, &name, "after", 0..400);
    forget(stage);
    stage.cluster.delete_topic(&name);
    stage.cluster.wait_in_sync();
}

/// Everything that Kafka takes: nulls, empty and enormous values, names that are no text, compaction, transactions.
pub(crate) fn oddities(stage: &mut Stage, _: &mut Dice) {
    let settings = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("segment.ms", "1000"),
        ("max.message.bytes", "2097152"),
    ];
    let name = listen(stage, "oddities", 1, &settings);
    let cluster = stage.cluster.clone();
    let topic = topic(&cluster, &name);
    let tombstone = Message {
        key: Some(b"gone".to_vec()),
        ..Message::default()
    };
    topic.produce([
        Message::value("").key(""),
        Message::value("bytes").key([0, 159, 146, 150]),
        Message::value("headers")
            .key("h")
            .header([255, 254], Some(&[0]))
            .header("x", None)
            .header("x", Some(b"")),
        Message::value(vec![b'x'; 1_000_000]).key("large"),
        Message::value("gone").key("gone"),
        tombstone,
    ]);
    topic.produce_in_vain([
        Message::value("aborted").key("a"),
        Message::value("aborted").key("b"),
    ]);
    topic.produce_in_transactions([Message::value("kept").key("k")]);
    topic.produce_in_vain([Message::value("aborted").key("c")]);
    topic.produce([Message::value("last").key("l")]);
    stage.wait(
        "the last of the odd messages is handled",
        HANDLED,
        |stage| {
            stage
                .fleet
                .side_values(&name)
                .iter()
                .any(|value| value == "last")
        },
    );
    let values: BTreeSet<String> = stage.fleet.side_values(&name).into_iter().collect();
    let expected = [
        "",
        "bytes",
        "headers",
        "1000000 bytes",
        "nil",
        "kept",
        "last",
    ];
    let missing: Vec<_> = expected
        .iter()
        .filter(|value| !values.contains(**value))
        .collect();
    if !missing.is_empty() || values.contains("aborted") {
        stage.fail(&format!(
            "of the odd messages {values:?} are handled, and not {missing:?}"
        ));
    }
    forget(stage);
    stage.cluster.delete_topic(&name);
}
