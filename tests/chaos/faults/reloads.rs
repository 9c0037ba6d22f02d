//! Handlers and config that change faster than anybody would save them, broken ones in between.

use std::time::Duration;

use crate::dice::Dice;
use crate::stage::Stage;

/// The last version is the one that runs in the end, in every member.
const ARRIVES: Duration = Duration::from_secs(60);

pub(crate) fn storm(stage: &mut Stage, dice: &mut Dice) {
    let side = format!("reloads-{}", stage.fleet.version);
    stage.cluster.create_topic(&side, 1, &[]);
    for _ in 0..20 {
        match dice.below(8) {
            0 | 1 => break_handlers(stage),
            2 => {
                stage.fleet.side_topic = match stage.fleet.side_topic {
                    None => Some(side.clone()),
                    Some(_) => None,
                };
                write(stage);
            }
            // Taken by leaving the group and joining it again.
            3 => {
                stage.fleet.max_wait_ms = 900 - stage.fleet.max_wait_ms;
                write(stage);
            }
            _ => write(stage),
        }
        stage.pass(dice.time(30..400));
    }
    stage.fleet.side_topic = None;
    write(stage);
    let last = stage.fleet.version;
    stage.wait("the last version runs everywhere", ARRIVES, |stage| {
        let oracle = stage.oracle();
        let mut members = stage.fleet.members.iter();
        members.all(|member| oracle.newest_version(&member.instance) == last)
    });
    stage.cluster.delete_topic(&side);
}

fn write(stage: &mut Stage) {
    stage.fleet.version += 1;
    stage.fleet.write_all();
}

fn break_handlers(stage: &Stage) {
    for member in &stage.fleet.members {
        // In place, as the plainest of editors does, and only half of it.
        let text = stage.fleet.handler(&member.instance);
        member
            .place()
            .handler("numbers.lua", &text[..text.len() / 2]);
    }
}
