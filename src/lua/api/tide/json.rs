//! `tide.json`: conversion between bytes and Lua values, without an intermediate form.
//!
//! Integers are exact to 64 bits, floats round-trip, `null` is a value of its own, and an empty array stays one. The
//! module uses no parser crate: a push into Lua may leave by `longjmp`, which must not cross frames that own a value.

#![expect(unsafe_code, reason = "C functions for Lua")]

mod decode;
mod encode;
mod escape;
mod keys;
mod null;
mod number;
mod shapes;
mod text;

use std::ffi::{CStr, c_int};

use mlua::ffi::{self, lua_State};

use crate::lua::api::module::{Body, Entry, Module};
use crate::lua::shared::Shared;
use crate::lua::stack::{push_bytes, push_null, string_at, type_name};

use decode::{Decoder, StackSlots};
pub(in crate::lua) use encode::{Strictness, encode};
use keys::Keys;
use shapes::Shapes;
use text::Text;

/// Deeper documents are refused, in both directions.
const DEPTH_MAX: usize = 128;

const ARRAY: &CStr = c"moontide.json.array";
/// Upvalues of `decode`, after `Shared`.
const MARK: c_int = ffi::lua_upvalueindex(2);
const SHAPES: c_int = ffi::lua_upvalueindex(3);
const KEYS: c_int = ffi::lua_upvalueindex(4);
/// The table of keys is on the stack behind the text during the decoding. Each key needs it, and a stack index is
/// found sooner than an upvalue.
const STACK_SLOTS: StackSlots = StackSlots {
    array: MARK,
    keys: 2,
};

pub(super) const MODULE: Module = Module {
    path: "tide.json",
    about: "JSON with exact integers.",
    entries: &[
        Entry {
            name: "array",
            path: "tide.json.array",
            types: &[
                "Marks a table as an array, so that an empty one is `[]`.",
                "@param list? table default: a new one",
                "@return table",
            ],
            body: Body::C(array),
        },
        Entry {
            name: "decode",
            path: "tide.json.decode",
            types: &[
                "Reads a JSON document.",
                "@param document string",
                "@return any",
            ],
            body: Body::Value(|state, shared| {
                // SAFETY: runs protected.
                unsafe { push_decode(state, shared) }
            }),
        },
        Entry {
            name: "encode",
            path: "tide.json.encode",
            types: &[
                "Writes a value as JSON.",
                "@param value any",
                "@return string",
            ],
            body: Body::C(encode_value),
        },
        Entry {
            name: "null",
            path: "tide.json.null",
            types: &["The value of JSON's `null`.", "@type lightuserdata"],
            body: Body::Value(|state, _| {
                // SAFETY: runs protected.
                unsafe { push_null(state) }
            }),
        },
    ],
};

/// Makes the metatables of arrays and of null.
pub(super) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        null::install(state, shared);
        ffi::luaL_newmetatable(state, ARRAY.as_ptr());
        push_bytes(state, b"array");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_pop(state, 1);
    }
}

/// Pushes `decode` with its upvalues.
unsafe fn push_decode(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected, after `install`.
    unsafe { push_decoding(state, shared, decode) }
}

/// Pushes a function that ends by `decode`, which has these upvalues.
pub(super) unsafe fn push_decoding(
    state: *mut lua_State,
    shared: &Shared,
    function: ffi::lua_CFunction,
) {
    // SAFETY: runs protected, after `install`.
    unsafe {
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, ARRAY.as_ptr());
        let shapes = ffi::lua_newuserdatauv(state, size_of::<Shapes>(), 0);
        shapes.cast::<Shapes>().write(Shapes::default());
        Keys::push_table(state);
        shared.push_function(state, function, 3);
    }
}

/// Marks the table on top as an array.
unsafe fn mark_array(state: *mut lua_State) {
    // SAFETY: `push` made the metatable.
    unsafe { ffi::luaL_setmetatable(state, ARRAY.as_ptr()) };
}

unsafe extern "C-unwind" fn array(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua.
    unsafe {
        ffi::lua_settop(state, 1);
        if ffi::lua_type(state, 1) == ffi::LUA_TNIL {
            ffi::lua_createtable(state, 0, 0);
        } else {
            ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        }
        mark_array(state);
        1
    }
}

pub(super) unsafe extern "C-unwind" fn decode(state: *mut lua_State) -> c_int {
    // SAFETY: the text stays on the stack while it is read; the error is made after the decoder has returned.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 1);
        let Some((start, length)) = string_at(state, 1) else {
            let found = type_name(state, 1);
            shared.raise(
                state,
                format!("`tide.json.decode` takes a string, not {found}"),
            );
        };
        let shapes = ffi::lua_touserdata(state, SHAPES).cast::<Shapes>();
        ffi::lua_pushvalue(state, KEYS);
        let text = Text::new(start, length);
        match Decoder::new(state, text, &*shapes, STACK_SLOTS).document() {
            Ok(()) => 1,
            Err(error) => shared.raise(
                state,
                format!("tide.json.decode: {} at byte {}", error.what, error.at + 1),
            ),
        }
    }
}

unsafe extern "C-unwind" fn encode_value(state: *mut lua_State) -> c_int {
    // SAFETY: the encoding raises nothing, and `shared` owns the buffer during its push.
    unsafe {
        let shared = Shared::of(state);
        ffi::luaL_checkany(state, 1);
        ffi::lua_settop(state, 1);
        shared.attempt(state, || {
            let text = encode(state, 1, Strictness::Strict(shared.memory));
            let text = text.map_err(|reason| format!("tide.json.encode: {reason}"))?;
            shared.push_owned(state, text);
            Ok(1)
        })
    }
}
