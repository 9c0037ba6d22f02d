//! `ctx.consumer`, and the objects of `tide.kafka.consumer`: pause, resume and the positions of a consumer.
//!
//! A consumer is a userdata of plain numbers with its name beside it. A method is a closure over it, made at its
//! first use; it accepts `.` and `:` alike. The arguments are copied as plain data, and `control` does the work.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::{CStr, c_int};
use std::sync::Arc;

use mlua::ffi::{self, lua_State};
use tokio::sync::oneshot;

use super::call::Ctx;
use super::fields::unknown;
use crate::lua::control::forms::{self, Own};
use crate::lua::control::{ANSWER, Control, What};
use crate::lua::plain;
use crate::lua::shared::{Shared, Stage};
use crate::lua::stack::{bytes_at, push_bytes};
use crate::lua::suspend;
use crate::lua::vm::failure;
use crate::nearest::nearest;
use crate::rules::route;
use crate::rules::topic_pauses::{By, Selection};
use crate::wait::{Fault, Job, Value, Wait};

const METATABLE: &CStr = c"moontide.consumer";
/// The user value with the consumer's name.
const NAME: c_int = 1;
/// The most bytes of an argument.
const BYTES_MAX: usize = 1 << 20;

/// The methods, by index.
const METHODS: [&str; 7] = [
    "committed",
    "lag",
    "pause",
    "paused",
    "position",
    "resume",
    "seek",
];
/// The same as errors name them.
const NAMES: [&str; 7] = [
    "consumer.committed",
    "consumer.lag",
    "consumer.pause",
    "consumer.paused",
    "consumer.position",
    "consumer.resume",
    "consumer.seek",
];

/// The block of a consumer's userdata; it has no destructor.
#[derive(Clone, Copy)]
struct Target {
    /// The call of a `ctx.consumer`; 0 for a consumer that was named.
    call: u64,
    listener: usize,
    /// Registry reference to the topic of the call's message.
    topic: c_int,
    partition: i32,
    is_retry: bool,
}

/// What a method leaves in `shared` for the C function around it.
enum Next {
    Nothing,
    /// A value to return.
    Value(Value),
    /// A wait for the consumer's thread.
    Wait(Job),
}

pub(in crate::lua) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        ffi::luaL_newmetatable(state, METATABLE.as_ptr());
        shared.push_function(state, index, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        push_bytes(state, b"consumer");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_setfield(state, -2, c"__metatable".as_ptr());
        ffi::lua_pop(state, 1);
    }
}

/// Pushes the consumer of a call.
pub(in crate::lua) unsafe fn push_of_ctx(state: *mut lua_State, shared: &Shared, ctx: &Ctx) {
    // SAFETY: plain data.
    unsafe {
        let listener = shared.config.listeners.get(ctx.listener);
        let name = listener.map_or("", |listener| &listener.consumer);
        push_bytes(state, name.as_bytes());
        push(
            state,
            Target {
                call: ctx.call,
                listener: ctx.listener,
                topic: ctx.topic,
                partition: ctx.partition,
                is_retry: ctx.is_retry,
            },
        );
    }
}

/// Replaces the name on top of the stack with the consumer of that name.
pub(in crate::lua) unsafe fn push_named(state: *mut lua_State) {
    let target = Target {
        call: 0,
        listener: usize::MAX,
        topic: ffi::LUA_NOREF,
        partition: -1,
        is_retry: false,
    };
    // SAFETY: plain data.
    unsafe { push(state, target) };
}

unsafe fn push(state: *mut lua_State, target: Target) {
    // SAFETY: the block is large enough, and Lua aligns it for any type.
    unsafe {
        let block = ffi::lua_newuserdatauv(state, size_of::<Target>(), 1);
        block.cast::<Target>().write(target);
        ffi::lua_insert(state, -2);
        ffi::lua_setiuservalue(state, -2, NAME);
        ffi::luaL_setmetatable(state, METATABLE.as_ptr());
    }
}

unsafe extern "C-unwind" fn index(state: *mut lua_State) -> c_int {
    // SAFETY: only the metatable has this function; `luaL_testudata` checks what `debug` may hand over.
    unsafe {
        let shared = Shared::of(state);
        if ffi::luaL_testudata(state, 1, METATABLE.as_ptr()).is_null() {
            shared.raise(state, "this value is not a consumer".to_owned());
        }
        let name = bytes_at(state, 2).unwrap_or_default();
        let method = METHODS.iter().position(|one| one.as_bytes() == name);
        let Some(method) = method else {
            return unknown(state, shared, 2, "consumer", &METHODS);
        };
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushinteger(state, method as i64);
        shared.push_function(state, call, 2);
        1
    }
}

