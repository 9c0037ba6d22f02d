//! From the arguments of a function to its job. Nothing begins here.

use super::arguments::Read;
use crate::lua::api::module::Caller;
use crate::wait::sql::{Databases, Request};
use crate::wait::{Fault, Job, Value};

/// A function by its names in errors and in the log.
pub(super) struct Function {
    pub(super) path: &'static str,
    pub(super) job: &'static str,
    /// An error is the part of a sentence behind the name of the function.
    pub(super) read: fn(Vec<Value>) -> Result<Read, String>,
}

impl Function {
    fn request(&self, values: Vec<Value>, within_transaction: bool) -> Result<Request, Fault> {
        let path = self.path;
        let invalid = |reason| Fault::new("invalid", format!("`{path}`{reason}"));
        let Read { work, timeout } = (self.read)(values).map_err(invalid)?;
        Ok(Request {
            function: path,
            work,
            timeout,
            within_transaction,
        })
    }
}

pub(super) fn none_here(path: &str) -> Fault {
    let message =
        format!("`{path}`: no client runs here; a handler or a timer of the daemon calls");
    Fault::new("closed", message)
}

fn databases<'c>(caller: &Caller<'c>, path: &str) -> Result<&'c dyn Databases, Fault> {
    caller.sql.ok_or_else(|| none_here(path))
}

/// The first value is the name of the database, which the function is bound to.
pub(super) fn start(
    function: &Function,
    caller: &Caller<'_>,
    mut values: Vec<Value>,
) -> Result<Job, Fault> {
    let database = match values.first().and_then(Value::text) {
        Some(name) => name.to_owned(),
        None => return Err(Fault::new("internal", "a database without a name")),
    };
    values.remove(0);
    let within_transaction = caller.transactions.is_within(caller.call, &database);
    let request = function.request(values, within_transaction)?;
    let prepared = databases(caller, function.path)?.request(&database, request)?;
    caller.about.replace(Some(prepared.about));
    Ok(Job::new(function.job, prepared.requesting))
}

/// The first value is the number of the transaction.
pub(super) fn start_in_transaction(
    function: &Function,
    caller: &Caller<'_>,
    mut values: Vec<Value>,
) -> Result<Job, Fault> {
    let transaction = match values.first() {
        Some(Value::Integer(id)) => caller.transactions.get(*id as u64),
        _ => return Err(Fault::new("internal", "a transaction without a number")),
    };
    values.remove(0);
    let request = function.request(values, false)?;
    let Some(transaction) = transaction else {
        let message = format!(
            "`{}`: the transaction has ended; its functions are for the function that gets `tx`, until that returns",
            function.path
        );
        // It ended by the handler's own doing, so a repeat would not help.
        return Err(Fault::new("invalid", message));
    };
    let prepared = transaction.request(request)?;
    caller.about.replace(Some(prepared.about));
    Ok(Job::new(function.job, prepared.requesting))
}
