//! Daemons that are killed at chosen places, where a power cut would be worst, and daemons whose workers panic there.

use std::time::Duration;

use crate::dice::Dice;
use crate::stage::Stage;
use crate::support::kafka::send_signal;

/// What makes a daemon pass a place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Work,
    /// Somebody else joins.
    Rebalance,
    Reload,
    Stop,
}

/// Where, by what, and at which pass at most.
const PLACES: &[(&str, By, usize)] = &[
    ("before-handler", By::Work, 3000),
    ("after-handler", By::Work, 3000),
    ("before-lane", By::Work, 10),
    ("after-lane", By::Work, 10),
    ("handler-waits", By::Work, 10),
    ("letter-sent", By::Work, 1),
    ("letter-acknowledged", By::Work, 1),
    ("transaction-put", By::Work, 100),
    ("transaction-before-offsets", By::Work, 20),
    ("transaction-after-offsets", By::Work, 20),
    ("transaction-before-commit", By::Work, 20),
    ("transaction-after-commit", By::Work, 20),
    ("assigned", By::Work, 1),
    ("before-commit", By::Work, 20),
    ("commit-in-flight", By::Work, 20),
    ("after-commit", By::Work, 20),
    ("revoke-begun", By::Rebalance, 1),
    ("before-unassign", By::Rebalance, 1),
    ("before-swap", By::Reload, 1),
    ("after-swap", By::Reload, 1),
    ("drain-begun", By::Stop, 1),
];

/// Where a worker panics, by what, and at which pass at most.
const PANICS: &[(&str, By, usize)] = &[
    ("worker-turn", By::Work, 500),
    ("before-handler", By::Work, 3000),
    ("after-handler", By::Work, 3000),
    ("before-lane", By::Work, 10),
    ("after-lane", By::Work, 10),
    ("handler-waits", By::Work, 10),
    ("letter-sent", By::Work, 1),
    ("letter-acknowledged", By::Work, 1),
    ("worker-stop", By::Stop, 1),
];

/// Longer than a rebalance that waits for a member that was killed.
const REACHES: Duration = Duration::from_secs(45);
/// A drain, the last commit, and the end of every thread.
const ENDS: Duration = Duration::from_secs(45);

/// Tries to have something taken away from one member.
const REBALANCES: usize = 3;

/// Every place once; in a short round some of them.
pub(crate) fn kill(stage: &mut Stage, dice: &mut Dice) {
    let mut places = PLACES.to_vec();
    dice.shuffle(&mut places);
    places.truncate(stage.short(4, PLACES.len()));
    for place in places {
        kill_at(stage, place, dice);
    }
}

/// A worker panics, the others drain, and the daemon ends; whoever started it starts it again after a while, as systemd
/// does. Every place once; in a short round some of them.
pub(crate) fn panic(stage: &mut Stage, dice: &mut Dice) {
    let mut places = PANICS.to_vec();
    dice.shuffle(&mut places);
    places.truncate(stage.short(2, PANICS.len()));
    for (name, by, most) in places {
        let index = dice.one_of(&stage.fleet.recruits());
        let value = format!("{name}={}:panic", 1 + dice.below(most));
        stage.stop(index);
        arm(stage, index, &value, by);
        if by == By::Stop {
            send_signal(stage.fleet.members[index].pid(), libc::SIGTERM);
        }
        stage.wait(&format!("a worker panics at {value}"), REACHES, |stage| {
            stage.fleet.members[index].has_panicked()
        });
        stage.wait(
            &format!("the daemon ends by the panic at {value}"),
            ENDS,
            |stage| stage.fleet.members[index].has_ended_by_panic(),
        );
        stage.report.reached(&format!("{name}:panic"));
        stage.pass(dice.time(0..2000));
        stage.fleet.members[index].start(&[]);
    }
}

/// Starts a member with a fault at a fail point, and waits until it works where something else is to bring it there.
fn arm(stage: &mut Stage, index: usize, value: &str, by: By) {
    stage.fleet.members[index].start(&[("MOONTIDE_FAILPOINT", value)]);
    if by != By::Work {
        let instance = stage.fleet.members[index].instance.clone();
        let runs = stage.oracle().runs_of(&instance);
        stage.wait(&format!("{instance} is at work"), REACHES, |stage| {
            stage.oracle().runs_of(&instance) > runs
        });
    }
}

fn kill_at(stage: &mut Stage, (name, by, most): (&str, By, usize), dice: &mut Dice) {
    let recruits = stage.fleet.recruits();
    let index = dice.one_of(&recruits);
    let value = format!("{name}={}", 1 + dice.below(most));
    stage.fleet.members[index].kill();
    arm(stage, index, &value, by);
    match by {
        By::Work => {}
        By::Rebalance => {
            if is_revoked(stage, index, &recruits) {
                stage.report.reached(name);
            } else {
                // Whoever shares out the partitions took none from it: another time.
                stage.fleet.members[index].kill();
            }
            stage.fleet.members[index].start(&[]);
            return;
        }
        By::Reload => {
            stage.fleet.version += 1;
            stage.fleet.write(index);
        }
        By::Stop => send_signal(stage.fleet.members[index].pid(), libc::SIGTERM),
    }
    stage.wait(
        &format!("a daemon passes the fail point {value}"),
        REACHES,
        |stage| stage.fleet.members[index].was_killed(),
    );
    stage.report.reached(name);
    stage.fleet.members[index].start(&[]);
}

/// Another member leaves and comes back, so that the others have to give it something: whether this one did, and was
/// killed by it. Under a protocol that moves as little as it can, it need not.
fn is_revoked(stage: &mut Stage, index: usize, recruits: &[usize]) -> bool {
    let mut others = recruits.iter().copied();
    let Some(other) = others.find(|other| *other != index) else {
        return false;
    };
    for _ in 0..REBALANCES {
        stage.stop(other);
        stage.pass(Duration::from_secs(3));
        stage.fleet.members[other].start(&[]);
        for _ in 0..10 {
            stage.pass(Duration::from_secs(1));
            if stage.fleet.members[index].was_killed() {
                return true;
            }
        }
    }
    false
}