const OWN: c_int = ffi::lua_upvalueindex(2);
const METHOD: c_int = ffi::lua_upvalueindex(3);

/// The C function around every method.
unsafe extern "C-unwind" fn call(state: *mut lua_State) -> c_int {
    // SAFETY: `index` makes the upvalues. Every Rust value is dropped, or in `shared`, before anything raises.
    unsafe {
        let shared = Shared::of(state);
        if ffi::lua_rawequal(state, 1, OWN) != 0 {
            ffi::lua_remove(state, 1);
        }
        let target = *ffi::lua_touserdata(state, OWN).cast::<Target>();
        let method = ffi::lua_tointegerx(state, METHOD, std::ptr::null_mut()) as usize;
        may_call(state, shared, &target, NAMES[method]);
        ffi::lua_settop(state, 1);
        ffi::lua_getiuservalue(state, OWN, NAME);
        match run(state, shared, &target, NAMES[method]) {
            Left::Nothing => 0,
            Left::Value(value) => {
                plain::push(state, &*value);
                shared.release_plain();
                1
            }
            Left::Wait => suspend::wait_for_answer(state),
            Left::Fault => suspend::raise(state, shared),
        }
    }
}

/// Raises where the method may not be called.
unsafe fn may_call(state: *mut lua_State, shared: &Shared, target: &Target, name: &str) {
    // SAFETY: `raise` takes the message away before it raises.
    unsafe {
        if target.call != 0 && shared.call.get() != target.call {
            shared.raise(state, "this `ctx.consumer` belongs to another call, which may have ended; use the one of the handler's own `ctx`".to_owned());
        }
        if shared.coroutine.get().is_null() {
            shared.raise(state, format!("`{name}` cannot be called at the top level of a file; call it from a handler, a timer, or `start` of init.lua"));
        }
        if matches!(
            name,
            "consumer.committed" | "consumer.lag" | "consumer.position"
        ) {
            suspend::may_wait(state, shared, name);
        }
    }
}

/// As `Next`, with its data in `shared`.
enum Left {
    Nothing,
    Value(*const Value),
    Wait,
    Fault,
}

/// Runs a method, and leaves its result or its fault in `shared`. Raises nothing.
unsafe fn run(state: *mut lua_State, shared: &Shared, target: &Target, name: &str) -> Left {
    // SAFETY: reads the argument, and the consumer's name above it.
    let next = unsafe {
        let consumer = String::from_utf8_lossy(bytes_at(state, 2).unwrap_or_default());
        let argument = plain::read(state, 1, BYTES_MAX);
        let argument = argument
            .map_err(|reason| forms::invalid(format!("`{name}` takes plain data: {reason}")));
        argument.and_then(|(argument, _)| {
            let of = Of {
                shared,
                consumer: &consumer,
                own: own(state, target),
                by: by(state, shared, target),
            };
            of.run(name, &argument)
        })
    };
    match next {
        Ok(Next::Nothing) => Left::Nothing,
        Ok(Next::Value(value)) => {
            let kept = shared.keep_plain(Some(Arc::new(value)));
            kept.map_or(Left::Nothing, Left::Value)
        }
        Ok(Next::Wait(job)) => {
            shared.begin(Wait::Outside(job));
            Left::Wait
        }
        Err(fault) => {
            shared.fault.replace(Some(fault));
            Left::Fault
        }
    }
}

/// The partition of the call's message.
unsafe fn own(state: *mut lua_State, target: &Target) -> Own {
    match target {
        Target { call: 0, .. } => Own::None,
        Target { is_retry: true, .. } => Own::Retry,
        // SAFETY: the reference lives as long as the VM; the stack has room for a C function's values.
        _ => unsafe {
            ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, target.topic.into());
            let topic = bytes_at(state, -1).unwrap_or_default();
            let topic = String::from_utf8_lossy(topic).into_owned();
            ffi::lua_settop(state, -2);
            Own::Partition((topic, target.partition))
        },
    }
}

/// Who calls: the listener, and the position of the call.
unsafe fn by(state: *mut lua_State, shared: &Shared, target: &Target) -> By {
    // SAFETY: reads the frames of the running state.
    let position = unsafe { failure::position(state) };
    let listener = match target.call {
        0 => None,
        _ => Some(format!(
            "listener `{}`",
            shared.listener_name(target.listener)
        )),
    };
    let who: Vec<_> = listener.into_iter().chain(position).collect();
    By {
        who: who.join(", "),
        since: shared.clock.wall_ms(),
    }
}

