//! A failed message, as described in its dead letter and its retry record.

/// The coordinates of a failed message, its attempts and its last error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailedMessage<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) group: &'a str,
    pub(crate) listener: &'a str,
    pub(crate) attempts: u32,
    pub(crate) first_failure_ms: i64,
    pub(crate) last_failure_ms: i64,
    pub(crate) error: &'a str,
    pub(crate) traceback: Option<&'a str>,
    pub(crate) bundle: u64,
}
