//! A dead-letter topic that takes nothing: messages wait, and nothing is committed beyond them.

use crate::dice::Dice;
use crate::stage::Stage;

/// More replicas than there are.
const TOO_MANY: &str = "4";

pub(crate) fn refuse(stage: &mut Stage, dice: &mut Dice) {
    let topic = format!("{}.dead", stage.topic);
    stage.cluster.set(&topic, "min.insync.replicas", TOO_MANY);
    let time = stage.short(8000..10_000, 10_000..40_000);
    stage.pass(dice.time(time));
    let owed = stage.oracle().owed();
    if !owed.is_empty() {
        stage.fail(&format!("committed, and no dead letter: {owed:?}"));
    }
    stage.cluster.set(&topic, "min.insync.replicas", "2");
}
