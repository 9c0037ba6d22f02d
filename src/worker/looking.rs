//! Work of the outside that looks at the topics of records before they enter a transaction.

use crate::wait::send::{Emitted, Troubled};
use crate::wait::{Fault, Job, Value};

/// Ends when every record of the emission is known to fit its topic.
pub(super) fn look_at_topics(emitted: &Emitted, troubled: Troubled) -> Job {
    let looked = emitted.senders.look_at_topics(&emitted.requests, troubled);
    Job {
        name: "ctx.emit",
        start: Box::new(move |mut told| {
            Box::pin(async move {
                tokio::select! {
                    result = looked => result.map(|()| Value::Nil),
                    () = told.told() => Err(Fault::new("closed", "given up")),
                }
            })
        }),
    }
}
