//! Modules of `tide`: one list has every part of a function of a module.
//!
//! Its entries give a module's table, its error for an unknown field, the check of its page and its type definitions.

use std::cell::RefCell;
use std::fmt::Write as _;

use mlua::ffi::{lua_CFunction, lua_State};

use super::arguments::{Arguments, Results};
use crate::lua::shared::Shared;
use crate::lua::transactions::Transactions;
use crate::message::Header;
use crate::wait::admin::Admin;
use crate::wait::http::Http;
use crate::wait::redis::Redis;
use crate::wait::send::Senders;
use crate::wait::sql::Databases;
use crate::wait::{Fault, Job, Value};

/// `tide`, or a table in it.
pub(in crate::lua) struct Module {
    /// `tide`, or `tide.json`.
    pub(in crate::lua) path: &'static str,
    /// One sentence for the type definitions.
    pub(in crate::lua) about: &'static str,
    pub(in crate::lua) entries: &'static [Entry],
}

/// One field of a module.
pub(in crate::lua) struct Entry {
    pub(in crate::lua) name: &'static str,
    /// The name as handlers write it: `tide.json.encode`.
    pub(in crate::lua) path: &'static str,
    /// Annotations of `LuaLS`, a line each without `---`: a sentence, `@param name type`, `@return type`.
    pub(in crate::lua) types: &'static [&'static str],
    pub(in crate::lua) body: Body,
}

/// What a function of a module may use beside its arguments.
pub(in crate::lua) struct Caller<'c> {
    /// The listener whose call runs, by index; `None` in init.lua.
    pub(in crate::lua) listener: Option<usize>,
    /// `None` where no handler runs.
    pub(in crate::lua) senders: Option<&'c dyn Senders>,
    /// `None` there, too.
    pub(in crate::lua) admin: Option<&'c dyn Admin>,
    /// `None` there, too.
    pub(in crate::lua) http: Option<&'c dyn Http>,
    /// `None` there, too.
    pub(in crate::lua) redis: Option<&'c dyn Redis>,
    /// `None` there, too.
    pub(in crate::lua) sql: Option<&'c dyn Databases>,
    /// Those of all calls.
    pub(in crate::lua) transactions: &'c Transactions,
    /// The call that runs, or 0.
    pub(in crate::lua) call: u64,
    /// The identity of what the function does, by which a repeat of the call is known; none without a message of its
    /// own. Each use is another deed.
    pub(in crate::lua) identity: &'c dyn Fn() -> Option<String>,
    /// What the call waits for, for the status.
    pub(in crate::lua) about: &'c RefCell<Option<String>>,
    /// The trace headers of the message that the call handles; none without a message.
    pub(in crate::lua) trace: &'c dyn Fn() -> Vec<Header>,
}

pub(in crate::lua) enum Body {
    /// A C function whose first upvalue is `Shared`. It may wait by `suspend::begin`.
    C(lua_CFunction),
    /// Answers at once: plain data in, plain data out, without Lua's API.
    Now(fn(&Arguments<'_>) -> Result<Results, Fault>),
    /// Requests work outside: plain data in, plain data out, without Lua's API.
    Outside(fn(&Caller<'_>, Vec<Value>) -> Result<Job, Fault>),
    /// The same, between two steps in Lua's API: the first changes arguments, the second the result on top of the stack.
    OutsideBetween {
        before: unsafe fn(*mut lua_State, &Shared),
        start: fn(&Caller<'_>, Vec<Value>) -> Result<Job, Fault>,
        after: unsafe fn(*mut lua_State, &Shared),
    },
    /// Pushes a value that each VM makes once.
    Value(unsafe fn(*mut lua_State, &Shared)),
}

impl Module {
    /// The names of its fields: its entries, and those of `modules` that lie in it.
    pub(in crate::lua) fn fields(&self, modules: &[Self]) -> Vec<&'static str> {
        let inner = modules.iter().filter_map(|module| {
            let name = module.path.strip_prefix(self.path)?.strip_prefix('.')?;
            (name != "echo" && !name.contains('.')).then_some(name)
        });
        let own = self.entries.iter().map(|entry| entry.name);
        let mut names: Vec<_> = own.chain(inner).collect();
        names.sort_unstable();
        names
    }
}

impl Entry {
    /// The names of its parameters; none for a value.
    pub(in crate::lua) fn parameters(&self) -> Vec<&'static str> {
        let parameters = self
            .types
            .iter()
            .filter_map(|line| line.strip_prefix("@param "));
        parameters
            .filter_map(|rest| rest.split([' ', '?']).next())
            .collect()
    }

    fn is_function(&self) -> bool {
        !self.types.iter().any(|line| line.starts_with("@type "))
    }
}

/// Type definitions of these modules for `LuaLS`.
pub(in crate::lua) fn definitions<'m>(modules: impl Iterator<Item = &'m Module>) -> String {
    let mut text = String::new();
    for module in modules {
        let Module { path, about, .. } = module;
        let local = if path.contains('.') { "" } else { "local " };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n---{about}\n---@class {path}\n{local}{path} = {{}}\n"
        );
        for entry in module.entries {
            text.push('\n');
            for line in entry.types {
                let _ = writeln!(text, "---{line}");
            }
            let path = entry.path;
            let _ = if entry.is_function() {
                writeln!(
                    text,
                    "function {path}({}) end",
                    entry.parameters().join(", ")
                )
            } else {
                writeln!(text, "{path} = nil")
            };
        }
    }
    text
}
