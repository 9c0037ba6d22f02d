//! What threads tell the daemon that supervises them.

use tokio::sync::mpsc::UnboundedSender;

/// Each ends the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// `onError = "stop"`: the sentence names the message.
    Message(String),
    /// What the configuration needs of the brokers is not there.
    Config(String),
    /// A thread ended unasked, or its client died.
    Failed(String),
}

/// Bounded by nature: each sender has one ending to report.
pub(crate) type Endings = UnboundedSender<Ending>;
