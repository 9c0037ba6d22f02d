//! `ctx.emit`: records that leave when the handler has returned, and only then.
//!
//! They stay with the call, outside of the VM's memory, until its end. Whatever ends the call in another way than done
//! drops them.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;
use std::sync::Arc;

use mlua::ffi::{self, lua_State};
use smallvec::smallvec;

use super::call::{self, OWN};
use super::tide::kafka::request;
use super::trace;
use crate::lua::CallId;
use crate::lua::open_batch::Owner;
use crate::lua::plain;
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, is_null, push_bytes, push_copy, type_name};
use crate::lua::suspend;
use crate::lua::used::{self, Topics};
use crate::message::trace::carry_on;
use crate::message::{Header, Outgoing};
use crate::topic_name::is_topic;
use crate::wait::send::{Emitted, Few, Request};
use crate::wait::{Fault, Requested};

const NAME: &str = "ctx.emit";
/// For code that runs after the handler.
const LATER: &str = "; what a handler emits leaves when it returns, also that of a deferred message: later code sends \
                     records by `tide.kafka.send`";
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
    pub(in crate::lua) fn take_emitted(&self, call: CallId) -> Option<Arc<Emitted>> {
        let mut all = self.emitted.borrow_mut();
        let at = all.iter().rposition(|one| one.0 == call.0)?;
        let (_, emitted) = all.swap_remove(at);
        self.emitted_bytes
            .set(self.emitted_bytes.get() - emitted.bytes);
        Some(emitted)
    }

    /// The emission is over, and its memory serves another one.
    pub(in crate::lua) fn use_again(&self, emitted: Arc<Emitted>) {
        let own = self.senders.as_ref();
        if own.is_some_and(|own| Arc::ptr_eq(own, &emitted.senders)) {
            self.used.borrow_mut().keep(emitted);
        }
    }

    /// The call has ended, and has no entry any more.
    pub(in crate::lua) fn look_for_emitted(&self) {
        let is_any = !self.emitted.borrow().is_empty()
            || !self.owing.borrow().is_empty()
            || !self.ordinals.is_empty()
            || self.deferrals.has_begun();
        self.emits.set(is_any);
    }

    /// A commit after a record that the running call has emitted. Returns whether there is such a record.
    pub(super) fn ask_behind_emitted(
        &self,
        asked: impl FnOnce(Option<Requested>) -> Requested,
    ) -> bool {
        let mut emitted = self.emitted.borrow_mut();
        let call = self.call.get();
        let Some((_, one)) = emitted.iter_mut().rfind(|one| one.0 == call) else {
            return false;
        };
        let one = Arc::make_mut(one);
        one.asked = Some(asked(one.asked));
        true
    }

    /// One record as the first of its call, without a look at more than it needs: the usual case. Returns whether it
    /// was one; if not, nothing is kept.
    unsafe fn emit_plainly(&self, state: *mut lua_State) -> Result<bool, Fault> {
        let call = self.call.get();
        if self.emits.get() && self.emitted.borrow().iter().any(|one| one.0 == call) {
            return Ok(false);
        }
        let Some(senders) = &self.senders else {
            return Ok(false);
        };
        let used = self.used.borrow_mut().take();
        let mut one = used.unwrap_or_else(|| {
            Arc::new(Emitted {
                senders: senders.clone(),
                requests: smallvec![Request {
                    records: smallvec![Outgoing::default()],
                    ..Request::default()
                }],
                bytes: 0,
                kept: 0,
                last_bytes: 0,
                asked: None,
            })
        });
        // Nobody else has it, so nothing is copied.
        let own = Arc::make_mut(&mut one);
        let request = &mut own.requests[0];
        let is_of_listener = request.listener == self.listener.get();
        request.function = NAME;
        request.listener = self.listener.get();
        // SAFETY: the table of options is the one value on the stack.
        let read = unsafe {
            read_plain(
                state,
                &mut self.targets.borrow_mut(),
                &mut request.records[0],
            )
        };
        let Some(is_of_topic) = read else {
            return Ok(false);
        };
        let bytes = request.records[0].size();
        self.may_keep(request, 0, bytes)?;
        // As large a record of this listener to this topic has passed.
        if !(is_of_listener && is_of_topic && bytes <= own.bytes) {
            senders.may_emit(request)?;
        }
        (own.bytes, own.last_bytes) = (bytes, bytes);
        own.kept = used::size_of_plain(&own.requests[0].records[0]);
        self.emits.set(true);
        self.emitted_bytes.set(self.emitted_bytes.get() + bytes);
        self.emitted.borrow_mut().push((call, one));
        Ok(true)
    }

    /// Whether the running call, which has emitted so many bytes before, may have these, too.
    fn may_keep(&self, request: &Request, before: usize, bytes: usize) -> Result<(), Fault> {
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
        let others = self.emitted_bytes.get();
        if others + bytes > self.memory {
            let message = format!(
                "`{NAME}`: the records of all running calls have {} bytes, more than the {} of `lua.memory`; lower \
                 `limits.emit` or `maxInFlight`, or raise `lua.memory`",
                others + bytes,
                self.memory
            );
            return Err(Fault::new("busy", message));
        }
        Ok(())
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
        let call = self.call.get();
        let before = {
            let all = self.emitted.borrow();
            let own = all.iter().rfind(|one| one.0 == call);
            own.map_or(0, |(_, one)| one.bytes)
        };
        // Before the copies of the trace are made.
        self.may_keep(&request, before, bytes)?;
        for record in &mut request.records {
            carry_on(&mut record.headers, trace);
        }
        senders.may_emit(&request)?;
        self.emits.set(true);
        self.emitted_bytes.set(self.emitted_bytes.get() + bytes);
        let mut all = self.emitted.borrow_mut();
        let found = all.iter().rposition(|one| one.0 == call);
        let at = found.unwrap_or_else(|| {
            let one = Emitted {
                senders: senders.clone(),
                requests: Few::new(),
                bytes: 0,
                kept: 0,
                last_bytes: 0,
                asked: None,
            };
            all.push((call, Arc::new(one)));
            all.len() - 1
        });
        let one = Arc::make_mut(&mut all[at].1);
        one.bytes += bytes;
        // Another record may follow a plain one.
        one.kept = 0;
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
        let (shared, _) = call::enter_or(state, LATER);
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
        push_copy(state, 1);
        push_bytes(state, b"of");
        ffi::lua_pushnil(state);
        ffi::lua_rawset(state, -3);
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
        // SAFETY: the ctx is the method's own, and nothing in here raises.
        unsafe {
            // In a batch the second value is the message that `part_owner` left.
            if shared.with_batch(|_| ()).is_none() {
                if !trace::may_carry(state, OWN) && shared.emit_plainly(state)? {
                    return Ok(());
                }
                ffi::lua_settop(state, 1);
            }
            let options = plain::read(state, 1, shared.memory);
            let options = options.map_err(|reason| invalid(format!(" takes plain data: {reason}")));
            let request = request::emit(options?.0).map_err(invalid)?;
            let owner = owner_at(state, shared).map_err(invalid)?;
            let trace = match owner {
                Owner::Of(_) => trace::carried_of(state, 2),
                _ => trace::carried(state, shared),
            };
            shared.emit(request, &trace, owner)
        }
    };
    match suspend::guarded(keep) {
        Ok(()) => true,
        Err(fault) => {
            shared.fault.replace(Some(fault));
            false
        }
    }
}

