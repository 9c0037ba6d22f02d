//! From the arguments of a function to its job. Nothing begins here.

use super::arguments::{self, Method, Read, Shape, shaped};
use crate::lua::api::module::Caller;
use crate::wait::redis::Request;
use crate::wait::{Fault, Job, Value};

/// A function by its names in errors and in the log.
pub(super) struct Function {
    pub(super) path: &'static str,
    pub(super) job: &'static str,
    pub(super) shape: Shape,
}

pub(super) fn start_method(
    method: &Method,
    caller: &Caller<'_>,
    values: Vec<Value>,
) -> Result<Job, Fault> {
    let function = Function {
        path: method.path,
        job: method.job,
        shape: method.shape,
    };
    start(&function, caller, values, |values| {
        arguments::method(method, values)
    })
}

/// The first value is the name of the server, which the function is bound to.
pub(super) fn start(
    function: &Function,
    caller: &Caller<'_>,
    mut values: Vec<Value>,
    read: impl FnOnce(Vec<Value>) -> Result<Read, String>,
) -> Result<Job, Fault> {
    let Function { path, job, shape } = *function;
    let server = match values.first().and_then(Value::text) {
        Some(name) => name.to_owned(),
        None => return Err(Fault::new("internal", "a server without a name")),
    };
    values.remove(0);
    let invalid = |reason| Fault::new("invalid", format!("`{path}`{reason}"));
    let Read { work, timeout } = read(values).map_err(invalid)?;
    let Some(redis) = caller.redis else {
        let message =
            format!("`{path}`: no client runs here; a handler or a timer of the daemon calls");
        return Err(Fault::new("closed", message));
    };
    let prepared = redis.request(Request {
        function: path,
        server,
        work,
        timeout,
    })?;
    caller.about.replace(Some(prepared.about));
    Ok(Job::new(job, async move {
        let reply = prepared.requesting.await?;
        Ok(shaped(shape, reply))
    }))
}
