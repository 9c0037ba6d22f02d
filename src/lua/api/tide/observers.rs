//! `tide.on`: a file declares functions that the worker runs when partitions come or go.

#![expect(unsafe_code, reason = "a C function for Lua")]

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::lua::api::module::{Body, Entry};
use crate::lua::control::observers::PartitionEvent;
use crate::lua::shared::{Observer, Shared, Stage};
use crate::lua::stack::{bytes_at, type_name};
use crate::lua::vm::failure;
use crate::nearest::suggestion;

pub(super) const ON: Entry = Entry {
    name: "on",
    path: "tide.on",
    types: &[
        "Runs a function in every worker when partitions of a consumer come or go.",
        "Only at the top level of a file, and in `start` of init.lua.",
        "@param event \"assigned\"|\"revoked\"|\"lost\"",
        "@param observer fun(event: tide.PartitionEvent)",
    ],
    body: Body::C(on),
};

/// The most observers of a VM.
const OBSERVERS_MAX: usize = 100;

unsafe extern "C-unwind" fn on(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua; only plain data is pending where Lua may raise.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 2);
        let mut event = PartitionEvent::Assigned;
        shared.attempt(state, || {
            shared.may_observe()?;
            event = event_at(state, 1)?;
            if ffi::lua_type(state, 2) != ffi::LUA_TFUNCTION {
                let found = type_name(state, 2);
                return Err(format!("`tide.on` takes a function to run, not {found}"));
            }
            Ok(0)
        });
        let function = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
        shared.observe(state, event, function);
        0
    }
}

/// The name of an event. Raises nothing.
unsafe fn event_at(state: *mut lua_State, index: c_int) -> Result<PartitionEvent, String> {
    let names = PartitionEvent::ALL.map(PartitionEvent::name);
    // SAFETY: values are read, never converted in place.
    let Some(bytes) = (unsafe { bytes_at(state, index) }) else {
        // SAFETY: as above.
        let found = unsafe { type_name(state, index) };
        return Err(format!(
            "`tide.on` takes the name of an event, \"assigned\", \"revoked\" or \"lost\", not {found}"
        ));
    };
    let of_name = |one: &PartitionEvent| one.name().as_bytes() == bytes;
    PartitionEvent::ALL
        .into_iter()
        .find(of_name)
        .ok_or_else(|| {
            let found = failure::cut(bytes, 100);
            let nearest = suggestion(&found, &names);
            format!("`tide.on` knows no event `{found}`, {nearest}")
        })
}

impl Shared {
    fn may_observe(&self) -> Result<(), String> {
        if self.stage.get() == Stage::Runs {
            return Err(
                "`tide.on` comes too late, since its bundle is in force; call it at the top level of a file that loads \
                 with the bundle, or in `start` of init.lua"
                    .to_owned(),
            );
        }
        if self.observers.borrow().len() >= OBSERVERS_MAX {
            return Err(format!(
                "`tide.on`: a vm has at most {OBSERVERS_MAX} observers; let one function do the work of several"
            ));
        }
        Ok(())
    }

    unsafe fn observe(&self, state: *mut lua_State, event: PartitionEvent, function: c_int) {
        // SAFETY: reads the frames of the running state.
        let position = unsafe { failure::position(state) }.unwrap_or_default();
        self.observers.borrow_mut().push(Observer {
            event,
            position: position.into(),
            function,
        });
    }
}
