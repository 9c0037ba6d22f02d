//! The surroundings of the process: systemd, signals, the control socket and changes of files.

pub(crate) mod control;
pub(crate) mod signals;
pub(crate) mod systemd;
pub(crate) mod watch;
