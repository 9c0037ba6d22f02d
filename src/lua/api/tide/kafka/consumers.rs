//! `tide.kafka.consumer`: the consumers of the process by name.

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::lua::api::consumer;
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::lua::vm::failure;
use crate::nearest::suggestion;

pub(super) unsafe extern "C-unwind" fn named(state: *mut lua_State) -> c_int {
    // SAFETY: `attempt` raises after its closure has returned.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 1);
        if ffi::lua_type(state, 1) == ffi::LUA_TNIL {
            ffi::lua_settop(state, 0);
            push_bytes(state, b"default");
        }
        shared.attempt(state, || {
            let Some(name) = bytes_at(state, 1) else {
                let found = type_name(state, 1);
                return Err(format!(
                    "`tide.kafka.consumer` takes the name of a consumer, not {found}"
                ));
            };
            let consumers = shared.config.consumers.iter();
            let names: Vec<_> = consumers.map(|one| one.name.as_str()).collect();
            if names.iter().any(|one| one.as_bytes() == name) {
                return Ok(0);
            }
            let name = failure::cut(name, 100);
            let nearest = suggestion(&name, &names);
            Err(format!(
                "`tide.kafka.consumer`: no consumer of the configuration is named `{name}`, {nearest}"
            ))
        });
        consumer::push_named(state);
        1
    }
}
