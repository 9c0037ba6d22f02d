//! Daemons that are killed, frozen, or that come and go.

use crate::dice::Dice;
use crate::fleet::{PROTOCOLS, Protocol, SESSION};
use crate::stage::Stage;
use crate::support::kafka::send_signal;

/// One is killed amid its work, and comes back a little later.
pub(crate) fn kill(stage: &mut Stage, dice: &mut Dice) {
    let index = dice.one_of(&stage.fleet.recruits());
    stage.fleet.members[index].kill();
    stage.pass(dice.time(0..8000));
    stage.fleet.members[index].start(&[]);
}

/// One stands still until the group has given its partitions away, and goes on as if nothing had been.
pub(crate) fn freeze(stage: &mut Stage, dice: &mut Dice) {
    let index = dice.below(stage.fleet.members.len());
    let pid = stage.fleet.members[index].pid();
    send_signal(pid, libc::SIGSTOP);
    stage.pass(SESSION + dice.time(2000..6000));
    send_signal(pid, libc::SIGCONT);
}

/// Every second or two somebody joins, leaves in order or is killed.
pub(crate) fn storm(stage: &mut Stage, dice: &mut Dice) {
    come_and_go(stage, dice, 8);
}

/// The whole group stops and comes back with another way to share its partitions; a short round goes through all.
pub(crate) fn change_protocol(stage: &mut Stage, dice: &mut Dice) {
    for _ in 0..stage.short(PROTOCOLS.len(), 1) {
        stop_all(stage);
        let is = |one: &Protocol| *one == stage.fleet.protocol;
        let next = PROTOCOLS.iter().position(is).unwrap_or_default() + 1;
        stage.fleet.protocol = PROTOCOLS[next % PROTOCOLS.len()];
        start_all(stage);
        come_and_go(stage, dice, 4);
    }
}

fn come_and_go(stage: &mut Stage, dice: &mut Dice, times: usize) {
    for _ in 0..times {
        let index = 1 + dice.below(stage.fleet.members.len() - 1);
        let member = &mut stage.fleet.members[index];
        if !member.is_running() {
            member.start(&[]);
        } else if dice.below(3) == 0 {
            member.kill();
        } else {
            stage.stop(index);
        }
        stage.pass(dice.time(300..2000));
    }
    for member in &mut stage.fleet.members {
        if !member.is_running() {
            member.start(&[]);
        }
    }
}

pub(crate) fn stop_all(stage: &mut Stage) {
    for index in 0..stage.fleet.members.len() {
        stage.stop(index);
    }
}

pub(crate) fn start_all(stage: &mut Stage) {
    stage.fleet.write_all();
    for member in &mut stage.fleet.members {
        member.start(&[]);
    }
}
