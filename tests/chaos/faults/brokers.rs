//! Brokers that go, come back, or hand over what they lead.

use serde_json::Value;

use crate::dice::Dice;
use crate::fleet::Member;
use crate::stage::Stage;

pub(crate) fn kill(stage: &mut Stage, dice: &mut Dice) {
    let node = dice.below(stage.cluster.nodes.len());
    kill_one(stage, node, dice);
}

/// The one that knows the group.
pub(crate) fn kill_coordinator(stage: &mut Stage, dice: &mut Dice) {
    let node = stage.cluster.coordinator(&stage.fleet.group);
    kill_one(stage, node.unwrap_or_default(), dice);
}

/// In turn, the ones that know a member's transactions, and the group that these commit to. A short round has the first.
pub(crate) fn kill_coordinators_of_transactions(stage: &mut Stage, dice: &mut Dice) {
    let members = &stage.fleet.members;
    let id = members.iter().find_map(transactional_id);
    let of_transactions = id.and_then(|id| stage.cluster.coordinator_of_transactions(&id));
    let Some(of_transactions) = of_transactions else {
        stage.fail("no member shows a transactional id that has a coordinator");
    };
    kill_one(stage, of_transactions, dice);
    if stage.short(true, false) {
        return;
    }
    let group = stage.fleet.copying_group();
    let of_group = stage.cluster.coordinator(&group);
    kill_one(stage, of_group.unwrap_or_default(), dice);
}

fn transactional_id(member: &Member) -> Option<String> {
    if !member.is_running() {
        return None;
    }
    let told = member.command(&["status", "--json"]).stdout;
    let status: Value = serde_json::from_slice(&told).ok()?;
    let mut consumers = status["consumers"].as_array()?.iter();
    consumers.find_map(|one| Some(one["transactions"]["id"].as_str()?.to_owned()))
}

fn kill_one(stage: &mut Stage, node: usize, dice: &mut Dice) {
    stage.cluster.nodes[node].kill();
    stage.pass(dice.time(3000..12_000));
    stage.cluster.start_missing();
    stage.cluster.wait_in_sync();
}

/// Each in turn, in order, as in an upgrade.
pub(crate) fn roll(stage: &mut Stage, _: &mut Dice) {
    for node in 0..stage.cluster.nodes.len() {
        stage.cluster.nodes[node].stop();
        stage.cluster.start_missing();
        stage.cluster.wait_in_sync();
        stage.check();
    }
}

/// Another replica leads, in every partition.
pub(crate) fn move_leaders(stage: &mut Stage, dice: &mut Dice) {
    let partitions = stage
        .load()
        .partitions
        .load(std::sync::atomic::Ordering::SeqCst);
    let shift = dice.below(stage.cluster.nodes.len());
    stage.cluster.move_leaders(&stage.topic, partitions, shift);
    stage.cluster.wait_in_sync();
}

/// All of them, as in a power cut.
pub(crate) fn blackout(stage: &mut Stage, dice: &mut Dice) {
    stage.coordinator_is_new(true);
    for node in &stage.cluster.nodes {
        node.kill();
    }
    let time = stage.short(8000..12_000, 20_000..60_000);
    stage.pass(dice.time(time));
    stage.cluster.start_missing();
    stage.cluster.wait_in_sync();
    stage.coordinator_is_new(false);
}
