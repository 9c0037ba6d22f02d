//! The tables of a store in a file: entries by key, and keys by the time at which they expire.
//!
//! Moments are milliseconds of the time of day, which outlives the process.

use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, Table,
    TableDefinition, WriteTransaction,
};

use crate::state::op::{self, Bounds, Bytes, Change, Done, Held, NEVER, Op};
use crate::wait::Fault;

/// The end of an entry in eight bytes, then its value.
const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");
const DUE: TableDefinition<'_, (u64, &[u8]), ()> = TableDefinition::new("due");
const COUNTS: TableDefinition<'_, &str, u64> = TableDefinition::new("counts");
const BYTES: &str = "bytes";
/// Entries that a transaction removes on its way, at most.
const ON_THE_WAY: usize = 1_024;

type Result<T> = std::result::Result<T, redb::Error>;

/// Makes the tables where they are missing, and counts what they hold.
pub(super) fn first_look(database: &Database) -> Result<Held> {
    let transaction = database.begin_write()?;
    let held = {
        let entries = transaction.open_table(ENTRIES)?;
        transaction.open_table(DUE)?;
        let counts = transaction.open_table(COUNTS)?;
        let bytes = counts.get(BYTES)?.map_or(0, |bytes| bytes.value());
        Held {
            entries: entries.len()?,
            bytes,
        }
    };
    transaction.commit()?;
    Ok(held)
}

fn split(stored: &[u8]) -> (u64, &[u8]) {
    match stored.split_first_chunk() {
        Some((until, value)) => (u64::from_le_bytes(*until), value),
        // Nothing but this file writes the table.
        None => (0, &[]),
    }
}

/// An operation that changes nothing.
pub(super) fn read(database: &Database, op: &Op, now: u64) -> Result<Done> {
    let transaction = database.begin_read()?;
    let entries = transaction.open_table(ENTRIES)?;
    let Op::Scan {
        prefix,
        after,
        limit,
    } = op
    else {
        let stored = entries.get(op.key())?;
        let alive = stored.as_ref().map(|stored| split(stored.value()));
        let alive = alive.filter(|(until, _)| *until > now);
        return Ok(Done::Value(alive.map(|(_, value)| value.into())));
    };
    let from = after.as_ref().map_or(prefix, |after| after.max(prefix));
    let mut found: Vec<(Bytes, Bytes)> = Vec::new();
    for entry in entries.range::<&[u8]>(&**from..)? {
        let (key, stored) = entry?;
        let key = key.value();
        if found.len() >= *limit || !key.starts_with(prefix) {
            break;
        }
        let (until, value) = split(stored.value());
        let is_behind = after.as_ref().is_none_or(|after| key > &**after);
        if is_behind && until > now {
            found.push((key.into(), value.into()));
        }
    }
    Ok(Done::Entries(found))
}

/// The open tables of a transaction.
struct Tables<'t> {
    entries: Table<'t, &'static [u8], &'static [u8]>,
    due: Table<'t, (u64, &'static [u8]), ()>,
    held: Held,
    bounds: Bounds,
    now: u64,
}

/// One transaction with all these changes, in their order. It is on the disk when this returns.
pub(super) fn write(
    database: &Database,
    ops: &[&Op],
    held: Held,
    bounds: Bounds,
    now: u64,
) -> Result<(Vec<std::result::Result<Done, Fault>>, Held)> {
    let transaction = database.begin_write()?;
    let (results, held) = within(&transaction, ops, held, bounds, now)?;
    transaction.commit()?;
    Ok((results, held))
}

