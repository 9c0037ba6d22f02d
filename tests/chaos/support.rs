//! What the suite shares with the other integration tests: the broker's process, the project on disk, the daemon.

#![expect(dead_code, reason = "each of the two suites uses its own share")]

#[path = "../it/support/client.rs"]
pub(crate) mod client;
#[path = "../it/support/daemon.rs"]
pub(crate) mod daemon;
#[path = "../it/support/http.rs"]
pub(crate) mod http;
#[path = "../it/support/kafka.rs"]
pub(crate) mod kafka;
#[path = "../it/support/project.rs"]
pub(crate) mod project;
#[path = "../it/support/wait.rs"]
pub(crate) mod wait;
