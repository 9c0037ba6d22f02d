//! The search for the message of a failed batch that is to blame.
//!
//! The whole runs again after a wait, since most failures pass. **From its second failed run on it is halved.** If the
//! first half is done, the second one has the message, and is halved without a run of its own. If the first half fails,
//! the other one runs too, as far as the order of lanes allows it. If both fail it is no poison: all of them wait, and
//! smaller parts run after that. So the search ends even where many messages are to blame. A message that has failed
//! in a run of its own is found.

use std::collections::BTreeSet;

use super::Member;

#[derive(Debug)]
pub(crate) struct Trial {
    /// The messages that have failed together, in their order.
    pub(crate) suspects: Vec<Member>,
    /// Failed runs of all of them.
    wholes: u32,
    /// How many of the first ones run in the next part.
    part: usize,
    /// The first part has failed, and messages behind it run.
    is_on_others: bool,
    /// How often two parts failed one after the other.
    rounds: u32,
    /// The run under way, or the next one.
    run: Vec<Member>,
}

/// The result of a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// It has failed alone.
    pub(crate) found: Option<Member>,
    /// They run in other batches.
    pub(crate) released: Vec<Member>,
    pub(crate) then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing is suspected any more.
    Over,
    /// The next run may begin.
    Run,
    /// It begins after a wait, and the breaker counts so many failed messages: it is not one message that fails.
    Outage(usize),
}

impl Trial {
    /// These messages have failed together, or with others that are done.
    pub(crate) fn new(suspects: Vec<Member>) -> Self {
        let run = suspects.clone();
        Self {
            suspects,
            wholes: 1,
            part: 0,
            is_on_others: false,
            rounds: 0,
            run,
        }
    }

    /// The messages of the next run, in their order.
    pub(crate) fn run(&self) -> &[Member] {
        &self.run
    }

    /// The first message.
    pub(crate) fn first(&self) -> Option<Member> {
        self.suspects.first().copied()
    }

    /// How often its messages have waited.
    pub(crate) fn waits(&self) -> u32 {
        self.wholes.min(1) + self.rounds
    }

    /// All messages, none of which is suspected any more.
    pub(crate) fn release(self) -> Vec<Member> {
        self.suspects
    }

    /// The first `done` messages of the run are done, and the run was given up or has ended otherwise.
    pub(crate) fn done(&mut self, done: usize) {
        let ended: BTreeSet<u64> = self.run.drain(..done).map(|one| one.number).collect();
        if !ended.is_empty() {
            self.suspects.retain(|one| !ended.contains(&one.number));
        }
    }

    /// Every message of the run is done.
    pub(crate) fn passed(&mut self) -> Verdict {
        let is_part = self.is_halved() && !self.is_on_others;
        self.done(self.run.len());
        if self.is_on_others {
            // The handler works: the first part has the message.
            let others = self.suspects.split_off(self.part);
            return self.narrow(others);
        }
        let is_known = is_part && self.rounds == 0 && !self.suspects.is_empty();
        if is_known {
            return self.narrow(Vec::new());
        }
        self.over(None)
    }

    /// The run has failed, and its first `done` messages are done.
    pub(crate) fn failed(&mut self, done: usize) -> Verdict {
        let is_alone = self.run.len() == 1;
        self.done(done);
        if !self.is_halved() && !is_alone {
            self.wholes += 1;
            return self.narrow(Vec::new());
        }
        match (self.is_on_others, is_alone) {
            (false, true) => {
                let found = self.run.first().copied();
                self.done(1);
                self.over(found)
            }
            (false, false) => {
                self.part = self.run.len();
                let others = self.others();
                if done == 0 && !others.is_empty() {
                    self.is_on_others = true;
                    self.run = others;
                    return Self::go_on(Then::Run);
                }
                let behind = self.suspects.split_off(self.part);
                self.narrow(behind)
            }
            (true, true) => {
                let found = self.run.first().copied();
                self.done(1);
                let behind = self.suspects.split_off(self.part);
                let verdict = self.narrow(behind);
                Verdict { found, ..verdict }
            }
            (true, false) if done > 0 => {
                let behind = self.suspects.split_off(self.part);
                self.narrow(behind)
            }
            (true, false) => {
                self.rounds += 1;
                self.is_on_others = false;
                self.part = (self.part / 2).max(1);
                self.run = self.suspects[..self.part].to_vec();
                Self::go_on(Then::Outage(self.suspects.len()))
            }
        }
    }

    fn is_halved(&self) -> bool {
        self.wholes > 1
    }

    /// The messages behind the failed part whose lanes do not wait for it.
    fn others(&self) -> Vec<Member> {
        let (part, behind) = self.suspects.split_at(self.part);
        let lanes: BTreeSet<u64> = part.iter().map(|one| one.lane).collect();
        let free = behind.iter().filter(|one| !lanes.contains(&one.lane));
        let most = if self.rounds == 0 {
            behind.len()
        } else {
            self.part
        };
        free.take(most).copied().collect()
    }

    /// One of those that are left is to blame.
    fn narrow(&mut self, released: Vec<Member>) -> Verdict {
        self.is_on_others = false;
        self.part = (self.suspects.len() / 2).max(1);
        self.run = self.suspects.iter().take(self.part).copied().collect();
        Verdict {
            found: None,
            released,
            then: Then::Run,
        }
    }

    fn over(&mut self, found: Option<Member>) -> Verdict {
        Verdict {
            found,
            released: std::mem::take(&mut self.suspects),
            then: Then::Over,
        }
    }

    fn go_on(then: Then) -> Verdict {
        Verdict {
            found: None,
            released: Vec::new(),
            then,
        }
    }
}
