//! The call of a method of `ctx`: the coordinates of its message, and the check that the call still runs.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::lua::shared::Shared;

/// The data of a ctx; it has no destructor.
#[derive(Clone, Copy)]
pub(in crate::lua) struct Ctx {
    pub(in crate::lua) call: u64,
    pub(in crate::lua) listener: usize,
    pub(in crate::lua) offset: i64,
    pub(in crate::lua) partition: i32,
    /// Registry reference to the topic's name.
    pub(in crate::lua) topic: c_int,
    pub(in crate::lua) is_retry: bool,
    pub(super) attempt: u32,
    pub(super) start_ms: i64,
}

/// The data of the userdata at `index`, if its block has this size: a ctx or a logger. Any bytes are acceptable,
/// since every use of them is checked.
pub(super) unsafe fn block_at(state: *mut lua_State, index: c_int) -> Option<Ctx> {
    // SAFETY: a full userdata of that size is read; a `Ctx` is plain data.
    unsafe {
        let is_block = ffi::lua_type(state, index) == ffi::LUA_TUSERDATA
            && ffi::lua_rawlen(state, index) == size_of::<Ctx>();
        is_block.then(|| *ffi::lua_touserdata(state, index).cast::<Ctx>())
    }
}

/// The first user value of a ctx.
pub(super) const MESSAGE: c_int = 1;

/// The index of a method's own ctx.
pub(super) const OWN: c_int = ffi::lua_upvalueindex(2);

/// The start of a method. Drops a first argument that is the ctx itself, and raises if its call is not the running
/// one.
pub(in crate::lua) unsafe fn enter<'a>(state: *mut lua_State) -> (&'a Shared, Ctx) {
    // SAFETY: by the contract of this function.
    unsafe { enter_or(state, "") }
}

/// The same. The error of a call that does not run ends with this hint.
pub(in crate::lua) unsafe fn enter_or<'a>(state: *mut lua_State, hint: &str) -> (&'a Shared, Ctx) {
    // SAFETY: `push_method` makes every method.
    unsafe {
        let shared = Shared::of(state);
        if ffi::lua_rawequal(state, 1, OWN) != 0 {
            ffi::lua_remove(state, 1);
        }
        let ctx = *ffi::lua_touserdata(state, OWN).cast::<Ctx>();
        if shared.call.get() != ctx.call {
            let message = format!(
                "this `ctx` belongs to another call, which may have ended; use the one that the handler was given{hint}"
            );
            shared.raise(state, message);
        }
        (shared, ctx)
    }
}

pub(in crate::lua) unsafe fn push_topic(state: *mut lua_State, ctx: &Ctx) {
    // SAFETY: the reference lives as long as the VM.
    unsafe { ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, ctx.topic.into()) };
}