/// One call of a method.
struct Of<'a> {
    shared: &'a Shared,
    consumer: &'a str,
    own: Own,
    by: By,
}

impl Of<'_> {
    fn run(&self, name: &str, argument: &Value) -> Result<Next, Fault> {
        let control = self.shared.app.consumers.of(self.consumer);
        match name {
            "consumer.pause" => {
                let selections = self.selections(name, argument)?;
                if self.shared.stage.get() == Stage::Runs {
                    control.pause(&selections, &self.by)?;
                } else {
                    control.may_pause(&selections)?;
                    let by = self.by.clone();
                    self.request(move || control.pause(&selections, &by));
                }
                Ok(Next::Nothing)
            }
            "consumer.resume" => {
                let selections = self.selections(name, argument)?;
                if self.shared.stage.get() == Stage::Runs {
                    control.resume(&selections)?;
                } else {
                    control.may_resume(&selections)?;
                    self.request(move || control.resume(&selections));
                }
                Ok(Next::Nothing)
            }
            "consumer.seek" if self.shared.stage.get() == Stage::Loads => Err(Fault::new(
                "refused",
                "`consumer.seek` is not for `start` of init.lua, which runs in each worker and after each reload; call \
                 it in a handler or in a timer of the process",
            )),
            "consumer.seek" => {
                let (key, target) = forms::seek(name, argument, &self.own)?;
                self.knows(&key.0)?;
                control.seek(key, target, self.by.clone())?;
                Ok(Next::Nothing)
            }
            "consumer.paused" => Ok(Next::Value(paused(&control))),
            "consumer.position" => self.ask(&control, name, argument, What::Position),
            "consumer.committed" => self.ask(&control, name, argument, What::Committed),
            _ => self.ask(&control, name, argument, What::Lag),
        }
    }

    /// Does it once the VM is in force. A partition may have gone by then; that is no error of anybody.
    fn request(&self, work: impl FnOnce() -> Result<(), Fault> + Send + 'static) {
        let work = Box::new(move || drop(work()));
        self.shared.requested.borrow_mut().push(work);
    }

    fn selections(&self, name: &str, argument: &Value) -> Result<Vec<Selection>, Fault> {
        let selections = forms::selections(name, argument, &self.own)?;
        for one in &selections {
            self.knows(&one.topic)?;
        }
        Ok(selections)
    }

    fn ask(
        &self,
        control: &Control,
        name: &str,
        argument: &Value,
        what: What,
    ) -> Result<Next, Fault> {
        let key = forms::partition(name, argument, &self.own)?;
        self.knows(&key.0)?;
        let answer = control.ask(key, what)?;
        Ok(Next::Wait(job(self.consumer, answer)))
    }

    /// Refuses a topic that no listener of the consumer takes.
    fn knows(&self, topic: &str) -> Result<(), Fault> {
        let config = &self.shared.config;
        if route::plan(config, self.consumer, topic).is_some() {
            return Ok(());
        }
        let topics = route::subscription(config, self.consumer).topics;
        let nearest = nearest(topic, topics.iter().map(|one| &**one));
        let nearest = nearest.map(|nearest| format!(", did you mean `{nearest}`?"));
        let message = format!(
            "no listener of consumer `{}` takes topic `{topic}`{}",
            self.consumer,
            nearest.unwrap_or_default()
        );
        Err(Fault::new("notFound", message))
    }
}

/// A list of tables with `topic` and `partitions`, as kafkajs returns it.
fn paused(control: &Control) -> Value {
    let text = |text: &str| Value::Bytes(text.as_bytes().into());
    let topics = control.paused().into_iter();
    list(topics.map(|(topic, partitions)| {
        let partitions = partitions.into_iter().map(|one| Value::Integer(one.into()));
        Value::Table(vec![
            (text("topic"), text(&topic)),
            (text("partitions"), list(partitions)),
        ])
    }))
}

fn list(values: impl Iterator<Item = Value>) -> Value {
    let indices = (1..).map(Value::Integer);
    Value::Table(indices.zip(values).collect())
}

/// Waits for the answer of the consumer's thread.
fn job(consumer: &str, answer: oneshot::Receiver<Result<Value, Fault>>) -> Job {
    let consumer = consumer.to_owned();
    Job::new("consumer", async move {
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => {
                let message = format!("consumer `{consumer}` ended before it answered");
                Err(Fault::new("closed", message))
            }
            Err(_) => {
                let seconds = ANSWER.as_secs();
                let message = format!(
                    "consumer `{consumer}` did not answer within {seconds} s; `moontide status` says whether its brokers do"
                );
                Err(Fault::new("timeout", message))
            }
        }
    })
}
