//! `tide.http`: requests whose response a handler waits for.

#![expect(unsafe_code, reason = "C functions for Lua")]

mod request;
mod response;

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::json::{Strictness, encode};
use crate::log::log;
use crate::lua::api::module::{Body, Caller, Entry, Module};
use crate::lua::shared::Shared;
use crate::lua::stack::{push_bytes, push_copy};
use crate::lua::suspend;
use crate::wait::http::Request;
use crate::wait::{Fault, Job};

pub(super) use response::install;

/// The header by which a service knows a request that comes again.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A function for one method.
macro_rules! entry {
    ($name:literal, $method:literal, $job:literal) => {
        Entry {
            name: $name,
            path: concat!("tide.http.", $name),
            types: &[
                concat!("Sends a ", $method, " request and waits for the response."),
                "@param url string",
                "@param options? tide.http.Options",
                "@return tide.http.Response",
            ],
            body: Body::OutsideBetween {
                before: |state, shared| {
                    // SAFETY: runs in a C function of Lua, with nothing pending.
                    unsafe { encode_json(state, shared, 2, concat!("tide.http.", $name)) }
                },
                start: |caller, arguments| {
                    let path = concat!("tide.http.", $name);
                    start(path, $job, caller, request::of_method($method, arguments))
                },
                after: response::complete,
            },
        }
    };
}

pub(super) const MODULE: Module = Module {
    path: "tide.http",
    about: "Requests by HTTP.",
    entries: &[
        entry!("delete", "DELETE", "http.delete"),
        entry!("get", "GET", "http.get"),
        entry!("head", "HEAD", "http.head"),
        entry!("patch", "PATCH", "http.patch"),
        entry!("post", "POST", "http.post"),
        entry!("put", "PUT", "http.put"),
        Entry {
            name: "request",
            path: "tide.http.request",
            types: &[
                "Sends a request and waits for the response; without `method` it is GET.",
                "@param options tide.http.Request",
                "@return tide.http.Response",
            ],
            body: Body::OutsideBetween {
                before: |state, shared| {
                    // SAFETY: runs in a C function of Lua, with nothing pending.
                    unsafe { encode_json(state, shared, 1, "tide.http.request") }
                },
                start: |caller, arguments| {
                    let read = request::whole_request(arguments);
                    start("tide.http.request", "http.request", caller, read)
                },
                after: response::complete,
            },
        },
    ],
};

fn start(
    path: &'static str,
    job: &'static str,
    caller: &Caller<'_>,
    read: Result<Request, String>,
) -> Result<Job, Fault> {
    let invalid = |reason| Fault::new("invalid", format!("`{path}`{reason}"));
    let mut request = read.map_err(invalid)?;
    let Some(http) = caller.http else {
        let message =
            format!("`{path}`: no client runs here; a handler or a timer of the daemon sends");
        return Err(Fault::new("closed", message));
    };
    request.function = path;
    if caller.transactions.warns_of_http(caller.call) {
        log!(
            warn,
            lua,
            function = path,
            "a handler sends a request by HTTP while it has a transaction open, which holds a connection of its pool; \
             further ones are not told"
        );
    }
    let changes = matches!(request.method.as_str(), "POST" | "PUT" | "PATCH" | "DELETE");
    if changes
        && request.header(IDEMPOTENCY_KEY).is_none()
        && let Some(identity) = (caller.identity)()
    {
        let header = (IDEMPOTENCY_KEY.to_owned(), identity.into_bytes());
        request.headers.push(header);
    }
    let prepared = http.request(request)?;
    caller.about.replace(Some(prepared.about));
    Ok(Job::new(job, async move {
        prepared.requesting.await.map(response::value)
    }))
}

/// Puts the text of the option `json` in place of its value, in a copy of the table of options at `index`.
unsafe fn encode_json(state: *mut lua_State, shared: &Shared, index: c_int, path: &str) {
    // SAFETY: a C function of Lua. The text is the stack's, and the reason that of `shared`, before anything raises.
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TTABLE {
            return;
        }
        ffi::luaL_checkstack(state, 6, std::ptr::null());
        push_bytes(state, b"json");
        if ffi::lua_rawget(state, index) == ffi::LUA_TNIL {
            return ffi::lua_pop(state, 1);
        }
        match encode(state, -1, Strictness::Strict(shared.memory)) {
            Ok(text) => shared.push_owned(state, text),
            Err(reason) => {
                let message = format!("`{path}`: `json`: {reason}");
                shared.fault.replace(Some(Fault::new("invalid", message)));
                suspend::raise(state, shared);
            }
        }
        push_copy(state, index);
        push_bytes(state, b"json");
        ffi::lua_pushvalue(state, -3);
        ffi::lua_rawset(state, -3);
        ffi::lua_replace(state, index);
        ffi::lua_pop(state, 2);
    }
}
