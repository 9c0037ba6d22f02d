//! `tide.sql`: statements to databases, whose result a handler waits for.

#![expect(unsafe_code, reason = "C functions for Lua")]

mod arguments;
mod starting;
mod transaction;

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::objects::{self, Objects};
use crate::lua::api::fields;
use crate::lua::api::module::{Body, Entry};
use crate::lua::shared::Shared;
use crate::lua::stack::push_bytes;
use crate::lua::suspend;
use crate::wait::sql::Shape;

use starting::{Function, start, start_in_transaction};

pub(super) const ENTRY: Entry = Entry {
    name: "sql",
    path: "tide.sql",
    types: &[
        "Returns a database of `[sql]`.",
        "@param name string",
        "@return tide.Sql",
    ],
    body: Body::C(named),
};

const DATABASES: Objects = Objects {
    path: "tide.sql",
    article: "a database",
    table: "sql",
    metatable: c"moontide.sql",
    made: c"moontide.sql.made",
    push_methods,
    unknown_method,
};

/// The type definitions of the objects for `LuaLS`.
pub(super) const DEFINITIONS: &str = "
---@class tide.sql.Statement
---@field text string
---@field timeout? number|string
---@field prepare? boolean

---@class tide.sql.InsertOptions
---@field onConflict? string|{ columns?: string|string[], update?: boolean|string[] }
---@field timeout? number|string

---A transaction of a database.
---@class tide.sql.Transaction
---@field query fun(self: tide.sql.Transaction, text: string|tide.sql.Statement, ...: any): table[]
---@field one fun(self: tide.sql.Transaction, text: string|tide.sql.Statement, ...: any): table?
---@field execute fun(self: tide.sql.Transaction, text: string|tide.sql.Statement, ...: any): integer
---@field insert fun(self: tide.sql.Transaction, table: string, rows: table, options?: tide.sql.InsertOptions): integer

---A database.
---@class tide.Sql
---@field query fun(self: tide.Sql, text: string|tide.sql.Statement, ...: any): table[]
---@field one fun(self: tide.Sql, text: string|tide.sql.Statement, ...: any): table?
---@field execute fun(self: tide.Sql, text: string|tide.sql.Statement, ...: any): integer
---@field insert fun(self: tide.Sql, table: string, rows: table, options?: tide.sql.InsertOptions): integer
---@field transaction fun(self: tide.Sql, body: fun(tx: tide.sql.Transaction): ...: any, options?: { isolation?: string, readOnly?: boolean }): ...: any
---@field once fun(self: tide.Sql, body: fun(tx: tide.sql.Transaction): ...: any, options?: { isolation?: string }): boolean, ...: any
";

/// A function with its form in a database and in a transaction.
macro_rules! function {
    ($name:literal, $read:expr) => {{
        const FUNCTION: Function = Function {
            path: concat!("sql:", $name),
            job: concat!("sql.", $name),
            read: $read,
        };
        (
            Entry {
                name: $name,
                path: FUNCTION.path,
                types: &[],
                body: Body::Outside(|caller, values| start(&FUNCTION, caller, values)),
            },
            Entry {
                name: $name,
                path: FUNCTION.path,
                types: &[],
                body: Body::Outside(|caller, values| {
                    start_in_transaction(&FUNCTION, caller, values)
                }),
            },
        )
    }};
}

const FUNCTIONS: &[(Entry, Entry)] = &[
    function!("execute", |values| arguments::statement(
        values,
        Shape::Count
    )),
    function!("insert", arguments::insert),
    function!("one", |values| arguments::statement(values, Shape::One)),
    function!("query", |values| arguments::statement(values, Shape::Rows)),
];

/// The methods of a database, and of a transaction.
pub(in crate::lua) const METHODS: [&str; 6] =
    ["execute", "insert", "once", "one", "query", "transaction"];
const WITHIN: [&str; 4] = ["execute", "insert", "one", "query"];

/// Makes the metatables.
pub(super) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        objects::install(state, shared, &DATABASES);
        transaction::install(state, shared);
    }
}

/// The database of this name, which a VM makes once.
unsafe extern "C-unwind" fn named(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with nothing pending.
    unsafe {
        let shared = Shared::of(state);
        let databases = &shared.config.sql;
        objects::named(state, shared, &DATABASES, &|| {
            databases.iter().map(|one| one.name.clone()).collect()
        })
    }
}

unsafe fn push_methods(state: *mut lua_State, shared: &Shared) {
    // SAFETY: a table is on top, and the name at index 1.
    unsafe {
        for (entry, _) in FUNCTIONS {
            push_bytes(state, entry.name.as_bytes());
            ffi::lua_pushvalue(state, 1);
            suspend::push_bound_entry(state, shared, entry);
            ffi::lua_rawset(state, -3);
        }
        for (name, function) in transaction::FUNCTIONS {
            push_bytes(state, name.as_bytes());
            ffi::lua_pushvalue(state, 1);
            shared.push_function(state, *function, 1);
            ffi::lua_rawset(state, -3);
        }
    }
}

unsafe extern "C-unwind" fn unknown_method(state: *mut lua_State) -> c_int {
    // SAFETY: Lua calls it with a table and a key.
    unsafe { fields::unknown(state, Shared::of(state), 2, "tide.sql", &METHODS) }
}
