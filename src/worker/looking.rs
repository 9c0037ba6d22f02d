//! Work of the outside that looks at the topics of records before they enter a transaction.

use crate::wait::send::{Emitted, Troubled};
use crate::wait::{Job, Value};

/// Ends when every record of the emission is known to fit its topic.
pub(super) fn look_at_topics(emitted: &Emitted, troubled: Troubled) -> Job {
    let looked = emitted.senders.look_at_topics(&emitted.requests, troubled);
    Job::new("ctx.emit", async move { looked.await.map(|()| Value::Nil) })
}
