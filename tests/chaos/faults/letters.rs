//! A dead-letter topic that takes nothing: messages wait, and nothing is committed beyond them.

use crate::dice::Dice;
use crate::stage::Stage;

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
