//! Messages that kill the process: the journal of running messages, and the run of a suspect alone.

pub(crate) mod exclusive;
pub(crate) mod journal;