fn within(
    transaction: &WriteTransaction,
    ops: &[&Op],
    held: Held,
    bounds: Bounds,
    now: u64,
) -> Result<(Vec<std::result::Result<Done, Fault>>, Held)> {
    let mut tables = Tables {
        entries: transaction.open_table(ENTRIES)?,
        due: transaction.open_table(DUE)?,
        held,
        bounds,
        now,
    };
    tables.sweep(ON_THE_WAY)?;
    let mut results = Vec::with_capacity(ops.len());
    for op in ops {
        results.push(tables.change(op)?);
    }
    let held = tables.held;
    drop(tables);
    let mut counts = transaction.open_table(COUNTS)?;
    counts.insert(BYTES, held.bytes)?;
    Ok((results, held))
}

impl Tables<'_> {
    fn change(&mut self, op: &Op) -> Result<std::result::Result<Done, Fault>> {
        let key = op.key();
        let stored = self.entries.get(key)?;
        let stored = stored.map(|stored| stored.value().to_vec());
        let old = stored.as_deref().map(split);
        let alive = old.filter(|(until, _)| *until > self.now);
        let found = alive.map(|(until, value)| (value, until));
        let (change, done) = match op::decide(op, found, self.now) {
            Ok(decided) => decided,
            Err(fault) => return Ok(Err(fault)),
        };
        match change {
            Change::Nothing => {}
            Change::Remove => {
                if let Some((until, value)) = old {
                    self.remove(key, until, value)?;
                }
            }
            Change::Put(value, until) => {
                let old_cost = old.map(|(_, value)| op::cost(key, value));
                let new_cost = op::cost(key, &value);
                if !self.fits(old_cost, new_cost) {
                    self.sweep(usize::MAX)?;
                    if !self.fits(old_cost, new_cost) {
                        return Ok(Err(op::full(self.held, self.bounds)));
                    }
                }
                // The sweep may have removed an old one that has expired.
                let is_there = self.entries.get(key)?.is_some();
                if let Some((until, value)) = old.filter(|_| is_there) {
                    self.remove(key, until, value)?;
                }
                self.put(key, &value, until)?;
            }
        }
        Ok(Ok(done))
    }

    /// What does not grow always fits.
    fn fits(&self, old: Option<u64>, new: u64) -> bool {
        let before = old.unwrap_or(0);
        if old.is_some() && new <= before {
            return true;
        }
        let entries = self.held.entries + u64::from(old.is_none());
        let is_within = old.is_some() || entries <= self.bounds.entries;
        is_within && self.held.bytes + new - before <= self.bounds.bytes
    }

    fn put(&mut self, key: &[u8], value: &[u8], until: u64) -> Result<()> {
        let mut stored = Vec::with_capacity(8 + value.len());
        stored.extend(until.to_le_bytes());
        stored.extend_from_slice(value);
        self.entries.insert(key, &*stored)?;
        if until != NEVER {
            self.due.insert((until, key), ())?;
        }
        self.held.entries += 1;
        self.held.bytes += op::cost(key, value);
        Ok(())
    }

    fn remove(&mut self, key: &[u8], until: u64, value: &[u8]) -> Result<()> {
        self.entries.remove(key)?;
        if until != NEVER {
            self.due.remove((until, key))?;
        }
        self.held.entries = self.held.entries.saturating_sub(1);
        self.held.bytes = self.held.bytes.saturating_sub(op::cost(key, value));
        Ok(())
    }

    /// Removes at most `most` of the entries that have expired.
    fn sweep(&mut self, most: usize) -> Result<()> {
        let mut over: Vec<(u64, Vec<u8>)> = Vec::new();
        for one in self
            .due
            .range((0, &[][..])..(self.now + 1, &[][..]))?
            .take(most)
        {
            let (one, _) = one?;
            let (until, key) = one.value();
            over.push((until, key.to_vec()));
        }
        for (until, key) in over {
            let stored = self.entries.get(&*key)?;
            let stored = stored.map(|stored| stored.value().to_vec());
            match stored.as_deref().map(split) {
                Some((found, value)) if found == until => self.remove(&key, until, value)?,
                _ => _ = self.due.remove((until, &*key))?,
            }
        }
        Ok(())
    }
}
