//! The suite that tries to break the daemon: three brokers, a network that fails, members that are killed, and an oracle
//! that watches all the time.
//!
//! One short round belongs to the test command; `tests/chaos/soak MINUTES` goes on for as long as it is told. Every run
//! prints its seed, and the same seed brings the same faults.

#![expect(clippy::unwrap_used, reason = "a test ends by a panic")]

mod support;

mod cluster; // three brokers, and what an administrator does to them
mod commits; // what a coordinator can answer to a commit
mod copies; // what exactly-once consumers have emitted
mod dice; // chance that can be repeated
mod driver; // the load, and what of it is acknowledged
mod echoes; // what the other consumers have emitted
mod fate; // what is to become of a message, by its number
mod faults; // what can go wrong
mod fleet; // the daemons
mod floor; // which offsets are done
mod letters; // what became of messages that can't be handled
mod oracle; // what became of every message
mod proxy; // the network between daemons and brokers
mod report; // what a run has seen
mod stage; // a run

use std::time::{Duration, Instant};

use dice::Dice;
use fleet::Protocol;
use oracle::Order;
use stage::{Setting, Stage};

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Every fault once, shuffled; `MOONTIDE_CHAOS_FAULTS` picks those that have one of its words in their names.
fn deck(dice: &mut Dice) -> Vec<(&'static str, faults::Fault)> {
    let words = std::env::var("MOONTIDE_CHAOS_FAULTS").unwrap_or_default();
    let mut faults = faults::ALL.to_vec();
    faults.retain(|(name, _)| words.split(',').any(|word| name.contains(word)));
    assert!(
        !faults.is_empty(),
        "no fault's name has a word of `{words}`"
    );
    dice.shuffle(&mut faults);
    faults
}

/// Every fault, those that are over within seconds four times as often: otherwise the few that last for a minute would
/// leave no time for the others.
fn long_deck(dice: &mut Dice) -> Vec<(&'static str, faults::Fault)> {
    let mut faults = deck(dice);
    let quick: Vec<_> = faults
        .iter()
        .filter(|(name, _)| faults::QUICK.contains(name))
        .copied()
        .collect();
    faults.extend(quick.repeat(3));
    dice.shuffle(&mut faults);
    faults
}

/// Every fault once, in an order of the seed's.
#[test]
fn a_round_of_every_fault_loses_nothing() {
    if from_environment("MOONTIDE_CHAOS_MINUTES").is_some() {
        return;
    }
    let seed =
        from_environment("MOONTIDE_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(0..1_000_000));
    report::say(&format!("chaos: MOONTIDE_CHAOS_SEED={seed}"));
    let mut dice = Dice::new(seed);
    let setting = Setting {
        seed,
        rate: 600,
        partitions: 6,
        members: 3,
        protocol: dice.one_of(&fleet::PROTOCOLS),
        order: dice.one_of(&[Order::Partition, Order::Key]),
        is_short: true,
    };
    let Some(mut stage) = Stage::set(&setting) else {
        return;
    };
    for (name, fault) in deck(&mut dice) {
        stage.suffer(name, fault, &mut dice.fork());
    }
    let report = stage.finish();
    report::say(&report.markdown("cargo test --test chaos"));
}

/// `tests/chaos/soak`: random faults for as long as it is told.
#[test]
fn soak() {
    let Some(minutes) = from_environment("MOONTIDE_CHAOS_MINUTES") else {
        return;
    };
    let seed =
        from_environment("MOONTIDE_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(0..1_000_000));
    let rate = from_environment("MOONTIDE_CHAOS_RATE").unwrap_or(7500);
    report::say(&format!(
        "chaos: seed {seed}, {rate} messages a second, {minutes} minutes"
    ));
    let setting = Setting {
        seed,
        rate,
        partitions: 12,
        members: 3,
        protocol: Protocol::Cooperative,
        order: Order::Key,
        is_short: false,
    };
    let mut stage = Stage::set(&setting).expect("a soak needs java and mvn");
    let until = Instant::now() + Duration::from_secs(minutes * 60);
    let mut dice = Dice::new(seed);
    let mut faults = Vec::new();
    while Instant::now() < until {
        if faults.is_empty() {
            faults = long_deck(&mut dice);
        }
        let Some((name, fault)) = faults.pop() else {
            break;
        };
        stage.suffer(name, fault, &mut dice.fork());
        stage.pass(dice.time(500..2500));
    }
    let report = stage.finish();
    let command = format!("tests/chaos/soak {minutes} --seed {seed} --rate {rate}");
    let text = report.markdown(&command);
    report::say(&text);
    if let Some(file) = std::env::var_os("MOONTIDE_CHAOS_REPORT") {
        std::fs::write(file, text).unwrap();
    }
}
