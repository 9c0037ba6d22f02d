//! Which member of a cluster has which slot. Pure.

use super::command::SLOTS;
use super::reply::Reply;
use crate::config::Address;

/// The slots that the members have, in runs without overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots(Vec<Run>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    first: u16,
    last: u16,
    master: Address,
}

impl Slots {
    /// The reply to CLUSTER SLOTS of the member `asked`. A member that does not know its own host leaves it out.
    pub(super) fn read(reply: &Reply, asked: &Address) -> Option<Self> {
        let Reply::List(rows) = reply else {
            return None;
        };
        let mut runs = Vec::with_capacity(rows.len());
        for row in rows {
            let Reply::List(row) = row else {
                return None;
            };
            let [
                Reply::Integer(first),
                Reply::Integer(last),
                Reply::List(master),
                ..,
            ] = &row[..]
            else {
                return None;
            };
            let (first, last) = (slot(*first)?, slot(*last)?);
            let master = match &master[..] {
                [Reply::Bytes(host), Reply::Integer(port), ..] => Address {
                    host: match &host[..] {
                        b"" | b"?" => asked.host.clone(),
                        host => String::from_utf8(host.to_vec()).ok()?,
                    },
                    port: u16::try_from(*port).ok()?,
                },
                [Reply::Nil, Reply::Integer(port), ..] => Address {
                    host: asked.host.clone(),
                    port: u16::try_from(*port).ok()?,
                },
                _ => return None,
            };
            runs.push(Run {
                first,
                last,
                master,
            });
        }
        Some(Self(runs))
    }

    pub(super) fn master(&self, slot: u16) -> Option<&Address> {
        let mut runs = self.0.iter();
        let run = runs.find(|run| (run.first..=run.last).contains(&slot))?;
        Some(&run.master)
    }

    /// Each once.
    pub(super) fn masters(&self) -> Vec<Address> {
        let mut masters: Vec<_> = self.0.iter().map(|run| run.master.clone()).collect();
        masters.sort_unstable();
        masters.dedup();
        masters
    }

    /// From now on `slot` is in `master`.
    pub(super) fn moved(&mut self, slot: u16, master: Address) {
        let at = self
            .0
            .iter()
            .position(|run| (run.first..=run.last).contains(&slot));
        if let Some(run) = at.map(|at| self.0.swap_remove(at)) {
            if run.master == master {
                self.0.push(run);
                return;
            }
            if run.first < slot {
                self.0.push(Run {
                    last: slot - 1,
                    ..run.clone()
                });
            }
            if slot < run.last {
                self.0.push(Run {
                    first: slot + 1,
                    ..run
                });
            }
        }
        self.0.push(Run {
            first: slot,
            last: slot,
            master,
        });
    }
}

fn slot(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|slot| *slot < SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        Address {
            host: "h".to_owned(),
            port,
        }
    }

    fn row(first: i64, last: i64, host: Reply, port: i64) -> Reply {
        let node = vec![host, Reply::Integer(port), Reply::Bytes(b"id".to_vec())];
        Reply::List(vec![
            Reply::Integer(first),
            Reply::Integer(last),
            Reply::List(node.clone()),
            Reply::List(node),
        ])
    }

    #[test]
    fn a_slot_has_the_member_that_was_told_last() {
        let host = Reply::Bytes(b"h".to_vec());
        let rows = vec![
            row(0, 99, host, 1),
            row(100, 16_383, Reply::Bytes(Vec::new()), 2),
        ];
        let mut slots = Slots::read(&Reply::List(rows), &address(9)).unwrap();
        let at = |slots: &Slots, slot| slots.master(slot).map(|one| one.port);
        assert_eq!((at(&slots, 99), at(&slots, 100)), (Some(1), Some(2)));
        slots.moved(50, address(2));
        slots.moved(0, address(3));
        slots.moved(99, address(3));
        slots.moved(99, address(3));
        let found = [0, 1, 49, 50, 51, 98, 99, 100].map(|slot| at(&slots, slot));
        assert_eq!(found, [3, 1, 1, 2, 1, 1, 3, 2].map(Some));
        assert_eq!(slots.masters(), [1, 2, 3].map(address));
        assert_eq!(Slots::default().master(7), None);
    }

    #[test]
    fn what_is_no_table_of_slots_is_refused() {
        let host = || Reply::Bytes(b"h".to_vec());
        for reply in [
            Reply::Nil,
            Reply::List(vec![Reply::Nil]),
            Reply::List(vec![row(0, 16_384, host(), 1)]),
            Reply::List(vec![row(-1, 5, host(), 1)]),
            Reply::List(vec![row(0, 5, host(), 99_999)]),
            Reply::List(vec![row(0, 5, Reply::Integer(1), 1)]),
        ] {
            assert_eq!(Slots::read(&reply, &address(9)), None, "{reply:?}");
        }
    }
}
