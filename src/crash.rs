//! Messages that kill the process: the journal of running messages, and the exclusive run of a suspect.

pub(crate) mod exclusive;
pub(crate) mod journal;
