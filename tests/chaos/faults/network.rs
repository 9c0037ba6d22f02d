//! A network between daemons and brokers that is slow, breaks connections, or carries nothing.

use std::time::Duration;

use crate::dice::Dice;
use crate::stage::Stage;

pub(crate) fn delay(stage: &mut Stage, dice: &mut Dice) {
    for proxy in &stage.cluster.proxies {
        proxy.delay(dice.time(20..250));
    }
    stage.pass(dice.time(4000..10_000));
    heal(stage);
}

/// Again and again.
pub(crate) fn reset(stage: &mut Stage, dice: &mut Dice) {
    for _ in 0..10 {
        let proxy = dice.below(stage.cluster.proxies.len());
        stage.cluster.proxies[proxy].reset();
        stage.pass(dice.time(100..1000));
    }
}

pub(crate) fn cut(stage: &mut Stage, dice: &mut Dice) {
    for proxy in &stage.cluster.proxies {
        proxy.cut();
    }
    stage.pass(dice.time(1000..4000));
    heal(stage);
}

/// Long enough for requests to time out, and for a session where the coordinator is the one.
pub(crate) fn swallow_one(stage: &mut Stage, dice: &mut Dice) {
    let proxy = dice.below(stage.cluster.proxies.len());
    stage.cluster.proxies[proxy].swallow();
    stage.pass(dice.time(4000..15_000));
    heal(stage);
}

pub(crate) fn swallow_all(stage: &mut Stage, dice: &mut Dice) {
    for proxy in &stage.cluster.proxies {
        proxy.swallow();
    }
    stage.pass(dice.time(4000..15_000));
    // What was under way is lost, as after a failure of a router.
    if dice.below(2) == 0 {
        stage
            .cluster
            .proxies
            .iter()
            .for_each(crate::proxy::Proxy::reset);
        stage.pass(Duration::from_millis(100));
    }
    heal(stage);
}

fn heal(stage: &mut Stage) {
    stage
        .cluster
        .proxies
        .iter()
        .for_each(crate::proxy::Proxy::heal);
}
