//! `tide.kafka`: records that a handler sends, and whose acknowledgement it waits for; the consumers by name, and the
//! admin client.

#![expect(unsafe_code, reason = "C functions for Lua")]

mod admin;
mod answer;
mod consumers;
pub(in crate::lua::api) mod request;

use std::ffi::{CStr, c_int};
use std::sync::Arc;

use mlua::ffi::{self, lua_State};

use crate::lua::api::fields::unknown;
use crate::lua::api::module::{Body, Caller, Entry, Module};
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::lua::suspend;
use crate::message::trace::carry_on;
use crate::nearest::suggestion;
use crate::wait::send::Request;
use crate::wait::{Fault, Job, Value};

pub(super) use admin::MODULE as ADMIN;

pub(super) const MODULE: Module = Module {
    path: "tide.kafka",
    about: "Records that a handler sends, and consumers.",
    entries: &[
        Entry {
            name: "consumer",
            path: "tide.kafka.consumer",
            types: &[
                "Returns a consumer of the configuration; without a name the default one.",
                "@param name? string",
                "@return consumer",
            ],
            body: Body::C(consumers::named),
        },
        Entry {
            name: "producer",
            path: "tide.kafka.producer",
            types: &[
                "Returns `send` and `sendBatch` of a producer of `[producers]`.",
                "@param name string",
                "@return { send: fun(options: table): table, sendBatch: fun(options: table): table }",
            ],
            body: Body::C(producer),
        },
        Entry {
            name: "send",
            path: "tide.kafka.send",
            types: &[
                "Sends records to one topic and waits for their acknowledgement: `topic`, and `messages` or one record.",
                "A record has `value`, `key`, `headers`, `partition` and `timestamp`.",
                "@param options { topic: string, messages?: table[], value?: string|lightuserdata, key?: string, headers?: table, partition?: integer, timestamp?: integer, acks?: integer, compression?: string, timeout?: number|string }",
                "@return table",
            ],
            body: Body::Outside(|caller, arguments| start(&SEND, caller, None, arguments)),
        },
        Entry {
            name: "sendBatch",
            path: "tide.kafka.sendBatch",
            types: &[
                "Sends records to several topics and waits for their acknowledgement.",
                "@param options { topicMessages: { topic: string, messages: table[] }[], acks?: integer, compression?: string, timeout?: number|string }",
                "@return table[]",
            ],
            body: Body::Outside(|caller, arguments| start(&SEND_BATCH, caller, None, arguments)),
        },
    ],
};

/// The functions of `tide.kafka.producer(name)`: the name comes before their arguments.
const BOUND: &[Entry] = &[
    Entry {
        name: SEND.name,
        path: SEND.path,
        types: &[],
        body: Body::Outside(|caller, arguments| start_bound(&SEND, caller, arguments)),
    },
    Entry {
        name: SEND_BATCH.name,
        path: SEND_BATCH.path,
        types: &[],
        body: Body::Outside(|caller, arguments| start_bound(&SEND_BATCH, caller, arguments)),
    },
];

/// A function that sends.
struct Function {
    name: &'static str,
    path: &'static str,
    read: fn(Value) -> Result<Read, String>,
}

const SEND: Function = Function {
    name: "send",
    path: "tide.kafka.send",
    read: request::send,
};

const SEND_BATCH: Function = Function {
    name: "sendBatch",
    path: "tide.kafka.sendBatch",
    read: request::send_batch,
};

/// The options of a call, read.
#[derive(Debug)]
struct Read {
    request: Request,
    /// One record was given flat: its coordinates are returned, and no list.
    is_one: bool,
}

fn start_bound(
    function: &Function,
    caller: &Caller<'_>,
    mut arguments: Vec<Value>,
) -> Result<Job, Fault> {
    let name = match arguments.first() {
        Some(Value::Bytes(name)) => String::from_utf8_lossy(name).into_owned(),
        _ => return Err(Fault::new("internal", "a producer without a name")),
    };
    arguments.remove(0);
    start(function, caller, Some(name), arguments)
}

