//! `tide.env`: the environment variables that `[lua] env` allows.

use std::os::unix::ffi::OsStrExt;

use crate::lua::api::arguments::{Arguments, Results};
use crate::lua::api::module::{Body, Entry};
use crate::wait::{Fault, Value};

pub(super) const ENTRY: Entry = Entry {
    name: "env",
    path: "tide.env",
    types: &[
        "Returns an environment variable of the process that `[lua] env` allows; nil, if it is not set.",
        "@param name string",
        "@return string?",
    ],
    body: Body::Now(env),
};

fn env(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let name = arguments.text(1, "name")?;
    let allowed = &arguments.shared.config.lua.env;
    if !allowed.allows(name) {
        let reason = if allowed.hides(name) {
            "the configuration itself uses it, so `[lua] env` must have its whole name".to_owned()
        } else {
            "it is not in the list `[lua] env` of the configuration".to_owned()
        };
        let name: String = name.escape_debug().take(100).collect();
        let message = format!("the variable `{name}` may not be read: {reason}");
        return Err(arguments.fault("refused", message));
    }
    let value = std::env::var_os(name);
    let value = value.map_or(Value::Nil, |value| Value::Bytes(value.as_bytes().into()));
    Ok(value.into())
}