/// A field of a plain record.
enum Field {
    Topic,
    Value,
    Key,
    Partition,
    Timestamp,
}

impl Field {
    /// By the length first, so that no name costs a call.
    fn of(name: &[u8]) -> Option<Self> {
        if let Ok(name) = <&[u8; 5]>::try_from(name) {
            return match name {
                b"topic" => Some(Self::Topic),
                b"value" => Some(Self::Value),
                _ => None,
            };
        }
        match (<&[u8; 3]>::try_from(name), <&[u8; 9]>::try_from(name)) {
            (Ok(b"key"), _) => Some(Self::Key),
            (_, Ok(b"partition")) => Some(Self::Partition),
            (_, Ok(b"timestamp")) => Some(Self::Timestamp),
            _ => None,
        }
    }
}

/// Reads one flat record without headers and producer from the table that is the one value on the stack, in place of
/// another record. Returns whether it has the same topic. `None`: it is no such record, or not a valid one; the usual
/// reader says what it is. Raises nothing.
unsafe fn read_plain(
    state: *mut lua_State,
    topics: &mut Topics,
    into: &mut Outgoing,
) -> Option<bool> {
    let (mut topic, mut has_value, mut has_key) = (None, false, false);
    (into.partition, into.timestamp_ms) = (None, None);
    // SAFETY: nothing is converted in place, and `lua_next` gets only keys that it returned.
    unsafe {
        if ffi::lua_type(state, 1) != ffi::LUA_TTABLE {
            return None;
        }
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, 1) != 0 {
            let is_read = match Field::of(bytes_at(state, 2).unwrap_or_default()) {
                Some(Field::Topic) => {
                    topic = read_topic(state, topics, &mut into.topic);
                    topic.is_some()
                }
                Some(Field::Value) => {
                    has_value = read_bytes(state, &mut into.value);
                    has_value
                }
                Some(Field::Key) => {
                    has_key = read_bytes(state, &mut into.key);
                    has_key
                }
                Some(Field::Partition) => {
                    let number = integer_at(state).and_then(|number| number.try_into().ok());
                    into.partition = number;
                    number.is_some()
                }
                Some(Field::Timestamp) => {
                    into.timestamp_ms = integer_at(state);
                    into.timestamp_ms.is_some()
                }
                None => false,
            };
            if !is_read {
                return None;
            }
            ffi::lua_settop(state, 2);
        }
    }
    if !has_key {
        into.key = None;
    }
    topic.filter(|_| has_value)
}

/// The value at the top of the stack. Returns whether it is the topic that was there, and `None` for no valid one.
unsafe fn read_topic(
    state: *mut lua_State,
    topics: &mut Topics,
    into: &mut Arc<str>,
) -> Option<bool> {
    // SAFETY: the string stays on the stack.
    let name = unsafe { bytes_at(state, 3) }.unwrap_or_default();
    if let Some(known) = topics.find(name) {
        // The old name itself is in no cache any more.
        let is_same = Arc::ptr_eq(known, into);
        if !is_same {
            *into = known.clone();
        }
        return Some(is_same);
    }
    let name = std::str::from_utf8(name).ok().filter(|name| is_topic(name));
    *into = topics.add(name?);
    Some(false)
}

unsafe fn read_bytes(state: *mut lua_State, into: &mut Option<Vec<u8>>) -> bool {
    // SAFETY: as in `read_topic`.
    unsafe {
        let Some(bytes) = bytes_at(state, 3) else {
            *into = None;
            return is_null(state, 3);
        };
        let kept = into.get_or_insert_default();
        kept.clear();
        kept.extend_from_slice(bytes);
        true
    }
}

/// An integer from 0.
unsafe fn integer_at(state: *mut lua_State) -> Option<i64> {
    // SAFETY: the value is read, never converted in place.
    unsafe {
        let is_integer = ffi::lua_isinteger(state, 3) != 0;
        let number = ffi::lua_tointeger(state, 3);
        (is_integer && number >= 0).then_some(number)
    }
}
