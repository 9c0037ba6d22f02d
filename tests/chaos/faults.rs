//! What can go wrong, each as a function that brings a fault, lets it last and heals it.
//!
//! It returns when nothing is wrong outside any more; whether the daemons recover is for the stage to see.

mod brokers; // they go, come back, hand over what they lead
mod failpoints; // daemons killed at chosen places, workers that panic there
mod idle; // peers that connect and say nothing
mod letters; // the dead-letter topic takes nothing, or not everything
mod members; // daemons killed, frozen, coming and going
mod network; // slow, broken, swallowing everything
mod reloads; // files that change in quick succession
mod side; // a topic beside the load
mod topics; // made anew, cut off, grown, full of odd data
mod transactions; // records that nobody is to see

use crate::dice::Dice;
use crate::stage::Stage;

pub(crate) type Fault = fn(&mut Stage, &mut Dice);

/// Those of the short round, in an order that each run shuffles.
pub(crate) const ALL: &[(&str, Fault)] = &[
    ("kill -9", members::kill),
    ("frozen beyond its session", members::freeze),
    ("members come and go", members::storm),
    ("another group protocol", members::change_protocol),
    ("killed at fail points", failpoints::kill),
    ("a worker panics", failpoints::panic),
    ("storm of reloads", reloads::storm),
    ("partitions added", topics::add_partitions),
    ("topic made anew", topics::recreate),
    ("topic made anew at once", topics::recreate_at_once),
    ("retention passes a position", topics::retention),
    ("unclean leader election", topics::truncate),
    ("odd data", topics::oddities),
    ("aborted tails", transactions::abort),
    ("dead letters refused", letters::refuse),
    ("records refused for good", letters::refuse_for_good),
    ("idle connections", idle::crowd),
    ("broker killed", brokers::kill),
    ("coordinator killed", brokers::kill_coordinator),
    (
        "transactions' coordinators killed",
        brokers::kill_coordinators_of_transactions,
    ),
    ("brokers restarted in turn", brokers::roll),
    ("leaders moved", brokers::move_leaders),
    ("no broker at all", brokers::blackout),
    ("slow network", network::delay),
    ("connections reset", network::reset),
    ("connections cut in a message", network::cut),
    ("one broker swallowed", network::swallow_one),
    ("all brokers swallowed", network::swallow_all),
];

/// Over within seconds, and nothing that stays in the cluster grows by them.
pub(crate) const QUICK: &[&str] = &[
    "kill -9",
    "frozen beyond its session",
    "members come and go",
    "storm of reloads",
    "retention passes a position",
    "odd data",
    "idle connections",
    "leaders moved",
    "slow network",
    "connections reset",
    "connections cut in a message",
    "one broker swallowed",
];
