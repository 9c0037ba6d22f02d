//! `tide.echo`: the module that tests the interface of waits. Only the tests' binaries have it.

use std::future::Future;
use std::time::Duration;

use crate::lua::api::module::{Body, Caller, Entry, Module};
use crate::wait::{Ends, Fault, Job, Told, Value};

pub(super) const MODULE: Module = Module {
    path: "tide.echo",
    about: "Waits outside, for tests.",
    entries: &[
        Entry {
            name: "later",
            path: "tide.echo.later",
            types: &[
                "Returns a copy of `value` after a delay.",
                "@param value any",
                "@param delay? integer milliseconds",
                "@return any",
            ],
            body: Body::Outside(later),
        },
        Entry {
            name: "fault",
            path: "tide.echo.fault",
            types: &["Raises an error of the kind `timeout`, later."],
            body: Body::Outside(|_, _| {
                Ok(job("echo.fault", |_| async {
                    Err(Fault::new("timeout", "no answer within 10 ms"))
                }))
            }),
        },
        Entry {
            name: "panic",
            path: "tide.echo.panic",
            types: &["Panics, here or outside.", "@param outside boolean"],
            body: Body::Outside(|_, arguments| {
                let outside = matches!(arguments.first(), Some(Value::Boolean(true)));
                assert!(outside, "a panic in a module");
                Ok(job("echo.panic", |_| async { panic!("a panic outside") }))
            }),
        },
        Entry {
            name: "stubborn",
            path: "tide.echo.stubborn",
            types: &["Never answers, and does not end when it is told to."],
            body: Body::Outside(|_, _| {
                Ok(job("echo.stubborn", |_| async {
                    std::future::pending().await
                }))
            }),
        },
    ],
};

fn job<F>(name: &'static str, start: impl FnOnce(Told) -> F + Send + 'static) -> Job
where
    F: Future<Output = Result<Value, Fault>> + Send + 'static,
{
    Job {
        name,
        start: Box::new(|told| Box::pin(start(told))),
        ends: Ends::Itself,
    }
}

fn later(_: &Caller<'_>, mut arguments: Vec<Value>) -> Result<Job, Fault> {
    let delay = match arguments.get(1) {
        None | Some(Value::Nil) => Duration::ZERO,
        Some(Value::Integer(ms)) if *ms >= 0 => Duration::from_millis(*ms as u64),
        Some(_) => {
            let message = "`tide.echo.later` takes a delay in milliseconds as an integer from 0";
            return Err(Fault::new("invalid", message));
        }
    };
    arguments.truncate(1);
    let value = arguments.pop().unwrap_or(Value::Nil);
    Ok(Job::new("echo.later", async move {
        tokio::time::sleep(delay).await;
        Ok(value)
    }))
}
