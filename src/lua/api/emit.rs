//! `ctx.emit`: records that leave when the handler has returned, and only then.
//!
//! They stay with the call, outside of the VM's memory, until its end. Whatever ends the call in another way than done
//! drops them.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::call;
use super::tide::kafka::request;
use super::trace;
use crate::lua::CallId;
use crate::lua::open_batch::Owner;
use crate::lua::plain;
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::lua::suspend;
use crate::message::trace::carry_on;
use crate::message::{Header, Outgoing};
use crate::wait::send::{Emitted, Request};
use crate::wait::{Fault, Requested};

const NAME: &str = "ctx.emit";
/// The most bytes of several emits in one request.
const MERGED_MAX: usize = 1 << 20;

fn header_bytes(headers: &[Header]) -> usize {
    let bytes = headers.iter();
    bytes
        .map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len))
        .sum()
}

impl Shared {
    /// Takes what a call has emitted.
    pub(in crate::lua) fn take_emitted(&self, call: CallId) -> Option<Emitted> {
        self.emitted.borrow_mut().remove(&call.0)
    }

    /// The call has ended, and has no entry any more.
    pub(in crate::lua) fn look_for_emitted(&self) {
        let is_any = !self.emitted.borrow().is_empty() || !self.owing.borrow().is_empty();
        self.emits.set(is_any);
    }

    /// A commit after a record that the running call has emitted. Returns whether there is such a record.
    pub(super) fn ask_behind_emitted(
        &self,
        asked: impl FnOnce(Option<Requested>) -> Requested,
    ) -> bool {
        let mut emitted = self.emitted.borrow_mut();
        let Some(one) = emitted.get_mut(&self.call.get()) else {
            return false;
        };
        one.asked = Some(asked(one.asked));
        true
    }

    fn emit(&self, mut request: Request, trace: &[Header], owner: Owner) -> Result<(), Fault> {
        let Some(senders) = &self.senders else {
            let message = "no producer runs here; a handler of the daemon emits";
            return Err(Fault::new("closed", format!("`{NAME}`: {message}")));
        };
        request.function = NAME;
        request.listener = self.listener.get();
        // Before they are copied: a small record may have a large trace.
        let count = request.records.len();
        let own: usize = request.records.iter().map(Outgoing::size).sum();
        let bytes = own.saturating_add(count.saturating_mul(header_bytes(trace)));
        let mut all = self.emitted.borrow_mut();
        let others: usize = all.values().map(|one| one.bytes).sum();
        let before = all.get(&self.call.get()).map_or(0, |one| one.bytes);
        let listener = request
            .listener
            .and_then(|index| self.config.listeners.get(index));
        let most = listener.map_or(0, |listener| listener.limits.emit);
        if before + bytes > most {
            let message = format!(
                "`{NAME}`: the records of this call have {} bytes, more than the {most} of `limits.emit`; raise it, or \
                 send them by `tide.kafka.send`",
                before + bytes
            );
            return Err(Fault::new("tooLarge", message));
        }
        if others + bytes > self.memory {
            let message = format!(
                "`{NAME}`: the records of all running calls have {} bytes, more than the {} of `lua.memory`; lower \
                 `limits.emit` or `maxInFlight`, or raise `lua.memory`",
                others + bytes,
                self.memory
            );
            return Err(Fault::new("busy", message));
        }
        for record in &mut request.records {
            carry_on(&mut record.headers, trace);
        }
        senders.may_emit(&request)?;
        self.emits.set(true);
        let one = all.entry(self.call.get()).or_insert_with(|| Emitted {
            senders: senders.clone(),
            requests: Vec::new(),
            bytes: 0,
            last_bytes: 0,
            asked: None,
        });
        one.bytes += bytes;
        let is_same = self
            .with_batch(|batch| batch.continues(owner))
            .unwrap_or(true);
        // One producer keeps the order of the records of one request, which has to fit into `bufferMemory`.
        match one.requests.last_mut() {
            Some(last)
                if is_same
                    && last.producer == request.producer
                    && one.last_bytes + bytes <= MERGED_MAX =>
            {
                last.records.append(&mut request.records);
                one.last_bytes += bytes;
            }
            _ => {
                one.requests.push(request);
                one.last_bytes = bytes;
                self.with_batch(|batch| batch.owns(owner));
            }
        }
        Ok(())
    }
}