fn start(
    function: &Function,
    caller: &Caller<'_>,
    producer: Option<String>,
    arguments: Vec<Value>,
) -> Result<Job, Fault> {
    let path = function.path;
    let options = arguments.into_iter().next().unwrap_or(Value::Nil);
    let invalid = |reason| Fault::new("invalid", format!("`{path}`{reason}"));
    let Read {
        mut request,
        is_one,
    } = (function.read)(options).map_err(invalid)?;
    let Some(senders) = caller.senders else {
        let message =
            format!("`{path}`: no producer runs here; a handler or a timer of the daemon sends");
        return Err(Fault::new("closed", message));
    };
    request.function = path;
    request.producer = producer;
    request.listener = caller.listener;
    let trace = (caller.trace)();
    for record in &mut request.records {
        carry_on(&mut record.headers, &trace);
    }
    let topics = request.records.iter().map(|record| record.topic.clone());
    let topics: Vec<Arc<str>> = topics.collect();
    let sending = senders.send(request)?;
    let about = topics.first().map(|topic| format!("send to {topic}"));
    caller.about.replace(about);
    // Its drop takes no record back: they are librdkafka's, and their reports find nobody.
    Ok(Job::new("kafka.send", async move {
        answer::value(sending.await, &topics, is_one)
    }))
}

/// The metatable of producers.
const PRODUCER: &CStr = c"moontide.producer";
/// The fields of the table that `producer` returns.
const FIELDS: [&str; 2] = [SEND.name, SEND_BATCH.name];

/// Makes the metatable of producers.
pub(super) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        ffi::lua_createtable(state, 0, 2);
        shared.push_function(state, unknown_field, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        push_bytes(state, b"tide.kafka.producer");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_pushboolean(state, 1);
        ffi::lua_setfield(state, -2, suspend::OBJECT.as_ptr());
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, PRODUCER.as_ptr());
    }
}

unsafe extern "C-unwind" fn producer(state: *mut lua_State) -> c_int {
    // SAFETY: the name is checked before anything is pending; it stays on the stack.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 1);
        shared.attempt(state, || known(state, shared).map(|()| 0));
        ffi::lua_createtable(state, 0, BOUND.len() as c_int);
        for entry in BOUND {
            push_bytes(state, entry.name.as_bytes());
            ffi::lua_pushvalue(state, 1);
            suspend::push_bound_entry(state, shared, entry);
            ffi::lua_rawset(state, -3);
        }
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, PRODUCER.as_ptr());
        ffi::lua_setmetatable(state, -2);
        1
    }
}

/// Whether the first argument is the name of a producer. Raises nothing.
unsafe fn known(state: *mut lua_State, shared: &Shared) -> Result<(), String> {
    // SAFETY: values are read, never converted in place.
    let (name, found) = unsafe { (bytes_at(state, 1), type_name(state, 1)) };
    let Some(name) = name else {
        return Err(format!(
            "`tide.kafka.producer` takes the name of a producer, not {found}"
        ));
    };
    let name = String::from_utf8_lossy(name);
    if shared.producers.iter().any(|one| **one == *name) {
        return Ok(());
    }
    let names: Vec<&str> = shared.producers.iter().map(String::as_str).collect();
    let meant = if names.is_empty() {
        "since no brokers are known: set `brokers` in `[kafkaConfig]`".to_owned()
    } else {
        let nearest = suggestion(&name, &names);
        format!("{nearest}; a producer is a table `[producers.NAME]` of the configuration")
    };
    Err(format!(
        "`tide.kafka.producer`: there is no producer `{name}`, {meant}"
    ))
}

unsafe extern "C-unwind" fn unknown_field(state: *mut lua_State) -> c_int {
    // SAFETY: Lua calls it with a table and a key.
    unsafe { unknown(state, Shared::of(state), 2, "tide.kafka.producer", &FIELDS) }
}