pub(in crate::lua) unsafe extern "C-unwind" fn emit(state: *mut lua_State) -> c_int {
    // SAFETY: as in `enter`; every Rust value is dropped, or in `shared`, before anything raises.
    unsafe {
        let (shared, _) = call::enter(state);
        ffi::lua_settop(state, 1);
        if shared.with_batch(|_| ()).is_some() {
            part_owner(state);
        }
        if !leave(state, shared) {
            suspend::raise(state, shared);
        }
        0
    }
}

/// In a batch: replaces the options, the one value of the stack, by a copy without `of`, and puts that message above it.
unsafe fn part_owner(state: *mut lua_State) {
    // SAFETY: fields are read without metamethods; a failed allocation raises with plain data pending.
    unsafe {
        if ffi::lua_type(state, 1) != ffi::LUA_TTABLE {
            return;
        }
        push_bytes(state, b"of");
        if ffi::lua_rawget(state, 1) == ffi::LUA_TNIL {
            return ffi::lua_settop(state, 1);
        }
        ffi::lua_createtable(state, 0, 8);
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, 1) != 0 {
            if bytes_at(state, -2) == Some(b"of") {
                ffi::lua_settop(state, -2);
                continue;
            }
            ffi::lua_pushvalue(state, -2);
            ffi::lua_insert(state, -2);
            ffi::lua_rawset(state, 3);
        }
        ffi::lua_replace(state, 1);
    }
}

/// The owner of the records: the message above the options, where there is one.
unsafe fn owner_at(state: *mut lua_State, shared: &Shared) -> Result<Owner, String> {
    // SAFETY: a field is read without metamethods, of tables only.
    unsafe {
        if ffi::lua_gettop(state) < 2 {
            return Ok(Owner::Next);
        }
        let mut is_whole = 0;
        let mut offset = 0;
        if ffi::lua_type(state, 2) == ffi::LUA_TTABLE {
            push_bytes(state, b"offset");
            ffi::lua_rawget(state, 2);
            offset = ffi::lua_tointegerx(state, -1, &raw mut is_whole);
            ffi::lua_settop(state, 2);
        }
        let index = shared.with_batch(|batch| batch.index_of(offset)).flatten();
        match index.filter(|_| is_whole != 0) {
            Some(index) => Ok(Owner::Of(index)),
            None => Err(format!(
                ": `of` is a message of this batch, not {}",
                if is_whole != 0 {
                    "one of another"
                } else {
                    type_name(state, 2)
                }
            )),
        }
    }
}

/// Keeps the records, or leaves a fault in `shared`. Returns whether they are kept.
unsafe fn leave(state: *mut lua_State, shared: &Shared) -> bool {
    let invalid = |reason: String| Fault::new("invalid", format!("`{NAME}`{reason}"));
    let keep = || {
        // SAFETY: the argument is copied; nothing in here raises.
        let options = unsafe { plain::read(state, 1, shared.memory) };
        let options = options.map_err(|reason| invalid(format!(" takes plain data: {reason}")));
        let request = request::emit(options?.0).map_err(invalid)?;
        // SAFETY: reads the message that `part_owner` left.
        let owner = unsafe { owner_at(state, shared) }.map_err(invalid)?;
        let trace = match owner {
            // SAFETY: the message is the second value.
            Owner::Of(_) => unsafe { trace::carried_of(state, 2) },
            _ => trace::carried(state, shared),
        };
        shared.emit(request, &trace, owner)
    };
    match suspend::guarded(keep) {
        Ok(()) => true,
        Err(fault) => {
            shared.fault.replace(Some(fault));
            false
        }
    }
}
